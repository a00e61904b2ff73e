"""Who leaves a watch need not close it: its connection, tasks and threads go with the loop, the task, the watch."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import Serving, serving, until
from tracewatch.client.api import Api
from tracewatch.client.watch import Watch, watch, watch_sync

pytestmark = pytest.mark.anyio

Make = Callable[..., Watch]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    # Nothing else ends what a watcher leaves behind: no ping is due before the test is over
    async with serving(tmp_path / "t.db", ws_ping_s=600, heartbeat_s=600) as running:
        api = Api(running.url)
        await asyncio.to_thread(api.create_trace, {"trace_id": "t", "task": "x"})
        await asyncio.to_thread(api.append, "t", [{"event": "thought"}] * 3)
        yield running


async def gone(server: Serving) -> None:
    """Wait until the server has no watcher and no connection of one."""
    hub = server.services.hub
    await until(lambda: not sum(hub.look().states.values()))


# --- asyncio ---


async def by_return(url: str) -> Any:
    async for event in watch("t", url=url):
        return event
    return None


async def by_break(url: str) -> None:
    async for _ in watch("t", url=url):
        break


async def by_break_of_one_that_is_kept(url: str) -> None:
    made = KEPT[-1]
    async for _ in made:
        break


async def by_an_error(url: str) -> None:
    with suppress(ZeroDivisionError):
        async for _ in watch("t", url=url):
            1 / 0  # noqa: B018


async def by_a_timeout(url: str) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            async for _ in watch("t", url=url):
                pass


async def by_a_timeout_of_anext(url: str) -> None:
    made = watch("t", url=url, since="latest")
    with suppress(TimeoutError):
        await asyncio.wait_for(anext(made), 0.3)


async def by_a_cancelled_task(url: str) -> None:
    begun = asyncio.Event()

    async def reads() -> None:
        async for _ in watch("t", url=url):
            begun.set()

    task = asyncio.create_task(reads())
    await begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def by_a_cycle_of_garbage(url: str) -> None:
    made = watch("t", url=url)
    await anext(made)
    cycle: list[Any] = [made]
    cycle.append(cycle)


async def by_a_callback(url: str) -> None:
    """A watch whose callback knows it is a cycle."""
    made: Watch
    made = watch("t", url=url, on_status=lambda _: made.status)  # type: ignore[arg-type]
    await anext(made)


KEPT: list[Watch] = []
WAYS: list[Callable[[str], Awaitable[Any]]] = [
    *(by_return, by_break, by_break_of_one_that_is_kept, by_an_error, by_a_timeout, by_a_timeout_of_anext),
    *(by_a_cancelled_task, by_a_cycle_of_garbage, by_a_callback),
]


@pytest.mark.parametrize("way", WAYS)
async def test_an_async_watch_that_is_left_is_gone(server: Serving, way: Callable[[str], Awaitable[Any]]) -> None:
    before = asyncio.all_tasks()
    KEPT[:] = [watch("t", url=server.url)]
    try:
        for _ in range(3):
            await way(server.url)
        gc.collect()
        await gone(server)
        await until(lambda: not {task for task in asyncio.all_tasks() - before if "keepalive" in repr(task)})
    finally:
        KEPT.clear()


@pytest.mark.parametrize("way", [*WAYS, "held"])
async def test_none_is_left_when_its_event_loop_has_ended(server: Serving, way: Any) -> None:
    held: list[Watch] = []

    async def main() -> None:
        KEPT[:] = [watch("t", url=server.url)]
        if way == "held":
            held.append(watch("t", url=server.url))
            await anext(held[0])
        else:
            await way(server.url)

    try:
        await asyncio.to_thread(lambda: asyncio.run(main()))
        gc.collect()
        await gone(server)
    finally:
        KEPT.clear()


async def test_a_loop_that_was_left_goes_on_from_its_cursor(server: Serving) -> None:
    made = watch("t", url=server.url)
    got = []
    for _ in range(3):
        async for event in made:
            got.append(event["event_id"])
            break
        await gone(server)
    assert got == [1, 2, 3]


async def test_a_block_keeps_the_connection_when_a_loop_in_it_is_left(server: Serving) -> None:
    async with watch("t", url=server.url) as made:
        for expected in (1, 2, 3):
            async for event in made:
                assert event["event_id"] == expected
                break
    assert server.services.hub.counts.started == 1
    await gone(server)
    assert made.status == "closed"


async def test_a_loop_within_a_loop_does_not_end_the_connection(server: Serving) -> None:
    made, got = watch("t", url=server.url), []
    async for event in made:
        got.append(event["event_id"])
        if len(got) == 3:
            break
        async for inner in made:
            got.append(inner["event_id"])
            break
    assert got == [1, 2, 3]
    assert server.services.hub.counts.started == 1
    await gone(server)


# --- without an event loop ---


def sync_break(url: str) -> None:
    for _ in watch_sync("t", url=url):
        break


def sync_break_within_a_burst(url: str) -> None:
    """Its reading thread waits for room in its buffer."""
    for _ in watch_sync("burst", url=url):
        break


def sync_error(url: str) -> None:
    with suppress(ZeroDivisionError):
        for _ in watch_sync("t", url=url):
            1 / 0  # noqa: B018


def sync_garbage(url: str) -> None:
    next(watch_sync("t", url=url))


def sync_cycle(url: str) -> None:
    made = watch_sync("t", url=url)
    next(made)
    cycle: list[Any] = [made]
    cycle.append(cycle)


def sync_kept(url: str) -> Any:
    made = watch_sync("t", url=url)
    for _ in made:
        break
    return made


@pytest.mark.parametrize(
    "way", [sync_break, sync_break_within_a_burst, sync_error, sync_garbage, sync_cycle, sync_kept]
)
async def test_a_sync_watch_that_is_left_is_gone(server: Serving, way: Callable[[str], Any]) -> None:
    api = Api(server.url)
    await asyncio.to_thread(api.create_trace, {"trace_id": "burst", "task": "x"})
    for _ in range(4):
        await asyncio.to_thread(api.append, "burst", [{"event": "thought", "text": "x" * 10_000}] * 300)
    before = set(threading.enumerate())
    kept = [await asyncio.to_thread(way, server.url) for _ in range(3)]
    gc.collect()
    await gone(server)
    await until(lambda: not [one for one in set(threading.enumerate()) - before if "ThreadPool" not in one.name])
    del kept


async def test_a_sync_loop_that_was_left_goes_on_from_its_cursor(server: Serving) -> None:
    made = watch_sync("t", url=server.url)

    def one() -> int:
        for event in made:
            return int(event["event_id"])
        raise AssertionError("it ended")

    assert [await asyncio.to_thread(one) for _ in range(3)] == [1, 2, 3]
    await gone(server)


async def test_a_watch_that_is_left_while_it_connects_leaves_no_socket() -> None:
    """The server takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = watch("t", url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                async for _ in made:
                    pass
        taken, _ = silent.accept()
        with taken:
            taken.settimeout(60)
            with suppress(ConnectionResetError):
                while await asyncio.to_thread(taken.recv, 65536):
                    pass
