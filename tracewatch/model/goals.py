"""The rules of the goal tree (protocol, section 2): the effects of one goal's change on the others.

Rule 1: goals are dicts that are replaced, never changed in place, so that states can share them.
Rule 2: functions here return the changes, ``{goal_id: {key: new value}}``; ``state.apply`` makes them.
Rule 3: changes go upward in the tree, never downward.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

from .canonical import MAX_TOTAL
from .usage import summed_usage

Goal = dict[str, Any]
Changes = dict[str, dict[str, Any]]


class Family(NamedTuple):
    """The children of a goal, or those without a parent: the first and the last one, how many are open or completed."""

    first: str
    last: str
    open: int = 0
    completed: int = 0


Families = Mapping[str | None, Family]  # by parent

OPEN = frozenset({"pending", "in_progress"})
GOAL_STATUSES = ("pending", "in_progress", "completed", "abandoned")
_ALLOWED = {
    "pending": frozenset({"in_progress", "completed", "abandoned"}),
    "in_progress": frozenset({"completed", "abandoned"}),
    "completed": frozenset[str](),
    "abandoned": frozenset[str](),
}
PREVIEW_GROUPS = 5  # they fit beside a goal on a phone


def may_become(old: str, new: str) -> bool:
    """Whether a goal of status ``old`` may be updated to ``new``; the same status is always allowed."""
    return old == new or new in _ALLOWED[old]


def empty_stats() -> dict[str, Any]:
    """The stats of a goal without messages."""
    return {"message_count": 0, "total_tokens": 0, "total_cost": 0.0, "preview": ""}


def ancestors(goals: Mapping[str, Goal], goal_id: str | None) -> Iterator[Goal]:
    """The goals above ``goal_id``, nearest first."""
    goal = goals.get(goal_id) if goal_id is not None else None
    while goal is not None and goal["parent_id"] is not None:
        goal = goals[goal["parent_id"]]
        yield goal


def at_depth(goals: Mapping[str, Goal], goal_id: str, depth: int) -> str:
    """``goal_id``, or the goal above it that stands at ``depth`` where it stands deeper. A root is at depth 1."""
    goal, levels = goals[goal_id], 1
    while goal["parent_id"] is not None:
        goal, levels = goals[goal["parent_id"]], levels + 1
        if levels > depth:
            line: list[str] = [goal_id, *(one["id"] for one in ancestors(goals, goal_id))]
            return line[-depth]
    return goal_id


def cascade_up(
    goals: Mapping[str, Goal],
    families: Families,
    parent_id: str | None,
    was: str | None,
    status: str,
    reopened: Collection[str] = (),
) -> Changes:
    """The goals that become completed because a child of ``parent_id`` gets ``status`` (completed or abandoned).

    A parent becomes completed when all its children are completed or abandoned, at least one of them completed; and so
    on up to the root. ``goals`` and ``families`` are the tree before the change, in which the child ``was`` of another
    status (None: it is new). ``reopened``: goals that the same event makes in_progress first.
    """
    changed: Changes = {}
    while parent_id is not None:
        parent = goals[parent_id]
        family = families.get(parent_id)
        still_open, completed = (family.open, family.completed) if family is not None else (0, 0)
        still_open -= was in OPEN
        completed += (status == "completed") - (was == "completed")
        ended = parent["status"] not in OPEN and parent_id not in reopened
        if ended or still_open or not completed:
            break
        changed[parent_id] = {"status": "completed"}
        was, status, parent_id = parent["status"], "completed", parent["parent_id"]
    return changed


def reopen_up(goals: Mapping[str, Goal], parent_id: str | None) -> Changes:
    """The goals that reopen because a child is added to ``parent_id``, nearest first.

    If the parent is completed, it and all its completed ancestors reopen. An open or abandoned goal between them stays
    as it is; those above it reopen all the same.
    """
    if parent_id is None or goals[parent_id]["status"] != "completed":
        return {}
    above = (goal["id"] for goal in ancestors(goals, parent_id) if goal["status"] == "completed")
    return {goal_id: {"status": "in_progress"} for goal_id in (parent_id, *above)}


def current_after(goals: Mapping[str, Goal], current_id: str | None, started: str | None) -> str | None:
    """The id of the current goal after a change; ``goals`` is the tree after it.

    It is the goal just ``started``, else the old one while it is in_progress, else its nearest in_progress ancestor.
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
    cost: float | None,
    usage: Mapping[str, Any] | None = None,
    tool: str | None,
) -> Changes:
    """The new stats of ``goal_id`` and all its ancestors after a message was added or changed.

    ``messages``, ``tokens``, ``cost`` (in dollars) and the parts of ``usage`` are differences; ``tool`` names a tool
    that was called. A ``cost`` of 0 says that the sum of costs is known; None says nothing.
    """
    if goal_id is None or not (messages or tokens or usage or tool or cost is not None):
        return {}
    goal = goals[goal_id]
    changed: Changes = {
        goal_id: {
            "self_stats": _added(goal["self_stats"], messages, tokens, cost, usage, tool),
            "cumulative_stats": _added(goal["cumulative_stats"], messages, tokens, cost, usage, tool),
        }
    }
    for above in ancestors(goals, goal_id):
        changed[above["id"]] = {
            "cumulative_stats": _added(above["cumulative_stats"], messages, tokens, cost, usage, tool)
        }
    return changed


def plus(total: Any, more: float) -> Any:
    """A sum with one thing more: it stops at ``MAX_TOTAL``. One that is None had overflowed in an old log."""
    return MAX_TOTAL if total is None else min(total + more, MAX_TOTAL)


def _added(
    stats: Mapping[str, Any],
    messages: int,
    tokens: int,
    cost: float | None,
    usage: Mapping[str, Any] | None,
    tool: str | None,
) -> dict[str, Any]:
    count, total_tokens, total_cost = stats["message_count"], stats["total_tokens"], stats["total_cost"]
    # Rounding to 10 digits keeps errors of floats out of the sums. A correction can't make one negative.
    total_cost = max(0.0, round((total_cost or 0.0) + (cost or 0.0), 10))
    total_tokens = MAX_TOTAL if total_tokens is None else total_tokens + tokens
    if total_tokens > MAX_TOTAL or total_cost > MAX_TOTAL:
        total_tokens, total_cost = plus(total_tokens, 0), plus(total_cost, 0)
    sums = {
        "message_count": count + messages,
        "total_tokens": total_tokens,
        "total_cost": total_cost,
        "preview": extend_preview(stats["preview"], tool) if tool else stats["preview"],
    }
    used = summed_usage(stats.get("usage"), usage)
    if used is not None:
        sums["usage"] = used
    return sums


def extend_preview(preview: str, tool: str) -> str:
    """A goal's preview with one more tool: ``"read_file → edit_file"`` becomes ``"read_file → edit_file × 2"``.

    It keeps the last five different tools in a row.
    """
    tool = tool.replace("→", ">").replace("×", "x")
    groups = preview.split(" → ") if preview else []
    name, _, times = groups[-1].partition(" × ") if groups else ("", "", "")
    if groups and name == tool:
        groups[-1] = f"{tool} × {int(times or 1) + 1}"
    else:
        groups.append(tool)
    return " → ".join(groups[-PREVIEW_GROUPS:])


# --- the children of each goal ----------------------------------------------------------------------------------


def add_child(
    families: MutableMapping[str | None, Family], following: MutableMapping[str, str], goal: Goal, after_id: str | None
) -> None:
    """Put a new goal behind its sibling ``after_id``, or as its parent's last child.

    ``following``: the sibling behind each goal. Both mappings are changed; what that costs does not depend on how many
    siblings there are.
    """
    goal_id, parent_id = goal["id"], goal["parent_id"]
    family = families.get(parent_id) or Family(goal_id, goal_id)
    first, last, still_open, completed = family
    if last != goal_id:
        before = last if after_id is None else after_id
        if before == last:
            last = goal_id
        else:
            following[goal_id] = following[before]
        following[before] = goal_id
    families[parent_id] = Family(first, last, still_open, completed)
    count_status(families, parent_id, None, goal["status"])


def remove_child(families: MutableMapping[str | None, Family], following: MutableMapping[str, str], goal: Goal) -> None:
    """Take a goal out of its parent's children. Both mappings are changed."""
    goal_id, parent_id = goal["id"], goal["parent_id"]
    count_status(families, parent_id, goal["status"], None)
    first, last, still_open, completed = families[parent_id]
    behind = following.pop(goal_id, None) if goal_id != last else None
    if first == last:
        del families[parent_id]
        return
    if goal_id == first:
        first = behind or last
    else:
        before = first
        while following[before] != goal_id:
            before = following[before]
        if behind is None:
            last = before
            del following[before]
        else:
            following[before] = behind
    families[parent_id] = Family(first, last, still_open, completed)


def count_status(
    families: MutableMapping[str | None, Family], parent_id: str | None, was: str | None, status: str | None
) -> None:
    """Count in a parent's family that one of its children ``was`` of another status (None: it was not there)."""
    if was != status:
        first, last, still_open, completed = families[parent_id]
        still_open += (status in OPEN) - (was in OPEN)
        completed += (status == "completed") - (was == "completed")
        families[parent_id] = Family(first, last, still_open, completed)


def children_of(families: Families, following: Mapping[str, str], parent_id: str | None) -> list[str]:
    """The ids of a goal's children (None: of the roots), in the order to show them in."""
    family = families.get(parent_id)
    if family is None:
        return []
    found = [family.first]
    while found[-1] != family.last:
        found.append(following[found[-1]])
    return found


def in_display_order(goals: Mapping[str, Goal], families: Families, following: Mapping[str, str]) -> list[Goal]:
    """All goals in the order of the tree, depth first."""
    ordered: list[Goal] = []
    waiting = children_of(families, following, None)[::-1]
    while waiting:
        goal_id = waiting.pop()
        ordered.append(goals[goal_id])
        if goal_id in families:
            waiting.extend(reversed(children_of(families, following, goal_id)))
    return ordered
