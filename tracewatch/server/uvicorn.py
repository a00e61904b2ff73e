"""uvicorn as we run it, and the only file that leans on more of it than its documentation describes.

Rule 1: pyproject.toml caps uvicorn's version, because another one may have these parts under other names.
Rule 2: What a client sends of an HTTP request has a limit until something of it is complete.
Rule 3: A connection is one answer ahead of its reader, however many requests it has sent. The next one is parsed when
        the answer before it is complete and the reader has taken most of it. Until then the connection is not read.
Rule 4: Compression is off. A compressed frame can't be shared by watchers, and each connection would take four times
        the memory.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ..errors import BadRequest
from ..settings import Settings
from .accept import Acceptor
from .http import Services
from .process import room_for
from .sinks import DirectSocket
from .socket import FREE_BYTES, MAX_HEAD_BYTES, SOCKET, Turns, WebSocketProtocol
from .stalls import hurry, linger

CLOSE = ((b"connection", b"close"),)
MAX_HEADERS = 128  # of one request; a WebSocket's handshake has the same limit
PIECE_BYTES = 16 * 1024  # parsed at once, so that a head above its limit is found out
HEAD_END = b"\r\n\r\n"
HTTP_2 = b"PRI * HTTP/2.0"  # how a client begins that takes it for granted, as those of gRPC do
ONLY_HTTP_1 = (
    "This port speaks HTTP/1.1: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or tracewatch serve --grpc-port 4317"
)


class Server(uvicorn.Server):
    """uvicorn's server, which accepts connections in our own way and says goodbye to everybody at its end."""

    def __init__(self, config: uvicorn.Config, *, on_started: Callable[[], None] = lambda: None) -> None:
        """``on_started`` is called in the loop once connections are taken."""
        super().__init__(config)
        self._on_started = on_started

    def _services(self) -> Services | None:
        """What our application works with; None if it is not ours or has not started."""
        app = self.config.loaded_app
        while not isinstance(app, Starlette) and hasattr(app, "app"):
            app = app.app
        return getattr(getattr(app, "state", None), "services", None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept the connections of ``sockets``."""
        await super().startup([])
        served = self._services()
        assert served is not None, "the application has not started, or is not ours"
        loop, config = asyncio.get_running_loop(), self.config

        def protocol() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )

        def asking(connection: Any) -> bool:
            # A WebSocket has had its request. Between requests uvicorn's own timer runs, until the next byte. A request
            # that waits for the reader of the answer before it has come; the guard of stalled readers has that one
            timed = getattr(connection, "timeout_keep_alive_task", self) is not None
            timed = timed or bool(getattr(connection, "unread", b""))
            return not timed and not served.stalls.busy(connection.transport)

        room = room_for(served.settings.max_connections)
        self.servers = [
            Acceptor(  # type: ignore[misc]  # of an asyncio server uvicorn uses only what this has
                listening,
                protocol,
                self.server_state.connections,
                asking,
                max_connections=room,
                max_accepts_per_second=served.settings.max_accepts_per_second,
                head_s=served.settings.request_stall_s,
                tls=config.ssl,
            )
            for listening in sockets or ()
        ]
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Send ``goaway`` to every watcher and recorder, then end as uvicorn does.

        uvicorn itself waits for open connections before the lifespan's shutdown, so they have to be told here.
        """
        for server in self.servers:
            server.close()  # nobody new meanwhile
        served = self._services()
        if served is not None:
            settings: Settings = served.settings
            await served.hub.goaway(settings.goaway_ms, settings.shutdown_s / 2)
        await super().shutdown(sockets)


def uvicorn_config(settings: Settings, app: Any, **more: Any) -> uvicorn.Config:
    """How we run uvicorn. ``more`` is for the Config as it is."""
    return uvicorn.Config(
        app,
        ws=websocket_protocol(settings.max_waiting_bytes),
        http=http_protocol("auto", settings.max_waiting_bytes),
        ws_max_size=2 * max(settings.max_ws_record_bytes, settings.max_ws_bytes),  # until the endpoint says its own
        ws_ping_interval=settings.ws_ping_s,
        ws_ping_timeout=settings.ws_ping_s,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_s / 2)),
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=4096,
        # uvicorn would believe anybody on this machine
        proxy_headers=bool(settings.proxy),
        forwarded_allow_ips=settings.proxy or None,
        ssl_certfile=settings.ssl_certfile or None,
        ssl_keyfile=settings.ssl_keyfile or None,
        ssl_keyfile_password=settings.ssl_keyfile_password or None,
        **more,
    )


def websocket_protocol(max_unfinished: int) -> Any:
    """What makes the WebSockets of one server, for uvicorn's option ``ws``.

    ``max_unfinished``: bytes that all of them together hold of messages that are not complete.
    """
    turns = Turns(max_unfinished)

    def make(config: uvicorn.Config, server_state: Any, app_state: dict[str, Any], **_: Any) -> asyncio.Protocol:
        return WebSocketProtocol(
            config.loaded_app,
            turns,
            connections=server_state.connections,
            tasks=server_state.tasks,
            headers=server_state.default_headers,
            state=app_state,
            root_path=config.root_path,
            max_message_bytes=config.ws_max_size,
            ping_s=config.ws_ping_interval,
        )

    return make


@dataclass(slots=True)
class Unread:
    """The bytes that all HTTP connections of a server hold of requests whose turn has not come."""

    bytes: int = 0


class _Flow(FlowControl):
    """Whether a connection is read: not while requests wait, whatever uvicorn would do."""

    held = False

    def hold(self) -> None:
        """Read nothing until ``release``."""
        self.held = self.read_paused = True
        if self._transport.is_reading():  # uvicorn's h11 resumes it behind this one's back
            self._transport.pause_reading()

    def release(self) -> None:
        """Leave it to uvicorn again."""
        if self.held:
            self.held = False
            self.resume_reading()

    def resume_reading(self) -> None:
        """Read on, unless requests wait."""
        if not self.held:
            super().resume_reading()


class _InTurn(asyncio.Protocol):
    """What is put in front of uvicorn's two HTTP protocols: a request is parsed when its turn has come.

    A read may bring thousands of requests. uvicorn would parse them all, and read more after each answer.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    server_state: Any
    cycle: Any  # the last request that was parsed, with its answer; None before the first
    _unset_keepalive_if_required: Callable[[], None]

    def __init__(self, unread: Unread, max_unread: int, **options: Any) -> None:
        """``unread`` is the whole server's. Beyond ``max_unread`` connections are closed that have much of it."""
        super().__init__(**options)
        self.unread = bytearray()  # came, and was not parsed yet
        self._all_unread = unread
        self._max_unread = max_unread
        self._counted = 0  # of the server's unread bytes
        self._lingers = False  # it was answered, and what still comes is thrown away

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection."""
        super().connection_made(transport)
        self.flow = _Flow(self.transport)

    def data_received(self, data: bytes) -> None:
        """Take what came, and parse it if its turn has come."""
        if self._lingers:
            return
        if self.cycle is None and not self.unread and data.startswith(HTTP_2):
            self.send_400_response(ONLY_HTTP_1)  # gRPC's says of such an answer: "an http1.x server"
            return
        self.unread += data
        self._go_on()
        if self._counted > FREE_BYTES and self._all_unread.bytes > self._max_unread:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """An answer is written."""
        super().on_response_complete()  # type: ignore[misc]  # it is uvicorn's, not asyncio's
        self._go_on()

    def resume_writing(self) -> None:
        """The reader has taken most of what was written."""
        super().resume_writing()
        self._go_on()

    def handle_websocket_upgrade(self, *request: Any) -> None:
        """Hand the connection over, without what was sent before the handshake's answer."""
        self._drop()
        super().handle_websocket_upgrade(*request)  # type: ignore[misc]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has gone, and so does what it held."""
        self._drop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, as uvicorn calls it, with an answer that arrives."""
        now = self.cycle
        if now is not None and not now.response_complete:
            now.disconnected = True  # it has no answer any more
            now.message_event.set()
        if now is None or now.response_complete or not now.response_started:
            body = orjson.dumps(BadRequest(msg).body())
            fields = [*self.server_state.default_headers, (b"content-type", b"application/json"), *CLOSE]
            lines = [b"%b: %b\r\n" % field for field in (*fields, (b"content-length", b"%d" % len(body)))]
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (b"".join(lines), body))
        self._linger()

    def _linger(self) -> None:
        self._lingers = True
        self._drop()
        self._unset_keepalive_if_required()
        if not self.transport.is_closing():
            linger(self.loop, self.transport)

    def close_after_answer(self) -> None:
        """Close the connection as the client wants it; what it has still to send of its request is read before."""
        if self.cycle.more_body:
            self._linger()
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """The server ends: so does the connection, behind the answer that is being given."""
        if self._lingers:
            self.transport.close()
        else:
            super().shutdown()  # type: ignore[misc]  # it is uvicorn's
        hurry(self.loop, self.transport)

    def take(self, piece: bytes) -> None:
        """Parse a piece."""
        super().data_received(piece)

    def _drop(self) -> None:
        self.unread.clear()
        self._count()

    def _count(self) -> None:
        self._all_unread.bytes += len(self.unread) - self._counted
        self._counted = len(self.unread)

    def may_parse(self) -> bool:
        """Whether it is the next piece's turn."""
        now = self.cycle
        return now is None or now.more_body or (now.response_complete and not self.flow.write_paused)

    def _go_on(self) -> None:
        if not self.unread:
            return
        flow = self.flow
        assert isinstance(flow, _Flow)
        flow.release()
        while not self._lingers and self.unread and self.may_parse():
            if self.transport.is_closing():
                self._drop()
                return
            end = self.unread.find(HEAD_END, 0, PIECE_BYTES) + len(HEAD_END)
            size = end if end >= len(HEAD_END) else PIECE_BYTES  # it has the end of one head at most
            piece = bytes(self.unread[:size])
            del self.unread[:size]
            self.take(piece)
        self._count()
        if self.unread:
            self._unset_keepalive_if_required()
            flow.hold()


class _LastAnswer:
    """A transport for the last answer of a connection: closing it is left to ``close``."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.inner = transport
        self.write = transport.write
        self.close = close


class HttpByH11(_InTurn, H11Protocol):
    """HTTP by h11, which has a limit for a head."""


if TYPE_CHECKING or importlib.util.find_spec("httptools") is not None:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class HttpByHttptools(_InTurn, HttpToolsProtocol):
        """HTTP by httptools, which would collect a head, or what follows a body, without end."""

        _incomplete = 0  # bytes since anything of a request was complete
        _whole = False  # whether something of a request was completed by the last piece

        def take(self, piece: bytes) -> None:
            """Parse a piece, unless there is too much of nothing."""
            super().take(piece)
            self._incomplete += len(piece)
            if self._whole:
                self._incomplete, self._whole = 0, False
            elif self._incomplete > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The request's head is too large.")

        def may_parse(self) -> bool:
            """Whether it is the next piece's turn. A piece may have had the end of a body, and the next head."""
            return not self.pipeline and super().may_parse()

        def handle_websocket_upgrade(self, *request: Any) -> None:
            """Hand the connection over."""
            super().handle_websocket_upgrade(*request)
            # They hold each other: kilobytes that would wait for the garbage collector, which counts objects
            self.parser = None  # type: ignore[assignment]

        def on_headers_complete(self) -> None:
            """A head is complete."""
            if len(self.headers) > MAX_HEADERS:
                raise ValueError("too many headers")  # uvicorn answers 400
            self._whole = True
            before = self.cycle
            super().on_headers_complete()
            if self.cycle is not before and not self.cycle.keep_alive:
                self.cycle.transport = _LastAnswer(self.transport, self.close_after_answer)

        def on_body(self, body: bytes) -> None:
            """Some of a body."""
            self._whole = True
            super().on_body(body)


def http_protocol(kind: str, max_unread: int) -> Any:
    """What makes the HTTP connections of one server, for uvicorn's option ``http``.

    ``kind``: httptools, h11, or auto for the first of them that is installed. ``max_unread``: bytes that all
    connections together hold of requests whose turn has not come.
    """
    fast = importlib.util.find_spec("httptools") is not None and kind != "h11"
    chosen: Any = HttpByHttptools if fast else HttpByH11
    return partial(chosen, Unread(), max_unread)


# --- what a mounted application finds behind ASGI ---


class HostSocket:
    """A WebSocket of uvicorn's own, which serves an application that ours is mounted in, for direct writing."""

    __slots__ = ("_protocol", "transport")

    def __init__(self, protocol: WebSocketsSansIOProtocol) -> None:
        self.transport = protocol.transport
        self._protocol = protocol

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._protocol.disconnected or self._protocol.close_sent or self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Hand over whole frames, as a server sends them. Nothing happens once the socket is closed."""
        if not self.closed:
            self.transport.write(data)

    async def ready(self) -> None:
        """Wait until the client has taken enough of what was written, or the connection is lost."""
        while not self._protocol.writable.is_set():  # of all who waited, the first fills the buffer again
            await self._protocol.writable.wait()

    def limit_buffer(self, high: int, low: int) -> None:
        """Have ``ready`` wait above ``high`` bytes, until there are ``low``."""
        self.transport.set_write_buffer_limits(high=high, low=low)


def socket_of(scope: Scope, send: Send) -> DirectSocket | None:
    """The WebSocket of a scope, for direct writing; None if there is none that takes whole frames.

    ``send``: the server's own. A middleware around us may have wrapped it; then uvicorn's own WebSocket is not found.
    """
    ours: WebSocketProtocol | None = scope.get("extensions", {}).get(SOCKET)
    if ours is not None:
        return ours
    protocol = getattr(send, "__self__", None)
    return HostSocket(protocol) if isinstance(protocol, WebSocketsSansIOProtocol) else None


def transport_of(scope: Scope, send: Send, receive: Receive) -> asyncio.Transport | None:
    """The transport behind a scope; None where there is another server than uvicorn.

    Of its HTTP, and of its own WebSockets, it is found through ``send`` and ``receive``: both are bound methods of what
    holds it, and a middleware around us may have wrapped one of them.
    """
    ours: WebSocketProtocol | None = scope.get("extensions", {}).get(SOCKET)
    if ours is not None:
        return ours.transport
    calls: tuple[Callable[..., Any], ...] = (send, receive)
    for call in calls:
        transport: Any = getattr(getattr(call, "__self__", None), "transport", None)
        transport = getattr(transport, "inner", transport)
        if hasattr(transport, "get_write_buffer_size"):  # uvloop's are no asyncio.Transport
            found: asyncio.Transport = transport
            return found
    return None
