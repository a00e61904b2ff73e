"""The rules of the goal tree on their own; the vectors test their effects on whole traces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracewatch.model.goals import (
    Family,
    Goal,
    add_child,
    add_to_stats,
    ancestors,
    at_depth,
    cascade_up,
    children_of,
    count_status,
    current_after,
    empty_stats,
    extend_preview,
    in_display_order,
    may_become,
    reopen_up,
)

Families = dict[str | None, Family]


def tree(text: str) -> tuple[dict[str, Goal], Families, dict[str, str]]:
    """``"a:completed a.b:pending"``: ids are paths, in any order in which parents come first."""
    goals: dict[str, Goal] = {}
    families: Families = {}
    following: dict[str, str] = {}
    for word in text.split():
        goal_id, _, status = word.partition(":")
        parent_id = goal_id.rpartition(".")[0] or None
        goals[goal_id] = {
            "id": goal_id,
            "parent_id": parent_id,
            "status": status,
            "self_stats": empty_stats(),
            "cumulative_stats": empty_stats(),
        }
        add_child(families, following, goals[goal_id], None)
    return goals, families, following


def ids(goals: list[Goal]) -> list[str]:
    return [goal["id"] for goal in goals]


def test_transitions() -> None:
    statuses = ("pending", "in_progress", "completed", "abandoned")
    allowed = {(old, new) for old in statuses for new in statuses if old != new and may_become(old, new)}
    assert allowed == {
        *(("pending", "in_progress"), ("pending", "completed"), ("pending", "abandoned")),
        *(("in_progress", "completed"), ("in_progress", "abandoned")),
    }
    assert all(may_become(status, status) for status in statuses)


@pytest.mark.parametrize(
    ("text", "goal_id", "status", "completed"),
    [
        ("a:in_progress a.b:in_progress", "a.b", "completed", ["a"]),
        ("a:pending a.b:in_progress", "a.b", "completed", ["a"]),
        ("a:in_progress a.b:in_progress", "a.b", "abandoned", []),
        ("a:in_progress a.b:in_progress a.c:completed", "a.b", "abandoned", ["a"]),
        ("a:in_progress a.b:in_progress a.c:abandoned", "a.b", "completed", ["a"]),
        ("a:in_progress a.b:in_progress a.c:pending", "a.b", "completed", []),
        ("a:abandoned a.b:in_progress", "a.b", "completed", []),
        ("a:in_progress a.b:completed a.b.c:in_progress", "a.b.c", "completed", []),
        ("a:in_progress a.b:in_progress a.b.c:in_progress", "a.b.c", "completed", ["a.b", "a"]),
        ("a:in_progress", "a", "completed", []),
    ],
)
def test_the_cascade(text: str, goal_id: str, status: str, completed: list[str]) -> None:
    goals, families, _ = tree(text)
    goal = goals[goal_id]
    assert list(cascade_up(goals, families, goal["parent_id"], goal["status"], status).items()) == [
        (g, {"status": "completed"}) for g in completed
    ]


def test_the_cascade_of_a_new_goal_through_reopened_ones() -> None:
    goals, families, _ = tree("a:completed a.b:completed a.b.c:completed a.d:abandoned")
    reopened = reopen_up(goals, "a.b")
    assert list(reopened) == ["a.b", "a"]
    assert list(cascade_up(goals, families, "a.b", None, "completed", reopened)) == ["a.b", "a"]
    assert cascade_up(goals, families, "a.d", None, "completed", {}) == {}, "an abandoned goal stays as it is"


def test_a_family_is_counted() -> None:
    goals, families, _ = tree("a:in_progress a.b:in_progress a.c:completed a.d:pending a.e:abandoned")
    assert families["a"] == Family("a.b", "a.e", open=2, completed=1)
    count_status(families, "a", "in_progress", "completed")
    count_status(families, "a", "pending", "abandoned")
    assert families["a"] == Family("a.b", "a.e", open=0, completed=2)
    count_status(families, "a", "completed", "in_progress")
    assert families["a"] == Family("a.b", "a.e", open=1, completed=1)
    assert goals["a.b"]["status"] == "in_progress"


def test_the_goal_at_a_depth() -> None:
    goals, _, _ = tree("a:pending a.b:pending a.b.c:pending a.b.c.d:pending")
    assert [at_depth(goals, "a.b.c.d", depth) for depth in (1, 2, 3, 4, 5)] == [
        "a", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d"
    ]  # fmt: skip
    assert at_depth(goals, "a", 1) == "a"


@pytest.mark.parametrize(
    ("text", "parent_id", "reopened"),
    [
        ("a:completed", None, []),
        ("a:completed", "a", ["a"]),
        ("a:in_progress", "a", []),
        ("a:abandoned", "a", []),
        ("a:completed a.b:completed a.b.c:completed", "a.b.c", ["a.b.c", "a.b", "a"]),
        ("a:completed a.b:in_progress a.b.c:completed", "a.b.c", ["a.b.c", "a"]),
        ("a:completed a.b:abandoned a.b.c:completed", "a.b.c", ["a.b.c", "a"]),
        ("a:completed a.b:in_progress", "a.b", []),
    ],
)
def test_reopening(text: str, parent_id: str | None, reopened: list[str]) -> None:
    goals, _, _ = tree(text)
    assert list(reopen_up(goals, parent_id).items()) == [(g, {"status": "in_progress"}) for g in reopened]


def test_the_current_goal() -> None:
    goals, _, _ = tree("a:in_progress a.b:pending a.b.c:completed a.b.d:in_progress e:in_progress f:abandoned")
    assert current_after(goals, None, None) is None
    assert current_after(goals, "e", "a") == "a"
    assert current_after(goals, "a.b.d", None) == "a.b.d"
    assert current_after(goals, "a.b.c", None) == "a"
    assert current_after(goals, "f", None) is None
    assert ids(list(ancestors(goals, "a.b.c"))) == ["a.b", "a"]
    assert list(ancestors(goals, None)) == []


def test_display_order_is_depth_first_and_does_not_recurse() -> None:
    goals, families, following = tree("a:pending b:pending a.x:pending b.y:pending a.x.z:pending a.w:pending")
    assert ids(in_display_order(goals, families, following)) == ["a", "a.x", "a.x.z", "a.w", "b", "b.y"]
    deep: dict[str, Goal] = {str(n): {"id": str(n), "parent_id": str(n - 1) if n else None} for n in range(5_000)}
    chain: Families = {goal["parent_id"]: Family(goal_id, goal_id) for goal_id, goal in deep.items()}
    assert ids(in_display_order(deep, chain, {})) == [str(n) for n in range(5_000)]


@pytest.mark.parametrize(
    ("after", "order"), [(None, "abx"), ("a", "axb"), ("b", "abx")], ids=["last", "between", "behind the last"]
)
def test_where_a_child_is_put(after: str | None, order: str) -> None:
    _, families, following = tree("a:pending b:pending")
    x: Goal = {"id": "x", "parent_id": None, "status": "pending"}
    add_child(families, following, x, after)
    assert "".join(children_of(families, following, None)) == order
    add_child(families, following, {**x, "id": "y"}, "x")
    assert "".join(children_of(families, following, None)) == order.replace("x", "xy")
    add_child(families, following, {**x, "id": "z"}, None)
    assert "".join(children_of(families, following, None)) == order.replace("x", "xy") + "z"
    assert children_of(families, following, "a") == []


def test_stats_go_up_and_leave_the_old_ones() -> None:
    goals, _, _ = tree("a:in_progress a.b:in_progress c:pending")
    changed = add_to_stats(goals, "a.b", messages=1, tokens=3, cost=0.1, tool="ls")
    after = {"message_count": 1, "total_tokens": 3, "total_cost": 0.1, "preview": "ls"}
    assert changed == {"a.b": {"self_stats": after, "cumulative_stats": after}, "a": {"cumulative_stats": after}}
    assert goals["a.b"]["self_stats"] == empty_stats()
    assert add_to_stats(goals, "a.b", messages=0, tokens=0, cost=None, tool=None) == {}
    assert add_to_stats(goals, None, messages=1, tokens=1, cost=1.0, tool="ls") == {}
    below = add_to_stats(goals, "c", messages=0, tokens=0, cost=-1e-12, tool=None)
    assert str(below["c"]["self_stats"]["total_cost"]) == "0.0", "neither below zero nor minus zero"


@given(st.lists(st.sampled_from(["a", "b × 2", "c → d", "", "e"]).filter(bool), max_size=30))
def test_the_preview_says_the_last_five_runs(tools: list[str]) -> None:
    preview = ""
    for tool in tools:
        preview = extend_preview(preview, tool)
    runs: list[tuple[str, int]] = []
    for tool in (t.replace("→", ">").replace("×", "x") for t in tools):
        if runs and runs[-1][0] == tool:
            runs[-1] = (tool, runs[-1][1] + 1)
        else:
            runs.append((tool, 1))
    assert preview == " → ".join(name if times == 1 else f"{name} × {times}" for name, times in runs[-5:])
