"""What is wrong with a log now, and since when; and what SQLite's errors mean for a person.

Rule 1: who meets a fault notes it, who finds it gone clears it: the writer at its next commit, a reader at its next
        page, the look every second (sqlite/watchdog.py) when nobody writes or reads. Nothing here asks anything.
Rule 2: a fault is told in the words of whoever can do something about it: no paths, no tracebacks, no SQL.
Rule 3: what is damaged stays noted until a check of the whole file has found nothing.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from ..errors import Damaged, Unavailable

logger = logging.getLogger("tracewatch.log")


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault. ``code`` is the word for programs (``reason`` on the wire), ``text`` is for people."""

    code: str
    text: str
    retry_after_s: int = 1
    own: bool = False  # may be the doing of what one job or one reader asked for, rather than of the disk

    def error(self, what: str) -> Unavailable:
        """The error for who is refused because of it. ``what``: "written" or "read"."""
        kind = Damaged if self.code == "damaged" else Unavailable
        message = f"the log can't be {what}: {self.text}"
        return kind(message, reason=self.code, retry_after_s=self.retry_after_s)


DISK_FULL = Fault("disk_full", "the disk is full; it goes on by itself when there is room", 5)
LOCKED = Fault("locked", "another program holds the database locked")
SLOW = Fault("slow_disk", "the disk has not finished writing what came before", 5)
CROWDED = Fault("too_many_waiting", "as much as may wait to be written is waiting already")
GONE = Fault(
    "file_gone",
    "its file was deleted or moved while it was open; it goes on when the file is back in its place,"
    " or after a restart, which begins a new log",
    10,
)
SIDE_GONE = Fault(
    "file_gone",
    "the -wal or -shm file beside it was deleted while it was open; stop every process that has it open"
    " (the last one puts what was in it into the database), then start again",
    10,
)
REPLACED = Fault(
    "file_replaced",
    "another file was put in its place while it was open, and nothing is read or written any more."
    " Restart tracewatch: it then opens the file that is there",
    10,
)
_DAMAGED = "a part of the database is damaged ({}); what lies elsewhere in it can be read and written"
_IO = "the disk gives an error ({}): it fails, or a quota or a size limit is reached"
_BY_CODE = {
    sqlite3.SQLITE_FULL: DISK_FULL,
    sqlite3.SQLITE_BUSY: LOCKED,
    sqlite3.SQLITE_LOCKED: LOCKED,
    sqlite3.SQLITE_READONLY: Fault("read_only", "the file, its folder or the file system is read-only", 10),
    sqlite3.SQLITE_PERM: Fault("read_only", "the file or its folder may not be written to by this user", 10),
    sqlite3.SQLITE_CANTOPEN: Fault("cant_open", "a file of the database can't be opened", 5),
    sqlite3.SQLITE_NOLFS: Fault("io_error", _IO.format("the file system takes no file of this size"), 5),
}


def is_busy(error: BaseException) -> bool:
    """Whether another connection's lock is all that stands in the way."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.OperationalError) and code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def fault_of(error: BaseException, free_bytes: int | None = None) -> Fault | None:
    """What an error of SQLite, or of reading what it gave, means; None for a defect of ours.

    ``free_bytes``: what is left on the disk, if known: SQLite does not always tell a full disk from a broken one.
    """
    if isinstance(error, orjson.JSONDecodeError):
        return Fault("damaged", _DAMAGED.format("what is stored is no JSON"), 30, own=True)
    if isinstance(error, sqlite3.IntegrityError) or not isinstance(error, sqlite3.Error):
        return None
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # of the driver (text that is no UTF-8), or our own finding: a hole
        return Fault("damaged", _DAMAGED.format(str(error)), 30, own=True)
    primary = code & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Fault("damaged", _DAMAGED.format(str(error)), 30, own=True)
    if primary == sqlite3.SQLITE_IOERR:
        if free_bytes is not None and free_bytes < 64 * 1024:
            return DISK_FULL
        return Fault("io_error", _IO.format(getattr(error, "sqlite_errorname", str(error))), 5)
    return _BY_CODE.get(primary, Fault("sqlite_error", str(error), 5, own=True))


def said(error: BaseException) -> str:
    """An error of SQLite in its own words, which quote no value, to be added to a line of a log; of others nothing."""
    return f": {error}" if isinstance(error, sqlite3.Error) else ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault that lasts."""

    code: str
    message: str
    since: float  # Unix time in seconds


class Health:
    """The troubles of one log, by what they stand in the way of: write, read, file, damage …"""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._troubles: dict[str, Trouble] = {}

    @property
    def troubles(self) -> list[Trouble]:
        """All there are now, the oldest first."""
        return sorted(self._troubles.values(), key=lambda trouble: trouble.since)

    def of(self, area: str) -> Trouble | None:
        """The trouble in one area."""
        return self._troubles.get(area)

    def note(self, area: str, code: str, message: str) -> None:
        """There is this trouble; one of the same code goes on, and was logged when it began."""
        old = self._troubles.get(area)
        same = old is not None and old.code == code
        if not same:
            logger.warning("%s", message)
        self._troubles[area] = Trouble(code, message, old.since if same and old is not None else self._clock())

    def note_error(self, area: str, error: Unavailable) -> Unavailable:
        """As ``note``, from the error that is told because of it; gives the error back."""
        self.note(area, str(error.facts.get("reason", error.code)), error.message)
        return error

    def clear(self, area: str) -> None:
        """It is over."""
        old = self._troubles.pop(area, None)
        if old is not None:
            logger.warning("over after %.0f s: %s", max(0.0, self._clock() - old.since), old.message)
