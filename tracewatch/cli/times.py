"""Times on the command line: one clock for all commands.

Rule 1: on a terminal a time is the user's local time with its zone, and has its date where that is not today. In a pipe
        it is RFC 3339 in UTC, as the server gives it.
Rule 2: an event is at the time at which it happened. What the server wrote among events that came late happened with
        them.
Rule 3: a run of which no times are known (its metadata says ``"times": "none"``) has event numbers in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

LATE_S = 60.0  # what came so long after it happened came late


def shown(at: str, *, on_terminal: bool, milliseconds: bool = False) -> str:
    """An RFC 3339 time in UTC for a reader: ``14:05:01 CET``, ``2026-03-01 14:05:01 CET``; in a pipe as it is."""
    if not on_terminal:
        return at
    day, zone = day_of(at)
    return " ".join(
        part for part in ("" if is_today(day) else day, clock_of(at, milliseconds=milliseconds), zone) if part
    )


def day_of(at: str) -> tuple[str, str]:
    """The local date and the zone of a time: ``("2026-03-01", "CET")``."""
    moment = datetime.fromisoformat(at).astimezone()
    return f"{moment:%Y-%m-%d}", f"{moment:%Z}"


def is_today(day: str) -> bool:
    """Whether a local date is that of now."""
    return day == f"{datetime.now().astimezone():%Y-%m-%d}"


def clock_of(at: str, *, milliseconds: bool = True) -> str:
    """The local time of day: ``14:05:01.123``."""
    moment = datetime.fromisoformat(at).astimezone()
    return f"{moment:%H:%M:%S}" + (f".{moment.microsecond // 1000:03d}" if milliseconds else "")


def has_no_times(trace: Mapping[str, Any]) -> bool:
    """Whether of a run (its summary) no times are known, so that those of its import say nothing."""
    metadata = trace.get("metadata")
    return isinstance(metadata, Mapping) and metadata.get("times") == "none"


class OwnTimes:
    """When the events of one trace happened; told of them in their order."""

    def __init__(self) -> None:
        self._late = ""  # the time of the last recorder's event, if it came late

    def of(self, event: Mapping[str, Any]) -> str:
        """When this event, the next one, happened."""
        own = event.get("occurred_at")
        if own is None:
            return self._late or str(event["ts"])
        self._late = str(own) if seconds_between(own, event["ts"]) > LATE_S else ""
        return str(own)


def seconds_between(earlier: str, later: str) -> float:
    """Seconds from one time to another; below 0 where they are the other way round."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
