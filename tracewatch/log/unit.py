"""A unit of work: what one group of jobs has loaded, and what it will write.

Rule 1: a job plans on copies and may be refused without a trace; then its plans become part of the unit, which can't
        fail.
Rule 2: nothing here reads or writes a database. What is missing is named (``Missing``), and the group plans again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import orjson

from ..errors import TooLarge, UnknownBlob
from ..model.blobs import references
from ..model.canonical import MAX_EVENT_ID, canonical
from ..model.state import Event, State, apply_into
from ..model.times import format_time
from . import project
from .cache import BadSnapshot, Cached, StateCache, as_in_row, forget_complete, unfold
from .project import Noted, OpenRow
from .row import TraceRow
from .storage import AbsentChange, Changes, EventRow, KeptSnapshot, Loaded, Needs, SnapshotRow, TraceChange, Written
from .sums import Sums
from .views import Grown, Token

T = TypeVar("T")
FOR_GOOD = 2**62  # in place of an event_id: for as long as the trace
MOST_PRODUCERS = 100  # of a trace, whose numbers are remembered; others are looked up


class Missing(Exception):
    """A job can't go on without what was not loaded: the group loads it as well and plans anew."""

    def __init__(self, needs: Needs) -> None:
        super().__init__("something that was not loaded")
        self.needs = needs


@dataclass(slots=True)
class Draft:
    """A trace as it will be after this unit."""

    row: TraceRow  # as it was loaded; of a new trace as it begins
    state: State
    producers: dict[str, int]
    open_rows: dict[str, OpenRow]  # see project.message_rows
    new: bool = False
    events: list[EventRow] = field(default_factory=list)
    snapshots: list[SnapshotRow] = field(default_factory=list)
    kept: KeptSnapshot | None = None  # the newest snapshot of this unit
    at_boundary: bool = False
    noted: Noted = field(default_factory=Noted)
    changed_producers: set[str] = field(default_factory=set)
    renewed: bool = False
    adopts: bool = False  # it is new, and what named it as its parent before is below it from now on
    trimmed_names: dict[str, int] = field(default_factory=dict)  # see TraceChange.trimmed
    blobs: dict[str, int] = field(default_factory=dict)  # see TraceChange.blobs
    trimmed: bool = False  # its first_event_id has moved: whoever lists it is told
    logged: Mapping[str, dict[str, Any]] = field(init=False)  # what its log told of sub-traces before
    pending: Mapping[str, dict[str, Any]] = field(init=False)  # the questions that were open before

    def __post_init__(self) -> None:
        self.logged = self.state.sub_traces
        self.pending = self.state.pending_inputs

    @property
    def changed(self) -> bool:
        """Whether anything is to be written."""
        return bool(self.events or self.new or self.renewed or self.trimmed or self.blobs)

    @property
    def log_bytes(self) -> int:
        """The size of the log with the new events."""
        return self.events[-1].end_offset if self.events else self.row.log_bytes

    def renew(self) -> None:
        """Count the recorder's lease, if it has one, from now."""
        self.renewed = self.renewed or self.row.lease_s is not None

    def recorder_gone(self, steady: float) -> bool:
        """Whether nobody is left to act on a command: the trace is lost, or its recorder's lease has run out."""
        return self.state.status == "lost" or not (self.renewed or self.row.lease_alive(steady))


class Home(NamedTuple):
    """Where a trace stands from now on that was somewhere else; ``cover_key`` as in its row."""

    parent_trace_id: str
    parent_goal_id: str | None
    root_trace_id: str
    cover_key: int | None

    def of(self, row: TraceRow) -> TraceRow:
        """The row of the trace that stands here."""
        return replace(
            row,
            parent_trace_id=self.parent_trace_id,
            parent_goal_id=self.parent_goal_id,
            root_trace_id=self.root_trace_id,
            cover_key=self.cover_key,
            apart=False,
            moved=True,
        )


def sums_of(sub_traces: Mapping[str, dict[str, Any]], sub_id: str) -> Sums:
    """The sums of a sub-trace as its parent's log tells of it."""
    return Sums.of(sub_traces[sub_id]["stats"]) if sub_id in sub_traces else Sums()


class Plan:
    """One job's new events for one trace, on a copy of its draft's state."""

    def __init__(self, unit: Unit, draft: Draft) -> None:
        self.draft = draft
        self.state = draft.state.copy()
        self.events: list[EventRow] = []
        self.snapshots: list[SnapshotRow] = []
        self.noted: Noted | None = None  # most events have nothing to note
        self.kept = draft.kept
        self.at_boundary = draft.at_boundary
        self.blobs: dict[str, int] | None = None  # see TraceChange.blobs; most events name none
        self._unit = unit
        self._offset = draft.log_bytes

    def has_message(self, message_id: str) -> bool:
        """Whether the trace has a message that its state here does not hold. It must have been needed."""
        return self._unit.has_message(self.draft, message_id)

    def put(self, event: Event, body: bytes | None = None) -> None:
        """Put a stored event behind the others, with its canonical bytes if they are known."""
        body = canonical(event, parsed=True) if body is None else body
        state, event_id = self.state, event["event_id"]
        if event_id > MAX_EVENT_ID:
            raise TooLarge(f"a log has at most {MAX_EVENT_ID:,} events: begin another trace")
        apply_into(state, event)
        self._offset += len(body)
        self.events.append(EventRow(event_id, self._offset, body))
        if event["event"] in project.NOTED:
            self.noted = self.noted or Noted()
            self.noted.note(event, state.messages)
        if event_id % project.SNAPSHOT_EVERY == 0:
            self._unit.require_behind(self.draft)
            self.at_boundary = True
            self._keep_snapshot()

    def name_blobs(self, event: Event) -> None:
        """Note the contents that an event names; they are to go with it. Raises UnknownBlob."""
        row = self.draft.row
        for sha256, size in references(event).items():
            stored = self._unit.load(self._unit.loaded.blobs, (row.trace_id, sha256), "blobs")
            if stored != size:
                what = "no blob" if stored is None else f"a blob of {stored:,} bytes, and not {size:,},"
                raise UnknownBlob(f"trace {row.trace_id!r} has {what} {sha256}: PUT it before its event", blob=sha256)
            self.blobs = self.blobs or {}
            until = event["event_id"] if event["event"] not in project.OF_THE_STATE else FOR_GOOD
            self.blobs[sha256] = max(until, self.blobs.get(sha256, 0))

    def _keep_snapshot(self) -> None:
        """Keep one, if the log has grown by as much as the last one takes."""
        kept = self.kept or self._unit.kept(self.draft)
        if kept is not None and self._offset - kept.log_bytes < kept.size:
            return
        body = orjson.dumps(self.state.to_json())
        self.snapshots.append(SnapshotRow(self.state.last_event_id, body))
        self.kept = KeptSnapshot(self._offset, len(body))

    def commit(self) -> None:
        """Make the plan part of the unit."""
        draft = self.draft
        draft.state = self.state
        draft.events.extend(self.events)
        draft.snapshots.extend(self.snapshots)
        draft.kept, draft.at_boundary = self.kept, self.at_boundary
        if self.noted is not None:
            draft.noted.extend(self.noted)
        for sha256, event_id in (self.blobs or {}).items():
            draft.blobs[sha256] = max(event_id, draft.blobs.get(sha256, 0))


class Unit:
    """What a group of jobs plans together."""

    def __init__(self, loaded: Loaded, states: dict[str, Cached], *, optimistic: bool = False) -> None:
        self.now = loaded.now  # Unix time in seconds
        self.steady = loaded.steady  # what leases and questions are counted by
        self.ts = format_time(loaded.now)  # every event of the unit is appended at this time
        self.loaded = loaded
        self.deleted: list[TraceRow] = []
        self.tokens: list[Token] = []
        self.revoked: dict[str, str] = {}
        self.claims: dict[str, float] = {}
        self.probe = False
        self._absent: list[AbsentChange] = []
        self._states = states
        self._optimistic = optimistic
        self._drafts: dict[str, Draft] = {}
        self._homes: dict[str, Home] = {}  # of the traces that are moved
        self._touched: set[str] = set()  # traces that the job at hand has asked for

    # --- what was loaded ---

    def draft(self, trace_id: str) -> Draft | None:
        """The trace, or None if there is none. Its state must have been needed."""
        self._touched.add(trace_id)
        draft = self._drafts.get(trace_id)
        if draft is None:
            row = self.loaded.rows.get(trace_id)
            if row is None or any(gone.trace_id == trace_id for gone in self.deleted):
                return None
            draft = self._drafts[trace_id] = self._open(row)
        return draft

    def row(self, trace_id: str) -> TraceRow | None:
        """A trace's row as it was loaded."""
        return self.loaded.rows.get(trace_id)

    def _open(self, row: TraceRow) -> Draft:
        known = self._states.get(row.trace_id)
        if known is not None and known.head == (row.trace_key, row.last_event_id):
            return Draft(row, as_in_row(known.state, row), dict(known.producers), dict(known.open_rows))
        raise Missing(Needs(traces={row.trace_id}))

    def message(self, draft: Draft, message_id: str) -> None:
        """Have the message in the draft's state, where the fold looks for it, if there is one."""
        if message_id in draft.state.messages:
            return
        found = self.load(self.loaded.messages, (draft.row.trace_id, message_id), "messages")
        if found is not None:
            draft.state = draft.state.copy()  # the cache's own must not change
            message = project.in_row(found)
            if found.as_of is not None or found.is_event:
                draft.open_rows.setdefault(message_id, project.open_row(found, message))
            draft.state.messages[message_id] = project.message_of(found, message)

    def has_message(self, draft: Draft, message_id: str) -> bool:
        """Whether the trace has a message, with what this unit adds."""
        if message_id in draft.state.messages:
            return True
        key = (draft.row.trace_id, message_id)
        if key in self.loaded.mentioned:
            return True
        if draft.new or key in self.loaded.needs.mentioned:
            return False
        raise Missing(Needs(mentioned={key}))

    def last_seq(self, draft: Draft, producer: str) -> int:
        """The last sequence number stored for ``producer``, 0 if none."""
        if producer not in draft.producers:
            found = self.load(self.loaded.producers, (draft.row.trace_id, producer), "producers")
            draft.producers[producer] = found or 0
        return draft.producers[producer]

    def load(self, found: dict[Any, T], key: Any, name: str) -> T | None:
        """What was loaded of ``key``; None if there is none. Raises Missing where it was not asked for (``name``)."""
        if key in found:
            return found[key]
        if key in getattr(self.loaded.needs, name):
            return None
        needs = Needs()
        getattr(needs, name).add(key)
        raise Missing(needs)

    def require_behind(self, draft: Draft) -> None:
        """A boundary is reached: the messages that are behind in their rows must be known."""
        if not draft.new:
            self.load(self.loaded.behind, draft.row.trace_id, "behind")

    def kept(self, draft: Draft) -> KeptSnapshot | None:
        """The newest snapshot that was kept before this unit; known where a boundary is reached."""
        return None if draft.new else self.loaded.kept.get(draft.row.trace_id)

    def tree_totals(self, draft: Draft, state: State) -> dict[str, Any]:
        """The sums of a trace with its sub-traces', as they will be with this unit and it at ``state``."""
        sums = draft.row.tree()
        for other in self._drafts.values():
            if other is draft or self._is_below(other.row, draft.row.trace_id):
                now = state if other is draft else other.state
                sums = sums.plus(Sums.of(now.totals()).minus(other.row.own()))
        return sums.totals()

    def _row_now(self, trace_id: str) -> TraceRow | None:
        draft = self._drafts.get(trace_id)
        return draft.row if draft is not None else self.loaded.rows.get(trace_id)

    def above(self, row: TraceRow) -> str | None:
        """The trace that it is below, or will be with this unit."""
        if row.trace_id in self._homes:
            return self._homes[row.trace_id].parent_trace_id
        if row.above is None and row.parent_trace_id is not None:
            parent = self._drafts.get(row.parent_trace_id)
            return row.parent_trace_id if parent is not None and parent.adopts else None
        return row.above

    def _is_below(self, row: TraceRow | None, trace_id: str) -> bool:
        while row is not None and (above := self.above(row)) is not None:
            if above == trace_id:
                return True
            row = self._row_now(above)
        return False

    def covers(self, root_id: str, trace_id: str) -> bool:
        """Whether a token of ``root_id`` alone covers the trace, whose line must have been needed."""
        known = {row.trace_key: row for row in self.loaded.rows.values()}
        seen: set[str] = set()
        name: str | None = trace_id
        while name is not None and name != root_id and name not in seen:
            seen.add(name)
            row = self._row_now(name)
            if row is None:
                return False
            if row.moved or name in self._homes:
                key = self._homes[name].cover_key if name in self._homes else row.cover_key
                name = known[key].trace_id if key in known else None
            else:
                name = self.above(row)
        return name == root_id

    def stands_below(self, trace_id: str | None, above_id: str) -> bool:
        """Whether the trace of ``trace_id`` is ``above_id`` or below it; its line must have been needed."""
        if trace_id is None:
            return False
        return trace_id == above_id or self._is_below(self._row_now(trace_id), above_id)

    def would_stand_below(self, trace_id: str | None, above_id: str) -> bool:
        """As ``stands_below``; also where the uppermost of the line names ``above_id``, which is not there yet."""
        row = None if trace_id is None else self._row_now(trace_id)
        while row is not None and (above := self.above(row)) is not None:
            row = self._row_now(above)
        return self.stands_below(trace_id, above_id) or (row is not None and row.parent_trace_id == above_id)

    def line(self, trace_id: str | None) -> list[str]:
        """The trace and those above it, nearest first; they must have been needed."""
        found: list[str] = []
        while trace_id is not None and (row := self._row_now(trace_id)) is not None and trace_id not in found:
            found.append(trace_id)
            trace_id = self.above(row)
        return found

    # --- what is planned ---

    def add(self, draft: Draft) -> None:
        """Make a new trace part of the unit."""
        self._drafts[draft.row.trace_id] = draft

    def rehome(self, draft: Draft, home: Home) -> None:
        """Put a trace below another one. Its job must have the unit for itself."""
        self._homes[draft.row.trace_id] = home

    def count_absent(self, parent: Draft, sub_id: str) -> None:
        """A sub-trace goes: what stays of it in the sums above is what its parent's log tells of it."""
        sums = sums_of(parent.state.sub_traces, sub_id)
        if any(sums):
            self._absent.append(AbsentChange(parent.row.trace_id, sums))

    def attempt(self, run: Callable[[Unit], Any]) -> tuple[Any, set[str]]:
        """A job's answer, and the traces that it asked for."""
        self._touched = set()
        return run(self), self._touched

    def is_changed(self, trace_ids: Iterable[str]) -> bool:
        """Whether something is written of one of these traces."""
        return any((draft := self._drafts.get(one)) is not None and draft.changed for one in trace_ids)

    # --- the end ---

    def changes(self) -> Changes:
        """What is to be written."""
        changed = [draft for draft in self._drafts.values() if draft.changed]
        self._count_told(changed)
        ahead_s = self.now - self.steady
        return Changes(
            write_id=random.getrandbits(62),
            optimistic=self._optimistic,
            steady=self.steady,
            traces=[self._change(draft, ahead_s) for draft in changed],
            deleted=self.deleted,
            absent=self._absent,
            tokens=self.tokens,
            revoked=self.revoked,
            claims=self.claims,
            probe=self.probe,
        )

    def _change(self, draft: Draft, ahead_s: float) -> TraceChange:
        row, state, noted = draft.row, draft.state, draft.noted
        at_boundary = draft.at_boundary
        messages, bodies = project.message_rows(noted, state, draft.open_rows, at_boundary=at_boundary)
        if at_boundary and not draft.new:
            behind = self.loaded.behind.get(row.trace_id, ())
            bodies += project.catch_up_rows(behind, state, noted.updated, draft.open_rows)
        inputs, closed = project.input_rows(noted, draft.pending, state, ahead_s)
        home = self._homes.get(row.trace_id)
        lease = self.steady + row.lease_s if draft.renewed and row.lease_s is not None else row.lease_expires_at
        after = project.trace_row(row, state, draft.log_bytes, lease, renamed=noted.renamed)
        return TraceChange(
            before=None if draft.new else row,
            after=after if home is None else home.of(after),
            events=draft.events,
            snapshots=draft.snapshots,
            messages=messages,
            bodies=bodies,
            inputs=inputs,
            closed_inputs=closed,
            producers={name: draft.producers[name] for name in draft.changed_producers},
            trimmed=draft.trimmed_names,
            adopts=draft.adopts,
            blobs=draft.blobs,
            regrouped={name: goal_id for name, goal_id in noted.moved.items() if name not in noted.added},
        )

    def _count_told(self, changed: list[Draft]) -> None:
        """A sub-trace that is not here (not restored, deleted) counts in its parent as the parent's log tells of it."""
        if not any(draft.new or draft.noted.told for draft in changed):
            return
        new = {draft.row.trace_id for draft in changed if draft.new}
        pairs = {(draft.row.trace_id, sub_id) for draft in changed for sub_id in draft.noted.told}
        pairs |= {(self.above(self._drafts[sub_id].row) or "", sub_id) for sub_id in new}
        for parent_id, sub_id in pairs:
            parent = self.draft(parent_id)
            if parent is None:
                continue
            row = self._drafts[sub_id].row if sub_id in self._drafts else self.load(self.loaded.rows, sub_id, "rows")
            here = row is not None and self.above(row) == parent_id
            was_here = row is not None and row.above == parent_id if sub_id in self._homes else here
            before = sums_of(parent.logged, sub_id) if not was_here or sub_id in new else Sums()
            now = sums_of(parent.state.sub_traces, sub_id) if not here else Sums()
            if now != before:
                self._absent.append(AbsentChange(parent_id, now.minus(before)))

    def written(self, changes: Changes, written: Written, cache: StateCache) -> list[Grown]:
        """After the commit: what this unit knows is what the log holds. Returns what listeners are told."""
        grown = []
        for change in changes.traces:
            row = change.after
            if row.trace_id in written.again:
                continue
            row.trace_key = written.keys.get(row.trace_id, row.trace_key)
            bodies = [event.body for event in change.events]
            grown.append(Grown(row.trace_id, row.last_event_id, row.status, bodies, trace_key=row.trace_key))
        rows = {change.after.trace_id: change.after for change in changes.traces}
        for trace_id, draft in self._drafts.items():
            if trace_id not in written.again:
                forget_complete(draft.state, [name for name in draft.noted.updated if name in draft.open_rows])
                row = rows.get(trace_id, draft.row)
                open_rows = {name: one for name, one in draft.open_rows.items() if name in draft.state.messages}
                row_kept = None if row.apart else row  # another process may put its parent there
                producers = dict(list(draft.producers.items())[-MOST_PRODUCERS:])
                cache.put(Cached(row.trace_key, draft.state, row_kept, producers, open_rows, row.log_bytes))
        gone = [row.trace_id for row in self.deleted]
        cache.drop([*written.again, *gone])
        grown += [Grown(row.trace_id, row.last_event_id, "deleted", deleted=True) for row in self.deleted]
        return grown


def known_heads(needs: Needs, states: dict[str, Cached], cache: StateCache) -> None:
    """Say in ``needs`` which states are known already, and have them in ``states``."""
    wanted = list(needs.traces)
    for trace_id in wanted:
        known = states.get(trace_id) or cache.find(trace_id)
        if known is None:
            continue
        states[trace_id] = known
        needs.heads[trace_id] = head = known.head
        if trace_id in needs.growth and _reaches_snapshot(head.event_id, needs.growth[trace_id]):
            needs.behind.add(trace_id)  # it would be found missing: that is known beforehand
        if trace_id in needs.above and known.state.parent_trace_id is not None:
            parent = states.get(known.state.parent_trace_id) or cache.find(known.state.parent_trace_id)
            if parent is not None:
                states[parent.state.trace_id] = parent
                needs.heads[parent.state.trace_id] = parent.head
    # What is remembered is not read again: it may be long, and change by a character
    needs.messages = {
        (one, name) for one, name in needs.messages if one not in states or name not in states[one].state.messages
    }


def _reaches_snapshot(event_id: int, events: int) -> bool:
    return (event_id + events) // project.SNAPSHOT_EVERY > event_id // project.SNAPSHOT_EVERY


def bring_up(loaded: Loaded, states: dict[str, Cached]) -> set[str]:
    """Make the states that ``loaded`` brings parts of. Returns the traces of which there is more to load."""
    more = set()
    for trace_id, parts in loaded.parts.items():
        row, known = loaded.rows[trace_id], states.get(trace_id)
        same = known if known is not None and known.trace_key == row.trace_key else None
        try:
            state = unfold(row, parts, same.state if same else None)
        except BadSnapshot as bad:
            loaded.needs.skip.add((trace_id, bad.event_id))
            more.add(trace_id)
            continue
        states[trace_id] = Cached(row.trace_key, state)
        if state.last_event_id < row.last_event_id:
            more.add(trace_id)
    return more
