"""The wait before a reconnect: random up to 0.5 s at first, doubling to 20 s. So the first retry is quick, and a
thousand clients of one server do not come back at the same moment."""

from __future__ import annotations

from random import SystemRandom

from .errors import ApiError

DICE = SystemRandom()  # not the numbers of the module, which are the agent's, and may have to be the same in each run
FIRST_S, LONGEST_S = 0.5, 20.0
REFUSED_S = 60.0  # time between two attempts with a refused token


class Backoff:
    """The waits of one connection's retries."""

    def __init__(self) -> None:
        self.failures = 0  # in a row

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        longest = min(LONGEST_S, FIRST_S * 2.0 ** min(self.failures, 10))
        self.failures += 1
        return DICE.uniform(0, longest)

    def succeeded(self) -> None:
        """Note that the connection works: the next failure counts as the first one."""
        self.failures = 0


def patience_s(error: Exception) -> float:
    """The least seconds until the next attempt: a server that refuses our token will refuse it again."""
    if not isinstance(error, ApiError):
        return 0.0
    if error.status in (401, 403):
        return DICE.uniform(REFUSED_S / 2, REFUSED_S)
    asked = error.facts.get("retry_after_s") if error.status == 429 else None
    return min(float(asked), REFUSED_S) * DICE.uniform(1, 1.5) if isinstance(asked, int | float) else 0.0
