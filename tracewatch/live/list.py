"""The live list of traces: one head for the process reads what has changed, and every list watcher gets it from there.

Rule 1: a growth is only noted. Ten times a second at most, the head reads the summaries of the traces that have grown,
        encodes each once, and hands the same bytes to every watcher. The number of watchers adds no reads.
Rule 2: a watcher waits with one change for each trace, the latest. A slow reader misses states in between, and never
        the last one.
Rule 3: reads follow one another, so what was read later is newer. A watcher is noted before its ``traces`` frame is
        read, and drops the changes that were read before it: it is told everything that is newer, and nothing older.
Rule 4: of the traces that a client has seen, the newest MOST_KNOWN are remembered. A forgotten one may be told again,
        also when it does not match the filter: the client is told too much rather than too little.
Rule 5: a deletion is a hint like any other: a trace that the log still holds is there.
Rule 6: every frame names the log's epoch and the server's time, so that a client never mixes two histories, and ages
        are by one clock.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextvars import Context
from dataclasses import replace
from itertools import islice
from typing import Any

import orjson

from ..errors import TracewatchError, Unavailable
from ..log import EventLog, Grown, TraceQuery
from ..log.views import FILTERED
from ..model.times import format_time
from .budget import Budget
from .shared import SharedReads
from .sink import Frame, Sink

INTERVAL_S = 0.1  # protocol, section 4: at most 10 a second per trace
MOST_KNOWN = 1000  # traces
RETRY_S = 0.5  # until a log that could not be read is asked again
TRACES_AT_ONCE = 100  # in one read, and encoded before others have their turn
WATCHERS_AT_ONCE = 64  # woken before others have their turn
RING_BYTES = 1024 * 1024  # of the newest changes; a watcher that is later than that reads for itself
CHUNK_BYTES = 64 * 1024  # sent to a watcher at once


class Change:
    """How a trace stands, or that it was deleted: encoded once, whatever number of watchers is told."""

    __slots__ = ("deleted", "digest", "frame", "lineage", "read", "summary", "trace_id")

    def __init__(self, trace_id: str, read: int, frame: Frame) -> None:
        self.trace_id = trace_id
        self.read = read  # the number of the read that it comes from
        self.frame: Frame | None = frame  # None: it has left memory and must be read again
        self.deleted = False
        self.summary: dict[str, Any] = {}  # what filters look at
        self.digest = 0  # of the summary: the same again is no news
        self.lineage: frozenset[str] = frozenset()  # the trace and all above it, where a watcher's token asks for it

    def forget(self) -> None:
        """Leave memory."""
        self.frame, self.summary = None, {}


class ListWatcher:
    """One client's list: its filter, what it has seen, and what it is still to be told."""

    __slots__ = ("_forgot", "_query", "_shown", "changes", "defect", "wake")

    def __init__(self, query: TraceQuery) -> None:
        self.changes: OrderedDict[str, Change] = OrderedDict()  # by trace_id
        self.wake = asyncio.Event()  # set when there are changes
        self.defect: BaseException | None = None  # no more changes will come because of it
        self._query = query
        # The digests of what the client has seen: it is told also when a trace leaves the filter, and nothing twice
        self._shown: OrderedDict[str, int] = OrderedDict()
        self._forgot = False  # whether it has seen others too

    @property
    def below(self) -> str | None:
        """The trace that its token is for: it sees that one and its sub-traces. None: all traces."""
        return self._query.below

    def begin(self, read: int, digests: Sequence[tuple[str, int]]) -> None:
        """The client is about to see these traces, newest first, as they were at this read."""
        for trace_id in [trace_id for trace_id, change in self.changes.items() if change.read < read]:
            del self.changes[trace_id]
        for trace_id, digest in reversed(digests):
            self._saw(trace_id, digest)

    def _saw(self, trace_id: str, digest: int) -> bool:
        """Note that the client sees the trace like this; whether it has not yet."""
        news = self._shown.get(trace_id) != digest
        self._shown[trace_id] = digest
        self._shown.move_to_end(trace_id)
        if len(self._shown) > MOST_KNOWN:
            self._shown.popitem(last=False)
            self._forgot = True
        return news

    def take(self, room: int) -> list[Frame]:
        """The frames to send next: about ``room`` bytes, at least one. Changes that are no news to it are dropped."""
        frames: list[Frame] = []
        size = 0
        while self.changes:
            change = next(iter(self.changes.values()))
            if change.frame is None or (frames and size + len(change.frame.body) > room):
                break
            self.changes.popitem(last=False)
            news = self._news(change, change.frame)
            if news is not None:
                frames.append(news)
                size += len(news.body)
        return frames

    def _news(self, change: Change, frame: Frame) -> Frame | None:
        """What the client is to be told of a change; None: it knows that already, or may not see it."""
        trace_id = change.trace_id
        if change.deleted:  # one that was forgotten might be one that this client may not know of
            told = self._forgot and not self.below
            return frame if self._shown.pop(trace_id, None) is not None or told else None
        if self.below is not None and self.below not in change.lineage:
            # Between two reads it may have been deleted, and another one made elsewhere under its id
            return None if self._shown.pop(trace_id, None) is None else _deletion(frame.epoch, trace_id)
        known = self._forgot or trace_id in self._shown
        news = (known or self._query.fits(change.summary)) and self._saw(trace_id, change.digest)
        return frame if news else None


class ListHead:
    """The fan-out of the list of traces to this process's watchers of it."""

    def __init__(self, log: EventLog, budget: Budget, frame_bytes: int) -> None:
        self._log = log
        self._frame_bytes = frame_bytes
        self._budget = budget
        self._watchers: set[ListWatcher] = set()
        self._grown: dict[str, bool] = {}  # trace_id: whether it is said to be deleted
        self._wake = asyncio.Event()  # set while something has grown
        self._ring: OrderedDict[str, Change] = OrderedDict()  # by trace_id, the newest last
        self._ring_bytes = 0
        self._first = SharedReads(self._read_first)
        self._reading = asyncio.Lock()  # held from a read to handing out what it gave
        self._reads = 0  # so far
        self._task: asyncio.Task[None] | None = None  # tells the changes; runs from the first watcher on

    @property
    def watched(self) -> bool:
        """Whether anybody watches the list in this process."""
        return bool(self._watchers)

    def grow(self, grown: Sequence[Grown]) -> None:
        """Note what has grown, by whatever process; it is read when it is told."""
        if self._watchers:
            for one in grown:
                self._grown[one.trace_id] = one.deleted
            self._wake.set()

    async def watch(self, query: TraceQuery, sink: Sink) -> None:
        """Send ``traces``, then ``trace_changed`` and ``trace_deleted`` until cancelled. Raises SinkClosed."""
        watcher = ListWatcher(query)
        self._watchers.add(watcher)
        if self._task is None or self._task.done():
            # In a context of its own: what it reads is read for all, and not for the client that came first
            self._task = asyncio.create_task(self._run(), name="tracewatch-list", context=Context())
            self._task.add_done_callback(self._ended)
        try:
            await self._begin(watcher, query, sink)
            while True:
                await watcher.wake.wait()
                watcher.wake.clear()
                if watcher.defect is not None:
                    raise watcher.defect  # its client comes back and begins anew
                await self._deliver(watcher, sink)
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._forget_all()

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- reading and telling, once for all ---

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            grown, self._grown = self._grown, {}
            watchers = tuple(self._watchers)  # Rule 3: those that come while this is read have no use for it
            lineage = any(watcher.below is not None for watcher in watchers)
            try:
                for trace_ids in _pieces(tuple(grown)):
                    async with self._reading:
                        changes = await self._read(trace_ids, grown, lineage=lineage)
                        self._remember(changes)
                        await self._tell(watchers, changes)
                    for trace_id in trace_ids:
                        del grown[trace_id]
            except TracewatchError:
                self._grown = {**grown, **self._grown}  # told later; what came meanwhile is newer
                self._wake.set()
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(INTERVAL_S)

    async def _tell(self, watchers: Sequence[ListWatcher], changes: Sequence[Change]) -> None:
        for count, watcher in enumerate(watchers, 1):
            for change in changes:
                watcher.changes[change.trace_id] = change
            watcher.wake.set()
            if count % WATCHERS_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _read(
        self, trace_ids: Iterable[str], deleted: dict[str, bool] | None = None, *, lineage: bool
    ) -> list[Change]:
        """How these traces stand; those that the log no longer holds only where they are said to be ``deleted``."""
        self._reads += 1
        found: dict[str, tuple[dict[str, Any], frozenset[str]]]
        if lineage:
            found = await self._log.lines(tuple(trace_ids))
        else:
            found = {one["trace_id"]: (one, frozenset()) for one in await self._log.summaries(tuple(trace_ids))}
        changes: list[Change] = []
        for trace_id in trace_ids:
            if trace_id in found:
                summary, line = found[trace_id]
                changes.append(change := self._change(summary))
                change.lineage = line
            elif deleted is not None and deleted[trace_id]:
                changes.append(change := Change(trace_id, self._reads, _deletion(self._log.epoch, trace_id)))
                change.deleted = True
        return changes

    def _change(self, summary: dict[str, Any]) -> Change:
        body = orjson.dumps(summary)
        payload = b'%b,"trace":%b}' % (_begun("trace_changed", self._log.epoch), body)
        change = Change(summary["trace_id"], self._reads, Frame(self._log.epoch, 0, payload))
        change.summary, change.digest = {key: summary[key] for key in FILTERED if key in summary}, hash(body)
        return change

    async def _read_first(self, query: TraceQuery) -> tuple[int, bytes, list[tuple[str, int]]]:
        """The ``traces`` frame of a filter: the number of its read, its bytes, and the digest of each trace in it."""
        async with self._reading:
            self._reads += 1
            read = self._reads
            traces, before = await self._log.traces(replace(query, max_bytes=self._frame_bytes - 100))
        bodies = [orjson.dumps(trace) for trace in traces]
        digests = [(trace["trace_id"], hash(body)) for trace, body in zip(traces, bodies, strict=True)]
        # Only where the limit of a frame has ended it before the limit that was asked for
        token = (
            b',"next_page_token":"%b"' % before.encode() if before is not None and len(traces) < query.limit else b""
        )
        begun = _begun("traces", self._log.epoch)
        return read, b'%b,"traces":[%b]%b}' % (begun, b",".join(bodies), token), digests

    # --- for one watcher ---

    async def _begin(self, watcher: ListWatcher, query: TraceQuery, sink: Sink) -> None:
        while True:
            try:
                read, payload, digests = await self._first(query)
                break
            except Unavailable:
                await asyncio.sleep(RETRY_S)
        watcher.begin(read, digests)
        await sink.send_control(payload)
        self._budget.measure(sink)

    async def _deliver(self, watcher: ListWatcher, sink: Sink) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while watcher.changes:
            room = await self._budget.room(sink, CHUNK_BYTES)
            try:
                await self._read_forgotten(watcher)
            except TracewatchError:
                await asyncio.sleep(RETRY_S)
                continue
            frames = watcher.take(room)
            if frames:
                await self._send(sink, frames)
        if loop.time() - began > INTERVAL_S / 2:
            await asyncio.sleep(INTERVAL_S)  # a late one is told at most ten times a second as well

    async def _send(self, sink: Sink, frames: list[Frame]) -> None:
        self._budget.take(size := sum([len(frame.body) for frame in frames]))
        try:
            await sink.send_events(frames)
        finally:
            self._budget.give(size)
            self._budget.measure(sink)

    async def _read_forgotten(self, watcher: ListWatcher) -> None:
        """Read again what this watcher is to be told next and has left memory."""
        late = [one for one in islice(watcher.changes.values(), TRACES_AT_ONCE) if one.frame is None]
        if not late:
            return
        lineage = watcher.below is not None
        async with self._reading:
            found = {one.trace_id: one for one in await self._read([one.trace_id for one in late], lineage=lineage)}
            for one in late:
                if watcher.changes.get(one.trace_id) is not one:
                    continue  # something newer came before this could be read
                if one.trace_id in found:
                    watcher.changes[one.trace_id] = found[one.trace_id]
                else:
                    del watcher.changes[one.trace_id]  # deleted: the hint is on its way

    # --- what is kept for those that are a little late ---

    def _remember(self, changes: Sequence[Change]) -> None:
        for change in changes:
            before = self._ring.pop(change.trace_id, None)
            if before is not None:
                self._count(before, -1)
            self._ring[change.trace_id] = change
            self._count(change, 1)
        while self._ring_bytes > min(RING_BYTES, self._budget.share) and len(self._ring) > 1:
            _, oldest = self._ring.popitem(last=False)
            self._count(oldest, -1)
            if not oldest.deleted:
                oldest.forget()

    def _count(self, change: Change, sign: int) -> None:
        size = sign * (0 if change.frame is None else change.frame.held_bytes)
        self._ring_bytes += size
        self._budget.take(size)

    def _forget_all(self) -> None:
        self._grown.clear()
        self._ring.clear()
        self._budget.give(self._ring_bytes)
        self._ring_bytes = 0

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            for watcher in self._watchers:
                watcher.defect = task.exception()
                watcher.wake.set()


def _pieces(trace_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(trace_ids), TRACES_AT_ONCE):
        yield trace_ids[start : start + TRACES_AT_ONCE]


def _begun(event: str, epoch: str) -> bytes:
    """The first keys of a frame."""
    ts = format_time(time.time())
    return b'{"event":"%b","epoch":"%b","ts":"%b"' % (event.encode(), epoch.encode(), ts.encode())


def _deletion(epoch: str, trace_id: str) -> Frame:
    return Frame(epoch, 0, b'%b,"trace_id":%b}' % (_begun("trace_deleted", epoch), orjson.dumps(trace_id)))
