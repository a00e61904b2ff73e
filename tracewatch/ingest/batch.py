"""Some items of one trace of a source: which traces they belong to, what they add, and the events that say so.

Rule 1: what an item is and what stands above it is noted for all of them before anything is written.
Rule 2: a stub whose item comes becomes that item's trace. If that is no agent, what stood in the stub moves.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from ..errors import TracewatchError, Unavailable
from ..model import fit
from ..model.canonical import ENDED, MAX_STEP_DEPTH
from ..model.times import parse_time
from .digests import digest, print_of, value_print
from .items import ROOT, Item, Kind, made_plain, merged, stamp
from .known import Entry, Event, Known, KnownTrace, trace_id_of
from .plan import events_of, outcome, trace_events, trace_fields
from .resumes import answer_to, left_waiting, parked_in
from .said import parsed
from .writing import ITEM_EVENTS, TRACE_EVENTS, Again, Writing, repeated

MOST_SIBLINGS = 200  # traces of one trace of a source that stand beside each other
TURN_ITEMS = 50  # before others have their turn


class Batch:
    """The writing of some items of one trace of a source."""

    def __init__(self, known: Known, out: Writing) -> None:
        self._known = known
        self._out = out
        self._process = out.process
        self._above: dict[str, tuple[str, str]] = {}
        self._items: dict[str, Item] = {}

    async def write(self, items: list[Item]) -> int:
        """Write what is new of them; the number of events it took."""
        fresh = self._fresh(parked_in(self._known, items))
        self._items = {item.key: item for item in fresh}
        for item in fresh:
            self._place_known(item)
        for item in self._decided():
            self._place_known(item)
            self._items[item.key] = item
        fresh = list(self._items.values())
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
        for trace_id in left_waiting(self._known):
            self._out.put(self._known.traces[trace_id], [{"event": "trace_completed", "status": "completed"}])
        for trace in self._known.traces.values():
            self._tell_about(trace)
        await self._out.flush()
        self._known.aside.clear()
        return self._out.written

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
                self._out.counts.note(self._known.source, "repeat")
                continue
            entry.whole = (*entry.whole[-3:], words)
            before = by_key.get(item.key)
            by_key[item.key] = item if before is None else merged(before, item)
        return list(by_key.values())

    def _place_known(self, item: Item) -> None:
        """Note what it is and what stands above it, before anything is written."""
        entry = self._known.entry(item.key)
        self._known.root = item.root or self._known.root
        self._known.thread = item.thread or self._known.thread
        if item.parent is not None:
            entry.parent = ROOT if item.parent == item.key else item.parent
        kind: Kind = item.kind or entry.kind or "step"
        if item.within is not None and self._is_within(item):
            kind = "step"
        if entry.kind in (None, "step") and kind != entry.kind:
            if entry.trace_id is not None:  # it was taken for a step
                entry.trace_id, entry.said, entry.final = None, {}, False
            entry.kind = kind
        item.kind = entry.kind

    def _is_within(self, item: Item) -> bool:
        """Whether it stands in what is of the kind that makes it a step; as long as that isn't known, it does."""
        assert item.within is not None
        if item.parent is None or self._known.stands_in(item.parent, item.within):
            return True
        how, _ = self._known.above(item.key, {})
        if how == "missing":
            self._known.undecided[item.key] = item
            return True
        self._known.undecided.pop(item.key, None)
        return False

    def _decided(self) -> list[Item]:
        """What was taken for a step, and is none now that all above it is known."""
        found = []
        for item in list(self._known.undecided.values()):
            if self._known.above(item.key, {})[0] != "missing":
                del self._known.undecided[item.key]
                if not self._known.stands_in(item.parent, item.within or "tool"):
                    found.append(replace(item, kind="tool"))
        return found

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
            agent, owners = trace.owners[-1], [*other.owners, trace.owners[-1]]
            left = await self._merge(trace, other)
            self._known.give(left, owners)
            self._known.entry(agent).trace_id = left.trace_id

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
                await self._out.flush()
                self._out.put(trace, [self._parent_event(trace.owners[-1], parent)])

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
        if known.root is not None and known.base not in known.traces and known.root not in owners:
            await self._create([known.root], None)  # so that its id is the one that the source's own says
        trace_id = known.base if known.base not in known.traces else trace_id_of(known.source, known.trace, key)
        if parent is None and trace_id != known.base:
            if len(known.siblings) >= MOST_SIBLINGS and known.entry_kind(key) != "agent":
                return known.traces[known.base]
            known.siblings.append(key)
            self._tell_about(known.traces[known.base])
            await self._out.flush()  # so that it is found after a restart
        trace = KnownTrace(trace_id, owners, parent_trace_id=parent.trace_id if parent else None)
        spec: dict[str, Any] = {"trace_id": trace_id, **trace_fields(None, self._process.name)}
        if known.thread is not None:
            spec["session_id"] = fit.name(known.thread)
        spec["lease_s"] = self._out.leases.lease_s
        trace.process = self._process.key if known.entry_kind(key) is not None else None
        spec["metadata"] = {"ingest": known.about(trace)}
        trace.about = digest(spec["metadata"]["ingest"])
        if parent is not None:
            place = self._place(key, parent.trace_id, "step")
            spec |= {"parent_trace_id": parent.trace_id, **{f"parent_{name}": one for name, one in place.items()}}
            await self._out.flush()
        item = self._items.get(key)
        if item is not None:
            spec |= trace_fields(item, self._process.name)
        return await self._create_it(spec, trace, parent)

    async def _create_it(self, spec: dict[str, Any], trace: KnownTrace, parent: KnownTrace | None) -> KnownTrace:
        known = self._known
        try:
            created, head = await self._out.store.create(spec)
        except Unavailable:
            raise
        except TracewatchError as error:
            if error.code == "trace_conflict":
                raise Again from error  # another process made it
            if parent is None:
                raise
            places = [name for name in spec if name.startswith("parent_") and name != "parent_trace_id"]
            if not places:  # it would stand too deep: it stands by itself
                return await self._create(trace.owners, None)
            return await self._create_it({name: spec[name] for name in spec if name not in places}, trace, parent)
        if not created:
            raise Again
        trace.head = head
        known.traces[trace.trace_id] = trace
        known.give(trace, trace.owners)
        if known.entry_kind(trace.owners[-1]) == "agent":
            known.entry(trace.owners[-1]).trace_id = trace.trace_id
        known.note(trace.trace_id, {"event": "trace_updated", **spec})
        if parent is not None:
            parent.head += 1  # sub_trace_started
        self._out.touched[trace.trace_id] = None
        return trace

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
                too_deep = of == "step" and entry.depth >= MAX_STEP_DEPTH and entry.within is not None
                return {"step_id": entry.within if too_deep and entry.within else at}
            if of == "step" and entry.kind in ("tool", "model_call", "message"):
                return {"message_id": at}
            at = entry.parent
        return {}

    # --- moving what stood in the wrong trace ---

    async def _merge(self, stub: KnownTrace, trace: KnownTrace) -> KnownTrace:
        """Have the items of two traces in one, which is returned: what a stub was for turned out to belong there."""
        known = self._known
        moved: frozenset[str] = ITEM_EVENTS
        owners, gone = trace.owners, stub
        if stub.trace_id == known.base:  # the first trace stays, as the others are found by it
            stub, trace, gone = trace, stub, trace
            known.give(trace, owners)
            if self._has_agent(stub):
                moved = ITEM_EVENTS | TRACE_EVENTS
                known.entry(owners[-1]).trace_id = trace.trace_id
                self._out.put(trace, [{"event": "trace_updated", **stub.fields}])
            await self._rehome(stub, trace)
        await self._out.flush()
        async for _, event in self._out.store.events(stub.trace_id, 0):
            if event["event"] in moved:
                self._out.put(trace, [repeated(event)])
                if self._out.is_much:
                    await self._out.flush()
        self._tell_about(trace)
        await self._out.flush()
        below = [one for one in await self._out.store.tree(gone.trace_id) if one["parent_trace_id"] == gone.trace_id]
        if not below:  # what stands below a trace goes with it
            await self._out.store.delete(gone.trace_id)
        del known.traces[gone.trace_id]
        for key in gone.owners:
            if known.by_owner.get(key) == gone.trace_id:
                del known.by_owner[key]
        self._out.touched.pop(gone.trace_id, None)
        return trace

    async def _rehome(self, old: KnownTrace, new: KnownTrace) -> None:
        """What stands below a trace stands below another."""
        await self._out.flush()
        for trace in list(self._known.traces.values()):
            if trace.parent_trace_id == old.trace_id:
                self._out.put(trace, [{"event": "trace_parent_changed", "parent_trace_id": new.trace_id}])
        if old.parent_trace_id is not None:
            parent = {"parent_trace_id": old.parent_trace_id}
            self._out.put(new, [{"event": "trace_parent_changed", **parent}])

    # --- one item ---

    async def _one(self, item: Item) -> None:
        known, entry = self._known, self._known.entry(item.key)
        if item.kind == "agent":
            trace = await self._trace_of(item.key)
            entry.trace_id, trace.process = trace.trace_id, self._process.key
            self._out.put(trace, trace_events(trace, item, known.source, self._process.name))
            if item.resumes is not None:
                self._answer(item)
            return
        how, key = self._owner(item.key)
        trace = known.traces[entry.trace_id] if entry.trace_id in known.traces else await self._trace_of(key)
        if entry.trace_id is not None and entry.said is None:
            await self._recall(entry, trace)
        place = self._place(item.key, trace.trace_id, item.kind or "step")
        if key == item.key and how == "root" and trace.owners == [key]:
            trace.process = self._process.key
            self._out.put(trace, trace_events(trace, _as_trace(item), known.source, self._process.name))
        begun = entry.trace_id is None
        if item.kind == "question" and begun:
            self._ask(item, trace)
        self._out.put(trace, events_of(known, trace.trace_id, item, place))
        if entry.final:
            entry.said, entry.content = ({} if item.kind == "step" else None), None
        if begun and not place and entry.parent and known.entry_kind(entry.parent) is None:
            known.orphans.setdefault(entry.parent, []).append(item.key)
        if item.kind == "step":
            self._adopt(item.key, trace)
        if item.resumes is not None:
            self._answer(item)

    def _ask(self, item: Item, trace: KnownTrace) -> None:
        """Before a question: it may have been answered before it came, or its run may have ended."""
        at = stamp(item.started_at) or ""
        later = sorted((when, value) for when, value in self._known.resumed.values() if when >= at)
        if later:
            item.final, item.ended_at = True, parse_time(later[0][0])
            item.result = answer_to(item.key, [parsed(later[0][1])])
        elif trace.status in ENDED and not item.final:
            self._out.put(trace, [{"event": "trace_status_changed", "status": "running"}])

    def _answer(self, item: Item) -> None:
        """The open questions of a run that goes on, as it has the answer."""
        at = stamp(item.started_at)
        for key, asked in list(self._known.asked.items()):
            trace = self._known.traces.get(self._known.entry(key).trace_id or "")
            if trace is None or (at is not None and asked > at):
                continue
            answered = Item(trace=item.trace, key=key, kind="question", final=True, ended_at=item.started_at)
            answered.result = answer_to(key, item.resumes or [])
            self._out.put(trace, events_of(self._known, trace.trace_id, answered, {}))

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
            self._out.put(trace, [event])

    def _end(self, item: Item) -> None:
        """The end of what a trace stands for."""
        trace = self._known.traces.get(self._known.by_owner.get(item.key, ""))
        if trace is None or not trace.owners or trace.owners[-1] != item.key:
            return
        if self._is_no_end(item, trace):
            return
        self._out.put(trace, outcome(trace, item))

    def _is_no_end(self, item: Item, trace: KnownTrace) -> bool:
        """Whether what an item says of its run's status is over, as the run was resumed, or is to be."""
        known = self._known
        resumed = max((when for when, _ in known.resumed.values()), default="")
        over = stamp(item.ended_at) or ""
        if item.status == "waiting" and resumed >= over > "":
            item.final, item.status = True, None  # it went on in another run, which came before
        if item.key != known.root:
            return False
        if item.final:
            asked = any(known.entry(key).trace_id == trace.trace_id for key in known.asked)
            return item.error is None and (asked or resumed > over)
        late = bool(known.resumed) and all(known.entry(key).final for key in known.resumed)
        return item.status == "running" and late

    async def _recall(self, entry: Entry, trace: KnownTrace) -> None:
        """What the log has of a message that is complete."""
        await self._out.flush()
        message = await self._out.store.message(trace.trace_id, entry.key)
        entry.said = {name: value_print(value) for name, value in (message or {}).items()}
        content = (message or {}).get("content")
        entry.content = content if isinstance(content, dict) else None

    def _tell_about(self, trace: KnownTrace) -> None:
        about = self._known.about(trace)
        if digest(about) != trace.about:
            self._out.put(trace, [{"event": "trace_updated", "metadata": {"ingest": about}}])


def _as_trace(item: Item) -> Item:
    """A root that is no agent, as its trace shows it: without what stands in its own message or step."""
    return replace(item, fields={}, arguments=None, task=item.task or item.name)
