"""The transports' ends of the hub: a WebSocket written to directly, one behind ASGI, and a streamed response.

Rule 1: A server's WebSocket frame without compression is the same bytes for every client (RFC 6455, section 5.1: only
        clients mask). So whole frames are written to a socket as they are, which costs a quarter of the CPU of one ASGI
        ``send`` for each frame.
Rule 2: Where the socket can't be had (another server, a wrapped ``send``) frames go through ASGI, and nothing else
        changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from starlette.types import Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..live.sink import Frame, Sink, SinkClosed
from ..model.frames import sse_control, ws_text
from .stalls import unsent


class DirectSocket(Protocol):
    """A WebSocket that takes whole frames: ours (socket.py), or one of uvicorn's (uvicorn.py)."""

    @property
    def transport(self) -> asyncio.Transport:
        """What it writes to."""

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""

    def write(self, data: bytes) -> None:
        """Hand over whole frames, as a server sends them. Nothing happens once the socket is closed."""

    async def ready(self) -> None:
        """Wait until the client has taken enough of what was written, or the connection is lost."""

    def limit_buffer(self, high: int, low: int) -> None:
        """Have ``ready`` wait above ``high`` bytes, until there are ``low``."""


class TransportSink:
    """A WebSocket that is written to directly."""

    __slots__ = ("_socket", "_transport")
    direct = True

    def __init__(self, socket: DirectSocket, buffer_bytes: int) -> None:
        self._socket = socket
        self._transport = socket.transport
        # ``ready`` waits above half of what a watcher may cost; the other half is its page
        socket.limit_buffer(high=buffer_bytes // 2, low=buffer_bytes // 8)

    def write(self, data: bytes) -> None:
        self._socket.write(data)

    def write_control(self, payload: bytes) -> None:
        self.write(ws_text(payload))

    def buffered(self) -> int:
        return unsent(self._transport)

    async def ready(self) -> None:
        await self._socket.ready()

    async def _send(self, data: bytes) -> None:
        await self._socket.ready()
        if self._socket.closed:
            raise SinkClosed
        self._socket.write(data)

    async def send_events(self, frames: Sequence[Frame]) -> None:
        await self.ready()  # before the frames are joined, so that the joined bytes don't wait in memory
        await self._send(b"".join([frame.ws for frame in frames]))

    async def send_control(self, payload: bytes) -> None:
        await self._send(ws_text(payload))


class _AsgiSink:
    """What sinks behind ASGI have in common: one ``send`` at a time, waiting for the reader, and no direct writing."""

    direct = False

    def __init__(self, send: Send, transport: asyncio.Transport | None) -> None:
        self._send = send
        self._transport = transport
        self._lock = asyncio.Lock()  # subscriptions of one socket take turns
        self.closed = False

    def write(self, data: bytes) -> None:
        raise NotImplementedError("only direct sinks are written to")

    def write_control(self, payload: bytes) -> None:
        raise NotImplementedError("only direct sinks are written to")

    def buffered(self) -> int:
        return 0 if self._transport is None else unsent(self._transport)

    async def ready(self) -> None:
        pass  # ``send`` waits, and does not say beforehand

    async def _message(self, message: dict[str, Any]) -> None:
        if self.closed:
            raise SinkClosed
        try:
            async with self._lock:
                await self._send(message)
        except (OSError, WebSocketDisconnect) as error:  # the second is what Starlette makes of the first
            self.closed = True
            raise SinkClosed from error


class WebSocketSink(_AsgiSink):
    """A WebSocket behind ASGI."""

    async def send_events(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            await self._message({"type": "websocket.send", "text": frame.body.decode()})

    async def send_control(self, payload: bytes) -> None:
        await self._message({"type": "websocket.send", "text": payload.decode()})


class StreamSink(_AsgiSink):
    """A response that goes on: server-sent events or NDJSON. It begins with the first thing sent, or with ``begin``."""

    def __init__(self, send: Send, media_type: str, transport: asyncio.Transport | None = None) -> None:
        super().__init__(send, transport)
        self._media_type = media_type
        self._sse = media_type == "text/event-stream"
        self.begun = False  # whether the status has been sent

    async def begin(self) -> None:
        """Send the status and headers, once."""
        if self.begun:
            return
        self.begun = True
        headers = [
            (b"content-type", f"{self._media_type}; charset=utf-8".encode()),
            (b"cache-control", b"no-store, no-transform"),
            (b"x-accel-buffering", b"no"),  # nginx would hold the stream back
        ]
        await self._message({"type": "http.response.start", "status": 200, "headers": headers})

    async def _body(self, data: bytes) -> None:
        await self.begin()
        await self._message({"type": "http.response.body", "body": data, "more_body": True})

    async def send_events(self, frames: Sequence[Frame]) -> None:
        await self._body(b"".join([frame.sse if self._sse else frame.line for frame in frames]))

    async def send_control(self, payload: bytes) -> None:
        await self._body(sse_control(payload))

    async def end(self) -> None:
        """End the response."""
        await self.begin()
        await self._message({"type": "http.response.body", "body": b"", "more_body": False})


def websocket_sink(websocket: WebSocket, buffer_bytes: int) -> Sink:
    """The best sink there is for an accepted WebSocket."""
    socket: DirectSocket | None = websocket.scope.get("tracewatch.socket")
    if socket is not None:
        return TransportSink(socket, buffer_bytes)
    return WebSocketSink(websocket.send, websocket.scope.get("tracewatch.transport"))
