"""The spool: events in files, from the moment that they are recorded until the log has acknowledged them.

The folder has a box for each process that records: a folder of its own, locked by it, with one file for each trace and
producer. The file: a first line ``{"created", "url", "host", "spec", "producer", …}``, then ``{"seq":n,"event":{…}}`` a
line, in order. Between them are lines ``{"text", "message_id", "at", "after"}``: streamed text that is not yet an
event. Only those after the last event count. Beside them lie big and binary contents, ``<producer>-<sha256>.blob``,
each from before the event that names it until that is acknowledged.

Rule 1: a process holds the flock of its box and loses it when it dies, however it dies. The next process that gets the
        lock delivers the files. Sending them again from the first line is harmless: the log knows the seq.
Rule 2: a last line that is not whole was never accepted: it is cut off.
Rule 3: what is written is in the page cache, and no call waits for the disk itself (no fsync).
Rule 4: every write says where it goes, and what it wrote counts after it. So a write that was interrupted by an
        exception of a signal handler is written again over itself.
Rule 5: every OSError becomes a SpoolError.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from .interrupts import of_agent, pass_on

SUFFIX = ".spool"
BLOB = ".blob"
MOST_OPEN = 64  # files that a process keeps open; the others are opened for each write
SHRINK_BYTES = 4 * 1024 * 1024  # acknowledged bytes at the begin of a file, from which on they are cut off
_SHRINK_SHARE = 8  # and they are so many times the rest, which has to be copied
_TAIL_BYTES = 1024 * 1024  # more than any line
_LOOK_S = 1.0  # the oldest that the known size of the folder may be
_SEQ, _TEXT = b'{"seq":', b'{"text":'
_NOT_CREATED = b'{"created":0,'
_FLAG_AT = _NOT_CREATED.index(b"0")


class SpoolError(Exception):
    """The disk does not take the events: it is full or not writable, or the spool has its largest size."""


class SpoolDir:
    """The folder of all boxes, and the room that is left in it.

    ``path``: "" if there is no such folder. ``private``: use it only if nobody else can put a file there.
    """

    def __init__(self, path: str | Path, limit_bytes: int, *, private: bool = False) -> None:
        self.missing = path == ""
        self._private = private
        self.path = Path(path)
        self.limit_bytes = limit_bytes
        self._used = 0
        self._looked = -_LOOK_S
        self._known: dict[Path, tuple[str, str]] = {}  # files: the trace and the producer of each

    def __str__(self) -> str:
        return "no spool" if self.missing else str(self.path)

    def room(self) -> int:
        """Bytes that may still be written, by the last look."""
        return self.limit_bytes - self._used

    def look(self) -> None:
        """Count the bytes of all processes' files, if the last count is old."""
        if time.monotonic() - self._looked >= _LOOK_S:
            before = time.monotonic()
            self._used = sum(map(_size, (*self.files(), *self._blobs())))
            self._looked = time.monotonic() + 20 * (time.monotonic() - before)  # thousands of files take their time

    def wrote(self, size: int) -> None:
        """Count what was written since the last look."""
        self._used += size

    def boxes(self) -> list[Path]:
        """All boxes, oldest first, and the single files of earlier versions; none if the folder can't be read."""
        if self.missing or (self._private and not self._is_private()):
            return []
        return sorted(path for path in _entries(self.path) if path.suffix in ("", SUFFIX))

    def _is_private(self) -> bool:
        try:
            found = self.path.stat()
        except OSError:
            return False
        return found.st_uid == os.geteuid() and not found.st_mode & 0o022

    def files(self) -> list[Path]:
        """All spool files, oldest first."""
        found: list[Path] = []
        for path in self.boxes():
            found += [path] if path.suffix == SUFFIX else sorted(one for one in _entries(path) if one.suffix == SUFFIX)
        return found

    def _blobs(self) -> list[Path]:
        boxes = [path for path in self.boxes() if path.suffix != SUFFIX]
        return [one for path in boxes for one in _entries(path) if one.suffix == BLOB]

    def holds(self, trace_id: str, but: str = "") -> bool:
        """Whether a spool of any process has events of this trace, other than that of the producer ``but``."""
        known, self._known = self._known, {}
        for path in self.files():
            of = known.get(path)
            if of is None:
                header = header_of(path)
                of = (header["spec"]["trace_id"], header["producer"]) if header else ("", "")
            self._known[path] = of
        return any(trace == trace_id and producer != but for trace, producer in self._known.values())

    def adopt(self, path: Path) -> Box | None:
        """The box of a process that has died, locked; None if it lives, or another process delivers the box."""
        try:
            kind = 0 if path.suffix == SUFFIX else os.O_DIRECTORY
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | kind)
        except OSError as error:
            pass_on(error)
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return Box(self, path, fd)
        except OSError as error:
            if of_agent(error):
                os.close(fd)
                raise
        os.close(fd)  # locked by a living process, or gone
        return None

    def new_box(self) -> Box:
        """A box for this process. Raises SpoolError."""
        if self.missing:
            raise SpoolError("there is no place for a spool")
        for _ in range(10):
            path = self.path / f"{time.time_ns() // 1_000_000:013d}-{os.getpid()}-{secrets.token_hex(3)}"
            try:
                self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.mkdir(mode=0o700)
            except OSError as error:
                pass_on(error)
                raise SpoolError(f"{path}: {error}") from error
            box = self.adopt(path)
            if box is not None:  # else another process took it for an empty one, and has removed it
                return box
        raise SpoolError(f"{self.path}: a folder of our own in it can't be locked")


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def header_of(path: Path) -> dict[str, Any] | None:
    """The first line of a spool file, if it has a whole one."""
    try:
        with path.open("rb") as file:
            header = orjson.loads(file.readline())
            header["spec"]["trace_id"], header["producer"], header["url"]
            return dict(header)
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Box:
    """The spool files of one process, whose lock this process holds."""

    def __init__(self, directory: SpoolDir, path: Path, fd: int) -> None:
        self.directory = directory
        self.path = path
        self.open_files = 0
        self._fd = fd
        self._numbers = 0

    def files(self) -> list[Path]:
        """The files in it, oldest first: a trace before its sub-traces."""
        if self.path.suffix == SUFFIX:
            return [self.path]
        return sorted(path for path in _entries(self.path) if path.suffix == SUFFIX)

    def create(self, header: dict[str, Any], first_seq: int) -> Spool:
        """A new spool whose first event will be ``first_seq``; the file comes with the first write."""
        self._numbers += 1
        return Spool(self, self.path / f"{self._numbers:06d}-{header['producer']}{SUFFIX}", header, first_seq)

    def read_back(self, path: Path) -> Spool | None:
        """The spool in a file that another process wrote, or this one; None, and the file is removed, if it is empty.

        Raises SpoolError if it can't be read.
        """
        try:
            spool = _read_back(self, path)
            if spool is None:
                path.unlink()
            return spool
        except OSError as error:
            raise SpoolError(f"{path}: {error}") from error

    # --- big and binary contents ---

    def put_blob(self, producer: str, sha256: str, data: bytes) -> Path:
        """Write a content that an event of this producer is going to name. Raises SpoolError."""
        path = self.blob(producer, sha256)
        if self.directory.room() < len(data):
            raise SpoolError(f"the spool has its allowed size of {self.directory.limit_bytes} bytes")
        new = path.with_suffix(f".{secrets.token_hex(4)}.new")
        try:
            if _size(path) == len(data) and data:
                return path
            with new.open("wb", buffering=0) as file:
                view = memoryview(data)
                while len(view):
                    view = view[file.write(view) or 0 :]
            new.replace(path)
        except OSError as error:
            _unlink(new)
            pass_on(error)
            raise SpoolError(f"{path}: {error}") from error
        self.directory.wrote(len(data))
        return path

    def blob(self, producer: str, sha256: str) -> Path:
        """The file of a content."""
        return self.path / f"{producer.partition('.')[0]}-{sha256}{BLOB}"

    def drop_blob(self, path: Path) -> None:
        """Remove a content that the log has."""
        size = _size(path)
        _unlink(path)
        self.directory.wrote(-size)

    def close(self) -> None:
        """Unlock the box, and remove it if there is nothing in it."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self.path.suffix != SUFFIX:
            paths = _entries(self.path)
            gone = {".new"}  # of a process that died while it made a file shorter
            if not any(path.suffix == SUFFIX for path in paths):
                gone.add(BLOB)  # no event names it any more
            for path in paths:
                if path.suffix in gone:
                    _unlink(path)
            try:
                self.path.rmdir()
            except OSError:
                pass  # it has files for the next process, or the folder became read-only
        os.close(fd)

    def abandon(self) -> None:
        """Close the descriptor in a forked child: the box is the parent's."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Shelf:
    """The place for the spools of this process with one target: a box, made with the first event."""

    def __init__(self, directory: SpoolDir, url: str) -> None:
        self.directory = directory
        self.told = False  # whether it was said that the disk takes nothing
        self.url = url
        self._host = socket.gethostname()
        self._reset()

    def _reset(self) -> None:
        self._box: Box | None = None
        self._lock = threading.RLock()  # reentrant: a signal handler may record as well

    @property
    def box(self) -> Box | None:
        """The box, if there is one."""
        return self._box

    def create(self, header: dict[str, Any], first_seq: int) -> Spool:
        """A new spool whose first event will be ``first_seq``. Raises SpoolError."""
        return self.made_box().create({"url": self.url, "host": self._host, **header}, first_seq)

    def made_box(self) -> Box:
        """The box, which is made if there is none. Raises SpoolError."""
        with self._lock:
            if self._box is None:
                box = self.directory.new_box()
                if self._box is None:
                    self._box = box
                else:  # made by a signal handler in the meantime
                    box.close()
            return self._box

    def after_fork(self) -> None:
        """Start anew in a forked child: the box is the parent's."""
        if self._box is not None:
            self._box.abandon()
        self._reset()

    def close(self) -> None:
        """Leave the files in it to other processes."""
        with self._lock:
            box, self._box = self._box, None
        if box is not None:
            box.close()


def _read_back(box: Box, path: Path) -> Spool | None:
    """The spool in a file, its torn last line cut off; None if it holds nothing to deliver."""
    header = header_of(path)
    if header is None:
        if _size(path):
            raise OSError("it has no first line that can be read")
        return None
    with path.open("rb") as file:
        begin = len(file.readline())
        line = next((line for line in file if not line.startswith(_TEXT)), b"")
        first = _seq(line) if line.startswith(_SEQ) and line.endswith(b"\n") else None
        size, window = file.seek(0, os.SEEK_END), _TAIL_BYTES
        while True:
            start = max(begin, size - window)
            file.seek(start)
            tail = file.read()
            if start > begin:  # it begins within a line
                start += tail.index(b"\n") + 1 if b"\n" in tail else len(tail)
                tail = tail[len(tail) - (size - start) :]
            tail = tail[: tail.rfind(b"\n") + 1]
            at = tail.rfind(b"\n" + _SEQ) + 1
            if start == begin or tail.startswith(_SEQ, at):
                break
            window *= 4  # all of this was streamed text
    last = _seq(tail[at:]) if tail.startswith(_SEQ, at) else None
    if first is None and last is not None:
        raise OSError(f"damaged at byte {begin}")
    after = tail[at:].splitlines(keepends=True)
    events = after[:1] if last is not None else []
    loose = [one for one in after[len(events) :] if one.startswith(_TEXT)]
    if last is None and not loose and header.get("created", 1) and not header.get("lost"):
        return None
    texts = [json.loads(one) for one in loose]
    first = first or (int(texts[0]["after"]) + 1 if texts else int(header.get("first", 1)))
    end = start + at + sum(map(len, events))
    spool = Spool(box, path, header, first, begin=begin, end=(end, last or first - 1))
    spool.loose = texts
    return spool


def _seq(line: bytes) -> int:
    return int(line[len(_SEQ) : line.index(b",")])


class Spool:
    """One file of events ``first_seq`` … ``last_seq``, of one producer of one trace."""

    def __init__(
        self,
        box: Box,
        path: Path,
        header: dict[str, Any],
        first_seq: int,
        *,
        begin: int = 0,
        end: tuple[int, int] | None = None,
    ) -> None:
        self.path = path
        self.header = header
        self.first_seq = first_seq
        self.loose: list[dict[str, Any]] = []  # {text, message_id, at}: streamed text of a process that has died
        self.box = box
        self._fd = -1
        self._head = b"" if begin else self._line(header, first_seq)
        self._begin = begin or len(self._head)  # the offset of the first event
        self._end = end or (
            0,
            first_seq - 1,
        )  # (offset, seq) of what counts; 0: there is no file. One value, for rule 4
        self._marks = {first_seq: self._begin}  # seq → offset of its line, where a read began or ended

    @staticmethod
    def _line(header: dict[str, Any], first_seq: int) -> bytes:
        created = header.get("created", 0)
        rest = {key: value for key, value in header.items() if key not in ("created", "first")}
        return orjson.dumps({"created": created, **rest, "first": first_seq}) + b"\n"

    @property
    def last_seq(self) -> int:
        """The last event in it."""
        return self._end[1]

    # --- writing ---

    def append(self, bodies: Sequence[bytes]) -> None:
        """Append events, numbered on from the last, all or none. Raises SpoolError."""
        offset, last = self._end
        if offset:
            data = b"".join([b'{"seq":%d,"event":%b}\n' % (seq, body) for seq, body in enumerate(bodies, last + 1)])
        else:
            lines = [b'{"seq":%d,"event":%b}\n' % (seq, body) for seq, body in enumerate(bodies, last + 1)]
            data = b"".join((self._head, *lines))
        self._write(data, offset)
        self._end = (offset + len(data), last + len(bodies))

    def add_text(self, message_id: str, text: str, at: float) -> None:
        """Append streamed text that is not yet an event. Raises SpoolError."""
        offset, last = self._end
        line = {"text": text, "message_id": message_id, "at": at, "after": last}
        try:
            data = orjson.dumps(line) + b"\n"
        except TypeError:  # half of a surrogate pair
            data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        data = data if offset else self._head + data
        self._write(data, offset)
        self._end = (offset + len(data), last)

    def begin(self) -> None:
        """Write the first line, if there is no file. Raises SpoolError."""
        if not self._end[0]:
            self.append(())

    def _write(self, data: bytes, offset: int) -> None:
        box = self.box
        if box.directory.room() < len(data):
            raise SpoolError(f"the spool has its allowed size of {box.directory.limit_bytes} bytes")
        fd = self._fd
        try:
            if fd < 0:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if box.open_files < MOST_OPEN:
                    self._fd = fd
                    box.open_files += 1
            try:
                done = os.pwrite(fd, data, offset)
                while done < len(data):
                    done += os.pwrite(fd, data[done:], offset + done)
            except OSError:
                os.ftruncate(fd, offset)
                raise
            finally:
                if fd != self._fd:
                    os.close(fd)
        except OSError as error:
            pass_on(error)
            raise SpoolError(f"{self.path}: {error}") from error
        box.directory.wrote(len(data))

    def mark_created(self) -> None:
        """Note in the file that the trace exists in the log."""
        self.header["created"] = 1
        if not self._end[0]:
            self._head = self._line(self.header, self.first_seq)
            self._begin = len(self._head)
            self._marks = {self.first_seq: self._begin}
            return
        try:
            with self.path.open("r+b", buffering=0) as file:
                if file.read(len(_NOT_CREATED)) == _NOT_CREATED:
                    os.pwrite(file.fileno(), b"1", _FLAG_AT)
        except OSError:
            pass  # then the next process asks for it again, which is harmless

    # --- reading ---

    def read(self, seq: int, max_events: int, max_bytes: int) -> list[bytes]:
        """Events from ``seq`` on: at most so many and so large, but at least one. Raises SpoolError."""
        known = max((mark for mark in self._marks if mark <= seq), default=self.first_seq)
        offset, size = self._marks[known], 0
        bodies: list[bytes] = []
        last_seq = self.last_seq
        while known <= last_seq and len(bodies) < max_events and (not bodies or size < max_bytes):
            for line in self._lines(offset):
                if known > last_seq:
                    break
                if line.startswith(_TEXT):
                    offset += len(line) + 1
                    continue
                if not line.startswith(b'{"seq":%d,' % known):
                    raise SpoolError(f"{self.path}: damaged at byte {offset}")
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
            with self.path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), min(_TAIL_BYTES, self._end[0] - offset), offset)
        except OSError as error:
            raise SpoolError(f"{self.path}: {error}") from error
        lines = data.split(b"\n")[:-1]
        if not lines:
            raise SpoolError(f"{self.path}: damaged at byte {offset}")
        return lines

    # --- what is acknowledged leaves ---

    def forget(self, seq: int) -> None:
        """Let go of the events up to ``seq``, which are acknowledged. Nobody may append meanwhile."""
        offset, last = self._end
        if not offset:
            self.first_seq = max(self.first_seq, seq + 1)
            return
        if seq >= last:
            self._cut()
            return
        below = [mark for mark in self._marks if mark <= seq + 1]
        for mark in sorted(below)[:-1]:
            del self._marks[mark]
        gone = self._marks.get(seq + 1, 0) - self._begin
        if gone >= SHRINK_BYTES and gone >= _SHRINK_SHARE * (offset - self._begin - gone):
            self.rewrite(self.header, seq + 1)

    def _cut(self) -> None:
        """Cut off all events."""
        offset, last = self._end
        try:
            os.truncate(self.path, self._begin)
        except OSError:
            return  # they will be sent again, which is harmless
        self._end, self.first_seq, self._marks = (self._begin, last), last + 1, {last + 1: self._begin}
        self.box.directory.wrote(self._begin - offset)

    def rewrite(self, header: dict[str, Any], seq: int) -> None:
        """Make the file anew with this first line, and of the events those from ``seq`` on. Nobody may append."""
        offset, last = self._end
        head, new = self._line({"created": self.header.get("created", 0), **header}, seq), self.path.with_suffix(".new")
        try:
            if seq <= last and seq not in self._marks:
                self.read(seq - 1, 1, 1)  # to know where it is
            begin = self._marks[seq] if seq <= last else offset
            new.touch(mode=0o600)
            with self.path.open("rb") as old, new.open("wb") as file:
                old.seek(begin)
                file.write(head)
                file.write(old.read(offset - begin))
            new.replace(self.path)
        except (OSError, SpoolError, KeyError):
            _unlink(new)
            return  # the file is longer than it has to be
        self._close()
        self.header, self.first_seq, self._begin = dict(header), seq, len(head)
        self._end = (len(head) + offset - begin, last)
        self._marks = {seq: len(head)}
        self.box.directory.wrote(self._end[0] - offset)

    # --- the file ---

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self.box.open_files -= 1
            os.close(fd)

    def close(self) -> None:
        """Close the file, which stays. The next write opens it again."""
        self._close()

    def abandon(self) -> None:
        """Close the file in a forked child: it is the parent's."""
        self._close()

    def damaged(self) -> None:
        """Keep the file, which can't be read on, under another name for a person to look at."""
        set_aside(self.box.directory, self.path)
        self._close()

    def remove(self) -> None:
        """Remove the file, because all its events are delivered."""
        self._close()
        _unlink(self.path)  # or not, in a folder that became read-only: sending it again is harmless
        self.box.directory.wrote(-self._end[0])
        self._end = (0, self.last_seq)


def set_aside(directory: SpoolDir, path: Path) -> None:
    """Give a file that can't be read another name, beside the boxes, for a person to look at."""
    try:
        path.rename(directory.path / f"{path.parent.name}-{path.stem}.damaged")
    except OSError:
        pass


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        pass
