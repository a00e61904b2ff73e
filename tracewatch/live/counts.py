"""What fan-out has done since it began, as plain numbers. Whoever exports them reads them here.

Rule: counting is adding to a number, and never once for each watcher and event: a watcher counts for itself, and what
      it has counted is added up when it leaves or when somebody asks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class HubCounts:
    """What this process's hub has done."""

    started: int = 0  # watches begun
    delivered: int = 0  # events handed to watchers that have left
    fell_behind: int = 0  # how often a watcher was too slow for live
    resumes: Counter[str] = field(default_factory=Counter)  # ok, trimmed, reset, ahead


@dataclass(frozen=True, slots=True)
class HubLook:
    """How this process's watchers stand now."""

    states: dict[str, int]  # waiting (for its trace to exist), catching_up, at_head
    lags: list[int]  # events behind the newest one known here, of every watcher that has begun; ascending
    traces: int  # traces watched
    delivered: int  # events handed to watchers, those that have left included
    leaving: bool


@dataclass(slots=True)
class Progress:
    """How far one watch came; filled in when it ends."""

    cursor: str | None = None
    events: int = 0
