"""Opening a SQLite file: its connections and their settings, its schema, and the log's epoch.

All of it is plain functions of a ``sqlite3.Connection``: the log calls them in the threads of its connections.

Rule: what is up to date is opened without a lock on writing, so that another program that holds it costs only appends.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...errors import LogError
from .clock import steady_clock
from .connections import WorkConnection
from .faults import fault_of, is_busy
from .fill import fill_inputs
from .migrate import migrate

READ_BUSY_MS = 10_000  # a reader waits only while another process recovers the -wal
TURN_MS = 250  # a writer waits for a lock in turns of so long
CACHE_KIB = 16_384


def open_reading(path: Path) -> WorkConnection:
    """A connection that only reads. Raises sqlite3.Error."""
    db = _connect(path, READ_BUSY_MS)
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA query_only = 1")
    return db


def open_writing(path: Path, lock_wait_s: float) -> WorkConnection:
    """The connection that writes, to a file of which the schema is up to date. Raises LogError, sqlite3.Error."""
    if not path.parent.is_dir():
        raise LogError(f"can't open the log {str(path)!r}: there is no folder {str(path.parent)!r}")
    with suppress(OSError):  # it is there already, or SQLite says why it can't be. Only its owner may read it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    db = _connect(path, max(1, round(lock_wait_s * 1000)))
    try:
        # Before anything is written: later it takes a VACUUM. So that the space of what was trimmed can be given back
        if db.execute("PRAGMA page_count").fetchone()[0] == 0:  # on others it would need the lock
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        mode = set_wal(db)
        if mode != "wal":  # PRAGMA says so by its value, not by an error
            raise LogError(
                f"can't open the log {str(path)!r}: SQLite can't use WAL here (journal mode {mode!r}); "
                "is it on a network file system?"
            )
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = OFF")
        migrate(db)
        fill_inputs(db)
    except BaseException:
        db.close()
        raise
    return db


def _connect(path: Path, busy_ms: int) -> WorkConnection:
    db = sqlite3.connect(path, isolation_level=None, cached_statements=256, factory=WorkConnection)
    try:
        db.execute(f"PRAGMA busy_timeout = {busy_ms}")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.execute("PRAGMA temp_store = MEMORY")  # no new files while it runs: descriptors may be used up
    except BaseException:
        db.close()
        raise
    return db


def set_wal(db: sqlite3.Connection) -> str:
    """Switch to WAL; the journal mode there is then."""
    # Switching a new file to WAL needs it alone for a moment and does not honour busy_timeout
    for _ in range(50):
        try:
            return str(db.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise
            time.sleep(0.1)
    return str(db.execute("PRAGMA journal_mode = WAL").fetchone()[0])


def begin_writing(
    db: sqlite3.Connection, path: Path, *, own_clock: bool = True
) -> tuple[str, Callable[[], float] | None]:
    """The epoch of the log in an up-to-date file, and its steady clock if it is to have one. Raises sqlite3.Error.

    A file that may not be written to is refused; one that is held locked by another program can be read.
    """
    epoch = epoch_for(db, path)
    db.execute(f"PRAGMA busy_timeout = {TURN_MS}")
    steady = steady_clock(db) if own_clock else None
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
    return epoch, steady


def epoch_for(db: sqlite3.Connection, path: Path) -> str:
    """The epoch of the log in this file: made when it is opened for the first time, and again in a copy of it.

    What a copy holds under an id may not be what the original has told its watchers. The log keeps the number (inode)
    of the file it is in, so a file with another number is a copy. A file system may give the number of a deleted file
    to the next one, so a copy made by ``tracewatch backup`` has no number. Where nothing is to be changed, no lock is
    needed.
    """
    known, inode = identifiers(db), str(path.stat().st_ino)
    if known.get("inode") == inode and "epoch" in known:
        return known["epoch"]
    db.execute("BEGIN IMMEDIATE")
    try:
        known = identifiers(db)  # another process may have been faster
        if "epoch" in known and known.get("inode", inode) == inode:
            set_identifiers(db, known["epoch"], path)
        else:
            set_identifiers(db, new_epoch(), path)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return identifiers(db)["epoch"]


def new_epoch() -> str:
    """A name for a history that there was not before."""
    return secrets.token_hex(6)


def identifiers(db: sqlite3.Connection) -> dict[str, str]:
    """``epoch`` and ``inode`` as the log has them; a log that was never opened to the end has none."""
    return dict(db.execute("SELECT key, value FROM meta WHERE key IN ('epoch', 'inode')"))


def set_identifiers(db: sqlite3.Connection, epoch: str, path: Path) -> None:
    """Note which history a log is, and that it is the one in this file."""
    values = (("epoch", epoch), ("inode", str(path.stat().st_ino)))
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)


def reason(error: Exception) -> str:
    """Why a file can't be opened, for a person."""
    fault = fault_of(error)
    return f"{fault.text} ({error})" if fault is not None and fault.code == "read_only" else str(error)
