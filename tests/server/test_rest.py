"""REST: every call, and every refusal with its status and shape (protocol, sections 3, 4 and 6)."""

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

from tests.server.wire import append, end, http, make_trace, stored, thought
from tests.support import Serving, serving

pytestmark = pytest.mark.anyio


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check a refusal and its shape."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, body.get("error")) == (status, code), response.text
    assert response.headers["content-type"] == "application/json"
    assert isinstance(body["message"], str) and body["message"]
    assert isinstance(body["details"], list) and all(isinstance(detail, dict) for detail in body["details"])
    assert "Traceback" not in response.text and ".py" not in response.text
    return body


async def post(client: httpx.AsyncClient, trace_id: str, body: Any, **headers: str) -> httpx.Response:
    """Append."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(f"/api/traces/{trace_id}/events", content=content, headers=named)


async def test_create(server: Serving, client: httpx.AsyncClient) -> None:
    spec = {"trace_id": "made", "task": "Fix it", "agent_type": "coder", "metadata": {"a": [1]}, "lease_s": 30}
    first = await client.post("/api/traces", json=spec)
    assert first.status_code == 201
    trace = first.json()["trace"]
    assert first.json()["trace_id"] == trace["trace_id"] == trace["root_trace_id"] == "made"
    assert list(trace) == [
        *("trace_id", "task", "agent_type", "parent_trace_id", "parent_goal_id", "root_trace_id", "status"),
        *("is_running", "current_goal_id", "first_event_id", "last_event_id", "total_messages", "total_tokens"),
        *("total_cost", "tree_totals", "created_at", "updated_at", "completed_at", "summary", "error", "metadata"),
    ]
    again = await client.post("/api/traces", json=spec)
    assert (again.status_code, again.json()["trace"]) == (200, trace)
    body = refused(await client.post("/api/traces", json={**spec, "task": "Other"}), 409, "trace_conflict")
    assert [detail["path"] for detail in body["details"]] == ["task"]
    made = (await client.post("/api/traces", json={"task": "x"})).json()["trace_id"]
    assert (await client.get(f"/api/traces/{made}")).status_code == 200
    body = refused(await client.post("/api/traces", json={"task": "x", "parent_trace_id": "no"}), 404, "unknown_parent")
    with_goal = {"task": "x", "parent_trace_id": "made", "parent_goal_id": "9"}
    refused(await client.post("/api/traces", json=with_goal), 404, "unknown_goal")


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b"", 422, "task"),
        (b"[]", 422, ""),
        (b"7", 422, ""),
        (b"{}", 422, "task"),
        (b'{"task":""}', 422, "task"),
        (b'{"task":7}', 422, "task"),
        (b'{"task":"x","trace_id":"a b"}', 422, "trace_id"),
        (b'{"task":"x","trace_id":""}', 422, "trace_id"),
        (b'{"task":"x","lease_s":-1}', 422, "lease_s"),
        (b'{"task":"x","metadata":[]}', 422, "metadata"),
        (b'{"task":"x","metadata":{"a":"' + b"x" * 300_000 + b'"}}', 413, None),
        (b'{"task":"' + b"x" * 10_001 + b'"}', 422, "task"),
    ],
)
async def test_what_is_no_trace(
    server: Serving, client: httpx.AsyncClient, body: bytes, status: int, path: Any
) -> None:
    code = {400: "bad_request", 413: "too_large", 422: "invalid"}[status]
    answer = refused(await client.post("/api/traces", content=body), status, code)
    if path is not None:
        assert answer["details"][0]["path"] == path


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"event":"a"}'),
        ("application/json", b'[{"event":"a"}]'),
        ("application/json; charset=utf-8", b'\n [{"event":"a"}\n]\n'),
        ("application/x-ndjson", b'{"event":"a"}'),
        ("application/x-ndjson", b'\n{"event":"a"}\r\n\n'),
        ("text/plain", b'{"event":"a"}\n'),
        ("text/plain", b'{\n"event":"a"}\n'),
        ("application/x-www-form-urlencoded", b'[{"event":"a"}]'),  # what curl -d says
        ("", b'{"event":"a"}\n'),
    ],
)
async def test_forms_of_a_body(server: Serving, client: httpx.AsyncClient, content_type: str, body: bytes) -> None:
    await make_trace(server.services.log, "forms")
    before = (await server.services.log.snapshot("forms")).state.last_event_id
    response = await post(client, "forms", body, **({"Content_Type": content_type} if content_type else {}))
    assert (response.status_code, response.json()) == (
        200,
        {"first_event_id": before + 1, "last_event_id": before + 1, "duplicates": 0},
    )
    two = await post(client, "forms", b'{"event":"a"}\n{"event":"b"}', Content_Type="application/x-ndjson")
    assert two.json()["last_event_id"] == before + 3


async def test_refused_appends_store_nothing(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "strict")
    goal = {"event": "goal_added", "goal": {"description": "x"}}
    for body, status, code, path in (
        (b"", 400, "bad_request", None),
        (b"{", 400, "bad_request", None),
        (b'{"event":NaN}', 400, "bad_request", None),
        (b'{"event":"a"}\n{', 400, "bad_request", None),
        ([], 422, "invalid_event", None),
        (7, 422, "invalid_event", "event"),
        ([thought(1), 7], 422, "invalid_event", "1.event"),
        ([{"event": "Bad"}], 422, "invalid_event", "event"),
        ([goal, {"event": "goal_added", "goal": {"description": 7}}], 422, "invalid_event", "1.goal.description"),
        ([{"event": "message_added", "message": {"role": "user"}}], 422, "invalid_event", "message.content"),
        ([{"event": "cancel_requested", "by": "x"}], 422, "reserved_event", "event"),
        (
            [goal, {"event": "goal_updated", "goal_id": "77", "patch": {"status": "completed"}}],
            422,
            "unknown_goal",
            None,
        ),
        ([{"event": "message_updated", "message_id": "m9", "append": "x"}], 422, "unknown_message", None),
        ([thought(1)] * 1001, 413, "too_large", None),
        ([thought(1), thought(1, 263_000)], 413, "too_large", None),
        (b"[" + b" " * (4 << 20) + b"]", 413, "too_large", None),
        (b'{"event":"a","v":' + b"[" * 300 + b"]" * 300 + b"}", 422, "invalid_event", None),
    ):
        answer = refused(await post(client, "strict", body), status, code)
        if path is not None:
            assert answer["details"][0]["path"] == path, answer
    assert await stored(log, "strict") == []
    refused(await post(client, "nobody", [thought(1)]), 404, "unknown_trace")


async def test_a_batch_names_the_event_at_fault(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "fault")
    bad = {"event": "goal_updated", "goal_id": "77", "patch": {"status": "completed"}}
    assert refused(await post(client, "fault", [thought(1), thought(2), bad]), 422, "unknown_goal")["index"] == 2


async def test_producers(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "prod")

    async def send(seq: str, count: int, producer: str = "p") -> httpx.Response:
        return await post(client, "prod", [thought(n) for n in range(count)], Producer_Id=producer, Producer_Seq=seq)

    assert (await send("1", 3)).json() == {"first_event_id": 1, "last_event_id": 3, "duplicates": 0}
    assert (await send("1", 3)).json() == {"first_event_id": None, "last_event_id": 3, "duplicates": 3}
    assert (await send("2", 4)).json() == {"first_event_id": 4, "last_event_id": 5, "duplicates": 2}
    assert (await send("1", 1, "other")).json() == {"first_event_id": 6, "last_event_id": 6, "duplicates": 0}
    assert refused(await send("7", 1), 409, "sequence_gap")["expected_seq"] == 6
    for seq in ("0", "-1", "x", "1.0", "٣", "9" * 20, ""):
        headers = {b"Producer-Id": b"p", b"Producer-Seq": seq.encode()}
        body = orjson.dumps([thought(1)])
        refused(await client.post("/api/traces/prod/events", content=body, headers=headers), 400, "bad_request")
    refused(await post(client, "prod", [thought(1)], Producer_Id="p"), 400, "bad_request")
    refused(await post(client, "prod", [thought(1)], Producer_Seq="1"), 400, "bad_request")
    refused(await send("1", 1, "a b"), 400, "bad_request")
    refused(await send("1", 1, "x" * 129), 400, "bad_request")


async def test_conditional_appends(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "cond")
    assert (await post(client, "cond", [thought(1)], Expected_Last_Event_Id="0")).status_code == 200
    body = refused(
        await post(client, "cond", [thought(1)], Expected_Last_Event_Id="0"), 412, "unexpected_last_event_id"
    )
    assert body["last_event_id"] == 1
    refused(await post(client, "cond", [thought(1)], Expected_Last_Event_Id="x"), 400, "bad_request")
    answers = await asyncio.gather(*(post(client, "cond", [thought(1)], Expected_Last_Event_Id="1") for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7


async def test_a_trace_now_and_as_it_was(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "was")
    await log.append("was", [{"event": "goal_added", "goal": {"description": "a"}}])
    await append(log, "was", 3)
    await end(log, "was")
    now = (await client.get("/api/traces/was")).json()
    assert set(now) >= {"trace", "goal_tree", "sub_traces", "pending_inputs", "watchers"}
    assert (now["trace"]["status"], now["goal_tree"]["as_of_event_id"], now["watchers"]) == ("completed", 5, 0)
    then = (await client.get("/api/traces/was?at_event_id=1")).json()
    assert (then["trace"]["status"], then["goal_tree"]["as_of_event_id"]) == ("running", 1)
    assert (await client.get("/api/traces/was?at_event_id=0")).json()["goal_tree"]["goals"] == []
    body = refused(await client.get("/api/traces/was?at_event_id=6"), 410, "ahead")
    assert body["current_event_id"] == 5
    for bad, status, code in (("x", 400, "bad_request"), ("-1", 422, "invalid"), ("1e3", 400, "bad_request")):
        refused(await client.get(f"/api/traces/was?at_event_id={bad}"), status, code)
    refused(await client.get("/api/traces/nobody"), 404, "unknown_trace")
    refused(await client.get("/api/traces/%00%ff"), 404, "unknown_trace")


async def test_messages(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "said")
    for n in range(5):
        await log.append("said", [{"event": "message_added", "message": {"role": "user", "content": f"m{n}"}}])
    await log.append("said", [{"event": "message_updated", "message_id": "m2", "append": "!"}])
    answer = (await client.get("/api/traces/said/messages?limit=2")).json()
    assert ([m["content"] for m in answer["messages"]], answer["has_more"]) == (["m3", "m4"], True)
    answer = (await client.get("/api/traces/said/messages?before=4&limit=10")).json()
    assert ([m["content"] for m in answer["messages"]], answer["has_more"]) == (["m0", "m1!", "m2"], False)
    refused(await client.get("/api/traces/said/messages?limit=0"), 422, "invalid")
    refused(await client.get("/api/traces/nobody/messages"), 404, "unknown_trace")


async def test_list(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        log = server.services.log
        for n in range(25):
            await make_trace(log, f"t{n:02}", agent_type="even" if n % 2 == 0 else "odd")
        await make_trace(log, "child", parent_trace_id="t03")
        await make_trace(log, "grandchild", parent_trace_id="child")
        await end(log, "t05", "failed")

        async def listed(query: str) -> list[str]:
            answer = (await client.get(f"/api/traces?{query}")).json()
            return [trace["trace_id"] for trace in answer["traces"]]

        found, token = [], ""
        while token is not None:
            answer = (await client.get(f"/api/traces?limit=10&page_token={token}")).json()
            found += [trace["trace_id"] for trace in answer["traces"]]
            token = answer["next_page_token"]
        assert found == ["grandchild", "child", *(f"t{n:02}" for n in reversed(range(25)))]
        assert await listed("status=failed") == ["t05"]
        assert await listed("status=failed,completed") == ["t05"]
        assert len(await listed("agent_type=even")) == 13
        assert await listed("parent_trace_id=t03") == ["child"]
        assert await listed("root_trace_id=t03") == ["grandchild", "child", "t03"]
        assert await listed("q=T05") == ["t05"]
        assert await listed("q=%25") == [] and await listed('q="') == []
        for bad, status, code in (
            ("status=dead", 422, "invalid"),
            ("limit=0", 422, "invalid"),
            ("limit=1001", 422, "invalid"),
            ("limit=x", 400, "bad_request"),
            ("page_token=x", 400, "bad_request"),
            ("page_token=-1", 400, "bad_request"),
        ):
            refused(await client.get(f"/api/traces?{bad}"), status, code)


async def test_delete_takes_sub_traces_along(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    for name, parent in (("d", None), ("d-a", "d"), ("d-b", "d-a")):
        await make_trace(log, name, parent_trace_id=parent)
    assert sorted((await client.delete("/api/traces/d")).json()["deleted"]) == ["d", "d-a", "d-b"]
    for name in ("d", "d-a", "d-b"):
        refused(await client.get(f"/api/traces/{name}"), 404, "unknown_trace")
    refused(await client.delete("/api/traces/d"), 404, "unknown_trace")


async def test_heartbeat(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "beat", lease_s=60)
    assert (await client.post("/api/traces/beat/heartbeat")).status_code == 200
    refused(await client.post("/api/traces/nobody/heartbeat"), 404, "unknown_trace")


async def test_import_round_trip(tmp_path: Path, server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "trip", agent_type="coder", metadata={"k": 1})
    await log.append("trip", [{"event": "goal_added", "goal": {"description": "é", "status": "in_progress"}}])
    await append(log, "trip", 20, size=50)
    await log.append("trip", [{"event": "message_added", "message": {"role": "user", "content": "x", "tokens": 5}}])
    await end(log, "trip")
    there = (await client.get("/api/traces/trip")).json()
    lines = [orjson.dumps({"trace": there["trace"]}), *(await stored(log, "trip"))]
    async with serving(tmp_path / "copy.db") as copy, http(copy) as other:
        half = await other.post("/api/import", content=b"\n".join(lines[:10]))
        assert half.status_code == 200, half.text
        assert (half.json()["last_event_id"], half.json()["duplicates"]) == (9, 0)
        whole = await other.post("/api/import", content=b"\n".join(lines) + b"\n")
        assert (whole.json()["first_event_id"], whole.json()["duplicates"]) == (10, 9)
        assert await stored(copy.services.log, "trip") == lines[1:]
        back = (await other.get("/api/traces/trip")).json()
        for key in ("trace", "goal_tree"):
            assert back[key] == there[key]
        changed = [lines[0], lines[1].replace("é".encode(), b"e"), *lines[2:]]
        refused(await other.post("/api/import", content=b"\n".join(changed)), 409, "trace_conflict")
        hole = [lines[0].replace(b'"trip"', b'"hole"'), *(line.replace(b'"trip"', b'"hole"') for line in lines[2:])]
        refused(await other.post("/api/import", content=b"\n".join(hole)), 422, "invalid_event")
        for bad, status in ((b"", 400), (b"{}", 400), (lines[1], 400), (b"{", 400), (b'{"trace":7}', 422)):
            assert (await other.post("/api/import", content=bad)).status_code == status, bad


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
    refused(await client.get("/api/traces/m/watch"), 404, "not_found")  # only a WebSocket goes there
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

    transport = httpx.AsyncHTTPTransport()
    monkeypatch.setattr(server.services.log, "snapshot", broken)
    async with http(server, transport=transport) as client:
        body = refused(await client.get("/api/traces/x"), 500, "error")
        assert "secret" not in orjson.dumps(body).decode()
    async with connect(f"{server.ws_url}/api/traces/x/watch") as ws:
        await asyncio.wait_for(ws.wait_closed(), 10)
        assert ws.close_code == 1011  # not a socket that lives on and says nothing


async def test_a_log_that_cannot_be_read_now(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracewatch.errors import Unavailable

    async def locked(*_: Any, **__: Any) -> None:
        raise Unavailable("the log can't be read: disk I/O error", retry_after_s=3)

    monkeypatch.setattr(server.services.log, "snapshot", locked)
    async with http(server) as client:
        response = await client.get("/api/traces/x")
        refused(response, 503, "unavailable")
        assert response.headers["retry-after"] == "3"
    async with connect(f"{server.ws_url}/api/traces/x/watch") as ws:
        await asyncio.wait_for(ws.wait_closed(), 10)
        assert ws.close_code == 4013


async def test_openapi_describes_what_there_is(server: Serving, client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    from starlette.routing import Route

    from tracewatch.server.app import _routes

    there = {
        (route.path, method.lower())
        for route in _routes()
        if isinstance(route, Route) and (route.path.startswith("/api") or route.path == "/healthz")
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
    for name, response in (
        ("Traces", await client.get("/api/traces")),
        ("TraceState", await client.get("/api/traces/api")),
        ("Page", await client.get("/api/traces/api/events")),
        ("Messages", await client.get("/api/traces/api/messages")),
        ("Appended", await post(client, "api", [thought(1)])),
        ("Health", await client.get("/healthz")),
        ("Created", await client.post("/api/traces", json={"task": "x"})),
        ("Error", await client.get("/api/traces/nobody")),
    ):
        assert set(schemas[name]["required"]) <= set(response.json()), name


async def test_a_declared_length_above_the_limit_is_refused_unread(server: Serving) -> None:
    await make_trace(server.services.log, "huge")
    with sockets.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as raw:
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        head = b"POST /api/traces/huge/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
        await loop.sock_sendall(raw, head)
        answer = await asyncio.wait_for(loop.sock_recv(raw, 4096), 10)
    assert answer.startswith(b"HTTP/1.1 413")
