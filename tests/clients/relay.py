"""A TCP relay on loopback that cuts connections at random bytes, and one that behaves like a proxy
which holds event streams back.

Everything random comes from the relay's seed: which byte of which connection's answer is the last
one, in which portions the bytes before it go, and whether the cut is a FIN or a RST.

Modes of a relay:

    plain       everything passes
    cutting     each connection is cut after a random number of the answer's bytes
    id-gap      each connection is cut between the line of an event's id and the blank line behind it
    buffering   an event stream's answer is held back until it ends, which it does not
    refusing    each connection is answered with 503 and closed
    down        each connection is reset at once
"""

import asyncio
import random
import re
import socket
import struct
import threading

# A block with data whose id line has just ended: some clients have taken the id, and not the event.
ID_GAP = re.compile(rb"\ndata: [^\n]*\nid: [^\n]+\n(?=\n)")
ASKED = re.compile(rb"\r\nlast-event-id: (\S+)\r\n", re.IGNORECASE)
READY = re.compile(rb"event: ready\ndata: [^\n]*\nid: (\S+)\n")
ID = re.compile(rb"\nid: (\S+)\n")
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Relays:
    """All relays of a run, in one thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.all = {}

    def open(self, target, mode="plain", seed=0, mean=12_000, spare_id_gap=False):
        """Returns the new relay. `mean`: of the answer's bytes until a cut."""
        relay = Relay(target, mode, seed, mean, spare_id_gap)
        self.call(relay.listen())
        self.all[relay.port] = relay
        return relay

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def change(self, port, **settings):
        """Sets mode, target and the like from now on; what is open is cut when `cut` is true."""
        relay = self.all[port]

        async def apply():
            if settings.pop("cut", False):
                for writer in list(relay.clients):
                    writer.transport.abort()
            for name, value in settings.items():
                setattr(relay, name, value)
        self.call(apply())


class Relay:
    def __init__(self, target, mode, seed, mean, spare_id_gap):
        self.target = target
        self.mode = mode
        self.mean = mean
        self.spare_id_gap = spare_id_gap
        self.random = random.Random(seed)
        self.clients = set()
        self.connections = 0
        self.cuts = 0
        # What went by, in mode `plain`: ids with which clients came, ids of `ready`, and of anything.
        self.asked, self.ready, self.ids = [], [], []
        self.port = None

    async def listen(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, near_reader, near):
        self.connections += 1
        self.clients.add(near)
        near.transport.set_write_buffer_limits(high=0)
        far = None
        try:
            if self.mode == "down":
                return near.transport.abort()
            if self.mode == "refusing":
                await near_reader.readuntil(b"\r\n\r\n")
                near.write(REFUSAL)
                return await near.drain()
            far_reader, far = await asyncio.open_connection(*self.target)
            ahead = asyncio.create_task(pass_on(near_reader, far, lambda seen: self.asked.extend(ASKED.findall(seen))))
            back = asyncio.create_task(self.answer(far_reader, near))
            # Either end gone is the end of both.
            await asyncio.wait([ahead, back], return_when=asyncio.FIRST_COMPLETED)
            for task in (ahead, back):
                task.cancel()
            await asyncio.gather(ahead, back, return_exceptions=True)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.clients.discard(near)
            for writer in (near, far):
                if writer:
                    writer.close()

    async def answer(self, reader, near):
        if self.mode in ("cutting", "id-gap"):
            return await self.answer_and_cut(reader, near)
        if self.mode == "buffering":
            first = await reader.read(65536)
            if b"text/event-stream" in first:
                # Until the other end is tired of it.
                while await reader.read(65536):
                    pass
                return
            near.write(first)
        await pass_on(reader, near, self.note)

    def note(self, portion):
        self.ready.extend(READY.findall(portion))
        self.ids.extend(ID.findall(portion))

    async def answer_and_cut(self, reader, near):
        """Lets so many bytes pass, and cuts."""
        left = self.random.randrange(1, 2 * self.mean)
        # A RST may take bytes along that were on their way.
        reset = self.mode == "cutting" and self.random.random() < 0.3
        tail = b""
        while True:
            portion = await reader.read(self.random.randrange(1, 4096))
            if not portion:
                return
            seen = tail + portion
            end = self.end_of(seen, len(tail), left)
            if end is None:
                near.write(portion)
                await near.drain()
                left -= len(portion)
                # Long enough for the longest block of these tests.
                tail = seen[-8192:]
                continue
            near.write(seen[len(tail):end])
            await near.drain()
            self.cuts += 1
            if reset:
                near.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return

    def end_of(self, seen, known, left):
        """Where in `seen`, of which the first `known` bytes have passed, the cut is, if it is there."""
        gaps = {found.end() for found in ID_GAP.finditer(seen) if found.end() >= known}
        if self.mode == "id-gap":
            return min((gap for gap in gaps if gap - known >= left), default=None)
        end = known + left
        if end >= len(seen):
            return None
        return end + 1 if self.spare_id_gap and end in gaps else end


async def pass_on(reader, writer, note=lambda portion: None):
    while portion := await reader.read(65536):
        note(portion)
        writer.write(portion)
        await writer.drain()
