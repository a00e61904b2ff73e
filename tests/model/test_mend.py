"""What stays of a refused event: all but what was refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.fake import FakeLog
from tracewatch.errors import TracewatchError
from tracewatch.model.canonical import parse_json
from tracewatch.model.events import validate_event
from tracewatch.model.mend import Mender, event_name, less, substitute

TEXT = "what the agent said " * 150


def log() -> FakeLog:
    made = FakeLog()
    made.append(
        {"event": "goal_added", "goal": {"id": "done", "description": "d", "status": "completed"}},
        {"event": "message_added", "message": {"message_id": "tool", "role": "tool", "content": {"tool_name": "x"}}},
        {"event": "message_added", "message": {"message_id": "text", "role": "user", "content": "hello"}},
        {"event": "step_added", "step": {"id": "s", "name": "a step"}},
    )
    return made


def taken(to: FakeLog, event: dict[str, Any]) -> dict[str, Any]:
    """What the log has of an event in the end."""
    mender, body = Mender(), orjson.dumps(event)
    for _ in range(20):
        try:
            to.append(parse_json(body))
        except TracewatchError as error:
            found = mender.instead(1, body, error.code, error.message, error.details)
            assert found is not None
            body = found
        else:
            return to.events[-1]
    raise AssertionError("it does not come to an end")


MESSAGE = {"role": "assistant", "content": TEXT, "tokens": 3}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a goal that was lost": (
        {"event": "message_added", "message": {**MESSAGE, "goal_id": "gone"}},
        {"event": "message_added", "message": {**MESSAGE, "goal_id": None, "refused": {"goal_id": "gone"}}},
    ),
    "the parent of a goal": (
        {"event": "goal_added", "goal": {"id": "new", "description": TEXT, "parent_id": "gone", "after_id": "gone"}},
        {"goal": {"description": TEXT, "parent_id": None, "refused": {"parent_id": "gone", "after_id": "gone"}}},
    ),
    "the goal of a question": (
        {"event": "input_requested", "question": TEXT, "goal_id": "gone"},
        {"event": "input_requested", "question": TEXT, "goal_id": None, "refused": {"goal_id": "gone"}},
    ),
    "a message that was lost while it streamed": (
        {"event": "message_updated", "message_id": "gone", "append": TEXT, "patch": {"tokens": 3}},
        {"event": "message_added", "message": {**MESSAGE, "message_id": "gone", "status": "streaming"}},
    ),
    "the result of a tool whose call was lost": (
        {"event": "message_updated", "message_id": "gone", "patch": {"content": {"tool_name": "x", "result": TEXT}}},
        {"event": "message_added", "message": {"role": "tool", "content": {"tool_name": "x", "result": TEXT}}},
    ),
    "text for what is no text": (
        {"event": "message_updated", "message_id": "tool", "append": TEXT},
        {"event": "message_added", "message": {"content": TEXT, "continues_message": "tool"}},
    ),
    "a type that there is not": (
        {"event": "goal_added", "goal": {"id": "new", "description": TEXT, "type": "epic", "status": "done"}},
        {
            "goal": {
                "id": "new",
                "description": TEXT,
                "status": "pending",
                "refused": {"type": "epic", "status": "done"},
            }
        },
    ),
    "numbers that are none": (
        {"event": "message_added", "message": {**MESSAGE, "tokens": -1, "cost": "dear", "duration_ms": None}},
        {"message": {"content": TEXT, "refused": {"tokens": -1, "cost": "dear", "duration_ms": None}}},
    ),
    "numbers of an update": (
        {"event": "message_updated", "message_id": "text", "append": TEXT, "patch": {"tokens": -1, "model": "m"}},
        {"event": "message_updated", "append": TEXT, "patch": {"model": "m"}, "refused": {"tokens": -1}},
    ),
    "a goal that is there": (
        {"event": "goal_added", "goal": {"id": "done", "description": TEXT, "status": "pending"}},
        {"event": "goal_updated", "goal_id": "done", "patch": {"description": TEXT}, "refused": {"status": "pending"}},
    ),
    "a step that is not allowed": (
        {"event": "goal_updated", "goal_id": "done", "patch": {"status": "abandoned", "summary": TEXT}},
        {"event": "goal_updated", "patch": {"summary": TEXT}, "refused": {"status": "abandoned"}},
    ),
    "a step in one that is not there": (
        {"event": "step_added", "step": {"id": "new", "name": TEXT[:256], "step_id": "gone"}},
        {"event": "step_added", "step": {"id": "new", "name": TEXT[:256], "refused": {"step_id": "gone"}}},
    ),
    "a step in a message that is not there": (
        {"event": "step_added", "step": {"name": "n", "output": TEXT[:2000], "message_id": "gone"}},
        {"event": "step_added", "step": {"output": TEXT[:2000], "refused": {"message_id": "gone"}}},
    ),
    "a step that stands elsewhere than in one that is there": (
        {"event": "step_updated", "step_id": "s", "patch": {"step_id": "gone", "output": TEXT[:2000]}},
        {"event": "step_updated", "patch": {"output": TEXT[:2000]}, "refused": {"step_id": "gone"}},
    ),
    "a message in a step that is not there": (
        {"event": "message_added", "message": {**MESSAGE, "step_id": "gone"}},
        {"event": "message_added", "message": {**MESSAGE, "refused": {"step_id": "gone"}}},
    ),
    "an end of a step that was lost": (
        {"event": "step_updated", "step_id": "gone", "patch": {"status": "completed", "output": TEXT[:2000]}},
        {"event": "step_added", "step": {"id": "gone", "status": "completed", "output": TEXT[:2000]}},
    ),
    "a step that is there": (
        {"event": "step_added", "step": {"id": "s", "name": "again", "output": TEXT[:2000]}},
        {"event": "step_updated", "step_id": "s", "patch": {"name": "again", "output": TEXT[:2000]}},
    ),
    "a step's preview that is too long": (
        {"event": "step_added", "step": {"name": "n", "output": TEXT * 2000}},
        {"event": "step_added", "step": {"name": "n", "refused": {"output": TEXT * 2000}}},
    ),
    "a key of a goal that there is not": (
        {"event": "goal_updated", "goal_id": "done", "patch": {"priority": 1, "summary": TEXT}},
        {"event": "goal_updated", "patch": {"summary": TEXT}, "refused": {"priority": 1}},
    ),
    "a message that is there": (
        {"event": "message_added", "message": {**MESSAGE, "message_id": "text"}},
        {"event": "message_added", "message": {**MESSAGE, "refused": {"message_id": "text"}}},
    ),
    "a role and a description of other types": (
        {"event": "message_added", "message": {"role": 7, "content": TEXT, "description": 7}},
        {"event": "message_added", "message": {"role": "7", "content": TEXT, "refused": {"description": 7}}},
    ),
    "a name": (
        {"event": "Tool Error!", "text": TEXT},
        {"event": "tool_error", "text": TEXT, "original_event": "Tool Error!"},
    ),
    "a name of the server's": (
        {"event": "cancel_requested", "text": TEXT},
        {"event": "recorded.cancel_requested", "text": TEXT, "original_event": "cancel_requested"},
    ),
    "what can't be mended": (
        {"event": "goal_updated", "goal_id": "gone", "patch": {"summary": TEXT}},
        {"event": "recorder_refused", "refused": {"goal_id": "gone", "patch": {"summary": TEXT}}},
    ),
    "an end of another kind": (
        {"event": "trace_completed", "status": "fine", "summary": TEXT},
        {"event": "recorder_refused", "refused": {"status": "fine", "summary": TEXT}},
    ),
}


def holds(stored: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(stored, dict) and all(key in stored and holds(stored[key], wanted[key]) for key in wanted)
    return bool(stored == wanted)


@pytest.mark.parametrize("name", CASES)
def test_all_but_what_was_refused_stays(name: str) -> None:
    event, wanted = CASES[name]
    stored = taken(log(), event)
    assert holds(stored, wanted), stored


def test_a_full_message_goes_on_in_another_and_in_that_again() -> None:
    to = log()
    for _ in range(5):
        to.append({"event": "message_updated", "message_id": "text", "append": "x" * 800_000})
    parts = [{"event": "message_updated", "message_id": "text", "append": f"{n}" * 300_000} for n in range(2)]
    first, second = (taken(to, part) for part in parts)
    assert (first["event"], first["message"]["continues_message"]) == ("message_added", "text")
    assert (second["event"], second["message_id"]) == ("message_updated", first["message"]["message_id"])
    assert second["append"] == "1" * 300_000


def test_what_follows_is_mended_before_it_is_sent() -> None:
    mender = Mender()
    message = {"event": "message_added", "message": {**MESSAGE, "goal_id": "gone"}}
    body, other = orjson.dumps(message), orjson.dumps({"event": "thought", "text": "gone"})
    assert mender.ahead([body]) == [body]
    mender.instead(1, body, "unknown_goal", "", [{"goal_id": "gone"}])
    told = mender.ahead([body, other])
    assert orjson.loads(told[0])["message"]["goal_id"] is None and told[1] == other
    again = orjson.dumps({"event": "goal_added", "goal": {"id": "gone", "description": "d"}})
    assert mender.ahead([again, body]) == [again, body]


@given(st.text())
def test_any_text_is_made_a_name(text: str) -> None:
    name = event_name(text)
    validate_event({"event": name})
    assert event_name(name) == name


@given(
    st.sampled_from([case[0] for case in CASES.values()]),
    st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.floats(), st.lists),
    st.data(),
)
def test_for_any_value_anywhere_an_event_is_stored_in_the_end(event: dict[str, Any], value: Any, data: Any) -> None:
    spoiled = orjson.loads(orjson.dumps(event))
    holders = [spoiled, *(part for part in spoiled.values() if isinstance(part, dict))]
    holder = data.draw(st.sampled_from(holders))
    key = data.draw(st.sampled_from([*holder, "status", "type", "tokens", "message_id", "goal_id"]))
    if holder is not spoiled or key != "event":
        holder[key] = value
    assert taken(log(), spoiled)


@pytest.mark.parametrize("most", [200_000, 4096, 1024, 0])
def test_a_substitute_has_the_size_it_may_have(most: int) -> None:
    for text in (TEXT * 30, '"' * 90_000, "\u00e9" * 30_000, "\x01" * 30_000):
        body = orjson.dumps({"event": "message_added", "message": {"role": "user", "content": text}})
        made = substitute(body, "too_large", "é" * 5000, most=most)
        assert len(made) <= max(most, 120)
        said = validate_event(parse_json(made))
        assert (said["event"], said["original_event"], said["error"]) == (
            "recorder_refused",
            "message_added",
            "too_large",
        )
        assert ("refused" in said) == (len(body) < most - 9000) or "original" in said or not most


def test_a_trace_loses_the_fields_that_are_named_and_no_other() -> None:
    spec = {"trace_id": "t", "task": "x", "agent_type": 7, "lease_s": -1, "metadata": {"a": 1}, "parent_trace_id": "p"}
    kept, refused = less(spec, 422, [{"path": "agent_type"}, {"path": "lease_s"}])
    assert kept == {"trace_id": "t", "task": "x", "metadata": {"a": 1}, "parent_trace_id": "p"}
    assert refused == {"agent_type": 7, "lease_s": -1}
    assert less(spec, 422, []) == (spec, {}) == less(spec, 422, [{"path": "trace_id"}])
    kept, refused = less({**spec, "task": "x" * 20_000}, 422, [{"path": "task"}])
    assert len(kept["task"]) <= 10_000 and refused == {"task": "x" * 20_000}
    assert less(spec, 413, [])[1] == {"metadata": {"a": 1}}


def test_a_goal_too_deep_stands_at_the_deepest_level() -> None:
    """As a recorder meets it that does not know the goals above: they are another process's."""
    to = log()
    to.append(*({"event": "goal_added", "goal": {"id": f"g{n}", "description": "d", "status": "in_progress",
                 **({"parent_id": f"g{n - 1}"} if n else {})}} for n in range(100)))  # fmt: skip
    deeper = {"event": "goal_added", "goal": {"id": "deep", "description": "d", "parent_id": "g99", "k": 1}}
    goal = taken(to, deeper)["goal"]
    assert (goal["parent_id"], goal["wanted_parent_id"], goal["k"]) == ("g98", "g99", 1)
    goal = taken(to, {"event": "goal_added", "goal": {"id": "more", "description": "d", "parent_id": "deep"}})["goal"]
    assert (goal["parent_id"], goal["wanted_parent_id"]) == ("g98", "deep")


def test_a_sub_trace_too_deep_stands_at_the_deepest_level() -> None:
    spec = {"trace_id": "t", "task": "T", "parent_trace_id": "p99", "parent_goal_id": "g", "metadata": {"k": 1}}
    details = [{"path": "parent_trace_id", "message": "too deep", "parent_trace_id": "p98"}]
    kept, refused = less(spec, 422, details)
    assert kept == {"trace_id": "t", "task": "T", "parent_trace_id": "p98", "metadata": {"k": 1}}
    assert refused == {"parent_trace_id": "p99", "parent_goal_id": "g"}
