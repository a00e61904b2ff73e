"""Readers that stop reading are disconnected on every transport; slow ones, and those with nothing to read, are not.

The servers are all that uvicorn can be: each of its HTTP and WebSocket protocols, both event loops, TLS.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import ssl
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.attack.test_pipelined import connections
from tests.server.stalled import Raw, open_files, raw, request
from tests.server.test_mount import HOSTS, hosted
from tests.server.wire import NDJSON, SSE, append, make_trace, stored, watching
from tests.support import CHECKED, Serving, certified, serving, until
from tracewatch.server import create_app
from tracewatch.server.stalls import unsent
from tracewatch.settings import Settings

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="what the kernel holds is read from /proc"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The `websockets` implementation"),
    pytest.mark.filterwarnings("ignore:remove second argument of ws_handler"),
]
STALL_S = 0.5
EVENT = 16 * 1024
WATCH, EVENTS = "/api/traces/t/watch", "/api/traces/t/events"
READERS = {
    "websocket": request(WATCH, websocket=True),
    "sse": request(EVENTS, accept=SSE),
    "ndjson": request(EVENTS + "?follow=1", accept=NDJSON),
    "page": request(EVENTS + "?limit=1000"),
}


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both event loops."""
    return ("asyncio", {"use_uvloop": True}) if request.param == "uvloop" else CHECKED


@dataclass(frozen=True)
class Kind:
    """One way of serving."""

    ws: str = ""
    http: str = ""
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.ws or 'ours'}-{self.http or 'ours'}{'-tls' if self.tls else ''}"


KINDS = [
    Kind(),
    Kind(tls=True),
    Kind(ws="websockets-sansio", http="h11"),
    Kind(http="httptools"),
    Kind(ws="websockets", http="h11"),
    Kind(ws="websockets", tls=True),
]
if importlib.util.find_spec("wsproto") is not None:
    KINDS += [Kind(ws="wsproto"), Kind(ws="wsproto", http="h11", tls=True)]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ssl.SSLContext]:
    """A certificate, as uvicorn takes it, and a client that trusts it."""
    return certified(tmp_path_factory.mktemp("tls"))


async def connected(stack: ExitStack, server: Serving, head: bytes, trust: ssl.SSLContext | None = None) -> Raw:
    """A client that has asked and reads nothing."""
    client = await asyncio.to_thread(stack.enter_context, raw(server, trust))
    await asyncio.to_thread(client.send, head)
    return client


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_who_stops_reading_is_freed(
    tmp_path: Path, kind: Kind, tls: tuple[dict[str, Any], ssl.SSLContext]
) -> None:
    files, trust = tls
    options = {name: value for name, value in (("ws", kind.ws), ("http", kind.http)) if value}
    options |= files if kind.tls else {}
    async with serving(tmp_path / "log.db", uvicorn=options, write_stall_s=STALL_S) as server:
        log, hub = server.services.log, server.services.hub
        await make_trace(log, "t")
        await append(log, "t", 64, size=EVENT)
        with ExitStack() as stack:
            one = await connected(stack, server, b"?\r\n\r\n", trust if kind.tls else None)
            await one.read_all()  # uvloop opens a file of its own with the first connection
        await until(lambda: one.state() not in ("01", "05", "08") and not connections())  # closed here as well
        before = open_files()
        with ExitStack() as stack:
            clients = [await connected(stack, server, head, trust if kind.tls else None) for head in READERS.values()]
            await until(lambda: server.services.stalls.aborted == len(clients))
            await until(lambda: all(client.state() is None for client in clients))  # not in FIN-WAIT either
            await until(lambda: hub.watchers("t") == 0)
            await until(lambda: open_files() == before + len(clients))  # their own ends
        await until(lambda: sum(server.services.observed.closed.values()) == 3)
        assert server.services.observed.closed == {(kind, "stalled"): 1 for kind in ("watch", "sse", "ndjson")}


async def test_others_get_everything_meanwhile(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", write_stall_s=STALL_S) as server:
        log, hub = server.services.log, server.services.hub
        await make_trace(log, "t")
        async with watching(server, "t") as watch:
            await watch.until("caught_up")
            with ExitStack() as stack:
                for _ in range(5):
                    await connected(stack, server, READERS["websocket"])
                await until(lambda: hub.watchers("t") == 6)
                for _ in range(40):
                    await append(log, "t", 4, size=EVENT)
                await until(lambda: hub.watchers("t") == 1)
                await append(log, "t", 1)
                assert await watch.until_events(161) == await stored(log, "t")


@pytest.mark.alone  # where it does not get its turn in time, it is slower than may be
async def test_a_slow_reader_is_not_cut(tmp_path: Path) -> None:
    """Its system says that there is room again only now and then, less often than ``write_stall_s`` in the end."""
    async with serving(tmp_path / "log.db", write_stall_s=STALL_S) as server:
        log, stalls = server.services.log, server.services.stalls
        await make_trace(log, "t")
        await append(log, "t", 64, size=EVENT)
        with ExitStack() as stack:
            client = await connected(stack, server, READERS["websocket"])
            for taken in range(64):
                await client.read(1024)
                await asyncio.sleep(STALL_S / (40 if taken < 24 else 5))
            assert stalls.aborted == 0 and client.state() == "01"


async def test_who_waits_for_news_is_not_cut(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", write_stall_s=STALL_S / 5) as server:
        await make_trace(server.services.log, "t")
        with ExitStack() as stack:
            clients = [await connected(stack, server, READERS[kind]) for kind in ("websocket", "sse", "ndjson")]
            await until(lambda: server.services.hub.watchers("t") == 3)
            await asyncio.sleep(STALL_S)  # nothing happens, and that is the point
            assert server.services.stalls.aborted == 0
            assert all(client.state() == "01" for client in clients)


async def test_a_peer_that_has_vanished_is_freed(tmp_path: Path) -> None:
    """Nothing waits in this process, but what the kernel holds is not acknowledged: so it is for a cut cable."""
    async with serving(tmp_path / "log.db", write_stall_s=STALL_S) as server:
        log = server.services.log
        await make_trace(log, "t")
        with ExitStack() as stack:
            client = await connected(stack, server, READERS["sse"])
            await until(lambda: server.services.hub.watchers("t") == 1)
            await append(log, "t", 4, size=EVENT)  # fits into the kernel's buffer, not into the client's
            await until(lambda: client.state() is None)
            await until(lambda: server.services.hub.watchers("t") == 0)


async def test_where_the_kernel_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracewatch.server.stalls.sys", SimpleNamespace(platform="darwin"))
    async with serving(tmp_path / "log.db", write_stall_s=STALL_S) as server:
        await make_trace(server.services.log, "t")
        await append(server.services.log, "t", 64, size=EVENT)
        async with watching(server, "t") as watch:
            with ExitStack() as stack:
                client = await connected(stack, server, READERS["websocket"])
                await until(lambda: client.state() is None)
            await append(server.services.log, "t", 64, size=EVENT)
            await watch.until_events(128)
            assert server.services.stalls.aborted == 1


@pytest.mark.parametrize("ws", ["websockets-sansio", "websockets"])
async def test_mounted(tmp_path: Path, ws: str) -> None:
    app = create_app(Settings(db=str(tmp_path / "log.db"), write_stall_s=STALL_S))
    async with hosted(HOSTS["fastapi"](app), ws=ws) as url:
        services = app.state.services
        server = Serving(url, services)
        await make_trace(services.log, "t")
        await append(services.log, "t", 512, size=EVENT)
        with ExitStack() as stack:
            heads = [head.replace(b"GET ", b"GET /deep/tracewatch") for head in READERS.values()]
            clients = [await connected(stack, server, head) for head in heads]
            await until(lambda: all(client.state() is None for client in clients))
            assert services.stalls.aborted == len(clients)
            await until(lambda: services.hub.watchers("t") == 0)


def test_the_kernel_is_told(tmp_path: Path) -> None:
    """What connections take over from the socket they are accepted on."""
    from tracewatch.server.run import bind

    with bind(Settings(port=0)) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 128 * 1024
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 300_000


def test_a_tls_transport_that_has_ended_has_nothing_to_send() -> None:
    """asyncio's raises AttributeError then, and the end of the server would with it."""

    class Ended(asyncio.Transport):
        def get_write_buffer_size(self) -> int:
            raise AttributeError("'NoneType' object has no attribute '_get_write_buffer_size'")

    assert unsent(Ended()) == 0
