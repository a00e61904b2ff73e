"""The writer of `tail`: it filters events and prints them in the form that the user wants.

Rule 1: the narrator of a trace gets every event, shown or not, because it needs them to tell later ones.
Rule 2: ``ndjson`` is the stored bytes of an event and a line feed, nothing else; a terminal gets escapes for what is
        not plainly visible.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .lines import EventLine, Narrator
from .screen import Screen, searched
from .text import json_document
from .times import has_no_times


@dataclass(frozen=True)
class Filter:
    """A filter of events. An event is shown if all conditions hold that are set."""

    types: frozenset[str] = frozenset()  # names of events; empty: all
    grep: re.Pattern[str] | None = None  # searched in the text as it is shown, whatever the form of the output
    errors: bool = False  # failures only
    from_s: float | None = None  # the time of the first event, by the server's clock as all these are

    @property
    def narrowing(self) -> bool:
        """Whether the user asked for some events only."""
        return bool(self.types or self.grep or self.errors)

    def matches(self, event: Mapping[str, Any], line: EventLine) -> bool:
        """Whether ``event``, whose text form is ``line``, is shown."""
        if self.types and event["event"] not in self.types:
            return False
        if self.errors and not line.error:
            return False
        if self.from_s is not None and datetime.fromisoformat(event["ts"]).timestamp() < self.from_s:
            return False
        return self.grep is None or self.grep.search(searched(line)) is not None


class EventWriter:
    """Takes events in order and writes those that match. ``write`` takes bytes; ``screen`` prints the text form."""

    def __init__(
        self, form: str, filter_: Filter, write: Callable[[bytes], object], screen: Screen, trace_id: str
    ) -> None:
        self._form = form
        self._filter = filter_
        self._write = write
        self._screen = screen
        # A streamed text can only be searched once it is whole. Its events wait for that, and are written together
        self._whole = filter_.grep is not None
        self._pieces: dict[tuple[str, str | None], list[tuple[Mapping[str, Any], bytes]]] = {}
        self._last: dict[str, Mapping[str, Any]] = {}  # the last event of each trace
        self._narrators: dict[str, Narrator] = {trace_id: Narrator(trace_id, whole=self._whole)}
        self._screen.agents[trace_id] = (0, "")

    def narrator(self, trace_id: str) -> Narrator:
        """The narrator of a trace."""
        narrator = self._narrators.get(trace_id)
        if narrator is None:
            narrator = self._narrators[trace_id] = Narrator(trace_id, whole=self._whole)
        return narrator

    def know_times(self, trace: Mapping[str, Any]) -> None:
        """Learn of a trace (its summary) whether it has times of its own, before its first event."""
        self.narrator(trace["trace_id"]).timeless = has_no_times(trace)

    def knows_agent(self, trace_id: str) -> bool:
        """Whether the agent of this trace, and so its parent, is known."""
        return trace_id in self._screen.agents

    def know_agents(self, trace_id: str, sub_traces: Iterable[Mapping[str, Any]]) -> None:
        """Learn the sub-traces of ``trace_id`` that began before the first event."""
        depth, _ = self._screen.agents.get(trace_id, (0, ""))
        for sub in sub_traces:
            self._screen.agents[sub["trace_id"]] = (depth + 1, str(sub["agent_type"]))

    def take(self, event: Mapping[str, Any], body: bytes) -> None:
        """Take one event and its stored bytes, and write it if it matches."""
        narrator = self.narrator(event["trace_id"])
        if event["event"] == "sub_trace_started":
            sub = {"trace_id": event["sub_trace_id"], "agent_type": event.get("agent_type", "agent")}
            self.know_agents(event["trace_id"], [sub])
        if self._whole and event["event"] == "trace_completed":
            self._tell_unfinished(event)
        line = narrator.tell(event)
        if line is not None:
            self._show(line, [*self._pieces.pop((line.trace_id, line.message_id), ()), (event, body)])
        elif self._form != "text":
            message_id = event.get("message_id") or event["message"]["message_id"]
            self._pieces.setdefault((event["trace_id"], message_id), []).append((event, body))
        if self._whole:
            self._last[event["trace_id"]] = event

    def _tell_unfinished(self, event: Mapping[str, Any]) -> None:
        for line in self.narrator(event["trace_id"]).unfinished(event):
            pieces = self._pieces.pop((line.trace_id, line.message_id), None)
            self._show(line, pieces or [(event, b"")])

    def _show(self, line: EventLine, told: list[tuple[Mapping[str, Any], bytes]]) -> None:
        """Write a line, which tells these events, or the events."""
        if self._form == "text":
            if self._filter.matches(told[-1][0], line):
                self._screen.show(line)
            return
        for event, body in told:
            if self._filter.matches(event, line):
                self._write(body + b"\n" if self._form == "ndjson" else json_document(event))

    def pause(self) -> None:
        """End the row of a streaming message, before something else is written to the terminal."""
        self._screen.close()

    def finish(self) -> None:
        """Write the lines that were held back, after the last event."""
        for event in self._last.values():
            self._tell_unfinished(event)
        self._last.clear()
        self._screen.finish()
