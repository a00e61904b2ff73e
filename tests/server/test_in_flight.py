"""The bytes in flight of all watchers together are bounded, however many stop reading; the others notice nothing."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.server.stalled import raw, request
from tests.server.wire import NDJSON, SSE, append, http, make_trace, sse, stored, watching
from tests.support import Serving, serving, until

pytestmark = pytest.mark.anyio
LIMIT = 2 << 20
SEND_BUFFER = 16 * 1024
EVENT = 2 * 1024


def unsent(server: Serving) -> int:
    """The bytes that wait in this process for all watchers: counted at the transports, not by the budget."""
    return sum({id(w.sink): w.sink.buffered() for w in server.services.hub._watchers}.values())


def asked(n: int) -> bytes:
    """A watch: each second one over WebSocket, the others as a stream of either kind."""
    if n % 2:
        return request("/api/traces/t/watch", websocket=True)
    return request("/api/traces/t/events?follow=1", accept=SSE if n % 4 else NDJSON)


@pytest.mark.parametrize("live", [True, False], ids=["live", "backfill"])
async def test_many_that_stop_reading(tmp_path: Path, live: bool) -> None:
    """Sixty of them would have some 200 KB each."""
    settings: dict[str, Any] = {"frames_in_flight_bytes": LIMIT, "heartbeat_s": 0.4, "write_stall_s": 60}
    async with serving(tmp_path / "log.db", send_buffer=SEND_BUFFER, **settings) as server, AsyncExitStack() as stack:
        log, hub = server.services.log, server.services.hub
        await make_trace(log, "t")
        client = await stack.enter_async_context(http(server))
        if not live:
            await append(log, "t", 500, size=EVENT)
        for n in range(60):
            stalled = stack.enter_context(raw(server))
            stalled.send(asked(n))
        await until(lambda: hub.watchers("t") == 60)
        good = [await stack.enter_async_context(watching(server, "t")) for _ in range(3)]
        stream = await stack.enter_async_context(sse(client, "t"))
        total, most = (0 if live else 500), 0
        for _ in range(40):
            await append(log, "t", 5, size=EVENT)
            total += 5
            for watch in good:
                await watch.until_events(total)
            most = max(most, unsent(server))
            assert hub.budget.used < LIMIT
        bodies = await stored(log, "t")
        assert all(watch.events == bodies for watch in good)
        while len(stream.events) < total:
            await stream.next()
        assert stream.events == bodies
        assert LIMIT / 8 < most < LIMIT, most


async def test_room_comes_back(tmp_path: Path) -> None:
    """What was counted is given back, whatever became of the watchers."""
    settings: dict[str, Any] = {"frames_in_flight_bytes": LIMIT, "heartbeat_s": 0.2, "write_stall_s": 0.5}
    async with serving(tmp_path / "log.db", send_buffer=SEND_BUFFER, **settings) as server:
        log, hub = server.services.log, server.services.hub
        await make_trace(log, "t")
        await append(log, "t", 200, size=EVENT)
        async with AsyncExitStack() as stack:
            for n in range(20):
                stalled = stack.enter_context(raw(server))
                stalled.send(asked(n))
            await until(lambda: unsent(server) > 0)
            async with watching(server, "t") as watch:
                await watch.until_events(200)
                await append(log, "t", 50, size=EVENT)
                await watch.until_events(250)
            await until(lambda: server.services.stalls.aborted == 20)
        await until(lambda: hub.budget.used == 0)
        assert hub.budget.share == LIMIT // 64
