"""Clients as processes of their own, each behind a relay, and what they have told held against what was
written: the parts `clients`, `id-gap` and `quiet` of run.py.
"""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import fronts
from stand import ROOT, TEXT, blocks, devtools
from devtools import Failure, say

HERE = pathlib.Path(__file__).resolve().parent
# The documented lines as modules, where Node.js finds the packages that they import.
RECIPES = HERE / "node_modules" / ".docs"
EVENTS = 1000
BATCH = 50
# For each step; an idle machine takes seconds.
DEADLINE_SECONDS = 30


class Follower:
    """A client in a process of its own, and what it has told."""

    def __init__(self, name, command, relay, env=None):
        self.name, self.relay = name, relay
        self.told = []
        self.late = None
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

    def has_ended(self):
        """It must not: whatever it threw is told at the end."""
        return self.process.poll() is not None

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
    """Waits for those that still run and are not given up; who is late is given up."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        waiting = [each for each in followers
                   if not each.late and not each.has_ended() and not condition(each)]
        if not waiting:
            return
        if time.monotonic() > deadline:
            for each in waiting:
                each.late = (f"{what}: not within {DEADLINE_SECONDS} s; last {each.told[-1:]}, "
                             f"{each.relay.connections} connections {''.join(each.errors[-5:])}")
            return
        meanwhile()
        time.sleep(0.05)


def write_blocks(mark):
    """The blocks of docs/clients.md as files: a module each."""
    RECIPES.mkdir(exist_ok=True)
    files = {}
    for name, text in blocks("clients.md", mark).items():
        files[name] = RECIPES / f"{name}{'.py' if 'def follow' in text else '.mjs'}"
        files[name].write_text(text)
    return files


def clients_of_docs():
    return write_blocks("test")


# Those that pass over an id alone, and are given it as an event.
NEED_POSITIONS = ("eventsource", "eventsource-client", "reconnecting-eventsource", "sseclient-py")


def others(files):
    """Name, command and environment of each client that is not ours."""
    for name in ("eventsource", "eventsource-client", "reconnecting-eventsource", "fetch-event-source"):
        yield name, ["node", HERE / "follow.mjs", files[name]], {}
    common = devtools.python_packages("clients", HERE / "requirements.txt")
    sseclient = devtools.python_packages("sseclient", HERE / "requirements-sseclient.txt")
    for name, path in (("httpx-sse", common), ("sseclient-py", common), ("sseclient", sseclient)):
        yield name, [sys.executable, HERE / "follow.py", files[name]], {"PYTHONPATH": str(path)}


def ours():
    """The same for our own, and the proxy in front: both transports behind both."""
    path = os.pathsep.join([str(ROOT / "clients" / "python" / "src"),
                            str(devtools.python_packages("clients", HERE / "requirements.txt"))])
    for how, transport, front in (("follow", "sse", "nginx"), ("afollow", "poll", "nginx"),
                                  ("afollow", "sse", "haproxy"), ("follow", "poll", "haproxy")):
        yield (f"clients/python, {how}, {transport}, behind {front}",
               [sys.executable, HERE / "ours.py", how, transport], {"PYTHONPATH": path}, front)
    for transport in ("sse", "poll"):
        for front in ("nginx", "haproxy"):
            yield f"clients/js, {transport}, behind {front}", ["node", HERE / "ours.mjs", transport], {}, front


def url(relay, name):
    query = "?heartbeat=event" if name in NEED_POSITIONS else ""
    return f"http://127.0.0.1:{relay.port}/_events/things{query}"


def hear_something(stand, followers):
    """Events that come before a client's stream is open are not for it: each has to have heard something."""
    hello = iter(range(10 * EVENTS, 100 * EVENTS))
    wait_for_all(followers, lambda each: each.told, "hearing the first event",
                 meanwhile=lambda: stand.write([("insert", next(hello))]))


def lose_nothing(stand, cleanup, args):
    files = clients_of_docs()
    followers = []
    with devtools.picking_ports():
        plain = fronts.start_plain(stand)
        stand.fronts = list(plain.values())
    for seed, (name, command, env, *front) in enumerate([*others(files), *ours()]):
        if args.only not in name:
            continue
        # The one byte at which this client loses an event has a test of its own, below.
        relay = stand.relays.open(plain[front[0]].address() if front and front[0] in plain else stand.sidecars[0].address(),
                                  # A poll's answer comes whole or not at all: it has to pass now and then.
                                  mode="cutting", seed=seed, mean=60_000 if "poll" in name else 12_000,
                                  spare_id_gap=name == "fetch-event-source")
        followers.append(Follower(name, [*command, url(relay, name)], relay, env))
        cleanup.callback(followers[-1].stop)

    hear_something(stand, followers)

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
        if follower.late:
            problem = f"{problem}; {follower.late}"
        if follower.has_ended():
            follower.readers[1].join(5)
            problem = f"it ended:\n{''.join(follower.errors[-12:])}"
        say(f"  {follower.name}: {len(wanted)} events, {follower.relay.cuts} cuts: {problem or 'none lost, none twice'}")
        if problem:
            problems.append(follower.name)
    if problems:
        raise Failure(f"{', '.join(problems)}: see above")


def lose_in_the_gap(stand, cleanup, args):
    """Cuts between the line of an id and the blank line: fetch-event-source loses that one event, others none."""
    followers = []
    for name, command, env, *_ in [*others(clients_of_docs()), *ours()]:
        if args.only not in name or "poll" in name:
            continue
        relay = stand.relay(mode="id-gap", mean=2500)
        followers.append(Follower(name, [*command, url(relay, name)], relay, env))
        cleanup.callback(followers[-1].stop)
    hear_something(stand, followers)

    wanted = [("insert", key) for key in range(1, 51)]
    before = {each.name: each.relay.cuts for each in followers}
    cuts = lambda each: each.relay.cuts - before[each.name]
    stand.write(wanted)
    # Who loses events may lose the last one, and can't be waited for by it.
    loser = "fetch-event-source"
    wait_for_all(followers, lambda each: cuts(each) >= 3 if each.name == loser else each.has(wanted[-1]), "the last event")
    for each in followers:
        stand.relays.change(each.relay.port, mode="plain", cut=True)
    last = ("insert", 999)
    stand.write([last])
    wait_for_all(followers, lambda each: each.has(last), "the event behind all cuts")
    for each in followers:
        lost = [thing for thing in wanted if thing not in each.things()]
        say(f"  {each.name}: {cuts(each)} cuts, {len(lost)} lost")
        if each.late or cuts(each) < 3:
            raise Failure(f"{each.name}: too few cuts to show anything {each.late or ''}")
        if len(lost) != (cuts(each) if each.name == loser else 0) or len(set(each.things())) != len(each.things()):
            raise Failure(f"{each.name}: lost {lost} of {each.things()}")


def move_while_quiet(stand, cleanup, args):
    """A stream on which nothing happens: each client comes back with a later id than `ready` brought."""
    followers = []
    for name, command, env, *_ in [*others(clients_of_docs()), *ours()]:
        if args.only not in name or "poll" in name:
            continue
        relay = stand.relay()
        followers.append(Follower(name, [*command, url(relay, name)], relay, env))
        cleanup.callback(followers[-1].stop)
    wait_for_all(followers, lambda each: each.relay.ready, "the stream being ready")
    # Time goes on in the database, elsewhere.
    wait_for_all(followers, lambda each: each.relay.ids[-1] > each.relay.ready[0], "a position",
                 meanwhile=lambda: stand.things.database.others.insert_one({}))
    for each in followers:
        stand.relays.change(each.relay.port, cut=True)
    wait_for_all(followers, lambda each: each.relay.asked, "coming back")
    for each in followers:
        if each.late or each.relay.asked[0] <= each.relay.ready[0]:
            raise Failure(f"{each.name}: came back with {each.relay.asked}, "
                          f"and not with more than {each.relay.ready[0]}: {each.late}")
    say(f"  {len(followers)} clients came back with a later position")
