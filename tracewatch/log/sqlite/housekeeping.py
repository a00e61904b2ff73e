"""Getting room back in a SQLite file: what trimmed and deleted traces leave behind, free pages, the WAL.

Rule 1: what goes is gone for every reader in one transaction of a few rows. Its other rows (``leftovers``) follow in
        pieces, so that no append waits for hundreds of thousands.
Rule 2: a message goes with its ``message_added``, unless it is still open: then what it says so far moves into its row,
        so that its next update finds it. Questions and what producers have sent stay as long as their trace.
Rule 3: a file gives free pages back bit by bit; one that was made without must be rewritten once.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import orjson

from ...model.canonical import MAX_EVENT_ID
from ...model.state import added_message
from . import blobs
from .faults import is_busy
from .keys import event_key

PIECE_ROWS = 500  # removed in one transaction, at most
PIECE_BYTES = 1024 * 1024
FREED_PAGES = 256  # given back to the file system in one transaction, at most
CHECKPOINT_MS = 20  # how long readers are waited for
PAGE_BYTES = 4096  # SQLite's own default, which nobody changes
NO_END = 2**62
_ADDED = b'{"event":"message_added",'

# --- leftovers -------------------------------------------------------------------------------------------------


def has_leftovers(db: sqlite3.Connection, now: float) -> bool:
    """Whether something was trimmed or deleted, or never came to be of use, and is still in the file."""
    found = db.execute("SELECT 1 FROM leftovers LIMIT 1").fetchone()
    return found is not None or blobs.has_leftovers(db, now - blobs.DAY_S)


def sweep(db: sqlite3.Connection, now: float) -> bool:
    """Remove one piece of that, in a transaction of its own. False if there was nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        found = db.execute("SELECT trace_key, upto_event_id FROM leftovers LIMIT 1").fetchone()
        if found is not None:
            _sweep(db, *found)
        swept = found is not None or blobs.sweep(db, now - blobs.DAY_S)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return swept


def _sweep(db: sqlite3.Connection, key: int, upto: int | None) -> None:
    first, last = event_key(key, 0), event_key(key, MAX_EVENT_ID if upto is None else upto)
    sql = "SELECT event_key, length(body) FROM events WHERE event_key BETWEEN ? AND ? ORDER BY event_key LIMIT ?"
    end = _piece(db.execute(sql, (first, last, PIECE_ROWS)))
    if end is not None:
        if upto is not None:
            _release_messages(db, key, end - first)
        db.execute("DELETE FROM events WHERE event_key BETWEEN ? AND ?", (first, end))
        return
    tables = [("snapshots", "event_id", NO_END if upto is None else upto - 1)]  # that of ``upto`` stays
    if upto is None:
        tables.append(("messages", "sequence", NO_END))
    for table, column, last in tables:
        sql = (
            f"SELECT {column}, COALESCE(length(body), 0) FROM {table} WHERE trace_key = ? AND {column} <= ?"
            f" ORDER BY {column} LIMIT ?"
        )
        end = _piece(db.execute(sql, (key, last, PIECE_ROWS)))
        if end is not None:
            db.execute(f"DELETE FROM {table} WHERE trace_key = ? AND {column} <= ?", (key, end))
            return
    if not blobs.take_from_trace(db, key, upto):
        db.execute("DELETE FROM leftovers WHERE trace_key = ?", (key,))


def _piece(rows: sqlite3.Cursor) -> int | None:
    """The last row of a piece of bounded size. ``rows``: numbers and bytes. None: there are none."""
    end: int | None = None
    size = 0
    for number, length in rows.fetchall():
        size += length
        if end is not None and size > PIECE_BYTES:
            break
        end = number
    return end


def _release_messages(db: sqlite3.Connection, key: int, end: int) -> None:
    """The messages that events up to ``end`` added: they go, or, being open, keep in their row what they say."""
    sql = f"SELECT body FROM events WHERE event_key BETWEEN ? AND ? AND substr(body, 1, {len(_ADDED)}) = ?"
    bodies = db.execute(sql, (event_key(key, 0), event_key(key, end), _ADDED)).fetchall()
    added = {message["sequence"]: message for (body,) in bodies if (message := added_message(orjson.loads(body)))}
    if not added:
        return
    rows = db.execute(
        "SELECT sequence, json_extract(CAST(body AS TEXT), '$.status') FROM messages"
        " WHERE trace_key = ? AND sequence <= ? AND event_id <= ?",
        (key, max(added), end),
    ).fetchall()
    gone, kept = [], []
    for sequence, status in rows:  # those of earlier pieces that were open then are among them
        if (status or added[sequence]["status"]) == "complete":
            gone.append((key, sequence))
        elif status is None:
            kept.append((orjson.dumps(added[sequence]), key, sequence))
    db.executemany("DELETE FROM messages WHERE trace_key = ? AND sequence = ?", gone)
    db.executemany("UPDATE messages SET body = ? WHERE trace_key = ? AND sequence = ?", kept)


# --- the file --------------------------------------------------------------------------------------------------


def pages(db: sqlite3.Connection) -> tuple[int, int]:
    """The file's pages, and how many of them are free."""
    count = db.execute("PRAGMA page_count").fetchone()[0]
    return int(count), int(db.execute("PRAGMA freelist_count").fetchone()[0])


def shrink(db: sqlite3.Connection, keep: int) -> bool:
    """Give free pages of the file back, some at a time, down to ``keep``. False if there is nothing to do."""
    free = db.execute("PRAGMA freelist_count").fetchone()[0]
    if free <= keep or not gives_back(db):
        return False
    # As a script: some versions of Python's sqlite3 take one step of a statement without columns, and free one page
    try:
        db.executescript(f"PRAGMA incremental_vacuum({min(FREED_PAGES, free - keep)})")
    except sqlite3.OperationalError as error:
        if is_busy(error):
            return False  # somebody else writes: next time
        raise
    return True


def gives_back(db: sqlite3.Connection) -> bool:
    """Whether the file can give pages back bit by bit."""
    db.execute("SELECT 1 FROM meta").fetchall()  # a connection sees what another one's VACUUM changed when it reads
    return bool(db.execute("PRAGMA auto_vacuum").fetchone()[0] == 2)


def extra_bytes(path: Path, count: int) -> int:
    """The WAL, and what the file of ``count`` pages has had given back: the end of it is cut off with the WAL."""
    file = path.resolve()
    extra = 0
    try:
        extra = file.stat().st_size - count * PAGE_BYTES
        return extra + file.with_name(f"{file.name}-wal").stat().st_size
    except OSError:  # one of them is not there: whoever writes says so
        return extra


def checkpoint(db: sqlite3.Connection) -> bool:
    """Move the WAL into the file and empty it; False if a reader that is in it takes longer than a moment."""
    patience_ms = db.execute("PRAGMA busy_timeout").fetchone()[0]
    db.execute(f"PRAGMA busy_timeout = {CHECKPOINT_MS}")  # appends wait behind this
    try:
        return bool(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
    finally:
        db.execute(f"PRAGMA busy_timeout = {patience_ms}")


def vacuum(db: sqlite3.Connection) -> None:
    """Write the file anew, without free pages and so that it gives back later ones. Nobody else can write meanwhile."""
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA temp_store = FILE")  # the file may be larger than the memory
    try:
        db.execute("VACUUM")
    finally:
        db.execute("PRAGMA temp_store = MEMORY")


def sizes(path: Path) -> tuple[int, int, int]:
    """Bytes of the file, of its WAL, and of the room that its disk has for us. Raises OSError."""
    path = path.resolve()  # behind a symbolic link SQLite puts the -wal beside the file itself
    wal = path.with_name(path.name + "-wal")
    try:
        wal_bytes = wal.stat().st_size
    except FileNotFoundError:
        wal_bytes = 0
    return path.stat().st_size, wal_bytes, shutil.disk_usage(path.parent).free
