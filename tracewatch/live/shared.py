"""Reads that many ask for at the same time are made once.

Rule 1: of each read one is under way and one is next. A caller shares the next one, which begins after the call: so
        everybody sees what was written before they asked, however many ask.
Rule 2: a caller that leaves takes nobody's answer away; an error is everybody's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SharedReads(Generic[Key, Value]):
    """Call it with what is to be read; ``read`` is called once for all who ask for the same."""

    def __init__(self, read: Callable[[Key], Awaitable[Value]]) -> None:
        self._read = read
        self._running: dict[Key, asyncio.Task[Value]] = {}
        self._next: dict[Key, asyncio.Task[Value]] = {}

    async def __call__(self, key: Key) -> Value:
        """What ``read`` gives for ``key`` from now on. Raises what it raises."""
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._run(key))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # all callers may have left
        return await asyncio.shield(task)

    async def _run(self, key: Key) -> Value:
        before = self._running.get(key)
        if before is not None:
            await asyncio.wait([before])
        self._running[key] = self._next.pop(key)
        try:
            return await self._read(key)
        finally:
            del self._running[key]
