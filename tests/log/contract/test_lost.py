"""Sub-traces without a lease of their own are lost with their parent, once, and each comes back by itself."""

from __future__ import annotations

import asyncio

import pytest

from tests.log.helpers import (
    Clock,
    check_trace,
    create,
    end,
    events,
    names,
    notes,
    status,
)
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio


async def family(log: EventLog) -> None:
    """``p`` with a lease of 10 s over sub-traces without one, one with a longer lease, and what is below those."""
    await create(log, "p", lease_s=10)
    await create(log, "plain", parent_trace_id="p")
    await create(log, "alive", parent_trace_id="p", lease_s=100)
    await create(log, "ended", parent_trace_id="p", lease_s=100)
    await create(log, "plain.1", parent_trace_id="plain")
    await create(log, "plain.2", parent_trace_id="plain", lease_s=5)
    await create(log, "alive.1", parent_trace_id="alive")
    await create(log, "ended.1", parent_trace_id="ended")
    await log.append("ended", [end()])


LOST = ["ended.1", "p", "plain", "plain.1", "plain.2"]


async def test_with_the_parent(log: EventLog, clock: Clock) -> None:
    await family(log)
    clock.now += 11
    lost = await log.expire_leases()
    assert sorted(lost) == LOST
    assert await status(log, "alive", "alive.1", "ended") == ["running", "running", "completed"]
    assert (await events(log, "plain"))[-1]["reason"] == "the recorder of its parent was lost"
    assert await log.expire_leases() == []
    for trace_id in (*LOST, "alive", "ended"):
        await check_trace(log, trace_id)


async def test_two_processes_mark_a_family_once(log: EventLog, other: EventLog, clock: Clock) -> None:
    await family(log)
    clock.now += 11
    answers = await asyncio.gather(*(one.expire_leases() for one in (log, other) * 4))
    assert sorted(trace_id for answer in answers for trace_id in answer) == LOST
    for trace_id in LOST:
        assert (await names(log, trace_id)).count("trace_status_changed") == 1
    clock.now += 100
    assert sorted(await other.expire_leases()) == ["alive", "alive.1"]


async def test_each_comes_back_by_itself(log: EventLog, clock: Clock) -> None:
    await family(log)
    clock.now += 11
    await log.expire_leases()
    await log.renew_lease("p")
    assert await status(log, "p", "plain", "plain.1") == ["running", "lost", "lost"]
    await log.append("plain", notes(1))
    await log.renew_lease("plain.1")  # it has no lease, but it is there
    assert await status(log, "plain", "plain.1", "plain.2") == ["running", "running", "lost"]
    event = (await events(log, "p"))[-1]
    assert (event["event"], event["status"], event["reason"]) == (
        *("trace_status_changed", "running"),
        "the recorder is back",
    )
    await log.renew_lease("p")
    assert (await names(log, "p")).count("trace_status_changed") == 2, "once"
    clock.now += 11
    assert sorted(await log.expire_leases()) == ["p", "plain", "plain.1"]
    for trace_id in LOST:
        await check_trace(log, trace_id)


async def test_who_is_back_while_a_question_is_open_waits(log: EventLog, clock: Clock) -> None:
    await create(log, lease_s=10)
    await log.append("t", [{"event": "input_requested", "question": "?"}])
    clock.now += 11
    assert await log.expire_leases() == ["t"]
    await log.renew_lease("t")
    assert await status(log, "t") == ["waiting"]
    await check_trace(log)


async def test_the_ended_do_not_come_back(log: EventLog, clock: Clock) -> None:
    await create(log, lease_s=10)
    clock.now += 11
    assert await log.cancel("t") == "stopped"
    await log.renew_lease("t")
    assert await status(log, "t") == ["stopped"]


async def test_an_idle_session_whose_recorder_has_gone_is_over(log: EventLog, other: EventLog, clock: Clock) -> None:
    """Its turn was over: nothing was cut off. What still runs below it is lost as ever."""
    idle = {"event": "trace_status_changed", "status": "idle"}
    await family(log)
    await create(log, "root")
    await create(log, "q", parent_trace_id="root", lease_s=10)
    await create(log, "q.1", parent_trace_id="q")
    for trace_id in ("p", "plain", "q"):
        await log.append(trace_id, [idle])
    assert await status(log, "p", "q") == ["idle", "idle"]
    clock.now += 9
    await log.renew_lease("q")
    clock.now += 2
    assert sorted(await log.expire_leases()) == LOST
    clock.now += 9
    both = await asyncio.gather(log.expire_leases(), other.expire_leases())
    assert sorted([*both[0], *both[1]]) == ["q", "q.1"]
    assert await status(log, "p", "plain", "plain.1", "q", "q.1") == [
        "completed",
        "completed",
        "lost",
        "completed",
        "lost",
    ]
    ended = (await events(log, "q"))[-1]
    assert (ended["event"], ended["reason"]) == ("trace_completed", "the recorder's lease ran out while it was idle")
    assert (await events(log, "root"))[-1]["status"] == "completed"
    for trace_id in ("root", "p", "plain", "q", "q.1"):
        await check_trace(log, trace_id)
    await log.renew_lease("q")
    assert await status(log, "q") == ["completed"], "it was idle: only a next turn continues it"
    await log.append("q", [{"event": "trace_status_changed", "status": "running"}])
    assert await status(log, "q") == ["running"]
    clock.now += 11
    assert await log.expire_leases() == ["q"] and await status(log, "q") == ["lost"]
