"""Silence of a process ends in ``lost``, and a sign of life keeps what is its own. The clock is moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.recordings import messages_of
from tests.log.helpers import Clock, opened, summary
from tracewatch.ingest.ingester import Ingester, Process
from tracewatch.ingest.items import ROOT, Item
from tracewatch.ingest.store import LogStore
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio
HERE, ELSEWHERE = Process("here/1", "here"), Process("elsewhere/2", "elsewhere")


class World:
    """A log, and the servers that write to it, on a clock that is moved by hand."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self.log, self.clock = log, clock
        self.ingester = self.server()

    def server(self) -> Ingester:
        """One that was just started, or another one."""
        return Ingester(LogStore(self.log), clock=self.clock)

    async def take(self, *some: Item, process: Process = HERE) -> None:
        await self.ingester.take("x", some, process=process)

    async def passes(self, seconds: float, *, says: Process | None = None) -> set[str]:
        """Time passes, and a process says something now and then; what was lost meanwhile."""
        lost: set[str] = set()
        for _ in range(int(seconds // 10)):
            self.clock.now += 10
            if says is not None:
                await self.ingester.alive(says)
            lost |= set(await self.log.expire_leases())
        return lost

    async def status(self, trace_id: str) -> str:
        return str((await summary(self.log, trace_id))["status"])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    async with opened(f"memory:///{tmp_path}", clock=clock) as log:
        yield World(log, clock)


def agent(key: str, parent: str = ROOT, **more: Any) -> Item:
    return Item(trace="t", key=key, kind="agent", parent=parent, name=key, **more)


def call(key: str, parent: str, **more: Any) -> Item:
    return Item(trace="t", key=key, kind="model_call", parent=parent, **more)


async def test_what_runs_is_lost_in_silence_and_goes_on_when_something_comes(world: World) -> None:
    await world.take(agent("planner"), agent("expert", "planner"), call("c", "expert", text="half"))
    assert await world.passes(110) == set()
    assert await world.passes(20) == {"x-t", "x-t-expert"}
    (message,) = await messages_of(world.log, "x-t-expert")
    assert message["content"] == "half"
    await world.take(call("c", "expert", text="half of it", final=True), agent("expert", "planner", final=True))
    assert (await world.status("x-t"), await world.status("x-t-expert")) == ("running", "completed")
    await world.take(agent("planner", final=True))
    assert await world.status("x-t") == "completed"


async def test_a_sign_of_life_is_for_all_that_a_process_has_begun(world: World) -> None:
    await world.take(agent("planner"), agent("expert", "planner"), call("c", "expert"))
    assert await world.passes(500, says=HERE) == set()
    world.ingester = world.server()  # after a restart, or at another server
    assert await world.passes(500, says=HERE) == set()
    assert await world.passes(130, says=ELSEWHERE) == {"x-t", "x-t-expert"}


async def test_what_is_written_below_keeps_what_stands_above(world: World) -> None:
    await world.take(agent("planner"), agent("expert", "planner"))
    for number in range(30):
        await world.take(call(f"c-{number}", "expert", final=True), process=ELSEWHERE)
        assert await world.passes(10) == set()
    assert await world.status("x-t") == "running"


async def test_a_root_that_never_comes_is_lost_though_its_process_lives(world: World) -> None:
    await world.take(call("c", "nobody", final=True, text="hello"))
    assert await world.status("x-t") == "running"
    assert await world.passes(110, says=HERE) == set()
    assert await world.passes(20, says=HERE) == {"x-t"}
    assert [one["content"] for one in await messages_of(world.log, "x-t")] == ["hello"]
    await world.take(agent("nobody", final=True))
    assert await world.status("x-t") == "completed"


async def test_an_end_that_never_comes_is_lost_though_the_run_has_ended(world: World) -> None:
    await world.take(agent("planner"), agent("expert", "planner"))
    await world.take(agent("planner", final=True))
    assert await world.passes(130, says=HERE) == {"x-t-expert"}
    assert (await world.status("x-t"), await world.status("x-t-expert")) == ("completed", "lost")


async def test_the_process_of_a_root_counts_not_that_of_what_came_before_it(world: World) -> None:
    await world.take(call("c", "tool", final=True), process=ELSEWHERE)
    await world.take(Item(trace="t", key="tool", kind="tool", parent="planner"), agent("planner"))
    assert await world.passes(300, says=HERE) == set()
    assert await world.passes(130, says=ELSEWHERE) == {"x-t"}
