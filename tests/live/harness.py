"""Parts for tests of races: a log whose reads can be held, hints that can be held back, a sink that keeps its frames.

Rule: a race is a list of steps. Nothing here sleeps; a step ends when its condition holds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson

from tests.support import DEADLINE_S, until
from tracewatch.live.hub import Hub
from tracewatch.live.sink import Frame
from tracewatch.live.watcher import WatchLimits, WatchRequest
from tracewatch.log import EventLog, Grown, Page, Snapshot, TraceQuery, open_log
from tracewatch.model.events import validate_trace
from tracewatch.model.frames import ws_text


class Gate:
    """Where calls wait when it is shut. Each call is let through one by one or by opening."""

    def __init__(self) -> None:
        self.waiting = 0  # calls held now
        self._open = asyncio.Event()
        self._open.set()

    def shut(self) -> None:
        """Hold whoever comes from now on."""
        self._open.clear()

    def open(self) -> None:
        """Let everybody through."""
        self._open.set()

    async def held(self, count: int = 1) -> None:
        """Wait until ``count`` calls are held here."""
        await until(lambda: self.waiting >= count)

    async def passing(self) -> None:
        """What a call does here."""
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1


class GatedLog:
    """A log whose answers can be held back after they have been read, and whose hints wait to be told."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.read_gate, self.snapshot_gate = Gate(), Gate()
        self.traces_gate, self.summaries_gate = Gate(), Gate()
        self.reads: Counter[str] = Counter()  # of lists, by the method
        self.hints: list[list[Grown]] = []  # kept back
        self.keeping = False
        self._listener: Callable[[Sequence[Grown]], None] = lambda _: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def read(self, *args: Any, **kwargs: Any) -> Page:
        page = await self._log.read(*args, **kwargs)
        await self.read_gate.passing()
        return page

    async def snapshot(self, *args: Any, **kwargs: Any) -> Snapshot:
        snapshot = await self._log.snapshot(*args, **kwargs)
        await self.snapshot_gate.passing()
        return snapshot

    async def traces(self, *args: Any, **kwargs: Any) -> Any:
        self.reads["traces"] += 1
        found = await self._log.traces(*args, **kwargs)
        await self.traces_gate.passing()
        return found

    async def summaries(self, *args: Any, **kwargs: Any) -> Any:
        self.reads["summaries"] += 1
        found = await self._log.summaries(*args, **kwargs)
        await self.summaries_gate.passing()
        return found

    def listen(self, listener: Callable[[Sequence[Grown]], None]) -> Callable[[], None]:
        self._listener = listener
        return self._log.listen(self._heard)

    def _heard(self, grown: Sequence[Grown]) -> None:
        if self.keeping:
            self.hints.append(list(grown))
        else:
            self._listener(grown)

    def tell(self, grown: Sequence[Grown]) -> None:
        """Tell the hub."""
        self._listener(grown)


class Notes:
    """A sink that keeps what it is given. ``room`` cleared: ``send`` waits as for a reader that takes nothing."""

    def __init__(self, *, direct: bool) -> None:
        self.direct = direct
        self.events: list[bytes] = []
        self.control: list[dict[str, Any]] = []
        self.unsent = 0  # what ``buffered`` says
        self.room = asyncio.Event()
        self.room.set()

    def _note(self, payload: bytes) -> None:
        frame = orjson.loads(payload)
        if "event_id" in frame:
            self.events.append(payload)
        else:
            self.control.append(frame)

    def write(self, data: bytes) -> None:
        while data:  # frames of less than 64 KiB
            short = data[1] < 126
            size, start = (data[1], 2) if short else (int.from_bytes(data[2:4], "big"), 4)
            payload = data[start : start + size]
            assert ws_text(payload) == data[: start + size]
            self._note(payload)
            data = data[start + size :]

    def buffered(self) -> int:
        return self.unsent

    async def ready(self) -> None:
        await self.room.wait()

    async def send_events(self, frames: Sequence[Frame]) -> None:
        await self.room.wait()
        for frame in frames:
            self._note(frame.body)

    async def send_control(self, payload: bytes) -> None:
        await self.room.wait()
        self._note(payload)

    def write_control(self, payload: bytes) -> None:
        self._note(payload)

    def names(self) -> list[str]:
        """The control frames so far."""
        return [frame["event"] for frame in self.control]


class Bench:
    """A log behind gates, a hub on it, and watchers."""

    def __init__(self, log: EventLog, other: EventLog, gated: GatedLog, hub: Hub) -> None:
        self.log, self.other, self.gated, self.hub = log, other, gated, hub
        self.n = 0
        self.tasks: list[asyncio.Task[Any]] = []

    async def append(self, count: int = 1, *, by: EventLog | None = None, size: int = 0) -> None:
        """Append by this process, or as another one would."""
        events = [{"event": "thought", "n": self.n + n, "pad": "x" * size} for n in range(count)]
        self.n += count
        for start in range(0, count, 500):
            await (by or self.log).append("t", events[start : start + 500])

    def watch(self, *, direct: bool = True, **request: Any) -> Notes:
        """Begin to watch."""
        notes = Notes(direct=direct)
        self.tasks.append(asyncio.create_task(self.hub.watch(WatchRequest("t", nulls=True, **request), notes)))
        return notes

    def watch_list(self, *, direct: bool = True, **query: Any) -> Notes:
        """Begin to watch the list of traces."""
        notes = Notes(direct=direct)
        self.tasks.append(asyncio.create_task(self.hub.watch_list(TraceQuery(**query), notes)))
        return notes

    async def ring(self, *, last: int | None = None) -> None:
        """What the poll would say: where the log stands, or what we claim."""
        snapshot = await self.log.snapshot("t")
        state = snapshot.state
        self.gated.tell([Grown("t", state.last_event_id if last is None else last, state.status)])

    async def complete(self, notes: Notes, after: int = 0) -> None:
        """Wait until this watcher has the whole log after ``after``, and nothing else."""
        page = await self.log.read("t", after, max_events=100_000, max_bytes=1 << 30)
        await until(lambda: len(notes.events) >= len(page.bodies))
        assert notes.events == page.bodies


@asynccontextmanager
async def bench(tmp_path: Path, **limits: Any) -> AsyncIterator[Bench]:
    """A bench with the trace ``t``."""
    log, other = await open_log(str(tmp_path / "log.db")), await open_log(str(tmp_path / "log.db"))
    gated = GatedLog(log)
    hub = Hub(cast("EventLog", gated), limits=WatchLimits(**limits))
    made = Bench(log, other, gated, hub)
    try:
        await log.create_trace(validate_trace({"trace_id": "t", "task": "x"}))
        async with asyncio.timeout(2 * DEADLINE_S):
            yield made
        for task in made.tasks:
            if task.done():
                task.result()
    finally:
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)
        await hub.close()
        await other.close()
        await log.close()
