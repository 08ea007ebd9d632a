#!/usr/bin/env python3
"""The tests of clients, in parts: see scripts/clients-test, which starts MongoDB and calls this.

    clients     each client of docs/clients.md, with the lines that are shown there: a thousand
                events over connections that are cut at random bytes, none lost, none twice
    id-gap      the one byte at which fetch-event-source loses an event
    format      the standard's format rules as rows, by four readers
    quiet       positions of a stream on which nothing happens
    js          clients/js: its size, its types, its package, its own tests; the recipes of
                docs/clients.md
    python      clients/python: its wheel, and its own tests with that
    browser     a plain page and clients/js in Chromium: six tabs, one connection
    transports  EventSource, fetch and WebSocket in Chromium and Firefox, over HTTP/1.1 and over HTTP/2 with TLS
    fronts      the proxies of docs/in-front.md, each in front of two sidecars
    alongside   Socket.IO, GraphQL subscriptions, Faye and server-sent events of the app behind
"""

import argparse
import contextlib
import gzip
import json
import os
import subprocess
import sys
import time
import zipfile

import followers
import fronts
from followers import HERE, RECIPES, write_blocks
from stand import ROOT, Stand, devtools
from devtools import Failure, say

MODULE_BYTES = 5000


def environment(stand, **more):
    return {**os.environ, "APP": f"http://127.0.0.1:{stand.app.server_port}", "RECIPES": str(RECIPES), **more}


def run(name, command, seconds=120, **options):
    """A tool or a test of its own: its output is shown when it fails."""
    try:
        done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, text=True, timeout=seconds,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    except subprocess.TimeoutExpired as hung:
        raise Failure(f"{name}: not done within {seconds} s:\n{(hung.stdout or b'').decode(errors='replace')}")
    if done.returncode:
        raise Failure(f"{name}:\n{done.stdout}")
    return done.stdout


def part_js(stand, _cleanup, _args):
    """clients/js: its size, its types, its package, and its own tests."""
    directory = ROOT / "clients" / "js"
    size = len(gzip.compress((directory / "live.js").read_bytes(), 9))
    say(f"  live.js: {size} bytes compressed")
    if size >= MODULE_BYTES:
        raise Failure(f"live.js has {size} bytes compressed, and must have fewer than {MODULE_BYTES}")
    for project in (directory, directory / "test"):
        # The second holds the types against the module's own tests, which show what it does.
        run(f"tsc -p {project.relative_to(ROOT)}", [HERE / "node_modules" / ".bin" / "tsc", "-p", project])
    packed = json.loads(run("npm pack", ["npm", "pack", "--dry-run", "--json"], cwd=directory))
    listed = {each["path"] for each in packed[0]["files"]}
    wanted = {"package.json", "README.md"} | {f"{name}.{kind}" for name in ("live", "tabs", "react")
                                              for kind in ("js", "d.ts")}
    if listed != wanted:
        raise Failure(f"the package holds {sorted(listed)} instead of {sorted(wanted)}")
    write_blocks("recipe")
    run("node --test", ["node", "--test", *sorted((directory / "test").glob("*.test.mjs")), HERE / "recipes.mjs"],
        env=environment(stand))


def part_python(stand, _cleanup, _args):
    """clients/python: its wheel, and its own tests with what is in that."""
    directory = ROOT / "clients" / "python"
    built = stand.directory / "wheel"
    devtools.pip("wheel", "--no-deps", "--wheel-dir", str(built), str(directory))
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(built)
    wanted = {"sidestream_client/__init__.py", "sidestream_client/py.typed"}
    if held != wanted:
        raise Failure(f"{wheel.name} holds {sorted(held)} instead of {sorted(wanted)}")
    path = [built, devtools.python_packages("clients", HERE / "requirements.txt"), HERE]
    run("unittest", [sys.executable, "-m", "unittest", "discover", "-s", directory / "tests"],
        env=environment(stand, PYTHONPATH=os.pathsep.join(map(str, path))))


def part_browser(stand, _cleanup, _args):
    """clients/js in Chromium: six tabs and one connection, the React hook."""
    write_blocks("test")
    run("the test in Chromium", ["node", "--test", HERE / "browser.mjs"], env=environment(stand))


def part_format(stand, _cleanup, _args):
    """format.json, by npm's parser, Python's clients and Chromium."""
    path = devtools.python_packages("clients", HERE / "requirements.txt")
    run("the readers", ["node", "--test", HERE / "format.mjs"], env=environment(stand, PYTHONPATH=str(path)))


def part_transports(stand, _cleanup, _args):
    """EventSource, fetch and WebSocket in two browsers, over HTTP/1.1 and over HTTP/2 with TLS."""
    certificate, key = stand.directory / "certificate.pem", stand.directory / "key.pem"
    run("openssl", ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", key, "-out", certificate])
    tls = f"tls: {{ cert_file: {certificate}, key_file: {key} }}\n"
    ways = [
        {"name": "HTTP/1.1", "protocol": "http/1.1", "coding": "none", "hasWebSocket": True, "sidecar": 0},
        {"name": "HTTP/1.1 with gzip", "protocol": "http/1.1", "coding": "gzip",
         "sidecar": stand.add_sidecar("", "gzip")},
        {"name": "HTTP/2 with brotli", "protocol": "h2", "coding": "br", "sidecar": stand.add_sidecar(tls, "br")},
        {"name": "HTTP/2 with zstd", "protocol": "h2", "coding": "zstd", "hasWebSocket": True,
         "sidecar": stand.add_sidecar(tls, "zstd")},
    ]
    run("the tests in browsers", ["node", "--test", HERE / "transports.mjs"], seconds=600,
        env=environment(stand, WAYS=json.dumps(ways)))


def part_fronts(stand, _cleanup, args):
    """The configurations of docs/in-front.md, with plain pages behind them."""
    with devtools.picking_ports():
        stand.fronts = fronts.start_documented(stand, args.only)
    told = run("pages behind proxies", ["node", "--test", HERE / "fronts.mjs"], seconds=120 + args.silence,
               env=environment(stand, SILENCE=str(args.silence),
                               FRONTS=json.dumps({each.name: each.port for each in stand.fronts})))
    for line in told.splitlines():
        if "delays" in line or " events" in line:
            say(f"  {line.lstrip('# ')}")


def part_alongside(stand, _cleanup, _args):
    """docs/alongside.md: the app's own real-time servers, through Sidestream."""
    host, port = stand.sidecars[0].address()
    run("the app's own", ["node", "--test", HERE / "alongside.mjs"],
        env=environment(stand, SIDECAR=f"http://{host}:{port}"))


# Where the stand is not the usual one.
STANDS = {
    "fronts": lambda args: {"hosts": fronts.HOSTS, "heartbeat": "15s" if args.silence else "500ms"},
    "alongside": lambda _: {"app": ["node", HERE / "alongside-app.mjs"]},
}
PARTS = {
    "clients": followers.lose_nothing,
    "id-gap": followers.lose_in_the_gap,
    "quiet": followers.move_while_quiet,
    "format": part_format,
    "js": part_js,
    "python": part_python,
    "browser": part_browser,
    "transports": part_transports,
    "fronts": part_fronts,
    "alongside": part_alongside,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="by default all")
    parser.add_argument("--only", default="", metavar="TEXT", help="of the clients, those whose name contains TEXT")
    parser.add_argument("--silence", type=int, default=0, metavar="SECONDS",
                        help="how long nothing happens behind proxies, under the default heartbeat; 70 shows most")
    args = parser.parse_args()
    devtools.on_sigterm_raise()
    wanted = args.parts or list(PARTS)
    unknown = set(wanted) - set(PARTS)
    if unknown:
        raise Failure(f"there is no part {', '.join(unknown)}: {', '.join(PARTS)}")
    failed = []
    for name in wanted:
        begun = time.monotonic()
        say(f"{name}")
        with contextlib.ExitStack() as cleanup:
            directory = cleanup.enter_context(devtools.scratch_dir("clients"))
            stand = Stand(directory, **STANDS.get(name, lambda _: {})(args))
            cleanup.callback(stand.close)
            try:
                PARTS[name](stand, cleanup, args)
                say(f"ok      {name} ({time.monotonic() - begun:.0f} s)")
            except Failure as failure:
                say(f"FAILED  {name}: {failure}")
                failed.append(name)
    return 1 if failed else 0


devtools.run_main(main)
