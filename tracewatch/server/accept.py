"""Where connections come in: how many there may be, and how long one may take until its first request is complete.

Rule 1: Connections are accepted here and not by the event loop's own server. Without a free file descriptor asyncio's
        tries, and logs, as often as the backlog is long, and uvloop's stops listening for good.
Rule 2: Above the limit a connection is answered 503 and closed at once, so that the others keep what they have. The
        limit stays below what the system lets this process open (``process.room_for``).
Rule 3: Connections that are there come before those that come: each new one costs everybody some 0.5 ms. So a crowd is
        taken in four at a time with pauses in between, and waits in the system's backlog.
Rule 4: A connection is closed if its TLS handshake or request head is not complete after ``request_stall_s``. While a
        request is being answered others look after the connection (stalls.py, ``http.read_body``).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable, Collection
from typing import Any

import orjson

from ..errors import Unavailable
from .stalls import LINGER_NONE, LINGER_USUAL, free

logger = logging.getLogger("tracewatch.server")
ACCEPT_AT_ONCE = 4  # connections taken in before a pause
LOOKED_AT_ONCE = 256  # connections looked at before others have their turn
RETRY_S = 0.5  # until the next attempt when there was no file descriptor left
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def _refusal() -> bytes:
    body = orjson.dumps(Unavailable("this server has all the connections it may have; try again later").body())
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Type: application/json\r\n"
    )
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Acceptor:
    """Accepts the connections of one listening socket. It stands in for an asyncio server: ``close``, ``wait_closed``.

    ``refused`` and ``cut`` count connections: those above the limit, and those without a complete request in time.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        connections: Collection[Any],
        asking: Callable[[Any], bool],
        *,
        max_connections: int,
        max_accepts_per_second: int,
        head_s: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Accept from now on.

        ``protocol`` makes what a connection is given to. ``connections`` are the protocols that have one, and
        ``asking`` says of each whether its request is still awaited. ``head_s``: seconds for that, and for a handshake
        of TLS.
        """
        self.refused = 0
        self.cut = 0
        self._listening = listening
        self._protocol = protocol
        self._connections = connections
        self._asking = asking
        self._max_connections = max_connections
        self._pace_s = ACCEPT_AT_ONCE / max_accepts_per_second
        self._head_s = head_s
        self._tls = tls
        self._refusal = b"" if tls else _refusal()
        self._loop = asyncio.get_running_loop()
        self._opening: dict[asyncio.Task[None], list[asyncio.Protocol]] = {}  # and its protocol, once there is one
        self._exhausted = False
        self._retry: asyncio.TimerHandle | None = None
        self._sweeper = self._loop.create_task(self._sweep(), name="tracewatch-accept")
        listening.setblocking(False)
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept nothing any more. Handshakes of TLS that are under way are given up."""
        for opening in tuple(self._opening) if self._tls is not None else ():
            opening.cancel()
        if not self._sweeper.cancelled():
            self._sweeper.cancel()
        if self._retry is not None:
            self._retry.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)

    async def wait_closed(self) -> None:
        """Wait until the connections that had been accepted have been given to their protocols."""
        await asyncio.gather(self._sweeper, *self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # it has gone already
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._rest(error)
                return
            self._exhausted = False
            sock.setblocking(False)
            if self._is_full():
                self._refuse(sock)
            else:
                made: list[asyncio.Protocol] = []
                task = self._loop.create_task(self._open(sock, made))
                self._opening[task] = made
                task.add_done_callback(self._opening.pop)
        self._pause(self._pace_s)

    def _is_full(self) -> bool:
        if len(self._connections) + len(self._opening) < self._max_connections:
            return False
        # A protocol is among the connections some turns of the loop before its task is done
        opening = sum(not (made and made[0] in self._connections) for made in self._opening.values())
        return len(self._connections) + opening >= self._max_connections

    def _rest(self, error: OSError) -> None:
        """Wait for a free descriptor. The listening socket stays readable, so the loop would do nothing else."""
        if not self._exhausted:
            self._exhausted = True
            logger.error("no connection can be taken in until another has gone: %s", error.strerror)
        self._pause(RETRY_S)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._retry = self._loop.call_later(seconds, self._loop.add_reader, self._listening, self._accept)

    def _refuse(self, sock: socket.socket) -> None:
        self.refused += 1
        with sock:
            try:
                sock.send(self._refusal)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(65536)  # closed with unread input, the connection would be reset and the answer perhaps lost
            except OSError:
                pass  # it has gone, or has not said anything yet

    async def _open(self, sock: socket.socket, made: list[asyncio.Protocol]) -> None:
        def protocol() -> asyncio.Protocol:
            made.append(self._protocol())
            return made[0]

        try:
            if self._tls is None:
                await self._loop.connect_accepted_socket(protocol, sock)
                return
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)  # a handshake that fails leaves nothing
            await self._loop.connect_accepted_socket(
                protocol,
                sock,
                ssl=self._tls,
                ssl_handshake_timeout=self._head_s,
                ssl_shutdown_timeout=self._head_s,
            )
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_USUAL)
        except OSError:
            sock.close()  # it has gone, or its TLS came to nothing, by an error or by the time it took
        except asyncio.CancelledError:
            sock.close()
            raise

    async def _sweep(self) -> None:
        """Close the connections whose request does not come. Each look notes since when it is awaited."""
        before: dict[Any, float] = {}
        while True:
            await asyncio.sleep(min(1.0, self._head_s / 10))
            now = time.monotonic()
            awaited: dict[Any, float] = {}
            for place, protocol in enumerate(tuple(self._connections)):
                if place % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1:
                    await asyncio.sleep(0)
                if not self._asking(protocol):
                    continue
                since = awaited[protocol] = before.get(protocol, now)
                if now - since >= self._head_s and not protocol.transport.is_closing():
                    self.cut += 1
                    free(protocol.transport)
            before = awaited
