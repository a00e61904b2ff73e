"""Where connections come in: how many there may be, and how long one may take to say what it wants.

Rule 1: connections are accepted here and not by the event loop's own server: asyncio's tries, and logs, as often as the
        backlog is long when there is no file descriptor left, and uvloop's stops listening for good.
Rule 2: above the limit a connection is answered 503 and closed at once, so that those that are there keep what they
        have. The limit stays below what the system lets this process open.
Rule 3: who is there comes before who comes: each connection costs some 0.5 ms of everybody's time, so a crowd at the
        door is let in by and by and waits in the system's backlog.
Rule 4: who has connected and does not get its request head, or its TLS handshake, to an end is cut. Once a request is
        being answered the connection is somebody else's (stalls.py, services.read_body).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import ssl
import time
from collections.abc import Callable, Collection
from typing import Any

import orjson

from ..errors import Unavailable
from .stalls import LINGER_NONE, LINGER_USUAL, free

logger = logging.getLogger("tracewatch.server")
ACCEPT_AT_ONCE = 4  # connections taken in before the door closes for a moment
LOOKED_AT_ONCE = 256  # of those that are there
RETRY_S = 0.5  # until it is tried again when there was no file descriptor left
OWN_FILES = 128  # descriptors kept for the log, standard streams and whatever else is no connection
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def _refusal() -> bytes:
    body = orjson.dumps(Unavailable("this server has all the connections it may have; try again later").body())
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Type: application/json\r\n"
    )
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def room_for(max_connections: int) -> int:
    """How many connections there may be: ``max_connections``, or what is left of the open files this process may have.

    Asks the system for as many files as that takes, up to its hard limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max_connections
    room = max(1, soft - min(OWN_FILES, soft // 2))
    logger.warning("open files are limited to %d: at most %d connections (ulimit -n, LimitNOFILE)", soft, room)
    return room


class Door:
    """Takes connections in from one listening socket. It stands in for an asyncio server: ``close``, ``wait_closed``.

    ``connections`` are uvicorn's protocols, each there as long as its connection; ``busy`` says of a transport whether
    a request on it is being answered. ``refused`` and ``cut`` count.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        connections: Collection[Any],
        busy: Callable[[asyncio.Transport], bool],
        *,
        max_connections: int,
        max_accepts_per_second: int,
        head_s: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.refused = 0
        self.cut = 0
        self._listening = listening
        self._protocol = protocol
        self._connections = connections
        self._busy = busy
        self._max_connections = max_connections
        self._pace_s = ACCEPT_AT_ONCE / max_accepts_per_second
        self._head_s = head_s
        self._tls = tls
        self._refusal = b"" if tls else _refusal()
        self._loop = asyncio.get_running_loop()
        self._opening: dict[asyncio.Task[None], list[asyncio.Protocol]] = {}  # and its protocol, once there is one
        self._asking: dict[Any, float] = {}  # protocols without a whole request, and since when
        self._exhausted = False
        self._retry: asyncio.TimerHandle | None = None
        self._sweeper = self._loop.create_task(self._sweep(), name="tracewatch-door")
        listening.setblocking(False)
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Take nobody in any more."""
        if not self._sweeper.cancelled():
            self._sweeper.cancel()
        if self._retry is not None:
            self._retry.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)

    async def wait_closed(self) -> None:
        """Wait until those that were being taken in are."""
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
        self._look_away(self._pace_s)

    def _is_full(self) -> bool:
        if len(self._connections) + len(self._opening) < self._max_connections:
            return False
        # A protocol is among the connections some turns of the loop before its task is done
        opening = sum(not (made and made[0] in self._connections) for made in self._opening.values())
        return len(self._connections) + opening >= self._max_connections

    def _rest(self, error: OSError) -> None:
        """The listening socket stays readable: not looked at for a moment, or the loop would do nothing else."""
        if not self._exhausted:
            self._exhausted = True
            logger.error("no connection can be taken in until another has gone: %s", error.strerror)
        self._look_away(RETRY_S)

    def _look_away(self, seconds: float) -> None:
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

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._head_s / 10))
            now = time.monotonic()
            asking: dict[Any, float] = {}
            for place, protocol in enumerate(tuple(self._connections)):
                if place % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1:
                    await asyncio.sleep(0)
                # A WebSocket has had its request. Between requests uvicorn's own timer runs, until the next byte
                if getattr(protocol, "timeout_keep_alive_task", self) is not None or self._busy(protocol.transport):
                    continue
                since = asking[protocol] = self._asking.get(protocol, now)
                if now - since >= self._head_s and not protocol.transport.is_closing():
                    self.cut += 1
                    free(protocol.transport)
            self._asking = asking
