"""The table of limits, protocol section 6: each is a setting, and exceeding it gives its error on each transport.

Limits that take more to exceed have tests of their own: watchers per process (test_control_frames), a watcher's memory
(test_slow_readers), the memory of all (test_in_flight), stalls (test_stalls), requests and connections (test_accept),
floods (test_inbound).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed

from tests.server.wire import Watch, append, http, make_trace, ndjson, page, post, refused, socket, thought, watching
from tests.support import Serving, serving, until

pytestmark = pytest.mark.anyio
Excess = Callable[[Serving], Awaitable[None]]
BIG = thought(1, 5000)


async def nack(server: Serving, events: list[Any]) -> str:
    """The error of an append over the record socket, which stays open."""
    async with socket(server, "/api/traces/t/record") as recorder:
        await recorder.frame()
        await recorder.say({"append": {"events": events}})
        error: str = (await recorder.frame())["nack"]["error"]
        await recorder.say({"append": {"events": [thought(1)]}})
        assert "ack" in await recorder.frame()
        return error


async def one_event(server: Serving) -> None:
    async with http(server) as client:
        refused(await post(client, "t", BIG), 413, "too_large")
        refused(await client.post("/api/traces", json={"task": "x", "metadata": {"a": "x" * 5000}}), 413, "too_large")
    assert await nack(server, [BIG]) == "too_large"


async def batch_events(server: Serving) -> None:
    async with http(server) as client:
        refused(await post(client, "t", [thought(n) for n in range(4)]), 413, "too_large")
        lines = b"\n".join(orjson.dumps(thought(n)) for n in range(4))
        refused(await post(client, "t", lines, content_type="application/x-ndjson"), 413, "too_large")
    assert await nack(server, [thought(n) for n in range(4)]) == "too_large"


async def batch_bytes(server: Serving) -> None:
    async with http(server) as client:
        refused(await post(client, "t", [thought(n, 1500) for n in range(3)]), 413, "too_large")
        refused(await client.post("/api/import", content=b" " * 5000), 413, "too_large")


async def said(watch: Watch, size: int) -> tuple[str, int]:
    """The error and the close code after a message of ``size`` bytes."""
    await watch.say("x" * (size - 2))
    code = await watch.closed()
    return watch.control[-1].get("code", "") if code >= 4000 else "", code


async def record_message(server: Serving) -> None:
    for size, expected in ((4001, ("too_large", 4500)), (8001, ("", 1009))):
        async with socket(server, "/api/traces/t/record") as recorder:
            assert await said(recorder, size) == expected


async def watch_message(server: Serving) -> None:
    for path in ("/api/traces/t/watch", "/api/watch"):
        for size, expected in ((2001, ("too_large", 4500)), (4001, ("", 1009))):
            async with socket(server, path) as watch:
                assert await said(watch, size) == expected


async def subscriptions(server: Serving) -> None:
    async with socket(server, "/api/watch") as watch:
        for name in ("t", "u"):
            await watch.say({"subscribe": {"trace_id": name}})
        error = await watch.until("error")
        assert (error["code"], error["trace_id"], error["limit"]) == ("too_many", "u", 1)
        await watch.say({"event": "ping"})  # it stays open
        await watch.until("pong")


async def page_events(server: Serving) -> None:
    await append(server.services.log, "t", 10)
    async with http(server) as client:
        answer = (await page(client, "t")).json()
        assert (len(answer["events"]), answer["has_more"]) == (4, True)
        assert len((await ndjson(client, "t")).content.splitlines()) == 10  # no cap on the total


async def page_bytes(server: Serving) -> None:
    await append(server.services.log, "t", 10, size=600)
    async with http(server) as client:
        answer = (await page(client, "t")).json()
        assert 1 <= len(answer["events"]) <= 3 and answer["has_more"]
        assert len((await ndjson(client, "t")).content.splitlines()) == 10


async def ping(server: Serving) -> None:
    async with watching(server, "t") as watch:
        await watch.until("caught_up")
        watch.ws.transport.pause_reading()  # it hears no ping, and answers none
        await until(lambda: server.services.hub.watchers("t") == 0)
        watch.ws.transport.resume_reading()
        with pytest.raises(ConnectionClosed) as closed:
            await watch.frame()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011


async def compression(server: Serving) -> None:
    from websockets.asyncio.client import connect

    async with connect(f"{server.ws_url}/api/traces/t/watch", compression="deflate") as ws:
        assert ws.response is not None
        assert "Sec-WebSocket-Extensions" not in ws.response.headers  # offered, and not taken


LIMITS: list[tuple[Excess, dict[str, Any]]] = [
    (one_event, {"max_event_bytes": 4000}),
    (batch_events, {"max_batch_events": 3}),
    (batch_bytes, {"max_batch_bytes": 4000}),
    (record_message, {"max_ws_record_bytes": 4000, "max_ws_bytes": 2000}),
    (watch_message, {"max_ws_bytes": 2000}),
    (subscriptions, {"max_subscriptions": 1}),
    (page_events, {"page_events": 4}),
    (page_bytes, {"page_bytes": 2000}),
    (ping, {"ws_ping_s": 0.1}),
    (compression, {}),
]


@pytest.mark.parametrize(("excess", "settings"), LIMITS, ids=[excess.__name__ for excess, _ in LIMITS])
async def test_a_limit_bites(tmp_path: Path, excess: Excess, settings: dict[str, Any]) -> None:
    async with serving(tmp_path / "log.db", **settings) as server:
        for name in ("t", "u"):
            await make_trace(server.services.log, name)
        await excess(server)
