"""A watch without a WebSocket: ``GET …/events`` as server-sent events, with the same frames (protocol, section 4).

Rule 1: ``FrameStream`` has no I/O; a socket for tasks and one for threads feed it. They are used as a WebSocket is.
Rule 2: an ended trace has nothing to send after its last event (204). Then its state is asked for: ``latest``.
Rule 3: what came before an end is handed out before the end.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import Any

import h11

from .address import Addresses
from .api import LINE_BYTES, refusal
from .errors import ApiError
from .http import ANSWER_BYTES
from .obstacle import DOCS
from .target import Target

MEDIA = "text/event-stream"
FIRST_S = 10.0  # a stream that has brought nothing for so long is held back by a proxy


class NothingMore(ConnectionError):
    """The watch stands at the end of an ended trace."""


class FrameStream:
    """The frames in the answer to one request. ``query``: the parameters of a watch; None values are left out."""

    def __init__(self, target: Target, trace_id: str, query: dict[str, Any]) -> None:
        self.begun = query.get("wait") is not None  # a frame has come, or need not come soon
        self._target = target
        self._until_end = query.get("until") is not None
        self._path = target.path("api", "traces", trace_id, "events", **query)
        self._http = h11.Connection(h11.CLIENT)
        self._status, self._headers = 0, dict[str, str]()
        self._body: list[bytes] = []  # of a refusal
        self._line: list[bytes] = []  # the beginning of one
        self._size = 0  # of that, or of the refusal
        self._data: list[bytes] = []  # of the frame that comes
        self._frames: deque[bytes] = deque()
        self._over: ApiError | OSError | None = None

    def request(self) -> bytes:
        """The bytes to send."""
        given = {"Host": self._target.authority, "Accept": MEDIA, "Cache-Control": "no-cache"} | self._target.headers
        sent = self._http.send(h11.Request(method="GET", target=self._path, headers=list(given.items())))
        return (sent or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    def next_frame(self) -> bytes | None:
        """The next frame, if it has come. Raises ApiError, ConnectionError when there will be none."""
        if self._frames:
            return self._frames.popleft()
        if self._over is not None:
            raise self._over
        return None

    def receive(self, data: bytes) -> None:
        """Take received bytes; none at the connection's end."""
        try:
            self._receive(data)
        except h11.ProtocolError as error:
            self._over = ConnectionError(str(error))
        except (ApiError, OSError) as error:
            self._over = error

    def _receive(self, data: bytes) -> None:
        if self._over is None:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    return
                if isinstance(event, h11.Response):
                    self._status = event.status_code
                    self._headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in event.headers}
                elif isinstance(event, h11.Data):
                    self._take(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    self._ended()
                else:
                    raise ConnectionError("the connection was closed")

    def _take(self, data: bytes) -> None:
        if not self._streams:
            self._body.append(data)
            self._size += len(data)
            if self._size > ANSWER_BYTES:
                self._refuse()
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._take_line(b"".join([*self._line, line]).rstrip(b"\r"))
            self._line, self._size = [], 0
        self._line.append(rest)
        self._size += len(rest)
        if self._size > LINE_BYTES:
            raise ConnectionError(f"a line of more than {LINE_BYTES:,} bytes")

    @property
    def _streams(self) -> bool:
        plain = self._headers.get("content-encoding", "identity") == "identity"
        return self._status == 200 and plain and self._headers.get("content-type", "").startswith(MEDIA)

    def _take_line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            frame, self._data = b"\n".join(self._data), []
            if self._until_end or not frame.startswith(b'{"event":"end"'):
                self.begun = True
                self._frames.append(frame)

    def _ended(self) -> None:
        if self._status == 204:
            raise NothingMore("the trace has ended")
        if not self._streams:
            self._refuse()
        raise ConnectionError("the stream has ended")

    def _refuse(self) -> None:
        body = b"".join(self._body)[:ANSWER_BYTES]
        raise refusal(self._target.url, self._path, self._status, self._headers, body)

    def held_back(self) -> TimeoutError:
        """The error of a stream that brings nothing."""
        return TimeoutError(f"a proxy before {self._target.url} holds answers back, instead of streaming them ({DOCS})")


class _Transport:
    """What ends the socket of tasks at once."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def abort(self) -> None:
        """End the connection."""
        self._writer.transport.abort()


class SseSocket:
    """A stream of frames, for tasks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: FrameStream) -> None:
        self.transport = _Transport(writer)
        self._reader = reader
        self._stream = stream

    @classmethod
    async def open(cls, target: Target, addresses: Addresses, stream: FrameStream) -> SseSocket:
        """Connect, and ask. Raises OSError."""
        sock = await addresses.aconnect()
        tls = ssl.create_default_context() if target.secure else None
        reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=target.host if tls else None)
        writer.write(stream.request())
        return cls(reader, writer, stream)

    async def recv(self, *, decode: bool = False) -> bytes:
        """The next frame. Raises ApiError, OSError."""
        if not self._stream.begun:
            try:
                async with asyncio.timeout(FIRST_S):
                    return await self._next()
            except TimeoutError as error:
                raise self._stream.held_back() from error
        return await self._next()

    async def _next(self) -> bytes:
        while (frame := self._stream.next_frame()) is None:
            self._stream.receive(await self._reader.read(65536))
        return frame

    async def close(self) -> None:
        """End the connection."""
        self.transport.abort()


class SseThreadSocket:
    """A stream of frames, for threads."""

    def __init__(self, target: Target, addresses: Addresses, stream: FrameStream, timeout_s: float) -> None:
        self._stream = stream
        sock = addresses.connect(timeout_s)
        if target.secure:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)
        self._socket = sock
        sock.sendall(stream.request())

    def recv(self, timeout: float, *, decode: bool = False) -> bytes:
        """The next frame, within ``timeout`` seconds. Raises ApiError, OSError."""
        while (frame := self._stream.next_frame()) is None:
            self._socket.settimeout(timeout if self._stream.begun else FIRST_S)
            try:
                data = self._socket.recv(65536)
            except TimeoutError as error:
                raise (error if self._stream.begun else self._stream.held_back()) from None
            self._stream.receive(data)
        return frame

    def close(self) -> None:
        """End the connection, from any thread."""
        self.close_socket()

    def close_socket(self) -> None:
        """End the connection, from any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already, or by the other side
        self._socket.close()
