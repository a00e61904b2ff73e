"""The fold of any accepted events: it never fails, and the protocol's sums and shapes hold after each event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.model.vectors_run import shown, without_messages
from tracewatch.errors import TracewatchError
from tracewatch.model.canonical import STATUSES, canonical, parse_json
from tracewatch.model.events import validate_event, validate_stored
from tracewatch.model.layered import Layered
from tracewatch.model.rules import complete
from tracewatch.model.state import State, apply, apply_into
from tracewatch.model.steps import above
from tracewatch.model.times import format_time
from tracewatch.model.usage import PARTS

Json = dict[str, Any]
a_few = settings(max_examples=60)

BEGINNINGS = ["in_progress", "in_progress", "pending", "completed", "abandoned"]
NEXT = {"pending": "in_progress", "in_progress": "completed"}
costs = st.sampled_from([0, 0.1, 0.2, 0.25, 1e-7, 3.3333333333, 99.99])
tokens = st.integers(0, 1_000)
contents = st.sampled_from(["", " \n", "text", "line\nline", None, 5, [{"text": "part"}]]) | st.sampled_from(
    [{"tool_name": "ls"}, {"tool_name": "cat"}, {"name": "grep", "result": 1}, {"tool_name": "a → b"}, {}]
)
usages: st.SearchStrategy[Json] = st.dictionaries(st.sampled_from(PARTS), st.integers(0, 10**6))
odd: st.SearchStrategy[Json] = st.sampled_from(
    [
        {"event": "note", "goal": {}, "affected_goals": 5, "totals": 5},
        *({"event": "BAD"}, {"event": "goal_added"}, {"event": "goal_added", "goal": {"description": "x", "id": "g"}}),
        {"event": "message_updated", "message_id": "m1", "append": "", "totals": {"total_tokens": -1}},
    ]
)


def named(draw: st.DrawFn, known: Any) -> str:
    """Mostly an id that is there, so that most events meet something."""
    ids: list[str] = [*known] or ["g"]
    return ids[-1 - draw(st.integers(0, len(ids) - 1))] if draw(st.integers(0, 9)) < 9 else draw(st.sampled_from("1g"))


def optional(draw: st.DrawFn, **values: st.SearchStrategy[Any]) -> Json:
    return {key: draw(value) for key, value in values.items() if draw(st.booleans())}


def a_goal(draw: st.DrawFn, state: State) -> Json:
    if not state.goals or draw(st.booleans()):
        where = draw(st.sampled_from(["", "parent_id", "parent_id", "after_id"]))
        goal: Json = {
            "description": "Goal",
            **optional(draw, status=st.sampled_from(BEGINNINGS), extra=st.just([1])),
        }
        if where:
            goal[where] = named(draw, state.goals)
        return {"event": "goal_added", "goal": goal}
    goal_id = named(draw, state.goals)
    status = state.goals[goal_id]["status"] if goal_id in state.goals else "pending"
    likely = NEXT.get(status, "in_progress")
    patch = {"status": draw(st.sampled_from([likely, likely, likely, "abandoned", "completed"]))}
    return {"event": "goal_updated", "goal_id": goal_id, "patch": patch | optional(draw, summary=st.just("Done"))}


def a_move(draw: st.DrawFn, state: State) -> Json:
    if state.messages and draw(st.sampled_from([True, False])):
        goal_id = named(draw, state.goals) if draw(st.booleans()) else None
        patch = {"goal_id": goal_id} | optional(draw, tokens=tokens, cost=costs, status=st.just("complete"))
        return {"event": "message_updated", "message_id": named(draw, state.messages), "patch": patch}
    parent_id = named(draw, state.goals) if draw(st.booleans()) else None
    return {"event": "goal_updated", "goal_id": named(draw, state.goals), "patch": {"parent_id": parent_id}}


def a_message(draw: st.DrawFn, state: State) -> Json:
    if not state.messages or draw(st.booleans()):
        message = {"role": draw(st.sampled_from(["user", "tool", "tool", "assistant"])), "content": draw(contents)}
        message |= optional(draw, status=st.just("streaming"), message_id=st.sampled_from("abc"))
        message |= optional(draw, tokens=tokens, cost=costs, usage=usages, description=st.sampled_from(["", "said"]))
        if draw(st.booleans()):
            message["goal_id"] = named(draw, state.goals) if draw(st.booleans()) else None
        return {"event": "message_added", "message": message}
    patch = optional(
        draw,
        status=st.just("complete"),
        tokens=tokens,
        cost=costs,
        usage=usages,
        content=contents,
        description=st.just(""),
    )
    return {
        "event": "message_updated",
        "message_id": named(draw, state.messages),
        "patch": patch,
        **optional(draw, append=st.sampled_from(["", "more", "\n"]), totals=st.just({"total_tokens": -1})),
    }


def a_question(draw: st.DrawFn, state: State) -> Json:
    name = draw(st.sampled_from(["input_requested", "input_provided", "input_expired", "cancel_requested"]))
    if name == "cancel_requested":
        return {"event": name}
    if name == "input_requested":
        return {"event": name, "question": "?", **optional(draw, request_id=st.sampled_from("qrs"))}
    known = named(draw, state.pending_inputs)
    return {"event": name, "request_id": known} | ({"value": 1} if name == "input_provided" else {})


def a_status(draw: st.DrawFn, state: State) -> Json:
    name = draw(st.sampled_from(["trace_status_changed", "trace_completed"]))
    return {"event": name, "status": draw(st.sampled_from(STATUSES))}


def a_sub_trace(draw: st.DrawFn, state: State) -> Json:
    sub_id = draw(st.sampled_from("cd"))
    if draw(st.booleans()):
        goal_id = named(draw, state.goals)
        start = {"sub_trace_id": sub_id, "parent_goal_id": goal_id, "agent_type": "a", "task": "t"}
        return {"event": "sub_trace_started", **start}
    stats = {"total_messages": draw(tokens), "total_tokens": draw(tokens), "total_cost": draw(costs)}
    end = {"sub_trace_id": sub_id, "status": draw(st.sampled_from(STATUSES)), "summary": None, "stats": stats}
    return {"event": "sub_trace_completed", **end}


def a_step(draw: st.DrawFn, state: State) -> Json:
    where: Json = optional(draw, goal_id=st.sampled_from([None, *state.goals]))
    in_a_step, in_a_message = draw(st.booleans()), draw(st.booleans())
    if state.steps and in_a_step:
        where |= {"step_id": named(draw, state.steps)}
    elif state.messages and in_a_message:
        where |= {"message_id": named(draw, state.messages)}
    more = optional(draw, status=st.sampled_from(["running", "completed", "failed", "stopped"]), error=st.just("no"))
    more |= optional(draw, ended_at=st.sampled_from([None, format_time(1_790_000_003)]), output=st.just("ok"))
    if not state.steps or draw(st.booleans()):
        return {"event": "step_added", "step": {"name": "s", **more, **where}}
    moves: bool = draw(st.booleans())
    patch = more | (where if moves else {})
    return {"event": "step_updated", "step_id": named(draw, state.steps), "patch": patch}


def an_odd_one(draw: st.DrawFn, state: State) -> Json:
    return draw(odd)


MOVES = (
    [a_goal] * 5
    + [a_message] * 3
    + [a_question, a_question, a_status, a_status, a_sub_trace, a_step, a_move, an_odd_one]
)


@dataclass(repr=False)
class Run:
    """A trace as the server would write it, and every state on the way."""

    states: list[State] = field(default_factory=lambda: [State("t", task="T")])
    stored: list[Json] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Run(stored={self.stored[-30:]})"  # the states follow from these

    def append(self, raw: Json) -> None:
        """Append, or leave everything as it was."""
        state = self.states[-1]
        number = state.last_event_id + 1
        before = orjson.dumps(state.to_json()), orjson.dumps(state.messages)
        try:
            event = validate_event(raw, by_server=True)
            done = complete(state, event, event_id=number, ts=format_time(1_790_000_000 + number))
        except TracewatchError:
            return
        else:
            written = parse_json(canonical(done))
            assert validate_stored(written) is written
            after = apply(state, written)
            assert apply(after, written) == after
            self.states.append(after)
            self.stored.append(written)
        finally:
            assert (orjson.dumps(state.to_json()), orjson.dumps(state.messages)) == before


@st.composite
def runs(draw: st.DrawFn) -> Run:
    ran = Run()
    at_least = draw(st.sampled_from([0, 15, 30]))  # left alone, hypothesis makes lists of six
    for move in draw(st.lists(st.sampled_from(MOVES), min_size=at_least, max_size=40)):
        ran.append(move(draw, ran.states[-1]))
    return ran


@pytest.mark.slow
def test_the_strategies_reach_everything() -> None:
    """The properties below say something only if most of what they are about happens."""
    seen: set[str] = set()

    @settings(max_examples=400, derandomize=True)
    @given(runs())
    def look(ran: Run) -> None:
        for event, state in zip(ran.stored, ran.states[1:], strict=True):
            seen.update((event["event"], state.status))
            if any(goal["parent_id"] and state.children(goal_id) for goal_id, goal in state.goals.items()):
                seen.add("deep")
            if event["event"] != "note":
                changes = event.get("affected_goals", ())
                seen.update(f"{event['event']} {change.get('status', 'stats')}" for change in changes)

    look()
    assert seen >= {
        *("goal_added", "goal_updated", "message_added", "message_updated", "input_requested", "input_provided"),
        *("trace_status_changed", "trace_completed", "sub_trace_started", "sub_trace_completed", "cancel_requested"),
        *("goal_added in_progress", "goal_added completed", "goal_updated completed", "message_added stats"),
        *("message_updated stats", "input_expired", "note", "deep", *STATUSES),
    }


def close(one: float | None, other: float | None, *, moved: bool = False) -> bool:
    if moved and not one and not other:
        return True  # a sum that was known stays known when the last message with a cost leaves
    return one is other if one is None or other is None else one == pytest.approx(other, rel=1e-9, abs=1e-8)


def known(costs: Iterable[float | None]) -> float | None:
    """The sum of the costs that are known, None where none is."""
    there = [cost for cost in costs if cost is not None]
    return sum(there) if there else None


@a_few
@given(runs())
def test_stats_are_sums(ran: Run) -> None:
    state = ran.states[-1]
    messages = list(state.messages.values())
    moved = any("moved" in event for event in ran.stored)
    assert state.total_messages == sum("counted" not in message for message in messages)
    assert state.in_flight == len(messages) - state.total_messages
    assert [message["sequence"] for message in messages] == list(range(1, len(messages) + 1))
    assert state.total_tokens == sum(message.get("tokens", 0) for message in messages)
    assert close(state.total_cost, known(message.get("cost") for message in messages))
    for goal in state.goals.values():
        mine = [message for message in messages if message["goal_id"] == goal["id"]]
        own, whole = goal["self_stats"], goal["cumulative_stats"]
        below = [state.goals[child]["cumulative_stats"] for child in state.children(goal["id"])]
        assert own["message_count"] == sum("counted" not in message for message in mine)
        assert own["total_tokens"] == sum(message.get("tokens", 0) for message in mine)
        assert close(own["total_cost"], known(message.get("cost") for message in mine), moved=moved)
        for key in ("message_count", "total_tokens"):
            assert whole[key] == own[key] + sum(stats[key] for stats in below)
        costs_below = [own["total_cost"], *(stats["total_cost"] for stats in below)]
        assert close(whole["total_cost"], known(costs_below), moved=moved)
        assert bool(whole["preview"]) == bool(own["preview"] or any(stats["preview"] for stats in below))
        for part in PARTS:
            assert own.get("usage", {}).get(part, 0) == sum(m.get("usage", {}).get(part, 0) for m in mine)
            sums = [stats.get("usage", {}).get(part, 0) for stats in (own, *below)]
            assert whole.get("usage", {}).get(part, 0) == sum(sums)
        assert (goal["ended_at"] is not None) == (goal["status"] in ("completed", "abandoned"))
        assert goal["ended_at"] is None or goal["started_at"] is None or goal["started_at"] <= goal["ended_at"]
    for message in messages:
        assert message["ended_at"] is None or message["started_at"] <= message["ended_at"]
        assert (message["ended_at"] is not None) == (message["status"] == "complete")
    tree = state.tree_totals()
    assert tree["total_tokens"] == state.total_tokens + sum(
        s["stats"]["total_tokens"] for s in state.sub_traces.values()
    )


@a_few
@given(runs())
def test_goals_stand_depth_first(ran: Run) -> None:
    state = ran.states[-1]
    tree = state.goal_tree()["goals"]
    assert len(tree) == len(state.goals)
    path: list[str] = []
    for goal in tree:
        while path and path[-1] != goal["parent_id"]:
            path.pop()
        assert (path[-1] if path else None) == goal["parent_id"], "behind its parent, with nothing of others between"
        path.append(goal["id"])


@a_few
@given(runs())
def test_goals_end_upward(ran: Run) -> None:
    """Only the end of a child or adding one can close a parent, and only adding a child reopens one."""
    for before, after, event in zip(ran.states, ran.states[1:], ran.stored, strict=False):
        assert after.current_goal_id is None or after.goals[after.current_goal_id]["status"] == "in_progress"
        for goal_id, goal in after.goals.items():
            was = before.goals.get(goal_id, goal)["status"]
            statuses = [after.goals[child]["status"] for child in after.children(goal_id)]
            if "moved" in event:
                assert goal["status"] == was, "a move is no progress"
                continue
            finished = "completed" in statuses and not {"pending", "in_progress"} & set(statuses)
            if event["event"] in ("goal_added", "goal_updated") and finished and was in ("pending", "in_progress"):
                assert goal["status"] in ("completed", "abandoned")
            if was == "completed" and goal["status"] != "completed":
                assert (event["event"], goal["status"]) == ("goal_added", "in_progress")
                assert not finished
            if was == "abandoned":
                assert goal["status"] == "abandoned"
            if event["event"] not in ("goal_added", "goal_updated"):
                assert goal["status"] == was


@a_few
@given(runs())
def test_steps_stand_somewhere(ran: Run) -> None:
    state = ran.states[-1]
    for step in state.steps.values():
        assert step["step_id"] is None or (step["step_id"] in state.steps and step["message_id"] is None)
        assert step["message_id"] is None or step["message_id"] in state.messages
        assert step["goal_id"] is None or step["goal_id"] in state.goals
        assert len([*above(state.steps, step["id"])]) <= len(state.steps), "none stands in itself"
        assert (step["ended_at"] is None) == (step["status"] == "running")
        assert step["ended_at"] is None or step["started_at"] <= step["ended_at"]


@a_few
@given(runs())
def test_status_and_questions(ran: Run) -> None:
    for before, after, event in zip(ran.states, ran.states[1:], ran.stored, strict=False):
        assert after.last_event_id == event["event_id"] == before.last_event_id + 1
        assert after.ended == (after.completed_at is not None)
        if after.ended:
            assert not after.pending_inputs
        if after.pending_inputs:
            assert after.status in ("waiting", "lost")
        if before.ended and not after.ended:
            assert (event["event"], event["status"] in ("running", "waiting")) == ("trace_status_changed", True)
        assert not set(after.pending_inputs) & set(after.closed_inputs)
        assert before.closed_inputs.items() <= after.closed_inputs.items()


@a_few
@given(runs(), st.data())
def test_a_fold_from_any_snapshot_ends_the_same(ran: Run, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(ran.stored)))
    there = ran.states[cut]
    from_frame = State.from_snapshot(without_messages(shown(there)))
    from_kept = State.from_json(orjson.loads(orjson.dumps(there.to_json())))
    for event in ran.stored:  # those up to the cut are passed over
        apply_into(from_frame, event)
        apply_into(from_kept, event)
    assert without_messages(shown(from_frame)) == without_messages(shown(ran.states[-1]))
    assert orjson.dumps(from_kept.to_json()) == orjson.dumps(ran.states[-1].to_json())


@a_few
@given(runs())
def test_applying_in_place_is_the_same(ran: Run) -> None:
    assume(ran.stored)
    state = ran.states[0].copy()
    for event in ran.stored:
        apply_into(state, event)
    assert state == ran.states[-1]
    assert ran.states[0] == State("t", task="T")


@a_few
@given(runs())
def test_states_that_share_are_the_same(ran: Run) -> None:
    """A state of many goals, questions and messages shares them with the states before it. Here all do."""
    with mock.patch("tracewatch.model.state.SMALL", -1), mock.patch("tracewatch.model.layered.SMALL", -1):
        states = [ran.states[0].copy()]
        for event in ran.stored:
            states.append(apply(states[-1], event))
    assert type(states[-1].goals) is Layered
    for one, other in zip(states, ran.states, strict=True):
        assert one == other
        assert orjson.dumps(one.to_json()) == orjson.dumps(other.to_json())
        assert orjson.dumps(shown(one)) == orjson.dumps(shown(other))
