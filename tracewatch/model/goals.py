"""The goal tree's rules (protocol, section 2): what one change to one goal does to the others.

Rule 1: goals are dicts that are replaced, never changed in place, so that states can share them.
Rule 2: functions here return what changes, ``{goal_id: {key: new value}}``; ``state.apply`` puts it in.
Rule 3: nothing cascades downward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Goal = dict[str, Any]
Changes = dict[str, dict[str, Any]]
Children = Mapping[str | None, tuple[str, ...]]

OPEN = frozenset({"pending", "in_progress"})
_ALLOWED = {
    "pending": frozenset({"in_progress", "completed", "abandoned"}),
    "in_progress": frozenset({"completed", "abandoned"}),
    "completed": frozenset[str](),
    "abandoned": frozenset[str](),
}
PREVIEW_GROUPS = 5  # as many as fit beside a goal on a phone


def may_become(old: str, new: str) -> bool:
    """Whether a goal of status ``old`` may be updated to ``new``. Staying as it is always may."""
    return old == new or new in _ALLOWED[old]


def empty_stats() -> dict[str, Any]:
    """Stats of a goal without messages."""
    return {"message_count": 0, "total_tokens": 0, "total_cost": 0.0, "preview": ""}


def ancestors(goals: Mapping[str, Goal], goal_id: str | None) -> Iterator[Goal]:
    """The goals above ``goal_id``, nearest first."""
    goal = goals.get(goal_id) if goal_id is not None else None
    while goal is not None and goal["parent_id"] is not None:
        goal = goals[goal["parent_id"]]
        yield goal


def cascade_up(goals: Mapping[str, Goal], children: Children, goal_id: str, status: str) -> Changes:
    """What completes because ``goal_id`` has just got the status ``status`` (completed or abandoned).

    A parent whose children are all completed or abandoned, at least one of them completed, becomes completed, and
    so on to the root. ``goals`` is the tree before the change.
    """
    changed: Changes = {}
    now = {goal_id: status}
    for parent in ancestors(goals, goal_id):
        statuses = [now.get(child) or goals[child]["status"] for child in children.get(parent["id"], ())]
        if parent["status"] not in OPEN or "completed" not in statuses or any(s in OPEN for s in statuses):
            break
        now[parent["id"]] = "completed"
        changed[parent["id"]] = {"status": "completed"}
    return changed


def reopen_up(goals: Mapping[str, Goal], parent_id: str | None) -> Changes:
    """What reopens because a child is added under ``parent_id``: it, if completed, and then its completed ancestors.

    Nearest first. One that is open or abandoned between them stays as it is and hides nothing above it.
    """
    if parent_id is None or goals[parent_id]["status"] != "completed":
        return {}
    above = (goal["id"] for goal in ancestors(goals, parent_id) if goal["status"] == "completed")
    return {goal_id: {"status": "in_progress"} for goal_id in (parent_id, *above)}


def current_after(goals: Mapping[str, Goal], current_id: str | None, started: str | None) -> str | None:
    """The current goal once ``goals`` holds the change.

    The one just ``started``, else the old one while it is in_progress, else its nearest in_progress ancestor.
    """
    if started is not None:
        return started
    if current_id is None or goals[current_id]["status"] == "in_progress":
        return current_id
    return next((g["id"] for g in ancestors(goals, current_id) if g["status"] == "in_progress"), None)


def add_to_stats(
    goals: Mapping[str, Goal],
    goal_id: str | None,
    *,
    messages: int,
    tokens: int,
    cost: float,
    tool: str | None,
) -> Changes:
    """New stats of ``goal_id`` and all above it after a message came or changed by these differences."""
    if goal_id is None or not (messages or tokens or cost or tool):
        return {}
    goal = goals[goal_id]
    changed: Changes = {
        goal_id: {
            "self_stats": _added(goal["self_stats"], messages, tokens, cost, tool),
            "cumulative_stats": _added(goal["cumulative_stats"], messages, tokens, cost, tool),
        }
    }
    for above in ancestors(goals, goal_id):
        changed[above["id"]] = {"cumulative_stats": _added(above["cumulative_stats"], messages, tokens, cost, tool)}
    return changed


def _added(stats: Mapping[str, Any], messages: int, tokens: int, cost: float, tool: str | None) -> dict[str, Any]:
    return {
        "message_count": stats["message_count"] + messages,
        "total_tokens": stats["total_tokens"] + tokens,
        # 10 digits keep sums of floats from growing tails; never below zero through a correction
        "total_cost": max(0.0, round(stats["total_cost"] + cost, 10)),
        "preview": extend_preview(stats["preview"], tool) if tool else stats["preview"],
    }


def extend_preview(preview: str, tool: str) -> str:
    """``"read_file → edit_file"`` and ``"edit_file"`` give ``"read_file → edit_file × 2"``.

    The last five different tools in a row stay.
    """
    tool = tool.replace("→", ">").replace("×", "x")
    groups = preview.split(" → ") if preview else []
    name, _, times = groups[-1].partition(" × ") if groups else ("", "", "")
    if groups and name == tool:
        groups[-1] = f"{tool} × {int(times or 1) + 1}"
    else:
        groups.append(tool)
    return " → ".join(groups[-PREVIEW_GROUPS:])


def insert_child(siblings: tuple[str, ...], goal_id: str, after_id: str | None) -> tuple[str, ...]:
    """``siblings`` with ``goal_id`` behind ``after_id``, or last."""
    if after_id is None or after_id not in siblings:
        return (*siblings, goal_id)
    place = siblings.index(after_id) + 1
    return (*siblings[:place], goal_id, *siblings[place:])


def in_display_order(goals: Mapping[str, Goal], children: Children) -> list[Goal]:
    """All goals, depth first."""
    ordered: list[Goal] = []
    waiting = list(reversed(children.get(None, ())))
    while waiting:
        goal_id = waiting.pop()
        ordered.append(goals[goal_id])
        waiting.extend(reversed(children.get(goal_id, ())))
    return ordered
