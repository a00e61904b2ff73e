"""For any mix of appends, disconnects at any byte, slow readers and restarts, each watcher's events are exactly the
log's slice after its cursor, and the log has each acknowledged event once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.server.flaky import Follower, Proxy, Recorder
from tests.server.wire import http, make_trace, stored
from tests.support import ServerProcess, serving
from tracewatch.log import open_log
from tracewatch.model.canonical import event_name

pytestmark = pytest.mark.anyio
EXAMPLE_S = 120
SEED = [{"event": "thought", "by": "seed", "n": n} for n in range(5)]  # what is there when the followers come
RECORDERS, FOLLOWERS = 2, 4
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # an example takes a second: too long for shrinking

recorders, followers = st.integers(0, RECORDERS - 1), st.integers(0, FOLLOWERS - 1)
some_bytes = st.integers(0, 400) | st.integers(0, 60_000)
STEPS = st.one_of(
    st.tuples(st.just("record"), recorders, st.integers(1, 40), st.sampled_from([0, 10, 2000])),
    st.tuples(st.just("record"), recorders, st.integers(1, 40), st.sampled_from([0, 10, 2000])),
    st.tuples(st.just("post"), st.integers(1, 20)),
    st.tuples(st.just("cut recorder"), recorders, st.sampled_from(["up", "down"]), some_bytes),
    st.tuples(st.just("cut follower"), followers, some_bytes),
    st.tuples(st.just("cut follower"), followers, some_bytes),
    st.tuples(st.just("pause"), followers),
    st.tuples(st.just("resume"), followers),
    st.tuples(st.just("settle"), recorders),
    st.tuples(st.just("turn")),
)
RESTARTS = st.tuples(st.just("restart"), st.booleans())
POSITIONS = [None, "0", "-3", "latest", "2"]
FILTERS = [None, "thought", "action,trace_completed"]
plans = st.lists(
    st.tuples(st.sampled_from(POSITIONS), st.sampled_from(FILTERS)), min_size=FOLLOWERS, max_size=FOLLOWERS
)


class World:
    """One example: a server, who records, who follows, and the network between them."""

    def __init__(self, stack: AsyncExitStack, port: Callable[[], int], restart: Callable[[bool], Any]) -> None:
        self.stack = stack
        self.port = port
        self.restart = restart
        self.recorders: list[tuple[Proxy, Recorder]] = []
        self.followers: list[tuple[Proxy, Follower]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.posted = 0

    async def begin(self, plan: list[tuple[str | None, str | None]]) -> None:
        for n in range(RECORDERS):
            proxy = await self.stack.enter_async_context(Proxy(self.port))
            self.recorders.append((proxy, Recorder(proxy.port, "t", f"r{n}")))
        for n, (since, types) in enumerate(plan):
            proxy = await self.stack.enter_async_context(Proxy(self.port))
            transport = "sse" if n == FOLLOWERS - 1 else "ws"
            self.followers.append((proxy, Follower(proxy.port, "t", since, types, transport)))
        running = [*(r.run() for _, r in self.recorders), *(f.run() for _, f in self.followers)]
        self.tasks = [asyncio.create_task(run) for run in running]

    async def step(self, name: str, *args: Any) -> None:
        if name == "record":
            self.recorders[args[0]][1].record(args[1], args[2])
        elif name == "post":
            await self.post([{"event": "thought", "by": "http", "n": self.posted + n + 1} for n in range(args[0])])
            self.posted += args[0]
        elif name == "cut recorder":
            self.recorders[args[0]][0].cut(args[1], args[2])
        elif name == "cut follower":
            self.followers[args[0]][0].cut("down", args[1])
        elif name in ("pause", "resume"):
            reading = self.followers[args[0]][1].reading
            reading.clear() if name == "pause" else reading.set()
        elif name == "settle":
            await self.recorders[args[0]][1].idle()
        elif name == "restart":
            await self.restart(args[0])
        else:
            await asyncio.sleep(0)

    async def post(self, events: list[dict[str, Any]]) -> None:
        async with http(f"http://127.0.0.1:{self.port()}") as client:
            response = await client.post("/api/traces/t/events", json=events)
            assert response.status_code == 200, response.text

    async def play(self, steps: list[Any]) -> None:
        for step in steps:
            await self.step(*step)
        await self.finish()

    async def finish(self) -> None:
        """Everything recorded is acknowledged, then the trace ends and all followers hear of it."""
        for _, recorder in self.recorders:
            await recorder.idle()
        await self.post([{"event": "trace_completed", "status": "completed"}])
        for _, follower in self.followers:
            follower.reading.set()
        await asyncio.gather(*self.tasks[RECORDERS:])

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def check(self, bodies: list[bytes]) -> None:
        events = [orjson.loads(body) for body in bodies]
        assert [event["event_id"] for event in events] == list(range(1, len(events) + 1))
        for _, recorder in self.recorders:
            there = [event["n"] for event in events if event.get("by") == recorder.name]
            assert there == recorder.acked == list(range(1, recorder.sent + 1))
        assert [event["n"] for event in events if event.get("by") == "http"] == list(range(1, self.posted + 1))
        for _, follower in self.followers:
            assert follower.start is not None
            wanted = bodies[follower.start :]
            if follower.types is not None:
                wanted = [body for body in wanted if event_name(body) in follower.types]
            assert follower.events == wanted


async def play(world: World, plan: Any, steps: list[Any]) -> None:
    async with asyncio.timeout(EXAMPLE_S):
        try:
            await world.begin(plan)
            playing = asyncio.create_task(world.play(steps))
            # Who fails ends the example: nobody waits for what it would have done
            await asyncio.wait({playing, *world.tasks[:RECORDERS]}, return_when=asyncio.FIRST_COMPLETED)
            playing.cancel()
            await playing
        finally:
            await world.stop()


@settings(max_examples=5, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(plan=plans, steps=st.lists(STEPS, max_size=25))
async def test_any_mix_of_appends_cuts_and_slow_readers(plan: Any, steps: list[Any]) -> None:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = await stack.enter_async_context(
            serving(Path(folder) / "log.db", watcher_bytes=16_384, page_events=7, heartbeat_s=0.1, send_buffer=8192)
        )
        await make_trace(server.services.log, "t")
        await server.services.log.append("t", SEED)
        port = int(server.url.rsplit(":", 1)[1])

        async def restart(_: bool) -> None:
            raise AssertionError

        world = World(stack, lambda: port, restart)
        await play(world, plan, steps)
        world.check(await stored(server.services.log, "t"))


@pytest.mark.slow
@pytest.mark.crash
@settings(max_examples=6, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(plan=plans, steps=st.lists(st.one_of(STEPS, STEPS, RESTARTS), min_size=5, max_size=25))
async def test_any_mix_with_restarts_and_kills(plan: Any, steps: list[Any]) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        small: dict[str, Any] = {
            "watcher_bytes": 16_384,
            "page_events": 7,
            "heartbeat_s": 0.1,
            "goaway_ms": 10,
            "shutdown_s": 1,
        }
        server = stack.enter_context(ServerProcess(folder / "log.db", **small))

        async def restart(kill: bool) -> None:
            await asyncio.to_thread(server.kill if kill else server.stop)
            await asyncio.to_thread(server.start)

        async with http(server.url) as client:
            assert (await client.post("/api/traces", json={"trace_id": "t", "task": "x"})).status_code == 201
        world = World(stack, lambda: server.port, restart)
        await world.post(SEED)
        await play(world, plan, [*steps, ("restart", True)])
        log = await open_log(str(folder / "log.db"))
        try:
            world.check(await stored(log, "t"))
        finally:
            await log.close()
