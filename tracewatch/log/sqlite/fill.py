"""After migration 2: rows for the questions that were open already, which are in folded states, out of SQL's reach.

Rule: it is done once, by the process that comes first. A damaged trace is passed over, for the others' sake.
"""

from __future__ import annotations

import logging
import sqlite3

import orjson

from ...model.state import State
from ..cache import unfold
from ..project import Noted, input_rows
from ..storage import Head, StorageFault, TraceRow
from .read import TRACE_COLUMNS, state_parts

logger = logging.getLogger("tracewatch.log")
UNFILLED = "inputs_unfilled"  # key in ``meta``, left by the migration
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
    sql = f"SELECT body FROM events WHERE trace_key = ? AND substr(body, 1, {len(_ASKED)}) = ?"
    events = [orjson.loads(body) for (body,) in db.execute(sql, (row.trace_key, _ASKED))]
    noted = Noted(asked={one["request_id"]: one for one in events if one["request_id"] in state.pending_inputs})
    new, _ = input_rows(noted, {}, state, 0.0)
    db.executemany("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(row.trace_key, *n) for n in new])


def load_state(db: sqlite3.Connection, row: TraceRow) -> State:
    """The state after the last event. Raises sqlite3.Error, StorageFault."""
    state, known = None, None
    while True:
        state = unfold(row, state_parts(db, row, row.last_event_id, known), state)
        if state.last_event_id >= row.last_event_id:
            return state
        known = Head(row.trace_key, state.last_event_id)
