"""A trace with more watchers than one turn writes to: other work gets its turn in between, and no event is missed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.live.harness import Notes, bench
from tests.support import until
from tracewatch.live import head
from tracewatch.model.events import validate_trace

pytestmark = pytest.mark.anyio
CROWD = 20


@pytest.fixture
def three_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "WATCHERS_AT_ONCE", 3)


async def test_others_have_their_turn(tmp_path: Path, three_at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = 0
    written: Counter[int] = Counter()  # by turn of the loop
    write = Notes.write

    def noted(self: Notes, data: bytes) -> None:
        written[turn] += 1
        write(self, data)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async with bench(tmp_path) as b:
        crowd = [b.watch() for _ in range(CROWD)]
        await until(lambda: all("caught_up" in notes.names() for notes in crowd))
        monkeypatch.setattr(Notes, "write", noted)
        counting = asyncio.create_task(count_turns())
        await b.append(1)
        await until(lambda: sum(written.values()) == CROWD)
        counting.cancel()
        assert max(written.values()) <= 3, written
        for notes in crowd:
            await b.complete(notes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_who_looks_around_in_the_middle_of_it(tmp_path: Path, three_at_once: None, seed: int) -> None:
    """Watchers that are woken, come or have no room while the others are written to."""
    chance = random.Random(seed)
    async with bench(tmp_path) as b:
        crowd = [b.watch(direct=chance.random() < 0.8) for _ in range(CROWD)]
        for _ in range(60):
            count, size = chance.choice(((1, 0), (2, 0), (20, 15_000)))  # the last is more than memory keeps
            await b.append(count, size=size, by=chance.choice((b.log, b.log, b.other)))
            if chance.random() < 0.3:
                await b.ring()
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
                one = chance.choice(tuple(b.hub._watchers) or (None,))
                if one is not None:
                    chance.choice((one.wake.set, one.heartbeat, one.fall_behind))()
            notes = chance.choice(crowd)
            notes.unsent = chance.choice((0, 0, 1 << 20))
            chance.choice((notes.room.clear, notes.room.set))()
            if len(crowd) < 2 * CROWD and chance.random() < 0.2:
                crowd.append(b.watch())
        await b.ring()
        for notes in crowd:
            notes.unsent = 0
            notes.room.set()
            await b.complete(notes)


async def test_the_end_is_told_when_all_have_had_it(tmp_path: Path, three_at_once: None) -> None:
    async with bench(tmp_path) as b:
        crowd = [b.watch(until_end=True) for _ in range(CROWD)]
        await until(lambda: all("caught_up" in notes.names() for notes in crowd))
        await b.append(5)
        await b.log.append("t", [{"event": "trace_completed", "status": "completed"}])
        assert await asyncio.gather(*b.tasks) == ["end"] * CROWD
        for notes in crowd:
            await b.complete(notes)


async def test_the_trace_is_replaced_in_the_middle_of_it(tmp_path: Path, three_at_once: None) -> None:
    async with bench(tmp_path) as b:
        old = [b.watch() for _ in range(CROWD)]
        await until(lambda: all("caught_up" in notes.names() for notes in old))
        last = await b.log.append("t", [{"event": "old"}])
        await until(lambda: any(notes.events for notes in old))  # some have it, others not yet
        await b.log.delete_trace("t")
        await b.log.create_trace(validate_trace({"trace_id": "t", "task": "another"}))
        new = [b.watch() for _ in range(CROWD)]
        await b.log.append("t", [{"event": "new"}] * 3)
        for notes in new:
            await b.complete(notes, after=last.last_event_id)  # ids are never used again
        outcomes = await asyncio.gather(*b.tasks[:CROWD], return_exceptions=True)
        b.tasks = b.tasks[CROWD:]
        assert {type(outcome).__name__ for outcome in outcomes} == {"TraceDeleted"}
        assert all(len(notes.events) <= last.last_event_id for notes in old)
