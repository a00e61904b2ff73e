"""What the log has done since it was opened, as plain numbers, and how it stands. The metrics are made of them.

Rule 1: counting is adding to a number: nothing here locks, allocates or knows who reads it.
Rule 2: counters only grow; how things stand now is asked for (``look``) and costs a few indexed reads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..model.canonical import OPEN_STATUSES

COMMIT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
GROUP = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
LIVE = (*OPEN_STATUSES, "lost")  # the statuses that are counted: ended traces are any number


class Buckets:
    """A histogram: how many values were at most each of ``bounds``, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: above all bounds
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class LogCounts:
    """What this process has done with the log. ``code``: of errors.py."""

    events: int = 0  # stored and committed, those the server writes included
    bytes: int = 0  # of them, in their canonical form
    appends: int = 0  # answered as stored
    refused: Counter[str] = field(default_factory=Counter)  # appends answered with an error, by its code
    trims: int = 0  # logs made to begin later
    outdated: int = 0  # traces deleted for their age
    failed_groups: int = 0  # transactions that the database failed
    commit_s: Buckets = field(default_factory=lambda: Buckets(COMMIT_S))  # from BEGIN to after COMMIT
    group_jobs: Buckets = field(default_factory=lambda: Buckets(GROUP))  # jobs of one transaction


@dataclass(frozen=True, slots=True)
class LogLook:
    """How the log stands now, the same for every process that has it open."""

    db_bytes: int
    wal_bytes: int
    free_bytes: int  # on its disk, for us
    traces: dict[str, int]  # by status, those in LIVE
    leases: int  # recorders that have said they are alive and are expected to go on doing so
    open_inputs: int
