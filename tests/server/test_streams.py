"""The log without a WebSocket: server-sent events, lines and pages, live and cut short."""

from __future__ import annotations

import asyncio
import socket as sockets
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.server.wire import NDJSON, SSE, append, end, http, make_trace, ndjson, page, page_bodies, sse, stored
from tests.support import Serving, serving, until

pytestmark = pytest.mark.anyio


async def test_server_sent_events_go_on_live_and_end_with_the_trace(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "sse")
    await append(log, "sse", 10)
    async with sse(client, "sse", since=4) as stream:
        assert (await stream.until("caught_up"))["replayed"] == 6
        for _ in range(5):
            await append(log, "sse", 20)
        await end(log, "sse", "stopped")
        await stream.rest()
        assert stream.events == await stored(log, "sse", 4)
        assert stream.control[-1] == {"event": "end", "status": "stopped", "last_event_id": 111}
        last = stream.ids[-1]
    async with sse(client, "sse", {"Last-Event-ID": last}) as stream:
        assert stream.response.status_code == 204
    await append(log, "sse", 2)  # late events: the reader is told when it asks again
    async with sse(client, "sse", {"Last-Event-ID": last}) as stream:
        await stream.rest()
        assert stream.events == await stored(log, "sse", 111)
        assert stream.control[-1]["event"] == "end"


async def test_headers_of_a_stream(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "headers")
    async with sse(client, "headers") as stream:
        headers = stream.response.headers
        assert headers["cache-control"] == "no-store, no-transform"
        assert headers["x-accel-buffering"] == "no"
    await until(lambda: server.services.hub.watchers("headers") == 0)


async def test_types_over_every_transport(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "typed")
    for _ in range(20):
        await append(log, "typed", 2)
        await append(log, "typed", 1, name="wanted")
    await end(log, "typed")
    wanted = [b for b in await stored(log, "typed") if b'"event":"wanted"' in b or b"trace_completed" in b]
    types = "wanted,trace_completed"
    async with sse(client, "typed", types=types) as stream:
        await stream.rest()
    assert stream.events == wanted
    assert (await ndjson(client, "typed", types=types)).content == b"".join(b + b"\n" for b in wanted)
    answer = await page(client, "typed", types=types, limit=10)
    assert page_bodies(answer) == [b for b in wanted if orjson.loads(b)["event_id"] <= 10]
    assert answer.json()["next_since_event_id"] == 10 and answer.json()["has_more"] is True


async def test_lines_that_follow(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "lines")
    await append(log, "lines", 30)
    received = b""
    async with client.stream(
        "GET", "/api/traces/lines/events?follow=1&since_event_id=-5", headers={"Accept": NDJSON}
    ) as r:
        chunks = r.aiter_raw()
        while received.count(b"\n") < 5:
            received += await asyncio.wait_for(anext(chunks), 60)
        await append(log, "lines", 40)
        await end(log, "lines")
        async for chunk in chunks:
            received += chunk
    assert received.splitlines() == await stored(log, "lines", 25)


async def test_lines_end_where_the_log_stood(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "still")
    await append(log, "still", 30)
    assert (await ndjson(client, "still")).content.splitlines() == await stored(log, "still")
    await make_trace(log, "empty")
    response = await ndjson(client, "empty")
    assert (response.status_code, response.content) == (200, b"")


async def test_lines_that_stop_early_do_not_look_whole(tmp_path: Path) -> None:
    """A deleted trace or a leaving server ends the response without its last chunk."""
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        log = server.services.log
        await make_trace(log, "t")
        await append(log, "t", 5)
        with pytest.raises(httpx.RemoteProtocolError):
            async with client.stream("GET", "/api/traces/t/events?follow=1", headers={"Accept": NDJSON}) as response:
                chunks = response.aiter_raw()
                await anext(chunks)
                await log.delete_trace("t")
                async for _ in chunks:
                    pass


@pytest.mark.parametrize(
    ("accept", "gives"),
    [
        ("text/event-stream", SSE),
        ("application/x-ndjson", NDJSON),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("", "application/json"),
        ("TEXT/Event-Stream; q=0.9, */*", SSE),
        ("text/html, application/x-ndjson;q=0.5", NDJSON),
        ("text/html,*/*;q=0.8", "application/json"),
        (None, "application/json"),
    ],
)
async def test_accept(server: Serving, client: httpx.AsyncClient, accept: str | None, gives: str) -> None:
    log = server.services.log
    await make_trace(log, "accept")
    headers = {} if accept is None else {"Accept": accept}
    request = client.build_request("GET", "/api/traces/accept/events", headers=headers)
    if accept is None:
        del request.headers["accept"]
    response = await client.send(request, stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == gives
    await response.aclose()


async def test_accept_of_nothing_there_is(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "accept")
    response = await client.get("/api/traces/accept/events", headers={"Accept": "text/html"})
    assert (response.status_code, response.json()["error"]) == (400, "bad_request")


async def test_page_limits(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "pages")
    await append(log, "pages", 1200)
    for asked, count in ((None, 500), (1, 1), (1000, 1000), (999, 999)):
        answer = (await page(client, "pages", **({} if asked is None else {"limit": asked}))).json()
        assert len(answer["events"]) == answer["next_since_event_id"] == count
        assert answer["has_more"] is True
    for bad, status in (("0", 422), ("1001", 422), ("-1", 422), ("x", 400), ("1.5", 400), ("", 400), ("9" * 30, 422)):
        response = await page(client, "pages", limit=bad)
        assert response.status_code == status, bad
        body = response.json()
        assert body["details"][0]["path"] == "limit", body
    assert len((await page(client, "pages", since="-3")).json()["events"]) == 3


async def test_a_page_is_bounded_in_bytes(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", page_bytes=20_000) as server, http(server) as client:
        await make_trace(server.services.log, "wide")
        await append(server.services.log, "wide", 30, size=1500)
        await append(server.services.log, "wide", 1, size=50_000)  # one event above it comes alone
        since, sizes = 0, []
        while True:
            answer = (await page(client, "wide", since=str(since), limit=1000)).json()
            since = answer["next_since_event_id"]
            sizes.append(sum(len(orjson.dumps(event)) for event in answer["events"]))
            if not answer["has_more"]:
                break
        assert since == 31 and all(size <= 20_000 for size in sizes[:-1]) and sizes[-1] > 50_000


@pytest.mark.parametrize("accept", [SSE, NDJSON, "application/json"])
async def test_refusals_have_a_status(server: Serving, client: httpx.AsyncClient, accept: str) -> None:
    await make_trace(server.services.log, "known")
    for path, status, code in (
        ("/api/traces/nobody/events", 404, "unknown_trace"),
        ("/api/traces/known/events?since_event_id=x", 400, "invalid_cursor"),
        ("/api/traces/known/events?until=never", 422, "invalid"),
    ):
        response = await client.get(path, headers={"Accept": accept})
        assert (response.status_code, response.json()["error"]) == (status, code), path
    if accept != "application/json":  # a page waits for nothing
        response = await client.get("/api/traces/no/events?wait=1&since_event_id=x", headers={"Accept": accept})
        assert (response.status_code, response.json()["error"]) == (400, "invalid_cursor")


async def test_head_answers_without_waiting(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "head")
    await append(server.services.log, "head", 2)
    for accept in (SSE, NDJSON, "application/json"):
        response = await client.head("/api/traces/head/events", headers={"Accept": accept})
        assert response.status_code == 200
        assert response.headers["content-type"].split(";")[0] == accept
        assert response.content == b""
        assert (await client.head("/api/traces/nobody/events", headers={"Accept": accept})).status_code == 404
    assert server.services.hub.watchers("head") == 0


async def test_a_reader_that_leaves_without_a_word_is_let_go(server: Serving) -> None:
    """uvicorn drops what is sent after a client has left silently: the stream must notice by listening."""
    await make_trace(server.services.log, "left")
    port = int(server.url.rsplit(":", 1)[1])
    open_sockets: list[Any] = []
    for accept in (SSE, NDJSON):
        raw = sockets.create_connection(("127.0.0.1", port))
        open_sockets.append(raw)
        raw.sendall(
            f"GET /api/traces/left/events?follow=1 HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode()
        )
    await until(lambda: server.services.hub.watchers("left") == 2)
    for raw in open_sockets:
        raw.close()
    await until(lambda: server.services.hub.watchers("left") == 0)
