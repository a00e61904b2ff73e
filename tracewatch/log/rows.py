"""Rows of ``traces`` as values, and the SQL that more than one file needs.

Rule 1: columns are named once, here; a row is always read with ``TRACE_COLUMNS``.
Rule 2: what is known beforehand is run in one hop to the connection's thread (``begin``, ``run_all``). A hop is two
        turns of a loop that may have much else to do, and aiosqlite's own methods make one for each statement.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import aiosqlite
import orjson

from ..model.state import State

_NAMES = [
    "trace_key",
    "trace_id",
    "spec",
    "task",
    "agent_type",
    "parent_trace_id",
    "parent_goal_id",
    "root_trace_id",
    "metadata",
    "status",
    "current_goal_id",
    "first_event_id",
    "last_event_id",
    "log_bytes",
    "total_messages",
    "total_tokens",
    "total_cost",
    "tree_messages",
    "tree_tokens",
    "tree_cost",
    "created_at",
    "updated_at",
    "completed_at",
    "summary",
    "error",
    "lease_s",
    "lease_expires_at",
    "change_seq",
]
# ``?1`` and all below it; a trace that was restored before the one above it is below it all the same
BELOW = (
    "WITH RECURSIVE down (trace_id) AS (SELECT ?1 UNION SELECT t.trace_id FROM traces AS t"
    " JOIN down ON t.parent_trace_id = down.trace_id) SELECT trace_id FROM down"
)
TRACE_COLUMNS = ", ".join(_NAMES)
SNAPSHOT_EVERY = 500  # events; the protocol's page, so opening a trace folds no more than one page


@dataclass(slots=True)
class TraceRow:
    """One row of ``traces``."""

    trace_key: int
    trace_id: str
    spec: str
    task: str
    agent_type: str
    parent_trace_id: str | None
    parent_goal_id: str | None
    root_trace_id: str
    metadata: str
    status: str
    current_goal_id: str | None
    first_event_id: int
    last_event_id: int
    log_bytes: int
    total_messages: int
    total_tokens: int
    total_cost: float
    tree_messages: int
    tree_tokens: int
    tree_cost: float
    created_at: str
    updated_at: str
    completed_at: str | None
    summary: str | None
    error: str | None
    lease_s: float | None
    lease_expires_at: float | None
    change_seq: int

    def lease_alive(self, now: float) -> bool:
        """Whether the recorder has no lease, or one that has not run out."""
        return self.lease_expires_at is None or self.lease_expires_at > now

    def tree_totals(self) -> dict[str, Any]:
        """The trace's sums with its sub-traces'."""
        return {
            "total_messages": self.tree_messages,
            "total_tokens": self.tree_tokens,
            "total_cost": max(0.0, round(self.tree_cost, 10)),  # differences of floats may miss zero
        }

    def initial_state(self) -> State:
        """The state before the first event."""
        return State(
            trace_id=self.trace_id,
            task=self.task,
            agent_type=self.agent_type,
            parent_trace_id=self.parent_trace_id,
            parent_goal_id=self.parent_goal_id,
            root_trace_id=self.root_trace_id,
            created_at=self.created_at,
            updated_at=self.created_at,
            metadata=orjson.loads(self.metadata),
            first_event_id=self.first_event_id,
            last_event_id=self.first_event_id - 1,
        )

    def trace(self, now: float) -> dict[str, Any]:
        """``Trace``, the summary, with the keys and the order of ``State.trace``."""
        return {
            "trace_id": self.trace_id,
            "task": self.task,
            "agent_type": self.agent_type,
            "parent_trace_id": self.parent_trace_id,
            "parent_goal_id": self.parent_goal_id,
            "root_trace_id": self.root_trace_id,
            "status": self.status,
            "is_running": self.status in ("running", "waiting") and self.lease_alive(now),
            "current_goal_id": self.current_goal_id,
            "first_event_id": self.first_event_id,
            "last_event_id": self.last_event_id,
            "total_messages": self.total_messages,
            "total_tokens": self.total_tokens,
            "total_cost": self.total_cost,
            "tree_totals": self.tree_totals(),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "completed_at": self.completed_at,
            "summary": self.summary,
            "error": None if self.error is None else orjson.loads(self.error),
            "metadata": orjson.loads(self.metadata),
        }


async def fetch(connection: aiosqlite.Connection, sql: str, *values: Any) -> list[Any]:
    """All rows of one statement, in one hop to the connection's thread."""
    return list(await connection.execute_fetchall(sql, values))


Statement = tuple[str, Sequence[Sequence[Any]] | None]  # SQL, and the rows of values to run it with, one after another


async def run_all(connection: aiosqlite.Connection, statements: deque[Statement]) -> None:
    """Run statements, all in one hop to the connection's thread; the ones that are done are taken out."""

    def work() -> None:
        raw = connection._conn
        while statements:
            sql, rows = statements[0]
            if rows is None:
                raw.execute(sql)
            else:
                raw.executemany(sql, rows)
            statements.popleft()

    await connection._execute(work)  # type: ignore[no-untyped-call]


def _select_rows(trace_ids: Iterable[str]) -> tuple[str, tuple[str]]:
    sql = f"SELECT {TRACE_COLUMNS} FROM traces WHERE trace_id IN (SELECT value FROM json_each(?))"
    return sql, (orjson.dumps(list(trace_ids)).decode(),)


def _by_id(rows: Iterable[Sequence[Any]]) -> dict[str, TraceRow]:
    return {row[1]: TraceRow(*row) for row in rows}


async def trace_rows(connection: aiosqlite.Connection, trace_ids: Iterable[str]) -> dict[str, TraceRow]:
    """The rows of those of ``trace_ids`` that exist, by trace_id."""
    sql, values = _select_rows(trace_ids)
    return _by_id(await fetch(connection, sql, *values))


async def begin(connection: aiosqlite.Connection, trace_ids: Iterable[str]) -> dict[str, TraceRow]:
    """BEGIN IMMEDIATE, and ``trace_rows`` in the same hop. Where it raises there is no transaction."""
    sql, values = _select_rows(trace_ids)

    def work() -> list[Any]:
        raw = connection._conn
        raw.execute("BEGIN IMMEDIATE")
        try:
            return raw.execute(sql, values).fetchall()
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise

    return _by_id(await connection._execute(work))  # type: ignore[no-untyped-call]


def hole(trace_id: str, after: int) -> sqlite3.DatabaseError:
    """The error for a log whose events do not follow one another: the file is damaged."""
    return sqlite3.DatabaseError(f"trace {trace_id}: the log has a hole after event {after}")


async def load_state(connection: aiosqlite.Connection, row: TraceRow, upto: int, base: State | None = None) -> State:
    """The state after ``upto``: from ``base`` or the nearest kept snapshot, folding what comes after it.

    The connection must stand in the read transaction that ``row`` came from.
    """
    from ..model.state import apply_into

    if base is not None and not row.first_event_id - 1 <= base.last_event_id <= upto:
        base = None  # what comes between was trimmed meanwhile, or it is too new
    found: list[Any] = []
    if base is None or upto - base.last_event_id > SNAPSHOT_EVERY:  # far behind: a kept snapshot is nearer
        found = await fetch(
            connection,
            "SELECT body FROM snapshots WHERE trace_key = ? AND event_id BETWEEN ? AND ?"
            " ORDER BY event_id DESC LIMIT 1",
            row.trace_key,
            row.first_event_id - 1 if base is None else base.last_event_id + 1,
            upto,
        )
    if found:
        state = State.from_json(orjson.loads(found[0][0]))
    else:
        state = row.initial_state() if base is None else base.copy()
    state.first_event_id = row.first_event_id
    while state.last_event_id < upto:
        bodies = await fetch(
            connection,
            "SELECT body FROM events WHERE trace_key = ? AND event_id BETWEEN ? AND ? ORDER BY event_id LIMIT 500",
            row.trace_key,
            state.last_event_id + 1,
            upto,
        )
        if len(bodies) != min(500, upto - state.last_event_id):
            raise hole(row.trace_id, state.last_event_id)
        for (body,) in bodies:
            apply_into(state, orjson.loads(body))
        forget_complete(state)
    return state


def at_first(state: State, first_event_id: int) -> State:
    """The same state of a log that begins with ``first_event_id``: another process may have trimmed it."""
    if state.first_event_id == first_event_id:
        return state
    state = state.copy()
    state.first_event_id = first_event_id
    return state


def forget_complete(state: State, keep: int = 64) -> None:
    """Drop the messages that will hardly change again, so that memory does not grow with what agents say.

    Whoever needs one again reads it from the ``messages`` table.
    """
    still_open = [(key, m) for key, m in state.messages.items() if m["status"] != "complete"]
    state.messages = dict(still_open[-keep:])
