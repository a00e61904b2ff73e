"""The outbox: a recorder's events on their way to the log. They get a number when accepted and leave when acknowledged.

Rule 1: the acknowledged events are a prefix. After them come the events in the spool, and then those in memory:
        acked < spool < memory, without a hole. So reading in this order sends the events in their order.
Rule 2: ``accept`` is called by the agent's threads and does no I/O. Only the background thread touches the spool.
Rule 3: without room the newest events are not accepted. They are counted, and an event ``recorder_dropped`` reports
        them later.
Rule 4: an exception may come between any two lines of ``accept``: a signal handler raises. Its caller then calls
        it again with the same events and number, before anything else is accepted. So each line there may be repeated,
        and what counts is set in one statement without a call in it.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from .control import Control
from .spool import Spool, SpoolDir, SpoolError

SPILL_BYTES = 8 * 1024 * 1024  # more than this in memory goes to disk
HARD_BYTES = 64 * 1024 * 1024  # the most in memory, for bursts that are faster than the disk

_log = logging.getLogger("tracewatch")


def new_producer() -> str:
    """A new producer id, by which the log knows a recorder."""
    return secrets.token_hex(8)


class Outbox:
    """The events of one producer for one trace."""

    def __init__(
        self,
        spec: dict[str, Any],
        producer: str | None = None,
        *,
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
        self.closed_to_new = False  # the disk takes no more: memory is all there is
        self.after_fork: Callable[[], None] | None = None  # called in a forked child
        self._memory: dict[int, bytes] = {}  # seq → event, in order
        self._first = 1  # the seq of the first in memory
        self._bytes = 0
        self.unreported = 0  # dropped since the last recorder_dropped
        self._refused: Sequence[bytes] = ()  # the events that were dropped last
        self._base = 0  # what is taken off a seq on the wire, after the server has lost this producer's past
        self._replaced: dict[int, bytes] = {}  # what goes in the place of refused events
        self._lost = 0  # how many the server lost; told in the place of the last of them, the first under the new name
        self._disk = threading.Lock()  # at exit the main thread may write what the background thread could not
        self._done = threading.Condition(self.lock)
        self._warned: set[str] = set()

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

    def warn_once(self, about: str, text: str, *values: object) -> None:
        """Log a warning, but only the first one of its kind."""
        if about not in self._warned:
            self._warned.add(about)
            _log.warning(text, *values)

    # --- the agent's side ---

    def accept(self, bodies: Sequence[bytes], seq: int | None = None) -> bool:
        """Take events, all or none. Returns False if there is no room for them.

        ``seq``: the number that the first of them gets. If the outbox is beyond it, an interrupted call has taken them.
        """
        size = len(bodies[0]) if len(bodies) == 1 else sum(map(len, bodies))
        with self.lock:
            first = self.next_seq if seq is None else seq
            if first != self.next_seq:
                return True
            if self._bytes + size > (SPILL_BYTES if self.closed_to_new else HARD_BYTES):
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
            end = first + len(bodies)
            if self.next_seq == first:  # a signal handler that records may have been here in between
                self.next_seq, self._bytes, self.unreported = end, self._bytes + size, 0
            return True

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
        if self.spool is not None and seq <= self.spool.last_seq:
            try:
                return self.spool.read(seq, max_events, max_bytes)
            except SpoolError as error:
                self._give_up_spool(error)
                return []
        taken: list[bytes] = []
        size = 0
        with self.lock:
            for number in range(max(seq, self._first), min(seq + max_events, self.next_seq)):
                body = self._memory[number]
                size += len(body)
                if taken and size > max_bytes:
                    break
                taken.append(body)
        return taken

    def ack(self, seq: int) -> None:
        """Drop all events up to ``seq``, which the log has."""
        with self._done:
            if seq <= self.acked:
                return
            self.acked = min(seq, self.next_seq - 1)
            while self._first <= self.acked:
                self._bytes -= len(self._memory.pop(self._first))
                self._first += 1
            self._done.notify_all()
        self._replaced = {at: body for at, body in self._replaced.items() if at > self.acked}
        if self.spool is not None:
            if self.acked >= self.spool.last_seq:
                self.spool.remove()
                self.spool = None
                self.closed_to_new = False
            else:
                self.spool.forget(self.acked)

    def mark_created(self) -> None:
        """Note that the trace exists in the log."""
        with self._done:
            self.created = True
            self._done.notify_all()

    def spill(self, directory: SpoolDir, url: str) -> bool:
        """Move the events in memory to disk. Returns False, with one warning, if the disk does not take them."""
        with self._disk:
            return self._spill(directory, url)

    def _spill(self, directory: SpoolDir, url: str) -> bool:
        while True:
            with self.lock:
                bodies = list(islice(self._memory.values(), min(500, self.next_seq - self._first)))
            if not bodies:
                self.closed_to_new = False
                return True
            try:
                if self.spool is not None and self.spool.closed:
                    self.spool = directory.adopt(self.spool.path, url)  # unless another process delivers it by now
                if self.spool is None:
                    self.spool = directory.create(self._header(url), self._first)
                self.spool.append(bodies)
            except SpoolError as error:
                self.closed_to_new = True
                self.warn_once("dropped", "trace %s: events are kept in memory only and may be dropped: %s",
                               self.trace_id, error)  # fmt: skip
                return False
            with self.lock:
                for body in bodies:
                    del self._memory[self._first]
                    self._bytes -= len(body)
                    self._first += 1

    def _header(self, url: str) -> dict[str, Any]:
        after = self.after and [self.after[0].producer, self.after[1]]
        lost = self._lost if self.acked < self._base + 1 else 0  # not told yet
        name = {"producer": self.producer, "base": self._base, "lost": lost}
        return {"url": url, "spec": self.spec, **name, "after": after}

    def lost(self, count: int) -> None:
        """Report in the place of the last one that the server has lost the last ``count`` acknowledged events.

        The trace was deleted, or the database restored from a backup. The lost events are nowhere else.
        """
        with self.lock:
            self.renumber()
            self._base -= 1
            self.acked, self._lost = self._base, count

    def renumber(self) -> None:
        """Go on under a new name from 1."""
        self.producer = f"{self.producer.partition('.')[0]}.{self.acked + 1}"
        self._base = self.acked
        self._lost = 0

    def replaced(self, seq: int) -> bool:
        """Whether the event with this seq already stands in the place of a refused one."""
        return seq in self._replaced

    def replace(self, seq: int, body: bytes) -> None:
        """Put another event in the place of a refused one, because no seq may be missing."""
        self._replaced[seq] = body

    def _give_up_spool(self, error: SpoolError) -> None:
        spool, self.spool = self.spool, None
        assert spool is not None
        lost = spool.last_seq - self.acked
        _log.warning("trace %s: up to %d events are lost: %s", self.trace_id, lost, error)
        spool.damaged()
        with self._done:
            self.dropped += lost
            self.unreported += lost
            self.acked = self._first - 1
            self.renumber()
            self._done.notify_all()

    @classmethod
    def adopted(cls, spool: Spool, after: tuple[Outbox, int] | None = None) -> Outbox:
        """The outbox of a dead process, from the spool that it left."""
        outbox = cls(spool.header["spec"], spool.header["producer"], after=after)
        outbox.spool = spool
        outbox._base, outbox._lost = spool.header.get("base", 0), spool.header.get("lost", 0)
        outbox.acked = spool.first_seq - (2 if outbox._lost else 1)
        outbox.next_seq = outbox._first = spool.last_seq + 1
        outbox.ended = outbox.orphaned = True
        return outbox

    def start_over(self) -> None:
        """Start anew in a forked child. The parent sends the events accepted so far; the child is another producer."""
        if self.spool is not None:
            self.spool.close()
        ended, control, after_fork = self.ended, self.control, self.after_fork
        control.after_fork()
        self.__init__(self.spec, after=None, control=control)  # type: ignore[misc]
        self.ended, self.after_fork = ended, after_fork
        if after_fork is not None:
            after_fork()
