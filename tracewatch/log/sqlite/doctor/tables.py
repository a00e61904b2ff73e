"""The rows of a trace in all tables, compared with the rows that the writer would make of its events.

Rule: the rows to compare with are made by ``log/project.py``, as the writer's are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ....model.state import Event, State
from ...project import Noted, events_of, input_rows, message_of, trace_row
from ...row import TRACE_COLUMNS, TraceRow, list_of, object_of
from ...sums import Sums
from ..read import TREE_COLUMNS, messages_named

IN_MEMORY = 2_000  # messages
CENT = 1e-6  # sums of costs in a tree are sums of differences of floats
SAID = 200  # characters of a value that is shown

Error = Callable[[str, str], None]


def _parsed(body: bytes | str | None) -> Any:
    try:
        return None if body is None else orjson.loads(body)
    except ValueError:
        return "not JSON"


# --- the trace -------------------------------------------------------------------------------------------------


def check_row(error: Error, row: TraceRow, state: State, log_bytes: int) -> None:
    """The trace's own row. ``log_bytes``: of its events."""
    for name in row.wrong_columns():
        error("trace_row", f"its {name} is {getattr(row, name)!r:.{SAID}}, which is of another type")
    ought = trace_row(row, state, log_bytes, row.lease_expires_at, renamed=object_of(row.metadata) != state.metadata)
    for name in TRACE_COLUMNS:
        stored, made = getattr(row, name), getattr(ought, name)
        if stored != made:
            code = "log_bytes" if name == "log_bytes" else "trace_row"
            error(code, f"its {name} is {stored!r:.{SAID}}, its events say {made!r:.{SAID}}")


def check_words(error: Error, db: sqlite3.Connection, row: TraceRow) -> None:
    """The rows by which it is found by its tags and models."""
    began = min(row.started_at, row.created_at)
    ought = {("tag", tag, began) for tag in list_of(row.tags)} | {("model", one, began) for one in list_of(row.models)}
    stored = set(db.execute("SELECT kind, word, began FROM trace_words WHERE trace_key = ?", (row.trace_key,)))
    for kind, word, _ in sorted(stored ^ ought):
        error("trace_words", f"it is not found by its {kind} {word!r:.{SAID}}, or by one that it does not have")


def check_tree_totals(error: Error, db: sqlite3.Connection, row: TraceRow, state: State) -> None:
    """Its sums with its sub-traces': those that are here count as they stand, others as its own log tells of them."""
    sql = f"SELECT trace_id, {', '.join(TREE_COLUMNS)} FROM traces WHERE parent_trace_id = ? AND NOT apart"
    below = {name: Sums(*sums) for name, *sums in db.execute(sql, (row.trace_id,))}
    ought = row.own()
    for sub_id, told in state.sub_traces.items():
        if sub_id not in below:
            below[sub_id] = Sums.of(told["stats"])
    for sums in below.values():
        ought = ought.plus(sums)
    stored = row.tree()
    if stored[:2] + stored[3:] != ought[:2] + ought[3:] or abs(stored.cost - ought.cost) > CENT * (1 + abs(ought.cost)):
        error("tree_totals", f"its sums with its sub-traces are {stored}, and ought to be {ought}")


def check_producers(error: Error, db: sqlite3.Connection, row: TraceRow) -> None:
    """Every number a producer was acknowledged is an event."""
    sql = "SELECT COALESCE(SUM(last_seq), 0), COALESCE(MIN(last_seq), 1) FROM producers WHERE trace_key = ?"
    total, least = db.execute(sql, (row.trace_key,)).fetchone()
    if total > row.last_event_id or least < 1:
        error("producers", f"its producers have {total:,} events acknowledged, and it has had {row.last_event_id:,}")


# --- messages --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class FoldedMessage:
    """A message as its events say that it now stands."""

    event_id: int  # of its message_added
    updated: bool
    message: dict[str, Any]


class FoldedMessages:
    """All messages of one trace while it is folded: the ones used last in memory, the others in a temporary file.

    Call ``before`` and ``after`` around each event that is applied to the state.
    """

    def __init__(self) -> None:
        self.count = 0
        self._memory: dict[str, FoldedMessage] = {}
        self._file: sqlite3.Connection | None = None

    def before(self, state: State, event: Event) -> None:
        """Have the message that an event is about to change in the state."""
        if event["event"] == "message_updated" and event["message_id"] not in state.messages:
            known = self.get(event["message_id"])
            if known is not None:
                self._memory[event["message_id"]] = known
                state.messages[event["message_id"]] = known.message

    def after(self, state: State, event: Event) -> None:
        """Note what an event has done to a message."""
        if event["event"] == "message_added":
            message_id, event_id, updated = event["message"]["message_id"], event["event_id"], False
            self.count += 1
        elif event["event"] == "message_updated" and event["message_id"] in state.messages:
            message_id, updated = event["message_id"], True
            event_id = self._memory[message_id].event_id
        else:
            return
        self._memory[message_id] = FoldedMessage(event_id, updated, state.messages[message_id])
        if len(self._memory) > IN_MEMORY:
            self._spill(state)

    def _spill(self, state: State) -> None:
        if self._file is None:
            self._file = sqlite3.connect("", isolation_level=None)
            self._file.execute(
                "CREATE TABLE m (message_id TEXT PRIMARY KEY, event_id INT, updated INT, body BLOB) WITHOUT ROWID"
            )
        self._file.execute("BEGIN")
        self._file.executemany(
            "INSERT OR REPLACE INTO m VALUES (?, ?, ?, ?)",
            [(name, one.event_id, one.updated, orjson.dumps(one.message)) for name, one in self._memory.items()],
        )
        self._file.execute("COMMIT")
        self._memory.clear()
        state.messages = {}

    def get(self, message_id: str) -> FoldedMessage | None:
        """The message, or None where no event has added it."""
        found = self._memory.get(message_id)
        if found is None and self._file is not None:
            sql = "SELECT event_id, updated, body FROM m WHERE message_id = ?"
            row = self._file.execute(sql, (message_id,)).fetchone()
            found = None if row is None else FoldedMessage(row[0], bool(row[1]), orjson.loads(row[2]))
        return found

    def close(self) -> None:
        """Let go of the temporary file."""
        if self._file is not None:
            self._file.close()


def check_messages(error: Error, db: sqlite3.Connection, row: TraceRow, messages: FoldedMessages) -> None:
    """The messages as they now stand. Of those whose beginning was trimmed nothing more is known."""
    count = 0
    rows = db.execute(
        "SELECT sequence, message_id, goal_id, event_id, body, as_of FROM messages"
        " WHERE trace_key = ? AND event_id >= ? ORDER BY sequence",
        (row.trace_key, row.first_event_id),
    )
    for sequence, message_id, goal_id, event_id, body, as_of in rows:
        known = messages.get(message_id)
        if known is None or known.event_id != event_id:
            error("messages", f"message {message_id!r} is there, and event {event_id} did not add it")
            continue
        count += 1
        message = known.message
        if (sequence, goal_id) != (message["sequence"], message["goal_id"]):
            error("messages", f"message {message_id!r} has another sequence or goal than in its events")
        elif as_of is None and (body is None) is known.updated:
            error("messages", f"message {message_id!r} was {'' if known.updated else 'never '}updated")
        # A row that streams may be behind its events; readers see it with them
        elif (as_of, body) != (None, None) and _as_read(db, row, message_id, body, as_of) != message:
            error("messages", f"message {message_id!r} is not what its events make of it")
    if count < messages.count:
        error("messages", f"{messages.count - count:,} messages are in its events and not in the table")


def _as_read(db: sqlite3.Connection, row: TraceRow, message_id: str, body: bytes | None, as_of: int | None) -> Any:
    if as_of is None and events_of(body) is None:
        return _parsed(body)
    try:
        (stored,) = messages_named(db, row.trace_key, [message_id])
        return message_of(stored)
    except (ValueError, LookupError, TypeError) as error:
        return f"not a message: {error}"


# --- questions -------------------------------------------------------------------------------------------------


def check_inputs(error: Error, db: sqlite3.Connection, row: TraceRow, state: State, noted: Noted) -> None:
    """The questions. Rows of those that were closed before there was this table are missing, and nobody misses them.

    When one runs out is not compared: its row has that by the steady clock, whose base is another at each boot.
    """
    since = db.execute("SELECT applied_at FROM schema_migrations WHERE number = 2").fetchone()
    made = {one.request_id: one for one in input_rows(noted, {}, state, 0.0)[0]}
    seen = set()
    sql = "SELECT request_id, event_id, asked_at, expires_at, state, body, answer FROM inputs WHERE trace_key = ?"
    for request_id, event_id, asked_at, expires_at, how, body, answer in db.execute(sql, (row.trace_key,)):
        seen.add(request_id)
        ought = made.get(request_id)
        if ought is None and event_id < row.first_event_id:
            continue  # its beginning was trimmed
        if ought is None or how != ought.state:
            said = "that it was never asked" if ought is None else ought.state
            error("inputs", f"question {request_id!r} is {how}, its events say {said}")
        elif (event_id, asked_at, expires_at is None) != (ought.event_id, ought.asked_at, ought.expires_at is None):
            error("inputs", f"question {request_id!r} has another event or time than in its events")
        elif _parsed(body) != _parsed(ought.body):
            error("inputs", f"question {request_id!r} is not what was asked")
        elif _parsed(answer) != _parsed(ought.answer):
            error("inputs", f"question {request_id!r} has another answer than in its events")
    for request_id, ought in made.items():
        old = since is not None and ought.asked_at < since[0] and ought.state != "open"
        if request_id not in seen and not old:
            error("inputs", f"question {request_id!r} is in its events and not in the table")
