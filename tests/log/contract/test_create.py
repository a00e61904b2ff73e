"""Creating traces: the same trace a second time, conflicts, parents."""

from __future__ import annotations

import asyncio

import pytest

from tests.log.helpers import Heard, check_trace, create, events, goal, names, notes, summary
from tracewatch.errors import Invalid, TraceConflict, UnknownParent, UnknownParentGoal, UnknownTrace
from tracewatch.log import EventLog
from tracewatch.model.events import validate_header, validate_trace

pytestmark = pytest.mark.anyio
AT = "2026-01-01T00:00:00.000Z"


async def test_a_new_trace_has_no_events(log: EventLog) -> None:
    spec = validate_trace({"trace_id": "t", "task": "Fix it", "agent_type": "coder", "metadata": {"a": [1]}})
    snapshot, created = await log.create_trace(spec)
    assert created and snapshot.lease_alive
    row = await summary(log)
    assert row == snapshot.state.trace()
    assert (row["task"], row["agent_type"], row["root_trace_id"], row["metadata"]) == (
        *("Fix it", "coder", "t"),
        {"a": [1]},
    )
    assert (row["status"], row["is_running"], row["first_event_id"], row["last_event_id"]) == ("running", True, 1, 0)
    await check_trace(log)


async def test_a_sub_trace_stands_in_its_parent_at_its_own_time(log: EventLog) -> None:
    """Also where it was moved there, and where that is its parent's first event. Each repeat says when it began."""
    began, again = "2026-01-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z"
    await create(log, "p")
    for started_at in (began, again):
        await create(log, "made", parent_trace_id="p", started_at=started_at)
    await create(log, "stub")
    await create(log, "moved", started_at=began)
    await log.append("moved", [{"event": "trace_parent_changed", "parent_trace_id": "stub"}])
    for parent, sub in (("p", "made"), ("stub", "moved")):
        state = await check_trace(log, parent)
        assert ((await summary(log, parent))["started_at"], state.sub_traces[sub]["started_at"]) == (began, began)


async def test_the_same_again_changes_nothing(log: EventLog) -> None:
    spec = validate_trace({"trace_id": "t", "task": "T", "metadata": {"b": 1, "a": 2}})
    await log.create_trace(spec)
    await log.append("t", [goal()])
    heard = Heard(log)
    snapshot, created = await log.create_trace(
        validate_trace({"metadata": {"a": 2, "b": 1}, "task": "T", "trace_id": "t"})
    )
    assert not created
    assert snapshot.state.last_event_id == 1
    assert heard.commits == []


@pytest.mark.parametrize("change", [{"task": "U"}, {"agent_type": "x"}, {"metadata": {"k": 1}}, {"lease_s": 5}])
async def test_other_fields_are_a_conflict_that_names_them(log: EventLog, change: dict[str, object]) -> None:
    await create(log)
    with pytest.raises(TraceConflict) as caught:
        await create(log, **{"task": "Task", **change})  # type: ignore[arg-type]
    assert [detail["path"] for detail in caught.value.details] == list(change)


async def test_made_ids_differ_and_sort_by_time(log: EventLog, clock: object) -> None:
    one = await create(log, None)
    clock.now += 1  # type: ignore[attr-defined]
    two = await create(log, None)
    assert one < two


async def test_a_sub_trace_stands_in_its_parents_log(log: EventLog) -> None:
    await create(log, "p")
    await log.append("p", [goal(id="g", status="in_progress"), goal(id="h")])
    await create(log, "c1", "Sub", parent_trace_id="p", agent_type="tester")
    await create(log, "c2", "Sub", parent_trace_id="p", parent_goal_id="h")
    await create(log, "cc", "Sub sub", parent_trace_id="c2")
    started = (await events(log, "p"))[2:]
    assert [(e["event"], e["sub_trace_id"], e["parent_goal_id"], e["agent_type"], e["task"]) for e in started] == [
        ("sub_trace_started", "c1", "g", "tester", "Sub"),
        ("sub_trace_started", "c2", "h", "agent", "Sub"),
    ]
    row = await summary(log, "cc")
    assert (row["parent_trace_id"], row["parent_goal_id"], row["root_trace_id"]) == ("c2", None, "p")
    assert (await summary(log, "c1"))["parent_goal_id"] == "g"
    state = await check_trace(log, "p")
    assert state.goals["g"]["sub_trace_ids"] == ["c1"]
    assert list(state.sub_traces) == ["c1", "c2"]
    await create(log, "c1", "Sub", parent_trace_id="p", agent_type="tester")  # again: no second event
    assert len(await events(log, "p")) == 4


async def test_unknown_parents(log: EventLog) -> None:
    with pytest.raises(UnknownParent):
        await create(log, "c", parent_trace_id="p")
    with pytest.raises(UnknownParent):
        await create(log, "c", parent_trace_id="c")
    with pytest.raises(Invalid):
        await create(log, "c", parent_goal_id="g")
    await create(log, "p")
    with pytest.raises(UnknownParentGoal) as caught:
        await create(log, "c", parent_trace_id="p", parent_goal_id="g")
    assert caught.value.code == "unknown_goal"
    with pytest.raises(UnknownTrace):
        await log.snapshot("c")
    assert await names(log, "p") == []


async def test_what_json_cannot_say_is_refused_before_it_meets_others(log: EventLog) -> None:
    for metadata in ({"x": "\ud800"}, {"x": 2**70}, {"x": {1}}, {"x": float("nan")}):
        with pytest.raises(Invalid):
            await create(log, metadata=metadata)


async def test_many_at_once(log: EventLog) -> None:
    await create(log, "p")
    made = await asyncio.gather(*(create(log, f"c{n % 50}", parent_trace_id="p") for n in range(100)))
    assert len(set(made)) == 50
    assert sorted(e["sub_trace_id"] for e in await events(log, "p")) == sorted(set(made))
    await check_trace(log, "p")


async def test_a_refused_create_leaves_the_ids_of_a_deleted_trace_taken(log: EventLog) -> None:
    await create(log, "a")
    await log.append("a", notes(5))
    await log.delete_trace("a")
    header = {"trace_id": "c", "task": "t", "parent_trace_id": "a", "root_trace_id": "a", "created_at": AT}
    await log.restore(validate_header(header), [])
    with pytest.raises(Invalid):  # it would stand below itself
        await create(log, "a", parent_trace_id="c")
    await create(log, "b")  # in whatever transaction the refused one was
    await create(log, "a")
    assert (await log.append("a", notes(1))).first_event_id == 6


async def test_if_absent_other_fields_are_no_conflict(log: EventLog) -> None:
    await create(log, "t", "Task", tags=["a"])
    heard = Heard(log)
    snapshot, created = await log.create_trace(
        validate_trace({"trace_id": "t", "task": "Another", "parent_trace_id": "nobody", "if_absent": True})
    )
    assert (created, snapshot.state.task, heard.commits) == (False, "Task", [])
    snapshot, created = await log.create_trace(validate_trace({"trace_id": "u", "task": "U", "if_absent": True}))
    assert created
    await create(log, "u", "U")  # how it was asked for is not compared


async def test_links_to_other_traces(log: EventLog) -> None:
    first, second = {"trace_id": "u", "kind": "retry_of"}, {"trace_id": "v", "message_id": "m", "kind": "mcp"}
    await create(log, "given", links=[first])
    await create(log, "given", links=[first])
    assert (await summary(log, "given"))["links"] == [first]
    await create(log)
    await log.append("t", [{"event": "trace_updated", "links": [first]}])
    await log.append("t", [{"event": "trace_updated", "links": [second, first]}, *notes(600)])
    assert (await summary(log))["links"] == [first, second]
    await check_trace(log)
    many = [{"trace_id": f"w{n}", "kind": "span"} for n in range(100)]
    await log.append("t", [{"event": "trace_updated", "links": many}])
    assert len((await check_trace(log)).links) == 100
    header, stored = validate_header(await summary(log)), await events(log)
    await log.delete_trace("t")
    await log.restore(header, stored)
    assert len((await summary(log))["links"]) == 100
    await create(log, "none")
    assert "links" not in await summary(log, "none")
    with pytest.raises(Invalid):
        await create(log, "bad", links=[{"trace_id": "no id", "kind": "x"}])
