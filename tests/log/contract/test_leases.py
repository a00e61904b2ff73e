"""Leases: signs of life keep them, and each runs out once."""

from __future__ import annotations

import asyncio

import pytest

from tests.log.helpers import Clock, Heard, check_trace, create, end, names, notes, say, summary
from tracewatch.errors import UnknownTrace
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio


async def test_it_runs_out(log: EventLog, clock: Clock) -> None:
    await create(log, lease_s=10)
    await create(log, "without")
    clock.now += 9.9
    assert await log.expire_leases() == []
    assert (await log.snapshot("t")).lease_alive
    clock.now += 0.2
    assert not (await log.snapshot("t")).lease_alive
    assert await log.expire_leases() == ["t"]
    assert await log.expire_leases() == []
    assert await names(log) == ["trace_status_changed"]
    assert (await summary(log))["status"] == "lost"
    assert (await summary(log, "without"))["is_running"]
    await check_trace(log)


@pytest.mark.parametrize("how", ["append", "duplicate", "renew", "refused", "server"])
async def test_what_keeps_it(log: EventLog, clock: Clock, how: str) -> None:
    await create(log, lease_s=10)
    await log.append("t", notes(1), producer="p", seq=1)
    clock.now += 9
    if how == "append":
        await log.append("t", notes(1))
    elif how == "duplicate":
        await log.append("t", notes(1), producer="p", seq=1)
    elif how == "renew":
        await log.renew_lease("t")
    elif how == "server":
        await log.append("t", [{"event": "cancel_requested"}], by_server=True)
    clock.now += 9
    kept = how in ("append", "duplicate", "renew")
    assert (await log.snapshot("t")).lease_alive == kept
    assert await log.expire_leases() == ([] if kept else ["t"])


async def test_lost_and_found(log: EventLog, clock: Clock) -> None:
    await create(log, lease_s=10)
    await log.append("t", [{"event": "input_requested", "question": "?"}])
    clock.now += 11
    assert await log.expire_leases() == ["t"]
    await log.append("t", [{"event": "cancel_requested"}], by_server=True)
    assert (await summary(log))["status"] == "lost"
    await log.append("t", notes(1))
    row = await summary(log)
    assert (row["status"], row["is_running"]) == ("waiting", True)
    clock.now += 11
    assert await log.expire_leases() == ["t"], "its lease counts again"


async def test_the_ended_are_not_lost(log: EventLog, clock: Clock) -> None:
    await create(log, lease_s=10)
    await log.append("t", [end()])
    clock.now += 11
    assert await log.expire_leases() == []
    assert (await summary(log))["status"] == "completed"


async def test_two_processes_mark_once(log: EventLog, other: EventLog, clock: Clock) -> None:
    for n in range(10):
        await create(log, f"t{n}", lease_s=10)
    clock.now += 11
    answers = await asyncio.gather(*(one.expire_leases() for one in (log, other) * 5))
    assert sorted(trace_id for answer in answers for trace_id in answer) == [f"t{n}" for n in range(10)]
    for n in range(10):
        assert await names(log, f"t{n}") == ["trace_status_changed"]


async def test_a_sign_of_life_in_the_same_group_wins(log: EventLog, clock: Clock) -> None:
    await create(log, lease_s=10)
    clock.now += 11
    await asyncio.gather(log.append("t", [say()]), log.expire_leases(), log.renew_lease("t"))
    state = await check_trace(log)
    assert state.status == "running"


async def test_renewing_what_has_no_lease_writes_nothing(log: EventLog) -> None:
    await create(log)
    heard = Heard(log)
    await log.renew_lease("t")
    assert heard.commits == []
    with pytest.raises(UnknownTrace):
        await log.renew_lease("nope")
