"""uvicorn's protocols, held to account for what comes in: nothing a client sends may cost without bound.

Rule 1: what came is parsed a piece at a time, others' turns in between: a quarter of a megabyte of tiny frames, as it
        comes from a socket at once, takes seconds. And who only talks small is listened to slowly.
Rule 2: whatever is collected until something is whole (fragments, a request's head) has an end.
Rule 3: nothing is written for a client that does not read: pongs are owed to the last ping only (RFC 6455, 5.5.3).
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from .stalls import SLOW_FACTOR, progress

PIECE_BYTES = 512  # some fifty of the tiniest frames; a large one goes through in many such pieces a turn
TURN_S = 0.0005  # of parsing, all sockets together, before everything else has its turn
MAX_HEAD_BYTES = 64 * 1024  # of a request without anything of it being complete
SMALL_FRAGMENTS = 64  # of one message; more only if they carry FRAGMENT_BYTES each, on average
FRAGMENT_BYTES = 512
FREE_BYTES = 64 * 1024  # of a message that has begun: they are let through however much others send
SMALL_TALK = 16  # pings, or messages that ask for little; then the socket rests
REST_S = 0.02


class Turns:
    """The parsing of all sockets of a server: piece by piece, all together ``TURN_S`` in each turn of the loop.

    ``unfinished``: bytes that all of them hold of messages that are not whole; ``max_unfinished`` are enough.
    """

    def __init__(self, max_unfinished: int) -> None:
        self.unfinished = 0
        self.max_unfinished = max_unfinished
        self._waiting: deque[WebSocketProtocol] = deque()
        self._left = TURN_S
        self._due = False

    def enter(self, protocol: WebSocketProtocol) -> None:
        """Let it parse what it has: now, if nobody waits and there is time left, else in its turn."""
        if self._waiting or self._left <= 0 or self._parse(protocol):
            protocol.in_line = True
            protocol.hold()
            self._waiting.append(protocol)
        if not self._due:
            self._due = True
            protocol.loop.call_soon(self._go_on)

    def _parse(self, protocol: WebSocketProtocol) -> bool:
        """A piece, and more while nobody else waits. Returns whether it has more."""
        start = now = protocol.loop.time()
        more = True
        while more and now - start < self._left:
            more = protocol.parse_piece()
            now = protocol.loop.time()
            if self._waiting:
                break
        self._left -= now - start
        return more

    def _go_on(self) -> None:
        self._due = False
        self._left = TURN_S
        while self._waiting and self._left > 0:
            protocol = self._waiting.popleft()
            if self._parse(protocol):
                self._waiting.append(protocol)
            else:
                protocol.in_line = False
                protocol.hold()
        if self._waiting:
            self._due = True
            self._waiting[0].loop.call_soon(self._go_on)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that gives others their turn. ``sharing`` makes the class for one server."""

    turns: Turns

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.in_line = False  # waits for its turn
        self._rest = bytearray()  # came, and was not parsed yet
        self._resting: asyncio.TimerHandle | None = None
        self._talk = 0  # frames of small talk since the last rest
        self._fragment_bytes = 0  # of ``frames``
        self._unfinished = 0  # what ``turns`` counts of this socket
        self._patience = 0  # pongs that may still be late

    @classmethod
    def sharing(cls, max_unfinished: int) -> type[WebSocketProtocol]:
        """The class for the sockets of one server, which take turns.

        Of messages that are not whole all of them together hold about ``max_unfinished`` bytes at most.
        """
        return type(cls.__name__, (cls,), {"turns": Turns(max_unfinished)})

    def data_received(self, data: bytes) -> None:
        """Take what came and parse it, when it is this socket's turn."""
        self._rest += data
        self._count()
        self._go_on()
        if self._unfinished > FREE_BYTES and self.turns.unfinished > self.turns.max_unfinished:
            self._fail(CloseCode.TRY_AGAIN_LATER, "too much is being sent to this server at once")

    def _count(self) -> None:
        unfinished = len(self._rest) + self._fragment_bytes + len(self.conn.reader.buffer)
        self.turns.unfinished += unfinished - self._unfinished
        self._unfinished = unfinished

    def _go_on(self) -> None:
        if self._rest and not self.in_line and self._may_parse():
            self.turns.enter(self)

    def _may_parse(self) -> bool:
        # While uvicorn has paused reading, the application takes its messages first, and ``receive`` goes on
        return not (self.read_paused or self._resting)

    def parse_piece(self) -> bool:
        """Parse a piece of what came. Returns whether there is more that may be parsed."""
        if self.disconnected or self.transport.is_closing():
            self._rest.clear()
        elif self._may_parse():
            piece = bytes(self._rest[:PIECE_BYTES])
            del self._rest[:PIECE_BYTES]
            super().data_received(piece)
            self._count()
            if self._talk >= SMALL_TALK:
                self._talk = 0
                self._resting = self.loop.call_later(REST_S, self._rested)
                self.hold()
        return bool(self._rest) and self._may_parse()

    def hold(self) -> None:
        """Read from the socket, or do not while something has to be done first."""
        if self.disconnected or self.transport.is_closing():
            return
        if self.in_line or not self._may_parse():
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _rested(self) -> None:
        self._resting = None
        self._go_on()
        self.hold()

    async def receive(self) -> Any:
        """The next message."""
        message = await super().receive()
        if self._rest or self._resting:
            self._go_on()
            self.hold()  # uvicorn knows of no other reason than its own
        return message

    async def send(self, message: Any) -> None:
        """As uvicorn's. After a close it wants to hear the client's."""
        await super().send(message)
        self._go_on()

    def send_receive_event_to_app(self) -> None:
        """A message is whole. What is no text is the client's mistake and not worth a traceback."""
        self._fragment_bytes = 0
        if self.curr_msg_data_type == "text" and not _is_utf8(self.frames):
            self._fail(CloseCode.INVALID_DATA, "text that is not UTF-8")
        else:
            super().send_receive_event_to_app()

    def handle_text(self, event: Frame) -> None:
        """A message, or its first fragment."""
        self._fragment_bytes = len(event.data)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """A message, or its first fragment."""
        self._fragment_bytes = len(event.data)
        super().handle_bytes(event)

    def handle_parser_exception(self) -> None:
        """Close with the code that says why; before the handshake is over there is nothing to be closed with one."""
        if self.conn.close_sent is None:
            self.transport.abort()
        else:
            super().handle_parser_exception()

    def handle_cont(self, event: Frame) -> None:
        """One more fragment. Its bytes are counted by the parser, but those of an empty one are none."""
        self._fragment_bytes += len(event.data)
        if len(self.frames) < SMALL_FRAGMENTS or self._fragment_bytes >= len(self.frames) * FRAGMENT_BYTES:
            super().handle_cont(event)
        else:
            self._fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.frames = []
        self._fragment_bytes = 0
        if not self.close_sent:
            self.conn.fail(code, reason)
            self.handle_parser_exception()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what never became whole at once: the garbage collector counts objects, not megabytes."""
        super().connection_lost(exc)
        self.frames = []
        self._fragment_bytes = 0
        self._rest.clear()
        self.conn.reader.buffer.clear()
        self._count()
        if self._resting is not None:
            self._resting.cancel()

    def handle_ping(self) -> None:
        """Answer, unless answers pile up already."""
        self._talk += 1
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # thrown away

    def send_keepalive_ping(self) -> None:
        """Ask for a sign of life."""
        self._patience = 0
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """No pong. While the ping may lie behind what a slow reader has still to read, that says nothing."""
        sock = self.transport.get_extra_info("socket")
        if not self.transport.is_closing() and progress(self.transport, sock)[1]:
            self._patience = SLOW_FACTOR  # who takes nothing at all is found by the stall guard
        if self._patience and self.ping_timeout is not None:
            self._patience -= 1
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
        else:
            super().keepalive_timeout()


def _is_utf8(parts: Sequence[bytes]) -> bool:
    try:
        (parts[0] if len(parts) == 1 else b"".join(parts)).decode()
    except UnicodeDecodeError:
        return False
    return True


def limit_messages(protocol: object, limit: int) -> None:
    """Have a connection's parser refuse messages far above what its endpoint takes (those a little above get an error).

    Until then it holds them to what the largest endpoint takes.
    """
    if isinstance(protocol, WebSocketsSansIOProtocol):
        for name in ("max_message_size", "max_size"):  # the older name is that of websockets before 16
            if hasattr(protocol.conn, name):
                setattr(protocol.conn, name, 2 * limit)


if TYPE_CHECKING or importlib.util.find_spec("httptools") is not None:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class HttpProtocol(HttpToolsProtocol):
        """HTTP by httptools, which would collect a head, or what follows a body, without end. (h11 has a limit.)"""

        _incomplete = 0  # bytes since anything of a request was complete

        def data_received(self, data: bytes) -> None:
            """Take what came, unless there is too much of nothing."""
            super().data_received(data)
            self._incomplete += len(data)
            if self._whole:
                self._incomplete, self._whole = 0, False
            elif self._incomplete > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The request's head is too large.")

        _whole = False

        def handle_websocket_upgrade(self) -> None:
            """Hand the connection over."""
            super().handle_websocket_upgrade()
            # They hold each other: kilobytes that would wait for the garbage collector, which counts objects
            self.parser = None  # type: ignore[assignment]

        def on_headers_complete(self) -> None:
            """A head is complete."""
            self._whole = True
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            """Some of a body."""
            self._whole = True
            super().on_body(body)

    http_protocol: type[asyncio.Protocol] | str = HttpProtocol
else:
    http_protocol = "h11"
