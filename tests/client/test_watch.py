"""Watching a real server, async and sync: exactly the log, through cuts, silence and restarts."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.client.proxy import proxy
from tests.support import ServerProcess, Serving, serving, until
from tracewatch.client.api import Api
from tracewatch.client.errors import ApiError, Unreachable
from tracewatch.client.watch import ConnectionStatus, SyncWatch, Watch, watch, watch_sync
from tracewatch.errors import InvalidCursor, UnknownTrace, WatchGap

pytestmark = pytest.mark.anyio

Watching = Callable[..., AsyncIterator[tuple[dict[str, Any], bytes]]]
DONE = {"event": "trace_completed", "status": "completed"}


async def by_async(made: Watch) -> AsyncIterator[tuple[dict[str, Any], bytes]]:
    async with made:
        async for event in made:
            yield event, made.last_bytes


async def by_sync(made: SyncWatch) -> AsyncIterator[tuple[dict[str, Any], bytes]]:
    end = object()
    try:
        while True:
            event = await asyncio.to_thread(next, made, end)
            if event is end:
                return
            assert isinstance(event, dict)
            yield event, made.last_bytes
    finally:
        await asyncio.to_thread(made.close)


FORMS: list[Any] = [(watch, by_async), (watch_sync, by_sync)]


async def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return await asyncio.to_thread(lambda: function(*args, **options))


async def made_trace(url: str, count: int, trace_id: str = "t", done: bool = False, **spec: Any) -> Api:
    api = Api(url)
    await call(api.create_trace, {"trace_id": trace_id, "task": "task", **spec})
    batch: list[dict[str, Any]] = [{"event": "thought", "n": n} for n in range(1, count + 1)]
    for at in range(0, len(batch), 500):
        await call(api.append, trace_id, batch[at : at + 500])
    if done:
        await call(api.append, trace_id, [DONE])
    return api


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "t.db", heartbeat_s=0.2) as running:
        yield running


@pytest.mark.parametrize(("make", "read"), FORMS)
@pytest.mark.parametrize("since", [None, 0, 700, "-10", "latest"])
async def test_a_watch_gives_the_log_and_ends_with_the_trace(
    server: Serving, make: Any, read: Any, since: str | int | None
) -> None:
    api = await made_trace(server.url, 1500, done=True)
    log = await call(lambda: list(api.events("t")))
    told: list[ConnectionStatus] = []
    made = make("t", url=server.url, since=since, on_status=told.append)
    got = [body async for _, body in read(made)]
    begin = since if isinstance(since, int) else {None: 0, "-10": 1491, "latest": 1501}[since]
    assert got == log[begin:]
    assert (made.status, made.state.status, made.current_event_id) == ("ended", "completed", 1501)
    assert made.cursor == f"{server.services.log.epoch}.1501"
    assert [news.kind for news in told] == ["connected", "caught_up"]
    assert told[1].replayed == len(got)


@pytest.mark.parametrize(("make", "read"), FORMS)
async def test_live_events_come_and_a_close_ends_the_iteration(server: Serving, make: Any, read: Any) -> None:
    api = await made_trace(server.url, 2)
    made = make("t", url=server.url, since="latest", until=None)
    got: list[int] = []
    task = asyncio.create_task(collect(read(made), got))
    await until(lambda: made.status == "live")
    await call(api.append, "t", [{"event": "thought"}] * 3)
    await until(lambda: got == [3, 4, 5])
    made.close()
    await asyncio.wait_for(task, 60)
    assert made.status == "closed"


async def collect(events: AsyncIterator[tuple[dict[str, Any], bytes]], got: list[int]) -> None:
    async for event, _ in events:
        got.append(event["event_id"])


@pytest.mark.parametrize(("make", "read"), FORMS)
async def test_through_cuts_and_a_silent_line_nothing_is_missed_or_repeated(
    server: Serving, make: Any, read: Any
) -> None:
    api = await made_trace(server.url, 100)
    told: list[ConnectionStatus] = []
    async with proxy(server.url) as line:
        made = make("t", url=line.url, on_status=told.append)
        got: list[int] = []
        task = asyncio.create_task(collect(read(made), got))
        last = 100
        for turn in range(3):
            await until(lambda: len(got) == last and made.status == "live")  # noqa: B023
            if turn == 1:  # nothing comes any more, and nothing says so
                line.swallow_answers = True
                await call(api.append, "t", [{"event": "thought"}] * 10)
                await until(lambda: made.status != "live")
                line.swallow_answers = False
            else:
                line.refuse = True
                line.cut()
                await call(api.append, "t", [{"event": "thought"}] * 10)
                await until(lambda: made.status == "reconnecting")
                line.refuse = False
            last += 10
        await until(lambda: len(got) == last)
        await call(api.append, "t", [DONE])
        await asyncio.wait_for(task, 60)
    assert got == list(range(1, last + 2))
    kinds = [news.kind for news in told]
    assert kinds == ["connected", "caught_up", *["lost", "reconnected"] * 3]
    assert [news.replayed for news in told if news.kind == "reconnected"] == [10, 10, 10]
    assert [news.last_event_id for news in told if news.kind == "lost"] == [100, 110, 120]


@pytest.mark.crash
@pytest.mark.parametrize(("make", "read"), FORMS)
async def test_over_restarts_of_the_server(tmp_path: Path, make: Any, read: Any) -> None:
    running = ServerProcess(tmp_path / "t.db").start()
    api = await made_trace(running.url, 1)
    made = make("t", url=running.url)
    got: list[int] = []
    task = asyncio.create_task(collect(read(made), got))
    last = 1
    for end in (running.kill, running.stop, running.kill):
        await until(lambda: len(got) == last)  # noqa: B023
        await call(end)
        await call(running.start)
        await call(api.append, "t", [{"event": "thought"}] * 5)
        last += 5
    await call(api.append, "t", [DONE])
    await asyncio.wait_for(task, 60)
    running.stop()
    assert got == list(range(1, last + 2))


@pytest.mark.parametrize(("make", "read"), FORMS)
async def test_what_reconnecting_cannot_mend_is_raised(server: Serving, make: Any, read: Any) -> None:
    await made_trace(server.url, 5)
    faults: list[tuple[str, str | int | None, Any]] = [
        ("none", None, UnknownTrace),
        ("t", "nonsense", InvalidCursor),
        ("t", 9, WatchGap),
        ("t", "other.2", WatchGap),
        ("a b", None, (UnknownTrace, ApiError)),
    ]
    for trace_id, since, error in faults:
        made = make(trace_id, url=server.url, since=since, until=None)
        with pytest.raises(error) as caught:
            await collect(read(made), [])
        assert made.status == "closed"
        if isinstance(caught.value, WatchGap):
            assert caught.value.reason == ("ahead" if since == 9 else "reset")
            assert caught.value.state.last_event_id == 5
            assert caught.value.resume_event_id == (5 if since == 9 else 0)


@pytest.mark.parametrize(("make", "read"), FORMS)
async def test_a_deleted_trace_is_raised(server: Serving, make: Any, read: Any) -> None:
    api = await made_trace(server.url, 5)
    made = make("t", url=server.url)
    task = asyncio.create_task(collect(read(made), []))
    await until(lambda: made.status == "live")
    await call(api.delete, "t")
    with pytest.raises(UnknownTrace.__mro__[1]) as caught:
        await asyncio.wait_for(task, 60)
    assert caught.value.code == "trace_deleted"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("make", "read"), FORMS)
async def test_giving_up_after_so_long(make: Any, read: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    told: list[ConnectionStatus] = []
    with pytest.raises(Unreachable):
        await collect(read(make("t", url=url, max_retry_s=0.3, on_status=told.append)), [])
    assert [news.kind for news in told] == ["lost"]
    with pytest.raises(Unreachable):
        await collect(read(make("t", url=url, max_retry_s=0)), [])


@pytest.mark.parametrize(("make", "read"), FORMS)
async def test_waiting_for_a_trace_that_is_yet_to_come(server: Serving, make: Any, read: Any) -> None:
    made = make("t", url=server.url, wait=True)
    got: list[int] = []
    task = asyncio.create_task(collect(read(made), got))
    await until(lambda: made._socket is not None)
    await made_trace(server.url, 3, done=True)
    await asyncio.wait_for(task, 60)
    assert got == [1, 2, 3, 4]


async def test_a_filtered_watch_resumes_behind_what_it_skipped(server: Serving) -> None:
    api = await made_trace(server.url, 2500)
    async with proxy(server.url) as line:
        made = watch("t", url=line.url, types=["output", "trace_completed"])
        got: list[int] = []
        task = asyncio.create_task(collect(by_async(made), got))
        await until(lambda: made.status == "live")
        assert (got, made.cursor) == ([], f"{server.services.log.epoch}.2500")
        line.cut()
        await call(api.append, "t", [{"event": "thought"}, {"event": "output"}, DONE])
        await asyncio.wait_for(task, 60)
    assert got == [2502, 2503]


@pytest.mark.parametrize(("make", "read"), FORMS)
async def test_a_subtree_gives_every_trace_in_its_order_and_ends_with_the_last(
    server: Serving, make: Any, read: Any
) -> None:
    api = await made_trace(server.url, 3)
    await made_trace(server.url, 400, "a", parent_trace_id="t", done=True)
    await made_trace(server.url, 2, "b", parent_trace_id="t")
    await made_trace(server.url, 2, "c", parent_trace_id="b")
    async with proxy(server.url) as line:
        made = make("t", url=line.url, children=True)
        got: dict[str, list[int]] = {}

        async def collect_all() -> None:
            async for event, body in read(made):
                assert orjson.loads(body) == event
                got.setdefault(event["trace_id"], []).append(event["event_id"])

        task = asyncio.create_task(collect_all())
        await until(lambda: sum(map(len, got.values())) == 6 + 401 + 3 + 2)
        line.cut()
        await call(api.append, "c", [{"event": "thought"}, DONE])
        await made_trace(server.url, 5, "d", parent_trace_id="t", done=True)
        await call(api.append, "t", [DONE])
        await until(lambda: "t" in got and made.states["t"].status == "completed")
        await call(api.append, "b", [DONE])
        await asyncio.wait_for(task, 60)
    counts = {trace_id: list(range(1, len(ids) + 1)) == ids and len(ids) for trace_id, ids in got.items()}
    ends = {trace_id: (await call(api.trace, trace_id))["trace"]["last_event_id"] for trace_id in "abcd"}
    assert {k: v for k, v in counts.items() if k != "t"} == ends
    assert counts["t"] >= 3 + 3 + 2 + 1
    assert {trace_id: state.status for trace_id, state in made.states.items()} == dict.fromkeys("tabcd", "completed")


async def test_the_end_of_a_subtree_that_had_ended_before(server: Serving) -> None:
    await made_trace(server.url, 3)
    for n in range(20):
        await made_trace(server.url, 3, f"c{n}", parent_trace_id="t", done=True)
        await made_trace(server.url, 3, f"g{n}", parent_trace_id=f"c{n}", done=True)
    await call(Api(server.url).append, "t", [DONE])
    for _ in range(3):
        seen: dict[str, int] = {}
        async with asyncio.timeout(60):
            async for event in watch("t", url=server.url, children=True):
                seen[event["trace_id"]] = event["event_id"]
        assert len(seen) == 41


async def test_a_slow_reader_costs_nothing_and_misses_nothing(server: Serving) -> None:
    api = await made_trace(server.url, 0)
    made = watch("t", url=server.url)
    async with made:
        begun = asyncio.create_task(anext(made))
        await call(api.append, "t", [{"event": "thought", "text": "x" * 10_000}] * 400)
        got = [(await begun)["event_id"]]
        await call(api.append, "t", [{"event": "thought", "text": "x" * 10_000}] * 400)
        await call(api.append, "t", [DONE])
        got += [event["event_id"] async for event in made]
    assert got == list(range(1, 802))


async def test_anext_may_be_given_up_and_tried_again(server: Serving) -> None:
    api = await made_trace(server.url, 1)
    async with watch("t", url=server.url) as made:
        assert (await anext(made))["event_id"] == 1
        for n in range(2, 6):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(made), 0.01)
            await call(api.append, "t", [{"event": "thought"}])
            assert (await asyncio.wait_for(anext(made), 60))["event_id"] == n


async def test_a_sync_watch_is_closed_from_another_thread(server: Serving) -> None:
    await made_trace(server.url, 1)
    made = watch_sync("t", url=server.url, until=None)
    assert (await call(next, made))["event_id"] == 1
    waiting = asyncio.create_task(call(list, made))
    await asyncio.sleep(0)
    threading.Thread(target=made.close).start()
    assert await asyncio.wait_for(waiting, 60) == []
