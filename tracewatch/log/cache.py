"""What a process remembers of traces between transactions, and how a state is brought up to date.

Rule 1: it is a shortcut and nothing else: an entry counts only where the stored head agrees, or where the commit
        compares heads.
Rule 2: the states of ended traces go first: hardly anybody appends to them again, and their log stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from ..model.state import State, apply_into
from .health import damage
from .storage import Head, StateParts, StorageFault, TraceRow


@dataclass(slots=True)
class Cached:
    """What a process remembers of a trace. True as long as the stored head is the state's."""

    trace_key: int
    state: State
    row: TraceRow | None = None  # as this process wrote it; None: it was only read
    producers: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)  # of the texts in the rows of streaming messages

    @property
    def head(self) -> Head:
        """Which state this is."""
        return Head(self.trace_key, self.state.last_event_id)


class StateCache:
    """The states of the traces used last; a bounded number of them, and of ended ones only a few."""

    def __init__(self, size: int = 1000, ended_size: int = 50) -> None:
        self._size = size
        self._ended_size = ended_size
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
        if len(kept) > size:
            kept.popitem(last=False)

    def drop(self, trace_ids: Iterable[str]) -> None:
        """Forget these traces."""
        for trace_id in trace_ids:
            self._running.pop(trace_id, None)
            self._ended.pop(trace_id, None)


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
