"""TLS: handshakes that are none, and connections that are idle when the server ends."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.server.stalled import raw, request
from tests.support import Serving, certified, serving

pytestmark = pytest.mark.anyio
CASES = {
    "plain HTTP": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "rubbish": bytes(range(256)) * 64,
    "a record that is too long": b"\x16\x03\x01\xff\xff" + b"\x01" * 65535,
    "half a hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ssl.SSLContext]:
    """A certificate, as uvicorn takes it, and a client that trusts it."""
    return certified(tmp_path_factory.mktemp("tls"))


async def test_handshakes_that_are_none_are_cut_and_not_logged(
    tmp_path: Path, files: tuple[dict[str, Any], ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "log.db", uvicorn=files[0], request_stall_s=0.5) as server:
        for sent in CASES.values():
            for _ in range(5):
                with raw(server) as client:
                    client.send(sent)
                    assert b"HTTP/" not in await client.read_all()  # it ends
        await healthy(server, files[1])
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


async def healthy(server: Serving, trust: ssl.SSLContext) -> None:
    """The server answers."""
    with ExitStack() as stack:
        client = await asyncio.to_thread(stack.enter_context, raw(server, trust))
        client.send(request("/healthz"))
        assert b" 200 " in await client.read()


@pytest.mark.parametrize("path", [None, "/healthz", "/api/watch", "handshake"])
async def test_the_end_does_not_wait_for_idle_connections(
    tmp_path: Path,
    files: tuple[dict[str, Any], ssl.SSLContext],
    path: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client of TLS that reads nothing any more says no goodbye."""
    with ExitStack() as stack:
        async with serving(tmp_path / "log.db", uvicorn=files[0], shutdown_s=6) as server:
            for _ in range(3):
                trust = None if path == "handshake" else files[1]
                client = await asyncio.to_thread(stack.enter_context, raw(server, trust))
                if path is not None and trust is not None:
                    client.send(request(path, websocket=path == "/api/watch"))
                    assert b"HTTP/1.1 " in await client.read()
    waited = [one for one in caplog.records if "graceful shutdown exceeded" in one.getMessage()]
    assert waited == []
