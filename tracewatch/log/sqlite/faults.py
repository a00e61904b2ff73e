"""What SQLite's errors mean for people, and what may become of a file while it is open."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from ..health import DISK_FULL, LOCKED, Fault, damage
from ..storage import Defect, StorageFault

GONE = Fault(
    "file_gone",
    "its file was deleted or moved while it was open; it goes on when the file is back in its place,"
    " or after a restart, which begins a new log",
    10,
    area="file",
)
SIDE_GONE = Fault(
    "file_gone",
    "the -wal or -shm file beside it was deleted while it was open; stop every process that has it open"
    " (the last one puts what was in it into the database), then start again",
    10,
    area="file",
)
REPLACED = Fault(
    "file_replaced",
    "another file was put in its place while it was open, and nothing is read or written any more."
    " Restart tracewatch: it then opens the file that is there",
    10,
    area="file",
)
_IO = "the disk gives an error ({}): it fails, or a quota or a size limit is reached"
_BY_CODE = {
    sqlite3.SQLITE_FULL: DISK_FULL,
    sqlite3.SQLITE_BUSY: LOCKED,
    sqlite3.SQLITE_LOCKED: LOCKED,
    sqlite3.SQLITE_PROTOCOL: LOCKED,  # another process holds the -wal's own locks and does not go on
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
    """What an error of SQLite means; None for a defect of ours.

    ``free_bytes``: what is left on the disk, if known: SQLite does not always tell a full disk from a broken one.
    """
    if isinstance(error, sqlite3.IntegrityError) or not isinstance(error, sqlite3.Error):
        return None
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # of the driver (text that is no UTF-8), or our own finding: a hole
        return damage(str(error))
    primary = code & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damage(str(error))
    if primary == sqlite3.SQLITE_IOERR:
        if free_bytes is not None and free_bytes < 64 * 1024:
            return DISK_FULL
        return Fault("io_error", _IO.format(getattr(error, "sqlite_errorname", str(error))), 5)
    return _BY_CODE.get(primary, Fault("sqlite_error", str(error), 5, own=True))


def hole(trace_id: str, after: int) -> sqlite3.DatabaseError:
    """The error for a log whose events do not follow one another: the file is damaged."""
    return sqlite3.DatabaseError(f"trace {trace_id}: the log has a hole after event {after}")


@contextmanager
def told(free_bytes: int | None = None) -> Iterator[None]:
    """Raise SQLite's errors as those of storage.py."""
    try:
        yield
    except sqlite3.Error as error:
        fault = fault_of(error, free_bytes)
        if fault is None:
            raise Defect(str(error)) from error
        raise StorageFault(fault) from error
