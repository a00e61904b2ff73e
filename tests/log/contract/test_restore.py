"""Restoring exported traces, and deleting traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.log.helpers import (
    Json,
    all_messages,
    bodies,
    check_trace,
    create,
    end,
    events,
    goal,
    notes,
    opened,
    say,
    summary,
    sweep,
    trim,
)
from tracewatch.errors import Invalid, InvalidField, TooLarge, TraceConflict, UnknownTrace
from tracewatch.log import Appended, EventLog
from tracewatch.model.canonical import MAX_EVENT_ID
from tracewatch.model.events import validate_header

pytestmark = pytest.mark.anyio


async def fill(log: EventLog) -> None:
    """A trace ``t`` with something of everything, and its sub-trace ``c``."""
    await create(log, metadata={"k": [1]})
    await log.append("t", [goal(id="g", status="in_progress"), say("x", tokens=3, cost=0.1)])
    await create(log, "c", "Sub", parent_trace_id="t")
    await log.append("c", [say("sub", tokens=5), end()])
    await log.append("t", [{"event": "message_updated", "message_id": "m2", "append": "y", "patch": {"tokens": 4}}])
    await log.append("t", [{"event": "input_requested", "question": "?"}, *notes(3), end("failed", error="no")])


async def exported(log: EventLog, trace_id: str) -> tuple[Json, list[Json]]:
    return validate_header(await summary(log, trace_id)), await events(log, trace_id)


@pytest.mark.parametrize("order", ["tc", "ct"])
@pytest.mark.parametrize("pieces", [1, 4, 1000])
async def test_round_trip(log: EventLog, tmp_path: Path, order: str, pieces: int) -> None:
    await fill(log)
    async with opened(str(tmp_path / "copy.db")) as copy:
        for trace_id in order:
            header, stored = await exported(log, trace_id)
            await copy.restore(header, [])
            for begin in range(0, len(stored), pieces):
                await copy.restore(header, stored[begin : begin + pieces])
        for trace_id in "tc":
            assert await bodies(copy, trace_id) == await bodies(log, trace_id)
            assert await summary(copy, trace_id) == await summary(log, trace_id)
            assert await all_messages(copy, trace_id) == await all_messages(log, trace_id)
            await check_trace(copy, trace_id)
        assert (await summary(copy))["tree_totals"]["total_tokens"] == 9


async def test_a_restored_trace_goes_on(log: EventLog, tmp_path: Path) -> None:
    await fill(log)
    header, stored = await exported(log, "t")
    async with opened(str(tmp_path / "copy.db")) as copy:
        await copy.restore(header, stored[:2])
        assert (await copy.append("t", [say("on")])) == Appended(3, 3)
        await check_trace(copy)


async def test_repeated_and_interrupted(log: EventLog, tmp_path: Path) -> None:
    await fill(log)
    header, stored = await exported(log, "t")
    count = len(stored)
    async with opened(str(tmp_path / "copy.db")) as copy:
        assert await copy.restore(header, stored[:3]) == Appended(1, 3)
        assert await copy.restore(header, stored[:3]) == Appended(None, 3, 3)
        assert await copy.restore(header, stored) == Appended(4, count, 3)
        assert await copy.restore(header, stored[5:]) == Appended(None, count, count - 5)
        await check_trace(copy)


def changed(stored: list[Json], index: int, **values: Any) -> list[Json]:
    return [{**event, **values} if i == index else event for i, event in enumerate(stored)]


async def test_what_does_not_fit_is_refused_whole(log: EventLog, tmp_path: Path) -> None:
    await fill(log)
    header, stored = await exported(log, "t")
    async with opened(str(tmp_path / "copy.db")) as copy:
        await copy.restore(header, stored[:4])
        for wrong, error in (
            (changed(stored, 2, ts="2020-01-01T00:00:00.000Z"), TraceConflict),
            (stored[5:], Invalid),  # a hole
            ([*stored[:5], *stored[6:]], Invalid),
            (list(reversed(stored)), (Invalid, TraceConflict)),
            ([*stored[3:], stored[3]], (Invalid, TraceConflict)),
            (changed(stored, 5, trace_id="other"), Invalid),
            (changed(stored, 5, event_id=True), Invalid),
            (stored * 101, TooLarge),
        ):
            with pytest.raises(error):
                await copy.restore(header, wrong)
            assert len(await bodies(copy)) == 4
        for key in ("task", "agent_type", "root_trace_id", "created_at"):
            with pytest.raises(TraceConflict):
                await copy.restore({**header, key: "other"}, stored)
        await copy.restore(header, stored)
        await check_trace(copy)


async def test_a_message_added_twice_is_refused(log: EventLog, tmp_path: Path) -> None:
    await create(log)
    await log.append("t", [say("a", message_id="a"), say("b", message_id="b"), *notes(1)])
    header, stored = await exported(log, "t")
    again = {**stored[0], "event_id": 4}
    async with opened(str(tmp_path / "copy.db")) as copy:
        await copy.restore(header, stored)
        with pytest.raises(Invalid, match="added already"):
            await copy.restore(header, [again])
        with pytest.raises(Invalid, match="sequence"):
            await copy.restore(header, [{**again, "message": {**stored[0]["message"], "message_id": "c"}}])
        await check_trace(copy)


async def test_no_trace_stands_below_itself(log: EventLog) -> None:
    """A circle of parents would be walked for ever."""
    await create(log, "x")
    header = validate_header(await summary(log, "x"))
    await log.delete_trace("x")
    with pytest.raises(Invalid):
        await log.restore({**header, "parent_trace_id": "x"}, [])
    await log.restore({**header, "trace_id": "a", "parent_trace_id": "b"}, [])
    await log.restore({**header, "trace_id": "b", "parent_trace_id": "c"}, [])
    with pytest.raises(Invalid):
        await log.restore({**header, "trace_id": "c", "parent_trace_id": "a"}, [])
    with pytest.raises(Invalid):
        await create(log, "c", parent_trace_id="a")
    with pytest.raises(UnknownTrace):
        await log.snapshot("c")


# --- deleting ---


async def test_delete_takes_the_tree_and_nothing_else(log: EventLog) -> None:
    await fill(log)
    await create(log, "cc", parent_trace_id="c")
    await create(log, "u")
    await log.append("u", [say("stays")], producer="p", seq=1)
    assert sorted(await log.delete_trace("t")) == ["c", "cc", "t"]
    for trace_id in ("t", "c", "cc"):
        with pytest.raises(UnknownTrace):
            await log.read(trace_id, 0, max_events=1, max_bytes=1)
        with pytest.raises(UnknownTrace):
            await log.append(trace_id, notes(1))
    with pytest.raises(UnknownTrace):
        await log.delete_trace("t")
    await check_trace(log, "u")


async def test_a_log_with_the_highest_ids_touches_no_other(log: EventLog) -> None:
    """Traces that come one after the other, of which the first has the highest ids that an import may begin with."""
    await create(log, "before")
    header = {**await summary(log, "before"), "trace_id": "high", "root_trace_id": "high"}
    for wrong in (MAX_EVENT_ID // 2 + 1, 2**40, 2**53 - 1):
        with pytest.raises(InvalidField, match="first_event_id"):
            validate_header({**header, "first_event_id": wrong})
    first = MAX_EVENT_ID // 2
    await log.restore(validate_header({**header, "first_event_id": first}), [])
    await create(log, "after")
    for trace_id in ("before", "high", "after"):
        await log.append(trace_id, [say(trace_id, message_id="m"), *notes(600)])
        await log.append(trace_id, [{"event": "message_updated", "message_id": "m", "append": "!"}])
    assert (await summary(log, "high"))["first_event_id"] == first
    assert (await summary(log, "high"))["last_event_id"] == first + 601
    for trace_id in ("before", "high", "after"):
        await check_trace(log, trace_id)
        assert [m["content"] for m in await all_messages(log, trace_id)] == [f"{trace_id}!"]
    assert await trim(log, "high", (first + 501) // 500 * 500)
    await log.delete_trace("before")
    while await sweep(log):
        pass
    kept = [event["event_id"] for event in await events(log, "high")]
    assert kept == list(range((first + 501) // 500 * 500 + 1, first + 602))
    await check_trace(log, "after")


async def test_a_log_has_so_many_events(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracewatch.log.unit.MAX_EVENT_ID", 3)
    await create(log)
    await log.append("t", notes(3))
    with pytest.raises(TooLarge, match="begin another trace"):
        await log.append("t", notes(1))
    await check_trace(log)


async def test_ids_are_not_used_again(log: EventLog) -> None:
    await fill(log)
    last = (await summary(log))["last_event_id"]
    await log.append("t", [say()], producer="p", seq=1)
    for n in range(1, 4):
        await log.delete_trace("t")
        await create(log, task=f"Another {n}")
        assert ((await summary(log))["first_event_id"], await log.last_seq("t", "p")) == (last + n + 1, 0)
        await log.append("t", [say("new")], producer="p", seq=1)
        found = await all_messages(log)
        assert [(m["message_id"], m["sequence"]) for m in found] == [(f"m{last + n + 1}", 1)]
        state = await check_trace(log)
        assert (state.goals, state.first_event_id) == ({}, last + n + 1)


async def test_deleting_a_sub_trace_leaves_what_its_parent_knows(log: EventLog) -> None:
    await create(log, "r")
    await create(log, "t", parent_trace_id="r")
    await create(log, "done", parent_trace_id="t")
    await create(log, "open", parent_trace_id="t")
    await log.append("done", [say(tokens=5), end()])
    await log.append("done", [say(tokens=50)])
    await log.append("open", [say(tokens=500)])
    assert (await summary(log, "r"))["tree_totals"]["total_tokens"] == 555
    await log.delete_trace("done")
    await log.delete_trace("open")
    for trace_id in ("t", "r"):
        await check_trace(log, trace_id)
        assert (await summary(log, trace_id))["tree_totals"] == {
            "total_messages": 1,
            "total_tokens": 5,
            "total_cost": None,
        }


async def test_a_deleted_sub_trace_made_again(log: EventLog) -> None:
    await create(log, "r")
    await create(log, "t", parent_trace_id="r")
    await create(log, "c", parent_trace_id="t")
    await log.append("c", [say(tokens=5), end()])
    await log.delete_trace("c")
    assert (await summary(log, "r"))["tree_totals"]["total_tokens"] == 5
    await create(log, "c", "Again", parent_trace_id="t")
    await log.append("c", [say(tokens=70)])
    for trace_id in ("t", "r"):
        await check_trace(log, trace_id)
        assert (await summary(log, trace_id))["tree_totals"]["total_tokens"] == 70
