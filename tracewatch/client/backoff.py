"""How long to wait before connecting again: full jitter, 0.5 s doubling to 20 s, so that the first retry is quick
and a thousand clients of one server do not come back as one."""

from __future__ import annotations

import random

FIRST_S, LONGEST_S = 0.5, 20.0


class Backoff:
    """The waits of one connection's retries."""

    def __init__(self) -> None:
        self.failures = 0  # in a row

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        longest = min(LONGEST_S, FIRST_S * 2.0 ** min(self.failures, 10))
        self.failures += 1
        return random.uniform(0, longest)

    def succeeded(self) -> None:
        """The connection works: the next failure is a first one."""
        self.failures = 0
