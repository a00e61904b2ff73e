"""The shutdown: every client gets a goaway, and the server ends in time, whatever is connected."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.server.test_slow_readers import buffered, slow
from tests.server.wire import NDJSON, append, http, make_trace, socket, sse, stored, thought, watching
from tests.support import serving, until

pytestmark = pytest.mark.anyio


async def test_everybody_is_told(tmp_path: Path) -> None:
    async with AsyncExitStack() as clients, AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path / "log.db", goaway_ms=700))
        log = server.services.log
        await make_trace(log, "t")
        await append(log, "t", 3)
        watches = [await clients.enter_async_context(watching(server, "t")) for _ in range(20)]
        waiting = await clients.enter_async_context(watching(server, "to-come", wait="1"))
        many = await clients.enter_async_context(socket(server, "/api/watch"))
        idle = await clients.enter_async_context(socket(server, "/api/watch"))
        recorder = await clients.enter_async_context(socket(server, "/api/traces/t/record"))
        client = await clients.enter_async_context(http(server))
        stream = await clients.enter_async_context(sse(client, "t"))
        await many.say({"subscribe": {"trace_id": "t"}})
        await idle.say({"subscribe_traces": {}})
        await idle.until("traces")
        for watch in (*watches, many):
            await watch.until("caught_up")
        await stream.until("caught_up")
        await recorder.frame()
        await until(lambda: server.services.hub.watchers("to-come") == 1)
        await recorder.say({"append": {"seq": 1, "producer": "p", "events": [thought(9)]}})
        await watches[0].until_events(4)  # it has begun
        begin = time.monotonic()
        closing = asyncio.create_task(stack.aclose())
        for watch in (*watches, waiting, many, idle):
            assert await watch.closed() == 1012
            assert {"event": "goaway", "after_ms": 700} in [
                {key: frame[key] for key in ("event", "after_ms")} for frame in watch.control if "after_ms" in frame
            ]
        await stream.rest()
        assert stream.control[-1] == {"event": "goaway", "after_ms": 700}
        assert await recorder.closed() == 1012
        assert {"goaway": {"after_ms": 700}} in recorder.control
        assert any("ack" in frame for frame in recorder.control)  # what was in flight still got its answer
        await closing
        assert time.monotonic() - begin < 5


async def test_who_does_not_read_does_not_hold_it_up(tmp_path: Path) -> None:
    async with AsyncExitStack() as clients, AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path / "log.db", shutdown_s=1, send_buffer=65536))
        await make_trace(server.services.log, "t")
        for _ in range(3):
            await clients.enter_async_context(slow(server, "/api/traces/t/watch"))
        await append(server.services.log, "t", 200, size=16_000)
        await until(lambda: buffered(server) > 0)
        begin = time.monotonic()
        await stack.aclose()
        assert time.monotonic() - begin < 5


async def test_lines_cut_short_by_the_end_of_the_server_do_not_look_whole(tmp_path: Path) -> None:
    import httpx

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path / "log.db"))
        await make_trace(server.services.log, "t")
        await append(server.services.log, "t", 3)
        expected = await stored(server.services.log, "t")
        async with http(server) as client:
            lines = client.stream("GET", "/api/traces/t/events?follow=1", headers={"Accept": NDJSON})
            async with lines as response:
                chunks = response.aiter_raw()
                received = await anext(chunks)
                closing = asyncio.create_task(stack.aclose())
                with pytest.raises(httpx.RemoteProtocolError):
                    async for chunk in chunks:
                        received += chunk
                assert received.splitlines() == expected
            await closing
