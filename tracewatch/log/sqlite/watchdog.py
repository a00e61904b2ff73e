"""The watchdog looks once a second whether a log's files are in their places, and whether a fault is over.

Rule 1: the watchdog runs also when nobody reads or writes, so that a fault is known before it costs anybody anything,
        and its end without anybody having to try.
Rule 2: damage is over when the traces in which it was found can be read from end to end and SQLite's own check finds
        nothing. That reads the whole file, so it is done ever more rarely.
Rule 3: SQLite would play a -wal into whatever database lies beside it. So where another file was put in the place of
        the database and the old -wal is still there, what is in it goes into the old file, wherever that is now. Then
        the -wal and the -shm are removed, as SQLite does it when the last connection to a database is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ...errors import TracewatchError
from ..group import Group
from ..health import Health
from ..reader import Reader
from .storage import SQLiteStorage

CHECK_S = 1.0
DAMAGE_CHECK_S = 30.0  # between two checks of a damaged file, at the most; the first ones come sooner
DAMAGE_SHARE = 20  # a check that takes long is repeated after so many times as long


class Watchdog:
    """The task that looks, for as long as a log is open."""

    def __init__(
        self, storage: SQLiteStorage, *, health: Health, group: Group, reader: Reader, replaced: asyncio.Event
    ) -> None:
        """``replaced`` is set when another file stands in the log's place."""
        self._storage = storage
        self._replaced = replaced
        self._health = health
        self._group = group
        self._reader = reader
        self._running: dict[str, asyncio.Task[None]] = {}  # checks under way: one of each kind
        self._task = asyncio.create_task(self._run(), name="tracewatch-watchdog")

    async def _run(self) -> None:
        while True:
            self._look_at_file()
            self._start("write", self._group.check())
            if self._health.of("damage") is not None:
                self._start("damage", self._check_damage())
            await asyncio.sleep(CHECK_S)

    def _look_at_file(self) -> None:
        fault = self._storage.file.fault()
        if fault is None:
            self._health.clear("file")
            return
        self._health.note_error("file", fault.error("written"))
        if self._storage.file.replaced:
            self._start("wal", self._storage.clear_wal())
            self._replaced.set()

    def _start(self, kind: str, check: Coroutine[Any, Any, None]) -> None:
        running = self._running.get(kind)
        if running is None or running.done():
            self._running[kind] = asyncio.create_task(check, name=f"tracewatch-check-{kind}")
        else:
            check.close()

    async def _check_damage(self) -> None:
        loop, wait_s = asyncio.get_running_loop(), CHECK_S
        while True:
            began = loop.time()
            try:
                await self._reader.check()
            except TracewatchError:
                pass  # it is noted, or it is another trouble
            else:
                self._health.clear("damage")
                return
            await asyncio.sleep(max(wait_s, DAMAGE_SHARE * (loop.time() - began)))
            wait_s = min(2 * wait_s, DAMAGE_CHECK_S)

    async def close(self) -> None:
        """Stop looking."""
        tasks = [self._task, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
