"""Requests sent without waiting for their answers: the server is one answer ahead of the reader and no more."""

from __future__ import annotations

import asyncio
import gc
import re
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.server.stalled import Raw, raw
from tests.support import certified, serving, until
from tracewatch.server.uvicorn import HttpByH11, HttpByHttptools, http_protocol

pytestmark = pytest.mark.anyio
READ_BYTES = 256 * 1024  # the most that an event loop hands over at once
MORE_BYTES = 32 * 1024**2  # than what the kernel has room for
PADDING = "Padding: " + 6000 * "x"
READ_ON = 400  # requests whose answers are read in the end; fewer than the kernel and the server have room for
KINDS = ["httptools", "h11", "tls"]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """asyncio, without debug mode."""
    return "asyncio", {}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ssl.SSLContext]:
    """A certificate, as uvicorn takes it, and a client that trusts it."""
    return certified(tmp_path_factory.mktemp("tls"))


def connections() -> list[Any]:
    """The server's open HTTP connections."""
    found = [one for one in gc.get_objects() if type(one) in (HttpByHttptools, HttpByH11)]
    return [one for one in found if one.transport is not None and not one.transport.is_closing()]


def requests_in_memory() -> int:
    """Requests that the server has parsed and that still cost memory."""
    gc.collect()
    return sum(type(one).__name__ == "RequestResponseCycle" for one in gc.get_objects())


def get(n: int) -> bytes:
    return f"GET /api/traces/t{n} HTTP/1.1\r\nHost: localhost\r\n{PADDING}\r\n\r\n".encode()


def post(n: int) -> bytes:
    """A request whose body is read by the application, which asks for more of it afterwards."""
    body = '[{"event":"x","pad":"' + 6000 * "x" + '"}]'
    head = f"POST /api/traces/t{n}/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


async def flood(client: Raw, connection: Any, request: Any) -> int:
    """Send requests until the server takes no more. Returns how many are sent to their end."""
    client.sock.setblocking(False)
    sent = number = 0
    rest = b""
    while sent < MORE_BYTES:
        if not rest:
            number += 1
            rest = request(number)
        try:
            count = client.sock.send(rest)
        except (BlockingIOError, ssl.SSLWantWriteError):
            if connection.flow.held and connection.flow.write_paused:
                break
            await asyncio.sleep(0.005)
        else:
            sent, rest = sent + count, rest[count:]
    assert sent < MORE_BYTES, "the server takes all that is sent"
    return number - 1  # the last of them has not been sent to its end


@pytest.mark.parametrize("request_of", [get, post])
@pytest.mark.parametrize("kind", KINDS)
async def test_answers_that_are_not_read(
    tmp_path: Path, kind: str, request_of: Any, files: tuple[dict[str, Any], ssl.SSLContext]
) -> None:
    options: dict[str, Any] = {"http": http_protocol("h11", 10 * READ_BYTES)} if kind == "h11" else {}
    options |= files[0] if kind == "tls" else {}
    async with serving(tmp_path / "log.db", send_buffer=16384, uvicorn=options) as server:
        before = requests_in_memory()
        with ExitStack() as stack:
            trust = files[1] if kind == "tls" else None
            client = await asyncio.to_thread(stack.enter_context, raw(server, trust, receive_buffer=16384))
            (connection,) = await until(connections)
            connection.transport.set_write_buffer_limits(high=8192)  # for fewer requests
            count = await flood(client, connection, request_of)
            assert count > READ_ON
            assert requests_in_memory() - before <= 2
            assert len(connection.unread) <= 2 * READ_BYTES
            client.sock.setblocking(True)
            found = b""
            while f"'t{READ_ON}'".encode() not in found:
                found += await client.read(READ_BYTES)
            answered = [int(number) for number in re.findall(rb"there is no trace 't([0-9]+)'", found)]
            assert answered == list(range(1, len(answered) + 1)), "each is answered, in order"
        await until(lambda: not connections())


async def test_a_body_that_nobody_reads_and_a_request_behind_it(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        with raw(server) as client:
            body = b"GET /none HTTP/1.1\r\n\r\n" * 20_000  # looks like requests, and is none
            head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            last = b"GET /api/traces/last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            await asyncio.to_thread(client.send, head + body + last)
            found = await client.read_all()
            assert re.findall(rb"HTTP/1.1 ([0-9]+)", found) == [b"200", b"404"]
            assert b"'last'" in found


async def test_requests_behind_one_that_asks_for_another_protocol(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        with raw(server) as client:
            other = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
            last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            client.send(other + other + last)
            assert re.findall(rb"HTTP/1.1 ([0-9]+)", await client.read_all()) == [b"200", b"200", b"200"]


@pytest.mark.parametrize("kind", ["httptools", "h11"])
@pytest.mark.parametrize("lines", [b"x: y\r\n" * 10_000, b"x: " + 150_000 * b"y" + b"\r\n"], ids=["many", "long"])
async def test_a_head_that_is_too_large_and_complete(tmp_path: Path, kind: str, lines: bytes) -> None:
    options: dict[str, Any] = {"http": http_protocol(kind, READ_BYTES)}
    async with serving(tmp_path / "log.db", uvicorn=options) as server:
        with raw(server) as client:
            await asyncio.to_thread(client.send, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
            assert (await client.read_all()).startswith((b"HTTP/1.1 400 ", b""))
            assert not any(one.cycle for one in connections())


async def test_what_all_connections_hold_together(tmp_path: Path) -> None:
    options: dict[str, Any] = {"http": http_protocol("auto", READ_BYTES)}
    async with serving(tmp_path / "log.db", send_buffer=16384, uvicorn=options) as server:
        with ExitStack() as stack:
            clients = [stack.enter_context(raw(server, receive_buffer=65536)) for _ in range(6)]
            for client in clients:
                await asyncio.to_thread(client.send, get(0) + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10_000)
            await until(lambda: len(connections()) < 6)
            with raw(server) as one:
                one.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert (await one.read_all()).startswith(b"HTTP/1.1 200 ")
