"""The recorder's way to a server: one HTTP call that creates the trace, one WebSocket that takes its events.

Rule 1: everything here runs in the loop of the background thread and uses no executor: at the interpreter's exit, when
        the last events are sent, executors are gone already.
Rule 2: nothing waits without a limit.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from ..model.window import LineBroken
from .api import api_error
from .control import Told
from .errors import ApiError, Unreachable
from .target import QUIET, Target

CALL_TIMEOUT_S = 10.0
OPEN_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 20.0
_REFUSED = {"unauthorized": 401, "forbidden": 403, "too_many": 429}  # said on the socket: of whom, not of what


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for an append. ``seq``: an ack's is that of the last event, a nack's that of the first."""

    seq: int
    error: str | None = None  # a nack's code
    message: str = ""
    expected_seq: int | None = None


class Channel(Protocol):
    """One producer's open line into one trace."""

    expected_seq: int  # the first seq the log does not have
    told: Told  # what it said at the beginning

    async def send(self, seq: int, bodies: Sequence[bytes]) -> None:
        """Append without waiting for the answer. Raises LineBroken."""

    async def answer(self) -> Answer | Told | None:
        """The next answer or command; None for a frame that is neither. Raises LineBroken, Leaving."""

    async def heartbeat(self) -> None:
        """Say that the recorder lives. Raises LineBroken."""

    async def close(self) -> None:
        """Hang up."""


class Link(Protocol):
    """The way to one log."""

    async def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Create the trace, or find it there; its summary. Raises ApiError, Unreachable."""

    async def find(self, trace_id: str) -> dict[str, Any]:
        """The summary of a trace that is there. Raises ApiError, Unreachable."""

    async def question(self, trace_id: str, request_id: str) -> dict[str, Any]:
        """How a question stands: ``{request_id, state, …}``. Raises ApiError, Unreachable."""

    async def open(self, trace_id: str, producer: str) -> Channel:
        """Open a line. Raises Unreachable, ApiError."""

    async def close(self) -> None:
        """Let go of everything."""


class Leaving(LineBroken):
    """The server is going away and asks to come back after a random time up to ``after_s``."""

    def __init__(self, after_s: float) -> None:
        super().__init__("the server is going away")
        self.after_s = after_s


class ServerLink:
    """A tracewatch server."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._tls = ssl.create_default_context() if target.secure else None

    def _address(self) -> str:
        # getaddrinfo of the loop would need an executor; this thread has nothing better to do than to wait for it.
        # As bytes: text would load the idna codec, which a child forked at that very moment could never load again.
        host = self._target.host
        name = host.encode() if host.isascii() else host
        found = socket.getaddrinfo(name, self._target.port, type=socket.SOCK_STREAM)
        return str(found[0][4][0])

    async def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        """See Link.create."""
        answer = await self._call("POST", self._target.path("api", "traces"), orjson.dumps(spec))
        return _part(answer, "trace")

    async def find(self, trace_id: str) -> dict[str, Any]:
        """See Link.find."""
        return _part(await self._call("GET", self._target.path("api", "traces", trace_id)), "trace")

    async def question(self, trace_id: str, request_id: str) -> dict[str, Any]:
        """See Link.question."""
        answer = await self._call("GET", self._target.path("api", "traces", trace_id, "inputs", request_id))
        return {"state": "open", **answer, "request_id": request_id}

    async def _call(self, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        host = f"[{self._target.host}]" if ":" in self._target.host else self._target.host
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {host}:{self._target.port}\r\nAccept: application/json\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        )
        head += "".join(f"{name}: {value}\r\n" for name, value in self._target.headers.items()) + "\r\n"
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                data = await self._exchange(head.encode() + body)
            answer = http.client.HTTPResponse(cast(socket.socket, _Received(data)))
            answer.begin()
            payload = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        if answer.status >= 300:
            raise api_error(answer.status, payload)
        try:
            found = orjson.loads(payload)
        except orjson.JSONDecodeError:
            found = None
        return found if isinstance(found, dict) else {}

    async def _exchange(self, request: bytes) -> bytes:
        name = self._target.host if self._tls else None
        reader, writer = await asyncio.open_connection(
            self._address(), self._target.port, ssl=self._tls, server_hostname=name
        )
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read(-1)
        finally:
            writer.transport.abort()

    async def open(self, trace_id: str, producer: str) -> Channel:
        """See Link.open."""
        path = self._target.path("api", "traces", trace_id, "record", producer=producer)
        try:
            connection = await connect(
                self._target.websocket(path),
                compression=None,
                proxy=None,
                max_size=16 * 1024 * 1024,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=1.0,
                host=self._address(),
                port=self._target.port,
                additional_headers=self._target.headers,
                logger=QUIET,
            )
        except (OSError, WebSocketException) as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        channel = ServerChannel(connection, producer)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await channel.ready()
        except ApiError:
            await channel.close()
            raise
        except (TimeoutError, LineBroken) as error:
            await channel.close()
            raise Unreachable(str(error) or "no answer on the record socket") from error
        return channel

    async def close(self) -> None:
        """See Link.close."""


def _part(answer: dict[str, Any], name: str) -> dict[str, Any]:
    part = answer.get(name)
    return part if isinstance(part, dict) else {}


class _Received:
    """Bytes that have come, in the one method http.client asks of a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        """The bytes as a file."""
        return io.BytesIO(self._data)


class ServerChannel:
    """A record socket."""

    def __init__(self, connection: ClientConnection, producer: str) -> None:
        self.expected_seq = 1
        self.told = Told()
        self._connection = connection
        self._producer = orjson.dumps(producer)

    async def ready(self) -> None:
        """Take the server's first frame. Raises LineBroken, ApiError."""
        frame = await self._frame()
        if frame.get("code") in _REFUSED:
            raise api_error(_REFUSED[frame["code"]], orjson.dumps({**frame, "error": frame["code"]}))
        if "ready" not in frame:
            raise LineBroken(f"the server began with {frame!r:.200}")
        ready = frame["ready"]
        self.expected_seq = int(ready.get("expected_seq") or 1)
        self.told = Told(ready.get("cancel_requested"), list(ready.get("inputs") or ()))

    async def send(self, seq: int, bodies: Sequence[bytes]) -> None:
        """See Channel.send."""
        events = b",".join(bodies)
        await self._send(b'{"append":{"producer":%b,"seq":%d,"events":[%b]}}' % (self._producer, seq, events))

    async def heartbeat(self) -> None:
        """See Channel.heartbeat."""
        await self._send(b'{"heartbeat":{}}')

    async def _send(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._connection.send(frame, text=True)
        except (OSError, WebSocketException) as error:
            raise LineBroken(str(error) or type(error).__name__) from error

    async def _frame(self) -> dict[str, Any]:
        try:
            frame = orjson.loads(await self._connection.recv(decode=False))
        except (OSError, WebSocketException, ValueError) as error:
            raise LineBroken(str(error) or type(error).__name__) from error
        return frame if isinstance(frame, dict) else {}

    async def answer(self) -> Answer | Told | None:
        """See Channel.answer."""
        frame = await self._frame()
        ack, nack, leaving = frame.get("ack"), frame.get("nack"), frame.get("goaway")
        if isinstance(ack, dict) and isinstance(ack.get("seq"), int):
            return Answer(ack["seq"])
        if isinstance(nack, dict):
            code, message = str(nack.get("error")), str(nack.get("message", ""))
            return Answer(int(nack.get("seq") or 0), code, message, nack.get("expected_seq"))
        if isinstance(leaving, dict):
            raise Leaving(float(leaving.get("after_ms") or 0) / 1000)
        return Told.of_event(frame)

    async def close(self) -> None:
        """See Channel.close."""
        await self._connection.close()
