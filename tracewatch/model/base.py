"""The base: the state that a trimmed log begins with, as the header of an export carries it.

Rule: a base may come from anywhere. One that passes ``read_base`` can be shown, and events can be folded onto it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..errors import Invalid, InvalidField
from .canonical import canonical
from .payloads import Count, FullGoal, FullStep, Id, Status, Time, Totals, TraceId, UsageTotals
from .state import State

_LOOSE = ConfigDict(extra="allow", strict=True)


class SubTrace(TypedDict):
    """A sub-trace, as its parent's log knows it."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    trace_id: TraceId
    parent_goal_id: Id | None
    agent_type: str
    task: str
    status: Status
    summary: str | None
    stats: Totals
    started_event_id: Count
    error: NotRequired[Any]
    started_at: NotRequired[Time | None]
    ended_at: NotRequired[Time | None]


class OpenQuestion(TypedDict):
    """An open question."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    request_id: Id
    question: str
    goal_id: Id | None
    requested_at: Time
    expires_at: Time | None
    options: NotRequired[list[Any] | None]
    schema: NotRequired[dict[str, Any] | None]


class KeptStep(FullStep):
    """A step, as a state holds it."""

    event_id: Count


class Base(Totals):
    """The state as of ``first_event_id - 1``, without the fields that the header has anyway."""

    status: Status
    current_goal_id: Id | None
    updated_at: Time
    completed_at: Time | None
    summary: str | None
    error: Any
    usage: NotRequired[UsageTotals]
    models: NotRequired[list[str]]
    started_at: NotRequired[Time | None]
    ended_at: NotRequired[Time | None]
    active_at: NotRequired[Time | None]
    goals: list[FullGoal]
    sub_traces: list[SubTrace]
    pending_inputs: list[OpenQuestion]
    in_flight: NotRequired[Count]
    steps: NotRequired[list[KeptStep]]


_BASE: TypeAdapter[Any] = TypeAdapter(Base)
_OF_TRACE = (
    "status",
    "current_goal_id",
    "updated_at",
    "completed_at",
    "summary",
    "error",
    "total_messages",
    "total_tokens",
    "total_cost",
)


_SELDOM = ("in_flight", "steps")  # beside the trace, where there is something
_LATER = ("usage", "models", "started_at", "ended_at", "active_at")  # keys that an export of the version before lacks


def make_base(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The base from the answer of ``GET /api/traces/{id}?at_event_id=`` for ``first_event_id - 1``."""
    return {
        **{key: answer["trace"][key] for key in (*_OF_TRACE, *_LATER) if key in answer["trace"]},
        "goals": answer["goal_tree"]["goals"],
        "sub_traces": answer["sub_traces"],
        "pending_inputs": answer["pending_inputs"],
        **{key: answer[key] for key in _SELDOM if key in answer},
    }


def read_base(raw: Any) -> dict[str, Any]:
    """Check the ``base`` of an export and return it. Raises InvalidField with the path of each fault."""
    try:
        canonical({"base": raw})  # refuses values that JSON can't hold and too deep nesting
        base: dict[str, Any] = _BASE.validate_python(raw)
    except ValidationError as error:
        faults = [
            {"path": ".".join(("trace.base", *map(str, fault["loc"]))), "message": fault["msg"]}
            for fault in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidField(f"{faults[0]['path']}: {faults[0]['message']}", details=faults) from error
    except Invalid as error:
        raise InvalidField(f"trace.base: {error.message}") from error
    seen: set[str | None] = {None}
    for goal in base["goals"]:
        if goal["id"] in seen or goal["parent_id"] not in seen:
            raise _fault("goals", f"goal {goal['id']!r} is there twice or before its parent")
        seen.add(goal["id"])
    if base["current_goal_id"] not in seen:
        raise _fault("current_goal_id", "is no goal")
    return base


def _fault(key: str, message: str) -> InvalidField:
    path = f"trace.base.{key}"
    return InvalidField(f"{path}: {message}", details=[{"path": path, "message": message}])


def put_base(state: State, base: Mapping[str, Any]) -> State:
    """A copy of ``state``, which has no events yet, with the contents of ``base``."""
    after = state.copy()
    for key in _OF_TRACE:
        setattr(after, key, base[key])
    if "active_at" not in base and not base["total_cost"]:
        after.total_cost = None  # the version before wrote 0 for what it did not know
    for key in _LATER:
        if key in base:
            setattr(after, key, tuple(base[key]) if key == "models" else base[key])
    after.in_flight = base.get("in_flight", 0)
    after.steps = {step["id"]: step for step in base.get("steps", ())}
    for goal in base["goals"]:
        after.add_goal(goal)
    after.sub_traces = {sub["trace_id"]: sub for sub in base["sub_traces"]}
    after.pending_inputs = {asked["request_id"]: asked for asked in base["pending_inputs"]}
    return after
