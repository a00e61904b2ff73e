"""Filling the search index: reading the log on from where it was read to, in pieces.

Rule 1: a piece is one transaction of the index file: what was read, and how far. So a process that is killed in the
        middle has read nothing of it, and whoever goes on does so from there.
Rule 2: the log's file is only read. Its lock on writing is never taken, and a read transaction lasts for one piece.
Rule 3: a text's place is made of when its trace began and of its event. So the newest traces have the highest places
        in whatever order they were read, and an index that is made anew has the same (but for the order of traces that
        began in one moment).
Rule 4: FTS5 keeps only the index (``content=''``). The texts stand in ``texts``, compressed, so that snippets can be
        made of them, and so that what the index has of one can be taken out again.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...model.blobs import MARK
from ...model.contents import restored
from ...model.terms import separated
from ...model.times import parse_time
from ..project import message_of
from ..row import DAMAGED, TraceRow, object_of
from ..search import MOST_TEXT, Text, event_text, message_text, run_text
from . import blobs
from .keys import OF_EVENT, event_key
from .read import TRACE_COLUMNS, messages_named

VERSION = "1"  # of all that is below: an index of another one is made anew
EVENT_BITS = 24  # of a place; the rest is its trace's slot
MOST_EVENTS = 2**EVENT_BITS - 1  # of one trace; those behind can't be found
SLOT_MS = 8
SINCE_S = 946_684_800.0  # 2000-01-01: slots are counted from there
PIECE_EVENTS = 500
PIECE_BYTES = 1024 * 1024
PIECE_S = 0.05  # after which no further trace is begun with
TRACES_AT_ONCE = 200
PACKED = 200  # bytes of a text from which on it is worth compressing
OVER = ("completed", "failed", "stopped", "lost")

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE traces (
    slot INTEGER PRIMARY KEY, -- when it began, in units of 8 ms, moved on to the next free one
    trace_key INTEGER NOT NULL UNIQUE,
    trace_id TEXT NOT NULL UNIQUE,
    began TEXT NOT NULL,
    first_event_id INTEGER NOT NULL, -- what is before it was taken out
    upto_event_id INTEGER NOT NULL -- the last event that was read
);
-- place: slot << 24 | event_id
CREATE TABLE texts (
    place INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    label TEXT NOT NULL,
    name TEXT NOT NULL,
    at TEXT NOT NULL,
    text BLOB NOT NULL -- TEXT, or a BLOB that is compressed
);
-- Messages that are not complete: name is the message's id
CREATE TABLE unfinished (place INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE VIRTUAL TABLE found USING fts5 (text, content = '', tokenize = 'unicode61 remove_diacritics 2');
"""


@dataclass(slots=True)
class Piece:
    """What one transaction of the index changes, in the order of places when it is written."""

    texts: dict[int, tuple[Text, str]] = field(default_factory=dict)  # by place: what is found there, and when it was
    unfinished: dict[int, str] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)


def meta(db: sqlite3.Connection) -> dict[str, str]:
    """``version``, ``epoch``, and the log's change numbers up to which it was read."""
    return dict(db.execute("SELECT key, value FROM meta"))


def begin(db: sqlite3.Connection, epoch: str) -> None:
    """Make an empty index of a log's history, in an empty file."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN IMMEDIATE")
    try:
        if not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
            for statement in SCHEMA.split(";\n"):
                if statement.strip():
                    db.execute(statement)
            values = {
                "version": VERSION,
                "epoch": epoch,
                "changed": "0",
                "changed_key": "0",
                "deleted": "-1",
                "built": "",
            }
            db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def slot_of(place: int) -> int:
    """The slot of the trace that a place is in."""
    return place >> EVENT_BITS


def first_place(slot: int) -> int:
    """The lowest place of a trace."""
    return slot << EVENT_BITS


def unpacked(text: str | bytes) -> str:
    """A text as it was stored."""
    return text if isinstance(text, str) else zlib.decompress(text).decode()


class LogUnreadable(Exception):
    """The log can't be read now: no fault of the index."""


@contextmanager
def reading() -> Iterator[None]:
    """Errors within the block are the log's."""
    try:
        yield
    except sqlite3.Error as error:
        raise LogUnreadable(str(error)) from error


# --- one piece -------------------------------------------------------------------------------------------------


def step(db: sqlite3.Connection, log: sqlite3.Connection) -> bool:
    """Read on one piece. False: everything is read. Raises sqlite3.Error.

    ``db`` is the index, ``log`` a connection that only reads.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        with reading():
            log.execute("BEGIN")
        try:
            more = _step(db, log)
        finally:
            log.execute("ROLLBACK")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return more


def _step(db: sqlite3.Connection, log: sqlite3.Connection) -> bool:
    known, piece, until = meta(db), Piece(), time.monotonic() + PIECE_S
    more, deleted = _take_deleted(db, log, int(known["deleted"]), piece)
    read = int(known["changed"]), int(known["changed_key"])
    sql = (
        f"SELECT change_seq, {TRACE_COLUMNS} FROM traces"
        " WHERE change_seq >= ? AND (change_seq, trace_key) > (?, ?) ORDER BY change_seq, trace_key LIMIT ?"
    )
    with reading():
        rows = log.execute(sql, (read[0], *read, TRACES_AT_ONCE)).fetchall()
    more = more or len(rows) == TRACES_AT_ONCE
    room = [PIECE_EVENTS, PIECE_BYTES]
    for change_seq, *values in rows:
        row = TraceRow(*values)
        if not _read_trace(db, log, row, piece, room):
            more = True
            break
        read = change_seq, row.trace_key
        if time.monotonic() > until:
            more = more or row.trace_key != rows[-1][1]
            break
    _write(db, piece)
    values = {"changed": str(read[0]), "changed_key": str(read[1]), "deleted": str(deleted)}
    if not more:
        values["built"] = "1"
    for key, value in values.items():
        if known[key] != value:
            db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
    return more


def _take_deleted(db: sqlite3.Connection, log: sqlite3.Connection, since: int, piece: Piece) -> tuple[bool, int]:
    """Take out the traces that were deleted since a change; whether there are more, and the change to go on after."""
    sql = "SELECT change_seq, trace_id FROM deleted_traces WHERE change_seq > ? ORDER BY change_seq"
    with reading():
        if since < 0:  # a new index has none of them
            return False, int(log.execute("SELECT change_seq FROM change_counter").fetchone()[0])
        gone = log.execute(sql, (since,)).fetchall()
    for count, (change_seq, trace_id) in enumerate(gone):
        if count >= TRACES_AT_ONCE and change_seq != since:
            return True, since
        since = change_seq
        found = db.execute("SELECT slot FROM traces WHERE trace_id = ?", (trace_id,)).fetchone()
        if found is not None:
            _forget(db, found[0])
    return False, since


def _forget(db: sqlite3.Connection, slot: int) -> None:
    """Take out all of a trace."""
    _take_out(db, first_place(slot), first_place(slot + 1) - 1)
    db.execute("DELETE FROM traces WHERE slot = ?", (slot,))


def _take_out(db: sqlite3.Connection, first: int, last: int) -> None:
    sql = "SELECT place, text FROM texts WHERE place BETWEEN ? AND ?"
    gone = [(place, separated(unpacked(text))) for place, text in db.execute(sql, (first, last))]
    db.executemany("INSERT INTO found (found, rowid, text) VALUES ('delete', ?, ?)", gone)
    for table in ("texts", "unfinished"):
        db.execute(f"DELETE FROM {table} WHERE place BETWEEN ? AND ?", (first, last))


# --- one trace -------------------------------------------------------------------------------------------------


def _read_trace(db: sqlite3.Connection, log: sqlite3.Connection, row: TraceRow, piece: Piece, room: list[int]) -> bool:
    """Read what is new of a trace, as far as there is room: events and bytes. Whether it was read to its end."""
    sql = "SELECT slot, trace_key, began, first_event_id, upto_event_id FROM traces WHERE trace_id = ?"
    known = db.execute(sql, (row.trace_id,)).fetchone()
    began = min(str(row.started_at), str(row.created_at))
    if known is not None and (known[1] != row.trace_key or known[2] != began):
        _forget(db, known[0])  # another one under its id; or it stands elsewhere in the order now
        known = None
    if known is None:
        known = (_place_trace(db, row, began), row.trace_key, began, row.first_event_id, row.first_event_id - 1)
    slot, _, _, first, upto = known
    if row.first_event_id > first:
        _take_out(db, first_place(slot) + 1, first_place(slot) + min(row.first_event_id - 1, MOST_EVENTS))
        upto = max(upto, row.first_event_id - 1)
    text = Text("run", "", "", "") if row.wrong_columns() else run_text(row)
    stored = db.execute("SELECT text FROM texts WHERE place = ?", (first_place(slot),)).fetchone()
    if stored is None or unpacked(stored[0]) != text.text:
        piece.texts[first_place(slot)] = (text, began)
    with reading():
        upto, touched, ended = _read_events(log, row, slot, upto, piece, room)
    if ended or row.status in OVER:
        touched.update(dict.fromkeys(_unfinished(db, slot, piece)))
    if touched:
        with reading():
            _read_messages(log, row, slot, touched, piece, over=row.status in OVER)
    sql = "UPDATE traces SET first_event_id = ?, upto_event_id = ? WHERE slot = ?"
    db.execute(sql, (row.first_event_id, upto, slot))
    return bool(upto >= min(row.last_event_id, MOST_EVENTS))


def _place_trace(db: sqlite3.Connection, row: TraceRow, began: str) -> int:
    try:
        at = parse_time(began)
    except ValueError:
        at = SINCE_S
    slot = max(0, int((at - SINCE_S) * 1000 / SLOT_MS))
    for (taken,) in db.execute("SELECT slot FROM traces WHERE slot >= ? ORDER BY slot", (slot,)):
        if taken != slot:
            break
        slot += 1
    first = row.first_event_id
    values = (slot, row.trace_key, row.trace_id, began, first, first - 1)
    db.execute("INSERT INTO traces VALUES (?, ?, ?, ?, ?, ?)", values)
    return slot


def _read_events(
    log: sqlite3.Connection, row: TraceRow, slot: int, upto: int, piece: Piece, room: list[int]
) -> tuple[int, dict[str, None], bool]:
    """Note what can be found of the next events.

    Returns the last one that was read, the messages that are to be read as they stand, and whether the trace ended.
    """
    sql = f"SELECT {OF_EVENT}, body FROM events WHERE event_key > ? AND event_key <= ? ORDER BY event_key"
    last = min(row.last_event_id, MOST_EVENTS)
    ended = False
    touched: dict[str, None] = {}
    for event_id, body in log.execute(sql, (event_key(row.trace_key, upto), event_key(row.trace_key, last))):
        if room[0] <= 0 or room[1] <= 0:
            break
        room[0], room[1], upto = room[0] - 1, room[1] - len(body), event_id
        event, place = object_of(body), first_place(slot) + event_id
        if event.get("event") == "message_added" and isinstance(event.get("message"), dict):
            message = event["message"]
            if message.get("status", "complete") != "complete":
                piece.unfinished[place] = str(message.get("message_id"))
            elif MARK in body:
                touched[str(message.get("message_id"))] = None
            else:
                piece.texts[place] = (message_text(message), _at(event))
        elif event.get("event") == "message_updated":
            patch = event.get("patch") or {}
            if patch.get("status") == "complete" or "content" in patch or "append" in event:
                touched[str(event.get("message_id"))] = None
        elif event != DAMAGED and (text := event_text(event)) is not None:
            piece.texts[place] = (text, _at(event))
            ended = ended or (text.kind == "end" and text.label in OVER)
    return upto, touched, ended


def _unfinished(db: sqlite3.Connection, slot: int, piece: Piece) -> Iterator[str]:
    sql = "SELECT name FROM unfinished WHERE place BETWEEN ? AND ?"
    for (name,) in db.execute(sql, (first_place(slot), first_place(slot + 1) - 1)):
        yield name
    yield from (name for place, name in piece.unfinished.items() if slot_of(place) == slot)


def _read_messages(
    log: sqlite3.Connection, row: TraceRow, slot: int, names: Iterable[str], piece: Piece, *, over: bool
) -> None:
    """Note messages as they stand: those that are complete, and all of a trace that is over."""

    def whole(ref: dict[str, Any]) -> Any:
        kind = str(ref.get("media_type"))
        if not (kind.startswith("text/") or kind == "application/json") or ref.get("form") is not None:
            return ref
        found = blobs.room(log, row.trace_id, ref["blob"])
        if found is None or found.row is None:
            return ref
        body = blobs.piece(log, found.row.blob_key, 0)  # of a larger one the first piece will do
        return ref if body is None else restored({**ref, "media_type": "text/plain"}, body[:MOST_TEXT])

    for stored in messages_named(log, row.trace_key, list(names)):
        place = first_place(slot) + stored.event_id
        if not row.first_event_id <= stored.event_id <= MOST_EVENTS:
            continue
        message = message_of(stored)
        complete = message.get("status") == "complete"
        if complete:
            piece.finished.add(place)
            piece.unfinished.pop(place, None)
        if complete or over:
            at = message.get("ended_at") or message.get("started_at") or _at_of(log, row, stored.event_id)
            piece.texts[place] = (message_text(message, whole), str(at))


def _at(event: dict[str, Any]) -> str:
    return str(event.get("occurred_at") or event.get("ts") or "")


def _at_of(log: sqlite3.Connection, row: TraceRow, event_id: int) -> str:
    found = log.execute("SELECT body FROM events WHERE event_key = ?", (event_key(row.trace_key, event_id),)).fetchone()
    return "" if found is None else _at(object_of(found[0]))


# --- writing ---------------------------------------------------------------------------------------------------


def _write(db: sqlite3.Connection, piece: Piece) -> None:
    """In the order of places: FTS5 begins a new segment at each step back."""
    for place in sorted(piece.texts):
        if db.execute("SELECT 1 FROM texts WHERE place = ?", (place,)).fetchone():
            _take_out_one(db, place)
    texts = sorted(piece.texts.items())
    rows = [(place, separated(text.text)) for place, (text, _) in texts if text.text]
    db.executemany("INSERT INTO found (rowid, text) VALUES (?, ?)", rows)
    db.executemany(
        "INSERT INTO texts VALUES (?, ?, ?, ?, ?, ?)",
        [(place, text.kind, text.label, text.name, at, _packed(text.text)) for place, (text, at) in texts if text.text],
    )
    db.executemany("DELETE FROM unfinished WHERE place = ?", [(place,) for place in piece.finished])
    db.executemany("INSERT OR REPLACE INTO unfinished VALUES (?, ?)", piece.unfinished.items())


def _take_out_one(db: sqlite3.Connection, place: int) -> None:
    (text,) = db.execute("SELECT text FROM texts WHERE place = ?", (place,)).fetchone()
    db.execute("INSERT INTO found (found, rowid, text) VALUES ('delete', ?, ?)", (place, separated(unpacked(text))))
    db.execute("DELETE FROM texts WHERE place = ?", (place,))


def _packed(text: str) -> str | bytes:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) < PACKED else zlib.compress(raw, 1)
