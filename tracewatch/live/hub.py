"""The hub: the traces that are watched in this process, and the way of each commit and hint to those it concerns.

Rule 1: a growth is a hint, and the hub never keeps an event that the log does not have.
Rule 2: the head of a trace lives as long as somebody watches the trace.
Rule 3: the poll finds the commits of this process as well. A listener is told of each once, and is told of it as a
        hint where it may not have heard of what came before.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import TooMany, WatcherShare
from ..log import EventLog, Grown, Snapshot, TraceQuery
from .budget import Budget
from .head import TraceHead
from .list import ListHead
from .shared import SharedReads
from .sink import Sink
from .watcher import WatchCounts, Watcher, WatchLimits, WatchRequest

BEATS_AT_ONCE = 32  # heartbeats before others have their turn

TracesPage = tuple[list[dict[str, Any]], str | None]
InputsPage = tuple[list[dict[str, Any]], str | None]
GrowthListener = Callable[[Sequence[Grown]], None]


@dataclass(frozen=True, slots=True)
class HubLook:
    """How this process's watchers stand now."""

    states: dict[str, int]  # waiting (for its trace to exist), catching_up, at_head
    lags: list[int]  # events behind the newest one known here, of every watcher that has begun; ascending
    traces: int  # traces watched
    delivered: int  # events handed to watchers, those that have left included
    leaving: bool


@dataclass(slots=True)
class Progress:
    """How far one watch came; filled in when it ends."""

    cursor: str | None = None
    events: int = 0


class Hub:
    """Fan-out of one log to this process's watchers."""

    def __init__(
        self,
        log: EventLog,
        *,
        limits: WatchLimits | None = None,
        max_watchers: int = 10_000,
        watcher_bytes: int = 256 * 1024,
        frames_in_flight_bytes: int = 256 * 1024**2,
    ) -> None:
        self.log = log
        self.limits = limits or WatchLimits()
        self.counts = WatchCounts()
        self.budget = Budget(frames_in_flight_bytes)
        self._max_watchers = max_watchers
        self._behind_bytes = watcher_bytes // 2  # the other half is the page a watcher may hold meanwhile
        self._heads: dict[str, TraceHead] = {}
        self._list = ListHead(log, self.budget, self.limits.frame_bytes)
        self._watchers: set[Watcher] = set()
        self._clients: Counter[str] = Counter()  # watchers of each client
        # What every viewer asks for when something has changed: read once for all who ask for the same
        self.inputs = SharedReads[tuple[int, str | None, str | None], InputsPage](lambda asked: log.inputs(*asked))
        self.traces = SharedReads[TraceQuery, TracesPage](lambda query: log.traces(query))
        # By trace_id, so that a commit costs nothing for those that have no part in it
        self._growth_listeners: dict[str, set[GrowthListener]] = {}
        self._known: dict[str, int] = {}  # the last event of each that its listeners have heard of, without a hole
        self._told: dict[str, tuple[int, str]] = {}  # commits of this process that the poll has not hinted at yet
        self._watched_listeners: set[Callable[[str, bool], None]] = set()
        self._empty = asyncio.Event()  # set while there is no watcher
        self._leaving_ms: int | None = None  # set once the server is leaving
        self._away = asyncio.Event()  # set, and another one put in its place, when all who are here shall leave
        self._away_ms = 0
        self._unlisten = log.listen(self.grown)
        self._ticker = asyncio.create_task(self._tick(), name="tracewatch-heartbeats")

    def grown(self, grown: Sequence[Grown]) -> None:
        """The log has grown by a commit of this process."""
        for one in grown:
            if one.last_event_id - len(one.bodies) == self._known.get(one.trace_id):
                self._known[one.trace_id] = one.last_event_id
                self._told[one.trace_id] = (one.last_event_id, one.status)
            self._tell(one)
        self._list.grow(grown)

    def hinted(self, grown: Sequence[Grown]) -> None:
        """What the poll has found: the commits of other processes, and those of this one again.

        Listeners have heard of the latter. The list is told all the same: more may have changed than a trace's events.
        """
        for one in grown:
            told = self._told.get(one.trace_id, (0, ""))
            if one.last_event_id < told[0] and not one.deleted:
                continue  # an older look than the commit that listeners have heard of
            self._told.pop(one.trace_id, None)
            if (one.last_event_id, one.status) != told:
                if one.trace_id in self._growth_listeners:
                    self._known[one.trace_id] = one.last_event_id
                self._tell(one)
        self._list.grow(grown)

    def _tell(self, one: Grown) -> None:
        head = self._heads.get(one.trace_id)
        if head is not None:
            head.grow(one)
        for listener in tuple(self._growth_listeners.get(one.trace_id, ())):
            listener([one])

    def hint(self, trace_id: str, last_event_id: int) -> None:
        """A trace is said to have grown, rightly or not: its watchers ask the log."""
        head = self._heads.get(trace_id)
        if head is not None:
            head.grow(Grown(trace_id, last_event_id, head.status))

    def on_watched(self, listener: Callable[[str, bool], None]) -> Callable[[], None]:
        """Tell ``listener`` when the first watcher of a trace comes (True) and the last one leaves (False).

        It is told at once of the traces watched now. The result takes it back.
        """
        self._watched_listeners.add(listener)
        for trace_id in self._heads:
            listener(trace_id, True)
        return lambda: self._watched_listeners.discard(listener)

    def on_growth(self, listener: GrowthListener, trace_id: str) -> Callable[[], None]:
        """Tell ``listener`` of every growth of a trace, by this process and others; the result takes it back."""
        self._growth_listeners.setdefault(trace_id, set()).add(listener)
        return partial(self._take_back, listener, trace_id)

    def _take_back(self, listener: GrowthListener, trace_id: str) -> None:
        listeners = self._growth_listeners.get(trace_id, set())
        listeners.discard(listener)
        if not listeners:
            self._growth_listeners.pop(trace_id, None)
            self._known.pop(trace_id, None)
            self._told.pop(trace_id, None)

    def watched(self) -> Collection[str]:
        """The traces that somebody watches or waits for in this process."""
        return self._heads.keys()

    def recorded(self) -> Collection[str]:
        """The traces whose growth somebody wants to hear of in this process: those of its recorders and subtrees."""
        return self._growth_listeners.keys()

    def watchers(self, trace_id: str) -> int:
        """How many watch this trace from this process."""
        head = self._heads.get(trace_id)
        return 0 if head is None else head.users

    @property
    def is_leaving(self) -> bool:
        """Whether ``goaway`` was said."""
        return self._leaving_ms is not None

    async def left(self) -> int:
        """Wait until whoever is connected now shall leave; the milliseconds within which to come back."""
        if self._leaving_ms is None:
            await self._away.wait()
        return self._away_ms

    @asynccontextmanager
    async def _head(self, trace_id: str) -> AsyncIterator[TraceHead]:
        head = self._heads.get(trace_id)
        if head is None:
            head = self._heads[trace_id] = TraceHead(
                self.log,
                trace_id,
                self.budget,
                page_events=self.limits.page_events,
                page_bytes=self.limits.page_bytes,
                behind_bytes=self._behind_bytes,
            )
            for listener in self._watched_listeners:
                listener(trace_id, True)
        head.users += 1
        try:
            yield head
        finally:
            head.users -= 1
            if not head.users:
                head.close()
                del self._heads[trace_id]
                for listener in self._watched_listeners:
                    listener(trace_id, False)

    def look(self) -> HubLook:
        """How the watchers stand now. It costs a step for each of them: meant for a call every few seconds."""
        states = dict.fromkeys(("waiting", "catching_up", "at_head"), 0)
        lags: list[int] = []
        delivered = self.counts.delivered
        for watcher in self._watchers:
            states[state := watcher.state] += 1
            delivered += watcher.sent
            if state != "waiting":
                lags.append(watcher.lag)
        return HubLook(states, sorted(lags), len(self._heads), delivered, self.is_leaving)

    async def watch(
        self,
        request: WatchRequest,
        sink: Sink,
        on_start: Callable[[Snapshot], None] | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Run one watch to its end: ``"end"`` or ``"goaway"``. Raises as Watcher.run, and TooMany, WatcherShare.

        ``progress`` is filled in when it is over, however that came about.
        """
        if len(self._watchers) >= self._max_watchers:
            raise TooMany(f"this server has {self._max_watchers:,} watchers already", retry_after_s=5)
        share = max(1, self._max_watchers // 2)
        if request.client and self._clients[request.client] >= share:
            raise WatcherShare(
                f"this client has {share:,} watchers already, which is what one client may have of this server's"
                f" {self._max_watchers:,}; a sub-trace that is watched is one as well",
                limit=share,
                retry_after_s=5,
            )
        async with self._head(request.trace_id) as head:
            watcher = Watcher(self.log, head, request, sink, self.limits, self.counts)
            watcher.leaving_ms = self._leaving_ms
            self._watchers.add(watcher)
            self._clients[request.client] += 1
            self._empty.clear()
            self.counts.started += 1
            try:
                return await watcher.run(on_start)
            finally:
                self._watchers.discard(watcher)
                self._clients[request.client] -= 1
                if not self._clients[request.client]:
                    del self._clients[request.client]
                self.counts.delivered += watcher.sent
                if progress is not None:
                    progress.cursor, progress.events = watcher.cursor_token, watcher.sent
                if not self._watchers:
                    self._empty.set()

    async def watch_list(self, query: TraceQuery, sink: Sink) -> None:
        """Send the list of traces and its changes until cancelled. Raises SinkClosed."""
        await self._list.watch(query, sink)

    async def _tick(self) -> None:
        interval = min(1.0, self.limits.heartbeat_s / 4)
        ticks_to_age = max(1, round(5 / interval))
        count = 0
        while True:
            await asyncio.sleep(interval)
            self.budget.look()
            due = time.monotonic() - self.limits.heartbeat_s
            for beats, watcher in enumerate([one for one in self._watchers if one.last_sent <= due]):
                if watcher in self._watchers:
                    watcher.heartbeat()
                if beats % BEATS_AT_ONCE == BEATS_AT_ONCE - 1:
                    await asyncio.sleep(0)
            count += 1
            if count % ticks_to_age == 0:
                for head in self._heads.values():
                    head.age()

    def send_away(self, after_ms: int) -> None:
        """Tell every watcher and recorder there is now to come back within ``after_ms``. Others may still come."""
        self._away_ms = after_ms
        self._away.set()
        self._away = asyncio.Event()
        for watcher in tuple(self._watchers):
            watcher.leaving_ms = after_ms
            watcher.wake.set()

    async def goaway(self, after_ms: int, timeout_s: float) -> None:
        """The server is leaving: as ``send_away``, for those still to come too. Waits for watchers to have left.

        At most ``timeout_s``.
        """
        self._leaving_ms = after_ms
        self.send_away(after_ms)
        if self._watchers:
            await asyncio.wait({asyncio.create_task(self._empty.wait())}, timeout=timeout_s)

    async def close(self) -> None:
        """Stop listening and ticking."""
        self._unlisten()
        await self._list.close()
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)
