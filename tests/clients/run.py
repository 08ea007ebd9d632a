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
    silence     behind the same proxies, 70 seconds in which nothing happens, beside the other parts
    behind      the lines of docs/in-front.md by which an app trusts Sidestream
    alongside   Socket.IO, GraphQL subscriptions, Faye and server-sent events of the app behind
"""

import argparse
import contextlib
import gzip
import json
import os
import subprocess
import sys
import threading
import time
import traceback
import zipfile

import behind
import followers
import fronts
from followers import HERE, RECIPES, write_blocks
from stand import ROOT, Stand, devtools
from devtools import Failure, say

MODULE_BYTES = 5000
PYTHON_LINES = 300


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
    """clients/python: its size, its wheel, and its own tests with what is in that."""
    directory = ROOT / "clients" / "python"
    lines = sum(len(file.read_text().splitlines()) for file in (directory / "src").rglob("*.py"))
    say(f"  {lines} lines")
    if lines >= PYTHON_LINES:
        raise Failure(f"clients/python has {lines} lines, and must have fewer than {PYTHON_LINES}")
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
    write_blocks("test")
    with devtools.picking_ports():
        stand.fronts = fronts.start_documented(stand, args.only)
    told = run("pages behind proxies", ["node", "--test", HERE / "pages" / "fronts.mjs"], env=environment(
        stand, FRONTS=json.dumps({each.name: each.port for each in stand.fronts})))
    for line in told.splitlines():
        if "delays" in line or " events" in line:
            say(f"  {line.lstrip('# ')}")


def part_silence(stand, _cleanup, args):
    """Pages behind the same proxies, under the heartbeat that Sidestream has by default."""
    with devtools.picking_ports():
        stand.fronts = fronts.start_documented(stand, args.only)
    run("silent pages behind proxies", ["node", "--test", HERE / "pages" / "silence.mjs"], seconds=120 + args.silence,
        env=environment(stand, SILENCE=str(args.silence),
                        FRONTS=json.dumps({each.name: each.port for each in stand.fronts})))


def part_alongside(stand, _cleanup, _args):
    """docs/alongside.md: the app's own real-time servers, through Sidestream."""
    host, port = stand.sidecars[0].address()
    run("the app's own", ["node", "--test", HERE / "alongside.mjs"],
        env=environment(stand, SIDECAR=f"http://{host}:{port}"))


# Where the stand is not the usual one.
STANDS = {
    "fronts": lambda _: {"hosts": fronts.HOSTS},
    "silence": lambda _: {"hosts": fronts.HOSTS, "heartbeat": "15s", "database": "silence"},
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
    "silence": part_silence,
    "behind": behind.trust,
    "alongside": part_alongside,
}
# They wait, in a database of their own, and cost the others nothing.
BESIDE = ("silence",)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="by default all")
    parser.add_argument("--only", default="", metavar="TEXT", help="of the clients, those whose name contains TEXT")
    parser.add_argument("--silence", type=int, default=70, metavar="SECONDS",
                        help="how long nothing happens in the part of that name; proxies' own limits are 60 at most")
    args = parser.parse_args()
    devtools.on_sigterm_raise()
    wanted = args.parts or list(PARTS)
    unknown = set(wanted) - set(PARTS)
    if unknown:
        raise Failure(f"there is no part {', '.join(unknown)}: {', '.join(PARTS)}")
    failed = []

    def attempt(name):
        begun = time.monotonic()
        say(f"{name}")
        with contextlib.ExitStack() as cleanup:
            try:
                directory = cleanup.enter_context(devtools.scratch_dir("clients"))
                stand = Stand(directory, **STANDS.get(name, lambda _: {})(args))
                cleanup.callback(stand.close)
                PARTS[name](stand, cleanup, args)
                say(f"ok      {name} ({time.monotonic() - begun:.0f} s)")
            except Exception as failure:
                # Of a thread nobody would hear.
                told = failure if isinstance(failure, Failure) else traceback.format_exc()
                say(f"FAILED  {name}: {told}")
                failed.append(name)

    beside = [threading.Thread(target=attempt, args=(name,), daemon=True) for name in wanted if name in BESIDE]
    for thread in beside:
        thread.start()
    for name in wanted:
        if name not in BESIDE:
            attempt(name)
    for thread in beside:
        thread.join()
    return 1 if failed else 0


devtools.run_main(main)
