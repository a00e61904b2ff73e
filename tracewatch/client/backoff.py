"""How long to wait before connecting again: full jitter, 0.5 s doubling to 20 s, so that the first retry is quick
and a thousand clients of one server do not come back as one."""

from __future__ import annotations

import random

from .errors import ApiError

FIRST_S, LONGEST_S = 0.5, 20.0
REFUSED_S = 60.0  # a token that was refused is tried again this seldom


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


def patience_s(error: Exception) -> float:
    """How long to leave a server alone at the least: one that refuses our token will do so again."""
    if not isinstance(error, ApiError):
        return 0.0
    if error.status in (401, 403):
        return random.uniform(REFUSED_S / 2, REFUSED_S)
    asked = error.facts.get("retry_after_s") if error.status == 429 else None
    return min(float(asked), REFUSED_S) * random.uniform(1, 1.5) if isinstance(asked, int | float) else 0.0
