"""One transaction for many waiting appends: what it has loaded, what it will write.

Rule 1: a job first plans, on copies, and may be refused without a trace; then it commits its plan to the transaction,
        which can't fail.
Rule 2: nothing is written before the end; what ``flush`` returns writes each table once.
Rule 3: states come from the cache only where the row in this transaction says the same ``last_event_id``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import aiosqlite
import orjson

from ..errors import Invalid
from ..model.events import canonical
from ..model.state import TOTALS, Event, State, apply_into
from . import Grown
from .cache import Cached, StateCache
from .inputs import InputChanges, input_statements
from .rows import (
    SNAPSHOT_EVERY,
    TRACE_COLUMNS,
    Statement,
    TraceRow,
    at_first,
    fetch,
    forget_complete,
    load_state,
    trace_rows,
)

_SEQ = "(SELECT change_seq FROM change_counter)"
_UPDATE_TRACE = (
    "UPDATE traces SET status = ?, current_goal_id = ?, last_event_id = ?, log_bytes = ?, total_messages = ?,"
    " total_tokens = ?, total_cost = ?, updated_at = ?, completed_at = ?, summary = ?, error = ?,"
    f" lease_expires_at = ?, change_seq = {_SEQ} WHERE trace_key = ?"
)
_UPDATE_TREE = (
    "WITH RECURSIVE up (trace_id) AS (SELECT ?1 UNION SELECT parent_trace_id FROM traces"
    " JOIN up USING (trace_id) WHERE parent_trace_id IS NOT NULL)"
    " UPDATE traces SET tree_messages = tree_messages + ?2, tree_tokens = tree_tokens + ?3,"
    f" tree_cost = tree_cost + ?4, change_seq = {_SEQ} WHERE trace_id IN (SELECT trace_id FROM up)"
)


@dataclass(slots=True)
class Draft:
    """A trace as it will be after this transaction."""

    row: TraceRow
    state: State
    producers: dict[str, int]
    events: list[tuple[int, int, int, bytes]] = field(default_factory=list)  # new rows of ``events``
    snapshots: list[tuple[int, int, bytes]] = field(default_factory=list)  # new rows of ``snapshots``
    new_messages: dict[str, tuple[int, str | None, int]] = field(default_factory=dict)  # (sequence, goal_id, event_id)
    changed_messages: set[str] = field(default_factory=set)
    changed_producers: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # sub-traces of which new events tell
    inputs: InputChanges = field(default_factory=InputChanges)
    renewed: bool = False
    trimmed: bool = False  # its first_event_id has moved: whoever lists it is told
    logged: dict[str, dict[str, Any]] = field(init=False)  # what its log told of sub-traces before
    pending: dict[str, dict[str, Any]] = field(init=False)  # the questions that were open before

    def __post_init__(self) -> None:
        self.logged = self.state.sub_traces
        self.pending = self.state.pending_inputs

    def renew(self) -> None:
        """Count the recorder's lease, if it has one, from now."""
        self.renewed = self.renewed or self.row.lease_s is not None

    def recorder_gone(self, now: float) -> bool:
        """Whether nobody records it any more: it is lost, or about to be."""
        return self.state.status == "lost" or not (self.renewed or self.row.lease_alive(now))


def stats_of(sub_traces: dict[str, dict[str, Any]], sub_id: str) -> tuple[int, int, float]:
    """Messages, tokens and cost of a sub-trace as its parent's log tells of it."""
    stats = sub_traces[sub_id]["stats"] if sub_id in sub_traces else dict.fromkeys(TOTALS, 0)
    return stats["total_messages"], stats["total_tokens"], stats["total_cost"]


class Plan:
    """One job's new events for one trace, on a copy of its draft's state."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.state = draft.state.copy()
        self.events: list[tuple[int, int, int, bytes]] = []
        self.snapshots: list[tuple[int, int, bytes]] = []
        self.new_messages: dict[str, tuple[int, str | None, int]] = {}
        self.changed_messages: set[str] = set()
        self.told: set[str] = set()
        self.inputs = InputChanges()
        self._offset = draft.events[-1][2] if draft.events else draft.row.log_bytes

    def put(self, event: Event, body: bytes | None = None) -> bytes:
        """Put a stored event behind the others, with its canonical bytes if they are known. Returns these."""
        body = canonical(event, parsed=True) if body is None else body
        state, trace_key, event_id = self.state, self.draft.row.trace_key, event["event_id"]
        apply_into(state, event)
        self._offset += len(body)
        self.events.append((trace_key, event_id, self._offset, body))
        if event["event"] == "message_added":
            message = event["message"]
            self.new_messages[message["message_id"]] = (message["sequence"], message["goal_id"], event_id)
        elif event["event"] == "message_updated" and event["message_id"] in state.messages:
            self.changed_messages.add(event["message_id"])
        elif event["event"] in ("sub_trace_started", "sub_trace_completed"):
            self.told.add(event["sub_trace_id"])
        else:
            self.inputs.note(event)
        if event_id % SNAPSHOT_EVERY == 0:
            self.snapshots.append((trace_key, event_id, orjson.dumps(state.to_json())))
        return body

    def commit(self) -> None:
        """Make the plan part of the transaction."""
        draft = self.draft
        draft.state = self.state
        draft.events.extend(self.events)
        draft.snapshots.extend(self.snapshots)
        draft.new_messages.update(self.new_messages)
        draft.changed_messages |= self.changed_messages
        draft.told |= self.told
        draft.inputs.add(self.inputs)


class Transaction:
    """What one group of jobs loads and writes. Lives between BEGIN IMMEDIATE and COMMIT on the writing connection."""

    def __init__(self, connection: aiosqlite.Connection, cache: StateCache, now: float, steady: float, ts: str) -> None:
        self.connection = connection
        self.cache = cache
        self.now = now  # Unix time in seconds
        self.steady = steady  # what leases and questions are counted by (clock.py)
        self.ts = ts  # the same as the protocol writes it: every event of the group is appended at this time
        self.drafts: dict[str, Draft] = {}
        self.deleted: list[tuple[str, int]] = []  # (trace_id, last_event_id)
        self.inserted: set[str] = set()
        self.tree_changes: list[tuple[str, int, int, float]] = []  # (trace_id, differences): for it and all above

    # --- loading ---

    async def load(self, trace_ids: Iterable[str]) -> None:
        """Make ``draft`` answer for those of ``trace_ids`` that exist."""
        wanted = {trace_id for trace_id in trace_ids if trace_id not in self.drafts}
        if wanted:
            await self._open_all(await trace_rows(self.connection, wanted))

    async def load_with_ancestors(self, rows: dict[str, TraceRow]) -> None:
        """Make ``draft`` answer for these and all above them."""
        while rows:
            await self._open_all(rows)
            parents = {row.parent_trace_id for row in rows.values() if row.parent_trace_id is not None}
            above = parents - set(self.drafts)
            rows = await trace_rows(self.connection, above) if above else {}

    async def _open_all(self, rows: dict[str, TraceRow]) -> None:
        for row in rows.values():
            self.drafts[row.trace_id] = await self._open(row)

    async def _open(self, row: TraceRow) -> Draft:
        known = self.cache.get(row)
        if known is not None and known.state.last_event_id == row.last_event_id:
            return Draft(row, at_first(known.state, row.first_event_id), dict(known.producers))
        # Another process has written: what was known of producers may be old
        state = await load_state(self.connection, row, row.last_event_id, known.state if known else None)
        return Draft(row, state, {})

    def draft(self, trace_id: str) -> Draft | None:
        """The loaded trace, or None if there is none."""
        return self.drafts.get(trace_id)

    def tree_totals(self, draft: Draft, state: State) -> dict[str, Any]:
        """The sums of a trace with its sub-traces', as they will be with this transaction and it at ``state``."""
        sums = draft.row.tree_totals()
        for other in self.drafts.values():
            above: Draft | None = other
            while above is not None and above is not draft:
                above = self.drafts.get(above.row.parent_trace_id or "")
            if above is draft:
                now, before = (state if other is draft else other.state), other.row
                for key in TOTALS:
                    sums[key] += getattr(now, key) - getattr(before, key)
        sums["total_cost"] = max(0.0, round(sums["total_cost"], 10))
        return sums

    async def load_messages(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Put the existing ones of ``(trace_id, message_id)`` into their states, where the fold looks for them."""
        missing = [
            (draft.row.trace_key, message_id, trace_id)
            for trace_id, message_id in wanted
            if (draft := self.drafts.get(trace_id)) is not None and message_id not in draft.state.messages
        ]
        if not missing:
            return
        owners = {trace_key: trace_id for trace_key, _, trace_id in missing}
        rows = await fetch(  # values, not json_each: SQLite's JSON cuts a string at NUL
            self.connection,
            f"WITH j (trace_key, message_id) AS (VALUES {', '.join(['(?, ?)'] * len(missing))})"
            " SELECT m.trace_key, m.message_id, m.body, CASE WHEN m.body IS NULL THEN e.body END"
            " FROM j CROSS JOIN messages AS m USING (trace_key, message_id)"
            " LEFT JOIN events AS e ON e.trace_key = m.trace_key AND e.event_id = m.event_id",
            *(value for key, message_id, _ in missing for value in (key, message_id)),
        )
        for trace_key in {row[0] for row in rows}:
            draft = self.drafts[owners[trace_key]]
            draft.state = draft.state.copy()  # the cache's own must not change
        for trace_key, message_id, body, event in rows:
            draft = self.drafts[owners[trace_key]]
            message = orjson.loads(body) if body is not None else orjson.loads(event)["message"]
            draft.state.messages[message_id] = message

    async def last_seq(self, draft: Draft, producer: str) -> int:
        """The last sequence number stored for ``producer``, 0 if none."""
        if producer not in draft.producers:
            rows = await fetch(
                self.connection,
                "SELECT last_seq FROM producers WHERE trace_key = ? AND producer = ?",
                draft.row.trace_key,
                producer,
            )
            draft.producers[producer] = rows[0][0] if rows else 0
        return draft.producers[producer]

    async def insert_trace(self, values: dict[str, Any]) -> Draft:
        """Insert a row of ``traces``; what ``flush`` returns writes the rest of it.

        Raises Invalid, having changed nothing.
        """
        await self._check_above(values["trace_id"], values["parent_trace_id"])
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        rows = await fetch(
            self.connection,
            f"INSERT INTO traces ({names}, status, log_bytes, change_seq) VALUES ({marks}, 'running', 0, 0)"
            f" RETURNING {TRACE_COLUMNS}",
            *values.values(),
        )
        row = TraceRow(*rows[0])
        draft = Draft(row, row.initial_state(), {}, renewed=True)
        self.drafts[row.trace_id] = draft
        self.inserted.add(row.trace_id)
        below = await fetch(  # sub-traces that were restored before their parent
            self.connection,
            "SELECT SUM(tree_messages), SUM(tree_tokens), SUM(tree_cost) FROM traces WHERE parent_trace_id = ?",
            row.trace_id,
        )
        await fetch(self.connection, "DELETE FROM deleted_traces WHERE trace_id = ?", row.trace_id)
        if any(below[0]):
            self.tree_changes.append((row.trace_id, *below[0]))
        return draft

    async def _check_above(self, trace_id: str, parent_trace_id: str | None) -> None:
        """A trace can't stand below itself: restored traces may name as their parent what was not there yet."""
        if parent_trace_id is not None and await fetch(
            self.connection,
            "WITH RECURSIVE up (trace_id) AS (SELECT ?1 UNION SELECT parent_trace_id FROM traces"
            " JOIN up USING (trace_id) WHERE parent_trace_id IS NOT NULL) SELECT 1 FROM up WHERE trace_id = ?2",
            parent_trace_id,
            trace_id,
        ):
            raise Invalid(f"parent_trace_id: {parent_trace_id!r} is a sub-trace of {trace_id!r}, or it itself")

    # --- writing ---

    async def flush(self) -> tuple[list[Grown], list[Statement]]:
        """What listeners are told after the commit, and what is to be written before it."""
        changed = [d for d in self.drafts.values() if d.events or d.renewed or d.trimmed]
        if not changed and not self.deleted:
            return [], []
        await self._count_absent(changed)
        inputs = [(d.row.trace_key, d.pending, d.state, d.inputs) for d in changed]
        producers = [(d.row.trace_key, p, d.producers[p]) for d in changed for p in d.changed_producers]
        statements: list[Statement] = [
            ("UPDATE change_counter SET change_seq = change_seq + 1", None),
            ("INSERT INTO events VALUES (?, ?, ?, ?)", [row for d in changed for row in d.events]),
            *self._message_statements(changed),
            *input_statements(inputs, self.now - self.steady),
            ("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", [row for d in changed for row in d.snapshots]),
            ("INSERT OR REPLACE INTO producers VALUES (?, ?, ?)", producers),
            (_UPDATE_TRACE, [self._trace_values(draft) for draft in changed]),
            (_UPDATE_TREE, self._tree_values(changed)),
            (f"INSERT OR REPLACE INTO deleted_traces VALUES (?, ?, {_SEQ})", self.deleted),
        ]
        grown = [
            Grown(
                d.row.trace_id,
                d.state.last_event_id,
                d.state.status,
                [e[3] for e in d.events],
                trace_key=d.row.trace_key,
            )
            for d in changed
        ]
        grown += [Grown(trace_id, last, "deleted", deleted=True) for trace_id, last in self.deleted]
        return grown, [statement for statement in statements if statement[1] is None or statement[1]]

    def _message_statements(self, changed: list[Draft]) -> list[Statement]:
        new, updated = [], []
        for draft in changed:
            key, messages = draft.row.trace_key, draft.state.messages
            for message_id, (sequence, goal_id, event_id) in draft.new_messages.items():
                body = orjson.dumps(messages[message_id]) if message_id in draft.changed_messages else None
                new.append((key, sequence, message_id, goal_id, event_id, body))
            for message_id in draft.changed_messages - draft.new_messages.keys():
                updated.append((orjson.dumps(messages[message_id]), key, message_id))
        return [
            ("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", new),
            ("UPDATE messages SET body = ? WHERE trace_key = ? AND message_id = ?", updated),
        ]

    def _trace_values(self, draft: Draft) -> tuple[Any, ...]:
        state, row = draft.state, draft.row
        lease = self.steady + row.lease_s if draft.renewed and row.lease_s is not None else row.lease_expires_at
        return (
            state.status,
            state.current_goal_id,
            state.last_event_id,
            draft.events[-1][2] if draft.events else row.log_bytes,
            state.total_messages,
            state.total_tokens,
            state.total_cost,
            state.updated_at,
            state.completed_at,
            state.summary,
            None if state.error is None else orjson.dumps(state.error).decode(),
            lease,
            row.trace_key,
        )

    async def _count_absent(self, changed: list[Draft]) -> None:
        """A sub-trace that is not here (not restored, deleted) counts in its parent as the parent's log tells of it."""
        pairs = {(draft.row.trace_id, sub_id) for draft in changed for sub_id in draft.told}
        pairs |= {(self.drafts[sub_id].row.parent_trace_id or "", sub_id) for sub_id in self.inserted}
        pairs = {pair for pair in pairs if pair[0] in self.drafts}
        if not pairs:
            return
        here = set(await trace_rows(self.connection, {sub_id for _, sub_id in pairs}))
        for parent_id, sub_id in pairs:
            parent = self.drafts[parent_id]
            before = stats_of(parent.logged, sub_id) if sub_id not in here or sub_id in self.inserted else (0, 0, 0.0)
            now = stats_of(parent.state.sub_traces, sub_id) if sub_id not in here else (0, 0, 0.0)
            if now != before:
                self.tree_changes.append((parent_id, now[0] - before[0], now[1] - before[1], now[2] - before[2]))

    def _tree_values(self, changed: list[Draft]) -> list[tuple[str, int, int, float]]:
        grown = list(self.tree_changes)
        for draft in changed:
            state, row = draft.state, draft.row
            difference = (
                state.total_messages - row.total_messages,
                state.total_tokens - row.total_tokens,
                state.total_cost - row.total_cost,
            )
            if any(difference):
                grown.append((row.trace_id, *difference))
        return grown

    def remember(self) -> None:
        """After the commit: what this transaction knows is what the log holds."""
        for draft in self.drafts.values():
            forget_complete(draft.state)
            self.cache.put(Cached(draft.row.trace_key, draft.state, draft.producers))
        self.cache.drop(trace_id for trace_id, _ in self.deleted)
