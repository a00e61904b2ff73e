"""What clients send without end: bounded in memory, and others have their turn."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from tests.server.stalled import Raw, raw, request, ws_frame
from tests.server.wire import append, http, make_trace, socket, watching
from tests.support import serving, until

pytestmark = pytest.mark.anyio
WATCH = request("/api/traces/t/watch", websocket=True)


async def shout(client: Raw, data: bytes) -> None:
    """Send it all, reading nothing; the server may cut it off."""
    with suppress(OSError):
        await asyncio.to_thread(client.send, data)


async def test_pings_that_nobody_reads_the_pongs_of(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", send_buffer=65536) as server:
        await make_trace(server.services.log, "t")
        with raw(server) as client:
            client.send(WATCH)
            await until(lambda: server.services.hub.watchers("t") == 1)
            (watcher,) = server.services.hub._watchers
            shouting = asyncio.create_task(shout(client, ws_frame(b"x" * 125, 9) * 20_000 + ws_frame(b'{"cancel":{}}')))
            most = 0

            def cancelled() -> bool:
                nonlocal most
                most = max(most, watcher.sink.buffered())
                return watcher.lag + watcher.cursor > 0

            await until(cancelled)  # so all that came before was taken
            assert 0 < most < 256 * 1024, most
            await shouting


async def test_fragments_without_end(tmp_path: Path) -> None:
    """Empty, so that they never come to the limit on bytes; tiny, so that each costs more than it carries."""
    async with serving(tmp_path / "log.db") as server:
        await make_trace(server.services.log, "t")
        for fragment in (b"", b"x"):
            async with socket(server, "/api/traces/t/watch") as watch:
                raw_write = watch.ws.transport.write
                raw_write(ws_frame(b"", 1, fin=False) + ws_frame(fragment, 0, fin=False) * 5000)
                assert await watch.closed() == 1009


async def test_a_message_far_above_the_limit_is_not_collected(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", max_ws_bytes=2000) as server:
        await make_trace(server.services.log, "t")
        for path, code in (("/api/traces/t/watch", 1009), ("/api/watch", 1009), ("/api/traces/t/record", 4500)):
            async with socket(server, path) as watch:
                await watch.ws.send("x" * 5000)
                assert await watch.closed() == code, path


async def test_tiny_frames_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is a turn of the loop; in between others get what they wait for."""
    pieces: list[int] = []
    received = WebSocketsSansIOProtocol.data_received

    def noted(self: WebSocketsSansIOProtocol, data: bytes) -> None:
        pieces.append(len(data))
        received(self, data)

    monkeypatch.setattr(WebSocketsSansIOProtocol, "data_received", noted)
    async with serving(tmp_path / "log.db") as server:
        await make_trace(server.services.log, "t")
        async with watching(server, "t") as watch, watching(server, "t") as loud:
            await loud.until("caught_up")
            await watch.until("caught_up")
            pieces.clear()
            loud.ws.transport.write(ws_frame(b"{}") * 15_000 + ws_frame(b'{"event":"ping","id":1}'))
            await append(server.services.log, "t", 1)
            await watch.until_events(1)
            assert sum(pieces) < 60_000  # long before all was looked at
            await loud.until("pong", id=1)  # and nothing was lost or mixed up
            assert sum(pieces) > 100_000
            assert max(pieces) <= 4096


async def test_a_slow_reader_answers_pings_late(tmp_path: Path) -> None:
    """The ping lies behind what it has still to read."""
    settings = {"ws_ping_s": 0.2, "write_stall_s": 3}
    async with serving(tmp_path / "log.db", send_buffer=65536, **settings) as server:  # type: ignore[arg-type]
        log = server.services.log
        await make_trace(log, "t")
        await append(log, "t", 64, size=16 * 1024)
        with raw(server) as client:
            client.send(WATCH)
            for _ in range(40):
                assert await client.read(2048)
                await asyncio.sleep(0.05)
            taken = 0
            while taken < 56 * 16 * 1024:  # nearly all but what it has had: it was not closed
                more = await client.read()
                assert more
                taken += len(more)


async def test_a_head_without_end(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", request_stall_s=60) as server:
        with ExitStack() as stack:
            for begin in (
                b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
                b"GET /",
                b"POST /api/traces HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
            ):
                client = stack.enter_context(raw(server))
                await shout(client, begin + b"x" * 2_000_000)
                await until(lambda client=client: client.state() not in ("01", "08"))  # type: ignore[misc]


async def test_all_bodies_together_are_bounded(tmp_path: Path) -> None:
    head = b"POST /api/traces HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    async with serving(tmp_path / "log.db", max_waiting_bytes=150_000) as server, http(server) as client:
        with ExitStack() as stack:
            slow = [stack.enter_context(raw(server)) for _ in range(3)]
            for one in slow[:2]:
                one.send(head + b" " * 70_000)
            await until(lambda: server.services.coming.bytes == 140_000)
            slow[2].send(head + b" " * 70_000)
            assert (await slow[2].read()).startswith(b"HTTP/1.1 503")
            assert (await client.post("/api/traces", json={"task": "x"})).status_code == 201  # what is small has room
        await until(lambda: server.services.coming.bytes == 0)
