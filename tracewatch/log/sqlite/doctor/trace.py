"""The traces, each in a read transaction of its own: its events, whole and in order, and all that is made of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from ....errors import TracewatchError
from ....model.blobs import MARK
from ....model.canonical import canonical
from ....model.state import State, apply_into
from ....model.times import parse_time
from ...project import SNAPSHOT_EVERY, Noted
from ...row import TraceRow
from ..inspect import Progress
from ..keys import OF_EVENT, event_key
from ..read import TRACE_COLUMNS
from .blobs import ADVICE, blobs_of, missing
from .findings import ERROR, Findings
from .judgement import DERIVED, RESTORE, unreadable_trace
from .tables import (
    FoldedMessages,
    check_inputs,
    check_messages,
    check_producers,
    check_row,
    check_tree_totals,
    check_words,
)

EVERY = 1000  # events between two words of progress
QUESTIONS = ("input_requested", "input_provided")  # events
FIRST_KEYS = ["event", "event_id", "trace_id", "ts"]


class Broken(Exception):
    """The events of this trace can't be folded any further: what follows from them can't be judged."""


def check_traces(found: Findings, connection: sqlite3.Connection, path: Path, tell: Progress) -> None:
    """Every trace, by age."""
    before = found.count(ERROR)
    total = connection.execute("SELECT SUM(last_event_id - first_event_id + 1) FROM traces").fetchone()[0] or 0
    traces = events = 0

    def tick(folded: int) -> None:
        tell("events", events + folded, total)

    for key in _keys(connection):
        connection.execute("BEGIN")
        try:
            values = connection.execute(f"SELECT {TRACE_COLUMNS} FROM traces WHERE trace_key = ?", (key,)).fetchone()
            if values is None:
                continue  # deleted meanwhile
            row = TraceRow(*values)
            _Trace(found, connection, row, tick).check()
            traces += 1
            events += row.last_event_id - row.first_event_id + 1
            tell("events", events, total)
        except (sqlite3.Error, LookupError, TypeError, AttributeError, ValueError) as error:
            # The last four: a damaged page gives values of another type than its column's
            unreadable_trace(found, path, key, error)
        finally:
            connection.execute("ROLLBACK")
    if found.count(ERROR) == before:
        what = f"{traces:,} trace{'' if traces == 1 else 's'} with {events:,} event{'' if events == 1 else 's'}"
        found.ok("traces", f"{what}: whole, and what is shown of them follows from them")


def _keys(connection: sqlite3.Connection) -> Iterator[int]:
    after = 0
    while True:  # in pieces, so that no statement stays open between the traces
        sql = "SELECT trace_key FROM traces WHERE trace_key > ? ORDER BY trace_key LIMIT 500"
        keys = [int(key) for (key,) in connection.execute(sql, (after,))]
        if keys != sorted(set(keys)) or (keys and keys[0] <= after):
            raise sqlite3.DatabaseError("the traces are out of order")  # their tree is damaged: it may go in circles
        yield from keys
        if not keys:
            return
        after = keys[-1]


class _Trace:
    """One trace and its rows, in the transaction that ``row`` was read in."""

    def __init__(
        self, found: Findings, connection: sqlite3.Connection, row: TraceRow, tell: Callable[[int], None]
    ) -> None:
        self.row = row
        self._found = found
        self._connection = connection
        self._tell = tell
        self._offset = 0  # of the end of the last event
        self._blobs: dict[str, int] | None = None  # what it has, once an event names any

    def error(self, code: str, message: str, advice: str = DERIVED) -> None:
        """Something about this trace is broken."""
        self._found.error(code, f"trace {self.row.trace_id!r}: {message}", advice, self.row.trace_id)

    def check(self) -> None:
        row = self.row
        ids = "SELECT event_id FROM snapshots WHERE trace_key = ? ORDER BY event_id"
        snapshots = [int(one) for (one,) in self._connection.execute(ids, (row.trace_key,))]
        self._check_snapshot_ids(snapshots)
        questions = Noted()
        with closing(FoldedMessages()) as messages:
            try:
                state = self._fold(self._base(snapshots), set(snapshots), messages, questions)
            except Broken:
                return  # said already; everything else would be said to be wrong as well
            has_events = row.last_event_id >= row.first_event_id
            check_row(self.error, row, state, self._offset if has_events else row.log_bytes)
            check_tree_totals(self.error, self._connection, row, state)
            check_messages(self.error, self._connection, row, messages)
            check_inputs(self.error, self._connection, row, state, questions)
            check_producers(self.error, self._connection, row)
            check_words(self.error, self._connection, row)

    # --- the events ---

    def _base(self, snapshots: list[int]) -> State:
        """The state before the first event: of a trimmed log the snapshot kept for that."""
        row = self.row
        before = row.first_event_id - 1
        if before in snapshots:
            state = self._snapshot(before)
            if state is None:
                raise Broken
        else:
            state = row.initial_state()
        state.first_event_id = row.first_event_id
        if state.last_event_id != before:
            self.error("snapshot", f"the snapshot of event {before} says that it is of {state.last_event_id}")
            raise Broken
        return state

    def _fold(self, state: State, snapshots: set[int], messages: FoldedMessages, questions: Noted) -> State:
        row = self.row
        if row.first_event_id < 1 or row.last_event_id < row.first_event_id - 1:
            self.error("event_ids", f"it says it has the events {row.first_event_id} to {row.last_event_id}", RESTORE)
            raise Broken
        trimmed = row.first_event_id - 1 in snapshots
        expected = row.first_event_id
        sql = (
            f"SELECT {OF_EVENT}, end_offset, body FROM events WHERE event_key >= ? AND event_key < ? ORDER BY event_key"
        )
        span = event_key(row.trace_key, row.first_event_id), event_key(row.trace_key + 1, 0)
        with closing(self._connection.execute(sql, span)) as rows:
            for event_id, end_offset, body in rows:
                if event_id != expected:
                    self.error("event_ids", f"{self._span(expected, event_id - 1)} missing", RESTORE)
                    raise Broken
                first = event_id == row.first_event_id
                self._check_offset(event_id, end_offset, len(body), first=first, trimmed=trimmed)
                event = self._event(event_id, body)
                if MARK in body:
                    self._check_blobs(event)
                self._apply(state, event, messages)
                if event["event"] in QUESTIONS:
                    questions.note(event, {})
                if event_id in snapshots:
                    self._compare_snapshot(state)
                expected += 1
                if event_id % EVERY == 0:
                    self._tell(event_id - row.first_event_id)
        if expected - 1 != row.last_event_id:
            self.error("event_ids", f"its last event is {expected - 1}, the trace says {row.last_event_id}", RESTORE)
            raise Broken
        return state

    def _check_blobs(self, event: dict[str, Any]) -> None:
        if self._blobs is None:
            self._blobs = blobs_of(self._connection, self.row.trace_key)
        for sha256 in missing(event, self._blobs):
            self.error("blob_missing", f"its event {event['event_id']} names blob {sha256}, which it has not", ADVICE)

    @staticmethod
    def _span(first: int, last: int) -> str:
        return f"its event {first} is" if first == last else f"its events {first} to {last} are"

    def _check_offset(self, event_id: int, end_offset: int, size: int, *, first: bool, trimmed: bool) -> None:
        begin = end_offset - size
        if first and begin > 0 and not trimmed:
            self.error("base", f"it was trimmed, and the snapshot of event {event_id - 1} is missing", RESTORE)
            raise Broken
        if begin < 0 or (not first and begin != self._offset):
            said = f"event {event_id} ends at {end_offset:,} and has {size:,} bytes; the one before ends at "
            self.error("end_offset", f"{said}{self._offset:,}", RESTORE)
        self._offset = end_offset

    def _event(self, event_id: int, body: bytes) -> dict[str, Any]:
        """A stored event, parsed. Raises Broken."""
        try:
            event = orjson.loads(body)
            if not isinstance(event, dict) or list(event)[:4] != FIRST_KEYS or canonical(event) != body:
                raise ValueError("it is not in canonical form")
            if (event["event_id"], event["trace_id"]) != (event_id, self.row.trace_id):
                raise ValueError(f"it says it is event {event['event_id']} of {event['trace_id']!r}")
            parse_time(event["ts"])
        except (ValueError, TypeError, TracewatchError) as error:
            self.error("event", f"event {event_id} is damaged: {error}", RESTORE)
            raise Broken from error
        return event

    def _apply(self, state: State, event: dict[str, Any], messages: FoldedMessages) -> None:
        try:
            messages.before(state, event)
            apply_into(state, event)
            messages.after(state, event)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            said = f"event {event['event_id']} ({event['event']}) can't be folded: {type(error).__name__}: {error}"
            self.error("event", said, RESTORE)
            raise Broken from error

    # --- the snapshots ---

    def _check_snapshot_ids(self, snapshots: list[int]) -> None:
        row = self.row
        swept = row.first_event_id - 1
        if self._connection.execute("SELECT 1 FROM leftovers WHERE trace_key = ?", (row.trace_key,)).fetchone():
            swept = 0  # the older ones are on their way out
        missing = self._missing_snapshots()
        if missing:
            self._found.warning(
                "snapshot_missing",
                f"trace {row.trace_id!r}: {len(missing):,} snapshots are missing, the first of event {missing[0]}",
                "It is slower to open, and can't be trimmed there; nothing is wrong",
                row.trace_id,
            )
        for at in snapshots:
            if not swept <= at <= row.last_event_id:
                self.error("snapshot", f"there is a snapshot of event {at}, which the log does not have")

    def _missing_snapshots(self) -> list[int]:
        """The boundaries of which a snapshot ought to be kept (project.py, rule 5) and is not."""
        row = self.row
        sizes = dict(
            self._connection.execute(
                "SELECT event_id, length(body) FROM snapshots WHERE trace_key = ?", (row.trace_key,)
            )
        )
        sql = (
            f"SELECT {OF_EVENT}, end_offset FROM events WHERE event_key BETWEEN ? AND ?"
            f" AND ({OF_EVENT}) % {SNAPSHOT_EVERY} = 0 ORDER BY event_key"
        )
        span = event_key(row.trace_key, row.first_event_id), event_key(row.trace_key, row.last_event_id)
        first = "SELECT end_offset - length(body) FROM events WHERE event_key = ?"
        begin = self._connection.execute(first, span[:1]).fetchone()
        offset, size, missing = begin[0] if begin else 0, sizes.get(row.first_event_id - 1, 0), []
        for at, end_offset in self._connection.execute(sql, span):
            if at in sizes:
                offset, size = end_offset, sizes[at]
            elif end_offset - offset >= size:
                missing.append(at)
                offset, size = end_offset, 0
        return missing

    def _snapshot(self, at: int) -> State | None:
        sql = "SELECT body FROM snapshots WHERE trace_key = ? AND event_id = ?"
        (body,) = self._connection.execute(sql, (self.row.trace_key, at)).fetchone()
        try:
            return State.from_json(orjson.loads(body))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            self.error("snapshot", f"the snapshot of event {at} is damaged: {error}")
            return None

    def _compare_snapshot(self, state: State) -> None:
        kept = self._snapshot(state.last_event_id)
        if kept is None:
            return
        kept.first_event_id = state.first_event_id  # which moves, as does the trace
        for name in ("root_trace_id", "parent_trace_id", "parent_goal_id"):
            setattr(kept, name, getattr(state, name))
        is_, ought = kept.to_json(), state.to_json()
        if wrong := [name for name in {**ought, **is_} if is_.get(name) != ought.get(name)]:
            said = f"the snapshot of event {state.last_event_id} differs from the events in {', '.join(wrong)}"
            self.error("snapshot", said)
