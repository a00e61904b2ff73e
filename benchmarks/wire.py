"""WebSockets by hand: a client that costs next to nothing and shares no code with the server that it measures."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Self

NAME = re.compile(rb'\{"event":"([a-z0-9_.]+)"')
STEP = b'{"event":"step","event_id":%d,'  # the beginning of every event of these benchmarks


def handshake(path: str, port: int) -> bytes:
    """The request that opens a WebSocket."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dHJhY2V3YXRjaGJlbmNoIQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def server_frame(payload: bytes) -> bytes:
    """A text frame as a server sends it."""
    return _head(len(payload), 0) + payload


def client_frame(payload: bytes) -> bytes:
    """A text frame as a client sends it; masked with zeros, which leaves the payload as it is."""
    return _head(len(payload), 0x80) + b"\0\0\0\0" + payload


def _head(size: int, mask: int) -> bytes:
    if size < 126:
        return bytes((0x81, mask | size))
    if size < 65536:
        return bytes((0x81, mask | 126)) + size.to_bytes(2, "big")
    return bytes((0x81, mask | 127)) + size.to_bytes(8, "big")


class Frames:
    """Splits a server's bytes into payloads, and keeps an incomplete frame."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that are complete now. The iterator must be exhausted before the next call."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if start > end:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            if start + size > end:
                break
            yield data[start : start + size]
            at = start + size
        self._rest = data[at:]


class Socket:
    """A blocking WebSocket client."""

    def __init__(self, port: int, path: str, timeout_s: float = 60.0) -> None:
        self.raw = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.raw.sendall(handshake(path, port))
        self._frames = Frames()
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._recv()
        status, _, rest = head.partition(b"\r\n\r\n")
        if b" 101" not in status.partition(b"\r\n")[0]:
            raise ConnectionError(f"{path}: {status[:200]!r}")
        self._ready = list(self._frames.feed(rest))

    def _recv(self) -> bytes:
        data = self.raw.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed the socket")
        return data

    def send(self, payload: bytes) -> None:
        """Send a text message."""
        self.raw.sendall(client_frame(payload))

    def receive(self) -> bytes:
        """The next message."""
        while not self._ready:
            self._ready.extend(self._frames.feed(self._recv()))
        return self._ready.pop(0)

    def until(self, name: bytes) -> bytes:
        """Read messages up to the first one whose event (or only key) is ``name``."""
        while True:
            payload = self.receive()
            if payload.startswith((b'{"event":"%b"' % name, b'{"%b":' % name)):
                return payload

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raw.close()
