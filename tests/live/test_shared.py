"""Reads that many ask for at once."""

from __future__ import annotations

import asyncio

import pytest

from tests.live.harness import Gate
from tests.support import until
from tracewatch.live.shared import SharedReads

pytestmark = pytest.mark.anyio


class Source:
    """Something to read that can be held, and that counts."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.value = 0
        self.reads: list[str] = []
        self.error: Exception | None = None
        self.shared = SharedReads(self._read)

    async def _read(self, key: str) -> int:
        self.reads.append(key)
        value = self.value
        await self.gate.passing()
        if self.error is not None:
            raise self.error
        return value


async def test_all_who_ask_at_once_share_one_read() -> None:
    source = Source()
    assert await asyncio.gather(*(source.shared("a") for _ in range(50))) == [0] * 50
    assert source.reads == ["a"]
    assert await asyncio.gather(*(source.shared(key) for key in "aabb")) == [0] * 4
    assert source.reads == ["a", "a", "b"]


async def test_a_read_begins_after_it_was_asked_for() -> None:
    source = Source()
    source.gate.shut()
    early = asyncio.create_task(source.shared("a"))
    await source.gate.held()
    source.value = 1
    late = [asyncio.create_task(source.shared("a")) for _ in range(5)]
    await asyncio.sleep(0)
    source.gate.open()
    assert (await early, await asyncio.gather(*late)) == (0, [1] * 5)
    assert source.reads == ["a", "a"]


async def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    source = Source()
    source.gate.shut()
    tasks = [asyncio.create_task(source.shared("a")) for _ in range(3)]
    await source.gate.held()
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    source.gate.open()
    assert await asyncio.gather(*tasks[1:]) == [0, 0]


async def test_an_error_is_everybodys_and_is_over() -> None:
    source = Source()
    source.error = ValueError("x")
    for outcome in await asyncio.gather(*(source.shared("a") for _ in range(3)), return_exceptions=True):
        assert outcome is source.error
    source.gate.shut()
    alone = asyncio.create_task(source.shared("a"))
    await source.gate.held()
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    source.gate.open()  # nobody takes that error
    await until(lambda: not source.shared._running)
    source.error = None
    assert await source.shared("a") == 0
