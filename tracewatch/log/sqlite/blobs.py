"""Big and binary content in a SQLite file: pieces, and which trace has which content.

Rule 1: a content is written in pieces, each in a transaction of its own, so that appends have their turn between them.
        Complete, and a trace's, it becomes in one transaction.
Rule 2: a content without a trace is not complete any more, in the transaction that takes the last trace from it. Its
        pieces are removed later, a few at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

import orjson

from ...model.blobs import MARK, references
from ..storage import BlobRoom, BlobRow, Upload

DAY_S = 86_400.0  # after so long goes what was received and not named, or what no more has come of
SWEPT_PIECES = 4  # in one transaction
SWEPT_ROWS = 200
_KEY = "(SELECT blob_key FROM blobs WHERE sha256 = ? AND complete)"

# --- receiving -------------------------------------------------------------------------------------------------


def put_piece(db: sqlite3.Connection, key: int | None, sha256: str, piece: int, body: bytes, now: float) -> int | None:
    """See Storage.put_piece."""
    if key is None:
        sql = "INSERT INTO blobs (sha256, bytes, added_at) VALUES (?, ?, ?) RETURNING blob_key"
        (key,) = db.execute(sql, (sha256, len(body), now)).fetchone()
    else:
        sql = "UPDATE blobs SET bytes = bytes + ?, added_at = ? WHERE blob_key = ? AND NOT complete AND added_at > 0"
        if db.execute(sql, (len(body), now, key)).rowcount == 0:
            return None
    db.execute("INSERT INTO blob_pieces VALUES (?, ?, ?)", (key, piece, body))
    return key


def keep(db: sqlite3.Connection, upload: Upload, now: float) -> BlobRoom | None:
    """See Storage.keep_blob."""
    found = room(db, upload.trace_id, upload.sha256)
    if found is None or found.row is not None or found.used + upload.bytes > upload.most:
        drop(db, upload.key)
        return found
    if found.stored:
        drop(db, upload.key)
    elif upload.key is not None:
        sql = "UPDATE blobs SET complete = 1 WHERE blob_key = ? AND bytes = ? AND NOT complete AND added_at > 0"
        db.execute(sql, (upload.key, upload.bytes))
    db.execute(
        "INSERT INTO trace_blobs SELECT trace_key, blob_key, bytes, ?1, 0, ?2 FROM traces, blobs"
        " WHERE trace_id = ?3 AND sha256 = ?4 AND complete",
        (upload.media_type, now, upload.trace_id, upload.sha256),
    )
    return room(db, upload.trace_id, upload.sha256)


def drop(db: sqlite3.Connection, key: int | None) -> None:
    """See Storage.drop_blob."""
    if key is not None:
        db.execute("UPDATE blobs SET added_at = 0 WHERE blob_key = ? AND NOT complete", (key,))


# --- naming ----------------------------------------------------------------------------------------------------


def load(db: sqlite3.Connection, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The bytes of those contents that the traces have."""
    sql = (
        "SELECT trace_blobs.bytes FROM traces JOIN trace_blobs USING (trace_key) JOIN blobs USING (blob_key)"
        " WHERE trace_id = ? AND sha256 = ? AND complete"
    )
    return {pair: size for pair in wanted for (size,) in db.execute(sql, pair)}


def name(db: sqlite3.Connection, trace_key: int, named: Mapping[str, int]) -> None:
    """Note the events that name a trace's contents."""
    sql = f"UPDATE trace_blobs SET event_id = MAX(event_id, ?) WHERE trace_key = ? AND blob_key = {_KEY}"
    db.executemany(sql, [(event_id, trace_key, sha256) for sha256, event_id in named.items()])


# --- reading ---------------------------------------------------------------------------------------------------


def room(db: sqlite3.Connection, trace_id: str, sha256: str) -> BlobRoom | None:
    """See Storage.blob_room."""
    found = db.execute("SELECT trace_key FROM traces WHERE trace_id = ?", (trace_id,)).fetchone()
    if found is None:
        return None
    sql = "SELECT blob_key, bytes, media_type FROM trace_blobs WHERE trace_key = ? AND blob_key = " + _KEY
    row = db.execute(sql, (*found, sha256)).fetchone()
    sql = "SELECT COALESCE(SUM(bytes), 0) FROM trace_blobs WHERE trace_key = ?"
    (used,) = (0,) if row is not None else db.execute(sql, found).fetchone()
    stored = db.execute("SELECT 1 FROM blobs WHERE sha256 = ? AND complete", (sha256,)).fetchone() is not None
    return BlobRoom(None if row is None else BlobRow(*row), int(used), stored)


def piece(db: sqlite3.Connection, key: int, number: int) -> bytes | None:
    """See Storage.blob_piece."""
    found = db.execute("SELECT body FROM blob_pieces WHERE blob_key = ? AND piece = ?", (key, number)).fetchone()
    return None if found is None else bytes(found[0])


# --- letting go ------------------------------------------------------------------------------------------------


def has_leftovers(db: sqlite3.Connection, before: float) -> bool:
    """Whether some content is to be removed: no trace's any more, or received or begun before then and not named."""
    for sql in (
        "SELECT 1 FROM blobs WHERE NOT complete AND added_at < ? LIMIT 1",
        "SELECT 1 FROM trace_blobs WHERE event_id = 0 AND added_at < ? LIMIT 1",
    ):
        if db.execute(sql, (before,)).fetchone() is not None:
            return True
    return False


def sweep(db: sqlite3.Connection, before: float) -> bool:
    """Remove some of what ``has_leftovers`` finds. False if there was nothing."""
    sql = "SELECT trace_key, blob_key FROM trace_blobs WHERE event_id = 0 AND added_at < ? LIMIT ?"
    if unnamed := db.execute(sql, (before, SWEPT_ROWS)).fetchall():
        _take(db, unnamed)
        return True
    found = db.execute("SELECT blob_key FROM blobs WHERE NOT complete AND added_at < ? LIMIT 1", (before,)).fetchone()
    if found is None:
        return False
    sql = "SELECT piece FROM blob_pieces WHERE blob_key = ? ORDER BY piece LIMIT ?"
    pieces = db.execute(sql, (*found, SWEPT_PIECES)).fetchall()
    db.executemany("DELETE FROM blob_pieces WHERE blob_key = ? AND piece = ?", [(*found, *one) for one in pieces])
    if len(pieces) < SWEPT_PIECES:
        db.execute("DELETE FROM blobs WHERE blob_key = ?", found)
    return True


def take_from_trace(db: sqlite3.Connection, trace_key: int, upto: int | None) -> bool:
    """Take some of its contents from a trace: all of one that was deleted (None), or those named up to an event only.

    A message that was open when its event was trimmed keeps what it names. False if there was nothing.
    """
    sql = "SELECT blob_key, sha256 FROM trace_blobs JOIN blobs USING (blob_key) WHERE trace_key = ?"
    if upto is None:
        found = db.execute(f"{sql} LIMIT {SWEPT_ROWS}", (trace_key,)).fetchall()
    else:
        kept = _open_messages_name(db, trace_key, upto)
        named = db.execute(f"{sql} AND event_id BETWEEN 1 AND ?", (trace_key, upto))
        found = [one for one in named if one[1] not in kept][:SWEPT_ROWS]
    _take(db, [(trace_key, blob_key) for blob_key, _ in found])
    return bool(found)


def size(db: sqlite3.Connection, trace_key: int, upto: int | None) -> int:
    """See Storage.content_size."""
    sql = (
        "SELECT COALESCE(SUM(bytes), 0) FROM trace_blobs AS mine WHERE trace_key = ?1 AND event_id <= ?2"
        " AND NOT EXISTS (SELECT 1 FROM trace_blobs WHERE blob_key = mine.blob_key AND trace_key != ?1)"
    )
    return int(db.execute(sql, (trace_key, 2**62 if upto is None else upto)).fetchone()[0])


def _open_messages_name(db: sqlite3.Connection, trace_key: int, upto: int) -> set[str]:
    """The contents that messages name which are still there though the events that added them, up to ``upto``, went."""
    named: set[str] = set()
    sql = "SELECT event_id, body FROM messages WHERE trace_key = ? ORDER BY sequence"
    for event_id, body in db.execute(sql, (trace_key,)):
        if event_id > upto:
            break
        if body is not None and MARK in body:
            named |= references(orjson.loads(body)).keys()
    return named


def _take(db: sqlite3.Connection, pairs: list[tuple[int, int]]) -> None:
    """Take contents from traces. Those that no trace has any more are to be removed."""
    db.executemany("DELETE FROM trace_blobs WHERE trace_key = ? AND blob_key = ?", pairs)
    db.executemany(
        "UPDATE blobs SET complete = 0, added_at = 0 WHERE blob_key = ?1"
        " AND NOT EXISTS (SELECT 1 FROM trace_blobs WHERE blob_key = ?1)",
        [(key,) for _, key in pairs],
    )
