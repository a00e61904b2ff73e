"""uvicorn's protocols, held to account for what comes in: nothing a client sends may cost without bound.

Rule 1: what came is parsed a piece at a time, others' turns in between: a quarter of a megabyte of tiny frames, as it
        comes from a socket at once, takes seconds.
Rule 2: whatever is collected until something is whole (fragments, a request's head) has an end.
Rule 3: nothing is written for a client that does not read: pongs are owed to the last ping only (RFC 6455, 5.5.3).
"""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from .stalls import SLOW_FACTOR, progress

PIECE_BYTES = 512  # some fifty of the tiniest frames; a large one goes through in many such pieces a turn
TURN_S = 0.001  # of parsing before others have theirs
MAX_FRAGMENTS = 1024  # of one message
MAX_HEAD_BYTES = 64 * 1024  # of a request without anything of it being complete


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that gives others their turn."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._rest = bytearray()  # came, and was not parsed yet; meanwhile nothing is read
        self._due = False
        self._patience = 0  # pongs that may still be late

    def data_received(self, data: bytes) -> None:
        """Take what came; what is more than a piece, piece by piece."""
        if not self._rest and len(data) <= PIECE_BYTES:
            super().data_received(data)
            return
        self._rest += data
        self._go_on_soon()

    def _go_on_soon(self) -> None:
        self.transport.pause_reading()
        if not self._due:
            self._due = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._due = False
        if self.disconnected or self.transport.is_closing():
            self._rest.clear()
        elif not self.read_paused:  # else the application takes its messages first, and ``receive`` goes on
            end = self.loop.time() + TURN_S
            while self._rest and not self.read_paused:
                piece = bytes(self._rest[:PIECE_BYTES])
                del self._rest[:PIECE_BYTES]
                super().data_received(piece)
                if self.transport.is_closing() or self.loop.time() > end:
                    break
            if self._rest:
                self._go_on_soon()
            elif not self.read_paused:
                self.transport.resume_reading()

    async def receive(self) -> Any:
        """The next message."""
        message = await super().receive()
        if self._rest and not self.read_paused:
            self._go_on_soon()
        return message

    async def send(self, message: Any) -> None:
        """As uvicorn's. After a close it wants to hear the client's."""
        await super().send(message)
        if self._rest and not self.read_paused:
            self._go_on_soon()

    def handle_cont(self, event: Frame) -> None:
        """One more fragment. Its bytes are counted by the parser, but those of an empty one are none."""
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what never became whole at once: the garbage collector counts objects, not megabytes."""
        super().connection_lost(exc)
        self.frames = []
        self._rest.clear()

    def handle_ping(self) -> None:
        """Answer, unless answers pile up already."""
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
