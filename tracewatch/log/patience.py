"""How much reading may be done for whom: the work of one request, and the share of one client.

Rule 1: work is counted in seconds of a thread's CPU, so that a busy machine refuses nothing. A request that waits for
        the disk instead ends by the clock, five times as late.
Rule 2: a long read is done in slices. Between two of them others have their turn at the readers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

WORK_S = 2.0  # of one request; docs/protocol.md has it among the limits
SLICE_S = 0.1  # about how long one slice of a long read should be

# The client for which is read: its requests together have at most half of the readers. "": this process itself
CLIENT: ContextVar[str] = ContextVar("tracewatch-client", default="")


class TooLong(Exception):
    """A read took more work than its request may ask for."""


class Patience:
    """The work that is left of one request.

    patience = Patience()
    with patience.spending():
        rows = search()
    """

    def __init__(self, work_s: float = WORK_S) -> None:
        self._work_s = work_s
        self._clock_s = 5 * work_s
        self._until = (0.0, 0.0)  # of the slice under way, by both clocks

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count what is done within the block, all of it in one thread. Raises TooLong if nothing is left."""
        if self._work_s <= 0 or self._clock_s <= 0:
            raise TooLong
        began = time.thread_time(), time.monotonic()
        self._until = began[0] + self._work_s, began[1] + self._clock_s
        try:
            yield
        finally:
            self._work_s -= time.thread_time() - began[0]
            self._clock_s -= time.monotonic() - began[1]

    def is_over(self) -> bool:
        """Whether the block has taken all that was left. Called in its thread."""
        return time.thread_time() > self._until[0] or time.monotonic() > self._until[1]

    def check(self) -> None:
        """Raises TooLong if the block has taken all that was left."""
        if self.is_over():
            raise TooLong
