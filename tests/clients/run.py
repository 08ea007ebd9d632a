#!/usr/bin/env python3
"""The tests of clients, in parts: see scripts/clients-test, which starts MongoDB and calls this.

    clients     each client of docs/clients.md, with the lines that are shown there: a thousand
                events over connections that are cut at random bytes, none lost, none twice
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

from stand import ROOT, TEXT, Stand, blocks, devtools
from devtools import Failure, say

HERE = pathlib.Path(__file__).resolve().parent
EVENTS = 1000
BATCH = 50
# Of each client; a run on a busy machine takes a quarter of it.
DEADLINE_SECONDS = 120


class Follower:
    """A client in a process of its own, and what it has told."""

    def __init__(self, name, command, relay, env=None):
        self.name, self.relay = name, relay
        self.told = []
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        self.errors = []
        self.readers = [threading.Thread(target=self.read, daemon=True),
                        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)]
        for reader in self.readers:
            reader.start()

    def read(self):
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    def check(self):
        """It must not end by itself: whatever it threw is told."""
        if self.process.poll() is not None:
            self.readers[1].join(5)
            raise Failure(f"{self.name} ended:\n{''.join(self.errors[-30:])}")

    def things(self):
        return [(kind, key) for kind, key, _ in list(self.told) if isinstance(key, int) and 0 < key <= EVENTS]

    def has(self, thing):
        return thing in self.things()[-2 * BATCH:]

    def stop(self):
        self.process.kill()
        self.process.wait()


def operations():
    """A thousand changes, each of which can be told from all others by its type and key."""
    listed = []
    for key in range(1, EVENTS + 1):
        listed.append(("insert", key))
        if key % 4 == 0:
            listed.append(("update", key - 1))
        if key % 5 == 0:
            listed.append(("delete", key - 2))
        if len(listed) >= EVENTS:
            return listed[:EVENTS]


def difference(wanted, told):
    """None, or what is wrong with what was told."""
    if told == wanted:
        return None
    lost = [thing for thing in wanted if thing not in set(told)]
    seen, twice = set(), []
    for thing in told:
        (twice.append if thing in seen else seen.add)(thing)
    order = "" if lost or twice else "; out of order"
    return f"lost {lost[:5]} ({len(lost)}), twice {twice[:5]} ({len(twice)}){order}"


def wait_for_all(followers, condition, what, meanwhile=lambda: None):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        for follower in followers:
            follower.check()
        waiting = [follower for follower in followers if not condition(follower)]
        if not waiting:
            return
        if time.monotonic() > deadline:
            states = "\n".join(
                f"  {each.name}: {len(each.told)} events, {each.relay.connections} connections, last "
                f"{each.told[-1:]} {''.join(each.errors[-5:])}" for each in waiting)
            raise Failure(f"{what}: not within {DEADLINE_SECONDS} s:\n{states}")
        meanwhile()
        time.sleep(0.05)


def extracted(directory):
    """The blocks of docs/clients.md as files: a module each."""
    code = blocks("clients.md", "test")
    npm = HERE / "node_modules" / ".docs"
    npm.mkdir(exist_ok=True)
    files = {}
    for name, text in code.items():
        is_python = "def follow" in text
        files[name] = (directory if is_python else npm) / f"{name}{'.py' if is_python else '.mjs'}"
        files[name].write_text(text)
    return files


def others(files):
    """Name, command and environment of each client that is not ours."""
    for name in ("eventsource", "eventsource-client", "reconnecting-eventsource", "fetch-event-source"):
        yield name, ["node", HERE / "follow.mjs", files[name]], {}
    common = devtools.python_packages("clients", HERE / "requirements.txt")
    sseclient = devtools.python_packages("sseclient", HERE / "requirements-sseclient.txt")
    for name, path in (("httpx-sse", common), ("sseclient-py", common), ("sseclient", sseclient)):
        yield name, [sys.executable, HERE / "follow.py", files[name]], {"PYTHONPATH": str(path)}


def ours():
    """The same for our own: both kinds of Python, both transports."""
    path = os.pathsep.join([str(ROOT / "clients" / "python" / "src"),
                            str(devtools.python_packages("clients", HERE / "requirements.txt"))])
    for transport, how in (("sse", "follow"), ("poll", "afollow"), ("sse", "afollow"), ("poll", "follow")):
        yield (f"clients/python, {how}, {transport}",
               [sys.executable, HERE / "ours.py", how, transport], {"PYTHONPATH": path})
    for transport in ("sse", "poll"):
        yield f"clients/js, {transport}", ["node", HERE / "ours.mjs", transport], {}


def part_clients(stand, cleanup):
    files = extracted(stand.directory)
    followers = []
    for seed, (name, command, env) in enumerate([*others(files), *ours()]):
        # The one byte at which this client loses an event has a test of its own, below.
        relay = stand.relay(mode="cutting", seed=seed, spare_id_gap=name == "fetch-event-source")
        url = f"http://127.0.0.1:{relay.port}/_events/things"
        followers.append(Follower(name, [*command, url], relay, env))
        cleanup.callback(followers[-1].stop)

    # Events that come before a client's stream is open are not for it: each has to hear something first.
    hello = iter(range(10 * EVENTS, 100 * EVENTS))
    wait_for_all(followers, lambda each: each.told, "hearing the first event",
                 meanwhile=lambda: stand.write([("insert", next(hello))]))

    wanted = operations()
    for start in range(0, EVENTS, BATCH):
        batch = wanted[start:start + BATCH]
        stand.write(batch)
        # Every other batch comes while the clients are still behind.
        if start // BATCH % 2:
            wait_for_all(followers, lambda each: each.has(batch[-1]), f"event {start + BATCH}")
    wait_for_all(followers, lambda each: each.has(wanted[-1]), "the last event")

    problems = []
    for follower in followers:
        problem = difference(wanted, follower.things())
        texts = {text for kind, key, text in follower.told if kind == "insert"}
        if texts != {TEXT}:
            problem = f"{problem or ''} texts that differ: {texts - {TEXT}}"
        if follower.relay.cuts < 5:
            problem = f"{problem or ''} only {follower.relay.cuts} cuts: this shows nothing"
        say(f"  {follower.name}: {len(wanted)} events, {follower.relay.cuts} cuts: {problem or 'none lost, none twice'}")
        if problem:
            problems.append(follower.name)
    if problems:
        raise Failure(f"{', '.join(problems)}: see above")


PARTS = {"clients": part_clients}


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(PARTS))
        return 0
    devtools.on_sigterm_raise()
    wanted = sys.argv[1:] or list(PARTS)
    unknown = set(wanted) - set(PARTS)
    if unknown:
        raise Failure(f"there is no part {', '.join(unknown)}: {', '.join(PARTS)}")
    failed = []
    for name in wanted:
        begun = time.monotonic()
        say(f"{name}")
        with contextlib.ExitStack() as cleanup:
            directory = cleanup.enter_context(devtools.scratch_dir("clients"))
            stand = Stand(directory)
            cleanup.callback(stand.close)
            try:
                PARTS[name](stand, cleanup)
                say(f"ok      {name} ({time.monotonic() - begun:.0f} s)")
            except Failure as failure:
                say(f"FAILED  {name}: {failure}")
                failed.append(name)
    return 1 if failed else 0


devtools.run_main(main)
