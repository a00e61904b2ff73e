"""A closed connection leaves nothing to the garbage collector, because full collections are rare in the server."""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from websockets.server import ServerProtocol

from tests.server.wire import append, http, make_trace, socket, sse, watching
from tests.support import Serving, serving, until
from tracewatch.server.socket import WebSocketProtocol

pytestmark = pytest.mark.anyio


@pytest.fixture
def no_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # On a busy machine asyncio logs slow steps, and pytest keeps the records: with them the task, and its connection
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def connections() -> set[int]:
    """The server's connections that are in memory. Every HTTP connection has a FlowControl."""
    kinds = (FlowControl, WebSocketProtocol, ServerProtocol)
    return {id(one) for one in gc.get_objects() if issubclass(type(one), kinds)}  # isinstance would ask weak proxies


async def watch(server: Serving) -> None:
    async with watching(server, "t", since="0") as one:
        await one.until("caught_up")


async def vanish(server: Serving) -> None:
    async with watching(server, "t", since="0") as one:
        await one.until("caught_up")
        one.ws.transport.abort()


async def subscribe(server: Serving) -> None:
    async with socket(server, "/api/watch") as one:
        await one.say({"subscribe": {"trace_id": "t"}})
        await one.until("caught_up")


async def record(server: Serving) -> None:
    async with socket(server, "/api/traces/t/record") as one:
        await one.say({"append": {"events": [{"event": "x"}]}})
        while "ack" not in await one.frame():
            pass


async def record_many(server: Serving) -> None:
    async with socket(server, "/api/record") as one:
        await one.say({"open": {"trace_id": "absent"}})
        await one.say({"open": {"trace_id": "t"}})
        await one.say({"append": {"trace_id": "t", "events": [{"event": "x"}]}})
        while "ack" not in await one.frame():
            pass


async def blunder(server: Serving) -> None:
    async with socket(server, "/api/watch") as one:
        await one.ws.send("{")
        assert await one.closed() == 4500


async def ask(server: Serving) -> None:
    async with http(server) as client:
        assert (await client.get("/api/traces/t")).status_code == 200
        assert (await client.post("/api/traces/t/events", content=b"[[")).status_code == 400


async def follow(server: Serving) -> None:
    async with http(server) as client, sse(client, "t", since_event_id=0) as one:
        await one.until("caught_up")


@pytest.mark.parametrize("visit", [watch, vanish, subscribe, record, record_many, blunder, ask, follow])
async def test_a_connection_that_has_gone_is_freed_at_once(
    tmp_path: Path, no_collector: None, visit: Callable[[Serving], Awaitable[None]]
) -> None:
    async with serving(tmp_path / "log.db", write_stall_s=0.5) as server:
        await make_trace(server.services.log, "t")
        await append(server.services.log, "t", 10)
        before = connections()  # of other tests
        await visit(server)
        await visit(server)
        await until(lambda: connections() <= before)
