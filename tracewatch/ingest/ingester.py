"""The one ingester: items of any source become traces, messages and steps of the log, each once, in whatever order.

Rule 1: what is in the log is the only table (known.py). It is read when a trace of a source is first heard of, kept in
        memory while it is busy, and every append names the event that it builds on. So a kill -9 loses nothing that was
        acknowledged, and a repeat writes nothing. Of two servers at once one has the turn of a trace (log/storage.py).
Rule 2: an agent's run is a trace, an agent below an agent a sub-trace. The root of a source's trace has a trace in any
        case. What has no root yet stands in a stub, which becomes the trace when its root comes.
Rule 3: nothing that comes in raises, but for a log that can't be written (Unavailable). What the log refuses is mended
        as a recorder mends it, or kept as an ``ingest_refused`` event.
Rule 4: every trace has a lease, which signs of life renew (leases.py): silence makes it lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ..errors import Unavailable
from .batch import Batch
from .items import ROOT, Item
from .known import Known, key_of, trace_id_of
from .leases import Leases, Process
from .resumes import Threads
from .store import Store
from .writing import Again, IngestCounts, Writing

__all__ = ["Ingester", "Process"]

logger = logging.getLogger("tracewatch.ingest")
LEASE_S = 120.0  # a process that says nothing for so long is gone
SKEW_S = 1.0  # a clock that is further ahead than this is put back
MOST_ITEMS = 300_000  # remembered, of all traces together
RESERVED = frozenset(  # what an item's further fields may not be called: what says what and where it is
    {
        *("event", "event_id", "trace_id", "ts", "occurred_at", "message_id", "role", "content", "status", "sequence"),
        *("id", "request_id", "step_id", "item_key", "item_kind", "item_parent", "ingest", "if_absent", "request"),
    }
)
TRIES = 30  # of a batch, while others write the same traces


class Ingester:
    """Writes items to a log. ``take`` may be called from many tasks of one loop at once."""

    def __init__(
        self,
        store: Store,
        *,
        lease_s: float = LEASE_S,
        most_items: int = MOST_ITEMS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = IngestCounts()
        self._store = store
        self._leases = Leases(store, lease_s, clock)
        self._most_items = most_items
        self._known: OrderedDict[tuple[str, str], Known] = OrderedDict()
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._waiting: Counter[tuple[str, str]] = Counter()
        self._skew: OrderedDict[str, float] = OrderedDict()  # by process
        self._threads = Threads(store)

    async def take(
        self, source: str, items: Iterable[Item], *, process: Process, received_at: float | None = None
    ) -> int:
        """Write what is new of these items; the number of events it took. Returns when they are on disk.

        ``source``: what trace ids begin with, such as ``otel``. ``received_at``: when they came, Unix seconds.
        Raises Unavailable, and nothing else.
        """
        now = time.time() if received_at is None else received_at
        by_trace: dict[str, list[Item]] = {}
        ours = self._on_our_clock(list(items), process, now)
        self.counts.note(source, "item", len(ours))
        for item in ours:
            by_trace.setdefault(item.trace, []).append(item)
        self.counts.last[source] = now
        written = 0
        for trace, some in by_trace.items():
            # Each when those before it are written: one may go on in the trace of another
            home, joined = await self._threads.joined(source, trace, some)
            written += await self._take_trace((source, home), joined, process)
        self.counts.note(source, "event", written)
        await self.alive(process)
        return written

    async def alive(self, process: Process) -> None:
        """Renew the leases of what a process has begun: it has said something."""
        await self._leases.heard(process)

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
            kept = {name: value for name, value in item.fields.items() if name not in RESERVED}
            root = None if item.root is None else key_of(item.root)
            ours.append(item := replace(item, key=key_of(item.key), parent=parent, root=root, fields=kept))
            item.started_at, item.ended_at = started, ended
        return ours

    # --- one trace of a source at a time ---

    async def _take_trace(self, which: tuple[str, str], items: list[Item], process: Process) -> int:
        lock = self._locks.setdefault(which, asyncio.Lock())
        self._waiting[which] += 1
        try:
            async with lock, self._store.turn(" ".join(which)) as nobody_else:
                if not nobody_else:
                    self._known.pop(which, None)
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
                out = Writing(known, self._store, self.counts, process, self._leases)
                written = await Batch(known, out).write(items)
                await self._leases.wrote(known, out.touched)
                return written
            except Again:
                self._known.pop(which, None)
            except (Unavailable, asyncio.CancelledError):
                self._known.pop(which, None)  # what was planned and not written is not known
                raise
            except Exception as error:
                self._known.pop(which, None)
                if len(items) == 1:
                    self.counts.note(which[0], "failed")
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
