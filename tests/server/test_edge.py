"""The edge of the server: methods, origins and hosts, the contents of errors, and the API's own description."""

from __future__ import annotations

import asyncio
import socket as sockets
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.server.wire import http, make_trace, post, refused, thought
from tests.support import Serving, free_port, serving
from tracewatch.errors import TracewatchError, Unavailable
from tracewatch.server.routes import description, starlette_routes

pytestmark = pytest.mark.anyio


async def test_methods(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "m")
    for method, path, allowed in (
        ("PUT", "/api/traces", {"GET", "HEAD", "POST"}),
        ("DELETE", "/api/traces", {"GET", "HEAD", "POST"}),
        ("POST", "/api/traces/m", {"GET", "HEAD", "DELETE"}),
        ("DELETE", "/api/traces/m/events", {"GET", "HEAD", "POST"}),
        ("OPTIONS", "/api/traces/m/events", {"GET", "HEAD", "POST"}),
        ("GET", "/api/import", {"POST"}),
        ("GET", "/api/traces/m/heartbeat", {"POST"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
    ):
        response = await client.request(method, path)
        refused(response, 405, "method_not_allowed")
        assert set(response.headers["allow"].split(", ")) == allowed, (method, path)
    refused(await client.get("/api/nothing"), 404, "not_found")
    refused(await client.get("/api/traces/m/watch"), 426, "upgrade_required")  # only a WebSocket goes there
    refused(await client.get("/static/../pyproject.toml"), 404, "not_found")
    refused(await client.get("/static/%2e%2e%2fpyproject.toml"), 404, "not_found")
    for path in ("/api/traces", "/api/traces/m", "/healthz", "/openapi.json", "/"):
        response = await client.head(path)
        assert (response.status_code, response.content) == (200, b"")


REFUSED_HEADERS: list[dict[str, str]] = [
    {"Host": "evil.example"},
    {"Host": "evil.example:8400"},
    {"Host": "localhost.evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "10.0.0.1"},
    {"Host": ""},
    {"Host": "[::1"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Origin": "http://[bad"},
]


@pytest.mark.parametrize("headers", REFUSED_HEADERS, ids=str)
async def test_other_sites_are_refused(server: Serving, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    refused(await client.get("/api/traces", headers=headers), 403, "forbidden")
    refused(await client.post("/api/traces", json={"task": "x"}, headers=headers), 403, "forbidden")
    for path in ("/api/watch", "/api/traces/x/watch", "/api/traces/x/record"):
        with pytest.raises(InvalidStatus) as error:
            origin = headers.get("Origin")
            more = {} if origin else {"additional_headers": headers}
            if "Host" in headers:
                await raw_websocket(server, path, headers["Host"])
            await connect(server.ws_url + path, origin=origin, **more)  # type: ignore[arg-type]
        assert error.value.response.status_code == 403


async def raw_websocket(server: Serving, path: str, host: str) -> None:
    """A handshake with any Host (the client library insists on its own). Raises InvalidStatus unless it is taken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        status = int((await reader.readline()).split()[1])
    finally:
        writer.close()
    if status != 101:
        from websockets.datastructures import Headers
        from websockets.http11 import Response

        raise InvalidStatus(Response(status, "", Headers()))


async def test_this_machine_by_any_of_its_names(server: Serving, client: httpx.AsyncClient) -> None:
    port = server.url.rsplit(":", 1)[1]
    for host in (f"localhost:{port}", "LOCALHOST", f"127.0.0.1:{port}", "127.0.0.2", f"[::1]:{port}", "app.localhost"):
        assert (await client.get("/api/traces", headers={"Host": host})).status_code == 200, host
        origin = {"Host": host, "Origin": f"http://{host}"}
        assert (await client.get("/api/traces", headers=origin)).status_code == 200, host


async def test_an_internal_error_says_nothing(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("the secret inside")

    await make_trace(server.services.log, "broken")
    transport = httpx.AsyncHTTPTransport()
    monkeypatch.setattr(server.services.log, "snapshot", broken)
    async with http(server, transport=transport) as client:
        body = refused(await client.get("/api/traces/x"), 500, "error")
        assert "secret" not in orjson.dumps(body).decode()
    for path in ("/api/traces/broken/watch", "/api/traces/broken/record"):
        async with connect(server.ws_url + path) as ws:
            await asyncio.wait_for(ws.wait_closed(), 60)
            assert ws.close_code == 1011, path  # not a socket that lives on and says nothing


async def test_a_log_that_cannot_be_read_now(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    async def locked(*_: Any, **__: Any) -> None:
        raise Unavailable("the log can't be read: disk I/O error", retry_after_s=3)

    monkeypatch.setattr(server.services.log, "snapshot", locked)
    async with http(server) as client:
        response = await client.get("/api/traces/x")
        refused(response, 503, "unavailable")
        assert response.headers["retry-after"] == "3"
    async with connect(f"{server.ws_url}/api/traces/x/watch") as ws:
        await asyncio.wait_for(ws.wait_closed(), 60)
        assert ws.close_code == 4013


async def test_openapi_describes_what_there_is(server: Serving, client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    from starlette.routing import Route

    there = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in starlette_routes()
        if isinstance(route, Route)
        and not route.path.startswith("/api/hooks/")  # whose form is the agents'
        and (route.path.startswith("/api") or route.path in ("/healthz", "/readyz", "/metrics"))
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {(path, verb) for path, item in document["paths"].items() for verb in item if verb != "parameters"}
    assert described == there
    schemas = document["components"]["schemas"]

    def references(value: Any) -> Any:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    found = set(references(document))
    assert found and all(ref.removeprefix("#/components/schemas/") in schemas for ref in found)
    await make_trace(server.services.log, "api")
    await server.services.log.append("api", [{"event": "message_added", "message": {"role": "user", "content": "x"}}])
    for name, response in (
        ("Traces", await client.get("/api/traces")),
        ("TraceState", await client.get("/api/traces/api")),
        ("Page", await client.get("/api/traces/api/events")),
        ("Messages", await client.get("/api/traces/api/messages")),
        ("Message", await client.get("/api/traces/api/messages/m1")),
        ("Appended", await post(client, "api", [thought(1)])),
        ("Health", await client.get("/healthz")),
        ("Ready", await client.get("/readyz")),
        ("Created", await client.post("/api/traces", json={"task": "x"})),
        ("Error", await client.get("/api/traces/nobody")),
    ):
        assert set(schemas[name]["required"]) <= set(response.json()), name


async def test_every_body_may_be_too_large_or_too_slow(server: Serving, client: httpx.AsyncClient) -> None:
    """The client of these tests takes no answer that is not described."""
    await make_trace(server.services.log, "bodies")
    large = orjson.dumps({"reason": "x" * 300_000, "value": 1})
    for path in ("/api/traces", "/api/traces/bodies/cancel", "/api/traces/bodies/inputs/q"):
        refused(await client.post(path, content=large), 413, "too_large")
    for path, item in description()["paths"].items():
        for method, call in item.items():
            if "requestBody" in call:
                assert {"408", "413"} <= call["responses"].keys(), (method, path)


def test_every_error_there_is_can_be_described() -> None:
    def statuses(error: type[TracewatchError]) -> set[int]:
        return {error.status}.union(*map(statuses, error.__subclasses__()))

    described = {
        status
        for item in description()["paths"].values()
        for call in item.values()
        if "responses" in call
        for status in call["responses"]
    }
    assert {str(status) for status in statuses(TracewatchError)} - described == {
        "426",
        "500",
    }  # WebSockets' addresses, a fault of ours


async def test_a_declared_length_above_the_limit_is_refused_unread(server: Serving) -> None:
    await make_trace(server.services.log, "huge")
    with sockets.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as raw:
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        head = b"POST /api/traces/huge/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
        await loop.sock_sendall(raw, head)
        answer = await asyncio.wait_for(loop.sock_recv(raw, 4096), 60)
    assert answer.startswith(b"HTTP/1.1 413")


async def test_ready_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path / "log.db") as server, httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()) == (
            200,
            {"ready": True, "degraded": False, "reasons": [], "problems": []},
        )

        async def broken(*_: object) -> int:
            raise Unavailable("the log can't be read: disk I/O error")

        monkeypatch.setattr(server.services.log, "changes", broken)
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert answer.json()["reasons"] == ["the log can't be read: disk I/O error"]
        assert answer.headers["retry-after"] == "1"


async def test_ready_says_that_redis_is_away(tmp_path: Path) -> None:
    redis = f"redis://127.0.0.1:{free_port()}"
    async with serving(tmp_path / "log.db", redis=redis) as server, httpx.AsyncClient(base_url=server.url) as client:
        answer = (await client.get("/readyz")).json()
        assert (answer["ready"], answer["degraded"]) == (True, True)
        assert answer["reasons"][0].startswith("redis: ")


async def test_who_leaves_in_the_middle_of_a_body_is_no_error(
    server: Serving, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST /api/traces HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 100\r\n\r\n{{".encode())
    await writer.drain()
    assert (await client.get("/healthz")).status_code == 200
    writer.transport.abort()
    for _ in range(5):
        assert (await client.get("/healthz")).status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
