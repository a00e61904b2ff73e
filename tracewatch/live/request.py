"""What a watcher is asked for, and how much it may take at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What a client asked to watch."""

    trace_id: str
    since: str | None = None
    types: frozenset[str] | None = None  # only these events; None: all
    until_end: bool = False
    wait: bool = False  # the trace may not exist yet
    tagged: bool = False  # control frames carry trace_id, as on /api/watch
    quiet: bool = False  # no control frames at all, as in NDJSON; a gap raises instead
    follow: bool = True  # go on live; else end where the log stood at the start


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How much a watcher may take at once."""

    page_events: int = 500
    page_bytes: int = 128 * 1024
    frame_bytes: int = 512 * 1024
    heartbeat_s: float = 15.0
