"""Runs one block of docs/clients.md: follow.py MODULE URL. A line of JSON for each event."""

import json
import runpy
import sys

module, url = sys.argv[1:]
# `sseclient` tells of each cut on stdout, where the events go.
out, sys.stdout = sys.stdout, sys.stderr


def handle(kind, data):
    document = data.get("fullDocument") or {}
    print(json.dumps([kind, data.get("documentKey", {}).get("_id"), document.get("text")]), file=out, flush=True)


runpy.run_path(module)["follow"](url, handle)
