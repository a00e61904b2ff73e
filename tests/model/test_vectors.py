"""Every vector through the whole path, through a client's half of it, and from snapshots taken on the way."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.model.vectors_run import HEAD, REFUSED_TS, Case, mismatches, read_cases, shown, without_messages
from tracewatch.errors import TracewatchError
from tracewatch.model.canonical import SERVER_EVENTS, STATUSES, canonical, parse_json
from tracewatch.model.events import validate_event, validate_stored
from tracewatch.model.rules import complete, is_repeat
from tracewatch.model.state import State, apply, apply_into

CASES = read_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def check(expect: dict[str, Any], state: State) -> None:
    found = mismatches(expect, shown(state))
    assert not found, "\n".join(found)


def refuse(step: dict[str, Any], state: State) -> None:
    before = shown(state)
    with pytest.raises(TracewatchError) as caught:
        event = validate_event(step["append"], by_server=step.get("by_server", False))
        complete(state, event, event_id=state.last_event_id + 1, ts=REFUSED_TS)
    body = caught.value.body()
    assert body["error"] == step["refused"]["code"], body
    if "paths" in step["refused"]:
        assert [fault["path"] for fault in body["details"]] == step["refused"]["paths"], body
    assert shown(state) == before


@each_case
def test_appending(case: Case) -> None:
    state = case.begin()
    for step in case.steps:
        if "refused" in step:
            refuse(step, state)
            continue
        if step.get("repeat"):
            assert is_repeat(state, validate_event(step["append"])), step
            continue
        wanted = step["stored"]
        if step.get("older"):
            state = apply(state, validate_stored(wanted))
            check(step.get("expect", {}), state)
            continue
        sent = orjson.dumps(step["append"])
        event = validate_event(step["append"], by_server=step.get("by_server", False))
        stored = complete(state, event, event_id=wanted["event_id"], ts=wanted["ts"])
        assert orjson.dumps(step["append"]) == sent, "what was sent is left as it was"
        written = parse_json(canonical(stored))
        assert written == wanted
        head = [key for key in HEAD if key in written]
        assert list(written)[: len(head)] == head
        state = apply(state, stored)
        check(step.get("expect", {}), state)
    check(case.expect, state)


@each_case
def test_applying_alone(case: Case) -> None:
    state = case.begin()
    for step in case.steps:
        if "stored" not in step:
            continue
        event = validate_stored(step["stored"])
        before = shown(state)
        after = apply(state, event)
        assert shown(state) == before, "apply left the state before as it was"
        again = apply(after, event)
        assert again == after, "an event already applied changes nothing"
        state = after
        check(step.get("expect", {}), state)
    check(case.expect, state)


@each_case
def test_from_every_snapshot(case: Case) -> None:
    events = case.stored()
    states = [case.begin()]
    for event in events:
        states.append(apply(states[-1], event))
    for cut, state in enumerate(states):
        from_frame = State.from_snapshot(without_messages(shown(state)))
        kept = orjson.loads(orjson.dumps(state.to_json()))
        from_kept = State.from_json(kept)
        for event in events[cut:]:
            apply_into(from_frame, event)
            apply_into(from_kept, event)
        assert without_messages(shown(from_frame)) == without_messages(shown(states[-1]))
        assert from_kept.to_json() == states[-1].to_json()
        assert kept == orjson.loads(orjson.dumps(state.to_json())), "folding on left what was kept as it was"


def test_they_are_enough() -> None:
    """Each status, each event and each refusal (but the one that needs megabytes) stands in some vector."""
    steps = [step for case in CASES for step in case.steps]
    assert len(CASES) >= 60
    assert len({str(case) for case in CASES}) == len(CASES)
    expects = [step.get("expect", {}) for step in steps] + [case.expect for case in CASES]
    assert {e["trace"]["status"] for e in expects if "status" in e.get("trace", {})} == set(STATUSES)
    names = {step["stored"]["event"] for step in steps if "stored" in step}
    assert names >= SERVER_EVENTS | {
        *("goal_added", "goal_updated", "message_added", "message_updated", "step_added", "step_updated"),
        *("trace_status_changed", "trace_completed", "input_requested"),
    }
    assert {step["refused"]["code"] for step in steps if "refused" in step} == {
        *("invalid_event", "reserved_event", "unknown_goal", "unknown_message", "unknown_request", "not_text"),
        *("goal_exists", "message_exists", "request_exists", "invalid_transition", "goal_depth"),
        *("unknown_step", "step_exists", "step_depth"),
    }


def test_the_matcher_bites() -> None:
    actual = {"a": [1, {"b": None, "c": 2}], "d": True}
    assert mismatches({"a": [1, {"b": None}]}, actual) == []
    wrongs: tuple[dict[str, Any], ...] = (
        {"a": [1]},
        {"a": [1, {"b": 0}]},
        {"x": None},
        {"d": 1},
        {"a": [1, {"z": 1}]},
        {"a": {}},
    )
    for wrong in wrongs:
        assert mismatches(wrong, actual), wrong
