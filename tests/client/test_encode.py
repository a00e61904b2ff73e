"""Whatever an agent hands over becomes events that the server's own gate lets pass."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import pathlib
import resource
import sys
import uuid
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.fake import TS
from tracewatch.client.encode import dumps, dumps_whole, encode, name_of, words
from tracewatch.model.canonical import parse_json
from tracewatch.model.events import validate_event
from tracewatch.model.fit import amount, count, marker
from tracewatch.model.rules import complete
from tracewatch.model.state import State, apply_into

EVENT_LIMIT = 256 * 1024


def stored(bodies: list[bytes]) -> State:
    """The state after these events, as the server would fold them: fails where it would refuse."""
    state = State("t")
    for body in bodies:
        assert len(body) <= EVENT_LIMIT
        event = validate_event(parse_json(body))
        apply_into(state, complete(state, event, event_id=state.last_event_id + 1, ts=TS))
    return state


def one(value: Any) -> Any:
    """What becomes of a value in an event."""
    (body,) = encode({"event": "thought", "value": value})
    stored([body])
    return orjson.loads(body)["value"]


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (object, "<class 'object'>"),
        (b"raw", "b'raw'"),
        (pathlib.PurePosixPath("/x"), "PurePosixPath('/x')"),
        (Decimal("1.5"), "Decimal('1.5')"),
        (1 + 2j, "(1+2j)"),
        ({3}, [3]),
        (float("nan"), None),
        (float("inf"), None),
        (2**70, str(2**70)),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ({"a": {(1, 2): object}}, {"a": {"(1, 2)": "<class 'object'>"}}),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ({"k\udfff": 1}, {"k?": 1}),
        (Unprintable(), "<Unprintable whose repr raises>"),
        (Colour.RED, "red"),
        (Point(1), {"x": 1}),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime.date(2026, 11, 20), "2026-11-20"),
        ({"n": 2**70, "when": datetime.date(2026, 11, 20)}, {"n": str(2**70), "when": "2026-11-20"}),
        ((1, (2, 3)), [1, [2, 3]]),
        ("", ""),
    ],
)
def test_what_json_cannot_say_is_said_otherwise(value: Any, kept: Any) -> None:
    assert one(value) == kept


@pytest.mark.parametrize("value", [LOOP, DEEP, {"a": LOOP}, [{"b": DEEP}]])
def test_what_has_no_end_is_cut(value: Any) -> None:
    assert one(value)


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
                    | st.integers(-(2**63), 2**63 - 1),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_what_json_can_say_is_kept_as_it_is(value: Any) -> None:
    assert one(value) == value


# --- too large -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letter", ["x", "é", "𝄞", "\x01", '"'])
@pytest.mark.parametrize("length", [250_000, 1_000_001])
def test_long_text_of_a_message_is_split_and_comes_together_again(letter: str, length: int) -> None:
    text = letter * length + "end"
    added = encode({"event": "message_added", "message": {"message_id": "x", "role": "user", "content": text}})
    assert stored(added).messages["x"]["content"] == text
    begun = encode({"event": "message_added", "message": {"message_id": "x", "role": "user", "content": "so: "}})
    appended = encode({"event": "message_updated", "message_id": "x", "append": text, "patch": {"tokens": 3}})
    state = stored(begun + appended)
    assert state.messages["x"]["content"] == "so: " + text
    assert state.total_tokens == 3
    assert len({orjson.loads(body)["occurred_at"] for body in appended}) == 1


def test_text_beyond_what_a_message_may_hold_is_shortened_and_says_so() -> None:
    text = "x" * 5_000_000
    state = stored(encode({"event": "message_added", "message": {"message_id": "x", "role": "u", "content": text}}))
    assert state.messages["x"]["content"] == "x" * 4_000_000 + marker(1_000_000)


@pytest.mark.parametrize(
    "content",
    [
        {"tool_name": "cat", "result": "x" * 600_000},
        {"tool_name": "ls", "result": list(range(100_000))},
        {"tool_name": "env", "result": {f"key {n}": "v" * 50 for n in range(20_000)}},
        {"tool_name": "many", "result": [["y" * 100] * 200] * 200},
        {"tool_name": "worst", "result": [[[["z" * 100] * 64] * 64] * 3] * 2},
    ],
)
def test_a_large_result_is_shortened_with_a_marker(content: dict[str, Any]) -> None:
    message = {"message_id": "x", "role": "tool", "content": content, "status": "complete", "tokens": 4}
    (body,) = encode({"event": "message_added", "message": message})
    kept = stored([body]).messages["x"]
    assert "[shortened by the recorder: " in body.decode()
    assert (kept["role"], kept["tokens"], kept["status"]) == ("tool", 4, "complete")
    began = {"event": "message_added", "message": {"message_id": "x", "role": "tool", "content": {"tool_name": "t"}}}
    patch = {"content": content, "status": "complete", "duration_ms": 1.5}
    updated = stored(encode(began) + encode({"event": "message_updated", "message_id": "x", "patch": patch}))
    assert updated.messages["x"]["status"] == "complete"
    assert "[shortened by the recorder: " in str(updated.messages["x"]["content"])


@pytest.mark.parametrize(
    "event",
    [
        {"event": "thought", **{f"key {n}": "v" * 50 for n in range(20_000)}},
        {"event": "goal_updated", "goal_id": "g", "patch": {"summary": "s" * 400_000}},
        {"event": "trace_completed", "status": "failed", "error": {"traceback": "t" * 400_000}},
        {"event": "trace_completed", "status": "failed", "error": [[[["z" * 100] * 70] * 70] * 70]},
        {"event": "message_added", "message": {"role": "user", "content": "x" * 400_000}},
    ],
)
def test_any_other_large_event_is_shortened(event: dict[str, Any]) -> None:
    goal = {"event": "goal_added", "goal": {"id": "g", "description": "d"}}
    state = stored(encode(goal) + encode(event))
    assert state.last_event_id == 2
    if event["event"] == "trace_completed":
        assert state.status == "failed"


# --- values with a type of their own ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kept"),
    [(3, 3), (3.0, 3), (0, 0), (3.5, None), (-1, None), (True, None), ("3", None), (None, None), (2**60, None)],
)
def test_a_count_is_a_count_or_nothing(value: Any, kept: int | None) -> None:
    assert count(value) == kept


@pytest.mark.parametrize(
    ("value", "kept"),
    [(0.5, 0.5), (Decimal("0.5"), 0.5), (2, 2.0), (-0.1, None), (float("nan"), None), ("1", None), (10**400, None)],
)
def test_an_amount_is_an_amount_or_nothing(value: Any, kept: float | None) -> None:
    assert amount(value) == kept


def test_words_and_names_are_text_whatever_they_were() -> None:
    assert words(None) == "None"
    assert words("a\ud800") == "a?"
    assert len(name_of("x" * 999)) == 256
    assert name_of("") == "?"


def test_a_value_changed_later_is_recorded_as_it_was() -> None:
    value = ["then"]
    (body,) = encode({"event": "thought", "value": value})
    value.append("now")
    assert orjson.loads(body)["value"] == ["then"]
    assert dumps(value) == b'["then","now"]'


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_whole_json_that_is_kept_takes_no_more_memory_than_it_has_bytes() -> None:
    """What orjson returns for long text keeps eight times as much: under a limit of memory that ends the process."""

    def mapped() -> int:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    text = {"role": "user", "content": "é" * 6_000_000}
    before = mapped()
    kept = [dumps_whole(text, 10_000_000) for _ in range(5)]
    assert mapped() - before < 1.5 * sum(map(len, kept)) + 120_000_000
