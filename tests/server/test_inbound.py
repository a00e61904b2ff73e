"""Clients that send without end: they cost bounded memory, and other clients get their turn."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.server import ServerProtocol

from tests.server.stalled import Raw, raw, request, ws_frame
from tests.server.wire import append, http, make_trace, socket, watching
from tests.support import serving, until
from tracewatch.server.socket import PIECE_BYTES, REST_S, SMALL_TALK

pytestmark = pytest.mark.anyio
WATCH = request("/api/traces/t/watch", websocket=True)


async def shout(client: Raw, data: bytes) -> None:
    """Send it all, reading nothing; the server may cut it off."""
    with suppress(OSError):
        await asyncio.to_thread(client.send, data)


async def test_pings_that_nobody_reads_the_pongs_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracewatch.server.socket.REST_S", 0)  # 20,000 of them would take a while
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
    received = ServerProtocol.receive_data

    def noted(self: ServerProtocol, data: bytes) -> None:
        pieces.append(len(data))
        received(self, data)

    monkeypatch.setattr(ServerProtocol, "receive_data", noted)
    async with serving(tmp_path / "log.db") as server:
        await make_trace(server.services.log, "t")
        async with watching(server, "t") as watch, watching(server, "t") as loud:
            await loud.until("caught_up")
            await watch.until("caught_up")
            pieces.clear()
            loud.ws.transport.write(ws_frame(b"{}") * 2_000 + ws_frame(b'{"event":"ping","id":1}'))
            await append(server.services.log, "t", 1)
            await watch.until_events(1)
            assert sum(pieces) < 8_000  # long before all was looked at
            await loud.until("pong", id=1)  # and nothing was lost or mixed up
            assert sum(pieces) > 16_000
            assert max(pieces) <= PIECE_BYTES


@pytest.mark.parametrize(
    "small", [ws_frame(b"ping"), ws_frame(b"x" * 60, 9), ws_frame(b'{"x":1}')], ids=["ping", "PING", "x"]
)
async def test_small_talk_without_end_is_listened_to_slowly(tmp_path: Path, small: bytes) -> None:
    async with serving(tmp_path / "log.db") as server:
        await make_trace(server.services.log, "t")
        loop = asyncio.get_running_loop()
        async with watching(server, "t") as watch:
            await watch.until("caught_up")
            since = loop.time()
            watch.ws.transport.write(small * 10 * SMALL_TALK + ws_frame(b'{"event":"ping","id":1}'))
            await watch.until("pong", id=1)
            assert loop.time() - since >= 6 * REST_S  # it can't be quicker, on any machine


async def test_appends_are_no_small_talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracewatch.server.endpoint.REST_S", 1000)
    async with serving(tmp_path / "log.db") as server:
        await make_trace(server.services.log, "t")
        async with socket(server, "/api/traces/t/record") as record:
            for _ in range(3 * SMALL_TALK):
                await record.ws.send('{"append":{"events":[{"event":"x"}]}}')
            while (await record.frame()).get("ack", {}).get("last_event_id") != 3 * SMALL_TALK:
                pass


async def test_parsing_is_shared_by_all_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two turns of the loop all together get what one alone would get."""
    monkeypatch.setattr("tracewatch.server.socket.TURN_S", 1e-9)  # spent by the first piece
    turn, pieces = 0, list[int]()
    received = ServerProtocol.receive_data

    def noted(self: ServerProtocol, data: bytes) -> None:
        pieces.append(turn)
        received(self, data)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)
            turn += 1

    async with serving(tmp_path / "log.db") as server:
        await make_trace(server.services.log, "t")
        counting = asyncio.create_task(count_turns())
        async with AsyncExitStack() as stack:
            watches = [await stack.enter_async_context(watching(server, "t")) for _ in range(4)]
            for watch in watches:
                await watch.until("caught_up")
            monkeypatch.setattr(ServerProtocol, "receive_data", noted)
            for watch in watches:
                watch.ws.transport.write(ws_frame(b" " * 8_000))
            for watch in watches:
                assert await watch.closed() == 4500  # blanks are no JSON
        counting.cancel()
    assert len(pieces) > 4 * 8_000 / PIECE_BYTES
    assert max(map(pieces.count, pieces)) <= 2  # one of those in line, and one that found nobody there


async def test_text_that_is_no_utf8_is_the_clients_mistake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path / "log.db") as server:
        await make_trace(server.services.log, "t")
        for parts in (ws_frame(b"\xff"), ws_frame(b"\xe2", 1, fin=False) + ws_frame(b"\x82", 0)):
            async with socket(server, "/api/traces/t/watch") as watch:
                watch.ws.transport.write(parts)
                assert await watch.closed() == 1007
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


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


async def test_all_messages_that_have_begun_are_bounded_together(tmp_path: Path) -> None:
    begun = ws_frame(b"[" * 150_000, 1, fin=False)
    large = {"append": {"events": [{"event": "x", "pad": "x" * 200_000}]}}
    async with serving(tmp_path / "log.db", max_waiting_bytes=250_000) as server, AsyncExitStack() as stack:
        await make_trace(server.services.log, "t")
        sockets = [await stack.enter_async_context(socket(server, "/api/traces/t/record")) for _ in range(3)]
        one, two, other = sockets
        for record in sockets:
            await record.frame()
        one.ws.transport.write(begun)
        await (await one.ws.ping())  # between two fragments; so all before it has come
        two.ws.transport.write(begun)
        assert await two.closed() == 1013
        await other.say({"append": {"events": [{"event": "small"}]}})
        assert "ack" in await other.frame()
        one.ws.transport.abort()
        for _ in range(100):  # until the server knows that they have gone
            async with socket(server, "/api/traces/t/record") as again:
                with suppress(ConnectionClosed):
                    await again.frame()
                    await again.say(large)
                    if "ack" in await again.frame():
                        return
        raise AssertionError("what is left of connections that have gone is in the way")


async def test_what_is_sent_before_the_handshake_is_over_counts_as_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = ws_frame(b"[" * 200_000, 1, fin=False)
    async with serving(tmp_path / "log.db", max_waiting_bytes=100_000) as server:
        await make_trace(server.services.log, "t")
        with raw(server) as client:
            await shout(client, WATCH + begun)
            await until(lambda: client.state() not in ("01", "08"))
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
