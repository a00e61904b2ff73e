"""The log on an engine that compares heads at a commit, and may lose the answer to one.

Rule: a plan made from memory is valid only if the commit found the heads that it was made for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.log.contract.memory import Memory
from tests.log.helpers import (
    MEMORIES,
    Clock,
    Heard,
    bodies,
    check_trace,
    create,
    end,
    names,
    notes,
    open_any,
    say,
)
from tracewatch.errors import Unavailable, UnexpectedLastEventId
from tracewatch.log import Appended, EventLog

pytestmark = pytest.mark.anyio


@pytest.fixture
def url() -> str:
    return "memory://seam"


@pytest.fixture
async def memory(url: str, log: EventLog) -> Memory:
    return MEMORIES[url]


@pytest.fixture
async def impatient(url: str, clock: Clock) -> AsyncIterator[EventLog]:
    """The same log as another process, which waits for nothing."""
    opened = await open_any(url, clock=clock, lock_wait_s=0.01)
    yield opened
    await opened.close()


async def test_a_known_trace_is_appended_to_without_a_look(log: EventLog, memory: Memory) -> None:
    await create(log)
    await log.append("t", [say(message_id="m", status="streaming")], producer="p", seq=1)
    memory.commits.clear()
    storage = log.storage

    async def looked(*args: object) -> None:
        raise AssertionError("begin")

    storage.begin = looked  # type: ignore[method-assign,assignment]
    update = {"event": "message_updated", "message_id": "m", "append": "x"}
    assert await log.append("t", [update], producer="p", seq=2) == Appended(2, 2)
    await asyncio.gather(*(log.append("t", notes(1)) for _ in range(5)))
    assert [one.optimistic for one in memory.commits] == [True] * len(memory.commits)


async def test_part_of_a_group_is_planned_again(log: EventLog, other: EventLog, memory: Memory) -> None:
    for trace_id in "ab":
        await create(log, trace_id)
    await other.append("a", notes(1))  # of which the first process knows nothing
    memory.commits.clear()
    heard = Heard(log)
    answers = await asyncio.gather(*(log.append(trace_id, notes(2)) for trace_id in "abab"))
    assert answers == [Appended(2, 3), Appended(1, 2), Appended(4, 5), Appended(3, 4)]
    first, second = memory.commits
    assert ([c.after.trace_id for c in first.traces], first.optimistic) == (["a", "b"], True)
    assert ([c.after.trace_id for c in second.traces], second.optimistic) == (["a"], False)
    assert (heard.ids("a"), heard.ids("b")) == ([2, 3, 4, 5], [1, 2, 3, 4])
    for trace_id in "ab":
        await check_trace(log, trace_id)


async def test_a_refusal_from_memory_is_judged_anew(log: EventLog, other: EventLog) -> None:
    await create(log)
    await other.append("t", notes(3))
    assert (await log.append("t", notes(1), expected_last_event_id=3)).first_event_id == 4
    with pytest.raises(UnexpectedLastEventId) as caught:
        await other.append("t", notes(1), expected_last_event_id=3)
    assert caught.value.facts["last_event_id"] == 4


async def test_two_processes_on_one_trace(log: EventLog, other: EventLog) -> None:
    await create(log)
    await asyncio.gather(*(one.append("t", notes(1)) for _ in range(40) for one in (log, other)))
    assert len(await bodies(log)) == 80
    await check_trace(other)


@pytest.mark.parametrize("cut", ["landed", "lost"])
@pytest.mark.parametrize("known", [True, False], ids=["from memory", "after a look"])
async def test_a_lost_answer_is_settled(log: EventLog, memory: Memory, cut: str, known: bool) -> None:
    await create(log, "p")
    await create(log, "t", parent_trace_id="p")
    heard = Heard(log)
    memory.cuts.append(cut)
    batch = notes(2) if known else [*notes(2), end()]
    assert await log.append("t", batch, producer="x", seq=1) == Appended(1, len(batch))
    assert heard.ids() == list(range(1, len(batch) + 1))
    assert (await log.append("t", batch, producer="x", seq=1)).duplicates == len(batch)
    assert len(await bodies(log)) == len(batch)
    assert (await names(log, "p")).count("sub_trace_completed") == (0 if known else 1)


@pytest.mark.parametrize("cut", ["landed", "lost"])
async def test_a_lost_answer_to_something_that_is_no_append(log: EventLog, memory: Memory, cut: str) -> None:
    memory.cuts.append(cut)
    await create(log)
    memory.cuts.append(cut)
    token = await log.tokens.create(["read"])
    assert len(await log.tokens.made()) == 1 and token
    memory.cuts.append(cut)
    assert await log.delete_trace("t") == ["t"]
    assert await log.summaries(["t"]) == []


@pytest.mark.parametrize("cut", ["landed", "lost"])
async def test_what_stays_in_doubt_is_never_answered(
    log: EventLog, impatient: EventLog, memory: Memory, cut: str
) -> None:
    await create(log)
    await impatient.append("t", notes(1), producer="p", seq=1)
    memory.cuts.append(cut)
    memory.unknown = True
    with pytest.raises(Unavailable) as caught:
        await impatient.append("t", notes(1), producer="p", seq=2)
    assert caught.value.facts["reason"] == "in_doubt"
    memory.unknown = False
    again = await impatient.append("t", notes(1), producer="p", seq=2)  # the recorder sends it again
    assert again.last_event_id == 2
    assert len(await bodies(log)) == 2
    await check_trace(impatient)
