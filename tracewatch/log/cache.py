"""What a process remembers of traces between transactions, and how a state is brought up to date.

Rule 1: it is a shortcut and nothing else: an entry counts only where the stored head agrees, or where the commit
        compares heads.
Rule 2: the states of ended traces go first: hardly anybody appends to them again, and their log stays.
Rule 3: what is remembered is bounded in bytes, as Python holds them: JSON of many small values takes twenty times its
        length. A weight is an estimate, made anew when the trace has grown by a part of it, so that an append does not
        pay for the size of its trace.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from ..model.state import State, apply_into
from .health import damage
from .project import OpenRow
from .row import TraceRow
from .storage import Head, StateParts, StorageFault

CACHE_BYTES = 128 * 1024**2  # what a process remembers of traces
FIRST_GROWTH = 16 * 1024  # bytes that any trace may grow by until its weight is estimated anew
GROWN = 8  # bytes for each byte of events since the last estimate: most of them say things that are not remembered


@dataclass(slots=True)
class Cached:
    """What a process remembers of a trace. True as long as the stored head is the state's."""

    trace_key: int
    state: State
    row: TraceRow | None = None  # as this process wrote it; None: it was only read
    producers: dict[str, int] = field(default_factory=dict)
    open_rows: dict[str, OpenRow] = field(default_factory=dict)  # of messages that may change
    log_bytes: int = 0  # of the trace's log, when this was remembered
    weighed: tuple[int, int] | None = None  # (bytes, log_bytes) of the last estimate

    @property
    def head(self) -> Head:
        """Which state this is."""
        return Head(self.trace_key, self.state.last_event_id)

    def guess(self, parts: StateParts) -> None:
        """Take its weight from the size of what it was made of, where that is small: it costs nothing."""
        self.weighed = (GROWN * (len(parts.snapshot or b"") + sum(map(len, parts.events)) // 2), self.log_bytes)

    def weigh(self, before: Cached | None) -> int:
        """About how many bytes it takes. ``before``: the same trace as it was remembered, if it was."""
        for known in (self, before):
            if known is None or known.trace_key != self.trace_key or known.weighed is None:
                continue
            weight, at = known.weighed
            grown = self.log_bytes - at
            if 0 <= grown <= max(FIRST_GROWTH, weight // 16):
                self.weighed = known.weighed
                return weight + GROWN * grown
        weight = _in_memory(orjson.dumps([self.state.to_json(), list(self.state.messages.values())]))
        if self.row is not None:
            weight += len(self.row.spec) + len(self.row.metadata)
        self.weighed = (weight, self.log_bytes)
        return weight


def _in_memory(json: bytes) -> int:
    """About how many bytes Python's objects of this JSON take: 8 for a small number, 50 for a string, 64 for a dict."""
    values, keys = json.count(b",") + json.count(b"["), json.count(b":")
    return len(json) + 60 * values + 80 * keys + 120 * json.count(b"{")


class StateCache:
    """The states of the traces used last: so many bytes, so many traces, and of ended ones only a few.

    The one that was put in last stays, however large it is: whoever appends to it again soon needs it.
    """

    def __init__(self, size: int = 1000, ended_size: int = 50, most_bytes: int = CACHE_BYTES) -> None:
        self._size = size
        self._ended_size = ended_size
        self._most_bytes = most_bytes
        self._weights: dict[str, int] = {}  # by trace_id
        self.bytes = 0  # of all, about
        self._running: OrderedDict[str, Cached] = OrderedDict()  # least recently used first
        self._ended: OrderedDict[str, Cached] = OrderedDict()  # the same; no trace is in both

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def _find(self, trace_id: str) -> Cached | None:
        return self._running.get(trace_id) or self._ended.get(trace_id)

    def find(self, trace_id: str) -> Cached | None:
        """What is known of the trace, however old, and even if it was deleted since."""
        entry = self._find(trace_id)
        if entry is not None:
            (self._ended if entry.state.ended else self._running).move_to_end(trace_id)
        return entry

    def put(self, entry: Cached) -> None:
        """Remember, unless something newer is remembered already."""
        trace_id = entry.state.trace_id
        old = self._find(trace_id)
        if old is not None and old.trace_key == entry.trace_key and old.state.last_event_id > entry.state.last_event_id:
            return
        self.drop([trace_id])
        kept, size = (self._ended, self._ended_size) if entry.state.ended else (self._running, self._size)
        kept[trace_id] = entry
        self._weights[trace_id] = weight = entry.weigh(old)
        self.bytes += weight
        if len(kept) > size:
            self.drop([next(iter(kept))])
        while self.bytes > self._most_bytes and len(self) > 1:
            # The one put in last is the last of its kind, so it goes only when it is alone
            first = self._ended if self._ended and next(iter(self._ended)) != trace_id else self._running
            self.drop([next(iter(first))])

    def drop(self, trace_ids: Iterable[str]) -> None:
        """Forget these traces."""
        for trace_id in trace_ids:
            self._running.pop(trace_id, None)
            self._ended.pop(trace_id, None)
            self.bytes -= self._weights.pop(trace_id, 0)


def unfold(row: TraceRow, parts: StateParts, known: State | None) -> State:
    """The state that ``parts`` make of the ``known`` one. It may end before the last event: then there are more parts.

    Raises StorageFault where the events do not follow one another, BadSnapshot.
    """
    if parts.snapshot is not None:
        state = _from_snapshot(row, parts.base, parts.snapshot)
    elif known is not None and known.last_event_id == parts.base:
        state = known.copy()
    else:
        state = row.initial_state()
    state.first_event_id = row.first_event_id
    if state.last_event_id != parts.base:
        raise StorageFault(damage(f"trace {row.trace_id}: the log has a hole after event {state.last_event_id}"))
    for number, body in enumerate(parts.events, parts.base + 1):
        event = orjson.loads(body)
        if event["event_id"] != number:
            raise StorageFault(damage(f"trace {row.trace_id}: the log has a hole after event {number - 1}"))
        apply_into(state, event)
    state.root_trace_id = row.root_trace_id
    forget_complete(state)
    return state


class BadSnapshot(Exception):
    """A kept snapshot that can't be read: the state is made of the one before it, and of what came after."""

    def __init__(self, event_id: int) -> None:
        super().__init__(f"the snapshot of event {event_id}")
        self.event_id = event_id


def _from_snapshot(row: TraceRow, event_id: int, body: bytes) -> State:
    try:
        state = State.from_json(orjson.loads(body))
        if (state.trace_id, state.last_event_id) == (row.trace_id, event_id):
            return state
        raise ValueError("it is of another event")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        if event_id < row.first_event_id:  # the log begins with it: what came before was trimmed
            raise StorageFault(damage(f"trace {row.trace_id}: the snapshot of event {event_id} is damaged")) from error
        raise BadSnapshot(event_id) from error


def as_in_row(state: State, row: TraceRow) -> State:
    """The same state, with what another trace or another process may have changed: see ``at_first``, and its root."""
    if state.root_trace_id != row.root_trace_id:
        state = state.copy()
        state.root_trace_id = row.root_trace_id
    return at_first(state, row.first_event_id)


def at_first(state: State, first_event_id: int) -> State:
    """The same state of a log that begins with ``first_event_id``: another process may have trimmed it."""
    if state.first_event_id == first_event_id:
        return state
    state = state.copy()
    state.first_event_id = first_event_id
    return state


def forget_complete(state: State, but: Iterable[str] = (), keep: int = 64) -> None:
    """Drop the messages that will hardly change again, so that memory does not grow with what agents say.

    They are read again from their rows when they are named again. ``but``: complete ones that were just changed.
    """
    if state.messages:
        also = set(but)
        kept = [(key, m) for key, m in state.messages.items() if m["status"] != "complete" or key in also]
        state.messages = dict(kept[-keep:])
