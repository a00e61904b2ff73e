"""The window of one producer's appends into one trace: which events to send next.

The recorder sends through it, and so does ``tracewatch import``. No I/O.

Rule 1: answers come in the order of the appends. After a refusal nothing is sent until all appends in flight are
        answered; then sending goes on after the last acknowledged event.
Rule 2: a batch is stored all or none. So a refused one is sent again in halves, until the faulty event stands alone.
Rule 3: an event that can never be stored is replaced by another (``mend.py``), because its seq may not be missing.
"""

from __future__ import annotations

from collections import deque

BATCH_EVENTS, BATCH_BYTES = 500, 512 * 1024
IN_FLIGHT = 16  # appends
_TRANSIENT = frozenset({"unavailable", "too_many", "unknown_trace", "unauthorized", "forbidden", "goaway"})
_UNSURE = frozenset({"error", "internal_error"})  # faults of the server, which may pass or may come from this event
_PATIENCE = 3


class LineBroken(Exception):
    """This connection is of no more use. Sending over another one, or later, may work."""


class Window:
    """The sent and the answered appends of one producer on one connection.

    ``acked``: the last seq that is known to be stored. ``in_flight``: the most appends that may be unanswered.
    """

    def __init__(self, acked: int, in_flight: int = IN_FLIGHT) -> None:
        self._most = in_flight
        self.next = acked + 1  # the seq to send next
        self._in_flight: deque[tuple[int, int]] = deque()  # (first seq, last seq) of each append
        self._draining = False
        self._doubtful_until = 0  # up to this seq the faulty event is searched, with one append at a time
        self._piece = BATCH_EVENTS  # the number of events in such an append
        self.expected: int | None = None  # the seq that the server expects, after a gap

    @property
    def in_flight(self) -> int:
        """The number of appends that are not yet answered."""
        return len(self._in_flight)

    def room(self) -> int:
        """The most events that the next append may have; 0: wait for an answer first."""
        if self._draining or len(self._in_flight) >= self._most:
            return 0
        if self.next <= self._doubtful_until:
            return 0 if self._in_flight else min(self._piece, self._doubtful_until - self.next + 1)
        return BATCH_EVENTS

    def sent(self, events: int) -> int:
        """Note an append of so many events; returns its first seq."""
        first = self.next
        self.next += events
        self._in_flight.append((first, self.next - 1))
        return first

    def acked(self, seq: int) -> None:
        """Note that the server has stored all events up to ``seq``."""
        while self._in_flight and self._in_flight[0][1] <= seq:
            self._in_flight.popleft()
            self._piece = min(2 * self._piece, BATCH_EVENTS)

    def nacked(self, seq: int, code: str, expected: int | None, failures: int) -> int | None:
        """Note that the append that begins with ``seq`` is refused with the error ``code``.

        ``expected``: the seq that the log expects instead, if it said so. ``failures``: the number of such refusals of
        this event that decided nothing, this one included. Returns the seq of an event that can never be stored, if
        there is one. Raises LineBroken if only time can help.
        """
        while self._in_flight and self._in_flight[0][0] < seq:
            self._in_flight.popleft()
        if not self._in_flight or self._in_flight[0][0] != seq:
            raise LineBroken(f"an answer to an append that was not made: {seq}")
        first, last = self._in_flight.popleft()
        already, self._draining = self._draining, True
        if already:
            return None  # an append after a refused one
        if code == "sequence_gap":
            self.expected = expected
            return None
        if code in _TRANSIENT or (code in _UNSURE and failures < _PATIENCE):
            raise LineBroken(code)
        if first == last:
            return first
        self._doubtful_until = max(last, self._doubtful_until)
        self._piece = (last - first + 1) // 2
        return None

    def settle(self, acked: int) -> bool:
        """Go on after ``acked`` if all appends are answered after a refusal. Returns whether that is so."""
        if not self._draining or self._in_flight:
            return False
        self._draining = False
        self.next = acked + 1
        return True
