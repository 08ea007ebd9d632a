"""Reads a stream with Python's clients, and prints each event that has data as a line of JSON:
python3 format.py URL httpx-sse|sseclient-py COUNT"""

import json
import sys


def by_httpx(url):
    import httpx
    from httpx_sse import connect_sse
    with httpx.Client(timeout=30) as client, connect_sse(client, "GET", url) as source:
        for event in source.iter_sse():
            yield event.event, event.id, event.data


def by_sseclient(url):
    import requests
    from sseclient import SSEClient
    answer = requests.get(url, stream=True, headers={"Accept": "text/event-stream"}, timeout=30)
    for event in SSEClient(answer).events():
        yield event.event, event.id, event.data


url, reader, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
told = 0
for event, id_, data in {"httpx-sse": by_httpx, "sseclient-py": by_sseclient}[reader](url):
    # An id alone is an event without data to some.
    if not data:
        continue
    print(json.dumps([event, id_, data]), flush=True)
    told += event == "insert"
    if told == count:
        break
