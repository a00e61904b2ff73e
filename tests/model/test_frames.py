"""The wire: the start of a watch, the parts of a large goal tree, and the bytes around a frame."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from tracewatch.errors import InvalidCursor
from tracewatch.model.frames import (
    Start,
    control,
    format_cursor,
    parse_cursor,
    resolve_since,
    snapshot_frames,
    snapshot_values,
    sse_control,
    sse_event,
    ws_text,
)
from tracewatch.model.goals import empty_stats
from tracewatch.model.state import State

GARBAGE = [
    *(
        "x",
        "-",
        "--5",
        "- 5",
        "-x",
        "+5",
        "5.",
        ".5",
        "1.2.3",
        " 5",
        "5 ",
        "5\n",
        "0x10",
        "1e3",
        "5,6",
        "LATEST",
        "null",
    ),
    *("latest ", "٥", "５", "-５", "e-1.٥", "é.5", "a b.5", "a/b.5", "x" * 65 + ".5", "e.-5", "e.latest", "1" * 19),
    *(str(10**30), f"-{10**30}", f"e.{10**30}", "\x00", "\ud800"),
]


# --- where a watch starts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "whole", "trimmed", "empty"),  # a log of 1…100, one of 61…100, one without events
    [
        (None, Start(0), Start(60, "trimmed"), Start(0)),
        ("", Start(0), Start(60, "trimmed"), Start(0)),
        ("0", Start(0), Start(60, "trimmed"), Start(0)),
        ("e1.0", Start(0), Start(60, "trimmed"), Start(0)),
        ("1", Start(1, None, True), Start(60, "trimmed", True), Start(0, "ahead", True)),
        ("e1.1", Start(1, None, True), Start(60, "trimmed", True), Start(0, "ahead", True)),
        ("0041", Start(41, None, True), Start(60, "trimmed", True), Start(0, "ahead", True)),
        ("59", Start(59, None, True), Start(60, "trimmed", True), Start(0, "ahead", True)),
        ("60", Start(60, None, True), Start(60, None, True), Start(0, "ahead", True)),
        ("e1.61", Start(61, None, True), Start(61, None, True), Start(0, "ahead", True)),
        ("99", Start(99, None, True), Start(99, None, True), Start(0, "ahead", True)),
        ("100", Start(100, None, True), Start(100, None, True), Start(0, "ahead", True)),
        ("e1.100", Start(100, None, True), Start(100, None, True), Start(0, "ahead", True)),
        ("101", Start(100, "ahead", True), Start(100, "ahead", True), Start(0, "ahead", True)),
        ("e1." + "9" * 18, Start(100, "ahead", True), Start(100, "ahead", True), Start(0, "ahead", True)),
        ("e2.100", Start(0, "reset", True), Start(60, "reset", True), Start(0, "reset", True)),
        ("e2.999", Start(0, "reset", True), Start(60, "reset", True), Start(0, "reset", True)),
        ("E1.100", Start(0, "reset", True), Start(60, "reset", True), Start(0, "reset", True)),
        ("-50", Start(50), Start(60), Start(0)),
        ("-1", Start(99), Start(99), Start(0)),
        ("-0", Start(100), Start(100), Start(0)),
        ("-100", Start(0), Start(60), Start(0)),
        ("-101", Start(0), Start(60), Start(0)),
        ("-" + "9" * 18, Start(0), Start(60), Start(0)),
        ("latest", Start(100), Start(100), Start(0)),
    ],
)
def test_since(since: str | None, whole: Start, trimmed: Start, empty: Start) -> None:
    assert resolve_since(since, epoch="e1", first_event_id=1, last_event_id=100) == whole
    assert resolve_since(since, epoch="e1", first_event_id=61, last_event_id=100) == trimmed
    assert resolve_since(since, epoch="e1", first_event_id=1, last_event_id=0) == empty


@pytest.mark.parametrize("since", GARBAGE, ids=ascii)
def test_what_is_no_cursor_is_refused(since: str) -> None:
    with pytest.raises(InvalidCursor) as caught:
        resolve_since(since, epoch="e", first_event_id=1, last_event_id=10)
    assert (caught.value.code, caught.value.status, caught.value.close_code) == ("invalid_cursor", 400, 4500)
    assert len(caught.value.message) < 500
    assert orjson.dumps(caught.value.body())


@given(
    st.text(max_size=12) | st.from_regex(r"-?[a-z0-9.-]{0,12}", fullmatch=True), st.integers(1, 30), st.integers(0, 30)
)
def test_a_watch_never_starts_outside_the_log(since: str, first: int, more: int) -> None:
    last = first - 1 + more
    try:
        start = resolve_since(since, epoch="e", first_event_id=first, last_event_id=last)
    except InvalidCursor:
        return
    assert first - 1 <= start.after <= last


def test_cursors() -> None:
    assert parse_cursor(format_cursor("Ab-_9", 41)) == ("Ab-_9", 41)
    assert parse_cursor("41") == (None, 41)
    for text in ("", "latest", "-5", *GARBAGE):
        with pytest.raises(InvalidCursor):
            parse_cursor(text)


# --- frames ----------------------------------------------------------------------------------------------------


def frame_of(goals: int, *, task: str = "Mission", trace_id: str | None = None) -> dict[str, Any]:
    state = State("t", task=task, last_event_id=goals)
    for n in range(goals):
        goal_id = f"g{n}"
        goal: dict[str, Any] = {
            "id": goal_id,
            "description": "x" * (n * 37 % 300),
            "reason": None,
            "parent_id": None,
            "type": "normal",
            "status": "pending",
            "summary": None,
            "self_stats": empty_stats(),
            "cumulative_stats": empty_stats(),
            "sub_trace_ids": [],
        }
        state.add_goal(goal)
    tag = {} if trace_id is None else {"trace_id": trace_id}
    return {"event": "connected", **tag, **snapshot_values(state, lease_alive=True)}


def test_a_snapshot_says_what_connected_needs() -> None:
    values = snapshot_values(State("t", task="T", first_event_id=3, last_event_id=7), lease_alive=False)
    assert values["current_event_id"] == values["goal_tree"]["as_of_event_id"] == 7
    assert (values["first_event_id"], values["trace_status"], values["is_running"]) == (3, "running", False)
    assert values["trace"]["is_running"] is False
    assert values["goal_tree"] == {"mission": "T", "current_id": None, "goals": [], "as_of_event_id": 7}
    assert "event_id" not in values


def test_a_tree_that_fits_is_one_frame() -> None:
    frame = frame_of(20)
    size = len(orjson.dumps(frame))
    assert list(snapshot_frames(frame, size)) == [orjson.dumps(frame)]
    assert len(list(snapshot_frames(frame, size - 1))) > 1


@pytest.mark.parametrize("limit", [4_000, 20_000, 70_000])
@pytest.mark.parametrize("trace_id", [None, "t" * 128])
@pytest.mark.parametrize("task", ["Mission", "ä" * 1_000])
def test_the_parts_of_a_tree_fit_and_give_it_back(limit: int, trace_id: str | None, task: str) -> None:
    frame = frame_of(200, task=task, trace_id=trace_id)
    first, *rest = [orjson.loads(part) for part in snapshot_frames(frame, limit)]
    assert all(len(part) <= limit for part in list(snapshot_frames(frame, limit))[1:])
    assert first == {**frame, "goal_tree": None}
    assert [(part["part"], part["parts"]) for part in rest] == [(n, len(rest)) for n in range(1, len(rest) + 1)]
    assert len(rest) > 1
    goals: list[Any] = []
    for part in rest:
        assert part["event"] == "goal_tree_part"
        assert part.get("trace_id") == trace_id
        assert {k: part[k] for k in ("mission", "current_id", "as_of_event_id")} == {
            k: frame["goal_tree"][k] for k in ("mission", "current_id", "as_of_event_id")
        }
        goals += part["goals"]
    assert goals == frame["goal_tree"]["goals"]
    assert len(rest) < 3 * len(orjson.dumps(frame)) / limit + 2, "parts are filled"


def sub_traces(count: int, *, summary: str = "done") -> list[dict[str, Any]]:
    stats = {"total_messages": 1, "total_tokens": 2, "total_cost": 0.5}
    named = {"parent_goal_id": None, "agent_type": "a", "task": "T", "status": "completed", "summary": summary}
    return [{"trace_id": f"s{n}", **named, "stats": stats, "started_event_id": n + 1} for n in range(count)]


def questions(count: int, **more: Any) -> list[dict[str, Any]]:
    named = {"question": "Q?", "goal_id": None, "expires_at": None, "requested_at": "2026-11-20T08:00:00.123Z"}
    return [{"request_id": f"r{n}", **named, **more} for n in range(count)]


def put_together(frames: list[Any]) -> dict[str, Any]:
    """What a client makes of them."""
    first, *rest = frames
    assert first["goal_tree"] is None
    goals: list[Any] = []
    for part in rest:
        if part["event"] == "snapshot_part":
            assert not goals, "the goals come last: with them a client has all"
            for name in ("sub_traces", "pending_inputs"):
                first[name] = first[name] + part.get(name, [])
        else:
            goals += part["goals"]
    assert rest[-1]["event"] == "goal_tree_part" and rest[-1]["part"] == rest[-1]["parts"]
    return {
        **first,
        "goal_tree": {**{k: rest[-1][k] for k in ("mission", "current_id", "as_of_event_id")}, "goals": goals},
    }


@pytest.mark.parametrize("goals", [0, 200])
@pytest.mark.parametrize(("subs", "asked"), [(0, 300), (300, 0), (300, 300)])
def test_every_list_of_a_snapshot_is_sent_in_frames_that_fit(goals: int, subs: int, asked: int) -> None:
    frame = {**frame_of(goals, trace_id="t"), "sub_traces": sub_traces(subs), "pending_inputs": questions(asked)}
    frames = list(snapshot_frames(frame, 10_000))
    assert max(map(len, frames)) <= 10_000 and len(frames) > 2
    assert all(orjson.loads(one).get("trace_id") == "t" for one in frames)
    assert len(frames) < 3 * len(orjson.dumps(frame)) / 10_000 + 4, "frames are filled"
    assert put_together([orjson.loads(one) for one in frames]) == frame


def test_what_is_too_large_for_a_frame_is_a_preview() -> None:
    frame = frame_of(3)
    frame["trace"]["error"] = {"type": "E", "traceback": "x" * 400_000}
    frame["trace"]["metadata"] = {"format": "f", "rows": [[]] * 100_000}
    frame["goal_tree"]["goals"][1] |= {"description": "d" * 800_000, **{f"x{n}": n for n in range(50_000)}}
    frame["sub_traces"] = sub_traces(3, summary="\x01" * 300_000)
    frame["pending_inputs"] = questions(3, schema={"type": "object", "enum": ["y" * 200_000]})
    frames = list(snapshot_frames(frame, 512 * 1024))
    assert max(map(len, frames)) <= 512 * 1024
    shown = put_together([orjson.loads(one) for one in frames])
    trace = shown["trace"]
    assert trace.pop("cut") == ["error", "metadata"]
    assert trace["error"]["type"] == "E" and trace["error"]["traceback"].endswith("xx…")
    assert trace["metadata"]["format"] == "f" and 0 < len(trace["metadata"]["rows"]) < 100_000
    one, cut, other = shown["goal_tree"]["goals"]
    assert [one, other] == frame["goal_tree"]["goals"][::2], "those of the usual size are whole"
    assert cut["cut"][0] == "description" and cut["description"].endswith("dd…") and cut["status"] == "pending"
    assert {tuple(sub["cut"]) for sub in shown["sub_traces"]} == {("summary",)}
    assert {tuple(asked["cut"]) for asked in shown["pending_inputs"]} == {("schema",)}
    assert shown["pending_inputs"][0]["schema"]["type"] == "object"


def test_control_frames_carry_no_event_id() -> None:
    frame = orjson.loads(control("heartbeat", ts="x", current_event_id=5, cursor="e.5"))
    assert frame == {"event": "heartbeat", "ts": "x", "current_event_id": 5, "cursor": "e.5"}


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_websocket_frame_is_what_a_client_reads(size: int) -> None:
    payload = b"x" * size
    reader = StreamReader()
    reader.feed_data(ws_text(payload) + ws_text(b"next"))
    for wanted in (payload, b"next"):
        parsing = Frame.parse(reader.read_exact, mask=False, max_size=None)
        with pytest.raises(StopIteration) as done:
            next(parsing)
        frame: Frame = done.value.value
        assert (frame.opcode, frame.data, frame.fin) == (Opcode.TEXT, wanted, True)
        assert not (frame.rsv1 or frame.rsv2 or frame.rsv3)
    assert ws_text(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


def test_server_sent_events() -> None:
    body = b'{"event":"note","event_id":7,"text":"a\\nb"}'
    assert sse_event("ep", 7, body) == b"id: ep.7\nevent: note\ndata: " + body + b"\n\n"
    beat = control("heartbeat", current_event_id=7)
    assert sse_control(beat) == b"event: heartbeat\ndata: " + beat + b"\n\n"
