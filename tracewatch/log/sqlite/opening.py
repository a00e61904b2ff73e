"""Opening a log in a SQLite file: its connections and their settings, its schema, its clock and its epoch.

What is done with a connection is a plain function of a ``sqlite3.Connection``, called in that connection's thread.

Rule: a file that is up to date is opened without the lock on writing: another program that holds it costs only appends.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiosqlite

from ...errors import LogError, LogLocked
from ...model.blobs import DEFAULT_TRACE_BYTES
from ..log import EventLog
from ..prices import Prices
from .clock import steady_clock
from .connections import WorkConnection, connect, run
from .faults import is_busy
from .fill import fill_inputs, fold_again
from .identity import epoch_for
from .lists import register
from .migrate import migrate
from .obstacles import why
from .search import SQLiteSearch
from .storage import SQLiteStorage
from .watchdog import Watchdog

READERS = 4
READ_BUSY_MS = 10_000  # a reader waits only while another process recovers the -wal
TURN_MS = 250  # a writer waits for a lock in turns of so long
CACHE_KIB = 16_384


async def open_sqlite(
    path: str | Path,
    *,
    max_event_bytes: int = 256 * 1024,
    max_batch_events: int = 1000,
    lock_wait_s: float = 10.0,
    max_waiting_bytes: int = 64 * 1024**2,
    max_trace_blob_bytes: int = DEFAULT_TRACE_BYTES,
    prices: Prices | None = None,
    clock: Callable[[], float] = time.time,
    steady: Callable[[], float] | None = None,
) -> EventLog:
    """Open the log in a file, or create it, and bring its schema up to date.

    ``max_event_bytes``: of one event. ``max_batch_events``: in one append. ``lock_wait_s``: seconds for which an
    append, and the opening, wait for another program's lock. ``max_waiting_bytes``: of all that waits to be written.
    ``max_trace_blob_bytes``: of all big and binary content of a trace.
    ``prices``: of model calls; by default those of the library.
    ``clock``: Unix time in seconds. ``steady``: by default the machine's (clock.py), or ``clock`` if that was given.
    Raises LogError, NewerDatabase, LogLocked.
    """
    path = Path(path)
    opened: list[aiosqlite.Connection] = []
    own_clock = steady is None and clock is time.time
    try:
        opened.append(connection := await connect(partial(open_writing, path, lock_wait_s)))
        epoch, machine = await run(connection, partial(begin_writing, path=path, own_clock=own_clock))
        for _ in range(1 + READERS):
            opened.append(await connect(partial(open_reading, path)))
        probe, *readers = opened[1:]
    except BaseException as error:
        for one in opened:
            await one.close()
        if is_busy(error) or is_busy(error.__cause__ or error):
            raise LogLocked(f"the log {str(path)!r} is held locked by another program") from error
        if isinstance(error, sqlite3.Error | OSError):
            raise LogError(f"can't open the log {str(path)!r}: {why(path, error, write=True)}") from error
        raise
    clocks = {"clock": clock, "steady": steady or machine or clock}
    storage = SQLiteStorage(path, connection, probe, readers, epoch=epoch, lock_wait_s=lock_wait_s, **clocks)
    log = EventLog(
        storage,
        max_event_bytes=max_event_bytes,
        max_batch_events=max_batch_events,
        lock_wait_s=lock_wait_s,
        max_waiting_bytes=max_waiting_bytes,
        max_trace_blob_bytes=max_trace_blob_bytes,
        prices=prices,
        index=SQLiteSearch(path, epoch, partial(open_reading, path), lambda: storage.file.replaced),
    )
    watchdog = Watchdog(storage, health=log.health, group=log.group, reader=log.reader, replaced=log.replaced)
    log.stop_watching = watchdog.close
    return log


# --- its connections -------------------------------------------------------------------------------------------


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
        fold_again(db)
    except BaseException:
        db.close()
        raise
    return db


def _connect(path: Path, busy_ms: int) -> WorkConnection:
    db = sqlite3.connect(path, isolation_level=None, cached_statements=256, factory=WorkConnection)
    try:
        db.execute(f"PRAGMA busy_timeout = {busy_ms}")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        register(db)
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
