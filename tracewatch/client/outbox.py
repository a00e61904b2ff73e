"""The outbox: a recorder's events on their way to the log. They get a number when accepted and leave when acknowledged.

Rule 1: the acknowledged events are a prefix. The others are in the spool as soon as they are accepted, and the newest
        of them in memory as well, from where they are sent. What the disk does not take is in memory only.
Rule 2: ``accept`` is called by the agent's threads, and writes to the page cache (``spool.py``). Only the background
        thread reads files, makes them shorter and removes them.
Rule 3: without room the newest events are not accepted. They are counted, and an event ``recorder_dropped`` reports
        them later.
Rule 4: content that an event names is in the spool before the event, and is removed after its acknowledgement. What
        the disk does not take is not taken out of its event.
Rule 5: an exception may come between any two lines of ``accept``: a signal handler raises. Its caller then calls
        it again with the same events and number, before anything else is accepted. So each line there may be repeated,
        and what counts is set in one statement without a call in it.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..model.blobs import MARK
from ..model.contents import reference
from .control import Control
from .encode import encode
from .spool import Shelf, Spool, SpoolError

MEMORY_BYTES = 8 * 1024 * 1024  # of a trace's events in memory
TEXT_CHARS = 64 * 1024  # of streamed text in a line of the spool
UNNAMED_S = 600.0  # a content that no event came to name in so long goes: a signal handler has raised before that
DISK_AGAIN_S = 1.0  # time between two tries of a disk that takes nothing

_NAMES = re.compile(rb'"blob":"([0-9a-f]{64})"')
_log = logging.getLogger("tracewatch")


class Kept(NamedTuple):
    """A content in the spool."""

    path: Path
    seq: int  # of the last event that names it; 0: none yet
    coming: int  # calls that are going to name it
    at: float  # monotonic: when it was put there


def new_producer() -> str:
    """A new producer id, by which the log knows a recorder."""
    return secrets.token_hex(8)


class Outbox:
    """The events of one producer for one trace. ``shelf``: the place for its spool; None: memory is all there is."""

    def __init__(
        self,
        spec: dict[str, Any],
        producer: str | None = None,
        *,
        shelf: Shelf | None = None,
        after: tuple[Outbox, int] | None = None,
        control: Control | None = None,
    ) -> None:
        self.spec = spec  # to create the trace with; holds its trace_id, and "resume" if it has to be there already
        self.control = control or Control()
        self.producer = producer or new_producer()
        self.after = after  # the parent's outbox and how much of it has to be there before this trace is created
        self.lock = threading.RLock()  # reentrant: a signal handler may record as well
        self.acked = 0
        self.next_seq = 1
        self.dropped = 0
        self.created = False  # the trace is there
        self.ended = False  # nothing more is expected, though it may come
        self.orphaned = False  # its process is gone
        self.spool: Spool | None = None
        self._shelf = shelf
        self.after_fork: Callable[[], None] | None = None  # called in a forked child
        self._memory: dict[int, bytes] = {}  # seq → event, from _first to the last
        self._first = 1  # the seq of the first in memory
        self._bytes = 0
        self._loose = False  # whether the spool has text after the last event
        self._rested = 0  # the last seq at the last look, if all was acknowledged
        self._disk_at = 0.0  # monotonic: the disk is not tried again before
        self.unreported = 0  # dropped since the last recorder_dropped
        self._refused: Sequence[bytes] = ()  # the events that were dropped last
        self._base = 0  # what is taken off a seq on the wire, after the server has lost this producer's past
        self._replaced: dict[int, bytes] = {}  # what goes in the place of refused events
        self._lost = 0  # how many the server lost; told in the place of the last of them, the first under the new name
        self._kept: dict[str, Kept] = {}  # contents in the spool, by their SHA-256
        self._done = threading.Condition(self.lock)
        self._warned: set[str] = set()
        self.unsaid: deque[tuple[str, tuple[object, ...]]] = deque()  # warnings

    @property
    def trace_id(self) -> str:
        """The trace these events belong to."""
        return str(self.spec["trace_id"])

    @property
    def pending(self) -> int:
        """The number of events that are accepted and not acknowledged."""
        return self.next_seq - 1 - self.acked

    @property
    def memory_bytes(self) -> int:
        """The bytes of the events in memory."""
        return self._bytes

    @property
    def unsaved(self) -> int:
        """The number of events that only memory has."""
        with self.lock:
            saved = self.spool.last_seq if self.spool is not None else 0
            return self.next_seq - 1 - max(saved, self.acked)

    def warn_once(self, about: str, text: str, *values: object) -> None:
        """Log a warning, but only the first one of its kind. The lock must not be held."""
        if about not in self._warned:
            self._warned.add(about)
            _log.warning(text, *values)

    def say(self) -> None:
        """Log what there was to be said while the lock was held: logging runs handlers of the agent's."""
        while self.unsaid:
            text, values = self.unsaid.popleft()
            _log.warning(text, *values)

    def is_below(self, other: Outbox) -> bool:
        """Whether this is ``other``, or the outbox of a sub-trace of its."""
        above: Outbox | None = self
        while above is not None and above is not other:
            above = above.after[0] if above.after is not None else None
        return above is not None

    # --- the agent's side ---

    def accept(self, bodies: Sequence[bytes], seq: int | None = None) -> bool:
        """Take events, all or none: they are in the spool when this returns. Returns False if there is no room.

        ``seq``: the number that the first of them gets. If the outbox is beyond it, an interrupted call has taken them.
        """
        size = len(bodies[0]) if len(bodies) == 1 else sum(map(len, bodies))
        with self.lock:
            first = self.next_seq if seq is None else seq
            if first != self.next_seq:
                self._save()
                return True
            if self._bytes + size > MEMORY_BYTES:
                self.release()
                if self._bytes + size > MEMORY_BYTES:
                    count = len(bodies)
                    if bodies is not self._refused:
                        self._refused, self.dropped, self.unreported = (
                            bodies, self.dropped + count, self.unreported + count)  # fmt: skip
                    return False
            if self.unreported:
                bodies = [b'{"event":"recorder_dropped","count":%d}' % self.unreported, *bodies]
                self._warned.discard("dropped")
            for number, body in enumerate(bodies, first):
                self._memory[number] = body
            if self._kept:
                self._named(bodies, first)
            end = first + len(bodies)
            if self.next_seq == first:  # a signal handler that records may have been here in between
                self.next_seq, self._bytes, self.unreported = end, self._bytes + size, 0
            self._save()
            return True

    def keep(self, data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any] | None:
        """Put content into the spool, for an event to name: the reference to it; None where the disk does not take it.

        The lock must not be held: this takes as long as the content is large.
        """
        shelf = self._shelf
        if shelf is None or shelf.directory.missing or (self._disk_at and time.monotonic() < self._disk_at):
            return None
        named = reference(data, media_type, preview, **more)
        try:
            path = shelf.made_box().put_blob(self.producer, named["blob"], data)
        except SpoolError as error:
            with self.lock:
                self._disk_failed(error)
            self.say()
            return None
        with self.lock:
            known = self._kept.get(named["blob"]) or Kept(path, 0, 0, 0.0)
            self._kept[named["blob"]] = Kept(path, known.seq, known.coming + 1, time.monotonic())
        if not path.exists():  # an acknowledgement has removed it in between
            return self.keep(data, media_type, preview, **more)
        return named

    def _named(self, bodies: Sequence[bytes], first: int) -> None:
        """Note which contents these events name."""
        for seq, body in enumerate(bodies, first):
            if MARK in body:
                for found in set(_NAMES.findall(body)):
                    kept = self._kept.get(found.decode())
                    if kept is not None and kept.seq != seq:  # this line may be repeated
                        self._kept[found.decode()] = Kept(kept.path, seq, max(0, kept.coming - 1), kept.at)

    def blob_file(self, sha256: str) -> Path | None:
        """The file of a content that the log does not have yet; None if there is none."""
        kept = self._kept.get(sha256)
        if kept is not None:
            return kept.path
        spool = self.spool
        path = None if spool is None else spool.box.blob(self.producer, sha256)
        return path if path is not None and path.exists() else None

    def _drop_blobs(self) -> None:
        """Remove the contents that the log has, and those that no event has come to name."""
        box = self._shelf.box if self._shelf is not None else None
        old = time.monotonic() - UNNAMED_S
        for sha256, kept in list(self._kept.items()):
            if kept.seq <= self.acked and (not kept.coming or kept.at < old):
                del self._kept[sha256]
                if box is not None:
                    box.drop_blob(kept.path)

    def begin(self) -> None:
        """Have the trace itself in the spool, so that it is created if this process dies now."""
        with self.lock:
            if self._shelf is not None and self.spool is None and not self.created and not self.ended:
                self._save(begin=True)

    def hold_text(self, message_id: str, text: str) -> None:
        """Keep streamed text in the spool until it is an event: ``accept`` comes for it soon."""
        with self.lock:
            self._save()
            if self._shelf is None or self.unsaved or time.monotonic() < self._disk_at:
                return
            try:
                self._loose = True
                for start in range(0, len(text), TEXT_CHARS):
                    part = text[start : start + TEXT_CHARS]
                    self._spool_of(self._shelf).add_text(message_id, part, time.time())
            except SpoolError as error:
                self._disk_failed(error)

    def _save(self, *, begin: bool = False) -> None:
        """Write what the spool does not have: the last events, and before them what an earlier write did not.

        ``begin``: write also if there are none.
        """
        spool = self.spool
        have = self._first - 1 if spool is None else spool.last_seq
        if self._shelf is None or (have + 1 == self.next_seq and not begin):
            return
        if self._disk_at and time.monotonic() < self._disk_at:
            return
        try:
            spool = self._spool_of(self._shelf)
            spool.append([self._memory[seq] for seq in range(spool.last_seq + 1, self.next_seq)])
            self._loose = False
            self._disk_at = 0.0
        except SpoolError as error:
            self._disk_failed(error)

    def _spool_of(self, shelf: Shelf) -> Spool:
        if self.spool is None:
            self.spool = shelf.create(self._header(), self._first)
        return self.spool

    def _disk_failed(self, error: SpoolError) -> None:
        self._disk_at = time.monotonic() + DISK_AGAIN_S
        if self._shelf is not None and not self._shelf.told and not self._shelf.directory.missing:
            self._shelf.told = True
            said = "trace %s: events are kept in memory only and may be dropped: %s"
            if "dropped" not in self._warned:
                self._warned.add("dropped")
                self.unsaid.append((said, (self.trace_id, error)))

    def save_rest(self) -> None:
        """Write what a full disk did not take before."""
        with self.lock:
            self._save()

    def release(self) -> None:
        """Drop from memory what is on disk."""
        with self.lock:
            last = self.spool.last_seq if self.spool is not None else 0
            while self._first <= last and self._first < self.next_seq:
                self._drop_first()

    def _drop_first(self) -> None:
        seq = self._first
        size = len(self._memory.get(seq, b""))
        self._first, self._bytes = seq + 1, self._bytes - size
        self._memory.pop(seq, None)

    def wait_acked(self, seq: int, timeout_s: float | None) -> bool:
        """Wait until the trace is there and everything up to ``seq`` is acknowledged."""
        with (
            self.lock
        ):  # not _done, whose __enter__ is Python: a signal handler that raises there would leave it locked
            return self._done.wait_for(lambda: self.created and self.acked >= seq, timeout_s)

    # --- the background thread's side ---

    def wire_seq(self, seq: int) -> int:
        """The number of an event on the wire."""
        return seq - self._base

    def own_seq(self, wire_seq: int) -> int:
        """The number here of an event that the server names."""
        return wire_seq + self._base

    def take(self, seq: int, max_events: int, max_bytes: int) -> list[bytes]:
        """Events from ``seq`` on, from disk or memory: at most so many and so large, but one if there is any."""
        if self._lost and seq == self._base + 1:
            return [b'{"event":"recorder_lost","count":%d}' % self._lost]
        taken = self._read(seq, max_events, max_bytes)
        for refused, body in self._replaced.items():
            if 0 <= refused - seq < len(taken):
                taken[refused - seq] = body
        return taken

    def _read(self, seq: int, max_events: int, max_bytes: int) -> list[bytes]:
        taken: list[bytes] = []
        size = 0
        with self.lock:
            spool = self.spool
            if seq >= self._first or spool is None:
                for number in range(max(seq, self._first), min(seq + max_events, self.next_seq)):
                    body = self._memory[number]
                    size += len(body)
                    if taken and size > max_bytes:
                        break
                    taken.append(body)
                return taken
        try:
            return spool.read(seq, min(max_events, self._first - seq), max_bytes)
        except SpoolError as error:
            self._give_up_spool(error)
            return []

    def ack(self, seq: int) -> None:
        """Drop all events up to ``seq``, which the log has."""
        with self._done:
            if seq <= self.acked:
                return
            self.acked = min(seq, self.next_seq - 1)
            while self._first <= self.acked:
                self._drop_first()
            if self._kept:
                self._drop_blobs()
            if self.spool is not None:
                if self.spool.header.get("lost") and self.acked > self._base:
                    self._restate()  # the loss is told
                self._leave(self.spool)
            self._done.notify_all()
        if self._replaced:
            self._replaced = {at: body for at, body in self._replaced.items() if at > self.acked}

    def _leave(self, spool: Spool) -> None:
        """Have what is acknowledged leave the spool."""
        if self.acked < spool.last_seq:
            spool.forget(self.acked)
        elif not self._loose:
            if (self.ended and not self.pending) or self.acked > spool.last_seq:
                self.spool = None
                spool.remove()
            else:
                spool.forget(self.acked)

    def rest(self) -> None:
        """Remove the file of a trace in which nothing has happened since the last look, and all is acknowledged."""
        with self.lock:
            if self._kept:
                self._drop_blobs()
            last = self.next_seq - 1
            spool = self.spool
            if spool is None or last != self.acked or self._loose or not self.created:
                self._rested = -1
            elif self._rested == last:
                self.spool = None
                spool.remove()
            else:
                self._rested = last

    def finish(self) -> None:
        """Remove the file of a trace that is over, all of it being in the log."""
        with self.lock:
            if self.spool is not None and not self.pending and not self._loose:
                self.spool.remove()
                self.spool = None

    def mark_created(self) -> None:
        """Note that the trace exists in the log."""
        with self._done:
            self.created = True
            if self.spool is not None:
                self.spool.mark_created()
            self._done.notify_all()

    def _header(self) -> dict[str, Any]:
        after = self.after and [self.after[0].producer, self.after[1]]
        lost = self._lost if self.acked < self._base + 1 else 0  # not told yet
        name = {"producer": self.producer, "base": self._base, "lost": lost}
        return {"created": int(self.created), "spec": self.spec, **name, "after": after}

    def lost(self, count: int) -> None:
        """Report in the place of the last one that the server has lost the last ``count`` acknowledged events.

        The trace was deleted, or the database restored from a backup. The lost events are nowhere else.
        """
        with self.lock:
            self._rename()
            self._base -= 1
            self.acked, self._lost = self._base, count
            self._restate()

    def renumber(self) -> None:
        """Go on under a new name from 1."""
        with self.lock:
            self._rename()
            self._restate()

    def _rename(self) -> None:
        self.producer = f"{self.producer.partition('.')[0]}.{self.acked + 1}"
        self._base = self.acked
        self._lost = 0

    def _restate(self) -> None:
        """Write the new name into the spool."""
        if self.spool is not None:
            kept = {key: value for key, value in self.spool.header.items() if key in ("url", "host")}
            header = self._header() | kept
            self.spool.rewrite(header, self.acked + (2 if header["lost"] else 1))

    def replaced(self, seq: int) -> bool:
        """Whether the event with this seq already stands in the place of a refused one."""
        return seq in self._replaced

    def replace(self, seq: int, body: bytes) -> None:
        """Put another event in the place of a refused one, because no seq may be missing."""
        self._replaced[seq] = body

    def _give_up_spool(self, error: SpoolError) -> None:
        with self._done:
            spool, self.spool = self.spool, None
            assert spool is not None
            lost = self._first - 1 - self.acked
            self.unsaid.append(("trace %s: up to %d events are lost: %s", (self.trace_id, lost, error)))
            spool.damaged()
            self.dropped += lost
            self.unreported += lost
            self.acked = self._first - 1
            self.renumber()
            self._done.notify_all()

    @classmethod
    def adopted(cls, spool: Spool, after: tuple[Outbox, int] | None = None) -> Outbox:
        """The outbox of a dead process, from the spool that it left. Its streamed text becomes events first."""
        outbox = cls(spool.header["spec"], spool.header["producer"], after=after)
        outbox.spool = spool
        outbox._base, outbox._lost = spool.header.get("base", 0), spool.header.get("lost", 0)
        outbox.acked = spool.first_seq - (2 if outbox._lost else 1)
        outbox._first = outbox.next_seq = spool.last_seq + 1
        outbox._append_text(spool)
        outbox.ended = outbox.orphaned = True
        return outbox

    def _append_text(self, spool: Spool) -> None:
        texts: dict[str, list[str]] = {}
        for one in spool.loose:
            texts.setdefault(one["message_id"], []).append(one["text"])
        bodies: list[bytes] = []
        for message_id, parts in texts.items():
            event = {"event": "message_updated", "message_id": message_id, "append": "".join(parts)}
            (*_, at) = (one["at"] for one in spool.loose if one["message_id"] == message_id)
            bodies += encode(event, at)
        try:
            spool.append(bodies)
            self._first = self.next_seq = spool.last_seq + 1
        except SpoolError:  # then they are in memory
            self._memory = dict(enumerate(bodies, self._first))
            self.next_seq = self._first + len(bodies)
        spool.loose = []

    def let_go(self) -> None:
        """Leave the spool to other processes. Events that come even later are those of another producer."""
        with self.lock:
            self.save_rest()
            self.release()
            if self.spool is not None:
                self.spool.close()
                self.spool = None
                self.acked = self._first - 1
                self._rename()

    def start_over(self) -> None:
        """Start anew in a forked child. The parent sends the events accepted so far; the child is another producer."""
        if self.spool is not None:
            self.spool.abandon()
        ended, control, after_fork = self.ended, self.control, self.after_fork
        control.after_fork()
        self.__init__(self.spec, shelf=self._shelf, after=None, control=control)  # type: ignore[misc]
        self.ended, self.after_fork = ended, after_fork
        if after_fork is not None:
            after_fork()
