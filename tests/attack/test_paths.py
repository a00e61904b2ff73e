"""Paths that a client makes up: every part of a path that is a value, in every route, by every method."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support import DEADLINE_S, Serving, serving
from tracewatch.server.routes import ROUTES

pytestmark = pytest.mark.anyio

PARTS = {
    "longer than a file's name": "a" * 300,
    "longer than a path": "a" * 5000,
    "as long as a head may be": "a" * 30_000,
    "NUL": "a%00b",
    "no UTF-8": "%FF%FE",
    "half a surrogate pair": "%ED%A0%80",
    "up": "..%2f..%2f..%2fetc%2fpasswd",
    "dots": "%2e%2e",
    "lines": "a%0d%0aSet-Cookie:%20a=b",
    "slow for a pattern": "a:" * 2000 + "%21",
    "braces": "%7Btrace_id%7D%25s",
}
HTTP = sorted({(route.method, route.path) for route in ROUTES if "{" in route.path and route.method != "WS"})
SOCKETS = sorted({route.path for route in ROUTES if "{" in route.path and route.method == "WS"})


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    async with serving(tmp_path_factory.mktemp("attack") / "log.db") as started:
        yield started


def made(path: str, part: str) -> str:
    return re.sub(r"\{[^}]*\}", lambda _: part, path)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
async def test_a_path_is_answered_and_is_no_fault_of_the_server(server: Serving, part: str) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S, trust_env=False) as client:
        for method, path in HTTP:
            content = b'{"event": "x"}' if method == "POST" else None
            answer = await client.request(method, made(path, part), content=content)
            if (method, path) == ("GET", "/traces/{trace_id}") and answer.status_code in (200, 503):
                continue  # the viewer, built or not: it says itself that there is no such trace
            assert 400 <= answer.status_code < 500, (method, path, answer.text[:200])
            assert "set-cookie" not in answer.headers
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
async def test_a_socket_at_a_path_is_refused(server: Serving, part: str) -> None:
    for path in SOCKETS:
        try:
            async with asyncio.timeout(DEADLINE_S), connect(server.ws_url + made(path, part)) as ws:
                if path.endswith("/record"):
                    await ws.send('{"event": "x"}')
                while True:
                    await ws.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None and closed.rcvd.code >= 4000, (path, closed)
        except InvalidStatus as refused:
            assert 400 <= refused.response.status_code < 500, path
