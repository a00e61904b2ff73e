"""Two logs on one file, as in two processes: each sees the other's events, and both write."""

from __future__ import annotations

import asyncio
from unittest import mock

import pytest

from tests.log.helpers import (
    Heard,
    all_messages,
    bodies,
    check_trace,
    create,
    end,
    events,
    goal,
    names,
    notes,
    say,
    summary,
)
from tracewatch.errors import SequenceGap, UnexpectedLastEventId
from tracewatch.log import Appended, EventLog, TraceQuery

pytestmark = pytest.mark.anyio


async def test_one_epoch(log: EventLog, other: EventLog) -> None:
    assert log.epoch == other.epoch != ""


async def test_both_append_to_one_trace(log: EventLog, other: EventLog) -> None:
    await create(log)
    heard = [Heard(log), Heard(other)]

    async def work(one: EventLog, name: str) -> list[Appended]:
        answers = []
        for n in range(25):
            answers.append(
                await one.append("t", [say(f"{name}{n}", tokens=1), *notes(2)], producer=name, seq=3 * n + 1)
            )
        return answers

    pairs = [(one, f"{name}{k}.") for one, name in ((log, "a"), (other, "b")) for k in range(4)]
    answers = [a for one in await asyncio.gather(*(work(*pair) for pair in pairs)) for a in one]
    assert sorted(a.first_event_id or 0 for a in answers) == list(range(1, 601, 3))
    assert sorted([*heard[0].ids(), *heard[1].ids()]) == list(range(1, 601))
    assert await bodies(log) == await bodies(other)
    for one in (log, other):
        state = await check_trace(one)
        assert (state.total_messages, state.total_tokens) == (200, 200)
        assert [await one.last_seq("t", name) for _, name in pairs] == [75] * 8


async def test_turns(log: EventLog, other: EventLog) -> None:
    """Each remembers a state that the other has made old: of goals, of messages, of producers."""
    await create(log)
    await log.append("t", [goal(id="g", status="in_progress"), say("", message_id="x", status="streaming")])
    for n in range(6):
        one, two = (log, other) if n % 2 else (other, log)
        append = {"event": "message_updated", "message_id": "x", "append": str(n)}
        assert (await one.append("t", [append, say(str(n))], producer="p", seq=2 * n + 1)).duplicates == 0
        assert (await two.append("t", [append, say(str(n))], producer="p", seq=2 * n + 1)).duplicates == 2
        with pytest.raises(SequenceGap):
            await two.append("t", notes(1), producer="p", seq=2 * n + 4)
        with pytest.raises(UnexpectedLastEventId):
            await two.append("t", notes(1), expected_last_event_id=2 * n + 2)
        await check_trace(one)
        await check_trace(two)
    assert (await all_messages(log))[0]["content"] == "012345"
    done = {"event": "goal_updated", "goal_id": "g", "patch": {"status": "completed"}}
    await log.append("t", [done])
    await other.append("t", [goal(parent_id="g")])
    assert (await events(log))[-1]["affected_goals"] == [{"goal_id": "g", "status": "in_progress"}]


async def test_deleted_and_made_again_by_the_other(log: EventLog, other: EventLog) -> None:
    await create(log)
    await log.append("t", [goal(id="g"), say("old", message_id="x")], producer="p", seq=1)
    await check_trace(other)
    await other.delete_trace("t")
    await create(other, task="New")
    assert await log.append("t", [goal(id="g"), say("new", message_id="x")], producer="p", seq=1) == Appended(3, 4)
    for one in (log, other):
        assert (await check_trace(one)).task == "New"
        assert [m["content"] for m in await all_messages(one)] == ["new"]


async def test_a_sub_trace_of_the_others_trace(log: EventLog, other: EventLog) -> None:
    await create(log, "p")
    await create(other, "c", parent_trace_id="p")
    await log.append("p", [say(tokens=1)])
    await other.append("c", [say(tokens=2), end()])
    assert await names(log, "p") == ["sub_trace_started", "message_added", "sub_trace_completed"]
    await check_trace(log, "p")
    assert (await summary(log, "p"))["tree_totals"]["total_tokens"] == 3


async def test_changes_say_what_others_wrote(log: EventLog, other: EventLog) -> None:
    _, seen = await other.changes()
    _, own = await log.changes()
    await create(log, "a")
    await create(log, "b", parent_trace_id="a")
    grown, seen = await other.changes(seen)
    assert {(g.trace_id, g.last_event_id, g.status, g.deleted) for g in grown} == {
        ("a", 1, "running", False),
        ("b", 0, "running", False),
    }
    assert all(g.bodies == [] for g in grown)
    assert await other.changes(seen) == ([], seen)
    await asyncio.gather(*(log.append("b", notes(1)) for _ in range(30)))
    await other.append("b", [end("failed")])
    grown, seen = await other.changes(seen)
    assert {(g.trace_id, g.last_event_id, g.status) for g in grown} == {("a", 2, "running"), ("b", 31, "failed")}
    await log.delete_trace("b")
    grown, seen = await other.changes(seen)
    assert [(g.trace_id, g.last_event_id, g.deleted) for g in grown if g.deleted] == [("b", 31, True)]
    assert await other.changes(seen) == ([], seen)
    grown, own = await log.changes(own)
    assert {(g.trace_id, g.deleted) for g in grown} == {("a", False), ("b", True)}
    assert await log.changes(own) == ([], own)


async def test_changes_miss_nothing_while_all_write(log: EventLog, other: EventLog) -> None:
    """Whoever goes on from the number it was given hears of every trace's last event."""
    for n in range(5):
        await create(log, f"t{n}")
    heard: dict[str, int] = {}
    finished = False
    _, start = await other.changes()

    async def poll() -> None:
        seen = start
        last = False
        while not last:
            last = finished
            grown, seen = await other.changes(seen)
            for one in grown:
                assert one.last_event_id >= heard.get(one.trace_id, 0)
                heard[one.trace_id] = one.last_event_id

    poller = asyncio.create_task(poll())
    await asyncio.gather(*(one.append(f"t{n % 5}", notes(1)) for n in range(100) for one in (log, other)))
    finished = True
    await poller
    assert heard == {f"t{n}": 40 for n in range(5)}


async def test_changes_tell_of_every_write(log: EventLog, other: EventLog) -> None:
    await create(log)
    _, seen = await other.changes()
    assert await other.changes(seen) == ([], seen)
    for one in (log, other):  # also of what the process wrote itself
        await one.append("t", notes(1))
        grown, seen = await other.changes(seen)
        assert [g.trace_id for g in grown] == ["t"]
        assert await other.changes(seen) == ([], seen)
    await log.read("t", 0, max_events=1, max_bytes=1)
    await log.traces(TraceQuery())
    assert await other.changes(seen) == ([], seen), "reading changes nothing"
    await log.append("t", notes(1))
    assert await other.changes(seen, ["another"]) == ([], mock.ANY)
    assert [g.trace_id for g in (await other.changes(seen, ["t"]))[0]] == ["t"]
