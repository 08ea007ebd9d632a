"""Follows a Sidestream stream: an iterator of events that reconnects and resumes.

    from sidestream_client import follow

    for event in follow("https://shop.example/_events/orders"):
        print(event.type, event.data)

`afollow` is the same for asynchronous code. Both go on until the caller stops, until the server says
that the stream has ended for good (the event `end` is the last one), or until it refuses the request
in a way that trying again will not change (`Refused`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

__all__ = ["Event", "Refused", "afollow", "follow"]

log = logging.getLogger(__name__)

_SSE, _JSON = "text/event-stream", "application/json"
# Reasons of `end` that coming back does not change.
_FINAL = ("unauthorized", "filter-changed")
# Statuses that coming back may change: what stands in front of a sidecar answers with these too.
_PASSING = (408, 425, 429, *range(500, 600))


@dataclass(frozen=True)
class Event:
    """One event: its type (`insert`, `ready`, `reset` …), its data, and the position after it."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    # Empty where the event has none: `end`, and the documents of a snapshot.
    id: str = ""


class Refused(Exception):
    """The server refused the request, and would again: a parameter, a right, a name is wrong."""

    def __init__(self, status: int, problem: dict[str, Any]):
        self.status, self.problem = status, problem
        super().__init__(problem.get("detail") or problem.get("title") or f"answered {status}")


class _Passing(Exception):
    """An answer that may be another one in a while."""

    def __init__(self, reason: str, after: float = 0.0):
        self.after = after
        super().__init__(reason)


class _Stream:
    """What there is to know between the bytes, for both kinds of code."""

    def __init__(self, transport: str, last_event_id: str, headers: Mapping[str, str] | None,
                 positions: bool, retry: float, max_retry: float):
        if transport not in ("sse", "poll"):
            raise ValueError(f"transport is 'sse' or 'poll', not {transport!r}")
        self.accept = _SSE if transport == "sse" else _JSON
        self.id, self.headers, self.positions = last_event_id, dict(headers or {}), positions
        self.retry, self.max_retry = retry, max_retry
        self.failures = 0
        self.has_ended = False
        self.was_ready = False

    def request_headers(self) -> dict[str, str]:
        headers = {**self.headers, "Accept": self.accept, "Cache-Control": "no-store"}
        if self.id:
            headers["Last-Event-ID"] = self.id
        # Of the connection that begins now.
        self.rest, self.block, self.has_come = b"", {}, False
        self.asked, self.is_empty = time.monotonic(), False
        return headers

    def check(self, response: httpx.Response, body: bytes = b"") -> bool:
        """True if the answer is what was asked for. Call again with the body where it is not."""
        kind = response.headers.get("content-type", "")
        if response.status_code == 200 and kind.startswith(self.accept):
            return True
        if not body:
            return False
        try:
            problem = json.loads(body)
        except ValueError:
            problem = {}
        if response.status_code in _PASSING or response.status_code == 200:
            after = response.headers.get("retry-after", "")
            raise _Passing(f"answered {response.status_code} ({kind})", float(after) if after.isdigit() else 0.0)
        raise Refused(response.status_code, problem if isinstance(problem, dict) else {})

    def feed(self, portion: bytes) -> Iterator[Event]:
        """The events that are complete with these bytes."""
        self.rest += portion
        if self.accept == _JSON or b"\n" not in portion:
            return
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            name, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            if name == "retry" and value.isdigit():
                self.retry = int(value) / 1000
            elif name == "data" and "data" in self.block:
                self.block["data"] += "\n" + value
            elif line:
                self.block[name] = value
            else:
                # Only now is the block complete, and only now does its id count.
                block, self.block = self.block, {}
                data = json.loads(block["data"]) if block.get("data") else {}
                yield from self.event(block.get("event", "position"), data, block.get("id", ""))
            if self.has_ended:
                return

    def finish(self) -> Iterator[Event]:
        """The events of an answer that has ended well: those of a long poll."""
        if self.accept == _SSE:
            return
        answer = json.loads(self.rest)
        before = self.id
        for each in answer["events"]:
            yield from self.event(each["event"], each.get("data", {}), each.get("id", ""))
        resume = answer.get("resume") or ""
        if resume and not self.has_ended:
            yield from self.event("position" if self.was_ready else "ready", {}, resume)
            self.was_ready = True
        # Nothing, and at once: about to go. Asking again at once would be a storm.
        self.is_empty = not answer["events"] and self.id == before and time.monotonic() - self.asked < 1

    def event(self, kind: str, data: dict[str, Any], id: str) -> Iterator[Event]:
        if kind == "position" and not id:
            return
        self.failures, self.has_come = 0, True
        # A position from before a snapshot is of no use when half of that has come: begin it anew.
        self.id = "" if kind == "snapshot" else id or self.id
        self.has_ended = kind == "end" and data.get("reason") in _FINAL
        if kind != "position" or self.positions:
            yield Event(kind, data, id)

    def pause(self, error: Exception | None) -> float:
        """Seconds until the next attempt; call once for each connection that is over."""
        if self.has_ended or self.accept == _JSON and error is None and not self.is_empty:
            return 0.0
        log.info("reconnecting: %s", error or "the stream ended")
        if not self.has_come:
            self.failures += 1
        backoff = min(self.max_retry, self.retry * 2**min(self.failures, 16)) * random.uniform(0.5, 1)
        return max(self.retry, backoff, getattr(error, "after", 0.0))


def follow(url: str, *, client: httpx.Client | None = None, params: Any = None,
           headers: Mapping[str, str] | None = None, last_event_id: str = "", transport: str = "sse",
           positions: bool = False, retry: float = 2.0, max_retry: float = 60.0,
           silence: float = 60.0) -> Iterator[Event]:
    """The events of a stream, as long as the caller takes them.

    `last_event_id`: go on behind this position, that of an event whose effects the caller has kept.
    `transport`: `sse`, or `poll` where something in between holds streams back.
    `positions`: also yield events of type `position`, by which a quiet stream says how far it has
    been read. `retry`, `max_retry`, `silence` are seconds: between attempts, at first and at most,
    and until a connection on which nothing comes is given up (more than `clients.heartbeat`).

    Raises `Refused`, and what `httpx` raises for URLs that cannot be asked.
    """
    stream = _Stream(transport, last_event_id, headers, positions, retry, max_retry)
    timeout = httpx.Timeout(10, read=silence)
    with contextlib.ExitStack() as cleanup:
        http = client or cleanup.enter_context(httpx.Client(follow_redirects=True))
        while not stream.has_ended:
            error: Exception | None = None
            try:
                with http.stream("GET", url, params=params, headers=stream.request_headers(),
                                 timeout=timeout) as response:
                    if not stream.check(response):
                        stream.check(response, response.read() or b"{}")
                    for portion in response.iter_bytes():
                        yield from stream.feed(portion)
                        if stream.has_ended:
                            return
                    yield from stream.finish()
            except (httpx.TransportError, _Passing, ValueError) as failure:
                if isinstance(failure, httpx.UnsupportedProtocol):
                    raise
                error = failure
            time.sleep(stream.pause(error))


async def afollow(url: str, *, client: httpx.AsyncClient | None = None, params: Any = None,
                  headers: Mapping[str, str] | None = None, last_event_id: str = "", transport: str = "sse",
                  positions: bool = False, retry: float = 2.0, max_retry: float = 60.0,
                  silence: float = 60.0) -> AsyncIterator[Event]:
    """`follow`, for asynchronous code."""
    stream = _Stream(transport, last_event_id, headers, positions, retry, max_retry)
    timeout = httpx.Timeout(10, read=silence)
    async with contextlib.AsyncExitStack() as cleanup:
        http = client or await cleanup.enter_async_context(httpx.AsyncClient(follow_redirects=True))
        while not stream.has_ended:
            error: Exception | None = None
            try:
                async with http.stream("GET", url, params=params, headers=stream.request_headers(),
                                       timeout=timeout) as response:
                    if not stream.check(response):
                        stream.check(response, await response.aread() or b"{}")
                    async for portion in response.aiter_bytes():
                        for event in stream.feed(portion):
                            yield event
                        if stream.has_ended:
                            return
                    for event in stream.finish():
                        yield event
            except (httpx.TransportError, _Passing, ValueError) as failure:
                if isinstance(failure, httpx.UnsupportedProtocol):
                    raise
                error = failure
            await asyncio.sleep(stream.pause(error))
