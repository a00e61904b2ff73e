"""What is stored of a trace beside its events: its row, and how it is shown in a list.

Rule: a value that can't be read (a column of another type, JSON that does not parse) takes nothing else with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any

import orjson

from ..model.canonical import MAX_TOTAL
from ..model.preview import preview, size_of
from ..model.state import State
from .sums import SUM_NAMES, Sums

# --- bounds of what is read at once ------------------------------------------------------------------------------

LISTED_BYTES = 8 * 1024  # of a trace's summary in a list, about; docs/protocol.md says it
READ_BYTES = 32 * 1024  # of a value that becomes a preview in a list: beyond that it is not read
PAGE_BYTES = 1024 * 1024  # of a page of summaries, messages or questions


# --- what can't be read ---------------------------------------------------------------------------------------

DAMAGED = {"damaged": True}  # is shown in the place of JSON that does not parse


def object_of(body: bytes | str | None) -> dict[str, Any]:
    """The JSON object in a row. What is none is damaged, and is shown so: one row never takes a list with it."""
    try:
        found = orjson.loads(body)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return dict(DAMAGED)
    return found if isinstance(found, dict) else dict(DAMAGED)


# --- the row -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class TraceRow:
    """What is stored of a trace beside its events. The names are those of the table's columns."""

    trace_key: int  # stands for the trace in other rows; a trace made again under the same id has a higher one
    trace_id: str
    spec: str  # what was asked for at creation, as JSON
    task: str
    agent_type: str
    parent_trace_id: str | None
    parent_goal_id: str | None
    root_trace_id: str
    metadata: str  # JSON
    status: str
    current_goal_id: str | None
    first_event_id: int
    last_event_id: int  # its head
    log_bytes: int  # of all its events, trimmed ones included
    total_messages: int
    total_tokens: int
    total_cost: float
    total_costed: int  # 1: its cost is known
    total_input: int  # tokens, as the parts of usage
    total_output: int
    total_cache_read: int
    total_cache_write: int
    total_reasoning: int
    tree_messages: int  # with sub-traces: the engine keeps these sums, or makes them when the row is read
    tree_tokens: int
    tree_cost: float
    tree_costed: int
    tree_input: int
    tree_output: int
    tree_cache_read: int
    tree_cache_write: int
    tree_reasoning: int
    created_at: str
    updated_at: str
    completed_at: str | None
    started_at: str  # as created_at while nothing has happened
    ended_at: str | None
    active_at: str
    session_id: str | None
    user_id: str | None
    tags: str  # JSON
    models: str  # JSON
    links: str  # JSON
    summary: str | None
    error: str | None  # JSON
    lease_s: float | None
    lease_expires_at: float | None  # by the steady clock
    apart: bool  # its parent was not there when it came, and nobody who may has put it there since
    moved: bool = False  # its parent became known later
    cover_key: int | None = None  # of one that was moved: the trace_key of what was its parent when it came

    # Not stored: the keys of values that are previews, and not the whole, as a row for a list has them
    cut: tuple[str, ...] = ()

    @property
    def above(self) -> str | None:
        """The trace that it is below; None where there is none, or only one that came to have its parent's id."""
        return None if self.apart else self.parent_trace_id

    def lease_alive(self, steady: float) -> bool:
        """Whether the recorder has no lease, or one that has not run out."""
        expires = self.lease_expires_at
        return not isinstance(expires, float | int) or expires > steady

    def shown_error(self) -> Any:
        """Its error, or what stands for one that can't be read."""
        return None if self.error is None else _json(self.error)

    def own(self) -> Sums:
        """Its sums without its sub-traces'."""
        return Sums(
            *[one if one <= MAX_TOTAL else MAX_TOTAL for one in _OWN(self)]
        )  # of an old log they may be anything

    def tree(self) -> Sums:
        """Its sums with its sub-traces'."""
        return Sums(*_TREE(self))

    def initial_state(self) -> State:
        """The state before the first event: as it was created, whatever was set later."""
        spec, metadata = object_of(self.spec), object_of(self.metadata)
        home = spec if self.moved else {"parent_trace_id": self.parent_trace_id, "parent_goal_id": self.parent_goal_id}
        given = spec.get("metadata") or {}
        return State(
            trace_id=self.trace_id,
            task=spec.get("task", self.task),
            agent_type=spec.get("agent_type", self.agent_type),
            parent_trace_id=home.get("parent_trace_id"),
            parent_goal_id=home.get("parent_goal_id"),
            root_trace_id=self.root_trace_id,
            created_at=self.created_at,
            updated_at=self.created_at,
            metadata=metadata if metadata == given else given,  # the row has them in their order
            session_id=spec.get("session_id"),
            user_id=spec.get("user_id"),
            tags=tuple(spec.get("tags", ())),
            links=tuple(spec.get("links", ())),
            started_at=spec.get("started_at"),
            first_event_id=self.first_event_id,
            last_event_id=self.first_event_id - 1,
        )

    def trace(self, steady: float) -> dict[str, Any]:
        """``Trace``, the summary, with the keys and the order of ``State.trace``.

        ``damaged`` names the columns that hold something else than they ought to, if there are any.
        """
        wrong = self.wrong_columns()
        row = replace(self, **{name: _INSTEAD[name](getattr(self, name)) for name in wrong}) if wrong else self
        shown = row._shown(steady)
        wrong += [name for name in ("error", "metadata") if shown[name] == DAMAGED and name not in wrong]
        if wrong:
            shown["damaged"] = wrong
        return shown

    def wrong_columns(self) -> list[str]:
        """The columns that hold a value of another type than they ought to."""
        values = zip(_NAMES, _KINDS, _VALUES(self), strict=True)
        return [name for name, kinds, value in values if type(value) not in kinds]

    def _shown(self, steady: float) -> dict[str, Any]:
        return {
            "trace_id": self.trace_id,
            "task": self.task,
            "agent_type": self.agent_type,
            "parent_trace_id": self.parent_trace_id,
            "parent_goal_id": self.parent_goal_id,
            "root_trace_id": self.root_trace_id,
            "status": self.status,
            "is_running": self.status in ("running", "waiting") and self.lease_alive(steady),
            "current_goal_id": self.current_goal_id,
            "first_event_id": self.first_event_id,
            "last_event_id": self.last_event_id,
            **self.own().totals(),
            "tree_totals": self.tree().totals(),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "completed_at": self.completed_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "active_at": self.active_at,
            "summary": self.summary,
            "error": self.shown_error(),
            "session_id": self.session_id,
            "user_id": self.user_id,
            "tags": list_of(self.tags),
            "models": list_of(self.models),
            **({} if self.links == "[]" else {"links": list_of(self.links)}),
            "metadata": object_of(self.metadata),
            **({"cut": list(self.cut)} if self.cut else {}),
        }

    def for_list(self, is_large: bool = False) -> TraceRow:
        """The row itself, its long values made previews. ``is_large``: its metadata was too large to be read."""
        if self.wrong_columns():
            return self  # it is shown as damaged
        is_large = is_large or len(self.metadata) > READ_BYTES
        if is_large:
            self.metadata = "{}"
        texts = (self.task, self.metadata, self.summary or "", self.error or "")
        cut = {"metadata"} if is_large else set[str]()
        if sum(map(len, texts)) > LISTED_BYTES // 6 and size_of(texts) > LISTED_BYTES:
            share = LISTED_BYTES // 8
            if (task := preview(self.task, share)) != self.task:
                self.task = task
                cut.add("task")
            if self.summary is not None and (summary := preview(self.summary, share)) != self.summary:
                self.summary = summary
                cut.add("summary")
            if self.error is not None and len(self.error) > share // 6:
                # What is not all of it is no JSON: its beginning is shown as text
                whole = len(self.error) <= READ_BYTES
                error = orjson.dumps(preview(_json(self.error) if whole else self.error, share)).decode()
                if error != self.error:
                    self.error = error
                    cut.add("error")
            if len(self.metadata) > share // 6:
                metadata = orjson.dumps(preview(object_of(self.metadata), share)).decode()
                if metadata != self.metadata:
                    self.metadata = metadata
                    cut.add("metadata")
        self.cut = tuple(sorted(cut))
        return self

    def listed_bytes(self) -> int:
        """About the bytes of its summary as JSON, rather too many than too few."""
        if self.wrong_columns():
            return 4 * READ_BYTES
        names = (self.trace_id, self.agent_type, self.parent_trace_id, self.parent_goal_id, self.root_trace_id)
        later = (self.session_id, self.user_id, self.tags, self.models, self.links)
        texts = (self.current_goal_id, self.task, self.metadata, self.summary, self.error)
        return 1200 + size_of((*names, *later, *texts))


TRACE_COLUMNS = tuple(field.name for field in fields(TraceRow) if field.name != "cut")


def list_of(text: str) -> list[Any]:
    """The list in a column of JSON; empty where there is none."""
    try:
        value = orjson.loads(text)
    except (ValueError, TypeError):
        return []
    return value if isinstance(value, list) else []


def _json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return dict(DAMAGED)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)


_TEXT: frozenset[type] = frozenset({str})
_MAYBE_TEXT: frozenset[type] = frozenset({str, type(None)})
_TEXTS = (
    *("trace_id", "task", "agent_type", "root_trace_id", "metadata"),
    *("created_at", "updated_at", "started_at", "active_at"),
)
_MAYBE_TEXTS = (
    *("parent_trace_id", "parent_goal_id", "current_goal_id", "session_id", "user_id"),
    *("completed_at", "ended_at", "summary", "error"),
)
_COUNTS = ("first_event_id", "last_event_id", *(f"total_{name}" for name in SUM_NAMES if name != "cost"))
_AMOUNTS = ("total_cost", *(f"tree_{name}" for name in SUM_NAMES))
# What a column holds, and what is shown in the place of anything else
_COLUMNS: dict[str, tuple[frozenset[type], Callable[[Any], Any]]] = {
    **dict.fromkeys(_TEXTS, (_TEXT, _text)),
    **dict.fromkeys(_MAYBE_TEXTS, (_MAYBE_TEXT, _text)),
    **dict.fromkeys(_COUNTS, (frozenset({int}), lambda _: 0)),
    **dict.fromkeys(_AMOUNTS, (frozenset({int, float}), lambda _: 0)),
    "status": (_TEXT, lambda _: "lost"),
    "lease_expires_at": (frozenset({int, float, type(None)}), lambda _: None),
}
_NAMES = tuple(_COLUMNS)
_KINDS = tuple(kinds for kinds, _ in _COLUMNS.values())
_INSTEAD = {name: instead for name, (_, instead) in _COLUMNS.items()}
_VALUES = attrgetter(*_NAMES)
_OWN, _TREE = (attrgetter(*(f"{of}_{name}" for name in SUM_NAMES)) for of in ("total", "tree"))
