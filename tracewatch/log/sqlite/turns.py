"""Turns: one process at a time does what takes several appends to several traces, such as moving foreign spans.

Rule 1: the file beside the database has a place for each name, by a hash. A turn holds the lock of that place, which
        the system lets go of when a process dies, however it dies. In the place stands who had the last turn.
Rule 2: two names may share a place: then one waits for the other, and no more.
Rule 3: it is not for what the database itself keeps apart: appends need no turn.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path

from ...errors import Unavailable

PLACES = 65_536
PLACE_BYTES = 8
LONGEST_WAIT_S = 30.0
_TRIES_S = (0.001, 0.05)  # the first and the longest pause between two tries
_NAME = "-turns"  # behind that of the database
_SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)  # Linux: a lock of the open file, not of the process


class NamedTurns:
    """The turns at a database. ``path``: of the database."""

    def __init__(self, path: Path) -> None:
        self._db, self._path = path, path.with_name(path.name + _NAME)
        self._me = os.urandom(PLACE_BYTES)
        self._fd: int | None = None
        self._here: dict[int, tuple[asyncio.Lock, int]] = {}  # by place: who of this process waits, and how many

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[bool]:
        """Have the turn of a name; whether the last one was this log's, too. Raises Unavailable."""
        place = int.from_bytes(blake2b(name.encode(), digest_size=4).digest()) % PLACES
        lock, waiting = self._here.get(place, (asyncio.Lock(), 0))
        self._here[place] = lock, waiting + 1
        try:
            async with lock:
                mine = await self._begin(place)
                try:
                    yield mine
                finally:
                    assert self._fd is not None
                    _change(self._fd, fcntl.F_UNLCK, place)
        finally:
            lock, waiting = self._here.pop(place)
            if waiting > 1:
                self._here[place] = lock, waiting - 1

    async def _begin(self, place: int) -> bool:
        """Take the lock of a place; whether it was this log's last."""
        try:
            if self._fd is None:
                mode = self._db.stat().st_mode & 0o777  # who may use the one may use the other
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
            await self._lock(self._fd, place)
            if os.pread(self._fd, PLACE_BYTES, place * PLACE_BYTES) == self._me:
                return True
            os.pwrite(self._fd, self._me, place * PLACE_BYTES)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}", retry_after_s=1) from error
        return False

    async def _lock(self, fd: int, place: int) -> None:
        pause, until = _TRIES_S[0], time.monotonic() + LONGEST_WAIT_S
        while not _change(fd, fcntl.F_WRLCK, place):
            if time.monotonic() > until:
                raise Unavailable("another process writes to the same trace; try again", retry_after_s=1)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _TRIES_S[1])

    def close(self) -> None:
        """Let go of the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _change(fd: int, kind: int, place: int) -> bool:
    """Take or give back the lock of a place; False: another process has it."""
    try:
        if _SET_LOCK is not None:
            fcntl.fcntl(fd, _SET_LOCK, struct.pack("hhqqi4x", kind, os.SEEK_SET, place * PLACE_BYTES, PLACE_BYTES, 0))
        else:
            how = fcntl.LOCK_UN if kind == fcntl.F_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB
            fcntl.lockf(fd, how, PLACE_BYTES, place * PLACE_BYTES, os.SEEK_SET)
    except (BlockingIOError, PermissionError):
        return False
    return True
