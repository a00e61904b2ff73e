"""What it means for the sums above when a goal or a message stands elsewhere from now on.

Rule 1: a move corrects the tree and is no progress: no status changes by it, neither of what moves nor above.
Rule 2: the stats that a move changes say whether their cost is known (``cost_known``), as a sum may become 0 by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .goals import PREVIEW_GROUPS, Changes, Families, Goal, add_to_stats, ancestors, children_of, plus
from .state import State, tool_name
from .usage import difference, summed_cost, summed_usage

Node = tuple[str, str]  # "goal" or "step", and its id


def around(state: State, goal_id: str | None, step_id: str | None) -> set[Node]:
    """The goals and steps that something there stands in, the two themselves among them."""
    found: set[Node] = set()
    waiting: list[tuple[str, str | None]] = [("goal", goal_id), ("step", step_id)]
    while waiting:
        kind, name = waiting.pop()
        if name is None or (kind, name) in found:
            continue
        found.add((kind, name))
        if kind == "goal" and name in state.goals:
            goal = state.goals[name]
            waiting += [("goal", goal["parent_id"]), ("step", goal.get("step_id"))]
        elif kind == "step" and name in state.steps:
            step = state.steps[name]
            waiting += [("goal", step["goal_id"]), ("step", step["step_id"])]
            holder = state.messages.get(step["message_id"] or "")
            waiting += [("step", holder.get("step_id"))] if holder is not None else []
    return found


def levels_below(families: Families, following: Mapping[str, str], goal_id: str) -> int:
    """How many goals stand below one another from this one on, itself included."""
    level, levels = [goal_id], 0
    while level:
        level, levels = [child for one in level for child in children_of(families, following, one)], levels + 1
    return levels


def goal_moved(state: State, goal: Goal, parent_id: str | None) -> Changes:
    """The new stats of all goals above the goal's old and new place."""
    goals: dict[str, Goal] = {}  # those that change

    def now(goal_id: str) -> Goal:
        return goals.get(goal_id) or state.goals[goal_id]

    moved = {goal["id"]: {**goal, "parent_id": parent_id}}
    for line in (_line(state, goal["parent_id"]), _line(state, parent_id)):
        for one in line:
            below = [name for name in state.children(one["id"]) if name not in moved]
            below += [goal["id"]] if one["id"] == parent_id else []
            stats = _summed([one["self_stats"], *(now(name)["cumulative_stats"] for name in below)])
            goals[one["id"]] = {**one, "cumulative_stats": stats}
    return {
        name: {"cumulative_stats": _told(one["cumulative_stats"])}
        for name, one in goals.items()
        if one["cumulative_stats"] != state.goals[name]["cumulative_stats"]
    }


def _line(state: State, goal_id: str | None) -> list[Goal]:
    return [] if goal_id is None else [state.goals[goal_id], *ancestors(state.goals, goal_id)]


def _summed(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    count, tokens, cost, usage, previews = 0, 0, None, None, []
    for stats in parts:
        count, tokens = plus(stats["message_count"], count), plus(stats["total_tokens"], tokens)
        cost, usage = summed_cost(cost, stats["total_cost"]), summed_usage(usage, stats.get("usage"))
        previews += [stats["preview"]] if stats["preview"] else []
    sums = {"message_count": count, "total_tokens": tokens, "total_cost": cost, "preview": joined(previews)}
    return sums if usage is None else {**sums, "usage": usage}


def joined(previews: list[str]) -> str:
    """The tools of several goals, one behind the other; those of the first ones may have gone."""
    groups: list[str] = []
    for group in " → ".join(previews).split(" → ") if previews else ():
        name, _, times = group.partition(" × ")
        before, _, count = groups[-1].partition(" × ") if groups else ("", "", "")
        if groups and before == name:
            groups[-1] = f"{name} × {int(count or 1) + int(times or 1)}"
        else:
            groups.append(group)
    return " → ".join(groups[-PREVIEW_GROUPS:])


def message_moved(
    state: State, before: Mapping[str, Any], after: Mapping[str, Any], *, counted: bool, counts: bool
) -> Changes:
    """The new stats of the goals of a message's old and new place, and of those above them.

    ``before``, ``after``: the message, and as it will be. ``counted``, ``counts``: whether it counts as one before and
    after.
    """
    gone = add_to_stats(
        state.goals,
        before["goal_id"],
        messages=-int(counted),
        tokens=-before.get("tokens", 0),
        cost=-before["cost"] if "cost" in before else None,
        usage=difference(None, before.get("usage")) or None,
        tool=None,
    )
    left = {one["id"]: one for one in _line(state, after["goal_id"])}
    for name in gone.keys() & left.keys():
        left[name] = {**left[name], **_known(state, name, gone[name])}
    come = add_to_stats(
        left,
        after["goal_id"],
        messages=int(counts),
        tokens=after.get("tokens", 0),
        cost=after.get("cost"),
        usage=after.get("usage"),
        tool=tool_name(after),
    )
    costed = "cost" in after
    found: Changes = {}
    for name in (*gone, *come):
        changed = {**gone.get(name, {}), **come.get(name, {})}
        stats = _known(state, name, changed, costed=costed and name in come)
        found[name] = {key: _told(one) for key, one in stats.items() if one != state.goals[name][key]}
    return {name: changed for name, changed in found.items() if changed}


def _known(state: State, name: str, changed: Mapping[str, Any], *, costed: bool = False) -> dict[str, Any]:
    """Stats whose cost is None where none was known before and none comes."""
    known: dict[str, Any] = {}
    for key, stats in changed.items():
        unknown = not costed and not stats["total_cost"] and state.goals[name][key]["total_cost"] is None
        known[key] = {**stats, "total_cost": None} if unknown else stats
    return known


def _told(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Stats as an event holds them: a number for the cost, and whether a 0 is known."""
    cost = stats["total_cost"]
    return {**stats, "total_cost": cost or 0.0, **({"cost_known": True} if cost == 0 and cost is not None else {})}
