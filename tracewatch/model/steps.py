"""Steps: what a run does that is neither goal nor message, such as a node of a graph, a turn, a retry or a guardrail.

Rule 1: a step stands in a step or in a message, or in neither, and belongs to a goal, or to none, as a message does.
Rule 2: a state holds the named keys of a step. What else its events say stays in the log.
Rule 3: steps are dicts that are replaced, never changed in place, so that states can share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .times import time_of

Step = dict[str, Any]
Steps = Mapping[str, Step]

PLACE = ("goal_id", "step_id", "message_id")  # where a step stands
_ALWAYS = ("name", "kind", *PLACE, "status")
_GIVEN = ("started_at", "ended_at", "input", "output", "error")


def added_step(event: Mapping[str, Any]) -> Step:
    """The step of a stored ``step_added``, as a state holds it."""
    given = event["step"]
    step = {"id": given["id"], **{key: given[key] for key in _ALWAYS}, "event_id": event["event_id"]}
    return _timed(step | {key: given[key] for key in _GIVEN if given.get(key) is not None}, event)


def updated_step(step: Mapping[str, Any], event: Mapping[str, Any]) -> Step:
    """A step after a stored ``step_updated``."""
    patch = event["patch"]
    new = {**step, **{key: patch[key] for key in (*_ALWAYS, *_GIVEN) if key in patch}}
    if new["status"] != step["status"] and "ended_at" not in patch:
        new["ended_at"] = None  # of another status than before: it ends now, or it has not ended
    return _timed(new, event)


def _timed(step: Step, event: Mapping[str, Any]) -> Step:
    """``step``, the caller's own, with the times that follow from its status."""
    if not step.get("started_at"):
        step["started_at"] = step.get("ended_at") or time_of(event)
    ended = None if step["status"] == "running" else step.get("ended_at") or time_of(event)
    step["ended_at"] = None if ended is None else max(ended, step["started_at"])
    return step


def status_of(given: Mapping[str, Any], status: str = "running") -> str:
    """The status of a step that says none: failed with an error, completed with an end, else as it is."""
    if given.get("error") is not None:
        return "failed"
    return "completed" if given.get("ended_at") and status == "running" else status


def above(steps: Steps, step_id: str | None) -> Iterator[Step]:
    """The step and those that it stands in, nearest first."""
    step = steps.get(step_id) if step_id is not None else None
    while step is not None:
        yield step
        step = steps.get(step["step_id"]) if step["step_id"] is not None else None


def height(steps: Steps, step_id: str) -> int:
    """How many steps stand in one another from this one on, itself included."""
    within: dict[str | None, list[str]] = {}
    for step in steps.values():
        within.setdefault(step["step_id"], []).append(step["id"])
    level, levels = [step_id], 0
    while level:
        level, levels = [one for name in level for one in within.get(name, ())], levels + 1
    return levels
