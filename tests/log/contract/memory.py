"""An engine in memory: a storage in its plainest form, and different from SQLite wherever the contract allows it.

It compares heads at a commit, adds up the sums of a tree when they are read, has no counter over all traces, and can
lose the answer to a commit on demand. Each ``MemoryStorage`` on one ``Memory`` stands for a process of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson

from tracewatch.log import project
from tracewatch.log.counts import LIVE, LogLook
from tracewatch.log.patience import Patience
from tracewatch.log.row import PAGE_BYTES, TraceRow
from tracewatch.log.storage import (
    BlobRoom,
    BlobRow,
    Busy,
    Changes,
    Closing,
    EventRow,
    Gathering,
    Head,
    InDoubt,
    InputRow,
    KeptSnapshot,
    Loaded,
    MessageRow,
    Needs,
    OpenInput,
    StateParts,
    StoredMessage,
    TraceChange,
    TraceInput,
    Upload,
    View,
    Written,
)
from tracewatch.log.sums import Sums
from tracewatch.log.views import Grown, Page, Token, TraceQuery, place_of
from tracewatch.model.canonical import OPEN_STATUSES, event_name

T = TypeVar("T")


@dataclass
class Trace:
    """One trace's rows."""

    row: TraceRow
    events: dict[int, EventRow] = field(default_factory=dict)
    snapshots: dict[int, bytes] = field(default_factory=dict)
    messages: dict[str, MessageRow] = field(default_factory=dict)
    inputs: dict[str, InputRow] = field(default_factory=dict)
    producers: dict[str, int] = field(default_factory=dict)
    trimmed: dict[str, int] = field(default_factory=dict)
    absent: Sums = field(default_factory=Sums)
    blobs: dict[str, tuple[BlobRow, int]] = field(default_factory=dict)  # with the event that names each


@dataclass
class Memory:
    """What all processes share."""

    traces: dict[str, Trace] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    claims: dict[str, float] = field(default_factory=dict)
    told: list[Grown] = field(default_factory=list)
    keys: int = 0
    pieces: dict[int, dict[int, bytes]] = field(default_factory=dict)  # of contents
    holder: object | None = None  # who has it locked
    written: set[int] = field(default_factory=set)  # write_ids
    cuts: list[str] = field(default_factory=list)  # of the next commits: "landed" or "lost" without an answer
    unknown: bool = False  # what became of a commit can't be found out
    commits: list[Changes] = field(default_factory=list)
    turns: dict[str, asyncio.Lock] = field(default_factory=dict)
    last_turns: dict[str, object] = field(default_factory=dict)  # whose they were


class MemoryStorage:
    """One process's way to a ``Memory``."""

    epoch = "memory"
    engine_version = "0"
    optimistic = True

    def __init__(self, memory: Memory, clock: Callable[[], float]) -> None:
        self.memory = memory
        self.now = self.steady = clock
        self._closed = False

    # --- writing ---

    async def begin(self, needs: Needs) -> Loaded:
        await asyncio.sleep(0)
        if self.memory.holder not in (None, self):
            await asyncio.sleep(0.005)
            raise Busy
        self.memory.holder = self
        return self._load(needs)

    def _load(self, needs: Needs) -> Loaded:
        loaded, there = Loaded(needs, self.now(), self.steady()), self.memory.traces
        wanted = needs.traces | needs.rows
        for root_id in needs.trees:
            loaded.trees[root_id] = self._below(root_id)
            wanted |= set(loaded.trees[root_id])
        for root_id in needs.levels:
            named = [one for one, trace in there.items() if trace.row.parent_trace_id == root_id]
            loaded.levels[root_id] = max((1 + self._levels(one) for one in named), default=0)
        parents = {there[one].row.above or "" for one in needs.above if one in there}
        wanted |= {above for one in needs.above for above in (*self._above(one), *self._covers(one))}
        loaded.rows = {one: self._row(one) for one in wanted if one in there}
        for one in (needs.traces | parents) & loaded.rows.keys():
            row = loaded.rows[one]
            if needs.heads.get(one) != (row.trace_key, row.last_event_id):
                loaded.parts[one] = self._parts(
                    row, row.last_event_id, needs.heads.get(one), [at for name, at in needs.skip if name == one]
                )
        for one, name in needs.messages:
            if one in there and name in there[one].messages:
                loaded.messages[one, name] = self._message(there[one], name)
        loaded.mentioned = {
            (one, name) for one, name in needs.mentioned if one in there and name in there[one].messages
        }
        for one in needs.behind & loaded.rows.keys():
            found = [self._message(there[one], name) for name in there[one].messages]
            loaded.behind[one] = [m for m in found if m.as_of is not None and m.later]
            if there[one].snapshots:
                at = max(there[one].snapshots)
                behind = [e.end_offset - len(e.body) for e in there[one].events.values() if e.event_id == at + 1]
                offset = behind[0] if behind else there[one].row.log_bytes
                loaded.kept[one] = KeptSnapshot(offset, len(there[one].snapshots[at]))
        for one, producer in needs.producers:
            if one in there and producer in there[one].producers:
                loaded.producers[one, producer] = there[one].producers[producer]
        for one, request_id in needs.questions:
            if one in there and request_id in there[one].inputs:
                loaded.questions[one, request_id] = there[one].inputs[request_id].expires_at
        for one in needs.sequences & loaded.rows.keys():
            loaded.sequences[one] = max((m.sequence for m in there[one].messages.values()), default=0)
        for one, first, last in needs.events:
            events = there[one].events if one in there else {}
            loaded.events[one] = {e.event_id: e.body for e in events.values() if first <= e.event_id <= last}
        loaded.used_ids = {one: self.memory.deleted[one] for one in needs.used_ids if one in self.memory.deleted}
        loaded.snapshots = {(one, at) for one, at in needs.snapshots if one in there and at in there[one].snapshots}
        for one, sha256 in needs.blobs:
            if one in there and sha256 in there[one].blobs:
                loaded.blobs[one, sha256] = there[one].blobs[sha256][0].bytes
        loaded.tokens = {one: self.memory.tokens[one] for one in needs.tokens if one in self.memory.tokens}
        loaded.claims = {name: self.memory.claims[name] for name in needs.claims if name in self.memory.claims}
        return loaded

    async def commit(self, changes: Changes) -> Written:
        await asyncio.sleep(0)
        cut = self.memory.cuts.pop(0) if self.memory.cuts else ""
        try:
            written = Written(nothing=True) if cut == "lost" else self._write(changes)
        finally:
            await self.rollback()
        await asyncio.sleep(0)
        if cut:
            raise InDoubt
        return written

    async def rollback(self) -> None:
        if self.memory.holder is self:
            self.memory.holder = None

    async def settle(self, changes: Changes) -> Written:
        await asyncio.sleep(0)
        if self.memory.unknown:
            raise InDoubt
        if changes.write_id not in self.memory.written:
            return Written(nothing=True)
        there = self.memory.traces
        return Written({c.after.trace_id: there[c.after.trace_id].row.trace_key for c in changes.traces})

    def _write(self, changes: Changes) -> Written:
        memory = self.memory
        again = {c.after.trace_id for c in changes.traces if changes.optimistic and not self._is_head(c)}
        keys = {c.after.trace_id: self._put(c) for c in changes.traces if c.after.trace_id not in again}
        for row in changes.deleted:
            del memory.traces[row.trace_id]
            memory.deleted[row.trace_id] = row.last_event_id
            memory.told.append(Grown(row.trace_id, row.last_event_id, "deleted", deleted=True))
        for parent_id, more in changes.absent:
            parent = memory.traces[parent_id]
            parent.absent = parent.absent.plus(more)
        memory.tokens.update({token.token_id: token for token in changes.tokens})
        for token_id, when in changes.revoked.items():
            memory.tokens[token_id] = replace(memory.tokens[token_id], revoked_at=when)
        memory.claims.update(changes.claims)
        memory.written.add(changes.write_id)
        memory.commits.append(changes)
        return Written(keys, frozenset(again))

    def _is_head(self, change: TraceChange) -> bool:
        found, before = self.memory.traces.get(change.after.trace_id), change.before
        locked = self.memory.holder not in (None, self)
        if locked or found is None or before is None:
            return False
        return (found.row.trace_key, found.row.last_event_id) == (before.trace_key, before.last_event_id)

    def _put(self, change: TraceChange) -> int:
        memory, row = self.memory, replace(change.after)
        if change.before is None:
            memory.keys += 1
            row.trace_key = memory.keys
            memory.deleted.pop(row.trace_id, None)
            memory.traces[row.trace_id] = Trace(row)
            for other in memory.traces.values() if change.adopts else ():
                if other.row.parent_trace_id == row.trace_id:
                    other.row = replace(other.row, apart=False)
        trace = memory.traces[row.trace_id]
        trace.row = row
        for one in self._below(row.trace_id) if row.moved else ():
            memory.traces[one].row = replace(memory.traces[one].row, root_trace_id=row.root_trace_id)
        trace.events.update({event.event_id: event for event in change.events})
        trace.snapshots.update(dict(change.snapshots))
        trace.messages.update({message.message_id: message for message in change.messages})
        for message_id, goal_id in change.regrouped.items():
            trace.messages[message_id] = trace.messages[message_id]._replace(goal_id=goal_id)
        for message_id, as_of, body in change.bodies:
            trace.messages[message_id] = trace.messages[message_id]._replace(as_of=as_of, body=body)
        trace.inputs.update({question.request_id: question for question in change.inputs})
        for request_id, state, answer in change.closed_inputs:
            trace.inputs[request_id] = trace.inputs[request_id]._replace(state=state, body=None, answer=answer)
        trace.producers.update(change.producers)
        for sha256, event_id in change.blobs.items():
            trace.blobs[sha256] = trace.blobs[sha256][0], max(event_id, trace.blobs[sha256][1])
        if change.before is not None and row.first_event_id > change.before.first_event_id:
            if not change.trimmed:
                trace.trimmed[""] = row.first_event_id - 1
            elif not trace.trimmed and change.before.first_event_id > 1:
                trace.trimmed[""] = change.before.first_event_id - 1
            trace.trimmed.update(change.trimmed)
            self._trim(trace)
        memory.told.append(Grown(row.trace_id, row.last_event_id, row.status))
        return row.trace_key

    def _trim(self, trace: Trace) -> None:
        first = trace.row.first_event_id
        for name, message in list(trace.messages.items()):
            now = project.message_of(self._message(trace, name)) if message.event_id < first else None
            if now is not None and now["status"] == "complete":
                del trace.messages[name]
            elif now is not None:
                as_of = None if message.as_of is None else trace.row.last_event_id
                trace.messages[name] = message._replace(as_of=as_of, body=orjson.dumps(now))
        trace.events = {at: event for at, event in trace.events.items() if at >= first}
        trace.snapshots = {at: body for at, body in trace.snapshots.items() if at >= first - 1}
        open_ones = b"".join(message.body or b"" for message in trace.messages.values() if message.event_id < first)
        for sha256, (_, event_id) in list(trace.blobs.items()):
            if 0 < event_id < first and sha256.encode() not in open_ones:
                del trace.blobs[sha256]

    async def put_piece(self, key: int | None, sha256: str, piece: int, body: bytes) -> int | None:
        await self._turn()
        if key is None:
            self.memory.keys += 1
            key = self.memory.keys
        elif key not in self.memory.pieces:
            return None
        self.memory.pieces.setdefault(key, {})[piece] = body
        return key

    async def keep_blob(self, upload: Upload) -> BlobRoom | None:
        room = await self.blob_room(upload.trace_id, upload.sha256)
        if room is None or room.row is not None or room.used + upload.bytes > upload.most:
            return room
        key = upload.key
        for trace in self.memory.traces.values():
            if upload.sha256 in trace.blobs:
                key = trace.blobs[upload.sha256][0].blob_key
        if key is not None:
            row = BlobRow(key, upload.bytes, upload.media_type)
            self.memory.traces[upload.trace_id].blobs[upload.sha256] = row, 0
        return await self.blob_room(upload.trace_id, upload.sha256)

    async def drop_blob(self, key: int) -> None:
        self.memory.pieces.pop(key, None)

    async def tend(self, keep_free_share: float, wal_bytes: int) -> bool:
        return False

    async def rewrite(self) -> None:
        return None

    def has_room(self) -> bool:
        return True

    # --- rows ---

    def _row(self, trace_id: str) -> TraceRow:
        trace = self.memory.traces[trace_id]
        row = trace.row
        below = [self._row(sub) for sub in self._subs(trace_id)]
        tree = row.own().plus(trace.absent)
        for sub in below:
            tree = tree.plus(sub.tree())
        return replace(row, **{f"tree_{name}": value for name, value in tree._asdict().items()})

    def _subs(self, trace_id: str) -> list[str]:
        return [one for one, trace in self.memory.traces.items() if trace.row.above == trace_id]

    def _below(self, trace_id: str) -> list[str]:
        found = [trace_id]  # it may not be here, and what is below it is
        for one in found:
            found.extend(sub for sub in self._subs(one) if sub not in found)
        return [one for one in found if one in self.memory.traces]

    def _levels(self, trace_id: str) -> int:
        return max((1 + self._levels(sub) for sub in self._subs(trace_id)), default=0)

    def _above(self, trace_id: str | None) -> list[str]:
        found: list[str] = []
        while trace_id is not None and trace_id not in found:
            found.append(trace_id)
            trace_id = self.memory.traces[trace_id].row.above if trace_id in self.memory.traces else None
        return found

    def _covers(self, trace_id: str | None) -> list[str]:
        """The trace, and all that it was below when it came."""
        keys = {trace.row.trace_key: one for one, trace in self.memory.traces.items()}
        found: list[str] = []
        while trace_id is not None and trace_id not in found:
            found.append(trace_id)
            row = self.memory.traces[trace_id].row if trace_id in self.memory.traces else None
            trace_id = None if row is None else keys.get(row.cover_key or 0) if row.moved else row.above
        return found

    def _covered(self, trace_id: str) -> list[str]:
        return [one for one in self.memory.traces if trace_id in self._covers(one)]

    def _parts(self, row: TraceRow, upto: int, known: Head | None, skip: Collection[int] = ()) -> StateParts:
        trace = self.memory.traces[row.trace_id]
        base = known.event_id if known is not None and known.trace_key == row.trace_key else -1
        if not row.first_event_id - 1 <= base <= upto:
            base = -1
        kept = [at for at in trace.snapshots if base < at <= upto and at >= row.first_event_id - 1 and at not in skip]
        if base == -1 or upto - base > project.SNAPSHOT_EVERY:
            base = max(kept, default=max(base, row.first_event_id - 1))
        snapshot = trace.snapshots[base] if base in kept else None
        return StateParts(base, snapshot, [trace.events[at].body for at in range(base + 1, min(upto, base + 500) + 1)])

    def _message(self, trace: Trace, message_id: str) -> StoredMessage:
        row = trace.messages[message_id]
        later = []
        made = project.events_of(row.body)
        as_event = row.body is None or (made is not None and made.whole)
        body = trace.events[row.event_id].body if as_event else row.body
        assert body is not None
        later += [trace.events[at].body for at in (() if made is None else made.event_ids) if at in trace.events]
        for at in sorted(trace.events) if row.as_of is not None else ():
            event = orjson.loads(trace.events[at].body)
            if at > (row.as_of or 0) and (event["event"], event.get("message_id")) == ("message_updated", message_id):
                later.append(trace.events[at].body)
        return StoredMessage(message_id, row.sequence, row.event_id, row.as_of, body, as_event, later)

    async def _turn(self) -> None:
        """Let others run, as a real engine would."""
        await asyncio.sleep(0)
        if self._closed:
            raise Closing

    # --- reading ---

    async def page(self, trace_id: str, after: int, max_events: int, max_bytes: int) -> Page | None:
        await self._turn()
        trace = self.memory.traces.get(trace_id)
        if trace is None:
            return None
        bodies: list[bytes] = []
        while len(bodies) < max_events and after + len(bodies) + 1 in trace.events:
            body = trace.events[after + len(bodies) + 1].body
            if bodies and sum(map(len, bodies)) + len(body) > max_bytes:
                break
            bodies.append(body)
        row = trace.row
        return Page(bodies, after, row.first_event_id, row.last_event_id, row.status, row.trace_key)

    async def view(
        self, trace_id: str, known: Head | None, upto: int | None, *, subs: bool, skip: Collection[int] = ()
    ) -> View | None:
        await self._turn()
        if trace_id not in self.memory.traces:
            return None
        row = self._row(trace_id)
        below = [self._row(sub).for_list() for sub in self._subs(trace_id)] if subs else []
        current = known is not None and known.trace_key == row.trace_key and known.event_id >= row.last_event_id
        at = row.last_event_id if upto is None else upto
        if (upto is None and current) or not row.first_event_id - 1 <= at <= row.last_event_id:
            return View(row, None, below)
        return View(row, self._parts(row, at, known, skip), below)

    async def messages(
        self, trace_id: str, goal_id: str | None, before: int | None, limit: int, patience: Patience
    ) -> tuple[list[StoredMessage], bool] | None:
        await self._turn()
        trace = self.memory.traces.get(trace_id)
        if trace is None:
            return None
        rows = sorted(trace.messages.values(), key=lambda row: -row.sequence)
        chosen = [r for r in rows if (before is None or r.sequence < before) and goal_id in (None, r.goal_id)]
        stored = [self._message(trace, row.message_id) for row in chosen]
        count = _fitting([len(one.body) for one in stored], limit, PAGE_BYTES)
        return stored[:count], count < len(stored)

    async def message(self, trace_id: str, message_id: str) -> list[StoredMessage] | None:
        await self._turn()
        trace = self.memory.traces.get(trace_id)
        if trace is None:
            return None
        return [self._message(trace, message_id)] if message_id in trace.messages else []

    async def gather(self, trace_id: str, begin: Callable[[], Gathering[T]], patience: Patience) -> T | None:
        await self._turn()
        trace = self.memory.traces.get(trace_id)
        if trace is None:
            return None
        gathering = begin()
        try:
            wanted = next(gathering)
            while True:
                if isinstance(wanted, str):
                    row = trace.blobs.get(wanted)
                    pieces = {} if row is None else self.memory.pieces[row[0].blob_key]
                    wanted = gathering.send(b"".join(pieces[number] for number in sorted(pieces)) if pieces else None)
                else:
                    wanted = gathering.send([self._message(trace, one) for one in wanted if one in trace.messages])
        except StopIteration as over:
            result: T = over.value
            return result

    async def list_traces(
        self, query: TraceQuery, patience: Patience, keys: Collection[int] | None = None
    ) -> tuple[list[TraceRow], bool]:
        await self._turn()
        below = None if query.below is None else self._covered(query.below)

        def at(row: TraceRow) -> tuple[str, int]:
            when = {"started": min(row.started_at, row.created_at), "activity": row.active_at, "created": ""}
            return when[query.order], row.trace_key

        rows = sorted(map(self._row, self.memory.traces), key=at, reverse=True)
        if query.before is not None and (place := place_of(query.before)) is not None:
            known = [row for row in rows if row.trace_key <= place.trace_key]
            begin = (place.at, place.trace_key)
            if not place.order:
                begin = (at(max(known, key=lambda row: row.trace_key))[0] if known else "", place.trace_key)
            rows = [row for row in rows if at(row) < begin]
        rows = [row for row in rows if below is None or row.trace_id in below]
        rows = [row for row in rows if keys is None or row.trace_key in keys]
        rows = [row for row in rows if query.fits(row.trace(0.0))]
        rows = [row.for_list() for row in rows]
        count = _fitting([row.listed_bytes() for row in rows], query.limit, query.max_bytes)
        return rows[:count], count < len(rows)

    async def rows(self, trace_ids: Collection[str], below: str | None = None) -> list[TraceRow]:
        await self._turn()
        allowed = self.memory.traces if below is None else self._covered(below)
        there = [one for one in dict.fromkeys(trace_ids) if one in self.memory.traces and one in allowed]
        return [self._row(one).for_list() for one in there]

    async def aside(self, work: Callable[[], T]) -> T:
        await self._turn()
        return work()

    async def keys_below(self, trace_id: str, *, covered: bool) -> list[int]:
        above = self._covers if covered else self._above
        return [trace.row.trace_key for name, trace in self.memory.traces.items() if trace_id in above(name)]

    async def lines(self, trace_ids: Collection[str]) -> list[TraceRow]:
        await self._turn()
        names = {above for one in trace_ids for above in (*self._above(one), *self._covers(one))}
        return [self._row(one).for_list() for one in names if one in self.memory.traces]

    async def is_below(self, root_id: str, trace_id: str) -> bool:
        return root_id in self._covers(trace_id)

    async def last_seq(self, trace_id: str, producer: str) -> int:
        trace = self.memory.traces.get(trace_id)
        return 0 if trace is None else trace.producers.get(producer, 0)

    async def blob_room(self, trace_id: str, sha256: str) -> BlobRoom | None:
        await self._turn()
        trace = self.memory.traces.get(trace_id)
        if trace is None:
            return None
        found, used = trace.blobs.get(sha256), sum(row.bytes for row, _ in trace.blobs.values())
        stored = any(sha256 in one.blobs for one in self.memory.traces.values())
        return BlobRoom(None if found is None else found[0], used, stored)

    async def blob_piece(self, blob_key: int, piece: int) -> bytes | None:
        await self._turn()
        return self.memory.pieces.get(blob_key, {}).get(piece)

    def _inputs(self, state: str = "open") -> list[tuple[Trace, InputRow]]:
        found = [(t, one) for t in self.memory.traces.values() for one in t.inputs.values() if one.state == state]
        return sorted(found, key=lambda pair: (pair[1].asked_at, pair[0].row.trace_key, pair[1].event_id))

    async def open_inputs(
        self, limit: int, below: str | None, after: str | None, patience: Patience
    ) -> tuple[list[OpenInput], str | None]:
        allowed = self.memory.traces if below is None else self._covered(below)
        found: list[tuple[str, OpenInput]] = []
        for t, one in self._inputs():
            row, place = t.row, f"{one.asked_at}_{t.row.trace_key}_{one.event_id}"
            if row.trace_id in allowed and (after is None or _order(place) > _order(after)):
                names = (row.trace_id, row.task, row.agent_type, row.root_trace_id, row.status)
                found.append((place, OpenInput(one.request_id, one.asked_at, one.body or b"", *names)))
        count = _fitting([len(one.body) + len(one.task) for _, one in found], limit, PAGE_BYTES)
        return [one for _, one in found[:count]], found[count - 1][0] if count < len(found) else None

    async def inputs_of(self, trace_id: str, request_id: str | None, limit: int) -> list[TraceInput]:
        trace = self.memory.traces.get(trace_id)
        rows = [] if trace is None else sorted(trace.inputs.values(), key=lambda one: one.event_id)
        if request_id is not None:
            rows = [one for one in rows if one.request_id == request_id]
        others = [one for one in rows if one.state != "open"][-limit:]
        shown = [TraceInput(o.request_id, o.state, o.body, o.answer) for o in rows if o.state == "open" or o in others]
        whole = _fitting([len(o.body or b"") + len(o.answer or b"") for o in shown[::-1]], len(shown), PAGE_BYTES)
        short = [TraceInput(o.request_id, o.state, None, None) for o in shown[: len(shown) - whole]]
        return short + shown[len(shown) - whole :]

    async def expired_leases(self) -> list[str]:
        rows = [trace.row for trace in self.memory.traces.values()]
        live = [row for row in rows if row.status in OPEN_STATUSES]
        return [row.trace_id for row in live if not row.lease_alive(self.steady())]

    async def expired_inputs(self) -> list[tuple[str, str]]:
        due = [p for p in self._inputs() if p[1].expires_at is not None and p[1].expires_at <= self.steady()]
        due.sort(key=lambda pair: pair[1].expires_at or 0)
        return [(trace.row.trace_id, one.request_id) for trace, one in due]

    async def long(self, events: int) -> list[TraceRow]:
        rows = [trace.row for trace in self.memory.traces.values()]
        return [row for row in rows if row.last_event_id - row.first_event_id >= events]

    async def untouched(self, before: str, statuses: Sequence[str]) -> list[list[TraceRow]]:
        rows = [t.row for t in self.memory.traces.values() if t.row.status in statuses]
        tops = [row for row in rows if row.created_at < before and row.updated_at < before]
        tops.sort(key=lambda row: (row.created_at, row.trace_key))
        return [[self._row(one) for one in self._below(row.trace_id)] for row in tops]

    def _events(self, trace_key: int) -> dict[int, EventRow]:
        return next((t.events for t in self.memory.traces.values() if t.row.trace_key == trace_key), {})

    async def kept_before(self, trace_key: int, event_id: int) -> int:
        kept = (at for t in self.memory.traces.values() if t.row.trace_key == trace_key for at in t.snapshots)
        return max((at for at in kept if at <= event_id), default=0)

    async def event_head(self, trace_key: int, event_id: int) -> bytes | None:
        event = self._events(trace_key).get(event_id)
        return None if event is None else event.body[:512]

    async def names(self, trace_key: int, first: int, last: int) -> dict[str, int]:
        events = self._events(trace_key)
        return {event_name(events[at].body): at for at in sorted(events) if first <= at <= last}

    async def trimmed(self, trace_id: str, names: Collection[str]) -> int | None:
        trace = self.memory.traces.get(trace_id)
        if trace is None:
            return None
        if not trace.trimmed:
            return trace.row.first_event_id - 1
        return max(trace.trimmed.get(name, 0) for name in (*names, ""))

    async def size(self, trace_key: int, first: int, last: int) -> int:
        return sum(len(event.body) for at, event in self._events(trace_key).items() if first <= at <= last)

    async def content_size(self, trace_key: int, upto: int | None) -> int:
        trace = next(one for one in self.memory.traces.values() if one.row.trace_key == trace_key)
        others = {name for one in self.memory.traces.values() if one is not trace for name in one.blobs}
        mine = [(name, row.bytes) for name, (row, at) in trace.blobs.items() if upto is None or at <= upto]
        return sum(size for name, size in mine if name not in others)

    async def tokens(self, token_ids: Collection[str] | None = None, limit: int | None = None) -> list[Token]:
        found = [t for t in self.memory.tokens.values() if token_ids is None or t.token_id in token_ids]
        return sorted(found, key=lambda token: (token.created_at, token.token_id))[:limit]

    async def look(self) -> LogLook:
        rows = [trace.row for trace in self.memory.traces.values()]
        live = [row for row in rows if row.status in OPEN_STATUSES and row.lease_expires_at is not None]
        statuses = {status: sum(row.status == status for row in rows) for status in LIVE}
        return LogLook(0, 0, 0, statuses, sum(r.lease_alive(self.steady()) for r in live), len(self._inputs()))

    async def gives_back(self) -> bool:
        return True

    async def changes(self, seen: Any, traces: Collection[str] | None) -> tuple[list[Grown], Any]:
        await self._turn()
        told = self.memory.told
        since = len(told) if seen is None else seen
        newest = {grown.trace_id: grown for grown in told[since:]}
        return [grown for one, grown in newest.items() if traces is None or one in traces], len(told)

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[bool]:
        """See Storage.turn."""
        async with self.memory.turns.setdefault(name, asyncio.Lock()):
            mine = self.memory.last_turns.get(name) is self
            self.memory.last_turns[name] = self
            yield mine

    async def verify(self) -> None:
        return None

    async def close(self) -> None:
        self._closed = True


def _fitting(sizes: Sequence[int], limit: int, room: int) -> int:
    """How many of these, from the first one on, fit in a page; at least one."""
    count = 0
    for size in sizes[:limit]:
        room -= size
        if room < 0 and count:
            break
        count += 1
    return count


def _order(place: str) -> tuple[str, int, int]:
    asked_at, key, event_id = place.split("_")
    return asked_at, int(key), int(event_id)
