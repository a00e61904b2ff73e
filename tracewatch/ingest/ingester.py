"""The one ingester: items of any source become traces, messages and steps of the log, each once, in whatever order.

Rule 1: what is in the log is the only table (known.py). It is read when a trace of a source is first heard of, kept in
        memory while it is busy, and every append names the event that it builds on. So a kill -9 loses nothing that was
        acknowledged, a repeat writes nothing, and two processes at once are told of each other by the log.
Rule 2: an agent's run is a trace, an agent below an agent a sub-trace. The root of a source's trace has a trace in any
        case. What has no root yet stands in a stub, which becomes the trace when its root comes.
Rule 3: nothing that comes in raises, but for a log that can't be written (Unavailable). What the log refuses is mended
        as a recorder mends it, or kept as an ``ingest_refused`` event.
Rule 4: a trace without a parent has a lease, which every sign of life of its process renews: silence makes it lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from ..errors import TracewatchError, Unavailable, UnexpectedLastEventId
from ..model import fit
from ..model.mend import mended, substitute
from .items import ROOT, Item, Kind, made_plain, merged
from .known import Entry, Event, Known, KnownTrace, digest, key_of, print_of, trace_id_of
from .plan import events_of, outcome, trace_events, trace_fields
from .store import Store

logger = logging.getLogger("tracewatch.ingest")
LEASE_S = 120.0  # a process that says nothing for so long is gone
SKEW_S = 1.0  # a clock that is further ahead than this is put back
MOST_ITEMS = 300_000  # remembered, of all traces together
MOST_SIBLINGS = 200  # traces of one trace of a source that stand beside each other
TRIES = 30  # of a batch, while others write the same traces
APPEND_EVENTS, APPEND_BYTES = 500, 4 * 1024 * 1024
TURN_ITEMS = 50  # before others have their turn


class _Again(Exception):
    """Another process has written items of this trace: what was planned is planned anew."""


@dataclass(frozen=True, slots=True)
class Process:
    """Who sends: ``key`` is the same for all that one process sends, ``name`` is what a person calls it."""

    key: str
    name: str


@dataclass(slots=True)
class IngestCounts:
    """What came in since the start, by source."""

    items: Counter[str] = field(default_factory=Counter)
    repeats: Counter[str] = field(default_factory=Counter)  # items that said nothing new
    events: Counter[str] = field(default_factory=Counter)  # written
    refused: Counter[str] = field(default_factory=Counter)  # by the log, kept as they were
    failed: Counter[str] = field(default_factory=Counter)  # lost by a defect; the server's log says why
    unknown: Counter[str] = field(default_factory=Counter)  # not understood, kept as they came
    last: dict[str, float] = field(default_factory=dict)  # when something came, Unix seconds


@dataclass(slots=True)
class _Out:
    """Events that are planned and not yet written, by trace, in the order in which the traces came up."""

    events: dict[str, list[Event]] = field(default_factory=dict)
    sizes: Counter[str] = field(default_factory=Counter)


class Ingester:
    """Writes items to a log. ``take`` may be called from many tasks of one loop at once."""

    def __init__(self, store: Store, *, lease_s: float = LEASE_S, most_items: int = MOST_ITEMS) -> None:
        self.counts = IngestCounts()
        self._store = store
        self._lease_s = lease_s
        self._most_items = most_items
        self._known: OrderedDict[tuple[str, str], Known] = OrderedDict()
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._waiting: Counter[tuple[str, str]] = Counter()
        self._skew: OrderedDict[str, float] = OrderedDict()  # by process
        self._leased: OrderedDict[str, dict[str, float]] = OrderedDict()  # process → trace → when it was last renewed

    async def take(
        self, source: str, items: Iterable[Item], *, process: Process, received_at: float | None = None
    ) -> int:
        """Write what is new of these items; the number of events it took. Returns when they are on disk.

        ``source``: what trace ids begin with, such as ``otel``. ``received_at``: when they came, Unix seconds.
        Raises Unavailable, and nothing else.
        """
        now = time.time() if received_at is None else received_at
        by_trace: dict[str, list[Item]] = {}
        for item in self._on_our_clock(list(items), process, now):
            self.counts.items[source] += 1
            by_trace.setdefault(item.trace, []).append(item)
        self.counts.last[source] = now
        written = 0
        for trace, some in by_trace.items():
            written += await self._take_trace((source, trace), some, process)
        self.counts.events[source] += written
        await self.alive(process)
        return written

    async def alive(self, process: Process) -> None:
        """Renew the leases of what a process has begun: it has said something."""
        leased, now = self._leased.get(process.key), time.monotonic()
        for trace_id, renewed in list((leased or {}).items()):
            if leased is not None and now - renewed > self._lease_s / 4:
                leased[trace_id] = now
                await self._store.renew(trace_id)

    def _on_our_clock(self, items: list[Item], process: Process, now: float) -> list[Item]:
        """The items with their keys as ids, and their times put back where their process's clock is ahead."""
        starts = [item.started_at for item in items if item.started_at is not None]
        ahead = min((now - start for start in starts), default=0.0)
        skew = min(self._skew.get(process.key, 0.0), ahead if ahead < -SKEW_S else 0.0)
        if skew:
            self._skew[process.key] = skew
            self._skew.move_to_end(process.key)
            if len(self._skew) > 10_000:
                self._skew.popitem(last=False)
        ours = []
        for item in items:
            parent = item.parent if item.parent in (None, ROOT) else key_of(item.parent)
            started = None if item.started_at is None else item.started_at + skew
            ended = None if item.ended_at is None else min(item.ended_at + skew, max(now, started or 0.0))
            ours.append(replace(item, key=key_of(item.key), parent=parent, started_at=started, ended_at=ended))
        return ours

    # --- one trace of a source at a time ---

    async def _take_trace(self, which: tuple[str, str], items: list[Item], process: Process) -> int:
        lock = self._locks.setdefault(which, asyncio.Lock())
        self._waiting[which] += 1
        try:
            async with lock:
                return await self._until_written(which, items, process)
        finally:
            self._waiting[which] -= 1
            if not self._waiting[which]:
                del self._waiting[which], self._locks[which]
            self._forget()

    async def _until_written(self, which: tuple[str, str], items: list[Item], process: Process) -> int:
        for _ in range(TRIES):
            known = self._known.get(which)
            try:
                if known is None:
                    known = self._known[which] = await self._load(*which)
                self._known.move_to_end(which)
                return await _Batch(known, self._store, self.counts, process, self._lease_s, self._leased).write(items)
            except _Again as e:
                logger.debug("again", exc_info=e)
                self._known.pop(which, None)
            except (Unavailable, asyncio.CancelledError):
                self._known.pop(which, None)  # what was planned and not written is not known
                raise
            except Exception as error:
                self._known.pop(which, None)
                if len(items) == 1:
                    self.counts.failed[which[0]] += 1
                    logger.error("a defect in tracewatch: an item of %s was not written", which[0], exc_info=error)
                    return 0
                # What one of them brought must not cost the others
                return sum([await self._until_written(which, [item], process) for item in items])
        raise Unavailable("others write to the same trace all the time; try again", retry_after_s=1)

    def _forget(self) -> None:
        total = sum(len(known.items) for known in self._known.values()) if len(self._known) > 64 else 0
        while len(self._known) > 10_000 or total > self._most_items:
            oldest = next((which for which in self._known if which not in self._locks), None)
            if oldest is None:
                return
            total -= len(self._known.pop(oldest).items)

    async def _load(self, source: str, trace: str) -> Known:
        """What the log has of a source's trace."""
        known = Known(source, trace)
        pending, asked = [known.base], {known.base}
        done: set[str] = set()
        while pending:
            for summary in await self._store.tree(pending.pop()):
                if summary["trace_id"] in done:
                    continue
                done.add(summary["trace_id"])
                about = summary["metadata"].get("ingest")
                if not isinstance(about, dict) or (about.get("source"), about.get("trace")) != (source, trace):
                    continue
                await self._read(known, summary, about)
            pending += [one for key in known.siblings if (one := trace_id_of(source, trace, key)) not in asked | done]
            asked.update(pending)
        for entry in known.items.values():
            if entry.trace_id is not None and entry.parent and known.entry_kind(entry.parent) is None:
                known.orphans.setdefault(entry.parent, []).append(entry.key)
        return known

    async def _read(self, known: Known, summary: dict[str, Any], about: dict[str, Any]) -> None:
        trace = known.add_trace(summary["trace_id"], [], summary["parent_trace_id"])
        known.note_about(trace, about)
        known.note(trace.trace_id, {"event": "trace_updated", **summary, "metadata": summary["metadata"]})
        trace.head = summary["last_event_id"]
        async for event_id, event in self._store.events(trace.trace_id, 0):
            known.note(trace.trace_id, event)
            trace.head = event_id
        trace.status = summary["status"]


class _Batch:
    """The writing of some items of one trace of a source."""

    def __init__(
        self,
        known: Known,
        store: Store,
        counts: IngestCounts,
        process: Process,
        lease_s: float,
        leased: OrderedDict[str, dict[str, float]],
    ) -> None:
        self._known = known
        self._store = store
        self._counts = counts
        self._process = process
        self._lease_s = lease_s
        self._leased = leased
        self._out = _Out()
        self._above: dict[str, tuple[str, str]] = {}
        self._items: dict[str, Item] = {}
        self._written = 0

    async def write(self, items: list[Item]) -> int:
        """Write what is new of them; the number of events it took."""
        fresh = self._fresh(items)
        self._items = {item.key: item for item in fresh}
        for item in fresh:
            self._place_known(item)
        self._above.clear()
        await self._settle()
        ordered = self._ordered(fresh)
        for number, item in enumerate(ordered, 1):
            await self._one(item)
            if not number % TURN_ITEMS:
                await asyncio.sleep(0)
        await self._join()
        for item in reversed(ordered):  # the innermost first, as they ended
            self._end(item)
        for trace in self._known.traces.values():
            self._tell_about(trace)
        await self._flush()
        return self._written

    def _fresh(self, items: list[Item]) -> list[Item]:
        """One item for each key, without those that have said the same before."""
        by_key: dict[str, Item] = {}
        for item in items:
            try:
                words = print_of(item)
            except (TypeError, ValueError):  # orjson's word for what isn't JSON
                item = made_plain(item)
                words = print_of(item)
            entry = self._known.entry(item.key)
            if words in entry.whole:
                self._counts.repeats[self._known.source] += 1
                continue
            entry.whole = (*entry.whole[-3:], words)
            before = by_key.get(item.key)
            by_key[item.key] = item if before is None else merged(before, item)
        return list(by_key.values())

    def _place_known(self, item: Item) -> None:
        """Note what it is and what stands above it, before anything is written."""
        entry = self._known.entry(item.key)
        kind: Kind = item.kind or entry.kind or "step"
        if item.within is not None and self._known.stands_in(item.parent, item.within):
            kind = "step"
        if entry.kind in (None, "step") and kind != entry.kind:
            if entry.trace_id is not None:  # it was taken for a step
                entry.trace_id, entry.said, entry.final = None, {}, False
            entry.kind = kind
        item.kind = entry.kind
        if item.parent is not None and (item.parent != item.key):
            entry.parent = item.parent
        elif item.parent == item.key:
            entry.parent = ROOT

    def _ordered(self, items: list[Item]) -> list[Item]:
        """By their start, but each behind what stands above it."""
        by_key = {item.key: item for item in items}
        done: set[str] = set()
        ordered: list[Item] = []
        for item in sorted(items, key=lambda one: one.started_at or 0.0):
            path: list[Item] = []
            at: Item | None = item
            while at is not None and at.key not in done:
                done.add(at.key)
                path.append(at)
                at = by_key.get(self._known.entry(at.key).parent or "")
            ordered += reversed(path)
        return ordered

    # --- where things stand ---

    def _owner(self, key: str) -> tuple[str, str]:
        return self._known.above(key, self._above)

    async def _settle(self) -> None:
        """Have the traces there are stand for the right items, now that more is known."""
        known = self._known
        for trace in list(known.traces.values()):
            if trace.trace_id not in known.traces or not trace.owners:
                continue
            last = trace.owners[-1]
            kind = known.entry_kind(last)
            if kind is None:
                continue  # it has not come yet
            how, key = self._owner(last)
            if kind != "agent" and (how != "root" or key != last):
                await self._move_owner(trace, key)
            elif kind == "agent" and how == "root" and key != last and len(trace.owners) == 1:
                await self._claim(trace, key)

    async def _move_owner(self, trace: KnownTrace, key: str) -> None:
        """What this stub was for is no agent: it belongs to what stands above."""
        there = self._known.by_owner.get(key)
        if there is None:
            self._known.give(trace, [key])
        elif there != trace.trace_id:
            await self._merge(trace, self._known.traces[there])

    async def _claim(self, trace: KnownTrace, root: str) -> None:
        """An agent below a root that is none: the root has no trace but this, unless another agent has it."""
        there = self._known.by_owner.get(root)
        if there is None:
            self._known.give(trace, [root, *trace.owners])
        elif not self._has_agent(other := self._known.traces[there]) and there != trace.trace_id:
            agent = trace.owners[-1]
            await self._merge(trace, other)
            self._known.give(other, [*other.owners, agent])
            self._known.entry(agent).trace_id = other.trace_id

    def _has_agent(self, trace: KnownTrace) -> bool:
        return any(self._known.entry_kind(key) == "agent" for key in trace.owners)

    async def _join(self) -> None:
        """Put the traces of agents below those of the agents above, where these came later."""
        for trace in list(self._known.traces.values()):
            if trace.parent_trace_id is not None or not trace.owners:
                continue
            how, above = self._owner(trace.owners[-1])
            if how != "agent" or self._known.entry_kind(trace.owners[-1]) != "agent":
                continue
            parent = await self._trace_of(above)
            if parent.trace_id != trace.trace_id:
                await self._flush()
                self._put(trace, [self._parent_event(trace.owners[-1], parent)])

    def _parent_event(self, agent: str, parent: KnownTrace) -> Event:
        place = {f"parent_{name}": key for name, key in self._place(agent, parent.trace_id, "step").items()}
        return {"event": "trace_parent_changed", "parent_trace_id": parent.trace_id, **place}

    async def _trace_of(self, key: str) -> KnownTrace:
        """The trace that stands for an item, made if there is none."""
        there = self._known.by_owner.get(key)
        if there is not None:
            return self._known.traces[there]
        if key == ROOT and self._known.base in self._known.traces:
            return self._known.traces[self._known.base]
        how, above = self._owner(key)
        wildcard = self._known.by_owner.get(ROOT)  # a stub for items of which nobody said what stands above
        if wildcard is not None and how == "root" and above == key:
            self._known.give(self._known.traces[wildcard], [key])
            return self._known.traces[wildcard]
        if self._known.entry_kind(key) != "agent":
            return await self._create([key], None)
        if how == "agent":
            return await self._create([key], await self._trace_of(above))
        if how == "root" and above != key:
            root = self._known.by_owner.get(above)
            if root is None:
                return await self._create([above, key], None)
            trace = self._known.traces[root]
            if not self._has_agent(trace):
                self._known.give(trace, [*trace.owners, key])
                self._known.entry(key).trace_id = trace.trace_id
                return trace
        return await self._create([key], None)

    async def _create(self, owners: list[str], parent: KnownTrace | None) -> KnownTrace:
        known, key = self._known, owners[-1]
        trace_id = known.base if known.base not in known.traces else trace_id_of(known.source, known.trace, key)
        if parent is None and trace_id != known.base:
            if len(known.siblings) >= MOST_SIBLINGS and known.entry_kind(key) != "agent":
                return known.traces[known.base]
            known.siblings.append(key)
            self._tell_about(known.traces[known.base])
            await self._flush()  # so that it is found after a restart
        trace = KnownTrace(trace_id, owners, parent_trace_id=parent.trace_id if parent else None)
        spec: dict[str, Any] = {"trace_id": trace_id, **trace_fields(None, self._process.name)}
        spec["metadata"] = {"ingest": known.about(trace)}
        trace.about = digest(spec["metadata"]["ingest"])
        if parent is not None:
            place = self._place(key, parent.trace_id, "step")
            spec |= {"parent_trace_id": parent.trace_id, **{f"parent_{name}": one for name, one in place.items()}}
            await self._flush()
        else:
            spec["lease_s"] = self._lease_s
        item = self._items.get(key)
        if item is not None:
            spec |= trace_fields(item, self._process.name)
        return await self._create_it(spec, trace, parent)

    async def _create_it(self, spec: dict[str, Any], trace: KnownTrace, parent: KnownTrace | None) -> KnownTrace:
        known = self._known
        try:
            created, head = await self._store.create(spec)
        except Unavailable:
            raise
        except TracewatchError as error:
            if error.code == "trace_conflict":
                raise _Again from error  # another process made it
            if parent is None:
                raise
            places = [name for name in spec if name.startswith("parent_") and name != "parent_trace_id"]
            if not places:  # it would stand too deep: it stands by itself
                return await self._create(trace.owners, None)
            return await self._create_it({name: spec[name] for name in spec if name not in places}, trace, parent)
        if not created:
            raise _Again
        trace.head = head
        known.traces[trace.trace_id] = trace
        known.give(trace, trace.owners)
        if known.entry_kind(trace.owners[-1]) == "agent":
            known.entry(trace.owners[-1]).trace_id = trace.trace_id
        known.note(trace.trace_id, {"event": "trace_updated", **spec})
        if parent is not None:
            parent.head += 1  # sub_trace_started
        self._lease(trace)
        return trace

    def _lease(self, trace: KnownTrace) -> None:
        if trace.parent_trace_id is None:
            leased = self._leased.setdefault(self._process.key, {})
            self._leased.move_to_end(self._process.key)
            leased[trace.trace_id] = time.monotonic()
            if len(self._leased) > 10_000:
                self._leased.popitem(last=False)

    def _place(self, key: str, trace_id: str, of: str) -> dict[str, str]:
        """The step, or for a step the message, that an item stands in: the nearest above that is in this trace."""
        seen: set[str] = set()
        at = self._known.entry(key).parent
        while at and at not in seen and len(seen) < 100:
            seen.add(at)
            entry = self._known.items.get(at)
            if entry is None or entry.trace_id != trace_id or entry.kind == "agent":
                break
            if entry.kind == "step":
                return {"step_id": at}
            if of == "step" and entry.kind in ("tool", "model_call", "message"):
                return {"message_id": at}
            at = entry.parent
        return {}

    # --- moving what stood in the wrong trace ---

    async def _merge(self, stub: KnownTrace, trace: KnownTrace) -> None:
        """Have a stub's items in another trace: what it was for turned out to belong there."""
        known = self._known
        moved: frozenset[str] = _ITEM_EVENTS
        owners, gone = trace.owners, stub
        if stub.trace_id == known.base:  # the first trace stays, as the others are found by it
            stub, trace, gone, moved = trace, stub, trace, _ITEM_EVENTS | _TRACE_EVENTS
            known.give(trace, owners)
            if known.entry_kind(owners[-1]) == "agent":
                known.entry(owners[-1]).trace_id = trace.trace_id
            self._put(trace, [{"event": "trace_updated", **stub.fields}])
            await self._rehome(stub, trace)
        await self._flush()
        async for _, event in self._store.events(stub.trace_id, 0):
            if event["event"] in moved:
                self._put(trace, [_again(event)])
                if len(self._out.events[trace.trace_id]) >= APPEND_EVENTS:
                    await self._flush()
        self._tell_about(trace)
        await self._flush()
        await self._store.delete(gone.trace_id)
        del known.traces[gone.trace_id]
        for key in gone.owners:
            if known.by_owner.get(key) == gone.trace_id:
                del known.by_owner[key]
        self._leased.get(self._process.key, {}).pop(gone.trace_id, None)

    async def _rehome(self, old: KnownTrace, new: KnownTrace) -> None:
        """What stands below a trace stands below another."""
        await self._flush()
        for trace in list(self._known.traces.values()):
            if trace.parent_trace_id == old.trace_id:
                self._put(trace, [{"event": "trace_parent_changed", "parent_trace_id": new.trace_id}])
        if old.parent_trace_id is not None:
            parent = {"parent_trace_id": old.parent_trace_id}
            self._put(new, [{"event": "trace_parent_changed", **parent}])

    # --- one item ---

    async def _one(self, item: Item) -> None:
        known, entry = self._known, self._known.entry(item.key)
        if item.kind == "agent":
            trace = await self._trace_of(item.key)
            entry.trace_id = trace.trace_id
            self._put(trace, trace_events(trace, item, self._process.name))
            return
        how, key = self._owner(item.key)
        trace = known.traces[entry.trace_id] if entry.trace_id in known.traces else await self._trace_of(key)
        if entry.trace_id is not None and entry.said is None:
            await self._recall(entry, trace)
        place = self._place(item.key, trace.trace_id, item.kind or "step")
        if key == item.key and how == "root" and trace.owners == [key]:
            self._put(trace, trace_events(trace, _as_trace(item), self._process.name))
        begun = entry.trace_id is None
        self._put(trace, events_of(known, trace.trace_id, item, place))
        if entry.final:
            entry.said, entry.content = ({} if item.kind == "step" else None), None
        if begun and not place and entry.parent and known.entry_kind(entry.parent) is None:
            known.orphans.setdefault(entry.parent, []).append(item.key)
        if item.kind == "step":
            self._adopt(item.key, trace)

    def _adopt(self, key: str, trace: KnownTrace) -> None:
        """Put into a step what came before it."""
        for child in self._known.orphans.pop(key, ()):
            entry = self._known.items.get(child)
            if entry is None or entry.trace_id != trace.trace_id or entry.kind == "agent":
                continue
            if entry.kind == "step":
                event: Event = {"event": "step_updated", "step_id": child, "patch": {"step_id": key}}
            else:
                event = {"event": "message_updated", "message_id": child, "patch": {"step_id": key}}
            self._put(trace, [event])

    def _end(self, item: Item) -> None:
        """The end of what a trace stands for."""
        trace = self._known.traces.get(self._known.by_owner.get(item.key, ""))
        if trace is None or not trace.owners or trace.owners[-1] != item.key:
            return
        events = outcome(trace, item)
        self._put(trace, events)
        if any(event["event"] == "trace_completed" for event in events):
            self._leased.get(self._process.key, {}).pop(trace.trace_id, None)

    async def _recall(self, entry: Entry, trace: KnownTrace) -> None:
        """What the log has of a message that is complete."""
        await self._flush()
        message = await self._store.message(trace.trace_id, entry.key)
        entry.said = {name: digest(value) for name, value in (message or {}).items()}
        content = (message or {}).get("content")
        entry.content = content if isinstance(content, dict) else None

    def _tell_about(self, trace: KnownTrace) -> None:
        about = self._known.about(trace)
        if digest(about) != trace.about:
            self._put(trace, [{"event": "trace_updated", "metadata": {"ingest": about}}])

    # --- writing ---

    def _put(self, trace: KnownTrace, events: list[Event]) -> None:
        for event in events:
            self._known.note(trace.trace_id, event)
            self._out.events.setdefault(trace.trace_id, []).append(event)

    async def _flush(self) -> None:
        """Write all that is planned."""
        while self._out.events:
            trace_id, events = next(iter(self._out.events.items()))
            del self._out.events[trace_id]
            trace = self._known.traces[trace_id]
            for some in _portions(events):
                await self._append(trace, some)
            if trace.parent_trace_id is None and trace_id in self._leased.get(self._process.key, {}):
                self._leased[self._process.key][trace_id] = time.monotonic()

    async def _append(self, trace: KnownTrace, events: list[Event]) -> None:
        turns = 2 * len(events) + TRIES
        for _ in range(turns):
            try:
                last = await self._store.append(trace.trace_id, events, trace.head)
            except UnexpectedLastEventId:
                await self._catch_up(trace)
            except Unavailable:
                raise
            except TracewatchError as error:
                if error.code == "unknown_trace":
                    raise _Again from error
                events = self._without(events, error)
            else:
                self._written += len(events)
                trace.head = last
                if any(event["event"] == "trace_completed" for event in events):
                    above = self._known.traces.get(trace.parent_trace_id or "")
                    if above is not None:
                        above.head += 1  # sub_trace_completed
                return
        raise Unavailable("this trace can't be written now; try again", retry_after_s=1)

    async def _catch_up(self, trace: KnownTrace) -> None:
        """Read on. What the server wrote itself changes nothing here; what another ingester did changes everything."""
        async for event_id, event in self._store.events(trace.trace_id, trace.head):
            if event["event"] not in _OF_OTHERS:
                raise _Again
            trace.head = event_id

    def _without(self, events: list[Event], error: TracewatchError) -> list[Event]:
        """The events with the one that was refused mended, or kept as it was under another name."""
        index = error.facts.get("index", 0)
        index = index if isinstance(index, int) and 0 <= index < len(events) else 0
        event = events[index]
        mending = mended(event, error.code, error.details)
        if mending is None or mending == event or event.get("refused") is not None:
            body = orjson.dumps(event)
            mending = orjson.loads(substitute(body, error.code, error.message, by="ingest", most=fit.EVENT_BYTES))
            self._counts.refused[self._known.source] += 1
        return [*events[:index], mending, *events[index + 1 :]]


_ITEM_EVENTS = frozenset({"message_added", "message_updated", "step_added", "step_updated"})
_TRACE_EVENTS = frozenset({"trace_updated", "trace_completed", "trace_status_changed"})
_OF_OTHERS = frozenset(
    {
        *("sub_trace_started", "sub_trace_completed", "sub_trace_left", "input_provided", "input_expired"),
        *("cancel_requested", "trace_status_changed"),
    }
)
_SERVERS = {"event_id", "trace_id", "ts", "affected_goals", "totals", "goal_id"}
_SERVERS_IN_MESSAGE = {"sequence", "goal_id", "counted", "cost_source"}


def _again(event: Event) -> Event:
    """A stored event as it is to be appended to another trace."""
    copy = {name: value for name, value in event.items() if name not in _SERVERS}
    copy.setdefault("occurred_at", event["ts"])
    if "metadata" in copy:
        copy["metadata"] = {name: value for name, value in copy["metadata"].items() if name != "ingest"}
    for part in ("message", "step"):
        if part in copy:
            copy[part] = {name: value for name, value in copy[part].items() if name not in _SERVERS_IN_MESSAGE}
            copy["if_absent"] = True
    return copy


def _as_trace(item: Item) -> Item:
    """A root that is no agent, as its trace shows it: without what stands in its own message or step."""
    return replace(item, fields={}, arguments=None, task=item.task or item.name)


def _portions(events: list[Event]) -> Iterable[list[Event]]:
    some: list[Event] = []
    size = 0
    for event in events:
        more = fit.json_bytes(event)
        if some and (len(some) >= APPEND_EVENTS or size + more > APPEND_BYTES):
            yield some
            some, size = [], 0
        some.append(event)
        size += more
    if some:
        yield some
