"""Fitting: any event becomes events that the log accepts; and where ids can be made, nothing of it is lost."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracewatch.model import fit as fit_module
from tracewatch.model.canonical import parse_json
from tracewatch.model.events import validate_event, validate_trace
from tracewatch.model.fit import EVENT_BYTES, NewId, amount, count, fit, name, split_metadata, task
from tracewatch.model.rules import complete
from tracewatch.model.state import State, apply_into

TS = "2026-11-20T08:00:00.000Z"
LIMIT = 256 * 1024
Event = dict[str, Any]


def ids() -> NewId:
    numbers = itertools.count(1)
    return lambda: f"x{next(numbers)}"


def stored(events: list[Event]) -> State:
    """The state after these events: fails where a log would refuse one."""
    state = State("t")
    for event in events:
        body = orjson.dumps(event)
        assert len(body) <= LIMIT
        apply_into(state, complete(state, validate_event(parse_json(body)), event_id=state.last_event_id + 1, ts=TS))
    return state


def message(content: Any, **values: Any) -> Event:
    return {"event": "message_added", "message": {"message_id": "m", "role": "user", "content": content, **values}}


def text_of(state: State, message_id: str) -> str:
    """The text of a message, over as many as it took."""
    found = [one for one in state.messages.values() if message_id in (one["message_id"], one.get("continues_message"))]
    return "".join(one["content"] for one in found)


def test_what_fits_is_left_as_it_is() -> None:
    event = message("hello", source={"a": [1]})
    assert fit(event)[0] is event
    assert fit(event, ids())[0] is event


def test_what_was_given_is_not_changed() -> None:
    event = message({"tool_name": "t", "result": "x" * 300_000}, more=["y" * 1000] * 300)
    before = orjson.dumps(event)
    assert len(fit(event, ids())) == 7  # two attachments of three parts each
    assert fit(event)
    assert orjson.dumps(event) == before


@pytest.mark.parametrize("status", [None, "complete", "streaming", "running"])
def test_a_split_message_streams_until_all_of_it_is_there_and_then_stands_as_it_was_given(status: str | None) -> None:
    for new_id in (None, ids()):
        events = fit(message("x" * 500_000, **({"status": status} if status else {})), new_id)
        assert [e["event"] for e in events] == ["message_added", *["message_updated"] * 3]
        assert events[0]["message"]["status"] == ("running" if status == "running" else "streaming")
        assert stored(events).messages["m"]["status"] == (status or "complete")


def test_a_patch_comes_behind_all_of_the_text_it_came_with() -> None:
    update = {"event": "message_updated", "message_id": "m", "append": "x" * 500_000, "occurred_at": TS}
    events = fit({**update, "patch": {"status": "complete", "tokens": 3}})
    assert ["patch" in event for event in events] == [False, False, False, True]
    assert {event["occurred_at"] for event in events} == {TS}
    assert stored([message("", status="streaming"), *events]).messages["m"]["tokens"] == 3


def test_text_without_end_goes_on_in_further_messages_or_is_cut() -> None:
    text = "x" * 9_000_000
    kept = stored(fit(message(text, goal_id=None), ids()))
    assert text_of(kept, "m") == text
    assert {one["goal_id"] for one in kept.messages.values()} == {None}
    cut = stored(fit(message(text))).messages["m"]["content"]
    assert cut == "x" * fit_module.MESSAGE_CHARS + fit_module.marker(9_000_000 - fit_module.MESSAGE_CHARS)


def test_a_message_without_an_id_is_given_one_where_that_can_be() -> None:
    event = {"event": "message_added", "message": {"role": "user", "content": "x" * 500_000}}
    assert stored(fit(event, ids())).messages["x1"]["content"] == "x" * 500_000
    assert len(fit(event)) == 1


@pytest.mark.parametrize(
    "event",
    [
        {"event": "thought", **{f"key {n}": "v" * 50 for n in range(20_000)}},
        message("short", **{f"key {n}": "v" * 50 for n in range(20_000)}),
        {"event": "thought", "k" * 300_000: 1},
        {"event": "trace_completed", "status": "failed", "error": [[[["z" * 100] * 70] * 70] * 70]},
    ],
)
def test_much_of_what_is_small_ends_too(event: Event) -> None:
    for new_id in (None, ids()):
        stored(fit(event, new_id))


def test_what_is_too_deep_becomes_text_of_which_nothing_is_lost() -> None:
    deep: Any = "bottom"
    for _ in range(230):
        deep = [deep]
    (event,) = fit({"event": "thought", "value": deep})
    stored([event])
    value, levels = event["value"], 0
    while value != "bottom":
        value, levels = (orjson.loads(value), levels) if isinstance(value, str) else (value[0], levels + 1)
    assert levels == 230


JSON = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(0, 90_000).map(lambda length: "é" * length),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_whatever_is_in_it_an_event_fits(first: Any, second: Any, third: Any) -> None:
    began = {"event": "message_added", "message": {"message_id": "m", "role": "tool", "content": {"tool_name": "t"}}}
    patch = {"content": {"tool_name": "t", "result": first}, "status": "complete", "source": second}
    events = [
        {"event": "other", "a": first, "b": second, "c": third},
        message(first, message_id="n", source={"a": second, "b": third}),
        began,
        {"event": "message_updated", "message_id": "m", "patch": patch},
        {"event": "trace_completed", "status": "failed", "error": third},
    ]
    new_id = ids()
    assert stored([one for event in events for one in fit(event)]).status == "failed"
    whole = stored([one for event in events for one in fit(event, new_id)])
    if isinstance(first, str):
        assert text_of(whole, "n") == first
    if not any(one["role"] == "attachment" for one in whole.messages.values()):
        assert whole.messages["m"]["content"]["result"] == first


def test_metadata_keeps_what_is_small_and_as_much_of_it_as_there_is_room_for() -> None:
    assert split_metadata({"a": 1}) == ({"a": 1}, {})
    kept, rest = split_metadata({"a": 1, "large": "x" * 70_000, "b": [2]})
    assert (kept, list(rest)) == ({"a": 1, "b": [2]}, ["large"])
    kept, rest = split_metadata({f"k{n}": "v" * 500 for n in range(1000)})
    assert 100 < len(kept) < 131
    assert len(kept) + len(rest) == 1000


def test_what_the_log_would_refuse_of_a_trace_it_takes() -> None:
    for text in ("", "  ", "x" * 20_000, "y" * 10_000):
        assert validate_trace({"task": task(text), "agent_type": name("z" * 999)})["task"]
    assert task("y" * 10_000) == "y" * 10_000
    assert task("x" * 20_000) == "x" * 9_900 + fit_module.marker(10_100)


def test_a_number_is_in_the_range_that_the_log_takes() -> None:
    assert [count(10**9), count(10**9 + 1), count(2**50, 2**53 - 1)] == [10**9, None, 2**50]
    assert [amount(1e9), amount(1.1e9), amount(1e12, 2**53)] == [1e9, None, 1e12]
    assert EVENT_BYTES < LIMIT
