"""Questions as the events of a trace tell of them, to be compared with their rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ....model.state import Event
from ....model.times import parse_time


@dataclass(slots=True)
class Asked:
    """One question: what its row ought to hold beside its state."""

    event_id: int
    asked_at: str
    expires_at: float | None  # Unix time in seconds


@dataclass(slots=True)
class Questions:
    """All that were asked since the log's first event."""

    asked: dict[str, Asked] = field(default_factory=dict)  # by request_id
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        """Look at one event."""
        if event["event"] == "input_requested":
            expires = event["expires_at"]
            when = None if expires is None else parse_time(expires)
            self.asked[event["request_id"]] = Asked(event["event_id"], event["ts"], when)
        elif event["event"] == "input_provided":
            answer = {"value": event["value"], "by": event.get("by")}
            self.answers[event["request_id"]] = answer
