"""A watched trace: its head, the frames that came last, and the watchers that stand at the head.

Rule 1: frames enter in the order of their ids without a hole. A commit that does not follow the head is only a hint,
        and what is between is read from the log. A deletion is a hint as well: the log is asked whether it is true.
Rule 2: a watcher at the head has all that was pending when the last flush ended, and those after it follow in order;
        who does not is sent back to the log.
Rule 3: nothing here awaits a reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import Damaged, Unavailable, UnknownTrace
from ..log import EventLog, Grown
from ..model.events import ENDED
from .budget import Budget
from .sink import Frame

if TYPE_CHECKING:
    from .watcher import Watcher

RING_BYTES = 256 * 1024  # of a trace's newest events, for those who are a little late
RETRY_S = 0.5  # until a log that could not be read is tried again
WATCHERS_AT_ONCE = 64  # written to before the watchers of other traces, and everything else, have their turn
CHUNK_BYTES = 64 * 1024  # written to a socket at once before looking whether it takes it


class Channel:
    """Fan-out of one trace to this process's watchers of it."""

    def __init__(
        self, log: EventLog, trace_id: str, budget: Budget, *, page_events: int, page_bytes: int, behind_bytes: int
    ) -> None:
        self.trace_id = trace_id
        self.budget = budget
        self.head: int | None = None  # id of the newest event known here; None before anybody has looked
        self.status = "running"  # of the trace, as of the head
        self.key: int | None = None  # the trace's: another one, and it was deleted and made again
        self.gone = False  # deleted, and nobody has seen it since
        self.damage: Damaged | None = None  # what follows the head can't be read, and waiting will not help
        self.users = 0  # watchers and those about to be one
        self.at_head: set[Watcher] = set()  # direct sinks, written to by ``_flush``
        self.waiting: set[Watcher] = set()  # all watchers; woken when something has changed
        self._log = log
        self._page_events = page_events
        self._page_bytes = page_bytes
        self.behind_bytes = behind_bytes  # unsent bytes above which a watcher goes back to the log
        self._ring: deque[Frame] = deque()
        self._ring_bytes = 0
        self._ring_mark = 0  # the newest id at the last ``age``
        self._pending: list[Frame] = []  # in the ring, not yet written to those at the head
        self._flush_due = False
        self._writing: _Writing | None = None  # what the last turns of the loop did not come to the end of
        self._known = 0  # the newest id that anybody has mentioned
        self._doubted = False  # somebody says that it was deleted
        self._pull: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether the trace has ended, as of the head."""
        return self.status in ENDED

    def begin(self, key: int, last_event_id: int, status: str) -> bool:
        """Tell a fresh channel where the log stands; to one that knows its head it is a hint.

        False: what was read is of a trace that has been replaced by another one since.
        """
        if self.key is not None and key < self.key:
            return False
        self.gone = False
        if self.head is None:
            self.key, self.head, self.status = key, last_event_id, status
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
        """A commit, of this process (with bodies) or another one (a hint)."""
        if self.head is None or self.gone:
            self.wake_all()  # somebody waits for the trace to exist
        elif grown.deleted or (grown.bodies and grown.trace_key != self.key):
            self._doubted = True
            self.hint(self.head, self.status)
        elif grown.bodies and grown.last_event_id - len(grown.bodies) == self.head and self._pull is None:
            self._push(grown.bodies, grown.status)
        else:
            self.hint(grown.last_event_id, grown.status)

    def hint(self, last_event_id: int, status: str) -> None:
        """The log may hold events up to ``last_event_id``."""
        self._known = max(self._known, last_event_id)
        if self.head is None or self._pull is not None:
            return
        if self._known > self.head or self._doubted:
            self._pull = asyncio.create_task(self._pull_from_log(), name=f"tracewatch-pull-{self.trace_id}")
        elif last_event_id == self.head and status != self.status:
            self.status = status
            self.wake_all()

    async def reached(self, event_id: int) -> None:
        """Wait until the head is at ``event_id``, which somebody has read in the log already."""
        self.hint(event_id, self.status)
        if self._pull is not None:
            await asyncio.shield(self._pull)

    async def _pull_from_log(self) -> None:
        try:
            while self.head is not None and (self._doubted or self.head < self._known):
                self._doubted = False
                try:
                    page = await self._log.read(
                        self.trace_id, self.head, max_events=self._page_events, max_bytes=self._page_bytes
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
                    if page.last_event_id > self.head:  # trimmed under us: those at the head find out from the log
                        self._restart(page.last_event_id, page.status)
                    continue
                status = page.status if page.upto == page.last_event_id else self.status
                self._push(page.bodies[max(0, self.head - page.after) :], status)
        except UnknownTrace:
            self.gone = True
            self.wake_all()
        finally:
            self._pull = None

    def close(self) -> None:
        """Nobody watches any more: stop asking the log."""
        self._forget_ring()
        if self._pull is not None:
            self._pull.cancel()

    def _restart(self, head: int, status: str) -> None:
        self._forget_ring()
        self._pending.clear()
        self.head, self.status = head, status
        for watcher in tuple(self.at_head):
            watcher.fall_behind()
        self.wake_all()

    def _push(self, bodies: list[bytes], status: str) -> None:
        assert self.head is not None
        for body in bodies:
            self.head += 1
            frame = Frame(self._log.epoch, self.head, body)
            self._ring.append(frame)
            self._ring_bytes += len(body)
            self.budget.take(len(body))
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
        if not self._ring or self._ring[0].event_id > cursor + 1 or self.head is None:
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
        """Called now and then: forget the frames that were already old the last time."""
        while self._ring and self._ring[0].event_id <= self._ring_mark:
            self._forget_oldest()
        self._ring_mark = self.head or 0

    def _forget_oldest(self) -> None:
        size = len(self._ring.popleft().body)
        self._ring_bytes -= size
        self.budget.give(size)

    def _forget_ring(self) -> None:
        self._ring.clear()
        self.budget.give(self._ring_bytes)
        self._ring_bytes = 0

    def wake_all(self) -> None:
        """Have every watcher look again."""
        for watcher in self.waiting:
            watcher.wake.set()

    def _flush(self) -> None:
        """Write what is pending to those at the head, some of them now and the others in the next turns of the loop."""
        if self._writing is None:
            frames, self._pending = self._pending, []
            self._writing = _Writing(frames, self.at_head if frames else ())
        writing = self._writing
        now = tuple(islice(writing.watchers, WATCHERS_AT_ONCE))
        for watcher in now:
            if watcher in self.at_head:  # else it has gone to read for itself meanwhile
                self._write(watcher, writing.frames, writing.chunks_for(watcher))
        if len(now) < WATCHERS_AT_ONCE:
            self._writing = None
            self._flush_due = bool(self._pending)
            if writing.frames:
                self._tell_the_others()
        if self._flush_due:
            asyncio.get_running_loop().call_soon(self._flush)

    def _tell_the_others(self) -> None:
        if self.ended:
            self.wake_all()  # those who asked to be told the end
        elif len(self.waiting) > len(self.at_head):
            for watcher in self.waiting - self.at_head:
                watcher.wake.set()

    def _write(self, watcher: Watcher, frames: list[Frame], chunks: list[tuple[int, int, bytes]]) -> None:
        read = watcher.cursor + 1 - frames[0].event_id  # it may have read some from the ring before this flush
        if read >= len(frames):
            return
        if read < 0:
            watcher.fall_behind()
            return
        if read:
            chunks = _chunks(frames[read:], watcher.wants)
        for upto, sent, data in chunks:
            sink = watcher.sink
            waiting = sink.buffered()
            if waiting > self.behind_bytes or waiting + len(data) > self.budget.share:
                watcher.fall_behind()
                return
            if data:
                sink.write(data)
                if sink.buffered():
                    self.budget.measure(sink)
            watcher.passed(upto, sent)


class _Writing:
    """Frames on their way to the watchers that stood at the head when it began."""

    __slots__ = ("_chunks", "frames", "watchers")

    def __init__(self, frames: list[Frame], watchers: Collection[Watcher]) -> None:
        self.frames = frames
        self.watchers = iter(tuple(watchers))  # those not yet written to
        self._chunks: dict[frozenset[str] | None, list[tuple[int, int, bytes]]] = {}

    def chunks_for(self, watcher: Watcher) -> list[tuple[int, int, bytes]]:
        chunks = self._chunks.get(watcher.types)
        if chunks is None:
            chunks = self._chunks[watcher.types] = _chunks(self.frames, watcher.wants)
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
