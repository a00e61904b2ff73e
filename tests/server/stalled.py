"""Clients that misbehave at the socket. They are raw sockets, so that no library reads or answers for them.

Rule: the state of a connection is the server's side of it in /proc/net/tcp.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import DEADLINE_S, Serving

WS_HEADERS = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"


class Raw:
    """A connected socket that reads only when told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.local_port: int = sock.getsockname()[1]
        self.port: int = sock.getpeername()[1]

    def send(self, data: bytes) -> None:
        """Send all of it; for what fits into the buffers on the way."""
        self.sock.sendall(data)

    async def read(self, size: int = 65536) -> bytes:
        """What has come, at most ``size`` bytes; empty at the end. Raises OSError after a reset."""
        return await asyncio.wait_for(asyncio.to_thread(self.sock.recv, size), DEADLINE_S)

    async def read_all(self) -> bytes:
        """Everything up to the end, or to a reset."""
        found = b""
        try:
            while data := await self.read():
                found += data
        except OSError:
            pass
        return found

    def state(self) -> str | None:
        """The server's side of this connection as the kernel has it (``01``: established); None: freed."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{self.port:04X}") and fields[2].endswith(f":{self.local_port:04X}"):
                return fields[3]
        return None


@contextmanager
def raw(server: Serving, trust: ssl.SSLContext | None = None, *, receive_buffer: int = 8192) -> Iterator[Raw]:
    """A connection to the server; with ``trust`` over TLS. Call it in a thread then: it waits for the handshake."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(DEADLINE_S)
    sock.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    if trust is not None:
        sock = trust.wrap_socket(sock, server_hostname="localhost")
    try:
        yield Raw(sock)
    finally:
        sock.close()


def request(path: str, *, websocket: bool = False, accept: str = "*/*") -> bytes:
    """The head of a GET, or of a WebSocket handshake."""
    key = base64.b64encode(os.urandom(16)).decode()
    more = WS_HEADERS.format(key=key) if websocket else f"Accept: {accept}\r\n"
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()


def ws_frame(payload: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
    """A client's WebSocket frame, masked with zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = bytes([0x80 | 126]) + size.to_bytes(2)
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8)
    return bytes([(0x80 if fin else 0) | opcode]) + length + bytes(4) + payload


def open_files() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path would open one more
