"""TLS in the server itself: the same bytes under the same paths, on both event loops; and the headers for browsers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import uvloop
from websockets.asyncio.client import connect

from tests.client.conftest import TestSenders, new_trace, senders, spool_dir
from tests.server.wire import Watch, append, make_trace, stored
from tests.support import DEADLINE_S, serving
from tracewatch.client.trace import Trace
from tracewatch.client.watch import watch
from tracewatch.errors import LogError
from tracewatch.server import sinks
from tracewatch.server.run import check_tls
from tracewatch.settings import Settings

__all__ = ["new_trace", "senders", "spool_dir"]  # fixtures


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The file of a certificate authority, and the settings of a server with its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    made = trustme.CA()
    issued = made.issue_cert("localhost", "127.0.0.1")
    made.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(folder / "cert.pem", append=number > 0)
    yield folder / "ca.pem", {"ssl_certfile": str(folder / "cert.pem"), "ssl_keyfile": str(folder / "key.pem")}


async def everything(tmp_path: Path, ca: Path, settings: dict[str, Any]) -> None:
    trusted = ssl.create_default_context(cafile=str(ca))
    async with serving(tmp_path / "log.db", **settings) as server:
        url = server.url.replace("http://", "https://")
        await make_trace(server.services.log, "t")
        async with connect(url.replace("https", "wss") + "/api/traces/t/watch", ssl=trusted, max_size=None) as ws:
            watching = Watch(ws)
            await watching.until("caught_up")
            await append(server.services.log, "t", 2000, size=500)
            await watching.until_events(2000)
            assert watching.events == await stored(server.services.log, "t")
        async with httpx.AsyncClient(base_url=url, verify=trusted, trust_env=False) as client:
            answer = await client.get("/api/traces")
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert "strict-transport-security" in (await client.get("/")).headers


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_watching_over_tls(
    tmp_path: Path,
    authority: tuple[Path, dict[str, Any]],
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = 0
    write = sinks.TransportSink.write

    def counting(self: sinks.TransportSink, data: bytes) -> None:
        nonlocal written
        written += 1
        write(self, data)

    monkeypatch.setattr(sinks.TransportSink, "write", counting)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(everything(tmp_path, *authority))
    assert written  # directly, as without TLS


@pytest.mark.anyio
async def test_recorder_and_watcher_over_tls_with_a_token(
    tmp_path: Path,
    authority: tuple[Path, dict[str, Any]],
    new_trace: Callable[..., Trace],
    senders: TestSenders,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca, settings = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    async with serving(tmp_path / "log.db", **settings) as server:
        url = server.url.replace("http://", "https://")
        token = await server.services.log.tokens.create(["read", "write"])
        recorder = new_trace(url, token=token)
        for n in range(100):
            recorder.event("thought", n=n)
        recorder.complete()
        assert await recorder.aflush(DEADLINE_S)
        found = [event async for event in watch(recorder.trace_id, url=url, token=token)]
        assert [event["n"] for event in found[:-1]] == list(range(100))
        await asyncio.to_thread(senders.end)  # while the server's loop still runs


def test_certificates_that_can_not_be_used(tmp_path: Path, authority: tuple[Path, dict[str, Any]]) -> None:
    settings = authority[1]
    check_tls(Settings(**settings))
    check_tls(Settings())
    (tmp_path / "junk.pem").write_text("junk")
    for wrong in (
        {"ssl_certfile": "/nowhere.pem"},
        {"ssl_certfile": settings["ssl_certfile"]},
        {"ssl_certfile": str(tmp_path / "junk.pem")},
        {"ssl_keyfile": settings["ssl_keyfile"]},
    ):
        with pytest.raises(LogError, match=r"ssl-certfile|can't be used"):
            check_tls(Settings(**wrong))
