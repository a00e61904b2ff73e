"""The raw limits over sockets, each a process: ``python -m benchmarks.bare fanout LAST_EVENT_ID | backfill DB``.

``fanout``: an asyncio server (uvloop) that does nothing but write pre-built bytes to every socket. ``backfill``: a
blocking loop that selects pages and writes their pre-framed bytes to one socket after the other. Both greet as the
server under test does, so that one client serves both sides. Both print their port first and end with SIGTERM.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import sys
from pathlib import Path
from typing import cast

import uvloop

from .wire import server_frame

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
CAUGHT_UP = b'{"event":"caught_up","current_event_id":%d}'
PAGE_EVENTS = 500
PAUSE_BYTES = 64 * 1024  # unsent bytes of one socket above which the fan-out waits for it


class Watcher(asyncio.Protocol):
    """One bare socket."""

    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        transport.set_write_buffer_limits(high=PAUSE_BYTES)
        transport.write(SWITCH + server_frame(CAUGHT_UP % self._fanout.last_event_id))
        self.transport = transport
        self._fanout.watchers.append(transport)

    def pause_writing(self) -> None:
        self._fanout.paused += 1
        self._fanout.free.clear()

    def resume_writing(self) -> None:
        self._fanout.paused -= 1
        if not self._fanout.paused:
            self._fanout.free.set()

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.transport is not None
        self._fanout.watchers.remove(self.transport)


class Fanout:
    """Told ``FILE RATE BATCH``, writes the file's lines as frames to all: ``batch`` of them per write, ``rate`` writes
    a second (0: as fast as the sockets take them). Says ``done``.
    """

    def __init__(self, last_event_id: int) -> None:
        self.last_event_id = last_event_id
        self.watchers: list[asyncio.Transport] = []
        self.paused = 0  # number of sockets whose buffers are full
        self.free = asyncio.Event()
        self.free.set()

    async def run(self) -> None:
        """Serve until stdin ends."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Watcher(self), "127.0.0.1", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        orders = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        while order := await orders.readline():
            path, rate, batch = order.decode().split()
            lines = Path(path).read_bytes().splitlines()  # noqa: ASYNC240 (before the clock starts)
            size = int(batch)
            frames = [server_frame(line) for line in lines]
            await self._write([b"".join(frames[i : i + size]) for i in range(0, len(frames), size)], float(rate))
            print("done", flush=True)

    async def _write(self, chunks: list[bytes], rate: float) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for index, chunk in enumerate(chunks):
            if rate:
                await asyncio.sleep(max(0.0, start + index / rate - loop.time()))
            for transport in self.watchers:
                transport.write(chunk)
            await asyncio.sleep(0)
            await self.free.wait()


def backfill(db: str) -> None:
    """Send all of ``events`` to each client, one client after the other."""
    connection = sqlite3.connect(db, isolation_level=None)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(4096)
            accepted.sendall(SWITCH)
            after = 0
            while rows := connection.execute(
                "SELECT event_key & 4294967295, body FROM events WHERE event_key > ? ORDER BY event_key LIMIT ?",
                ((1 << 32) + after, PAGE_EVENTS),
            ).fetchall():
                accepted.sendall(b"".join([row[1] for row in rows]))
                after = rows[-1][0]
            accepted.sendall(server_frame(CAUGHT_UP % after))


if __name__ == "__main__":
    if sys.argv[1] == "fanout":
        uvloop.run(Fanout(int(sys.argv[2])).run())
    else:
        backfill(sys.argv[2])
