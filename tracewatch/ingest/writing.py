"""The writing of what is planned for one trace of a source: appends, each on the event that it builds on.

Rule 1: what is planned is noted in ``Known`` at once and written in portions. If it can't be written, all that is known
        is forgotten and read again.
Rule 2: what the log refuses is mended as a recorder mends it, or kept as an ``ingest_refused`` event.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..errors import TracewatchError, Unavailable, UnexpectedLastEventId
from ..model import fit
from ..model.contents import references_in, replaced, told
from ..model.mend import mended, substitute
from .aside import named_in, put_back
from .known import Event, Known, KnownTrace
from .leases import Leases, Process
from .store import Store

TRIES = 30  # of an append, while others write the same trace
APPEND_EVENTS, APPEND_BYTES = 500, 4 * 1024 * 1024
MOST_MOVED = 200  # contents of one event that are looked for in the other traces of its source


class Again(Exception):
    """Another process has written items of this trace: what was planned is planned anew."""


@dataclass(slots=True)
class IngestCounts:
    """What came in since the start, by source and by what became of it.

    ``item`` came, ``repeat`` of these said nothing new, ``event`` was written for them, ``refused`` by the log and kept
    as it was, ``failed`` by a defect (the server's log says why), ``unknown`` was not understood, ``unreadable`` are
    bodies.
    """

    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    last: dict[str, float] = field(default_factory=dict)  # when something of a source came, Unix seconds

    def note(self, source: str, what: str, number: int = 1) -> None:
        """Count ``number`` more."""
        self.seen[source, what] += number


class Writing:
    """The events planned for one trace of a source, and their way into the log."""

    def __init__(self, known: Known, store: Store, counts: IngestCounts, process: Process, leases: Leases) -> None:
        self.written = 0
        self.touched: dict[str, None] = {}  # traces that were written to
        self.store = store
        self.process = process
        self.leases = leases
        self._known = known
        self.counts = counts
        self._planned = 0
        self._events: dict[str, list[Event]] = {}  # by trace, in the order in which these came up

    def put(self, trace: KnownTrace, events: list[Event]) -> None:
        for event in events:
            self._known.note(trace.trace_id, event)
            self._events.setdefault(trace.trace_id, []).append(event)
            self._planned += 1

    @property
    def is_much(self) -> bool:
        """Whether it is time to write what is planned."""
        return self._planned >= APPEND_EVENTS

    async def flush(self) -> None:
        """Write all that is planned."""
        while self._events:
            trace_id, events = next(iter(self._events.items()))
            del self._events[trace_id]
            trace = self._known.traces[trace_id]
            for some in portions(events):
                await self._append(trace, some)
            self.touched[trace_id] = None
        self._planned = 0

    async def _append(self, trace: KnownTrace, events: list[Event]) -> None:
        turns, looked = 2 * len(events) + TRIES, set[int]()
        if self._known.aside:
            events = await self._with_contents(trace, events)
        for _ in range(turns):
            try:
                last = await self.store.append(trace.trace_id, events, trace.head)
            except UnexpectedLastEventId as error:
                trace.head = min(trace.head, error.facts["last_event_id"])  # it was guessed too high
                await self._catch_up(trace)
            except Unavailable:
                raise
            except TracewatchError as error:
                if error.code == "unknown_trace":
                    raise Again from error
                index = _index_of(events, error)
                if error.code == "unknown_blob" and index not in looked:
                    looked.add(index)
                    events[index] = await self._with_what_is_there(trace, events[index])
                else:
                    events = put_right(events, error, self.counts, self._known.source)
            else:
                self.written += len(events)
                trace.head = last
                if any(event["event"] == "trace_completed" for event in events):
                    above = self._known.traces.get(trace.parent_trace_id or "")
                    if above is not None:
                        above.head += 1  # sub_trace_completed
                return
        raise Unavailable("this trace can't be written now; try again", retry_after_s=1)

    async def _with_contents(self, trace: KnownTrace, events: list[Event]) -> list[Event]:
        """Store what these events name beside the log; the events, with what it does not take put back into them."""
        found: list[Event] = []
        for event in events:
            more = [event]
            for ref in references_in(event) if named_in(event) else ():
                if (data := self._known.aside.data(ref["blob"])) is None or await self._is_kept(trace, ref, data):
                    continue
                whole = put_back(more[0], ref["blob"], self._known.aside.data)
                more = [*fit.fit(whole, self._new_id(ref["blob"])), *more[1:]]
                self.counts.note(self._known.source, "refused")
            found += more
        return found

    async def _is_kept(self, trace: KnownTrace, ref: dict[str, Any], data: bytes) -> bool:
        which = trace.trace_id, ref["blob"]
        if which in self._known.aside.stored:
            return True
        try:
            await self.store.put_content(*which, data, ref["media_type"])
        except Unavailable:
            raise
        except TracewatchError as error:
            if error.code == "unknown_trace":
                raise Again from error
            return False
        self._known.aside.stored.add(which)
        return True

    def _new_id(self, name: str) -> Callable[[], str]:
        numbers = itertools.count()
        return lambda: f"{name[:16]}.{next(numbers)}"

    async def _with_what_is_there(self, trace: KnownTrace, event: Event) -> Event:
        """The event with the contents that it names stored for its trace, and words for those that nobody has.

        It may have stood in another trace of the source before; and a source may send what only looks like one of ours.
        """
        gone: set[str] = set()
        refs = references_in(event)
        for ref in refs:
            data = self._known.aside.data(ref["blob"])
            for other in (trace.trace_id, *self._known.traces) if len(refs) <= MOST_MOVED else ():
                data = data or await self.store.content(other, ref["blob"])
            self._known.aside.stored.discard((trace.trace_id, ref["blob"]))
            if data is None or len(data) != ref["bytes"] or not await self._is_kept(trace, ref, data):
                gone.add(ref["blob"])
        found: Event = replaced(event, lambda ref: told(ref) if ref["blob"] in gone else ref)
        return found

    async def _catch_up(self, trace: KnownTrace) -> None:
        """Read on. What the server wrote itself changes nothing here; what another ingester did changes everything."""
        async for event_id, event in self.store.events(trace.trace_id, trace.head):
            if event["event"] not in _OF_OTHERS:
                raise Again
            trace.head = event_id


def put_right(events: list[Event], error: TracewatchError, counts: IngestCounts, source: str) -> list[Event]:
    """The events with the one that was refused mended, or kept as it was under another name."""
    index = _index_of(events, error)
    event = events[index]
    mending = mended(event, error.code, error.details)
    if mending is None or mending == event or event.get("refused") is not None:
        body = orjson.dumps(event)
        again = event["event"] == "ingest_refused"  # even so: then only what it was
        most = 0 if again else fit.EVENT_BYTES
        mending = orjson.loads(substitute(body, error.code, error.message, by="ingest", most=most))
        counts.note(source, "refused")
    return [*events[:index], mending, *events[index + 1 :]]


ITEM_EVENTS = frozenset({"message_added", "message_updated", "step_added", "step_updated"})
TRACE_EVENTS = frozenset({"trace_updated", "trace_completed", "trace_status_changed"})
_OF_OTHERS = frozenset(
    {
        *("sub_trace_started", "sub_trace_completed", "sub_trace_left", "input_provided", "input_expired"),
        *("cancel_requested", "trace_status_changed"),
    }
)
_SERVERS = {"event_id", "trace_id", "ts", "affected_goals", "totals", "goal_id"}
_SERVERS_IN_MESSAGE = {"sequence", "goal_id", "counted", "cost_source"}


def repeated(event: Event) -> Event:
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


def _index_of(events: list[Event], error: TracewatchError) -> int:
    """Which of the events was refused."""
    index = error.facts.get("index", 0)
    return index if isinstance(index, int) and 0 <= index < len(events) else 0


def portions(events: list[Event]) -> Iterable[list[Event]]:
    """The events in pieces that one append takes; a change of parent stands alone."""
    some: list[Event] = []
    size = 0
    for event in events:
        more = fit.json_bytes(event)
        alone = "trace_parent_changed" in (event["event"], some[-1]["event"] if some else "")
        if some and (alone or len(some) >= APPEND_EVENTS or size + more > APPEND_BYTES):
            yield some
            some, size = [], 0
        some.append(event)
        size += more
    if some:
        yield some
