"""Totals of a trace and of its tree: in the row, in the snapshot, in the parent's log."""

from __future__ import annotations

import asyncio

import pytest

from tests.log.helpers import check_trace, create, end, events, goal, names, say, summary
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio


async def tree(log: EventLog, trace_id: str) -> tuple[int, int, float]:
    """The tree's totals, which the row and the snapshot must agree about."""
    row = (await summary(log, trace_id))["tree_totals"]
    assert (await log.snapshot(trace_id)).state.tree_totals() == row
    return row["total_messages"], row["total_tokens"], row["total_cost"]


async def family(log: EventLog) -> None:
    """``a`` above ``b`` above ``c``, and ``d`` beside ``b``."""
    await create(log, "a")
    await log.append("a", [goal(id="g", status="in_progress")])
    for trace_id, parent in (("b", "a"), ("c", "b"), ("d", "a")):
        await create(log, trace_id, parent_trace_id=parent)


async def test_sums_reach_the_root(log: EventLog) -> None:
    await family(log)
    await asyncio.gather(*(log.append(t, [say(tokens=10**n, cost=0.1)]) for n, t in enumerate("abcd") for _ in "12"))
    assert [await tree(log, t) for t in "abcd"] == [
        (8, 2222, 0.8),
        (4, 220, 0.4),
        (2, 200, 0.2),
        (2, 2000, 0.2),
    ]
    for trace_id in "abcd":
        await check_trace(log, trace_id)


async def test_corrections_reach_the_root(log: EventLog) -> None:
    await family(log)
    await log.append("c", [say(message_id="x", tokens=9, cost=0.3), say(tokens=1, cost=0.1)])
    update = {"event": "message_updated", "message_id": "x", "patch": {"tokens": 2, "cost": 0.0}}
    await log.append("c", [update])
    assert await tree(log, "a") == (2, 3, 0.1)
    await log.append("c", [{**update, "message_id": "m2", "patch": {"cost": 0.0}}])
    assert str((await tree(log, "a"))[2]) == "0.0", "not -0.0"


async def test_the_parents_log_says_how_it_ended(log: EventLog) -> None:
    await family(log)
    await log.append("c", [say(tokens=5), end(summary="c is done")])
    await log.append("b", [say(tokens=3), end("failed", error="broken")])
    completed = [e for e in await events(log, "a") if e["event"] == "sub_trace_completed"]
    assert [(e["sub_trace_id"], e["status"], e["stats"]) for e in completed] == [
        ("b", "failed", {"total_messages": 2, "total_tokens": 8, "total_cost": 0.0})
    ]
    late = await log.append("c", [say(tokens=100)])
    assert late.last_event_id == 3
    assert (await tree(log, "a"))[1] == 108, "the snapshot of now has them as they are now"
    at = await log.snapshot("a", (await summary(log, "a"))["last_event_id"])
    assert at.state.tree_totals()["total_tokens"] == 8, "its log says what they were"


async def test_several_generations_in_one_batch_of_appends(log: EventLog) -> None:
    """All in one group: the stats in the parents' logs count what is not yet in the rows."""
    await family(log)
    await asyncio.gather(
        log.append("a", [say(tokens=1)]),
        log.append("c", [say(tokens=10), say(tokens=20)]),
        log.append("c", [end()]),
        log.append("b", [say(tokens=100), end()]),
        log.append("d", [say(tokens=1000), end("stopped")]),
    )
    stats = {e["sub_trace_id"]: e["stats"]["total_tokens"] for e in await events(log, "a") if "stats" in e}
    assert stats == {"b": 130, "d": 1000}
    assert [(await tree(log, t))[1] for t in "abcd"] == [1131, 130, 30, 1000]
    await check_trace(log, "a")
    await check_trace(log, "b")


async def test_a_sub_trace_that_goes_on_ends_again(log: EventLog) -> None:
    await family(log)
    again = {"event": "trace_status_changed", "status": "running"}
    await log.append("d", [end(), end("failed")])
    await log.append("d", [again])
    await log.append("d", [say(tokens=1), end("failed")])
    assert (await names(log, "a")).count("sub_trace_completed") == 2
    assert (await check_trace(log, "a")).sub_traces["d"]["status"] == "failed"
    await log.append("d", [again, say(tokens=1), end("stopped"), say("late", tokens=1)])
    await log.append("d", [end("completed"), end("failed")])
    assert (await names(log, "a")).count("sub_trace_completed") == 3
    told = (await check_trace(log, "a")).sub_traces["d"]
    assert (told["status"], told["stats"]["total_tokens"]) == ("stopped", 3)
    await log.append("b", [end(), again])
    assert (await names(log, "a")).count("sub_trace_completed") == 3, "it goes on: there is no end to tell of"


async def test_a_running_sub_trace_is_shown_as_it_is(log: EventLog) -> None:
    await family(log)
    await log.append("b", [{"event": "input_requested", "question": "?"}, say(tokens=4)])
    sub = (await log.snapshot("a")).state.sub_traces["b"]
    assert (sub["status"], sub["stats"]["total_tokens"], sub["parent_goal_id"]) == ("waiting", 4, "g")
    state = await check_trace(log, "a")
    assert state.sub_traces["b"]["status"] == "running", "as its log says"
