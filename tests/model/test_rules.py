"""Rules that vectors can't hold: megabytes of text, states that only the writer has, and the facts of an error."""

from __future__ import annotations

from typing import Any

import pytest

from tracewatch.errors import GoalDepth, Invalid, InvalidTransition, MessageTooLarge, TracewatchError, UnknownGoal
from tracewatch.model.canonical import canonical, parse_json
from tracewatch.model.events import validate_event, validate_stored
from tracewatch.model.goals import empty_stats
from tracewatch.model.rules import MAX_MESSAGE_TEXT, complete
from tracewatch.model.state import State, apply, apply_into

TS = "2026-11-20T08:00:00.000Z"
GOAL = {"self_stats": empty_stats(), "cumulative_stats": empty_stats(), "sub_trace_ids": []}


def append(state: State, raw: dict[str, Any], *, by_server: bool = False) -> State:
    event = validate_event(raw, by_server=by_server)
    return apply(state, complete(state, event, event_id=state.last_event_id + 1, ts=TS))


def test_a_message_does_not_grow_above_its_limit() -> None:
    state = append(State("t"), {"event": "message_added", "message": {"role": "user", "content": ""}})
    quarter = {"event": "message_updated", "message_id": "m1", "append": "x" * (MAX_MESSAGE_TEXT // 4)}
    for _ in range(4):
        state = append(state, quarter)
    assert len(state.messages["m1"]["content"]) == MAX_MESSAGE_TEXT
    with pytest.raises(MessageTooLarge) as caught:
        append(state, {"event": "message_updated", "message_id": "m1", "append": "x"})
    body = caught.value.body()
    assert (body["error"], caught.value.status, body["limit"]) == ("message_too_large", 413, MAX_MESSAGE_TEXT)
    append(state, {"event": "message_updated", "message_id": "m1", "patch": {"status": "complete"}})


def test_refusals_carry_their_facts() -> None:
    state = append(State("t"), {"event": "goal_added", "goal": {"description": "x"}})
    with pytest.raises(UnknownGoal) as unknown:
        append(state, {"event": "goal_updated", "goal_id": "9", "patch": {}})
    assert unknown.value.body()["goal_id"] == "9"
    state = append(state, {"event": "goal_updated", "goal_id": "1", "patch": {"status": "completed"}})
    with pytest.raises(InvalidTransition) as late:
        append(state, {"event": "goal_updated", "goal_id": "1", "patch": {"status": "in_progress"}})
    assert (late.value.status, late.value.body()["status"]) == (409, "completed")
    assert "in_progress" in late.value.message


def test_sums_of_the_largest_messages_can_be_said() -> None:
    state = append(State("t"), {"event": "goal_added", "goal": {"description": "x", "status": "in_progress"}})
    largest = {"role": "user", "content": "", "tokens": 10**9, "cost": 1e9}
    for _ in range(50):
        event = complete(
            state,
            validate_event({"event": "message_added", "message": largest}),
            event_id=state.last_event_id + 1,
            ts=TS,
        )
        validate_stored(parse_json(canonical(event)))
        apply_into(state, event)
    assert (state.total_tokens, state.total_cost) == (50 * 10**9, 50e9)


def test_an_import_can_not_rewrite_a_goal_through_affected_goals() -> None:
    state = append(State("t"), {"event": "goal_added", "goal": {"description": "x"}})
    event = complete(state, validate_event({"event": "goal_added", "goal": {"description": "y"}}), event_id=2, ts=TS)
    event["affected_goals"] = [
        {"goal_id": "1", "id": "other", "parent_id": "nowhere", "sub_trace_ids": 5, "status": "completed"},
        {"goal_id": "nowhere", "status": "completed"},
    ]
    after = apply(state, validate_stored(event))
    assert after.goals["1"] == {**state.goals["1"], "status": "completed", "ended_at": TS}
    assert set(after.goals) == {"1", "2"}


@pytest.mark.parametrize("parent_id", ["2", "nowhere"])
def test_an_imported_goal_without_its_parent_is_left_out(parent_id: str) -> None:
    state = append(State("t"), {"event": "goal_added", "goal": {"description": "x"}})
    event = complete(state, validate_event({"event": "goal_added", "goal": {"description": "y"}}), event_id=2, ts=TS)
    event["goal"]["parent_id"] = parent_id
    after = apply(state, validate_stored(event))
    assert [goal["id"] for goal in after.goal_tree()["goals"]] == ["1"]
    assert after.last_event_id == 2


def test_a_client_that_does_not_know_the_message_has_the_right_sums() -> None:
    state = append(State("t"), {"event": "goal_added", "goal": {"description": "x", "status": "in_progress"}})
    state = append(state, {"event": "message_added", "message": {"role": "user", "content": "", "tokens": 5}})
    client = State.from_json(state.to_json())
    assert client.messages == {}
    raw = {"event": "message_updated", "message_id": "m2", "append": "Hi", "patch": {"tokens": 8}}
    event = complete(state, validate_event(raw), event_id=3, ts=TS)
    assert apply(client, event).trace() == apply(state, event).trace()
    assert apply(client, event).goals == apply(state, event).goals
    assert apply(client, event).total_tokens == 8


def test_a_summary_of_another_type_is_no_summary() -> None:
    state = append(State("t"), {"event": "trace_status_changed", "status": "completed", "summary": [1]})
    assert (state.status, state.summary) == ("completed", None)


def test_the_lease_decides_is_running() -> None:
    state = State("t")
    assert state.trace(lease_alive=True)["is_running"] is True
    assert state.trace(lease_alive=False)["is_running"] is False
    state = append(state, {"event": "trace_completed", "status": "completed"})
    assert state.trace(lease_alive=True)["is_running"] is False


def test_every_refusal_is_ours() -> None:
    for raw in (
        {"event": "message_added", "message": {"role": "user", "content": "", "message_id": "m7"}},
        {"event": "input_requested", "question": "", "request_id": "r0"},
    ):
        with pytest.raises(TracewatchError) as caught:
            append(State("t"), raw)
        assert isinstance(caught.value, Invalid)
        assert caught.value.details[0]["path"]


def test_goals_that_an_older_log_has_too_deep() -> None:
    state = State("t")
    for n in range(1, 151):
        state.add_goal({**GOAL, "id": f"g{n}", "parent_id": f"g{n - 1}" if n > 1 else None, "status": "in_progress"})
    state.messages["x"] = {"message_id": "x", "goal_id": "g150", "content": "", "description": "", "role": "user"}
    with pytest.raises(GoalDepth) as caught:
        append(state, {"event": "goal_added", "goal": {"description": "x", "after_id": "g150"}})
    assert (caught.value.body()["parent_id"], caught.value.status) == ("g99", 422)
    for named in ({"goal_id": "g150"}, {"goal_id": "g101"}, {"goal_id": "g100"}):
        event = {"event": "message_added", "message": {"role": "user", "content": "x", "tokens": 1, **named}}
        stored = complete(state, event, event_id=1, ts=TS)
        assert stored["message"]["goal_id"] == "g100"
        assert len(stored["affected_goals"]) == 100
    with pytest.raises(GoalDepth):
        append(state, {"event": "message_updated", "message_id": "x", "patch": {"tokens": 1}})
    append(state, {"event": "message_updated", "message_id": "x", "append": "more", "patch": {"model": "m"}})
