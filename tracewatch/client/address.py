"""The addresses of a server, and a TCP connection to the first that answers (RFC 8305, "happy eyeballs").

Rule 1: a name is looked up in a thread of its own, one at a time: a look-up that hangs blocks that thread and no other.
        No executor does it: at the interpreter's exit executors are gone already, and a loop waits for its own.
Rule 2: what was found last is used where a look-up fails or takes too long, because a server rarely moves.
Rule 3: ``localhost`` is 127.0.0.1 and ::1, whatever the system's files say (RFC 6761).
"""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LookupTimeout
from typing import Any

Address = tuple[int, Any]  # the family and what ``socket.connect`` takes

NEXT_S = 0.25  # the next address is tried beside one that has not answered for so long (RFC 8305, section 5)
LOOKUP_S = 5.0  # a look-up may take so long


class Addresses:
    """The addresses of one host and port.

    sock = Addresses("localhost", 8400).connect(5.0)
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._fixed = _without_lookup(host, port)
        self._known: list[Address] = self._fixed  # found last
        self._looking: Future[list[Address]] | None = None

    # --- names ---

    def _look(self) -> Future[list[Address]]:
        """The look-up that is under way, or a new one."""
        looking = self._looking
        if looking is None or looking.done():
            looking = self._looking = Future()
            try:
                threading.Thread(
                    target=self._look_up, args=(looking,), name=f"tracewatch name {self._host}", daemon=True
                ).start()
            except RuntimeError:  # no thread can start, as at the interpreter's exit
                self._look_up(looking)
        return looking

    def _look_up(self, looking: Future[list[Address]]) -> None:
        try:
            # As bytes: text would load the idna codec, which a child forked at that very moment could never load again
            name = self._host.encode() if self._host.isascii() else self._host
            self._known = _interleaved(socket.getaddrinfo(name, self._port, type=socket.SOCK_STREAM))
            looking.set_result(self._known)
        except Exception as error:
            looking.set_exception(error if isinstance(error, OSError) else OSError(f"{self._host}: {error}"))

    def _found(self, looking: Future[list[Address]]) -> list[Address]:
        """What the look-up gave by now, else what was found last. Raises OSError."""
        try:
            return looking.result(0)
        except LookupTimeout as error:
            if not self._known:
                raise TimeoutError(f"the name {self._host!r} is not found in {LOOKUP_S:.0f} s") from error
        except OSError:
            if not self._known:
                raise
        return self._known

    # --- connections ---

    def connect(self, timeout_s: float) -> socket.socket:
        """A connected socket with that timeout. Raises OSError: of the first address, if all refuse."""
        until = time.monotonic() + timeout_s
        found = self._fixed
        if not found:
            looking = self._look()
            try:
                looking.exception(min(LOOKUP_S, timeout_s))
            except LookupTimeout:
                pass  # what was found last may do
            found = self._found(looking)
        made = _Race(found).run(until)
        made.settimeout(timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    async def aconnect(self) -> socket.socket:
        """A connected non-blocking socket. Raises OSError: of the first address, if all refuse. It may take long."""
        found = self._fixed
        if not found:
            looking = self._look()
            try:
                async with asyncio.timeout(LOOKUP_S):
                    await _done(looking)
            except TimeoutError:
                pass  # what was found last may do
            found = self._found(looking)
        left, tasks, errors = deque(found), set[asyncio.Task[socket.socket]](), list[OSError]()
        try:
            while left or tasks:
                if left:
                    tasks.add(asyncio.create_task(_attempt(left.popleft())))
                done, tasks = await asyncio.wait(
                    tasks, timeout=NEXT_S if left else None, return_when=asyncio.FIRST_COMPLETED
                )
                made = _winner(done, errors)
                if made is not None:
                    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return made
        finally:
            for task in tasks:
                task.add_done_callback(_close_late)
                task.cancel()
        raise _of_all(errors)


class _Race:
    """Attempts to connect, each begun when the one before has failed or been silent for NEXT_S."""

    def __init__(self, addresses: list[Address]) -> None:
        self._left = deque(addresses)
        self._errors: list[OSError] = []
        self._selector = selectors.DefaultSelector()

    def run(self, until: float) -> socket.socket:
        """The first connected socket. Raises OSError."""
        made = None
        try:
            while made is None:
                if self._left:
                    made = self._begin(self._left.popleft())
                elif not self._selector.get_map():
                    raise _of_all(self._errors)
                made = made or self._wait(until)
            return made
        finally:
            for key in list(self._selector.get_map().values()):
                if key.fileobj is not made:
                    key.fileobj.close()  # type: ignore[union-attr]
            self._selector.close()

    def _begin(self, address: Address) -> socket.socket | None:
        family, to = address
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self._errors.append(error)
            return None
        sock.setblocking(False)
        code = sock.connect_ex(to)
        if not code:
            return sock
        if code != errno.EINPROGRESS:
            self._failed(sock, code)
            return None
        self._selector.register(sock, selectors.EVENT_WRITE)
        return None

    def _wait(self, until: float) -> socket.socket | None:
        if not self._selector.get_map():
            return None
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        for key, _ in self._selector.select(min(left_s, NEXT_S) if self._left else left_s):
            sock: socket.socket = key.fileobj  # type: ignore[assignment]
            self._selector.unregister(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return sock
            self._failed(sock, code)
        return None

    def _failed(self, sock: socket.socket, code: int) -> None:
        self._errors.append(OSError(code, os.strerror(code)))
        sock.close()


async def _attempt(address: Address) -> socket.socket:
    family, to = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, to)
    except BaseException:
        sock.close()
        raise
    return sock


def _winner(done: set[asyncio.Task[socket.socket]], errors: list[OSError]) -> socket.socket | None:
    """The first connection of those attempts; others that came at the same moment are closed."""
    made: socket.socket | None = None
    for task in done:
        error = task.exception()
        if isinstance(error, OSError):
            errors.append(error)
        elif error is not None:
            raise error
        elif made is None:
            made = task.result()
        else:
            task.result().close()
    return made


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _done(future: Future[list[Address]]) -> None:
    """Wait for a thread's future, which goes on when this task is cancelled or its loop ends."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: object) -> None:
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:
            pass  # the loop has ended, and nobody waits

    future.add_done_callback(tell)
    await done.wait()


def _of_all(errors: list[OSError]) -> OSError:
    """The error of attempts that all failed: the first, with the words of those that say something else."""
    first = errors[0]
    others = [one for one in errors[1:] if one.errno != first.errno]
    return type(first)(first.errno, "; ".join([first.strerror or str(first), *map(str, others)])) if others else first


def _without_lookup(host: str, port: int) -> list[Address]:
    """The addresses of a host that is an address itself, or this machine; [] for a name."""
    hosts = ["127.0.0.1", "::1"] if host.lower().rstrip(".") == "localhost" else [host]
    try:
        return [
            (int(found[0]), found[4])
            for one in hosts
            for found in socket.getaddrinfo(one.encode(), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        ]
    except (OSError, UnicodeError):
        return []


def _interleaved(found: list[Any]) -> list[Address]:
    """The addresses that ``getaddrinfo`` gave, in its order, but the families by turns (RFC 8305, section 4)."""
    families: dict[int, deque[Address]] = {}
    for family, _, _, _, to in found:
        families.setdefault(int(family), deque()).append((int(family), to))
    turns: list[Address] = []
    while any(families.values()):
        turns += [waiting.popleft() for waiting in families.values() if waiting]
    return turns
