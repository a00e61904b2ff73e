"""From events to stdout: the filters and the forms of `tail`.

Rule 1: every event passes through its trace's narrator, shown or not, so that later ones can be told.
Rule 2: ``ndjson`` writes the stored bytes and a line feed, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .lines import EventLine, Narrator
from .screen import Screen
from .text import json_document


@dataclass(frozen=True)
class Filter:
    """Which events are shown. All that is set must hold."""

    types: frozenset[str] = frozenset()  # empty: all
    grep: re.Pattern[str] | None = None  # searched in what the text form says of the event
    errors: bool = False
    from_s: float | None = None  # Unix time

    @property
    def narrowing(self) -> bool:
        """Whether the user asked for some events only."""
        return bool(self.types or self.grep or self.errors)

    def matches(self, event: Mapping[str, Any], line: EventLine) -> bool:
        """Whether ``event``, told as ``line``, is to be shown."""
        if self.types and event["event"] not in self.types:
            return False
        if self.errors and not line.error:
            return False
        if self.from_s is not None and datetime.fromisoformat(line.at).timestamp() < self.from_s:
            return False
        return self.grep is None or self.grep.search(f"{line.role} [{line.goal}] {line.text} {line.note}") is not None


class EventWriter:
    """Takes events in order and writes those that match. ``write`` takes bytes; ``screen`` is for the text form."""

    def __init__(
        self, form: str, filter_: Filter, write: Callable[[bytes], object], screen: Screen, trace_id: str
    ) -> None:
        self._form = form
        self._filter = filter_
        self._write = write
        self._screen = screen
        # Text that streams in by pieces can only be searched, or be called an error, when it is whole.
        self._whole = form == "text" and filter_.grep is not None
        self._narrators: dict[str, Narrator] = {trace_id: Narrator(trace_id, whole=self._whole)}
        self._screen.agents[trace_id] = (0, "")

    def narrator(self, trace_id: str) -> Narrator:
        """The one that tells this trace."""
        narrator = self._narrators.get(trace_id)
        if narrator is None:
            narrator = self._narrators[trace_id] = Narrator(trace_id, whole=self._whole)
        return narrator

    def knows_agent(self, trace_id: str) -> bool:
        """Whether it is known whose sub-trace this is."""
        return trace_id in self._screen.agents

    def know_agents(self, trace_id: str, sub_traces: Iterable[Mapping[str, Any]]) -> None:
        """Learn the sub-traces of ``trace_id`` that were started before the first event taken."""
        depth, _ = self._screen.agents.get(trace_id, (0, ""))
        for sub in sub_traces:
            self._screen.agents[sub["trace_id"]] = (depth + 1, str(sub["agent_type"]))

    def take(self, event: Mapping[str, Any], body: bytes) -> None:
        """One event and its stored bytes."""
        narrator = self.narrator(event["trace_id"])
        if event["event"] == "sub_trace_started":
            sub = {"trace_id": event["sub_trace_id"], "agent_type": event.get("agent_type", "agent")}
            self.know_agents(event["trace_id"], [sub])
        if self._whole and event["event"] == "trace_completed":
            for line in narrator.unfinished(event):
                self._show(event, line, body)
        line_or_none = narrator.tell(event)
        if line_or_none is not None:
            self._show(event, line_or_none, body)

    def _show(self, event: Mapping[str, Any], line: EventLine, body: bytes) -> None:
        if not self._filter.matches(event, line):
            return
        if self._form == "ndjson":
            self._write(body + b"\n")
        elif self._form == "json":
            self._write(json_document(event))
        else:
            self._screen.show(line)

    def pause(self) -> None:
        """Something else is about to be written to the terminal: end the line that text was being put behind."""
        self._screen.close()

    def finish(self) -> None:
        """No more events come: write what was held back."""
        self._screen.finish()
