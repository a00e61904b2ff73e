"""Signs of life: which traces are kept from being lost, as the process that began them is there.

Rule 1: nothing is remembered that the log does not have: a trace's metadata names the process that its root is of. So
        it is the same after a restart, and where another server hears of the process than the one that wrote for it.
Rule 2: all that is written for a trace is a sign of life of the traces above it.
Rule 3: whatever a process sends is a sign of life of the runs that it has begun and not ended, and of the sub-agents in
        them. It is none of a trace that waits for its root: the root may never come.
Rule 4: what has no sign of life for ``lease_s`` becomes lost (log/commands.py). It is seen to eight times in that time.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..model.canonical import ENDED
from .known import Known, KnownTrace
from .store import Store

MOST_REMEMBERED = 10_000  # traces and processes
LOOKS = 8  # within a lease


@dataclass(frozen=True, slots=True)
class Process:
    """Who sends: ``key`` is the same for all that one process sends, ``name`` is what a person calls it."""

    key: str
    name: str


class Leases:
    """The leases of all that an ingester has begun. ``clock``: seconds, that never go back."""

    def __init__(self, store: Store, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease_s = lease_s
        self._store = store
        self._clock = clock
        self._heard: dict[str, None] = {}  # processes, since the last look
        self._looked = clock()
        self._renewed: OrderedDict[str, float] = OrderedDict()  # by trace

    async def heard(self, process: Process) -> None:
        """A process has sent something."""
        if len(self._heard) < MOST_REMEMBERED:
            self._heard[process.key] = None
        now = self._clock()
        if now - self._looked >= self.lease_s / LOOKS:
            self._looked, heard = now, self._heard
            self._heard = {}
            await self._renew_runs_of(heard)

    async def wrote(self, known: Known, traces: Iterable[str]) -> None:
        """Something was written for these traces, which renewed their own leases: renew those above."""
        for trace_id in traces:
            self._note(trace_id)
        for trace_id in traces:
            trace = known.traces.get(trace_id)
            for _ in range(100):
                trace = None if trace is None else known.traces.get(trace.parent_trace_id or "")
                if trace is None:
                    break
                if trace.status not in ENDED and self._is_due(trace):
                    self._note(trace.trace_id)
                    await self._store.renew(trace.trace_id)

    def _is_due(self, trace: KnownTrace) -> bool:
        renewed = self._renewed.get(trace.trace_id)
        return renewed is None or self._clock() - renewed >= self.lease_s / LOOKS

    def _note(self, trace_id: str) -> None:
        self._renewed[trace_id] = self._clock()
        self._renewed.move_to_end(trace_id)
        if len(self._renewed) > MOST_REMEMBERED:
            self._renewed.popitem(last=False)

    async def _renew_runs_of(self, processes: dict[str, None]) -> None:
        rows = await self._store.open_traces()
        alive: set[str] = set()
        for row in rows:
            about = row["metadata"].get("ingest")
            if row["parent_trace_id"] is None and isinstance(about, dict) and about.get("process") in processes:
                alive.add(row["trace_id"])
        for row in rows:
            if row["root_trace_id"] in alive and isinstance(row["metadata"].get("ingest"), dict):
                self._note(row["trace_id"])
                await self._store.renew(row["trace_id"])
