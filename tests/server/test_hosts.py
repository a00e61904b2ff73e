"""The names that a server answers to, the pages that may use it, and the headers for browsers in every answer."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.server.stalled import raw
from tests.server.test_edge import raw_websocket
from tests.server.wire import SSE, bearer, http, make_trace, refused
from tests.support import serving
from tracewatch.server.auth.origin import own_names, refusal
from tracewatch.server.uvicorn import http_protocol

pytestmark = pytest.mark.anyio
NAMES = frozenset({"watch.example"})


def headers(host: str, origin: str | None = None) -> dict[bytes, bytes]:
    given = {b"host": host.encode()}
    return given if origin is None else given | {b"origin": origin.encode()}


@pytest.mark.parametrize(
    ("host", "near", "remote"),
    [
        ("localhost:8400", True, True),
        ("[::1]:8400", True, True),
        ("watch.example", True, True),
        ("WATCH.example.:443", True, True),
        ("10.0.0.7:8400", False, True),
        ("[2001:db8::1]", False, True),
        ("evil.example", False, False),
        ("sub.watch.example", False, False),
        ("watch.example.evil.example", False, False),
        ("10.0.0.7.evil.example", False, False),
        ("0x7f000001", False, False),
        ("", False, False),
    ],
)
def test_names(host: str, near: bool, remote: bool) -> None:
    assert (refusal(headers(host), NAMES) is None) == near
    assert (refusal(headers(host), NAMES, remote=True) is None) == remote


@pytest.mark.parametrize(
    ("host", "origin", "fine"),
    [
        ("watch.example", "https://watch.example", True),
        ("watch.example:443", "https://watch.example", True),
        ("watch.example", "http://watch.example:80", True),
        ("watch.example:8400", "http://watch.example:8400", True),
        ("watch.example:8400", "http://watch.example", False),
        ("watch.example", "http://watch.example:443", False),
        ("watch.example", "https://localhost", False),
        ("10.0.0.7:8400", "http://10.0.0.7:8400", True),
        ("10.0.0.7:8400", "http://10.0.0.8:8400", False),
        ("watch.example", "null", False),
        ("watch.example", "", False),
        ("watch.example", "file://", False),
    ],
)
def test_origins(host: str, origin: str, fine: bool) -> None:
    assert (refusal(headers(host, origin), NAMES, remote=True) is None) == fine


def test_a_server_for_others_goes_by_its_machine_s_name() -> None:
    assert own_names("127.0.0.1", "a.example,b.example") == {"a.example", "b.example"}
    assert socket.gethostname().lower() in own_names("0.0.0.0", "")


async def test_the_name_it_is_given(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", allowed_hosts="watch.example") as server, http(server) as client:
        token = await server.services.log.tokens.create(["read"])
        for host, more, status in (
            ("watch.example", {}, 200),
            ("watch.example", {"Origin": "https://watch.example"}, 200),
            ("watch.example", {"Origin": "https://evil.example"}, 403),
            ("evil.example", {}, 403),
            ("evil.example", {"X-Forwarded-Host": "watch.example"}, 403),
            ("evil.example", {"Origin": "https://evil.example"}, 403),
        ):
            answer = await client.get("/api/traces", headers={"Host": host, **more, **bearer(token)})
            assert answer.status_code == status, (host, more)
            page = await client.get("/", headers={"Host": host, **more})
            assert (page.status_code == 403) == (status == 403)
        await raw_websocket(server, "/api/watch", "watch.example")
        with pytest.raises(InvalidStatus):  # before the handshake, whatever the token
            await raw_websocket(server, "/api/watch", "evil.example")


async def test_what_every_answer_tells_browsers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path / "log.db") as server:
        await make_trace(server.services.log, "t")
        await server.services.log.append("t", [{"event": "trace_completed", "status": "completed"}])

        async def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(server.services.log, "inputs", broken)
        async with http(server) as client:
            answers = [
                await client.get("/api/traces"),
                await client.get("/api/traces", headers={"Host": "evil.example"}),
                await client.get("/api/traces/nobody"),
                await client.get("/api/inputs"),
                await client.post("/healthz"),
                await client.get("/api/traces/t/events", headers={"Accept": SSE}),
                await client.get("/nowhere"),
            ]
            assert [answer.status_code for answer in answers] == [200, 403, 404, 500, 405, 200, 404]
            for answer in answers:
                check(answer)
                assert answer.headers["content-security-policy"].startswith("default-src 'none'")
                assert answer.headers["cache-control"].startswith("no-store")
            for path in ("/", "/traces/t"):
                page = await client.get(path)
                check(page)
                assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
                assert "unsafe" not in page.headers["content-security-policy"]


def check(answer: httpx.Response) -> None:
    told = answer.headers
    assert told["x-content-type-options"] == "nosniff"
    assert told["referrer-policy"] == "no-referrer"
    assert told["x-frame-options"] == "DENY"
    assert told["cross-origin-opener-policy"] == told["cross-origin-resource-policy"] == "same-origin"
    assert "strict-transport-security" not in told  # there is no TLS of ours
    assert "access-control-allow-origin" not in told


async def test_a_name_that_is_none_is_refused_with_a_reason(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        body = refused(await client.get("/", headers={"Host": "evil.example"}), 403, "forbidden")
        assert "allowed_hosts" in body["message"]


CHECKS = {
    "HTTP/1.0 without Host, as HAProxy sends it": "GET {path} HTTP/1.0\r\n\r\n",
    "by a container's name": "GET {path} HTTP/1.1\r\nHost: tracewatch_1:8400\r\nConnection: close\r\n\r\n",
    "by an address": "GET {path} HTTP/1.1\r\nHost: 10.1.2.3:8400\r\nConnection: close\r\n\r\n",
    "by an IPv6 address": "GET {path} HTTP/1.1\r\nHost: [fd00::1]:8400\r\nConnection: close\r\n\r\n",
    "HEAD": "HEAD {path} HTTP/1.1\r\nHost: 10.1.2.3\r\nConnection: close\r\n\r\n",
    "a Host that is none": "GET {path} HTTP/1.1\r\nHost: [::\r\nConnection: close\r\n\r\n",
    "a whole URL": "GET http://check:1{path} HTTP/1.1\r\nHost: check:1\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("kind", ["httptools", "h11"])
async def test_health_checks_as_balancers_send_them(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"http": http_protocol(kind, 1 << 20)}
    async with serving(tmp_path / "log.db", uvicorn=options) as server:
        for name, text in CHECKS.items():
            for path in ("/healthz", "/readyz", "/metrics"):
                with raw(server) as client:
                    client.send(text.format(path=path).encode())
                    answer = await client.read_all()
                assert answer.startswith(b"HTTP/1.1 200 "), (name, path, answer[:200])
                assert (name == "HEAD") == answer.endswith(b"\r\n\r\n")
            with raw(server) as client:  # and of nothing else
                client.send(text.format(path="/api/traces").encode())
                answer = await client.read_all()
                assert answer.startswith(b"HTTP/1.1 403 "), (name, answer[:200])


async def test_health_checks_below_a_path(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", root_path="/watch") as server, http(server) as client:
        for path in ("/readyz", "/watch/readyz"):
            assert (await client.get(path, headers={"Host": "10.1.2.3"})).status_code == 200
        assert (await client.post("/healthz", headers={"Host": "10.1.2.3"})).status_code == 403


async def test_the_viewer_s_files_are_served_to_a_page_whose_host_was_changed(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        page = {"Origin": "http://watch.example:8443"}  # its script says what is wrong
        assert (await client.get("/static/none.js", headers=page)).status_code == 404
        refused(await client.get("/api/traces", headers=page), 403, "forbidden")
        refused(await client.get("/static/none.js", headers={"Host": "evil.example"}), 403, "forbidden")
