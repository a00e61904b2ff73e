"""The head of one watched trace: its newest frames, and the watchers that have received everything before them.

Rule 1: frames enter in the order of their ids, without a hole. A commit that does not follow the head is only a hint;
        the events between are read from the log. A deletion is a hint as well: the log is asked whether it is true.
Rule 2: a watcher at the head has received every frame of the last flush, and gets the next ones in order. A watcher
        that has missed frames reads them from the log.
Rule 3: nothing here awaits a reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from itertools import islice
from typing import Protocol

from ..errors import Damaged, Unavailable, UnknownTrace
from ..log import EventLog, Grown
from ..model.canonical import ENDED
from .budget import Budget
from .sink import Frame, Sink

RING_BYTES = 512 * 1024  # of a trace's newest events as they are held, for watchers that are a little late
RETRY_S = 0.5  # until a log that could not be read is tried again
WATCHERS_AT_ONCE = 64  # written to before the watchers of other traces, and everything else, have their turn
CHUNK_BYTES = 64 * 1024  # written to a socket at once before looking whether it takes it


class Follower(Protocol):
    """What the head of a trace has to know of a watcher."""

    cursor: int  # the last event that the watcher has passed
    sink: Sink
    types: frozenset[str] | None  # the events it wants; None: all
    wake: asyncio.Event  # set: look at the head again

    def wants(self, frame: Frame) -> bool:
        """Whether its filter lets an event through."""

    def passed(self, upto: int, sent: int) -> None:
        """The head has written ``sent`` events to the sink; the cursor is now ``upto``."""

    def fall_behind(self) -> None:
        """Leave the head and read from the log."""


class TraceHead:
    """The fan-out of one trace to this process's watchers of it."""

    def __init__(
        self, log: EventLog, trace_id: str, budget: Budget, *, page_events: int, page_bytes: int, behind_bytes: int
    ) -> None:
        self.trace_id = trace_id
        self.budget = budget
        self.event_id: int | None = None  # of the newest event known here; None before anybody has looked
        self.status = "running"  # of the trace, as of the head
        self.key: int | None = None  # the trace's: another one means that it was deleted and made again
        self.gone = False  # deleted, and not seen since
        self.damage: Damaged | None = None  # what follows the head can't be read, and waiting will not help
        self.users = 0  # watchers, and those about to be one
        self.at_head: set[Follower] = set()  # watchers with direct sinks; ``_flush`` writes to them
        self.waiting: set[Follower] = set()  # all watchers; woken when something has changed
        self._log = log
        self._page_events = page_events
        self._page_bytes = page_bytes
        self.behind_bytes = behind_bytes  # unsent bytes above which a watcher goes back to the log
        self._ring: deque[Frame] = deque()
        self._ring_bytes = 0
        self._ring_mark = 0  # the newest id at the last ``age``
        self._pending: list[Frame] = []  # in the ring, not yet written to the watchers at the head
        self._flush_due = False
        self._writing: _Writing | None = None  # a flush that the last turns of the loop did not finish
        self._known = 0  # the newest id that anybody has mentioned
        self._doubted = False  # a hint says that the trace was deleted
        self._pull: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether the trace has ended, as of the head."""
        return self.status in ENDED

    def begin(self, key: int, last_event_id: int, status: str) -> bool:
        """Tell a fresh head where the log stands; for one that knows its position it is a hint.

        False: the trace that was read has been replaced by another one since.
        """
        if self.key is not None and key < self.key:
            return False
        self.gone = False
        if self.event_id is None:
            self.key, self.event_id, self.status = key, last_event_id, status
        elif key != self.key:
            self._replaced(key, last_event_id, status)
        else:
            self.hint(last_event_id, status)
        return True

    def _replaced(self, key: int, last_event_id: int, status: str) -> None:
        """The trace was deleted and another one made under its id; its watchers find out by the key."""
        self.key = key
        self._restart(last_event_id, status)

    def grow(self, grown: Grown) -> None:
        """A commit: of this process (with bodies), or of another one (a hint)."""
        if self.event_id is None or self.gone:
            self.wake_all()  # watchers may be waiting for the trace to exist
        elif grown.deleted or (grown.bodies and grown.trace_key != self.key):
            self._doubted = True
            self.hint(self.event_id, self.status)
        elif grown.bodies and grown.last_event_id - len(grown.bodies) == self.event_id and self._pull is None:
            self._push(grown.bodies, grown.status)
        else:
            self.hint(grown.last_event_id, grown.status)

    def hint(self, last_event_id: int, status: str) -> None:
        """The log may hold events up to ``last_event_id``."""
        self._known = max(self._known, last_event_id)
        if self.event_id is None or self._pull is not None:
            return
        if self._known > self.event_id or self._doubted:
            self._pull = asyncio.create_task(self._pull_from_log(), name=f"tracewatch-pull-{self.trace_id}")
        elif last_event_id == self.event_id and status != self.status:
            self.status = status
            self.wake_all()

    async def reached(self, event_id: int) -> None:
        """Wait until the head is at ``event_id``, which a watcher has read in the log already."""
        self.hint(event_id, self.status)
        if self._pull is not None:
            await asyncio.shield(self._pull)

    async def _pull_from_log(self) -> None:
        try:
            while self.event_id is not None and (self._doubted or self.event_id < self._known):
                self._doubted = False
                try:
                    page = await self._log.read(
                        self.trace_id, self.event_id, max_events=self._page_events, max_bytes=self._page_bytes
                    )
                except Unavailable as error:
                    if isinstance(error, Damaged):
                        self.damage = error
                        self.wake_all()
                    await asyncio.sleep(RETRY_S)  # nothing is lost: the log is asked again
                    continue
                self.damage = None
                if page.trace_key != self.key:
                    if self.begin(page.trace_key, page.last_event_id, page.status):
                        self._known = page.last_event_id
                    continue
                if not page.bodies:
                    self._known = min(self._known, page.last_event_id)
                    if page.last_event_id > self.event_id:  # trimmed meanwhile: the watchers find out from the log
                        self._restart(page.last_event_id, page.status)
                    continue
                status = page.status if page.upto == page.last_event_id else self.status
                self._push(page.bodies[max(0, self.event_id - page.after) :], status)
        except UnknownTrace:
            self.gone = True
            self.wake_all()
        finally:
            self._pull = None

    def close(self) -> None:
        """Stop asking the log: the last watcher has left."""
        self._forget_ring()
        if self._pull is not None:
            self._pull.cancel()

    def _restart(self, event_id: int, status: str) -> None:
        self._forget_ring()
        self._pending.clear()
        self.event_id, self.status = event_id, status
        for follower in tuple(self.at_head):
            follower.fall_behind()
        self.wake_all()

    def _push(self, bodies: list[bytes], status: str) -> None:
        assert self.event_id is not None
        for body in bodies:
            self.event_id += 1
            frame = Frame(self._log.epoch, self.event_id, body)
            self._ring.append(frame)
            self._ring_bytes += frame.held_bytes
            self.budget.take(frame.held_bytes)
            self._pending.append(frame)
        while self._ring_bytes > min(RING_BYTES, self.budget.share) and len(self._ring) > 1:
            self._forget_oldest()
        self.status = status
        if self._pending and not self._flush_due:
            # Not at once: what is committed until the loop gets there is written together
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def after(self, cursor: int, max_events: int, max_bytes: int) -> list[Frame] | None:
        """Frames after ``cursor`` from memory; None if only the log has them."""
        if not self._ring or self._ring[0].event_id > cursor + 1 or self.event_id is None:
            return None
        frames: list[Frame] = []
        size = 0
        skip = cursor + 1 - self._ring[0].event_id
        for frame in islice(self._ring, skip, skip + max_events):
            size += len(frame.body)
            if frames and size > max_bytes:
                break
            frames.append(frame)
        return frames

    def age(self) -> None:
        """Forget the frames that were here at the last call already. Called every few seconds."""
        while self._ring and self._ring[0].event_id <= self._ring_mark:
            self._forget_oldest()
        self._ring_mark = self.event_id or 0

    def _forget_oldest(self) -> None:
        size = self._ring.popleft().held_bytes
        self._ring_bytes -= size
        self.budget.give(size)

    def _forget_ring(self) -> None:
        self._ring.clear()
        self.budget.give(self._ring_bytes)
        self._ring_bytes = 0

    def wake_all(self) -> None:
        """Have every watcher look again."""
        for follower in self.waiting:
            follower.wake.set()

    def _flush(self) -> None:
        """Write the pending frames to the watchers at the head: to some now, to the others in the next loop turns."""
        if self._writing is None:
            frames, self._pending = self._pending, []
            self._writing = _Writing(frames, self.at_head if frames else ())
        writing = self._writing
        now = tuple(islice(writing.followers, WATCHERS_AT_ONCE))
        for follower in now:
            if follower in self.at_head:  # else it has begun to read for itself meanwhile
                self._write(follower, writing.frames, writing.chunks_for(follower))
        if len(now) < WATCHERS_AT_ONCE:
            self._writing = None
            self._flush_due = bool(self._pending)
            if writing.frames:
                self._tell_the_others()
        if self._flush_due:
            asyncio.get_running_loop().call_soon(self._flush)

    def _tell_the_others(self) -> None:
        if self.ended:
            self.wake_all()  # some have asked to be told the end
        elif len(self.waiting) > len(self.at_head):
            for follower in self.waiting - self.at_head:
                follower.wake.set()

    def _write(self, follower: Follower, frames: list[Frame], chunks: list[tuple[int, int, bytes]]) -> None:
        read = follower.cursor + 1 - frames[0].event_id  # it may have read some from the ring before this flush
        if read >= len(frames):
            return
        if read < 0:
            follower.fall_behind()
            return
        if read:
            chunks = _chunks(frames[read:], follower.wants)
        for upto, sent, data in chunks:
            sink = follower.sink
            waiting = sink.buffered()
            if waiting > self.behind_bytes or waiting + len(data) > self.budget.share:
                follower.fall_behind()
                return
            if data:
                sink.write(data)
                if sink.buffered():
                    self.budget.measure(sink)
            follower.passed(upto, sent)


class _Writing:
    """Frames on their way to the watchers that stood at the head when it began."""

    __slots__ = ("_chunks", "followers", "frames")

    def __init__(self, frames: list[Frame], followers: Collection[Follower]) -> None:
        self.frames = frames
        self.followers = iter(tuple(followers))  # those not yet written to
        self._chunks: dict[frozenset[str] | None, list[tuple[int, int, bytes]]] = {}

    def chunks_for(self, follower: Follower) -> list[tuple[int, int, bytes]]:
        chunks = self._chunks.get(follower.types)
        if chunks is None:
            chunks = self._chunks[follower.types] = _chunks(self.frames, follower.wants)
        return chunks


def _chunks(frames: list[Frame], wants: Callable[[Frame], bool]) -> list[tuple[int, int, bytes]]:
    """``(upto, how many events, their WebSocket frames)``: pieces small enough to be written at once."""
    chunks: list[tuple[int, int, bytes]] = []
    parts: list[bytes] = []
    size = 0
    for frame in frames:
        if wants(frame):
            parts.append(frame.ws)
            size += len(frame.ws)
        if size > CHUNK_BYTES:
            chunks.append((frame.event_id, len(parts), b"".join(parts)))
            parts, size = [], 0
    if not chunks or chunks[-1][0] != frames[-1].event_id:
        chunks.append((frames[-1].event_id, len(parts), b"".join(parts)))
    return chunks
