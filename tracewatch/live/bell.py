"""Hints between processes: one poller per process notices what others wrote to the same file.

Rule 1: a hint may be late, repeated or about nothing; who hears it asks the log.
Rule 2: a log that can't be asked now is asked again; watchers stay.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence

from ..errors import Unavailable
from ..log import EventLog, Grown

RETRY_S = 0.5


class PollBell:
    """Rings when the log's data version changes. One cheap question every ``poll_ms``, whoever watches what."""

    def __init__(self, log: EventLog, ring: Callable[[Sequence[Grown]], None], *, poll_ms: int) -> None:
        self._log = log
        self._ring = ring
        self._poll_s = poll_ms / 1000
        self.looked_at = time.monotonic()  # when the log last answered
        self.hints = 0  # traces that were found to have grown, this process's own appends included
        self._task = asyncio.create_task(self._run(), name="tracewatch-poll")

    async def _run(self) -> None:
        version: int | None = None  # of the last look; None: look in any case
        seen: int | None = None  # the newest change told; what is older than this process is nobody's news
        while True:
            try:
                if seen is None:
                    _, seen = await self._log.changes(2**62)
                # The version first: what is written after it shows up as another one next time
                newest = await self._log.data_version()
                self.looked_at = time.monotonic()
                if newest != version:
                    grown, seen = await self._log.changes(seen)
                    version = newest
                    if grown:
                        self.hints += len(grown)
                        self._ring(grown)
                await asyncio.sleep(self._poll_s)
            except (Unavailable, sqlite3.Error):
                version = None
                await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """Stop polling."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
