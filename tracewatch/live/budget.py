"""What all watchers of a process together may have in flight: unsent bytes, pages on their way, and the heads' rings.

Rule 1: one watcher may have at most a 64th of the free bytes waiting. So the fullest are stopped first, watchers that
        read always find room, and the sum never reaches the limit, however many readers stop at once.
Rule 2: a watcher at the head that would have more waiting goes back to the log. One that reads the log waits before its
        next page, and gets a smaller one.
Rule 3: bytes count as free once their sink was seen without them: sinks with unsent bytes are looked at when they are
        written to, and once a tick.
"""

from __future__ import annotations

import asyncio

from .sink import Sink

SHARES = 64
SMALLEST_SHARE = 4096  # bytes; below it pages wait


class Budget:
    """Bytes to share out. ``share`` is how many one watcher may have waiting now."""

    __slots__ = ("_free", "_unsent", "_waiters", "limit", "share")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.share = limit // SHARES
        self._free = limit
        self._unsent: dict[Sink, int] = {}  # of sinks that had something waiting at the last look
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def used(self) -> int:
        """Bytes in flight."""
        return self.limit - self._free

    def take(self, size: int) -> None:
        """So many bytes are in flight."""
        self._free -= size
        self.share = max(0, self._free // SHARES)

    def give(self, size: int) -> None:
        """So many no longer are."""
        self.take(-size)

    def measure(self, sink: Sink) -> None:
        """Count what waits at a sink now. Called after something was handed to it."""
        waiting, before = sink.buffered(), self._unsent.pop(sink, 0)
        if waiting:
            self._unsent[sink] = waiting
        if waiting != before:
            self.take(waiting - before)

    def look(self) -> None:
        """Once a tick: count anew, and let sinks that wait for room look again."""
        for sink in tuple(self._unsent):
            self.measure(sink)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def room(self, sink: Sink, wanted: int) -> int:
        """Wait until this sink may be given a page; how many bytes of it, at most ``wanted``."""
        await sink.ready()
        while self.share < SMALLEST_SHARE or sink.buffered() > self.share:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return min(wanted, self.share)
