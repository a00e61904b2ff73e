"""Folding for importer tests: the steps go through the model as in a server, which must refuse none of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tracewatch.importers import AppendEvent, CreateTrace, ImportFault, KeepContent, NextFile, Step, open_import
from tracewatch.importers.ledger import Ledger, steps_of
from tracewatch.model.blobs import references
from tracewatch.model.canonical import canonical, depth_exceeds
from tracewatch.model.contents import replaced, restored
from tracewatch.model.events import validate_event, validate_stored, validate_trace
from tracewatch.model.rules import complete
from tracewatch.model.state import State, apply_into

TS = "2026-11-20T08:00:00.123Z"
EVENT_LIMIT = 256 * 1024


@dataclass
class Imported:
    """The traces in the order they were created, each with its stored events, and what could not be read."""

    traces: dict[str, State] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[ImportFault] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)  # what is big or binary, by its SHA-256

    @property
    def root(self) -> State:
        return next(iter(self.traces.values()))

    @property
    def statuses(self) -> list[str]:
        return [state.status for state in self.traces.values()]

    @property
    def said(self) -> list[str]:
        """The faults as a person reads them."""
        return [str(fault) for fault in self.faults]

    def messages(self, trace_id: str | None = None) -> list[dict[str, Any]]:
        """A trace's messages as they stand at the end, whole; of the first trace when none is named."""
        return list(map(self.whole, self.traces[trace_id or self.root.trace_id].messages.values()))

    def whole(self, value: Any) -> Any:
        """A value with the contents that it refers to in their place."""
        return replaced(value, lambda ref: restored(ref, self.contents[ref["blob"]]))

    def names(self, trace_id: str | None = None) -> list[str]:
        return [event["event"] for event in self.events[trace_id or self.root.trace_id]]


def fold(steps: Iterable[Step]) -> Imported:
    """Take the steps as a server would; any refusal, oversized event or trace left open fails the test."""
    done = Imported()
    for step in steps_of(steps):
        if isinstance(step, ImportFault):
            done.faults.append(step)
        elif isinstance(step, NextFile):
            pass
        elif isinstance(step, CreateTrace):
            _create(done, step)
        elif isinstance(step, KeepContent):
            assert step.trace_id in done.traces
            done.contents[hashlib.sha256(step.data).hexdigest()] = step.data
        else:
            assert isinstance(step, AppendEvent)
            assert len(orjson.dumps(step.event)) <= EVENT_LIMIT
            assert not depth_exceeds(step.event)
            _append(done, step.trace_id, step.event)
    for state in done.traces.values():
        assert state.ended, state.trace_id
        assert all(message["status"] == "complete" for message in state.messages.values())
    return done


class Log:
    """A log into which a source is imported more than once. ``take`` returns how many events were new."""

    def __init__(self) -> None:
        self.done = Imported()

    def take(self, steps: Iterable[Step]) -> int:
        ledgers = {trace_id: self._ledger(trace_id) for trace_id in self.done.traces}
        before = sum(map(len, self.done.events.values()))
        for step in steps_of(steps, ledgers):
            if isinstance(step, CreateTrace):
                _create(self.done, step)
            elif isinstance(step, KeepContent):
                self.done.contents[hashlib.sha256(step.data).hexdigest()] = step.data
            elif isinstance(step, AppendEvent):
                _append(self.done, step.trace_id, step.event)
        return sum(map(len, self.done.events.values())) - before

    def _ledger(self, trace_id: str) -> Ledger:
        ledger = Ledger(trace_id, spec=dict(self.done.specs[trace_id]))
        for event in self.done.events[trace_id]:
            ledger.absorb(event)
        return ledger


def _create(done: Imported, step: CreateTrace) -> None:
    spec = validate_trace(step.spec)
    trace_id, parent_id = spec["trace_id"], spec["parent_trace_id"]
    assert trace_id not in done.traces
    done.traces[trace_id] = State(trace_id, task=spec["task"], agent_type=spec["agent_type"], metadata=spec["metadata"])
    done.events[trace_id], done.specs[trace_id] = [], spec
    done.traces[trace_id].started_at = spec.get("started_at") or None
    if parent_id is not None:
        parent = done.traces[parent_id]
        goal_id = spec["parent_goal_id"] or parent.current_goal_id
        assert goal_id is None or goal_id in parent.goals
        started = {"sub_trace_id": trace_id, "parent_goal_id": goal_id}
        _append(
            done,
            parent_id,
            {"event": "sub_trace_started", **started, "agent_type": spec["agent_type"], "task": spec["task"]},
            by_server=True,
        )


def _append(done: Imported, trace_id: str, event: dict[str, Any], *, by_server: bool = False) -> None:
    state = done.traces[trace_id]
    assert references(event).keys() <= done.contents.keys()
    checked = validate_event(event, by_server=by_server)
    stored = complete(state, checked, event_id=state.last_event_id + 1, ts=TS)
    body = canonical(stored)
    assert len(body) <= EVENT_LIMIT
    validate_stored(orjson.loads(body))
    apply_into(state, stored)
    done.events[trace_id].append(stored)
    parent_id = done.specs[trace_id]["parent_trace_id"]
    if stored["event"] == "trace_completed" and parent_id is not None:
        ended = {
            "sub_trace_id": trace_id,
            "status": state.status,
            "summary": state.summary,
            "stats": state.tree_totals(),
        }
        _append(done, parent_id, {"event": "sub_trace_completed", **ended}, by_server=True)


def import_text(folder: Path, text: str, format: str = "auto", name: str = "file.json") -> Imported:
    """Write ``text`` to a file and import it."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return fold(open_import(path, format))


def import_json(folder: Path, value: Any, format: str = "auto") -> Imported:
    """Write ``value`` as a JSON document and import it."""
    return import_text(folder, orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(), format)


def import_lines(folder: Path, *rows: Any, format: str = "auto") -> Imported:
    """Write JSONL, a string being a line as it is, and import it."""
    lines = [row if isinstance(row, str) else orjson.dumps(row).decode() for row in rows]
    return import_text(folder, "\n".join(lines) + "\n", format, "file.jsonl")
