"""The goals that a recorder remembers: what a call costs does not depend on how many there are."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from tests.client.test_handles import events, new_trace, state
from tracewatch.client import book
from tracewatch.client.book import GoalBook
from tracewatch.client.trace import Trace
from tracewatch.model.canonical import MAX_GOAL_DEPTH, MAX_SUB_TRACE_DEPTH


def test_a_goal_among_very_many() -> None:
    """Completing one of 10,000 children took 12 ms."""
    many = GoalBook()
    many.add("top", None, "in_progress")
    for number in range(10_000):
        many.add(f"g{number}", "top", "pending")
    began = time.process_time()
    for number in range(9_999):
        assert many.become(f"g{number}", "completed")
    assert many.status_of("top") == "in_progress"
    assert many.become("g9999", "completed")
    assert many.status_of("top") == "completed"
    assert time.process_time() - began < 20
    many.add("late", "top", "pending")
    assert many.status_of("top") == "in_progress"


def test_old_goals_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have ended first: an agent that makes goals for days does not grow by them."""
    monkeypatch.setattr(book, "MOST_GOALS", 100)
    some = GoalBook()
    some.add("top", None, "in_progress")
    some.add("open", "top", "in_progress")
    some.add("waits", "open", "pending")
    for number in range(1_000):
        some.add(f"g{number}", "open", "in_progress")
        some.become(f"g{number}", "completed")
        some.add(f"below {number}", f"g{number}", "completed")
    assert len(some._goals) <= 101
    assert len(some._families) <= 101
    assert [some.status_of(goal_id) for goal_id in ("top", "g0", "g999")] == ["in_progress", None, "completed"]
    assert some.become("g0", "abandoned"), "the server decides about a goal that is not known"
    assert some.parent_of("open") == "top"
    assert some.status_of("open") == "in_progress"
    for number in range(1_000):
        some.add(f"h{number}", "top", "in_progress")
    assert len(some._goals) <= 101
    assert some.status_of("h999") == "in_progress"
    assert some.become("h999", "completed")


def test_goals_nest_as_deep_as_the_log_takes_them() -> None:
    """What is deeper stands at the deepest level, with what was meant beside it, and it is said."""
    t = new_trace()
    with t, ExitStack() as stack:
        goals = [stack.enter_context(t.goal(f"level {n}", id=f"g{n}")) for n in range(1, 301)]
        t.message("assistant", "deep")
        t.add_goal("planned", parent=goals[250], id="planned")
        t.add_goal("behind it", after="planned", id="behind")
    folded = state(t)
    assert len(folded.goals) == 302
    depth = {None: 0}
    for goal in folded.goal_tree()["goals"]:
        depth[goal["id"]] = depth[goal["parent_id"]] + 1
    assert max(depth.values()) == MAX_GOAL_DEPTH
    assert folded.goals["g101"]["parent_id"] == folded.goals["g300"]["parent_id"] == "g99"
    assert [folded.goals[one].get("wanted_parent_id") for one in ("g100", "g101", "g300", "planned", "behind")] == [
        *(None, "g100", "g299", "g251", None)
    ]
    said = [event for event in events(t) if event["event"] == "recorder_limited"]
    assert [(event["limit"], event["most"]) for event in said] == [("goal_depth", 100)]
    assert {goal["status"] for one, goal in folded.goals.items() if one.startswith("g")} == {"completed"}
    (message,) = folded.messages.values()
    assert message["goal_id"] == "g300"


def test_sub_traces_nest_as_deep_as_the_log_takes_them() -> None:
    line: list[Trace] = [new_trace()]
    with line[0].goal("top"):
        for _ in range(2 * MAX_SUB_TRACE_DEPTH):
            line.append(line[-1].sub_trace("deeper", metadata={"k": 1}))
    specs = [one._outbox.spec for one in line]
    level = {specs[0]["trace_id"]: 1}
    for spec in specs[1:]:
        level[spec["trace_id"]] = level[spec["parent_trace_id"]] + 1
    assert sorted(level.values())[-101:] == [MAX_SUB_TRACE_DEPTH] * 101
    last = specs[-1]
    assert last["parent_trace_id"] == line[MAX_SUB_TRACE_DEPTH - 2].trace_id
    assert last["metadata"] == {"k": 1, "wanted_parent_trace_id": line[-2].trace_id}
    assert [event["event"] for event in events(line[-1])] == ["recorder_limited"]
    assert specs[MAX_SUB_TRACE_DEPTH - 1]["metadata"] == {"k": 1}
    assert events(line[MAX_SUB_TRACE_DEPTH - 1]) == []
