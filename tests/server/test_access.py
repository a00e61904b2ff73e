"""Access: every route of the application with every kind of token. A route that the test does not know fails it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette import routing
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.server.tokens import SCOPES, Kinds, kinds, two_runs
from tests.server.wire import NDJSON, SSE, bearer, http, refused, socket
from tests.support import Serving, serving
from tracewatch.server.app import create_app
from tracewatch.server.auth.scopes import Guard, Need
from tracewatch.server.routes import ROUTES, Route, starlette_routes
from tracewatch.settings import Settings

pytestmark = pytest.mark.anyio
ONE = "/api/traces/{trace_id}"
# What each call needs, written down a second time on purpose: (method, path): the scopes of which one will do
NEEDED: dict[tuple[str, str], set[str]] = {
    ("GET", "/api/traces"): {"read"},
    ("POST", "/api/traces"): {"write"},
    ("POST", "/api/import"): {"write"},
    ("GET", ONE): {"read"},
    ("DELETE", ONE): set(),
    ("GET", f"{ONE}/events"): {"read"},
    ("POST", f"{ONE}/events"): {"write"},
    ("GET", f"{ONE}/messages"): {"read"},
    ("GET", f"{ONE}/messages/{{message_id:path}}"): {"read"},
    ("GET", f"{ONE}/blobs/{{sha256}}"): {"read"},
    ("PUT", f"{ONE}/blobs/{{sha256}}"): {"write"},
    ("POST", f"{ONE}/heartbeat"): {"write"},
    ("POST", f"{ONE}/cancel"): {"control"},
    ("GET", f"{ONE}/inputs/{{request_id:path}}"): {"read", "write"},
    ("POST", f"{ONE}/inputs/{{request_id:path}}"): {"control"},
    ("GET", "/api/inputs"): {"read"},
    ("WS", f"{ONE}/record"): {"write"},
    ("WS", "/api/record"): {"write"},
    ("WS", f"{ONE}/watch"): {"read"},
    ("WS", "/api/watch"): {"read"},
    ("GET", "/api/search"): {"read"},
    ("GET", "/metrics"): {"read"},
    **{("POST", f"/v1/{what}"): {"write"} for what in ("traces", "logs", "metrics")},
    ("GET", "/v1/info"): {"write"},
    **{("POST", f"/{what}"): {"write"} for what in ("runs/multipart", "runs/batch", "runs", "feedback")},
    ("PATCH", "/runs/{run_id:uuid}"): {"write"},
    ("POST", "/api/hooks/{agent}"): {"write"},
}
PUBLIC = {"/info", "/healthz", "/readyz", "/openapi.json", "/static/{name}", "/traces/{trace_id}", "/search", "/"}
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/api/traces"): {"task": "x"},
    ("POST", f"{ONE}/events"): {"event": "thought"},
    ("POST", f"{ONE}/inputs/{{request_id:path}}"): {"value": 1},
}
RUN = "01a22a9b-215b-737b-877b-b13bacca84fe"
GUARDED = [(route.method, route.path) for route in ROUTES if route.path not in PUBLIC]


def test_every_route_is_thought_of() -> None:
    assert set(GUARDED) == NEEDED.keys()
    assert {route.path for route in ROUTES if not route.need.scopes} == PUBLIC


def test_a_route_without_a_scope_or_a_description_cannot_be_written() -> None:
    whole: dict[str, Any] = {field.name: getattr(ROUTES[0], field.name) for field in dataclasses.fields(Route)}
    assert Route(**whole) == ROUTES[0]
    for missing in whole:
        with pytest.raises(TypeError, match=missing):
            Route(**{name: value for name, value in whole.items() if name != missing})
    with pytest.raises(TypeError, match="scopes"):
        Need()  # type: ignore[call-arg]


def test_the_application_has_the_routes_of_the_table_each_behind_its_guard() -> None:
    app = create_app(Settings())
    there = set()
    for route in app.routes:
        assert isinstance(route, routing.Route | routing.WebSocketRoute) and isinstance(route.app, Guard)
        methods = (route.methods or set()) - {"HEAD"} if isinstance(route, routing.Route) else {"WS"}
        there |= {(method, route.path) for method in methods}
    assert there == {(route.method, route.path) for route in ROUTES}
    with pytest.raises(ValueError, match="twice"):
        starlette_routes([ROUTES[0], ROUTES[0]])


def test_no_request_fits_two_paths() -> None:
    """So the table's order decides nothing."""
    for route in starlette_routes():
        sample = re.sub(r"{[^}]*}", "x", route.path.replace("{run_id:uuid}", RUN))
        assert [other.path for other in starlette_routes() if other.path_regex.match(sample)] == [route.path]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    async with serving(tmp_path_factory.mktemp("access") / "log.db", auth_failures=10_000) as started:
        await two_runs(started.services.log, "mine", "theirs")
        yield started


@pytest.fixture(scope="module")
async def tokens(server: Serving) -> Kinds:
    return await kinds(server.services.log)


async def attempt(server: Serving, call: tuple[str, str], token: str | None, trace_id: str = "mine") -> tuple[int, str]:
    """The status or close code, and the error's code if it is one. 0 where a socket was let in."""
    method, path = call
    path = path.replace("{trace_id}", trace_id).replace("{request_id:path}", "q").replace("{name}", "x")
    path = path.replace("{run_id:uuid}", RUN)
    if method == "WS":
        async with socket(server, path, token) as watch:
            if path in ("/api/watch", "/api/record"):  # which say nothing before they are asked
                with suppress(ConnectionClosed):
                    await watch.say({"event": "ping"})
            try:
                frame = await watch.frame()
            except ConnectionClosed as closed:
                raise AssertionError("closed without a word") from closed
            return (await watch.closed(), frame["code"]) if frame.get("event") == "error" else (0, "")
    async with http(server) as client:
        headers = {} if token is None else bearer(token)
        answer = await client.request(method, path, json=BODIES.get(call), headers=headers)
        return answer.status_code, answer.json().get("error", "") if answer.status_code >= 400 else ""


@pytest.mark.parametrize("call", GUARDED, ids=" ".join)
async def test_nobody_comes_in_without_a_good_token(server: Serving, tokens: Kinds, call: tuple[str, str]) -> None:
    expected = (4501 if call[0] == "WS" else 401, "unauthorized")
    assert await attempt(server, call, None) == expected
    for kind, token in tokens.bad.items():
        assert await attempt(server, call, token) == expected, kind


@pytest.mark.parametrize("call", [call for call in GUARDED if call[0] != "DELETE"], ids=" ".join)
async def test_a_scope_is_for_its_own_calls(server: Serving, tokens: Kinds, call: tuple[str, str]) -> None:
    forbidden = (4503 if call[0] == "WS" else 403, "forbidden")
    for scope in SCOPES:
        code, error = await attempt(server, call, tokens.scope[scope])
        if scope in NEEDED[call] | {"admin"}:
            assert error not in ("unauthorized", "forbidden") and code not in (401, 403), scope
        else:
            assert (code, error) == forbidden, scope


async def test_deleting_is_for_admin(server: Serving, tokens: Kinds) -> None:
    await two_runs(server.services.log, "gone")
    for scope in ("read", "write", "control"):
        assert await attempt(server, ("DELETE", ONE), tokens.scope[scope], "gone") == (403, "forbidden")
    assert await attempt(server, ("DELETE", ONE), tokens.scope["admin"], "gone") == (200, "")


@pytest.mark.parametrize("call", [call for call in GUARDED if "{trace_id}" in call[1]], ids=" ".join)
async def test_to_a_token_of_one_trace_all_others_are_absent(
    server: Serving, tokens: Kinds, call: tuple[str, str]
) -> None:
    """Not "forbidden": whether there is such a trace is nothing it may know."""
    admin = tokens.mine["admin"]
    for theirs in ("theirs", "theirs.sub"):
        answer = await attempt(server, call, admin, theirs)
        assert answer == (4504 if call[0] == "WS" else 404, "unknown_trace")
        assert answer == await attempt(server, call, admin, "nowhere")
    if call[0] != "DELETE":
        for mine in ("mine", "mine.sub"):
            assert (await attempt(server, call, admin, mine))[1] not in ("unauthorized", "forbidden", "unknown_trace")
        for scope in {"read", "write", "control"} - NEEDED[call]:  # the scope comes first
            assert (await attempt(server, call, tokens.mine[scope], "theirs"))[1] == "forbidden"


async def test_absent_and_not_allowed_look_the_same_to_the_last_byte(server: Serving, tokens: Kinds) -> None:
    admin = bearer(tokens.mine["admin"])
    async with http(server, headers=admin) as client:
        for accept in ("application/json", SSE, NDJSON):
            for query in ("", "?since_event_id=-5", "?since_event_id=junk", "?wait=1", "?wait=1&follow=1"):
                path = f"/events{query}"
                answers = [
                    await client.get(f"/api/traces/{name}{path}", headers={"Accept": accept})
                    for name in ("theirs", "absent")
                ]
                refused(answers[0], 404, "unknown_trace")
                assert answers[0].text.replace("theirs", "absent") == answers[1].text
                assert answers[0].headers.raw[1:] == answers[1].headers.raw[1:]
    for path in ("watch", "watch?wait=1", "record?producer=x"):
        frames = []
        for name in ("theirs", "absent"):
            async with socket(server, f"/api/traces/{name}/{path}", tokens.mine["admin"]) as watch:
                frames.append(str(await watch.frame()).replace("theirs", "absent"))
                assert await watch.closed() == 4504
        assert frames[0] == frames[1]


async def test_pages_and_health_need_none(server: Serving) -> None:
    async with http(server) as client:
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        for path in ("/", "/traces/mine"):
            assert (await client.get(path)).status_code in (200, 503)  # 503: the viewer is not built here


async def test_a_refusal_says_how(server: Serving, tokens: Kinds) -> None:
    async with http(server) as client:
        answer = await client.get("/api/traces")
        refused(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "token create" in answer.json()["message"]
        for kind, word in (("expired", "expired"), ("revoked", "revoked"), ("wrong secret", "no such token")):
            token = tokens.bad[kind]
            answer = await client.get("/api/traces", headers=bearer(token))
            assert word in answer.json()["message"] and token not in answer.text
        answer = await client.get("/api/traces", headers={"Authorization": "Basic dXNlcjpwYXNz"})
        refused(answer, 401, "unauthorized")
        answer = await client.get("/api/traces", headers={"Authorization": f"bearer  {tokens.scope['read']}"})
        assert answer.status_code == 200
        assert (await client.get(f"/api/traces?token={tokens.scope['read']}")).status_code == 401


async def test_browsers_say_it_by_subprotocol(server: Serving, tokens: Kinds) -> None:
    from websockets.asyncio.client import connect

    def opened(*offered: str) -> Any:
        return connect(f"{server.ws_url}/api/traces/mine/watch", subprotocols=[Subprotocol(one) for one in offered])

    async with opened("tracewatch.v1", f"bearer.{tokens.scope['read']}") as ws:
        assert ws.subprotocol == "tracewatch.v1"
        assert b"connected" in await ws.recv(decode=False)
    for more in ((), (f"bearer.{tokens.bad['revoked']}",), ("bearer.",)):
        async with opened("tracewatch.v1", *more) as ws:
            assert ws.subprotocol == "tracewatch.v1"
            assert b'"code":"unauthorized"' in await ws.recv(decode=False)
            await ws.wait_closed()
            assert ws.close_code == 4501


async def test_the_last_revoked_token_does_not_open_the_door(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        assert (await client.get("/api/traces")).status_code == 200
        log = server.services.log
        token = await log.tokens.create(["read"])
        assert (await client.get("/api/traces")).status_code == 401
        assert (await client.get("/api/traces", headers=bearer(token))).status_code == 200
        await log.tokens.revoke(token.split("_")[1])
        assert (await client.get("/api/traces")).status_code == 401
        assert (await client.get("/api/traces", headers=bearer(token))).status_code == 401
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        assert (await client.get("/api/traces")).status_code == 401


@pytest.mark.parametrize("setting", [{"allowed_hosts": "watch.example"}, {"proxy": "10.0.0.1"}], ids=str)
async def test_a_server_others_may_reach_always_asks(tmp_path: Path, setting: dict[str, Any]) -> None:
    async with serving(tmp_path / "log.db", **setting) as server, http(server) as client:
        refused(await client.get("/api/traces"), 401, "unauthorized")


async def test_without_tokens_only_this_machine_comes_in(server: Serving, tmp_path: Path) -> None:
    """Mounted, or behind a proxy that nobody has told us of, others may come who look like our own."""
    app = create_app(Settings(db=str(tmp_path / "log.db")))
    async with app.lifespan():
        for client, expected in (("127.0.0.1", 200), ("::1", 200), ("192.0.2.7", 401), ("unix", 401)):
            transport = httpx.ASGITransport(app, client=(client, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as remote:
                assert (await remote.get("/api/traces")).status_code == expected, client
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as proxied:
            for header in ({"X-Forwarded-For": "192.0.2.7"}, {"Forwarded": "for=192.0.2.7"}):
                assert (await proxied.get("/api/traces", headers=header)).status_code == 401
