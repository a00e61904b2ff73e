"""The validation: accepted events, the paths of faults in others, and the bytes of stored events."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracewatch.errors import BadRequest, Invalid, InvalidField, ReservedEvent, TooLarge
from tracewatch.model.canonical import (
    MAX_DEPTH,
    SERVER_EVENTS,
    canonical,
    check_size,
    depth_exceeds,
    event_name,
    parse_json,
    parse_lines,
)
from tracewatch.model.events import validate_event, validate_stored, validate_trace
from tracewatch.model.payloads import SERVER
from tracewatch.model.rules import complete
from tracewatch.model.state import State

TS = "2026-11-20T08:00:00.000Z"
LONE = "\ud800"
Json = dict[str, Any]


def message(**values: Any) -> Json:
    return {"event": "message_added", "message": {"role": "user", "content": "x", **values}}


def paths(caught: pytest.ExceptionInfo[Invalid]) -> list[str]:
    return [fault["path"] for fault in caught.value.details]


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


# --- what recorders send ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [None, 0, 3])
def test_each_fault_has_its_path(index: int | None) -> None:
    raw = {"event": "goal_added", "goal": {"id": "", "type": "x", "status": 1}, "occurred_at": "soon"}
    with pytest.raises(Invalid) as caught:
        validate_event(raw, index)
    prefix = "" if index is None else f"{index}."
    wanted = ["occurred_at", "goal.id", "goal.description", "goal.type", "goal.status"]
    assert paths(caught) == [prefix + path for path in wanted]
    assert caught.value.status == 422
    assert caught.value.message.startswith(f"{prefix}occurred_at: ")
    assert "(and 4 more)" in caught.value.message


def test_the_events_of_the_server_are_those_with_a_payload_of_its_own() -> None:
    assert set(SERVER) == SERVER_EVENTS


@pytest.mark.parametrize("name", sorted(SERVER_EVENTS))
def test_the_servers_own_events_are_reserved(name: str) -> None:
    with pytest.raises(ReservedEvent) as caught:
        validate_event({"event": name}, 2)
    assert paths(caught) == ["2.event"]


def test_the_server_is_checked_too() -> None:
    with pytest.raises(Invalid) as caught:
        validate_event({"event": "sub_trace_completed", "status": "done"}, by_server=True)
    assert not isinstance(caught.value, ReservedEvent)
    assert paths(caught) == ["sub_trace_id", "status", "summary", "stats"]
    validate_event({"event": "input_expired", "request_id": "r1"}, by_server=True)


def test_named_keys_stand_first_in_the_protocols_order() -> None:
    raw = {
        "zoo": 1,
        "message": {"zoo": 2, "model": "m", "content": "x", "role": "user"},
        "event": "message_added",
        "occurred_at": "2026-11-20T08:00:00Z",
    }
    event = validate_event(raw)
    assert list(event) == ["event", "occurred_at", "message", "zoo"]
    assert list(event["message"]) == ["role", "content", "model", "zoo"]
    stored = complete(State("t"), event, event_id=1, ts=TS)
    assert list(stored) == [
        *("event", "event_id", "trace_id", "ts", "occurred_at", "message", "zoo", "affected_goals"),
    ]


def test_what_was_sent_is_left_as_it_was() -> None:
    raw = {"event": "goal_added", "event_id": 3, "ts": "2020-01-01T00:00:00Z", "goal": {"description": "x"}}
    before = orjson.dumps(raw)
    event = validate_event(raw)
    complete(State("t"), event, event_id=1, ts=TS)
    assert orjson.dumps(raw) == before
    assert event["occurred_at"] == "2020-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens", 10**9 + 1),
        ("tokens", 1.0),
        ("cost", math.nan),
        ("cost", math.inf),
        ("cost", 1e10),
        ("cost", True),
        ("duration_ms", 10**30),
        ("duration_ms", math.nan),
        ("duration_ms", True),
        ("parent_sequence", 2**53),
        ("role", ""),
        ("role", "x" * 257),
        ("message_id", LONE),
    ],
)
def test_a_value_that_does_not_fit_is_refused_once(key: str, value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        validate_event(message(**{key: value}), 0)
    assert paths(caught) == [f"0.message.{key}"]


def test_numbers_stay_as_they_were_written() -> None:
    sent = message(tokens=10**9, duration_ms=7, cost=0.5, mine=2**60)
    event = validate_event(sent)
    assert orjson.dumps(event["message"]) == orjson.dumps(
        {"role": "user", "content": "x", "tokens": 10**9, "cost": 0.5, "duration_ms": 7, "mine": 2**60}
    )
    assert validate_event(message(duration_ms=7.5))["message"]["duration_ms"] == 7.5


@pytest.mark.parametrize("raw", [None, 5, "x", [], [{"event": "note"}], {}, {"event": None}, {"event": LONE}])
def test_what_is_no_event_is_refused(raw: Any) -> None:
    with pytest.raises(Invalid) as caught:
        validate_event(raw, 1)
    assert paths(caught) == ["1.event"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["goal_added", "goal_updated", "message_added", "message_updated", "trace_completed", "note"]),
    st.sampled_from(["goal", "message", "patch", "status", "goal_id", "occurred_at", "ts"]),
)
def test_any_json_is_let_in_or_refused(value: Any, name: str, key: str) -> None:
    try:
        validate_event({"event": name, key: value})
    except Invalid as refused:
        assert refused.details
        assert orjson.dumps(refused.body())


# --- traces ----------------------------------------------------------------------------------------------------


def test_a_trace_needs_a_task_alone() -> None:
    assert validate_trace({"task": "x"}) == {
        "trace_id": None,
        "task": "x",
        "agent_type": "agent",
        "parent_trace_id": None,
        "parent_goal_id": None,
        "lease_s": None,
        "metadata": {},
    }
    full = {
        "trace_id": "A.z_0:@-",
        "task": "x" * 10_000,
        "agent_type": "coder",
        "parent_trace_id": "p",
        "parent_goal_id": "1",
        "lease_s": 30,
        "metadata": {"a": [1]},
    }
    assert validate_trace(full) == full


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({}, "task"),
        ({"task": ""}, "task"),
        ({"task": "x" * 10_001}, "task"),
        ({"task": "x", "trace_id": ""}, "trace_id"),
        ({"task": "x", "trace_id": "a b"}, "trace_id"),
        ({"task": "x", "trace_id": "a\n"}, "trace_id"),
        ({"task": "x", "trace_id": "ä"}, "trace_id"),
        ({"task": "x", "trace_id": "../etc"}, "trace_id"),
        ({"task": "x", "trace_id": "x" * 129}, "trace_id"),
        ({"task": "x", "parent_trace_id": 5}, "parent_trace_id"),
        ({"task": "x", "lease_s": 0}, "lease_s"),
        ({"task": "x", "lease_s": True}, "lease_s"),
        ({"task": "x", "lease_s": 86_401}, "lease_s"),
        ({"task": "x", "lease_s": "30"}, "lease_s"),
        ({"task": "x", "metadata": []}, "metadata"),
        ({"task": "x", "tsak": 1}, "tsak"),
        ([], ""),
        (None, ""),
    ],
)
def test_what_is_no_trace_is_refused(raw: Any, path: str) -> None:
    with pytest.raises(InvalidField) as caught:
        validate_trace(raw)
    assert paths(caught) == [path]
    assert caught.value.code == "invalid"
    assert not caught.value.message.startswith(":")


# --- what export wrote -----------------------------------------------------------------------------------------


def stored(raw: Json, state: State | None = None) -> Json:
    state = state or State("t")
    return complete(state, validate_event(raw), event_id=state.last_event_id + 1, ts=TS)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"event_id": 0}, "event_id"),
        ({"event_id": True}, "event_id"),
        ({"event_id": "1"}, "event_id"),
        ({"event_id": 2**53}, "event_id"),
        ({"trace_id": 5}, "trace_id"),
        ({"ts": "2026-11-20T08:00:00Z"}, "ts"),
        ({"ts": None}, "ts"),
        ({"occurred_at": "2026-11-20T08:00:00.000+00:00"}, "occurred_at"),
        ({"occurred_at": None}, "occurred_at"),
        ({"event": "No"}, "event"),
        ({"goal": {}}, "goal.id"),
        ({"affected_goals": None}, "affected_goals"),
        ({"affected_goals": [{"goal_id": "1", "status": "done"}]}, "affected_goals.0.status"),
        ({"affected_goals": [{"goal_id": "1", "self_stats": {}}]}, "affected_goals.0.self_stats.message_count"),
    ],
)
def test_a_stored_event_is_checked(change: Json, path: str) -> None:
    good = stored({"event": "goal_added", "goal": {"description": "x"}})
    assert validate_stored(good) is good
    with pytest.raises(Invalid) as caught:
        validate_stored({**good, **change}, 4)
    assert paths(caught)[0] == f"4.{path}"


def test_a_stored_event_begins_as_all_do() -> None:
    good = stored({"event": "note"})
    bads: list[Any] = [dict(reversed(good.items())), {k: v for k, v in good.items() if k != "trace_id"}, [], None]
    for bad in bads:
        with pytest.raises(Invalid):
            validate_stored(bad)


def test_a_stored_patch_can_not_change_who_a_message_is() -> None:
    state = State("t")
    state.messages["a"] = {"message_id": "a", "content": "", "role": "user", "goal_id": None, "description": ""}
    good = stored({"event": "message_updated", "message_id": "a", "patch": {"x": 1}}, state)
    validate_stored(good)
    with pytest.raises(Invalid) as caught:
        validate_stored({**good, "patch": {"message_id": "b"}})
    assert paths(caught) == ["patch.message_id"]


# --- bytes -----------------------------------------------------------------------------------------------------


def test_canonical_bytes_are_compact_and_come_back() -> None:
    event = stored({"event": "note", "text": "ä\n\u2028\x00", "n": [1, 1.5, None, True, {}], "big": 2**63})
    body = canonical(event)
    assert body.startswith(b'{"event":"note","event_id":1,"trace_id":"t","ts":"2026-11-20T08:00:00.000Z","text":"')
    assert b"\n" not in body and b"\r" not in body
    assert event_name(body) == "note"
    assert parse_json(body) == event
    assert canonical(parse_json(body)) == body


@pytest.mark.parametrize(
    "value",
    [
        LONE,
        {LONE: 1},
        math.nan,
        [None, {"a": [-math.inf]}],
        2**64,
        object(),
        {1, 2},
        {5: 1},
        nested(MAX_DEPTH),
        nested(999),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_can_not_say_has_no_bytes(value: Any) -> None:
    with pytest.raises(Invalid):
        canonical({"event": "note", "x": value})


def test_depth_is_counted_for_the_event_itself() -> None:
    deep = {"event": "note", "x": nested(MAX_DEPTH - 1)}
    assert parse_json(canonical(deep)) == deep
    assert not depth_exceeds(deep)
    assert depth_exceeds({"event": "note", "x": nested(MAX_DEPTH)})


@pytest.mark.parametrize("limit", [2, 3, 180, MAX_DEPTH])
@pytest.mark.parametrize("more", [None, {5: 1}], ids=["JSON", "not JSON"])
def test_depth_is_counted_the_same_both_ways(limit: int, more: object) -> None:
    assert not depth_exceeds([more, nested(limit - 1)], limit + bool(more))
    assert depth_exceeds([nested(limit), more], limit)


def test_json_too_deep_is_refused() -> None:
    for text in (b"[" * 201 + b"]" * 201, "[" * 201 + "]" * 201, b'{"a":' * 201 + b"1" + b"}" * 201):
        with pytest.raises(Invalid, match="200 levels"):
            parse_json(text)
    assert parse_json(b"[" * 200 + b"]" * 200) == nested(200)
    assert len(parse_json(b"[" + b"[]," * 500 + b"[]]")) == 501
    with pytest.raises((BadRequest, Invalid)):
        parse_json(b"[" * 100_000)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"NaN", b"1e999", b'"\\ud800"', b"\xff", b"[1,]", b"{'a':1}", b"1 2", "\ud800", b"\xef\xbb\xbf1"],
)
def test_what_is_not_json_is_refused(data: bytes | str) -> None:
    with pytest.raises(BadRequest):
        parse_json(data)


def test_lines() -> None:
    assert parse_lines(b'{"a":1}\r\n\n  \n[2]\n3') == [{"a": 1}, [2], 3]
    assert parse_lines(b"") == []
    with pytest.raises(BadRequest) as caught:
        parse_lines(b"1\n\n{\n2")
    assert caught.value.facts == {"line": 3}
    assert caught.value.message.startswith("line 3: ")
    with pytest.raises(Invalid) as too_deep:
        parse_lines(b"1\n" + b"[" * 201 + b"]" * 201)
    assert too_deep.value.facts == {"line": 2}


def test_size() -> None:
    check_size(b"x" * 10, 10)
    with pytest.raises(TooLarge, match="event 3 of the batch has 11 bytes"):
        check_size(b"x" * 11, 10, 3)
