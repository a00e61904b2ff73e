"""The spool: events on disk while the server is away. One file for each trace and producer.

The file: a first line ``{"url", "spec", "producer", "after"}``, then ``{"seq":n,"event":{…}}`` a line, in order.

Rule 1: a process holds the flock of each file it has open, and loses it when it dies, however it dies. The next
        process that gets the lock delivers the file. Sending it again from its first line is harmless: the server
        knows the seq.
Rule 2: a last line that is not whole was never accepted: it is cut off.
Rule 3: used by the background thread only. Every OSError becomes a SpoolError.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

SUFFIX = ".spool"
_TAIL_BYTES = 1024 * 1024  # more than any line
_LOOK_S = 1.0  # the oldest that the known size of the directory may be


class SpoolError(Exception):
    """The disk does not take the events: it is full or not writable, or the spool has its largest size."""


class SpoolDir:
    """The folder of the spools, and the room that is left in it. ``path``: "" if there is no such folder."""

    def __init__(self, path: str | Path, limit_bytes: int) -> None:
        self.missing = path == ""
        self.path = Path(path)
        self.limit_bytes = limit_bytes
        self._used = 0
        self._looked = -_LOOK_S

    def __str__(self) -> str:
        return "no spool" if self.missing else str(self.path)

    def room(self) -> int:
        """Bytes that may still be written; other processes' files count as well."""
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            self._used = sum(_size(path) for path in self.files())
        return self.limit_bytes - self._used

    def wrote(self, size: int) -> None:
        """Count what was written since the last look."""
        self._used += size

    def files(self) -> list[Path]:
        """All spools, oldest first; none if the directory can't be read."""
        if self.missing:
            return []
        try:
            return sorted(path for path in self.path.iterdir() if path.suffix == SUFFIX)
        except OSError:
            return []

    def holds(self, trace_id: str, but: str = "") -> bool:
        """Whether a spool of any process has events of this trace, other than that of the producer ``but``."""
        for path in self.files():
            try:
                with path.open("rb") as file:
                    header = orjson.loads(file.readline())
                    if header["spec"]["trace_id"] == trace_id and header["producer"] != but:
                        return True
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return False

    def create(self, header: dict[str, Any], first_seq: int) -> Spool:
        """A new spool whose first event will be ``first_seq``. Raises SpoolError."""
        if self.missing:
            raise SpoolError("there is no place for a spool")
        line = orjson.dumps(header) + b"\n"
        path = self.path / f"{time.time_ns() // 1_000_000:013d}-{header['producer']}{SUFFIX}"
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolError(f"{path}: {error}") from error
        spool = Spool(self, path, fd, header, len(line), first_seq, 0)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            spool.write(line)
            if os.fstat(fd).st_ino != path.stat().st_ino:
                raise OSError("taken for an empty one by another process")
        except (OSError, SpoolError) as error:
            spool.remove()
            raise SpoolError(f"{path}: {error}") from error
        return spool

    def adopt(self, path: Path, url: str) -> Spool | None:
        """A spool that a dead process left for ``url``, locked; None if another process delivers it."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino != path.stat().st_ino:
                raise OSError("delivered by another process in between")
            spool = _read_back(self, path, fd)
            if spool is not None and spool.header["url"] == url:
                return spool
        except (OSError, ValueError, KeyError, TypeError):
            pass  # locked by a living process, gone, or not a spool
        os.close(fd)
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read_back(directory: SpoolDir, path: Path, fd: int) -> Spool | None:
    """The spool in an open file, its torn last line cut off. Removes a file that holds no event."""
    end = os.fstat(fd).st_size
    head = os.pread(fd, _TAIL_BYTES, 0)
    header = orjson.loads(head[: head.index(b"\n") + 1]) if b"\n" in head else None
    begin = max(0, end - _TAIL_BYTES)
    tail = os.pread(fd, _TAIL_BYTES, begin)
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn:
        os.ftruncate(fd, end - torn)
    lines = tail[: len(tail) - torn].splitlines()
    first = head.split(b"\n", 2)[1:2]
    if header is None or not first or not first[0].startswith(b'{"seq":') or not lines[-1].startswith(b'{"seq":'):
        path.unlink()
        raise OSError("holds no event")
    return Spool(directory, path, fd, header, head.index(b"\n") + 1, _seq(first[0]), _seq(lines[-1]), end - torn)


def _seq(line: bytes) -> int:
    return int(line[7 : line.index(b",")])


class Spool:
    """One open, locked spool file holding the events ``first_seq`` … ``last_seq``."""

    def __init__(
        self,
        directory: SpoolDir,
        path: Path,
        fd: int,
        header: dict[str, Any],
        begin: int,
        first_seq: int,
        last_seq: int,
        size: int = 0,
    ) -> None:
        self.path = path
        self.header = header
        self.first_seq = first_seq
        self.last_seq = last_seq or first_seq - 1
        self._directory = directory
        self._fd = fd
        self._size = size  # the bytes of whole lines
        self._marks = {first_seq: begin}  # seq → offset of its line, where a read began or ended

    def write(self, data: bytes) -> None:
        """Append bytes, all or none. Raises SpoolError."""
        if self._directory.room() < len(data):
            raise SpoolError(f"the spool has its allowed size of {self._directory.limit_bytes} bytes")
        try:
            rest = memoryview(data)
            at = self._size
            while rest:
                done = os.pwrite(self._fd, rest, at)
                rest, at = rest[done:], at + done
        except OSError as error:
            self._cut()
            raise SpoolError(f"{self.path}: {error}") from error
        self._size += len(data)
        self._directory.wrote(len(data))

    def _cut(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            pass  # the next write begins there anyway, and a torn line is cut off when the file is read back

    def append(self, bodies: Iterable[bytes]) -> int:
        """Append events, numbered on from the last; returns how many. Raises SpoolError."""
        lines = [b'{"seq":%d,"event":%b}\n' % (seq, body) for seq, body in enumerate(bodies, self.last_seq + 1)]
        self.write(b"".join(lines))
        self.last_seq += len(lines)
        return len(lines)

    def read(self, seq: int, max_events: int, max_bytes: int) -> list[bytes]:
        """Events from ``seq`` on: at most so many and so large, but at least one. Raises SpoolError."""
        known = max((mark for mark in self._marks if mark <= seq), default=self.first_seq)
        offset, size = self._marks[known], 0
        bodies: list[bytes] = []
        while known <= self.last_seq and len(bodies) < max_events and (not bodies or size < max_bytes):
            lines = self._lines(offset)
            for line in lines:
                if known >= seq:
                    if bodies and (len(bodies) == max_events or size + len(line) > max_bytes):
                        max_events = 0
                        break
                    bodies.append(line[line.index(b'"event":') + 8 : -1])
                    size += len(line)
                known += 1
                offset += len(line) + 1
        self._marks[known] = offset
        return bodies

    def _lines(self, offset: int) -> list[bytes]:
        try:
            data = os.pread(self._fd, min(_TAIL_BYTES, self._size - offset), offset)
        except OSError as error:
            raise SpoolError(f"{self.path}: {error}") from error
        lines = data.split(b"\n")[:-1]
        if not lines or not lines[0].startswith(b'{"seq":'):
            raise SpoolError(f"{self.path}: damaged at byte {offset}")
        return lines

    def forget(self, seq: int) -> None:
        """Note that the events up to ``seq`` are acknowledged, and will not be read again."""
        below = [mark for mark in self._marks if mark <= seq]
        for mark in sorted(below)[:-1]:
            del self._marks[mark]

    def sync(self) -> None:
        """Make sure that the file is on the disk. Raises SpoolError."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise SpoolError(f"{self.path}: {error}") from error

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._fd < 0

    def close(self) -> None:
        """Close and unlock the file, which stays for the next process."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def damaged(self) -> None:
        """Keep the file, which can't be read on, under another name for a person to look at."""
        try:
            self.path.rename(self.path.with_suffix(".damaged"))
        except OSError:
            pass
        self.close()

    def remove(self) -> None:
        """Remove the file, because all its events are delivered."""
        try:
            self.path.unlink()
        except OSError:
            pass  # gone already, or a directory that became read-only: sending it again is harmless
        self._directory.wrote(-self._size)
        self.close()
