"""What to send next of one producer's events into one trace, and what to send in the place of one that is refused.

The recorder sends through this, and so do ``tracewatch import`` and whatever takes in runs of another make. No I/O.

Rule 1: answers come in the order of the appends. After any refusal nothing is sent until all that is in flight is
        answered; then sending goes on behind the last acknowledged event.
Rule 2: a batch is stored all or none, so a refused one is sent again in halves until the culprit stands alone.
Rule 3: an event that can never be stored leaves a substitute in its place, for its seq may not be missing.
"""

from __future__ import annotations

from collections import deque

import orjson

BATCH_EVENTS, BATCH_BYTES = 500, 512 * 1024
IN_FLIGHT = 16  # appends
_TRANSIENT = frozenset({"unavailable", "too_many", "unknown_trace", "unauthorized", "forbidden", "goaway"})
_UNSURE = frozenset({"error", "internal_error"})  # a fault of the server's: may pass, or may be this event for ever
_PATIENCE = 3


class LineBroken(Exception):
    """Sending on over this connection is of no use; over another, or later, it may be."""


class Window:
    """How far one producer has sent and is answered on one connection.

    ``acked``: the last seq that is known to be stored. ``in_flight``: so many appends may be unanswered at a time.
    """

    def __init__(self, acked: int, in_flight: int = IN_FLIGHT) -> None:
        self._most = in_flight
        self.next = acked + 1  # the seq to send next
        self._in_flight: deque[tuple[int, int]] = deque()  # (first seq, last seq) of each append
        self._draining = False
        self._doubtful_until = 0  # up to this seq a culprit is looked for: one append at a time
        self._piece = BATCH_EVENTS  # how many events go into such an append
        self.expected: int | None = None  # what the server said it wants, when there was a gap

    @property
    def in_flight(self) -> int:
        """Appends not yet answered."""
        return len(self._in_flight)

    def room(self) -> int:
        """How many events the next append may have; 0: wait for an answer."""
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
        """The server has everything up to ``seq``."""
        while self._in_flight and self._in_flight[0][1] <= seq:
            self._in_flight.popleft()
            self._piece = min(2 * self._piece, BATCH_EVENTS)

    def nacked(self, seq: int, code: str, expected: int | None, failures: int) -> int | None:
        """The append that begins with ``seq`` is refused with the error ``code``.

        ``expected``: the seq the log wants instead, where it said so. ``failures``: how often this very event was
        refused without a verdict, this time included. Returns the seq of an event that can never be stored, if that is
        what the refusal means. Raises LineBroken where only time can help.
        """
        while self._in_flight and self._in_flight[0][0] < seq:
            self._in_flight.popleft()
        if not self._in_flight or self._in_flight[0][0] != seq:
            raise LineBroken(f"an answer to an append that was not made: {seq}")
        first, last = self._in_flight.popleft()
        already, self._draining = self._draining, True
        if already:
            return None  # one of those behind a refused one
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
        """Whether a refusal is over and done with: all answered. Then sending goes on behind ``acked``."""
        if not self._draining or self._in_flight:
            return False
        self._draining = False
        self.next = acked + 1
        return True


def substitute(body: bytes, code: str, message: str, *, by: str = "recorder", whole_bytes: int = 0) -> bytes:
    """The event that takes the place of one that is refused: ``recorder_refused``, or ``import_refused``.

    ``body``: the refused one, its name first. It is kept whole in ``refused`` up to ``whole_bytes``; of a larger one
    the beginning is kept as text in ``original``.
    """
    name = body[10 : body.find(b'"', 10)].decode("utf-8", "replace")
    refused = {"event": f"{by}_refused", "original_event": name, "error": code, "message": message[:1000]}
    if len(body) <= whole_bytes:
        return orjson.dumps({**refused, "refused": orjson.loads(body)})
    return orjson.dumps({**refused, "original": body[:2000].decode("utf-8", "replace")})
