"""What stands in the other tables about a trace, against the state its events fold to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import orjson

from ....model.state import TOTALS, State
from ...project import message_of
from ...storage import TraceRow
from ..read import messages_named
from .questions import Questions
from .store import Messages

CENT = 1e-6  # sums of costs in a tree are sums of differences of floats
SAID = 200  # characters of a value that is shown

Error = Callable[[str, str], None]


def check_row(error: Error, row: TraceRow, state: State) -> None:
    """The trace's own row."""
    names = ("status", "current_goal_id", "last_event_id", *TOTALS, "updated_at", "completed_at", "summary")
    for name in names:
        is_, ought = getattr(row, name), getattr(state, name)
        if is_ != ought:
            error("trace_row", f"its {name} is {is_!r:.{SAID}}, its events say {ought!r:.{SAID}}")
    failed = _parsed(row.error)
    if failed != state.error:
        error("trace_row", f"its error is {failed!r:.{SAID}}, its events say {state.error!r:.{SAID}}")


def check_tree_totals(error: Error, connection: sqlite3.Connection, row: TraceRow, state: State) -> None:
    """Its sums with its sub-traces': those that are here count as they stand, others as its own log tells of them."""
    sql = "SELECT trace_id, tree_messages, tree_tokens, tree_cost FROM traces WHERE parent_trace_id = ?"
    below = {name: sums for name, *sums in connection.execute(sql, (row.trace_id,))}
    ought = [row.total_messages, row.total_tokens, row.total_cost]
    for sub_id, told in state.sub_traces.items():
        if sub_id not in below:
            below[sub_id] = [told["stats"][key] for key in TOTALS]
    for sums in below.values():
        ought = [a + b for a, b in zip(ought, sums, strict=True)]
    is_ = [row.tree_messages, row.tree_tokens, row.tree_cost]
    if is_[:2] != ought[:2] or abs(is_[2] - ought[2]) > CENT * (1 + abs(ought[2])):
        error("tree_totals", f"its sums with its sub-traces are {is_}, and ought to be {ought}")


def check_messages(error: Error, connection: sqlite3.Connection, row: TraceRow, messages: Messages) -> None:
    """The messages as they now stand. Of those whose beginning was trimmed nothing more is known."""
    count = 0
    as_of_column = "as_of" if _has_as_of(connection) else "NULL"  # of a file that is not migrated yet
    rows = connection.execute(
        f"SELECT sequence, message_id, goal_id, event_id, body, {as_of_column} FROM messages"
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
        elif as_of is not None:  # it streams: its row may be behind its events
            if _now(connection, row, message_id) != message:
                error("messages", f"message {message_id!r} is not what its events make of it")
        elif (body is None) is known.updated:
            error("messages", f"message {message_id!r} was {'' if known.updated else 'never '}updated")
        elif body is not None and _parsed(body) != message:
            error("messages", f"message {message_id!r} is not what its events make of it")
    if count < messages.count:
        error("messages", f"{messages.count - count:,} messages are in its events and not in the table")


def _has_as_of(connection: sqlite3.Connection) -> bool:
    return any(column[1] == "as_of" for column in connection.execute("PRAGMA table_info(messages)"))


def _now(connection: sqlite3.Connection, row: TraceRow, message_id: str) -> Any:
    (stored,) = messages_named(connection, row.trace_key, [message_id])
    try:
        return message_of(stored)
    except (ValueError, LookupError, TypeError) as error:
        return f"not a message: {error}"


def _parsed(body: bytes | str | None) -> Any:
    try:
        return None if body is None else orjson.loads(body)
    except ValueError:
        return "not JSON"


def check_inputs(
    error: Error, connection: sqlite3.Connection, row: TraceRow, state: State, questions: Questions
) -> None:
    """The questions. Rows of those that were closed before there was this table are missing, and nobody misses them.

    When one runs out is not compared: its row has that by the steady clock, whose base is another at each boot.
    """
    since = connection.execute("SELECT applied_at FROM schema_migrations WHERE number = 2").fetchone()
    seen = set()
    sql = "SELECT request_id, event_id, asked_at, expires_at, state, body, answer FROM inputs WHERE trace_key = ?"
    for request_id, event_id, asked_at, expires_at, how, body, answer in connection.execute(sql, (row.trace_key,)):
        seen.add(request_id)
        pending = state.pending_inputs.get(request_id)
        ought = "open" if pending is not None else state.closed_inputs.get(request_id)
        asked = questions.asked.get(request_id)
        if (ought is None or asked is None) and event_id < row.first_event_id:
            continue  # its beginning was trimmed
        if asked is None or how != ought:
            error("inputs", f"question {request_id!r} is {how}, its events say {ought or 'that it was never asked'}")
        elif (event_id, asked_at, expires_at is None) != (asked.event_id, asked.asked_at, asked.expires_at is None):
            error("inputs", f"question {request_id!r} has another event or time than in its events")
        elif _parsed(body) != pending:
            error("inputs", f"question {request_id!r} is not what was asked")
        elif how == "answered" and _parsed(answer) != questions.answers.get(request_id):
            error("inputs", f"question {request_id!r} has another answer than in its events")
    for request_id, asked in questions.asked.items():
        old = since is not None and asked.asked_at < since[0] and request_id not in state.pending_inputs
        if request_id not in seen and not old:
            error("inputs", f"question {request_id!r} is in its events and not in the table")


def check_producers(error: Error, connection: sqlite3.Connection, row: TraceRow) -> None:
    """Every number a producer was acknowledged is an event."""
    sql = "SELECT COALESCE(SUM(last_seq), 0), COALESCE(MIN(last_seq), 1) FROM producers WHERE trace_key = ?"
    total, least = connection.execute(sql, (row.trace_key,)).fetchone()
    if total > row.last_event_id or least < 1:
        error("producers", f"its producers have {total:,} events acknowledged, and it has had {row.last_event_id:,}")
