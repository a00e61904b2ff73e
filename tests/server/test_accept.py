"""Accepting connections: requests that never end are cut off, the number is limited, and the limit hurts no client."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.server.stalled import Raw, open_files, raw, request
from tests.server.wire import append, http, make_trace, refused, stored, watching
from tests.support import CHECKED, ServerProcess, Serving, serving, until
from tracewatch.server.process import room_for

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="what the kernel holds is read from /proc"),
]
STALL_S = 0.5
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/traces HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
HANDSHAKE = request("/api/watch", websocket=True)


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both event loops."""
    return ("asyncio", {"use_uvloop": True}) if request.param == "uvloop" else CHECKED


async def asked(client: Raw) -> None:
    """Ask and take the whole answer."""
    client.send(HEAD + b"\r\n")
    found = b""
    while not found.endswith(b"}"):
        found += await client.read()
    assert found.startswith(b"HTTP/1.1 200 OK")


async def drip(client: Raw, data: bytes) -> None:
    """Send a byte now and then, until the server has had enough."""
    try:
        for byte in data:
            client.send(bytes([byte]))
            await asyncio.sleep(STALL_S / 4)
    except OSError:
        pass


@pytest.mark.parametrize("http", ["", "h11"])
async def test_a_head_that_does_not_end_is_cut(tmp_path: Path, http: str) -> None:
    async with serving(tmp_path / "log.db", request_stall_s=STALL_S, uvicorn={"http": http} if http else {}) as server:
        with ExitStack() as stack:
            clients = [stack.enter_context(raw(server)) for _ in range(5)]
            silent, begun, dripping, handshake, second = clients
            begun.send(HEAD)
            handshake.send(HANDSHAKE[:-2])
            await asked(second)
            second.send(b"G")  # from here uvicorn's own timer no longer runs
            dripped = asyncio.create_task(drip(dripping, HEAD))
            await until(lambda: all(client.state() is None for client in clients))
            assert await silent.read_all() == b""
            await dripped


async def test_who_asks_nothing_yet_is_kept_between_requests(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", request_stall_s=STALL_S) as server:
        with raw(server) as client:
            await asked(client)
            await asyncio.sleep(3 * STALL_S)  # uvicorn's keep-alive is longer
            await asked(client)


@pytest.mark.parametrize("path", ["/api/traces", "/api/traces/t/events", "/api/import", "/api/traces/t/cancel"])
async def test_a_body_that_stops_coming(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path / "log.db", request_stall_s=STALL_S) as server:
        await make_trace(server.services.log, "t")
        with raw(server) as client:
            client.send(POST.replace(b"/api/traces", path.encode()) + b'{"task"')
            answer = await client.read_all()  # to the end: the connection is closed
        head, body = answer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 408")
        assert json.loads(body)["error"] == "timeout"


async def test_a_body_that_comes_slowly_is_taken(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", request_stall_s=STALL_S) as server:
        with raw(server) as client:
            body = b'{"task":"x"}' + b" " * 4
            client.send(POST.replace(b"1000", b"%d" % len(body)))
            await drip(client, body)
            assert (await client.read()).startswith(b"HTTP/1.1 201")


async def test_a_tls_handshake_that_does_not_end_is_cut(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    options = {"ssl_certfile": str(tmp_path / "server.pem")}
    async with serving(tmp_path / "log.db", request_stall_s=STALL_S, uvicorn=options) as server:
        with raw(server) as client, raw(server) as plain:
            plain.send(HEAD + b"\r\n")  # no TLS at all
            await until(lambda: client.state() is None and plain.state() is None)
        async with httpx.AsyncClient(base_url=server.url.replace("127.0.0.1", "localhost"), verify=trust) as good:
            assert (await good.get("/healthz")).status_code == 200


async def test_beyond_the_limit_is_refused_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", max_connections=10) as server, watching(server, "t", wait="1") as watch:
        with ExitStack() as stack:
            taken = [stack.enter_context(raw(server)) for _ in range(9)]
            for _ in range(3):
                async with http(server) as client:
                    answer = await client.get("/healthz")
                    assert refused(answer, 503, "unavailable")
                    assert answer.headers["retry-after"] == "5"
            beyond = [stack.enter_context(raw(server)) for _ in range(50)]
            for other in beyond:
                assert (await other.read_all()).startswith(b"HTTP/1.1 503")
            await make_trace(server.services.log, "t")
            await watch.until("caught_up")
            before = open_files() - 1
            taken.pop().sock.close()
            await until(lambda: open_files() < before)
            async with http(server) as client:
                assert (await client.get("/healthz")).status_code == 200


async def test_a_crowd_is_let_in_by_and_by(tmp_path: Path) -> None:
    """Those that are there, and whoever comes alone, do not notice."""
    loop = asyncio.get_running_loop()
    async with (
        serving(tmp_path / "log.db", max_accepts_per_second=10) as server,
        watching(server, "t", wait="1") as watch,
    ):
        with ExitStack() as stack:
            since = loop.time()
            crowd = [stack.enter_context(raw(server)) for _ in range(12)]
            for one in crowd:
                one.send(request("/healthz"))
            await make_trace(server.services.log, "t")
            await watch.until("caught_up")
            for one in crowd:
                assert (await one.read()).startswith(b"HTTP/1.1 200")
            assert loop.time() - since >= 2 * 4 / 10  # four, a pause, four, a pause, four


@contextmanager
def no_file_descriptor() -> Iterator[None]:
    """None is left in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 50, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)


async def test_no_file_descriptor_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is connected goes on, the loop does not spin, and who waits is taken in when there is room again."""
    async with serving(tmp_path / "log.db") as server, watching(server, "t", wait="1") as watch:
        log = server.services.log
        await make_trace(log, "t")
        await watch.until("caught_up")
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.socket()) for _ in range(20)]
            with no_file_descriptor():
                for client in clients:
                    client.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))  # into the backlog
                    client.sendall(HEAD + b"\r\n")
                await until(lambda: caplog.messages)
                for _ in range(10):
                    await append(log, "t", 10)
                assert await watch.until_events(100) == await stored(log, "t")
            for client in clients:
                client.settimeout(60)
                assert b" 200 OK" in await asyncio.to_thread(client.recv, 4096)
    said = [record.getMessage() for record in caplog.records if record.name == "tracewatch.server"]
    assert len(said) == 1 and said[0].startswith("no connection can be taken in until another has gone: ")


def test_the_limit_stays_below_the_open_files(caplog: pytest.LogCaptureFixture) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
        assert room_for(2000) == 2000  # the system gave more
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 2128
        assert room_for(10**9) == resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 128
        assert "at most" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.slow
async def test_a_flood_of_connections(tmp_path: Path) -> None:
    """Thousands that say nothing, while watchers watch."""
    with ServerProcess(tmp_path / "log.db", max_connections=300, request_stall_s=2) as process:
        server = Serving(process.url, None)  # type: ignore[arg-type]
        async with http(process.url) as client:
            await client.post("/api/traces", json={"trace_id": "t", "task": "x"})
            async with watching(process.ws_url, "t") as one, watching(process.ws_url, "t") as other:
                await one.until("caught_up")
                await other.until("caught_up")
                for n in range(20):
                    with ExitStack() as stack:
                        for _ in range(100):
                            stack.enter_context(raw(server))
                        if n % 5 == 0:
                            await client.post("/api/traces/t/events", json={"event": "thought", "n": n})
                await one.until_events(4)
                await other.until_events(4)
            assert (await client.get("/healthz")).status_code == 200
