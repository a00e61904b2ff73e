"""What all watchers of a process together may have in flight: unsent bytes, pages on their way, and the heads' rings.

Rule 1: nobody may have more waiting than a 64th of what is still free. So the fullest stop first, there is always room
        left for those that read, and the sum never comes to the limit, however many stop at once.
Rule 2: a watcher at the head that would have more goes back to the log; one that reads the log waits before it reads
        its next page, and then gets a smaller one.
Rule 3: free is only what has been seen to be: sinks with unsent bytes are looked at when written to and once a tick.
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
        self._unsent: dict[Sink, int] = {}  # those that had something waiting when last looked at
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
        """Once a tick: count anew, and let those who wait for room look again."""
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
