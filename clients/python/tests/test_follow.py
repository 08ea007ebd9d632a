"""`follow` and `afollow` against a real Sidestream, over connections that break."""

import asyncio
import itertools
import json
import os
import time
import unittest
import urllib.request

import httpx

from sidestream_client import Event, Refused, afollow, follow

APP = os.environ["APP"]
NEXT = itertools.count(2_000_000)
QUICK = {"retry": 0.02, "max_retry": 0.2, "silence": 5}


def post(path, **body):
    request = urllib.request.Request(APP + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def write(*operations):
    post("/write", operations=operations)


def relay(**settings):
    return post("/relay", **settings)["port"]


def url(port, stream="things"):
    return f"http://127.0.0.1:{port}/_events/{stream}"


def keys(count):
    return list(itertools.islice(NEXT, count))


def position():
    """A position of now, to begin at without missing what is written next."""
    for event in follow(url(relay()), positions=True, **QUICK):
        return event.id


class FollowTest(unittest.TestCase):
    def take(self, stream, wanted):
        """The changes up to the last one that is wanted, which must be all of them."""
        told = []
        for event in stream:
            key = event.data.get("documentKey", {}).get("_id")
            if (event.type, key) in wanted:
                told.append((event.type, key))
            if (event.type, key) == wanted[-1]:
                break
        self.assertEqual(told, wanted)

    def test_everything_once_through_cuts(self):
        begin, added = position(), keys(100)
        wanted = [(kind, key) for key in added for kind in ("insert", "update", "delete")]
        write(*wanted)
        port = relay(mode="cutting", seed=11, mean=5000)
        self.take(follow(url(port), last_event_id=begin, **QUICK), wanted)

    def test_the_same_in_asynchronous_code(self):
        begin, added = position(), keys(100)
        wanted = [("insert", key) for key in added]
        write(*wanted)
        port = relay(mode="cutting", seed=12, mean=5000)

        async def collect():
            told = []
            async for event in afollow(url(port), last_event_id=begin, **QUICK):
                told.append(event)
                if event.data.get("documentKey") == {"_id": added[-1]}:
                    return told

        self.take(iter(asyncio.run(asyncio.wait_for(collect(), 60))), wanted)

    def test_goes_on_where_another_run_ended(self):
        begin, (first, second) = position(), keys(2)
        write(("insert", first), ("insert", second))
        port = relay()
        mine = lambda event: event.data.get("documentKey") in ({"_id": first}, {"_id": second})
        kept = next(event for event in follow(url(port), last_event_id=begin, **QUICK) if mine(event))
        self.assertEqual(kept.data["documentKey"], {"_id": first})
        behind = next(event for event in follow(url(port), last_event_id=kept.id, **QUICK) if mine(event))
        self.assertEqual(behind.data["documentKey"], {"_id": second})

    def test_an_answer_that_will_pass_is_waited_for(self):
        port = relay(mode="refusing")
        begin, (key,) = position(), keys(1)
        write(("insert", key))
        stream = follow(url(port), last_event_id=begin, **QUICK)
        with self.assertLogs("sidestream_client", "INFO") as logs:
            # The first attempts are refused; a log line of the third one lets the relay pass.
            class Mend:
                def filter(self, record):
                    if len(logs.records) == 3:
                        post("/relay/set", port=port, mode="plain")
                    return True
            import logging
            logger, mend = logging.getLogger("sidestream_client"), Mend()
            logger.addFilter(mend)
            self.addCleanup(logger.removeFilter, mend)
            self.take(stream, [("insert", key)])
        self.assertIn("answered 503", logs.output[0])

    def test_a_refusal_that_will_not_pass_is_raised(self):
        with self.assertRaises(Refused) as refused:
            next(follow(url(relay(), "nothing"), **QUICK))
        self.assertEqual(refused.exception.status, 404)
        self.assertIn("there is no stream", str(refused.exception))

    def test_the_end_is_the_last_event(self):
        name = "ended"
        post("/filter", name=name, more="")
        port = relay()
        deadline = time.monotonic() + 20
        while True:
            try:
                stream = follow(url(port, name), **QUICK)
                self.assertEqual(next(stream).type, "ready")
                break
            except Refused:
                # The sidecar has not read the new file yet.
                self.assertLess(time.monotonic(), deadline)
        post("/filter", name=name, more=None)
        told = list(stream)
        self.assertEqual([(event.type, event.data) for event in told], [("end", {"reason": "filter-changed"})])

    def test_a_collection_from_snapshots_through_cuts(self):
        """Each edit of the filter brings another snapshot, and a cut within one means that it begins again."""
        name, mine, shows = "begins", keys(200), 100

        def show():
            # The one that the filter no longer matches is told by nothing but the snapshot.
            match = f"match: {{ _id: {{ $gte: {mine[shows - 100]}, $lt: {mine[shows]} }} }}"
            post("/filter", name=name, more=f"{match}\nsnapshot: true")

        write(*[("insert", key) for key in mine[:shows]])
        self.addCleanup(post, "/filter", name=name, more=None)
        show()
        plain = f"http://127.0.0.1:{relay()}/_events"
        deadline = time.monotonic() + 60
        while name not in [stream["name"] for stream in httpx.get(plain).json()["streams"]]:
            self.assertLess(time.monotonic(), deadline)
        collection, pending, begun, complete = {}, {}, 0, 0
        for event in follow(url(relay(mode="cutting", seed=12, mean=30_000), name), **QUICK):
            self.assertLess(time.monotonic(), deadline)
            key, document = event.data.get("documentKey", {}).get("_id"), event.data.get("fullDocument")
            if event.type == "snapshot":
                pending, begun = {}, begun + 1
            elif event.type == "document":
                pending[key] = document
            elif event.type == "ready" and "documents" in event.data:
                collection, complete = pending, complete + 1
            elif event.type == "delete":
                collection.pop(key, None)
            elif document:
                collection[key] = document
            if mine[shows - 1] in collection:
                if begun - complete >= 5 and complete > 1 or shows == 199:
                    break
                # The filter of before does not match what is inserted.
                write(("update", mine[shows - 50]), ("delete", mine[shows - 30]), ("insert", mine[shows]))
                shows += 1
                show()
        self.assertGreaterEqual(begun - complete, 5, f"{begun} snapshots, {complete} complete")
        with urllib.request.urlopen(f"{APP}/documents", timeout=30) as answer:
            found = {each["_id"]: each["version"] for each in json.load(answer)}
        found = {key: version for key, version in found.items() if mine[shows - 100] <= key < mine[shows]}
        self.assertGreater(len(found), 50)
        self.assertEqual({key: document["version"] for key, document in collection.items()}, found)

    def test_a_url_that_cannot_be_asked_is_raised(self):
        with self.assertRaises(httpx.UnsupportedProtocol):
            next(follow("shop.example/_events/orders"))
        with self.assertRaises(ValueError):
            next(follow(url(1), transport="websocket"))

    def test_positions_are_told_on_request(self):
        event = next(follow(url(relay()), positions=True, **QUICK))
        self.assertIsInstance(event, Event)
        self.assertTrue(event.id)


if __name__ == "__main__":
    unittest.main()
