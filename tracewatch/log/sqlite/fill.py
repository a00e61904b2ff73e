"""After a migration: rows of what is in events and folded states, out of SQL's reach.

Migration 2: the questions that were open already. Migration 8: the times, sums and names of each trace, the snapshots
and the messages, all folded again from the events.

Rule 1: it is done once, by the process that comes first; another goes on where one was killed.
Rule 2: a damaged trace is passed over, for the others' sake.
"""

from __future__ import annotations

import logging
import sqlite3
import time

import orjson

from ...model.state import State, apply_into
from ..cache import unfold
from ..project import SNAPSHOT_EVERY, Noted, input_rows, trace_row
from ..row import TraceRow
from ..storage import Head, StorageFault
from .connections import one_step
from .keys import event_key
from .read import TRACE_COLUMNS, state_parts
from .write import renew_row

logger = logging.getLogger("tracewatch.log")
UNFILLED = "inputs_unfilled"  # key in ``meta``, left by migration 2
UNFOLDED = "unfolded_from"  # likewise by migration 8; its value is the last trace_key that was folded again
FOLDED_EVENTS = 20_000  # in one transaction
SAY_EVERY_S = 2.0
_ASKED = b'{"event":"input_requested",'


def fill_inputs(db: sqlite3.Connection) -> None:
    """Write the rows, if a migration has just asked for them. Raises sqlite3.Error."""
    if not db.execute("SELECT 1 FROM meta WHERE key = ?", (UNFILLED,)).fetchone():
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        if db.execute("DELETE FROM meta WHERE key = ? RETURNING 1", (UNFILLED,)).fetchall():
            sql = f"SELECT {TRACE_COLUMNS} FROM traces WHERE status IN ('waiting', 'lost')"
            for values in db.execute(sql).fetchall():
                _fill(db, TraceRow(*values))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _fill(db: sqlite3.Connection, row: TraceRow) -> None:
    try:
        state = load_state(db, row)
    except sqlite3.OperationalError:
        raise  # the disk's doing: nothing is to be concluded from it
    except (sqlite3.DatabaseError, StorageFault, orjson.JSONDecodeError) as error:
        logger.warning("the open questions of a damaged trace can't be listed: %s", error)
        return
    if not state.pending_inputs:
        return
    sql = f"SELECT body FROM events WHERE event_key BETWEEN ? AND ? AND substr(body, 1, {len(_ASKED)}) = ?"
    span = event_key(row.trace_key, row.first_event_id), event_key(row.trace_key, row.last_event_id)
    events = [orjson.loads(body) for (body,) in db.execute(sql, (*span, _ASKED))]
    noted = Noted(asked={one["request_id"]: one for one in events if one["request_id"] in state.pending_inputs})
    new, _ = input_rows(noted, {}, state, 0.0)
    db.executemany("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(row.trace_key, *n) for n in new])


# --- migration 8 -----------------------------------------------------------------------------------------------


def fold_again(db: sqlite3.Connection) -> None:
    """Fold all traces again, if a migration has just asked for it. Raises sqlite3.Error."""
    said, total, fold = time.monotonic(), 0, one_step(_fold_some)
    while db.execute("SELECT 1 FROM meta WHERE key = ?", (UNFOLDED,)).fetchone():
        total = total or db.execute("SELECT COUNT(*) FROM traces").fetchone()[0]
        left = fold(db)
        if left and time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            logger.warning("bringing the log up to date: %d of %d traces are left", left, total)


def _fold_some(db: sqlite3.Connection) -> int:
    """Fold the next traces, as many as make a transaction worth its while. Returns how many are left."""
    found = db.execute("SELECT value FROM meta WHERE key = ?", (UNFOLDED,)).fetchone()
    if found is None:
        return 0  # another process has done it
    events, key = 0, int(found[0])
    sql = f"SELECT {TRACE_COLUMNS} FROM traces WHERE trace_key > ? ORDER BY trace_key LIMIT 1"
    while events < FOLDED_EVENTS:
        values = db.execute(sql, (key,)).fetchone()
        if values is None:
            _count_costed(db)
            db.execute("DELETE FROM meta WHERE key = ?", (UNFOLDED,))
            return 0
        row = TraceRow(*values)
        key, events = row.trace_key, events + 100 + row.last_event_id - row.first_event_id
        try:
            _fold(db, row)
        except sqlite3.OperationalError:
            raise  # the disk's doing: nothing is to be concluded from it
        except (sqlite3.DatabaseError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            logger.warning("a damaged trace keeps what is known of it: %s", error)
    db.execute("UPDATE meta SET value = ? WHERE key = ?", (str(key), UNFOLDED))
    return int(db.execute("SELECT COUNT(*) FROM traces WHERE trace_key > ?", (key,)).fetchone()[0])


def _fold(db: sqlite3.Connection, row: TraceRow) -> None:
    key, state = row.trace_key, row.initial_state()
    sql = "SELECT event_id, body FROM snapshots WHERE trace_key = ? AND event_id >= ? ORDER BY event_id"
    kept = dict(db.execute(sql, (key, row.first_event_id - 1)).fetchall())
    if row.first_event_id > 1 and row.first_event_id - 1 in kept:  # what was before it is trimmed
        state = State.from_json(orjson.loads(kept[row.first_event_id - 1]))
        state.first_event_id = row.first_event_id
    sql = "SELECT message_id FROM messages WHERE trace_key = ? AND body IS NOT NULL"
    bodies = {str(name) for (name,) in db.execute(sql, (key,)).fetchall()}
    while state.last_event_id < row.last_event_id:
        sql = "SELECT body FROM events WHERE event_key > ? AND event_key <= ? ORDER BY event_key LIMIT ?"
        span = event_key(key, state.last_event_id), event_key(key, row.last_event_id)
        page = db.execute(sql, (*span, SNAPSHOT_EVERY)).fetchall()
        if not page:
            raise sqlite3.DatabaseError(f"trace {row.trace_id}: the log ends after event {state.last_event_id}")
        for (body,) in page:
            event = orjson.loads(body)
            apply_into(state, event)
            if event["event"] == "message_added" and event["message"]["message_id"] not in bodies:
                del state.messages[event["message"]["message_id"]]
            if state.last_event_id in kept:
                values = (orjson.dumps(state.to_json()), key, state.last_event_id)
                db.execute("UPDATE snapshots SET body = ? WHERE trace_key = ? AND event_id = ?", values)
    db.executemany(
        "UPDATE messages SET body = ?, as_of = CASE WHEN as_of IS NULL THEN NULL ELSE ? END"
        " WHERE trace_key = ? AND message_id = ?",
        [(orjson.dumps(one), state.last_event_id, key, name) for name, one in state.messages.items()],
    )
    renew_row(db, row, trace_row(row, state, row.log_bytes, row.lease_expires_at, renamed=False))


def _count_costed(db: sqlite3.Connection) -> None:
    """Of how many traces below each trace, and of itself, the cost is known."""
    found = db.execute("SELECT trace_id, CASE WHEN apart THEN NULL ELSE parent_trace_id END, total_costed FROM traces")
    rows = {name: (parent, costed) for name, parent, costed in found.fetchall()}
    sums = dict.fromkeys(rows, 0)
    for name, (_, costed) in rows.items():
        above: str | None = name
        while costed and above in rows:
            sums[above] += costed
            above = rows[above][0]
    db.executemany("UPDATE traces SET tree_costed = ? WHERE trace_id = ?", [(n, name) for name, n in sums.items()])


def load_state(db: sqlite3.Connection, row: TraceRow) -> State:
    """The state after the last event. Raises sqlite3.Error, StorageFault."""
    state, known = None, None
    while True:
        state = unfold(row, state_parts(db, row, row.last_event_id, known), state)
        if state.last_event_id >= row.last_event_id:
            return state
        known = Head(row.trace_key, state.last_event_id)
