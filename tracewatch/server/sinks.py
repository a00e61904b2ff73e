"""The transports' ends of the hub: a WebSocket written to directly, one behind ASGI, and a streamed response.

Rule 1: a server's WebSocket frame without compression is the same bytes for every client (RFC 6455 section 5.1: only
        clients
        mask), so under uvicorn's sans-I/O protocol whole frames go to the transport as they are: a quarter of the CPU
        of
        one ASGI ``send`` per frame. uvicorn writes only whole frames itself, so frames never mix.
Rule 2: elsewhere (another server, another protocol, a wrapped ``send``) frames go through ASGI and nothing else
        changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.types import Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ..live.sink import Frame, Sink, SinkClosed
from ..model.frames import sse_control, ws_text


class TransportSink:
    """A WebSocket under uvicorn's sans-I/O protocol, written to directly."""

    __slots__ = ("_protocol", "_transport")
    direct = True

    def __init__(self, protocol: WebSocketsSansIOProtocol, buffer_bytes: int) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        # ``send`` waits above half of what a watcher may cost; the other half is its page
        self._transport.set_write_buffer_limits(high=buffer_bytes // 2, low=buffer_bytes // 8)

    def _closed(self) -> bool:
        return self._protocol.disconnected or self._protocol.close_sent or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self._closed():
            self._transport.write(data)

    def write_control(self, payload: bytes) -> None:
        self.write(ws_text(payload))

    def buffered(self) -> int:
        return self._transport.get_write_buffer_size()

    async def ready(self) -> None:
        while not self._protocol.writable.is_set():  # of all who waited, the first fills the buffer again
            await self._protocol.writable.wait()

    async def _send(self, data: bytes) -> None:
        await self.ready()
        if self._closed():
            raise SinkClosed
        self._transport.write(data)

    async def send_events(self, frames: Sequence[Frame]) -> None:
        await self.ready()  # first: what is joined is not to lie about meanwhile
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
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def ready(self) -> None:
        pass  # ``send`` waits, and does not say beforehand

    async def _message(self, message: dict[str, Any]) -> None:
        if self.closed:
            raise SinkClosed
        try:
            async with self._lock:
                await self._send(message)
        except (OSError, ClientDisconnected, WebSocketDisconnect) as error:  # the last is what Starlette makes of them
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
    protocol = websocket.scope.get("tracewatch.protocol")
    if isinstance(protocol, WebSocketsSansIOProtocol):
        return TransportSink(protocol, buffer_bytes)
    return WebSocketSink(websocket.send, websocket.scope.get("tracewatch.transport"))
