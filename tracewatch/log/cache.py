"""What a process remembers of traces between transactions.

Rule 1: it is a shortcut and nothing else: an entry counts only where the row in the transaction at hand agrees.
Rule 2: the states of ended traces go first: hardly anybody appends to them again, and their log stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..model.state import State
from .rows import TraceRow


@dataclass(slots=True)
class Cached:
    """What a process remembers of a trace between transactions. True as long as the row agrees."""

    trace_key: int
    state: State
    producers: dict[str, int] = field(default_factory=dict)


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

    def get(self, row: TraceRow) -> Cached | None:
        """What is known of the trace, however old; None if it is another trace of the same id."""
        entry = self._find(row.trace_id)
        if entry is None or entry.trace_key != row.trace_key:
            return None
        (self._ended if entry.state.ended else self._running).move_to_end(row.trace_id)
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
