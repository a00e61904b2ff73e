"""Readers that stop reading: found by what their TCP acknowledges, and their sockets freed at once.

Rule 1: A connection is stalled when data waits for it, here or in the kernel, and its peer has acknowledged no byte of
        it for ``stall_s``. The size of a write buffer tells neither: more is added while some is taken.
Rule 2: The socket of a stalled connection is reset (SO_LINGER 0), so the kernel frees it at once. ``close`` would wait
        for a write buffer that never empties, and after it the kernel would go on offering what it holds.
Rule 3: A reader tells its sender of room in its buffer only once much of it is free, so one that reads 1 KB a second is
        silent for two minutes at a time. After a silence that has ended, ``SLOW_FACTOR`` times as long is allowed
        until the peer has taken all that waited.
Rule 4: All connections are looked at once a second, a few at a time. Nothing here is on the way of an event.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

SLOW_FACTOR = 15  # times ``stall_s``, for a reader known to be slow: a receive buffer of 128 KiB at 1 KB/s
AT_ONCE = 200  # connections looked at before others have their turn
_INFO_BYTES = 148  # of Linux's struct tcp_info, up to and with tcpi_notsent_bytes
_UNACKED, _ACKED, _NOTSENT = 24, 120, 144  # offsets in it: u32, u64, u32; since Linux 4.6
LINGER_S = 2.0  # to read what a client has still sent
GOODBYE_S = 0.25  # for the goodbyes of TLS when the server ends
LINGER_NONE = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection
LINGER_USUAL = struct.pack("ii", 0, 0)


def free(transport: asyncio.Transport) -> None:
    """Disconnect at once: what waits is thrown away, in this process and in the kernel; the peer sees a reset."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    transport.abort()


def linger(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> asyncio.TimerHandle:
    """Write nothing more, and close when the peer has closed, or after ``LINGER_S``.

    To close with input that was not read is a reset, which may take away what was written last. So it is read until
    then, and whoever gets it throws it away.
    """
    if transport.can_write_eof():  # not over TLS
        transport.write_eof()
    if not transport.is_reading():
        transport.resume_reading()
    return loop.call_later(LINGER_S, transport.close)


def unsent(transport: asyncio.Transport) -> int:
    """The bytes that wait in this process to be sent; 0 of a TLS transport that has ended: asyncio's raises then."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:  # its protocol is gone (asyncio/sslproto.py, _SSLProtocolTransport)
        return 0


def hurry(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
    """Do not wait long for the end of a transport that is closing: the server ends.

    TLS waits for the peer's goodbye, which one that is idle does not send. What is still to be written is waited for.
    """
    if transport.is_closing() and not unsent(transport):
        loop.call_later(GOODBYE_S, transport.abort)


def progress(transport: asyncio.Transport, sock: Any) -> tuple[int, bool]:
    """How far the peer is, as a number that grows while it takes data, and whether data waits for it.

    ``sock`` is the transport's socket, or None.
    """
    if sys.platform == "linux" and sock is not None:
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        except OSError:
            info = b""  # not TCP
        if len(info) == _INFO_BYTES:
            (unacked,), (acked,) = struct.unpack_from("I", info, _UNACKED), struct.unpack_from("Q", info, _ACKED)
            (not_sent,) = struct.unpack_from("I", info, _NOTSENT)
            return acked, bool(unacked or not_sent)
    waiting = unsent(transport)  # where the kernel does not say it: what has left this process
    return -waiting, waiting > 0


class _Held:
    """A connection that was given a request of ours, and how it has taken the answers."""

    __slots__ = ("aborted", "busy", "silent", "since", "slow", "sock", "taken")

    def __init__(self, sock: Any, now: float, aborted: Callable[[], None] | None) -> None:
        self.sock = sock
        self.aborted = aborted  # called before it is freed
        self.busy = True  # a request is being answered
        self.taken = 0
        self.since = now  # when it last took something, or nothing waited
        self.silent = False  # it took nothing between the last two looks
        self.slow = False  # it went on after a silence


class StallGuard:
    """Frees the connections whose peers have stopped reading, while ``run`` runs. ``aborted`` counts them."""

    def __init__(self, *, stall_s: float) -> None:
        self.aborted = 0
        self._stall_s = stall_s
        self._held: dict[asyncio.Transport, _Held] = {}

    def enter(self, transport: asyncio.Transport, aborted: Callable[[], None] | None = None) -> None:
        """A request on this connection begins. It is looked after until it has taken all of the answer.

        ``aborted`` is called before it is freed for not reading.
        """
        held = self._held.get(transport)
        if held is not None:
            held.busy, held.aborted = True, aborted
        elif (sock := transport.get_extra_info("socket")) is not None:
            self._held[transport] = _Held(sock, time.monotonic(), aborted)

    def leave(self, transport: asyncio.Transport) -> None:
        """The request is over."""
        held = self._held.get(transport)
        if held is not None:
            held.busy = False

    def busy(self, transport: asyncio.Transport) -> bool:
        """Whether a request on this connection is being answered."""
        held = self._held.get(transport)
        return held is not None and held.busy

    async def run(self) -> None:
        """Look after all connections until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._stall_s / 10))
            for place, (transport, held) in enumerate(tuple(self._held.items())):
                if place % AT_ONCE == AT_ONCE - 1:
                    await asyncio.sleep(0)
                self._look(transport, held, time.monotonic())

    def _look(self, transport: asyncio.Transport, held: _Held, now: float) -> None:
        if held.sock.fileno() < 0:
            del self._held[transport]
            return
        taken, waiting = progress(transport, held.sock)
        if not waiting:
            held.taken, held.since, held.silent, held.slow = taken, now, False, False
            if not held.busy:
                del self._held[transport]
        elif taken > held.taken:
            held.slow = held.slow or held.silent
            held.taken, held.since, held.silent = taken, now, False
        else:
            held.taken, held.silent = taken, True
            if now - held.since >= self._stall_s * (SLOW_FACTOR if held.slow else 1):
                self.aborted += 1
                del self._held[transport]
                if held.aborted is not None:
                    held.aborted()
                free(transport)
