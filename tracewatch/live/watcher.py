"""A watcher: a cursor and a filter that is in the log, reading pages at its own pace, or at the head of its trace.

Rule 1: ``cursor`` is the last event that was handed to the sink or passed over by the filter. The next one is always
        ``cursor + 1``, from the log or from the head. So nothing is missed or repeated where the two meet.
Rule 2: nothing awaits between the look whether the cursor is at the head and the step to the head.
Rule 3: the memory of a watcher is bounded: one page, and what its sink buffers.
Rule 4: counting is adding to a number, and never once for each watcher and event: a watcher counts for itself, and the
        hub adds its number up when it leaves or when somebody asks.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import Damaged, Gap, TraceDeleted, Unavailable, UnknownTrace
from ..log import EventLog, Snapshot
from ..model.frames import PROTOCOL, Start, control, format_cursor, resolve_since, snapshot_frames, snapshot_values
from ..model.state import State
from ..model.times import format_time
from .head import TraceHead
from .sink import Frame, Sink

RETRY_S = 0.5  # until a log that could not be read is asked again
CHECKPOINT_EVERY = 1000  # skipped events (protocol, section 4)


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What a client asked to watch."""

    trace_id: str
    since: str | None = None
    types: frozenset[str] | None = None  # only these events; None: all
    until_end: bool = False
    wait: bool = False  # the trace may not exist yet
    tagged: bool = False  # control frames carry trace_id, as on /api/watch
    quiet: bool = False  # no control frames at all, as in NDJSON; a gap raises instead
    follow: bool = True  # go on live; else end where the log stood at the start
    nulls: bool = False  # the client knows that a cost may be null
    client: str = ""  # whose watcher it is: one client has at most half of them. "": this process's own


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How much a watcher may take at once."""

    page_events: int = 500
    page_bytes: int = 128 * 1024
    frame_bytes: int = 512 * 1024
    heartbeat_s: float = 15.0


@dataclass(slots=True)
class WatchCounts:
    """What the watchers of this process have done since it began."""

    started: int = 0  # watches begun
    delivered: int = 0  # events handed to watchers that have left
    fell_behind: int = 0  # how often a watcher was too slow for live
    resumes: Counter[str] = field(default_factory=Counter)  # ok, trimmed, reset, ahead


class Watcher:
    """One subscription. ``run`` is its life."""

    __slots__ = (  # there are thousands of them
        "_behind",
        "_catching_up",
        "_counts",
        "_head",
        "_key",
        "_limits",
        "_log",
        "_replayed",
        "_skipped",
        "_stop_at",
        "_tag",
        "cursor",
        "heartbeat_due",
        "last_sent",
        "leaving_ms",
        "request",
        "sent",
        "sink",
        "types",
        "wake",
    )

    def __init__(
        self,
        log: EventLog,
        head: TraceHead,
        request: WatchRequest,
        sink: Sink,
        limits: WatchLimits,
        counts: WatchCounts,
    ) -> None:
        self.request = request
        self.sink = sink
        self.types = request.types
        self.cursor = 0
        self.sent = 0  # events handed to the sink
        self.wake = asyncio.Event()  # something has changed: look again
        self.leaving_ms: int | None = None  # set by the hub: say goaway and end
        self.heartbeat_due = False
        self.last_sent = time.monotonic()  # when anything was last handed to the sink
        self._log = log
        self._counts = counts
        self._head = head
        self._limits = limits
        self._replayed = 0  # events sent since connected, snapshot or fell_behind
        self._skipped = 0  # events passed over by the filter since the last checkpoint
        self._catching_up = True  # a caught_up is owed
        self._behind = False  # a fell_behind is owed
        self._stop_at: int | None = None  # without ``follow``: the last event to send
        self._key = 0  # the trace's, as of the snapshot it began with
        self._tag = {"trace_id": request.trace_id} if request.tagged else {}

    # --- called by the head and the hub, never awaiting ---

    @property
    def state(self) -> str:
        """``waiting`` for its trace to exist, ``catching_up`` or ``at_head``."""
        if self._head.event_id is None:
            return "waiting"
        return "catching_up" if self._catching_up or self._behind else "at_head"

    @property
    def lag(self) -> int:
        """How many events it is behind the newest one known here."""
        return max(0, (self._head.event_id or 0) - self.cursor)

    @property
    def cursor_token(self) -> str:
        """``<epoch>.<event_id>`` of its cursor."""
        return format_cursor(self._log.epoch, self.cursor)

    def wants(self, frame: Frame) -> bool:
        """Whether the filter lets an event through."""
        return self.types is None or frame.name in self.types

    def passed(self, upto: int, sent: int) -> None:
        """The head has written ``sent`` events to the sink; the cursor is now ``upto``."""
        skipped = upto - self.cursor - sent
        self.cursor = upto
        if self.types is not None:
            self._skipped += skipped
            if self._skipped >= CHECKPOINT_EVERY:
                self._skipped = 0
                self.sink.write_control(self._control("checkpoint", cursor=self.cursor_token))
        if sent:
            self.sent += sent
            self.last_sent = time.monotonic()

    def fall_behind(self) -> None:
        """Leave the head for the log."""
        self._head.at_head.discard(self)
        self._behind = True
        self.wake.set()

    def heartbeat(self) -> None:
        """Say that all is well, now if the sink can take it."""
        if self in self._head.at_head:
            if self.sink.buffered() > self._head.behind_bytes:
                return  # there is enough on its way to show that the socket lives
            for payload in self._heartbeat_frames():
                self.sink.write_control(payload)
            self.last_sent = time.monotonic()
        else:
            self.heartbeat_due = True
            self.wake.set()

    # --- its life ---

    async def run(self, on_start: Callable[[Snapshot], None] | None = None) -> str:
        """Send everything until the trace has ended (``"end"``) or the server leaves (``"goaway"``).

        ``on_start`` is told the snapshot it began with, once that was sent. Raises SinkClosed, InvalidCursor,
        UnknownTrace, TraceDeleted.
        """
        head = self._head
        # What is no cursor is refused at once, however long the trace may have to be waited for
        resolve_since(self.request.since, epoch=self._log.epoch, first_event_id=1, last_event_id=0)
        head.waiting.add(self)
        try:
            snapshot = await self._first_snapshot()
            if snapshot is None:
                return "goaway"
            await self._start(snapshot)
            if on_start is not None:
                on_start(snapshot)
            del snapshot  # a watcher at the head must not keep its own old state alive
            try:
                return await self._deliver()
            except UnknownTrace as error:  # a page was asked for before anybody had told of it
                raise self._deleted() from error
        finally:
            head.waiting.discard(self)
            head.at_head.discard(self)

    async def _first_snapshot(self) -> Snapshot | None:
        while True:
            self.wake.clear()
            try:
                snapshot = await self._log.snapshot(self.request.trace_id)
            except UnknownTrace:
                if not self.request.wait:
                    raise
                await self.wake.wait()
                if self.leaving_ms is not None:
                    await self._send("goaway", after_ms=self.leaving_ms)
                    return None
                await self._send_due_heartbeat()
                continue
            self._key = snapshot.trace_key
            if self._head.begin(self._key, snapshot.state.last_event_id, snapshot.state.status):
                return snapshot

    async def _start(self, snapshot: Snapshot) -> None:
        state, epoch = snapshot.state, self._log.epoch
        start = await start_of(self._log, self.request, state.first_event_id, state.last_event_id)
        self.cursor = start.after
        if start.gap is not None or start.explicit:
            self._counts.resumes[start.gap or "ok"] += 1
        self._stop_at = None if self.request.follow else state.last_event_id
        if start.gap is not None and self.request.quiet:
            raise gap_error(start.gap, snapshot.state, epoch)
        await self._send_state("connected", snapshot)
        if start.gap is not None:
            await self._send_gap(start.gap, self.request.since, snapshot)

    async def _send_gap(self, reason: str, requested: str | None, snapshot: Snapshot) -> None:
        state = snapshot.state
        await self._send(
            "gap",
            reason=reason,
            requested=requested,
            first_event_id=state.first_event_id,
            current_event_id=state.last_event_id,
            resume_event_id=self.cursor,
        )
        await self._send_state("snapshot", snapshot)

    async def _send_state(self, name: str, snapshot: Snapshot) -> None:
        if self.request.quiet:
            return
        frame: dict[str, Any] = {
            "event": name,
            **self._tag,
            "protocol": PROTOCOL,
            "epoch": self._log.epoch,
            "cursor": self.cursor_token,
            "ts": format_time(time.time()),
            **snapshot_values(snapshot.state, lease_alive=snapshot.lease_alive),
            "heartbeat_s": self._limits.heartbeat_s,
        }
        for number, payload in enumerate(snapshot_frames(frame, self._limits.frame_bytes)):
            if number:
                await asyncio.sleep(0)  # a sink with room does not wait, and others have their turn
            if not self.request.nulls:  # in a text these bytes can't stand: its quotes are escaped
                payload = payload.replace(b'"total_cost":null', b'"total_cost":0.0')
            await self.sink.send_control(payload)
        self._replayed = 0
        self.last_sent = time.monotonic()

    async def _deliver(self) -> str:
        head = self._head
        while True:
            self.wake.clear()
            if self._stop_at is not None and self.cursor >= self._stop_at:
                return "end"
            if self.leaving_ms is not None:
                await self._send("goaway", after_ms=self.leaving_ms)
                return "goaway"
            if head.gone or head.key != self._key:
                raise self._deleted()
            if head.damage is not None:
                raise Damaged(head.damage.message, **head.damage.facts)
            if self._behind:
                self._behind, self._catching_up, self._replayed = False, True, 0
                self._counts.fell_behind += 1
                await self._send("fell_behind", sent_event_id=self.cursor, current_event_id=head.event_id)
            if await self._step():
                continue
            if head.event_id is None or self.cursor != head.event_id:
                if self.cursor > (head.event_id or 0):
                    await head.reached(self.cursor)
                continue
            if await self._stand_at_head():
                return "end"

    async def _pause(self, error: Unavailable) -> bool:
        """The log can't be read now: the watch stays, with its heartbeats, unless waiting will not help."""
        if isinstance(error, Damaged) or "reason" not in error.facts:  # damaged there; or it is closing
            raise error
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await self.wake.wait()
        await self._send_due_heartbeat()
        return True

    async def _step(self) -> bool:
        """Send the next page, if there is one."""
        head, limits = self._head, self._limits
        room = await head.budget.room(self.sink, limits.page_bytes)
        frames = head.after(self.cursor, limits.page_events, room)
        if frames is None:
            if not self._catching_up and head.event_id is not None and self.cursor < head.event_id:
                self._behind = True  # the frames it needs have left memory: too slow for live
                return True
            if head.event_id is not None and self.cursor == head.event_id and not self._catching_up:
                return False
            head.budget.take(room)
            try:
                page = await self._log.read(
                    self.request.trace_id, self.cursor, max_events=limits.page_events, max_bytes=room
                )
            except Unavailable as error:
                return await self._pause(error)
            finally:
                head.budget.give(room)
            if page.trace_key != self._key:
                raise self._deleted()
            if page.first_event_id - 1 > self.cursor:
                await self._past_is_gone(page.first_event_id)
                return True
            frames = [Frame(self._log.epoch, at, body) for at, body in enumerate(page.bodies, self.cursor + 1)]
            head.begin(page.trace_key, page.last_event_id, page.status)
        if not frames:
            return False
        wanted = frames if self.types is None else [frame for frame in frames if self.wants(frame)]
        if wanted:
            head.budget.take(size := sum([len(frame.body) for frame in wanted]))
            try:
                await self.sink.send_events(wanted)
            finally:
                head.budget.give(size)
                head.budget.measure(self.sink)
            self._replayed += len(wanted)
            self.sent += len(wanted)
            self.last_sent = time.monotonic()
        self.cursor = frames[-1].event_id
        self._skipped += len(frames) - len(wanted)
        if self._skipped >= CHECKPOINT_EVERY:
            self._skipped = 0
            await self._send("checkpoint", cursor=self.cursor_token)
        return True

    async def _past_is_gone(self, first_event_id: int) -> None:
        if self.types is not None and await self._log.trimmed(self.request.trace_id, self.types) <= self.cursor:
            self.cursor = first_event_id - 1  # nothing is gone that this watch would have been sent
            return
        self._counts.resumes["trimmed"] += 1
        snapshot = await self._log.snapshot(self.request.trace_id)
        if snapshot.trace_key != self._key:
            raise self._deleted()
        if self.request.quiet:
            raise gap_error("trimmed", snapshot.state, self._log.epoch)
        requested = self.cursor_token
        self.cursor = snapshot.state.first_event_id - 1
        await self._send_gap("trimmed", requested, snapshot)

    async def _stand_at_head(self) -> bool:
        """At the head: say so, then wait until something has changed. True when the watch is over."""
        head = self._head
        if self._catching_up:
            self._catching_up = False
            payload = self._control(
                "caught_up",
                current_event_id=head.event_id,
                cursor=self.cursor_token,
                replayed=self._replayed,
            )
            if not self.sink.direct:
                await self._send_payload(payload)
                return False  # the head may have moved meanwhile
            self.sink.write_control(payload)
            del payload  # not for as long as it waits below
        if self.request.until_end and head.ended:
            if self.types is not None:  # so that whoever comes back stands at the end
                await self._send("checkpoint", cursor=self.cursor_token)
            await self._send("end", status=head.status, last_event_id=head.event_id)
            return True
        if self.sink.direct:
            head.at_head.add(self)
        await self.wake.wait()
        head.at_head.discard(self)
        await self._send_due_heartbeat()
        return False

    def _deleted(self) -> TraceDeleted:
        return TraceDeleted(f"trace {self.request.trace_id!r} was deleted")

    # --- control frames ---

    def _control(self, event: str, **values: Any) -> bytes:
        return control(event, **self._tag, **values)

    async def _send(self, event: str, **values: Any) -> None:
        await self._send_payload(self._control(event, **values))

    async def _send_payload(self, payload: bytes) -> None:
        if not self.request.quiet:
            await self.sink.send_control(payload)
            self.last_sent = time.monotonic()

    def _heartbeat_frames(self) -> list[bytes]:
        token = self.cursor_token
        frames = [
            self._control(
                "heartbeat", ts=format_time(time.time()), current_event_id=self._head.event_id or 0, cursor=token
            )
        ]
        if self.types is not None:
            self._skipped = 0
            frames.append(self._control("checkpoint", cursor=token))
        return frames

    async def _send_due_heartbeat(self) -> None:
        if not self.heartbeat_due:
            return
        self.heartbeat_due = False
        for payload in self._heartbeat_frames():
            await self._send_payload(payload)
        self.last_sent = time.monotonic()


async def start_of(log: EventLog, request: WatchRequest, first_event_id: int, last_event_id: int) -> Start:
    """Where a watch begins in a log of these events. A filtered one has a gap only where an event it wants is gone.

    Raises InvalidCursor, UnknownTrace.
    """
    resolve = partial(
        resolve_since, request.since, epoch=log.epoch, first_event_id=first_event_id, last_event_id=last_event_id
    )
    start = resolve()
    if start.gap == "trimmed" and request.types is not None:
        start = resolve(lost=await log.trimmed(request.trace_id, request.types))
    return start


def gap_error(reason: str, state: State, epoch: str) -> Gap:
    """A gap as an error, for clients that can't be sent a ``gap`` frame: pages and lines."""
    resume = state.last_event_id if reason == "ahead" else state.first_event_id - 1
    words = {
        "trimmed": "the events asked for are gone",
        "reset": "the cursor is of another history of this log",
        "ahead": "the cursor is ahead of the log",
    }
    return Gap(
        reason,
        f"{words[reason]}: it holds {state.first_event_id} to {state.last_event_id}; go on from {resume}",
        first_event_id=state.first_event_id,
        current_event_id=state.last_event_id,
        resume_event_id=resume,
        cursor=format_cursor(epoch, resume),
    )
