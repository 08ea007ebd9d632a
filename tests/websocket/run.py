#!/usr/bin/env python3
"""Autobahn's WebSocket cases against a real Sidestream: see scripts/websocket-test, which starts
MongoDB and calls this.

With an app's echo server, each case has to go through the proxy as it goes without one: pass, or fail in the
same way. (Some pass with or without an echo that comes before the app closes: that is its own timing, so
strict and non-strict passes count as one.) Sidestream's own
endpoint says nothing again: it answers a text that is no message of its protocol with an error, takes no
binary, and no long messages. So each case is judged by what it expects with an error in the place of each
echo; what is told apart beside that is in EXPLAINED, case by case, and in docs/transports.md.
"""

import argparse
import asyncio
import fnmatch
import json
import os
import pathlib
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

import devtools  # noqa: E402
from devtools import Failure, Process, say, wait_until  # noqa: E402

# Long ones: messages of megabytes, and permessage-deflate with a thousand messages each.
SLOW = ["9.*", "12.*", "13.*"]
ACCEPTED = ("OK", "NON-STRICT", "INFORMATIONAL")

# Of our own endpoint: cases, with the close codes that they meet.
EXPLAINED = [
    # Binary is not taken, nor is a message of more than 64 KiB.
    (["1.2.*", "9.8.*"], [1003]),
    (["9.2.*", "9.4.*", "9.6.*"], [1003, 1009]),
    (["9.1.[2-6]", "9.3.*", "9.5.*"], [1009]),
    # They look for their echoes by themselves, and do not tell what they expect.
    (["9.1.1", "9.7.*"], [1000]),
]


class Echoes:
    """What a case expects and what came, with our errors in the place of echoes."""

    ERROR = ("error",)

    @classmethod
    def expected(cls, events):
        return [cls.ERROR if event[0] == "message" else tuple(event) for event in events]

    @classmethod
    def received(cls, events):
        return [cls.error(event) if event[0] == "message" else tuple(event) for event in events]

    @classmethod
    def error(cls, event):
        try:
            return cls.ERROR if "error" in json.loads(event[1]) else tuple(event)
        except (TypeError, ValueError):
            return tuple(event)


def explained(result):
    return any(result.remote_close_code in codes for cases, codes in EXPLAINED
               if any(fnmatch.fnmatch(result.case_id, case) for case in cases))


def holds(result):
    """Whether our own endpoint did what a case asks of one that does not echo."""
    if result.behavior.value == "UNIMPLEMENTED" or explained(result):
        return True
    if result.passed:
        return True
    received = Echoes.received(result.received)
    expected = [Echoes.expected(events) for name, events in result.expected.items() if name in ACCEPTED]
    if result.behavior_close.value in ACCEPTED:
        return received in expected
    # The runner gave up at the first message that is no echo, so the close says nothing.
    return result.remote_close_code is None and Echoes.ERROR in received and any(
        events[:len(received)] == received for events in expected)


def verdict(result):
    return "passed" if result.passed else (result.behavior.value, result.behavior_close.value)


def describe(result):
    return (f"{result.case_id}: {result.behavior.value}, close {result.behavior_close.value} "
            f"(code {result.remote_close_code}): expected {str(result.expected)[:200]}, received "
            f"{str(result.received)[:200]}; {result.result_close}")


async def run(kosoku, url, args):
    """Every case's result."""
    skipped = [] if args.all or args.case else SLOW
    try:
        return await kosoku.run_fuzzingclient(url, args.case or None, skipped, concurrency=4)
    except kosoku.FailureError as failure:
        return failure.results


def start(directory, app_port):
    filters = directory / "filters"
    filters.mkdir()
    (filters / "things.yaml").write_text("collection: websocket.things\naccess: public\n")
    with devtools.picking_ports():
        port, admin = devtools.pick_port(None), devtools.pick_port(None)
    sidecar = Process(
        "the sidecar",
        [devtools.sidestream_binary(), "run", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}",
         "--app", f"http://127.0.0.1:{app_port}", "--mongodb", os.environ["MONGODB_URI"]],
        directory / "sidecar.log", cwd=directory,
        # Its own pings would be events that no case expects.
        env=devtools.clean_env(SIDESTREAM_CLIENTS__HEARTBEAT="1h"))

    def is_ready():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    wait_until(is_ready, "the sidecar being ready", alive=[sidecar])
    return sidecar, port


def listens(port):
    import socket
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--all", action="store_true", help="the long cases too: a quarter of an hour")
    parser.add_argument("case", nargs="*", help="these cases alone, as 1.* or 7.1.5")
    args = parser.parse_args()
    devtools.on_sigterm_raise()
    packages = devtools.python_packages("websocket", HERE / "requirements.txt")
    sys.path.insert(0, str(packages))
    import kosoku

    with devtools.scratch_dir("websocket") as directory:
        with devtools.picking_ports():
            app_port = devtools.pick_port(None)
        app = Process("the app", [sys.executable, HERE / "echo.py", str(app_port)], directory / "app.log",
                      env={**os.environ, "PYTHONPATH": str(packages)})
        wait_until(lambda: listens(app_port), "the app listening", alive=[app])
        sidecar, port = start(directory, app_port)
        try:
            results = {name: asyncio.run(run(kosoku, f"ws://127.0.0.1:{where}", args)) for name, where in (
                ("the app", f"{app_port}/echo"),
                ("through the proxy", f"{port}/echo"),
                ("Sidestream's own", f"{port}/_events"),
            )}
            direct = {result.case_id: verdict(result) for result in results["the app"]}
            wrong = []
            for name, is_good in (
                ("the app", lambda _: True),
                ("through the proxy", lambda result: verdict(result) == direct[result.case_id]),
                ("Sidestream's own", holds),
            ):
                failed = [result for result in results[name] if not result.passed]
                broken = [result for result in results[name] if not is_good(result)]
                say(f"{name}: {len(results[name])} cases, {len(results[name]) - len(failed)} passed as they are, "
                    f"{sum(map(is_good, failed))} as explained, {len(broken)} wrong")
                wrong += [f"{name}: {describe(result)}" for result in broken]
            if not all(results.values()):
                raise Failure("no such cases")
        finally:
            sidecar.stop()
            app.stop()
        if wrong:
            raise Failure("\n  ".join(["these cases went wrong:", *wrong]))


if __name__ == "__main__":
    devtools.run_main(main)
