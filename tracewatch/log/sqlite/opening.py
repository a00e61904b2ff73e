"""Opening a SQLite file: its connections and their settings, and the log's epoch.

Rule: what is up to date is opened without a lock on writing, so that another program that holds it costs only appends.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
from contextlib import suppress
from pathlib import Path

import aiosqlite

from ...errors import LogError
from ..health import fault_of, is_busy
from ..rows import fetch

READ_BUSY_MS = 10_000  # a reader waits only while another process recovers the -wal
CACHE_KIB = 16_384


async def connect(path: Path, opened: list[aiosqlite.Connection], *, writing: bool = False) -> aiosqlite.Connection:
    """A connection, put into ``opened`` as soon as there is one. Raises LogError, sqlite3.Error."""
    if writing and not path.parent.is_dir():
        raise LogError(f"can't open the log {str(path)!r}: there is no folder {str(path.parent)!r}")
    if writing:
        with suppress(OSError):  # it is there already, or SQLite says why it can't be. Only its owner may read it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = aiosqlite.connect(path, isolation_level=None, cached_statements=256)
    try:
        await connection
    except BaseException:
        while connection._thread.is_alive():  # noqa: ASYNC110 (it ends by itself, but not after this loop has)
            await asyncio.sleep(0.001)
        raise
    opened.append(connection)
    await fetch(connection, f"PRAGMA busy_timeout = {READ_BUSY_MS}")
    await fetch(connection, f"PRAGMA cache_size = -{CACHE_KIB}")
    await fetch(connection, "PRAGMA temp_store = MEMORY")  # no new files while it runs: descriptors may be used up
    if not writing:
        await fetch(connection, "PRAGMA wal_autocheckpoint = 0")
        await fetch(connection, "PRAGMA query_only = 1")
        return connection
    # Before anything is written: later it takes a VACUUM. So that the space of what was trimmed can be given back
    if (await fetch(connection, "PRAGMA page_count"))[0][0] == 0:  # on others it would need the lock
        await fetch(connection, "PRAGMA auto_vacuum = INCREMENTAL")
    mode = await set_wal(connection)
    if mode != "wal":  # PRAGMA says so by its value, not by an error
        raise LogError(
            f"can't open the log {str(path)!r}: SQLite can't use WAL here (journal mode {mode!r}); "
            "is it on a network file system?"
        )
    await fetch(connection, "PRAGMA synchronous = FULL")
    await fetch(connection, "PRAGMA foreign_keys = OFF")
    return connection


async def set_wal(connection: aiosqlite.Connection) -> str:
    """Switch to WAL; the journal mode there is then."""
    # Switching a new file to WAL needs it alone for a moment and does not honour busy_timeout
    for _ in range(50):
        try:
            return str((await fetch(connection, "PRAGMA journal_mode = WAL"))[0][0])
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise
            await asyncio.sleep(0.1)
    return str((await fetch(connection, "PRAGMA journal_mode = WAL"))[0][0])


def reason(error: Exception) -> str:
    """Why a file can't be opened, for a person."""
    fault = fault_of(error)
    return f"{fault.text} ({error})" if fault is not None and fault.code == "read_only" else str(error)


async def check_writable(connection: aiosqlite.Connection) -> None:
    """A file that may not be written to is refused at the start; one that is held locked is opened: it can be read."""
    try:
        await fetch(connection, "BEGIN IMMEDIATE")
        await fetch(connection, "ROLLBACK")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise


async def epoch(connection: aiosqlite.Connection, path: Path) -> str:
    """The epoch of the log in this file: made when it is opened for the first time, and again in a copy of it.

    What a copy holds under an id may not be what the original has told its watchers. The log keeps the number (inode)
    of the file it is in, so a file with another number is a copy; `tracewatch backup` leaves out the number. Where
    nothing is to be changed, no lock is needed.
    """
    known, inode = await _identifiers(connection), inode_of(path)
    if known.get("inode") == inode and "epoch" in known:
        return known["epoch"]
    await fetch(connection, "BEGIN IMMEDIATE")
    try:
        known = await _identifiers(connection)  # another process may have been faster
        if "epoch" not in known or known.get("inode", inode) != inode:
            known["epoch"] = secrets.token_hex(6)
        for key, value in (("epoch", known["epoch"]), ("inode", inode)):
            await fetch(connection, "INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)
        await fetch(connection, "COMMIT")
    except BaseException:
        if connection.in_transaction:
            await fetch(connection, "ROLLBACK")
        raise
    return known["epoch"]


def inode_of(path: Path) -> str:
    """What the log in this file is to keep as ``inode``."""
    return str(path.stat().st_ino)


async def _identifiers(connection: aiosqlite.Connection) -> dict[str, str]:
    return dict(await fetch(connection, "SELECT key, value FROM meta WHERE key IN ('epoch', 'inode')"))
