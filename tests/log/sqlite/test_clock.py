"""A system clock that is set back or forward: order, leases, questions and retention do not depend on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.log.helpers import Clock, bodies, check_trace, create, delete_outdated, events, names, opened, say
from tracewatch.errors import Expired
from tracewatch.log.sqlite.clock import boot_id, steady_clock
from tracewatch.log.sqlite.opening import open_writing

pytestmark = pytest.mark.anyio
HOUR = 3600.0


@pytest.mark.parametrize("jump_s", [-HOUR, HOUR, 365 * 24 * HOUR])
async def test_leases_run_by_a_clock_that_nobody_sets(db: Path, jump_s: float) -> None:
    wall, steady = Clock(), Clock(500.0)
    async with opened(str(db), clock=wall, steady=steady) as log:
        await create(log, "dead", lease_s=30)
        await create(log, "alive", lease_s=30)
        steady.now, wall.now = 520.0, wall.now + 20 + jump_s
        assert await log.expire_leases() == []
        await log.renew_lease("alive")
        assert [one["is_running"] for one in await log.summaries(["dead", "alive"])] == [True, True]
        steady.now, wall.now = 531.0, wall.now + 11
        assert await log.expire_leases() == ["dead"]
        assert await log.cancel("alive") == "cancelling"
        assert await log.cancel("dead") == "stopped"


@pytest.mark.parametrize("jump_s", [-HOUR, HOUR])
async def test_questions_last_as_long_as_was_said(db: Path, jump_s: float) -> None:
    wall, steady = Clock(), Clock(500.0)
    async with opened(str(db), clock=wall, steady=steady) as log:
        await create(log)
        asked = [{"event": "input_requested", "request_id": one, "question": "?", "expires_in_s": 60} for one in "ab"]
        await log.append("t", asked)
        steady.now, wall.now = 559.0, wall.now + 59 + jump_s
        assert await log.expire_inputs() == []
        await log.answer("t", "a", "yes")
        steady.now, wall.now = 560.5, wall.now + 1.5
        with pytest.raises(Expired):
            await log.answer("t", "b", "too late")
        assert await log.expire_inputs() == [("t", "b")]
        assert (await names(log))[-2:] == ["input_provided", "input_expired"]


async def test_order_is_by_id_when_time_goes_back(db: Path) -> None:
    wall, steady = Clock(), Clock(500.0)
    async with opened(str(db), clock=wall, steady=steady) as log:
        await create(log)
        for _ in range(3):
            await log.append("t", [say("x")])
            wall.now -= HOUR
        times = [event["ts"] for event in await events(log)]
        assert times == sorted(times, reverse=True) and len(set(times)) == 3, "ts is what the clock said"
        await check_trace(log)
        assert len(await bodies(log)) == 3


async def test_a_clock_set_forward_deletes_nothing_that_is_not_old(db: Path) -> None:
    wall, steady = Clock(), Clock()
    async with opened(str(db), clock=wall, steady=steady) as log:
        await create(log)
        await log.append("t", [{"event": "trace_completed", "status": "completed"}])
        wall.now += 365 * 24 * HOUR
        assert await delete_outdated(log, "t", 30) == []
        steady.now += 31 * 24 * HOUR
        assert await delete_outdated(log, "t", 30) == ["t"]


def steady_in(db: Path, wall: Clock, monotonic: Clock, boot: str) -> Callable[[], float]:
    """The steady clock of another process: on a connection of its own."""
    with closing(open_writing(db, lock_wait_s=1)) as connection:
        return steady_clock(connection, wall, monotonic, boot)


async def test_all_processes_of_a_boot_count_alike(db: Path) -> None:
    wall, monotonic = Clock(), Clock(100.0)
    async with opened(str(db)) as log:
        first = steady_in(db, wall, monotonic, "boot-1")
        wall.now += HOUR
        second = steady_in(db, wall, monotonic, "boot-1")
        assert first() == second() == wall.now - HOUR
        await create(log, lease_s=30)
        await log.append("t", [{"event": "input_requested", "request_id": "a", "question": "?", "expires_in_s": 60}])
        connection = sqlite3.connect(db)
        connection.execute("UPDATE traces SET lease_expires_at = ?", (wall.now + 9 * HOUR,))
        connection.execute("UPDATE inputs SET expires_at = 1.0")
        connection.commit()
        third = steady_in(db, wall, monotonic, "boot-2")  # after a boot of the machine
        assert third() == wall.now
        assert connection.execute("SELECT lease_expires_at FROM traces").fetchall() == [(wall.now + 30,)]
        (expires_at,) = connection.execute("SELECT expires_at FROM inputs").fetchone()
        connection.close()
        from tracewatch.model.times import parse_time

        (pending,) = (await log.snapshot("t")).state.pending_inputs.values()
        assert expires_at == pytest.approx(parse_time(pending["expires_at"]), abs=0.002)


async def test_where_boots_have_no_name_each_counts_for_itself(db: Path) -> None:
    wall, monotonic = Clock(), Clock(100.0)
    async with opened(str(db)):
        steady_in(db, wall, monotonic, "boot-1")
        wall.now += HOUR
        assert steady_in(db, wall, monotonic, "")() == wall.now
    assert boot_id() == boot_id()
