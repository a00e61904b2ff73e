"""Time: how much has passed, and what the server's clock says.

Rule 1: nothing here goes by this machine's time of day, which may be wrong or be set. While no server has told its own,
        there is nothing better.
Rule 2: the time in which the machine slept has passed.
"""

from __future__ import annotations

import time

from ..model.times import parse_time

# Linux has a clock of its own that counts while the machine sleeps; elsewhere the monotonic one does
_PASSING: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def passed_s() -> float:
    """Seconds since some moment, those in which the machine slept included, wherever its clock is set."""
    return time.monotonic() if _PASSING is None else time.clock_gettime(_PASSING)


class ServerClock:
    """The clock of a server, by the last time that the server has told."""

    def __init__(self) -> None:
        self._told: tuple[float, float] | None = None  # its time, and ``passed_s`` when it was heard

    def hear(self, ts: object) -> None:
        """Note the server's time, as its frames and answers have it in ``ts``. Anything else is no time."""
        if isinstance(ts, str):
            try:
                self._told = parse_time(ts), passed_s()
            except ValueError:
                pass  # a server of another version may mean something else by it

    def now(self) -> float:
        """Unix time in seconds by the server's clock; by this machine's while the server has told none."""
        return time.time() if self._told is None else self._told[0] + passed_s() - self._told[1]


class Silence:
    """How long a connection has been silent. A machine that wakes up was told nothing for as long as it slept.

    A connection is dead after the silence it is allowed and one more look at it: what came meanwhile is found first.
    """

    LOOKS = 5  # in the time allowed, and
    LONGEST_LOOK_S = 3.0  # no longer than this apart, so that waking up is noticed

    def __init__(self) -> None:
        self._heard_s = passed_s()
        self._late = False

    def heard(self) -> None:
        """Something came."""
        self._heard_s, self._late = passed_s(), False

    @classmethod
    def look_s(cls, allowed_s: float) -> float:
        """Seconds to wait for something before asking whether the connection is dead."""
        return min(allowed_s / cls.LOOKS, cls.LONGEST_LOOK_S)

    def is_dead(self, allowed_s: float) -> bool:
        """Whether a connection of which a look has found nothing is dead, ``allowed_s`` being the longest silence."""
        if self._late:
            return True
        self._late = passed_s() - self._heard_s >= allowed_s
        return False
