"""Questions as rows: written with the events that open and close them, read without folding anything.

Rule 1: a row is open if and only if the question is in ``pending_inputs`` of its trace's state; ``input_statements``
        compares the states before and after, so every way in which a question can end counts.
Rule 2: rows only help to find; whoever answers or expires a question looks at the state in the writer's transaction.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import aiosqlite
import orjson

from ..model.state import Event, State
from ..model.times import parse_time
from .rows import BELOW, TRACE_COLUMNS, Statement, TraceRow, fetch, load_state

logger = logging.getLogger("tracewatch.log")
UNFILLED = "inputs_unfilled"  # key in ``meta``, left by the migration
_INSERT = "INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(slots=True)
class InputChanges:
    """What the new events of a trace did to its questions, as far as the states do not say it."""

    asked: dict[str, Event] = field(default_factory=dict)  # request_id: input_requested
    answers: dict[str, Event] = field(default_factory=dict)  # request_id: input_provided
    opened: dict[str, int] = field(default_factory=dict)  # request_id: the event_id that stands for one trimmed away

    def note(self, event: Event) -> None:
        """Look at one new event."""
        if event["event"] == "input_requested":
            self.asked[event["request_id"]] = event
        elif event["event"] == "input_provided":
            self.answers[event["request_id"]] = event

    def add(self, later: InputChanges) -> None:
        """Put in what came after this."""
        self.asked.update(later.asked)
        self.answers.update(later.answers)


def _answer(changes: InputChanges, request_id: str, how: str) -> bytes | None:
    if how != "answered" or request_id not in changes.answers:
        return None
    event = changes.answers[request_id]
    return orjson.dumps({"value": event["value"], "by": event.get("by")})


def _expiry(asked: Event, ahead_s: float) -> float | None:
    return None if asked["expires_at"] is None else parse_time(asked["expires_at"]) - ahead_s


def _row(trace_key: int, event: Event, state: State, changes: InputChanges, ahead_s: float = 0.0) -> tuple[Any, ...]:
    request_id = event["request_id"]
    pending = state.pending_inputs.get(request_id)
    how = "open" if pending is not None else state.closed_inputs.get(request_id, "closed")
    body = None if pending is None else orjson.dumps(pending)
    answer = _answer(changes, request_id, how)
    return (trace_key, request_id, event["event_id"], event["ts"], _expiry(event, ahead_s), how, body, answer)


def input_statements(
    changed: Iterable[tuple[int, dict[str, Any], State, InputChanges]], ahead_s: float
) -> list[Statement]:
    """What writes the rows of traces, given as ``(trace_key, pending_inputs before, state after, changes)``.

    ``ahead_s``: how far the system's clock is ahead of the steady one, by which questions run out.
    """
    new, closed = [], []
    for trace_key, before, state, changes in changed:
        new += [_row(trace_key, event, state, changes, ahead_s) for event in changes.asked.values()]
        for request_id, event_id in changes.opened.items():
            if request_id in state.pending_inputs:
                asked = state.pending_inputs[request_id]
                event = {**asked, "event_id": event_id, "ts": asked["requested_at"]}
                new.append(_row(trace_key, event, state, changes, ahead_s))
        for request_id in before:
            if request_id not in state.pending_inputs:
                how = state.closed_inputs[request_id]
                closed.append((how, _answer(changes, request_id, how), trace_key, request_id))
    close = "UPDATE inputs SET state = ?, body = NULL, answer = ? WHERE trace_key = ? AND request_id = ?"
    return [(_INSERT, new), (close, closed)]


async def fill_inputs(connection: aiosqlite.Connection) -> None:
    """After the migration: rows for the questions that were open already. Once, whichever process comes first."""
    if not await fetch(connection, "SELECT 1 FROM meta WHERE key = ?", UNFILLED):
        return
    await fetch(connection, "BEGIN IMMEDIATE")
    try:
        if await fetch(connection, "DELETE FROM meta WHERE key = ? RETURNING 1", UNFILLED):
            sql = f"SELECT {TRACE_COLUMNS} FROM traces WHERE status IN ('waiting', 'lost')"
            for values in await fetch(connection, sql):
                await _fill(connection, TraceRow(*values))
        await fetch(connection, "COMMIT")
    except BaseException:
        if connection.in_transaction:
            await fetch(connection, "ROLLBACK")
        raise


async def _fill(connection: aiosqlite.Connection, row: TraceRow) -> None:
    try:
        state = await load_state(connection, row, row.last_event_id)
    except sqlite3.OperationalError:
        raise  # the disk's doing: nothing is to be concluded from it
    except sqlite3.DatabaseError as error:
        logger.warning("the open questions of a damaged trace can't be listed: %s", error)
        return
    if not state.pending_inputs:
        return
    start = '{"event":"input_requested",'
    bodies = await fetch(
        connection,
        f"SELECT body FROM events WHERE trace_key = ? AND substr(CAST(body AS TEXT), 1, {len(start)}) = ?",
        row.trace_key,
        start,
    )
    asked = [event for (body,) in bodies if (event := orjson.loads(body))["request_id"] in state.pending_inputs]
    await connection.executemany(_INSERT, [_row(row.trace_key, event, state, InputChanges()) for event in asked])


# --- reading ---------------------------------------------------------------------------------------------------


async def open_inputs(connection: aiosqlite.Connection, limit: int, below: str | None) -> list[dict[str, Any]]:
    """Open questions of all traces (or of one and its sub-traces), oldest first, each with the trace it is of."""
    only = "" if below is None else f" AND trace_id IN ({BELOW})"
    rows = await fetch(
        connection,
        "SELECT body, trace_id, task, agent_type, root_trace_id, status FROM inputs JOIN traces USING (trace_key)"
        f" WHERE state = 'open'{only} ORDER BY asked_at, inputs.trace_key, event_id LIMIT ?2",
        below,
        limit,
    )
    names = ("trace_id", "task", "agent_type", "root_trace_id", "trace_status")
    return [{**dict(zip(names, values, strict=True)), **orjson.loads(body)} for body, *values in rows]


async def inputs_of(
    connection: aiosqlite.Connection, trace_id: str, *, request_id: str | None, limit: int
) -> list[dict[str, Any]]:
    """A trace's questions, or the one named: every open one and the newest ``limit`` others, oldest first.

    Each is ``{request_id, state}``, with ``value`` and ``by`` if it was answered and with the question if it is open.
    """
    one = "" if request_id is None else " AND request_id = ?3"
    select = (
        "SELECT event_id, request_id, state, body, answer FROM inputs JOIN traces USING (trace_key)"
        f" WHERE trace_id = ?1{one}"
    )
    rows = await fetch(
        connection,
        f"{select} AND (state = 'open' OR event_id >= COALESCE((SELECT event_id FROM inputs JOIN traces"
        " USING (trace_key) WHERE trace_id = ?1 AND state != 'open' ORDER BY event_id DESC LIMIT 1 OFFSET ?2), 0))"
        " ORDER BY event_id",
        trace_id,
        2**31 if request_id is not None else max(0, limit - 1),
        *([] if request_id is None else [request_id]),
    )
    return [
        {
            "request_id": name,
            "state": state,
            **({} if body is None else orjson.loads(body)),
            **({} if answer is None else orjson.loads(answer)),
        }
        for _, name, state, body, answer in rows
    ]


async def expired_inputs(connection: aiosqlite.Connection, now: float) -> list[tuple[str, str]]:
    """``(trace_id, request_id)`` of the open questions whose time has run out, oldest first."""
    rows = await fetch(
        connection,
        "SELECT trace_id, request_id FROM inputs JOIN traces USING (trace_key)"
        " WHERE state = 'open' AND expires_at <= ? ORDER BY expires_at, inputs.trace_key, event_id",
        now,
    )
    return [(str(trace_id), str(request_id)) for trace_id, request_id in rows]
