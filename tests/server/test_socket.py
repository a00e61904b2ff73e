"""The WebSocket protocol class over a recording transport: every byte that it writes, and every state."""

from __future__ import annotations

import asyncio
import gc
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.frames import Close, Frame, Opcode
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from tests.server.stalled import request, ws_frame
from tests.support import serving, until
from tracewatch.server import socket as under_test
from tracewatch.server.socket import MAX_HEAD_BYTES, SMALL_TALK, SOCKET, Turns, WebSocketProtocol

pytestmark = pytest.mark.anyio
PING, PONG, CLOSE, CONTINUATION = 9, 10, 8, 0
HANDSHAKE = request("/a%20b?x=1", websocket=True)


class Transport:
    """What a protocol asks of a transport."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.reading = True
        self.closing = self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.closing, "written after the end"
        self.written += data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closing = True  # nothing is written after it

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self.limits = (high, low)

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("192.0.2.1", 5, 0, 0), "sockname": "/run/tracewatch.sock"}.get(name)


class Peer:
    """A protocol on such a transport, the application's end of it, and the client's."""

    def __init__(self, **options: Any) -> None:
        self.turns = Turns(1 << 20)
        self.connections: set[Any] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.transport = Transport()
        self.asked: asyncio.Future[tuple[Scope, Receive, Send]] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        self.raises: BaseException | None = None  # what the application ends with
        self.protocol = WebSocketProtocol(
            self._app, self.turns, connections=self.connections, tasks=self.tasks, **{"ping_s": None, **options}
        )
        self.protocol.connection_made(cast(asyncio.Transport, self.transport))

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set_result((scope, receive, send))
        await self.over.wait()
        if self.raises is not None:
            raise self.raises

    async def ask(self, head: bytes = HANDSHAKE) -> Scope:
        """The handshake's request, and the scope that the application gets."""
        self.protocol.data_received(head)
        scope, self.receive, self.send = await self.asked
        assert await self.receive() == {"type": "websocket.connect"}
        return scope

    async def open(self) -> None:
        """The whole handshake."""
        await self.ask()
        await self.send({"type": "websocket.accept"})
        assert self.said().startswith(b"HTTP/1.1 101 Switching Protocols\r\n")

    async def end(self) -> None:
        """The application returns."""
        self.over.set()
        await asyncio.gather(*self.tasks)

    def lose(self) -> None:
        """The connection is lost."""
        self.transport.closing = True
        self.protocol.connection_lost(None)

    def said(self) -> bytes:
        """What was written since this was asked last."""
        said = bytes(self.transport.written)
        self.transport.written.clear()
        return said

    def frames(self) -> list[Frame]:
        """The same as frames."""
        reader, found = StreamReader(), []
        reader.feed_data(self.said())
        reader.feed_eof()
        while reader.buffer:
            parsing = Frame.parse(reader.read_exact, mask=False)
            try:
                next(parsing)
            except StopIteration as done:
                found.append(done.value)
        return found

    def close_frame(self) -> Close:
        """The close frame that was written, alone."""
        (frame,) = self.frames()
        assert frame.opcode is Opcode.CLOSE
        return Close.parse(frame.data)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    yield made
    if not made.transport.closing:
        made.lose()
    await made.end()


def close_frame(code: int, reason: str = "") -> bytes:
    return ws_frame(struct.pack("!H", code) + reason.encode(), CLOSE)


async def turned() -> None:
    """The parsing that is due has happened."""
    for _ in range(20):
        await asyncio.sleep(0)


# --- the handshake ---


async def test_what_the_application_is_told(peer: Peer) -> None:
    head = HANDSHAKE[:-2] + b"X-Odd: \xff\xe4\r\nSec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\n\r\n"
    scope = await peer.ask(head)
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"x=1")
    assert (b"x-odd", b"\xff\xe4") in scope["headers"]
    assert scope["subprotocols"] == ["a", "b", "c"]
    assert scope["client"] == ("192.0.2.1", 5) and scope["server"] == ("/run/tracewatch.sock", None)
    assert (scope["type"], scope["scheme"], scope["http_version"]) == ("websocket", "ws", "1.1")
    assert scope["extensions"] == {"websocket.http.response": {}, SOCKET: peer.protocol}
    assert peer.protocol.transport is cast(Any, peer.transport)


async def test_root_path_state_and_headers() -> None:
    state = {"a": 1}
    peer = Peer(root_path="/deep", state=state, headers=[(b"date", b"now")])
    scope = await peer.ask()
    assert (scope["path"], scope["root_path"]) == ("/deep/a b", "/deep")
    assert scope["state"] == state and scope["state"] is not state
    await peer.send({"type": "websocket.accept", "subprotocol": "a", "headers": [(b"X-More", b"yes")]})
    lines = peer.said().decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 101 Switching Protocols" and lines[-2:] == ["", ""]
    assert [one for one in lines[1:-2] if not one.startswith("Sec-WebSocket-Accept: ")] == [
        *("Upgrade: websocket", "Connection: Upgrade", "date: now", "x-more: yes", "Sec-WebSocket-Protocol: a")
    ]
    peer.lose()
    await peer.end()


async def test_a_head_that_comes_in_parts(peer: Peer) -> None:
    for byte in HANDSHAKE:
        assert peer.said() == b""
        peer.protocol.data_received(bytes([byte]))
    await peer.asked


async def test_a_head_without_end_is_cut(peer: Peer) -> None:
    peer.protocol.data_received(HANDSHAKE[:-2] + b"x" * MAX_HEAD_BYTES)
    assert peer.transport.aborted and peer.said() == b""


REFUSED = {
    "another version": (HANDSHAKE.replace(b"Version: 13", b"Version: 12"), b"HTTP/1.1 400 "),
    "another method": (HANDSHAKE.replace(b"GET ", b"POST "), b"HTTP/1.1 405 "),
    "no upgrade": (HANDSHAKE.replace(b"Upgrade: websocket", b"Upgrade: tea"), b"HTTP/1.1 426 "),
    "a long line": (HANDSHAKE[:-2] + b"X: " + b"x" * 9000 + b"\r\n\r\n", b"HTTP/1.1 431 "),
    "many lines": (HANDSHAKE[:-2] + b"X: x\r\n" * 200 + b"\r\n", b"HTTP/1.1 431 "),
    "a long address": (HANDSHAKE.replace(b"x=1", b"x" * 9000), b"HTTP/1.1 414 "),
    "a body": (HANDSHAKE[:-2] + b"Content-Length: 5\r\n\r\n", b"HTTP/1.1 400 "),
    "a body in chunks": (HANDSHAKE[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 400 "),
    "nothing": (b"\r\n\r\n", b"HTTP/1.1 400 "),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_a_request_that_is_no_handshake_is_answered_and_closed(peer: Peer, why: str) -> None:
    head, expected = REFUSED[why]
    peer.protocol.data_received(head)
    assert peer.said().startswith(expected)
    assert peer.transport.closing and not peer.tasks


@pytest.mark.parametrize("why", [why for why in REFUSED if why not in ("no upgrade", "nothing")])
async def test_nor_does_it_stay_connected_to_a_server(tmp_path: Any, why: str) -> None:
    """Each of these took one of the connections that a server may have, for good."""
    async with serving(tmp_path / "log.db") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        writer.write(REFUSED[why][0])
        # So many headers are refused before the request is known to be for a WebSocket
        expected = b"HTTP/1.1 400 " if why == "many lines" else REFUSED[why][1]
        async with asyncio.timeout(60):
            assert (await reader.read()).startswith(expected)
        writer.close()


async def test_what_comes_before_the_application_has_accepted_waits(peer: Peer) -> None:
    await peer.ask(HANDSHAKE + ws_frame(b"early"))
    peer.protocol.data_received(ws_frame(b"", PING))
    assert not peer.transport.reading and peer.said() == b""
    await peer.send({"type": "websocket.accept"})
    assert peer.said().partition(b"\r\n\r\n")[2] == b"\x8a\0"  # the pong
    assert await peer.receive() == {"type": "websocket.receive", "text": "early"}
    assert peer.transport.reading


async def test_refused_with_a_close(peer: Peer) -> None:
    await peer.ask()
    await peer.send({"type": "websocket.close", "code": 4000})
    assert peer.said().startswith(b"HTTP/1.1 403 Forbidden\r\n") and peer.transport.closing
    assert (await peer.receive())["code"] == 1006
    with pytest.raises(OSError):
        await peer.send({"type": "websocket.accept"})


@pytest.mark.parametrize(("status", "line"), [(401, b"HTTP/1.1 401 Unauthorized\r\n"), (499, b"HTTP/1.1 499 \r\n")])
async def test_refused_with_a_response(peer: Peer, status: int, line: bytes) -> None:
    await peer.ask()
    headers = [(b"content-type", b"application/json")]
    await peer.send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await peer.send({"type": "websocket.http.response.body", "body": b"{", "more_body": True})
    assert peer.said() == b""
    await peer.send({"type": "websocket.http.response.body", "body": b"}"})
    said = peer.said()
    assert said.startswith(line) and said.endswith(b"\r\n\r\n{}")
    assert b"content-type: application/json\r\n" in said and b"Content-Length: 2\r\n" in said
    assert peer.transport.closing


@pytest.mark.parametrize("raises", [None, ZeroDivisionError()], ids=["returns", "raises"])
async def test_an_application_that_does_not_answer(peer: Peer, raises: Exception | None) -> None:
    await peer.ask()
    peer.raises = raises
    await peer.end()
    assert peer.said().startswith(b"HTTP/1.1 500 ") and peer.transport.closing


async def test_messages_out_of_order_are_refused(peer: Peer) -> None:
    await peer.ask()
    with pytest.raises(RuntimeError):
        await peer.send({"type": "websocket.send", "text": "x"})
    await peer.send({"type": "websocket.accept"})
    with pytest.raises(RuntimeError):
        await peer.send({"type": "websocket.accept"})


# --- messages ---


async def test_messages_both_ways(peer: Peer) -> None:
    await peer.open()
    await peer.send({"type": "websocket.send", "text": "é"})
    await peer.send({"type": "websocket.send", "bytes": b"\xff", "text": None})
    assert [(frame.opcode, bytes(frame.data)) for frame in peer.frames()] == [
        (Opcode.TEXT, "é".encode()),
        (Opcode.BINARY, b"\xff"),
    ]
    half = "é".encode()[:1]
    parts = ws_frame(half, 1, fin=False) + ws_frame(b"!", PING) + ws_frame("é".encode()[1:], CONTINUATION)
    peer.protocol.data_received(parts + ws_frame(b"\xff", 2))
    assert await peer.receive() == {"type": "websocket.receive", "text": "é"}
    assert await peer.receive() == {"type": "websocket.receive", "bytes": b"\xff"}
    assert [bytes(frame.data) for frame in peer.frames()] == [b"!"]


async def test_receive_waits_for_one_at_a_time(peer: Peer) -> None:
    await peer.open()
    waiting = asyncio.ensure_future(peer.receive())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await peer.receive()
    peer.protocol.data_received(ws_frame(b"x"))
    assert (await waiting)["text"] == "x"
    given_up = asyncio.ensure_future(peer.receive())
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    peer.protocol.data_received(ws_frame(b"y"))
    assert (await peer.receive())["text"] == "y"


async def test_what_nobody_takes_stops_the_reading(peer: Peer) -> None:
    await peer.open()
    peer.protocol.data_received(ws_frame(b"1"))
    assert peer.transport.reading  # nothing waits to be parsed
    peer.protocol.data_received(ws_frame(b"2"))
    assert not peer.transport.reading
    assert [(await peer.receive())["text"] for _ in range(2)] == ["1", "2"]
    assert peer.transport.reading


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (ws_frame(b"\xff"), 1007),
        (ws_frame(b"x", CONTINUATION), 1002),
        (ws_frame(b"x", 3), 1002),
        (b"\x81\x01x", 1002),  # not masked
        (b"\xc1\x80\0\0\0\0", 1002),  # as if compression had been agreed on
        (ws_frame(b"x", 1, fin=False) + ws_frame(b"x"), 1002),
        (close_frame(1005), 1002),
        (ws_frame(b"x", CLOSE), 1002),
        (close_frame(1000)[:-2] + b"\xff\xff", 1002),
        (b"\x81\xff" + (1 << 40).to_bytes(8) + b"\0\0\0\0", 1009),
        (ws_frame(b"x" * 3001), 1009),
        (ws_frame(b"x" * 2000, 1, fin=False) + ws_frame(b"x" * 1001, CONTINUATION), 1009),
        (ws_frame(b"", 1, fin=False) + ws_frame(b"", CONTINUATION, fin=False) * 100, 1009),
    ],
)
async def test_what_breaks_the_protocol_is_closed_with_a_code(sent: bytes, code: int) -> None:
    peer = Peer(max_message_bytes=3000)
    await peer.open()
    peer.protocol.data_received(sent + ws_frame(b"more"))
    await turned()
    assert peer.close_frame().code == code and peer.transport.closing
    assert (await peer.receive())["code"] == code
    assert (await peer.receive())["code"] == code  # however often it is asked
    await peer.end()
    peer.lose()


async def test_the_limit_on_messages_is_the_endpoints(peer: Peer) -> None:
    await peer.ask()
    peer.protocol.max_message_bytes = 10
    await peer.send({"type": "websocket.accept"})
    peer.said()
    peer.protocol.data_received(ws_frame(b"x" * 11))
    assert peer.close_frame().code == 1009


async def test_unfinished_messages_of_all_are_counted(peer: Peer) -> None:
    await peer.open()
    begun = ws_frame(b"x" * 70_000, 1, fin=False)
    peer.protocol.data_received(begun)
    await until(lambda: not peer.protocol.in_line)
    assert peer.turns.unfinished == 70_000
    peer.protocol.data_received(begun[:1000])
    await until(lambda: not peer.protocol.in_line)
    peer.turns.max_unfinished = 100
    peer.protocol.data_received(b"x")
    assert peer.close_frame().code in (1002, 1013)
    peer.lose()
    assert peer.turns.unfinished == 0


# --- room, pings ---


async def test_writing_waits_for_room(peer: Peer) -> None:
    await peer.open()
    peer.protocol.pause_writing()
    sending = [asyncio.ensure_future(peer.send({"type": "websocket.send", "text": str(n)})) for n in range(3)]
    await turned()
    assert peer.said() == b""
    peer.protocol.resume_writing()
    peer.protocol.pause_writing()
    await turned()
    assert peer.said() == b"", "the room was filled again before they were woken"
    peer.protocol.resume_writing()
    await asyncio.gather(*sending)
    assert [bytes(frame.data) for frame in peer.frames()] == [b"0", b"1", b"2"]


async def test_who_waits_for_room_hears_of_the_end(peer: Peer) -> None:
    await peer.open()
    peer.protocol.pause_writing()
    sending = asyncio.ensure_future(peer.send({"type": "websocket.send", "text": "x"}))
    await asyncio.sleep(0)
    peer.lose()
    with pytest.raises(OSError):
        await sending
    assert peer.protocol.closed
    peer.protocol.write(b"nothing happens")


async def test_direct_use(peer: Peer) -> None:
    await peer.ask()
    peer.protocol.write(b"not yet")
    assert peer.said() == b"" and peer.protocol.closed
    await peer.send({"type": "websocket.accept"})
    peer.said()
    peer.protocol.limit_buffer(high=10, low=5)
    assert peer.transport.limits == (10, 5)
    peer.protocol.write(b"\x81\x01x")
    assert peer.said() == b"\x81\x01x" and not peer.protocol.closed
    await peer.send({"type": "websocket.close"})
    peer.said()
    peer.protocol.write(b"\x81\x01x")
    assert peer.said() == b"" and peer.protocol.closed, "no frame follows a close frame"


async def test_pongs_are_dropped_while_nobody_reads(peer: Peer) -> None:
    await peer.open()
    peer.protocol.pause_writing()
    peer.protocol.data_received(ws_frame(b"1", PING))
    assert peer.said() == b""
    peer.protocol.resume_writing()
    peer.protocol.data_received(ws_frame(b"2", PING))
    assert [bytes(frame.data) for frame in peer.frames()] == [b"2"]
    peer.protocol.pause_writing()
    peer.protocol.data_received(close_frame(1000))
    assert peer.close_frame().code == 1000, "but the answer to a close is not"


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_control_frames_without_end_are_read_slowly(
    peer: Peer, opcode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "REST_S", 1000)
    monkeypatch.setattr(under_test, "PIECE_BYTES", 6)  # one frame
    await peer.open()
    peer.protocol.data_received(ws_frame(b"", opcode) * (SMALL_TALK + 1))
    await turned()
    assert len(peer.frames()) == (SMALL_TALK if opcode == PING else 0) and not peer.transport.reading


async def test_pings_and_their_pongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "progress", lambda *_: (0, True))  # a pong may be late
    peer = Peer(ping_s=0.01)
    await peer.open()
    for _ in range(3):
        await until(lambda: peer.transport.written)
        (ping,) = peer.frames()
        assert ping.opcode is Opcode.PING and len(ping.data) == 4
        peer.protocol.data_received(ws_frame(b"else", PONG) + ws_frame(bytes(ping.data), PONG))
    peer.lose()
    assert peer.protocol._timer is None
    await peer.end()


async def test_no_pong(monkeypatch: pytest.MonkeyPatch) -> None:
    """It closes the socket, but not while the ping may lie behind what is still to be read."""
    monkeypatch.setattr(under_test, "SLOW_FACTOR", 2)
    waiting = [True] * 3
    monkeypatch.setattr(under_test, "progress", lambda *_: (0, bool(waiting) and waiting.pop()))
    peer = Peer(ping_s=0.001)
    await peer.open()
    peer.protocol.data_received(ws_frame(b"wrong", PONG))
    await until(lambda: peer.transport.closing)
    ping, close = peer.frames()
    assert ping.opcode is Opcode.PING and not waiting
    assert Close.parse(close.data) == Close(1011, "keepalive ping timeout")
    assert (await peer.receive())["code"] == 1011
    peer.lose()
    await peer.end()


# --- the end ---


async def test_the_client_closes(peer: Peer) -> None:
    await peer.open()
    peer.protocol.data_received(ws_frame(b"last") + close_frame(4321, "enough") + b"garbage")
    assert peer.close_frame() == Close(4321, "enough") and peer.transport.closing
    assert (await peer.receive())["text"] == "last"
    assert await peer.receive() == {"type": "websocket.disconnect", "code": 4321, "reason": "enough"}
    with pytest.raises(OSError):
        await peer.send({"type": "websocket.send", "text": "x"})


async def test_the_client_closes_without_a_code(peer: Peer) -> None:
    await peer.open()
    peer.protocol.data_received(ws_frame(b"", CLOSE))
    assert [bytes(frame.data) for frame in peer.frames()] == [b""]
    assert (await peer.receive())["code"] == 1005


async def test_the_application_closes(peer: Peer) -> None:
    await peer.open()
    await peer.send({"type": "websocket.close", "code": 4500, "reason": "too_large"})
    assert peer.close_frame() == Close(4500, "too_large")
    assert (await peer.receive())["code"] == 4500
    peer.protocol.data_received(ws_frame(b"late") + ws_frame(b"", PING))
    await peer.end()
    assert not peer.transport.closing and peer.said() == b"", "the client's close frame is awaited"
    peer.protocol.data_received(close_frame(4500))
    assert peer.transport.closing and peer.said() == b""


async def test_a_client_that_does_not_close_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "CLOSE_S", 0.001)
    peer = Peer()
    await peer.open()
    await peer.send({"type": "websocket.close"})
    await until(lambda: peer.transport.closing)
    peer.lose()
    await peer.end()


async def test_what_the_application_has_not_taken_does_not_hide_the_clients_close(peer: Peer) -> None:
    await peer.open()
    peer.protocol.data_received(ws_frame(b"1"))
    peer.protocol.data_received(ws_frame(b"2") + close_frame(1000))
    assert not peer.transport.reading
    await peer.send({"type": "websocket.close"})
    assert peer.transport.closing


@pytest.mark.parametrize(("raises", "code"), [(None, None), (ZeroDivisionError(), 1011)])
async def test_the_application_ends(peer: Peer, raises: Exception | None, code: int | None) -> None:
    await peer.open()
    peer.raises = raises
    await peer.end()
    assert [Close.parse(frame.data).code for frame in peer.frames()] == ([] if code is None else [code])
    assert peer.transport.closing


async def test_the_connection_is_lost(peer: Peer) -> None:
    await peer.open()
    waiting = asyncio.ensure_future(peer.receive())
    await asyncio.sleep(0)
    assert peer.connections == {peer.protocol}
    peer.protocol.data_received(ws_frame(b"half")[:-1])
    peer.lose()
    assert await waiting == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    assert not peer.connections and peer.turns.unfinished == 0
    peer.protocol.data_received(b"x")
    peer.protocol.shutdown()


@pytest.mark.parametrize("accepted", [False, True])
async def test_a_client_that_leaves_early_is_no_error(
    peer: Peer, accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    websocket = WebSocket(await peer.ask(), peer.receive, peer.send)
    said: list[Message] = [{"type": "websocket.accept"}, {"type": "websocket.send", "text": "x"}]
    if accepted:
        await websocket.send(said.pop(0))
    peer.lose()
    with pytest.raises((OSError, WebSocketDisconnect)) as gone:
        await websocket.send(said[0])
    peer.raises = gone.value
    await peer.end()
    assert [record for record in caplog.records if record.name.startswith("tracewatch")] == []


@pytest.mark.parametrize("stage", ["open", "asked", "closing"])
async def test_the_server_ends(peer: Peer, stage: str) -> None:
    await (peer.ask if stage == "asked" else peer.open)()
    if stage == "closing":
        await peer.send({"type": "websocket.close"})
        peer.said()
    peer.protocol.shutdown()
    assert peer.transport.closing
    if stage == "open":
        assert peer.close_frame().code == 1012
        assert (await peer.receive())["code"] == 1012
    else:
        assert peer.said().startswith(b"HTTP/1.1 500 " if stage == "asked" else b"")


Visit = Callable[[Peer], Awaitable[None]]


async def leaves(peer: Peer) -> None:
    peer.protocol.data_received(close_frame(1000))


async def breaks_the_protocol(peer: Peer) -> None:
    peer.protocol.data_received(ws_frame(b"x" * 70_000, 7))


async def vanishes(peer: Peer) -> None:
    peer.protocol.data_received(ws_frame(b"half")[:-1])


async def is_refused(peer: Peer) -> None:
    with pytest.raises(RuntimeError):
        await peer.send({"type": "nonsense"})


@pytest.mark.parametrize("visit", [leaves, breaks_the_protocol, vanishes, is_refused])
async def test_nothing_is_left_to_the_collector(visit: Visit) -> None:
    gc.collect()
    gc.disable()
    try:
        before = {id(one) for one in gc.get_objects() if type(one) in (WebSocketProtocol, ServerProtocol)}
        peer = Peer(ping_s=1000)
        await peer.open()
        await visit(peer)
        await turned()
        peer.lose()
        await peer.end()
        vars(peer).clear()  # the application of these tests holds the protocol
        await turned()
        left = [one for one in gc.get_objects() if type(one) in (WebSocketProtocol, ServerProtocol)]
        assert [one for one in left if id(one) not in before] == []
    finally:
        gc.enable()
