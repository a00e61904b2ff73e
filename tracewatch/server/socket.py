"""One WebSocket of the server: uvicorn's ``ws=`` protocol, standing on the sans-I/O core of ``websockets``.

The core reads and writes frames and knows the protocol's states. This file connects it to a transport and to ASGI, and
bounds what a client can cost.

Rule 1: What a client sent is parsed in pieces, and all sockets of a server share ``TURN_S`` in each turn of the loop. A
        quarter of a megabyte of tiny frames, which a socket delivers at once, would otherwise take seconds. A client
        that sends many control frames is read from more slowly.
Rule 2: Everything that is collected until it is complete (the request, a message and its fragments) has a limit.
Rule 3: Nothing is parsed before the application has accepted the handshake, or while it has messages to take. Unparsed
        bytes stop the reading, so the client's own buffers fill up.
Rule 4: Nothing is written for a client that does not read: pongs are then dropped, since only the last ping has to be
        answered (RFC 6455, section 5.5.3).
Rule 5: Only whole frames are written to the transport, by this class and by its users, so that they never mix.
Rule 6: After an error what the client has still sent is read and thrown away: closing with unread input is a reset,
        which may take the close frame away.
Rule 7: A connection that has gone is in no reference cycle: memory is free without the garbage collector.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections import deque
from collections.abc import Iterable, MutableSet
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope
from starlette.websockets import WebSocketDisconnect
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from .stalls import SLOW_FACTOR, hurry, linger, progress

logger = logging.getLogger("tracewatch.server")
# websockets writes the headers it receives to its logger at DEBUG, the token among them; and a line for each
# connection at INFO, of which the access log knows better
QUIET = logging.getLogger("tracewatch.server.socket")
QUIET.setLevel(logging.WARNING)
PIECE_BYTES = 512  # about fifty of the smallest frames; a large frame takes many such pieces in a turn
TURN_S = 0.0005  # of parsing, for all sockets together, until everything else has had its turn
MAX_HEAD_BYTES = 64 * 1024  # of a request that is not complete
SMALL_FRAGMENTS = 64  # of one message; more are taken only if they carry FRAGMENT_BYTES each, on average
FRAGMENT_BYTES = 512
FREE_BYTES = 64 * 1024  # of an unfinished message, which are taken however much others send
SMALL_TALK = 16  # pings, or messages that ask for little; then the socket is not read for REST_S
REST_S = 0.02
CLOSE_S = 10.0  # for the client's answer to a close frame
SOCKET = "tracewatch.socket"  # the key of this protocol in a scope's ``extensions``
NO_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class ClientGone(OSError):
    """The socket is closed: ASGI's ``send`` raises an OSError then."""


class Stage(enum.Enum):
    """How far a connection is."""

    HEAD = enum.auto()  # the request is not complete
    ASKED = enum.auto()  # the application has not answered the handshake
    REFUSING = enum.auto()  # the application has begun to refuse it with an HTTP response
    OPEN = enum.auto()
    CLOSING = enum.auto()  # a close frame was sent, and the client's is awaited
    OVER = enum.auto()  # nothing is sent or read any more


_OPEN = Stage.OPEN  # found faster than in its class; ``write`` is called for each event at each watcher


class Turns:
    """The parsing of all sockets of a server: piece by piece, together ``TURN_S`` in each turn of the loop.

    ``unfinished``: bytes that all of them hold of incomplete messages; beyond ``max_unfinished`` sockets are closed.
    """

    def __init__(self, max_unfinished: int) -> None:
        self.unfinished = 0
        self.max_unfinished = max_unfinished
        self._waiting: deque[WebSocketProtocol] = deque()
        self._left = TURN_S
        self._due = False

    def enter(self, protocol: WebSocketProtocol) -> None:
        """Let a socket parse what it has: at once if nobody waits and time is left, otherwise in its turn."""
        if self._waiting or self._left <= 0 or self._parse(protocol):
            protocol.in_line = True
            protocol.adjust_reading()
            self._waiting.append(protocol)
        if not self._due:
            self._due = True
            protocol.loop.call_soon(self._go_on)

    def _parse(self, protocol: WebSocketProtocol) -> bool:
        """Parse a piece, and more while nobody else waits. Returns whether there is more."""
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
                protocol.adjust_reading()
        if self._waiting:
            self._due = True
            self._waiting[0].loop.call_soon(self._go_on)


class WebSocketProtocol(asyncio.Protocol):
    """A WebSocket connection and the run of the ASGI application that serves it.

    The application finds it in its scope, as the extension ``tracewatch.socket``. What it may use of it: ``transport``,
    ``closed``, ``write``, ``ready``, ``limit_buffer`` and, before it accepts, ``max_message_bytes``.
    """

    __slots__ = (
        "_answer",
        "_app",
        "_awaited_pong",
        "_body",
        "_connections",
        "_core",
        "_disconnect",
        "_fragment_bytes",
        "_fragments",
        "_headers",
        "_inbox",
        "_is_text",
        "_parsing_bytes",
        "_patience",
        "_paused",
        "_ping_s",
        "_reader",
        "_rest",
        "_resting",
        "_room",
        "_root_path",
        "_stage",
        "_state",
        "_talk",
        "_tasks",
        "_timer",
        "_turns",
        "_unfinished",
        "in_line",
        "loop",
        "max_message_bytes",
        "transport",
    )
    transport: asyncio.Transport

    def __init__(
        self,
        app: ASGIApp,
        turns: Turns,
        *,
        connections: MutableSet[Any],
        tasks: MutableSet[Any],
        headers: Iterable[tuple[bytes, bytes]] = (),
        state: dict[str, Any] | None = None,
        root_path: str = "",
        max_message_bytes: int = 1 << 20,
        ping_s: float | None = 20.0,
    ) -> None:
        """A connection that is still to be made.

        ``connections`` and ``tasks`` have this protocol, and its application's task, as long as there is any.
        ``headers`` are those of every response, ``state`` is the lifespan's. A ping is sent every ``ping_s`` seconds
        (None: never), and its pong is awaited for as long.
        """
        self.loop = asyncio.get_running_loop()
        self.in_line = False  # waits for its turn to parse
        self.max_message_bytes = max_message_bytes
        self._app = app
        self._turns = turns
        self._connections = connections
        self._tasks = tasks
        self._headers = headers
        self._state = {} if state is None else state
        self._root_path = root_path
        self._ping_s = ping_s
        self._stage = Stage.HEAD
        self._core = ServerProtocol(logger=QUIET)
        self._answer: Response | None = None  # to the handshake, until it is given
        self._body = b""  # of a refusal
        # From the client
        self._rest = bytearray()  # came, and was not parsed yet
        self._paused = False  # whether the transport is told not to read
        self._parsing_bytes = 0  # taken by the core since it last gave a frame, or a piece more
        self._fragments: list[bytes | bytearray] = []  # of the message that has begun
        self._fragment_bytes = 0
        self._is_text = True
        self._unfinished = 0  # what ``turns`` counts of this socket
        self._talk = 0  # control frames since the last rest
        self._resting: asyncio.TimerHandle | None = None
        # To the application
        self._inbox: list[Message] = []  # what one piece held, at most
        self._disconnect: Message | None = None  # after all that is in the inbox
        self._reader: asyncio.Future[None] | None = None  # is done when there is something to receive
        # To the client
        self._room: asyncio.Event | None = None  # while the transport's buffer is full
        self._timer: asyncio.TimerHandle | None = None  # the next ping, the pong awaited, or the end after a close
        self._awaited_pong = b""
        self._patience = 0  # pongs that may still be late

    # --- the transport's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's are no asyncio.Transport
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Take what came, and parse it when it is this socket's turn."""
        if self._stage is Stage.OVER:
            return
        self._rest += data
        if self._stage is Stage.HEAD:
            self._read_head()
        self._count()
        self._go_on()
        if self._unfinished > FREE_BYTES and self._turns.unfinished > self._turns.max_unfinished:
            self._fail(CloseCode.TRY_AGAIN_LATER, "too much is being sent to this server at once")

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._room = asyncio.Event()

    def resume_writing(self) -> None:
        """There is room again."""
        if self._room is not None:
            self._room.set()
            self._room = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has gone, and so does everything that was held for it."""
        self._connections.discard(self)
        self._stage = Stage.OVER
        self._disarm()
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        self.resume_writing()  # the transport does not say so any more
        self._disconnected(CloseCode.ABNORMAL_CLOSURE)
        self._fragments, self._fragment_bytes, self._parsing_bytes = [], 0, 0
        self._rest.clear()
        self._count()
        _dissolve(self._core)

    def shutdown(self) -> None:
        """The server ends: say so and close."""
        if self._stage is Stage.OPEN:
            self._disconnected(CloseCode.SERVICE_RESTART)
            self._core.send_close(CloseCode.SERVICE_RESTART)
            self._write_core()
        elif self._stage in (Stage.HEAD, Stage.ASKED):
            self._respond(self._core.reject(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error"))
        self._stage = Stage.OVER
        self._disarm()
        self.transport.close()
        hurry(self.loop, self.transport)

    # --- the handshake ---

    def _read_head(self) -> None:
        size = self._rest.find(b"\r\n\r\n") + 4
        if size < 4:
            if len(self._rest) > MAX_HEAD_BYTES:
                self.transport.abort()
            return
        head = bytes(self._rest[:size])
        del self._rest[:size]
        self._core.receive_data(head)
        request = next((event for event in self._core.events_received() if isinstance(event, Request)), None)
        if request is None:  # the core has refused what is too long, and says nothing to what is no request
            self.transport.write(b"".join(self._core.data_to_send()) or NO_REQUEST)
            self._linger()
            return
        self._answer = self._core.accept(request)
        if self._answer.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._respond(self._answer)
            return
        self._stage = Stage.ASKED
        self._inbox.append({"type": "websocket.connect"})
        task = self.loop.create_task(self._run(self._scope(request)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _scope(self, request: Request) -> Scope:
        path, _, query = request.path.partition("?")
        offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol"))
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if self.transport.get_extra_info("sslcontext") else "ws",
            "server": _address(self.transport, "sockname"),
            "client": _address(self.transport, "peername"),
            "root_path": self._root_path,
            "path": self._root_path + unquote(path),
            "raw_path": (self._root_path + path).encode(),
            "query_string": query.encode(),
            # Before websockets 17 bytes that are no ASCII are surrogates
            "headers": [
                (name.lower().encode(), value.encode("latin-1", "surrogateescape"))
                for name, value in request.headers.raw_items()
            ],
            "subprotocols": [name.strip() for name in offered.split(",") if name.strip()],
            "state": self._state.copy(),
            "extensions": {"websocket.http.response": {}, SOCKET: self},
        }

    def _accept(self, message: Message) -> None:
        assert self._answer is not None
        headers = self._answer.headers
        del headers["Date"]  # it is among the server's own
        for name, value in (*self._headers, *message.get("headers", ())):
            headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        if message.get("subprotocol"):
            headers["Sec-WebSocket-Protocol"] = message["subprotocol"]
        self._core.send_response(self._answer)
        self._write_core()
        _dissolve(self._core)
        # The frames are for a core of their own: only now is it known how much a message may have
        self._core = ServerProtocol(state=State.OPEN, max_size=self.max_message_bytes, logger=QUIET)
        self._answer = None
        self._stage = Stage.OPEN
        if self._ping_s:
            self._arm(self._ping_s, self._ping)
        self._go_on()

    def _begin_refusal(self, message: Message) -> None:
        status: int = message["status"]
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ())]
        self._answer = Response(status, phrase, Headers(headers))
        self._stage = Stage.REFUSING

    def _go_on_refusing(self, message: Message) -> None:
        assert self._answer is not None
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        headers = self._answer.headers
        headers.setdefault("Date", formatdate(usegmt=True))
        headers.setdefault("Connection", "close")
        headers.setdefault("Content-Length", str(len(self._body)))
        headers.setdefault("Content-Type", "text/plain; charset=utf-8")
        self._answer.body = self._body
        self._respond(self._answer)

    def _respond(self, response: Response) -> None:
        """Answer the handshake with something else than 101, which is the end."""
        self._disconnected(CloseCode.ABNORMAL_CLOSURE)
        self._core.send_response(response)
        self.transport.write(b"".join(self._core.data_to_send()))
        self._linger()

    # --- the application's calls ---

    async def _run(self, scope: Scope) -> None:
        try:
            await self._app(scope, self._receive, self._send)
        except (ClientGone, WebSocketDisconnect):  # the second is what Starlette makes of the first
            pass
        except Exception:
            logger.exception("the application failed on a WebSocket")
            self._fail(CloseCode.INTERNAL_ERROR, "")
        else:
            if self._stage is Stage.ASKED:
                logger.error("the application left a WebSocket's handshake without an answer")
                self._fail(CloseCode.INTERNAL_ERROR, "")
        finally:
            del scope["extensions"][SOCKET]  # what the application made of its scope may be in a cycle
            if self._stage is not Stage.CLOSING:
                self._end()

    async def _receive(self) -> Message:
        if not self._inbox and self._disconnect is None:
            if self._reader is not None:
                raise RuntimeError("receive() is awaited already")
            self._reader = self.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if not self._inbox:
            assert self._disconnect is not None
            return self._disconnect
        message = self._inbox.pop(0)
        self._go_on()
        return message

    async def _send(self, message: Message) -> None:
        await self.ready()
        if self._stage is Stage.OVER or self.transport.is_closing():
            raise ClientGone("the WebSocket is closed")
        match self._stage, message["type"]:
            case Stage.OPEN, "websocket.send":
                data = message.get("bytes")
                if data is not None:
                    self._core.send_binary(data)
                else:
                    self._core.send_text(message["text"].encode())
                self._write_core()
            case Stage.OPEN, "websocket.close":
                self._close(message.get("code") or CloseCode.NORMAL_CLOSURE, message.get("reason") or "")
            case Stage.ASKED, "websocket.accept":
                self._accept(message)
            case Stage.ASKED, "websocket.close":
                self._respond(self._core.reject(HTTPStatus.FORBIDDEN, ""))
            case Stage.ASKED, "websocket.http.response.start":
                self._begin_refusal(message)
            case Stage.REFUSING, "websocket.http.response.body":
                self._go_on_refusing(message)
            case _:
                raise RuntimeError(f"{message['type']} can't be sent: the WebSocket is {self._stage.name}")

    def _close(self, code: int, reason: str) -> None:
        self._core.send_close(code, reason)
        self._write_core()
        self._stage = Stage.CLOSING
        self._disconnected(code, reason)
        self._arm(CLOSE_S, self._end)
        self._go_on()  # to the client's close frame, past what else it has sent

    # --- direct use, past ASGI ---

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._stage is not Stage.OPEN or self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Hand over whole frames, as a server sends them. Nothing happens once the socket is closed."""
        if self._stage is _OPEN and not self.transport.is_closing():
            self.transport.write(data)

    async def ready(self) -> None:
        """Wait until the client has taken enough of what was written, or the connection is lost."""
        while self._room is not None:  # the first of those who waited fills the buffer again
            await self._room.wait()

    def limit_buffer(self, high: int, low: int) -> None:
        """Have ``ready`` wait above ``high`` bytes, until there are ``low``."""
        self.transport.set_write_buffer_limits(high=high, low=low)

    # --- parsing ---

    def _count(self) -> None:
        unfinished = len(self._rest) + self._parsing_bytes + self._fragment_bytes
        self._turns.unfinished += unfinished - self._unfinished
        self._unfinished = unfinished

    def _may_parse(self) -> bool:
        if self._stage is Stage.OPEN:
            return self._resting is None and not self._inbox
        return self._stage is Stage.CLOSING and self._resting is None

    def _go_on(self) -> None:
        if self._rest and not self.in_line:
            if self._may_parse():
                self._turns.enter(self)
            self.adjust_reading()

    def adjust_reading(self) -> None:
        """Read from the transport, but not while what came before has still to be parsed."""
        if bool(self._rest) == self._paused or self.transport.is_closing():
            return
        self._paused = not self._paused
        if self._paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def parse_piece(self) -> bool:
        """Parse a piece of what came. Returns whether there is more that may be parsed."""
        if self._stage is Stage.OVER or self.transport.is_closing():
            self._rest.clear()
        elif self._may_parse():
            piece = bytes(self._rest[:PIECE_BYTES])
            del self._rest[:PIECE_BYTES]
            self._core.receive_data(piece)
            self._parsing_bytes += len(piece)
            for frame in self._core.events_received():
                self._parsing_bytes = 0  # what is left in the core is part of this piece
                if isinstance(frame, Frame):
                    self._frame(frame)
            self._write_core(droppable=True)
            self._count()
            if self._talk >= SMALL_TALK:
                self._talk = 0
                self._resting = self.loop.call_later(REST_S, self._rested)
        return bool(self._rest) and self._may_parse()

    def _rested(self) -> None:
        self._resting = None
        self._go_on()

    def _frame(self, frame: Frame) -> None:
        if self._stage is Stage.OVER:  # by a frame before it
            return
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY | Opcode.CONT:
                self._fragment(frame)
            case Opcode.PING:
                self._talk += 1  # the core has an answer ready
            case Opcode.PONG:
                self._talk += 1
                if self._awaited_pong and frame.data == self._awaited_pong and self._stage is Stage.OPEN:
                    self._awaited_pong = b""
                    assert self._ping_s is not None
                    self._arm(self._ping_s, self._ping)
            case Opcode.CLOSE:
                pass  # the core has an answer ready, and then nothing more to send

    def _fragment(self, frame: Frame) -> None:
        assert not isinstance(frame.data, memoryview)  # which only compression makes
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        count = len(self._fragments)
        self._fragments.append(frame.data)
        self._fragment_bytes += len(frame.data)
        if frame.fin:
            self._message()
        elif count >= SMALL_FRAGMENTS and self._fragment_bytes < count * FRAGMENT_BYTES:
            self._fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")

    def _message(self) -> None:
        fragments, self._fragments, self._fragment_bytes = self._fragments, [], 0
        if self._stage is not Stage.OPEN:
            return  # nobody takes it any more
        data = fragments[0] if len(fragments) == 1 else b"".join(fragments)
        if not self._is_text:
            self._hand_over({"type": "websocket.receive", "bytes": bytes(data)})
            return
        try:
            self._hand_over({"type": "websocket.receive", "text": data.decode()})
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_DATA, "text that is not UTF-8")

    def _hand_over(self, message: Message) -> None:
        self._inbox.append(message)
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # --- pings ---

    def _arm(self, seconds: float, due: Any) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # it holds its callback, and that this

    def _ping(self) -> None:
        assert self._ping_s is not None
        self._disarm()
        if self.closed:
            return
        self._patience = 0
        self._awaited_pong = random.randbytes(4)
        self._core.send_ping(self._awaited_pong)
        self._write_core()
        self._arm(self._ping_s, self._no_pong)

    def _no_pong(self) -> None:
        """There was no pong. This says nothing while the ping may lie behind what a slow reader has still to read."""
        assert self._ping_s is not None
        self._disarm()
        if self.closed:
            return
        if progress(self.transport, self.transport.get_extra_info("socket"))[1]:
            self._patience = SLOW_FACTOR  # a reader that takes nothing at all is found by the stall guard
        if self._patience:
            self._patience -= 1
            self._arm(self._ping_s, self._no_pong)
        else:
            self._fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")

    # --- the end ---

    def _write_core(self, *, droppable: bool = False) -> None:
        """Write what the core has to send. ``droppable``: while nobody takes it, pongs are thrown away."""
        output = self._core.data_to_send() if self._stage is not Stage.OVER else []
        over = bool(output) and not output[-1]  # the core says by an empty one that the connection is to be closed
        if output and (not droppable or over or (self._stage is Stage.OPEN and self._room is None)):
            self.transport.write(b"".join(output))
        if over:
            self._core.receive_eof()  # after which the core says how it ended
            ended = self._core.close_exc
            close = ended.rcvd or ended.sent
            if close is not None:
                self._disconnected(close.code, close.reason)
            if ended.rcvd is None:
                self._linger()  # it is an error, and the client has not heard of it
            else:
                self._end()

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Close because of an error."""
        match self._stage:
            case Stage.OPEN | Stage.CLOSING:
                self._core.fail(code, reason)
                self._write_core()
            case Stage.ASKED if code is CloseCode.INTERNAL_ERROR:
                self._respond(self._core.reject(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error"))
            case Stage.OVER:
                pass
            case _:
                self.transport.abort()

    def _disconnected(self, code: int, reason: str = "") -> None:
        """Tell the application, after what it has still to take. What is said first is true."""
        if self._disconnect is None:
            self._disconnect = {"type": "websocket.disconnect", "code": int(code), "reason": reason}
            self._wake_reader()

    def _end(self) -> None:
        if self._stage is Stage.OVER:
            return  # it lingers, or is closing: asyncio's TLS can't be aborted after a second close
        self._stage = Stage.OVER
        self._disarm()
        self.transport.close()

    def _linger(self) -> None:
        self._stage = Stage.OVER
        self._rest.clear()
        self._count()
        self._disarm()
        self._paused = False
        if not self.transport.is_closing():
            self._timer = linger(self.loop, self.transport)


def _address(transport: asyncio.BaseTransport, name: str) -> tuple[str, int | None] | None:
    found = transport.get_extra_info(name)
    if isinstance(found, str) and found:
        return found, None  # a Unix socket's path
    return (str(found[0]), int(found[1])) if isinstance(found, tuple | list) else None


def _dissolve(core: ServerProtocol) -> None:
    """Free a core that is done with. Its parser is a generator that holds it, which is a cycle."""
    vars(core).clear()
