"""The watch without a socket: any cuts give exactly the log's slice, the log's state, and each piece of news once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.fake import TS, FakeLog, busy_log
from tracewatch.client.errors import ApiError
from tracewatch.client.watch_core import WatchCore
from tracewatch.errors import (
    Forbidden,
    InvalidCursor,
    ProtocolViolation,
    TraceDeleted,
    UnknownTrace,
    WatchError,
    WatchGap,
)
from tracewatch.model.frames import control
from tracewatch.model.state import State, apply_into

DONE = {"event": "trace_completed", "status": "completed"}


def feed(core: WatchCore, frames: Iterable[bytes]) -> list[int]:
    """The ids of the events given out."""
    return [event["event_id"] for event in map(core.receive, frames) if event is not None]


def connect(core: WatchCore, log: FakeLog) -> list[int]:
    core.opened()
    return feed(core, log.frames(core.query()))


def kinds(core: WatchCore) -> list[str]:
    said = [news.kind for news in core.news]
    core.news.clear()
    return said


def shown(state: State) -> dict[str, Any]:
    return {"trace": state.trace(), "tree": state.goal_tree(), "pending": state.pending_inputs}


# --- the property ----------------------------------------------------------------------------------------------


@given(
    since=st.sampled_from([None, 0, 1, 7, 18, "e.5", "-4", "latest"]),
    cuts=st.lists(st.integers(0, 30), max_size=8),
    grows=st.lists(st.integers(0, 3), min_size=9, max_size=9),
    limit=st.sampled_from([1600, 5000, 512 * 1024]),
)
def test_for_any_cuts_exactly_the_slice_and_the_state(
    since: str | int | None, cuts: list[int], grows: list[int], limit: int
) -> None:
    log = busy_log(3)
    log.limit = limit
    begin = since if isinstance(since, int) else {"-4": 14, "latest": 18, "e.5": 5, None: 0}[since]
    core, got = WatchCore("t", since=since), []
    for turn, cut in enumerate([*cuts, 10_000]):
        core.opened()
        frames = log.frames(core.query())
        for _, frame in zip(range(cut), frames, strict=False):
            event = core.receive(frame)
            if event is not None:
                got.append(event)
        core.lost("cut", 0.1)
        if core.root.position is None or not core.root.epoch:
            begin = log.state.last_event_id if since == "latest" else begin
        for n in range(grows[turn] if cut < 10_000 and core.root.epoch else 0):
            log.append({"event": "thought", "n": n})
    expected = log.events[begin:]
    assert got == expected
    assert shown(core.root.state) == shown(log.state)


def test_messages_survive_a_reconnect_though_no_snapshot_holds_them() -> None:
    log, core = busy_log(2), WatchCore("t")
    core.opened()
    feed(core, list(log.frames(core.query()))[:6])  # in the middle of a streamed message's life
    core.lost("cut", 0.1)
    log.append({"event": "message_updated", "message_id": "a1", "append": "!"})
    connect(core, log)
    assert core.root.state.messages == log.state.messages
    assert core.root.state.messages["a1"]["content"] == "It is!"


# --- what breaks the protocol ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["hole", "repeat", "backwards"])
def test_a_hole_or_a_repeat_is_a_violation(wrong: str) -> None:
    log, core = busy_log(1), WatchCore("t")
    frames = list(log.frames(core.query()))
    if wrong == "hole":
        del frames[3]
    elif wrong == "repeat":
        frames.insert(3, frames[3])
    else:
        frames[3], frames[4] = frames[4], frames[3]
    with pytest.raises(ProtocolViolation):
        feed(core, frames)
    assert core.root.position == (3 if wrong == "repeat" else 2)


def test_a_reconnect_that_begins_elsewhere_is_a_violation() -> None:
    log, core = busy_log(1), WatchCore("t")
    connect(core, log)
    log.append({"event": "thought"}, {"event": "thought"})
    core.opened()
    with pytest.raises(ProtocolViolation):
        feed(core, log.frames({"since_event_id": "e.7"}))


def test_events_left_out_at_the_end_are_noticed() -> None:
    log, core = busy_log(1), WatchCore("t")
    frames = list(log.frames(core.query()))
    del frames[-2]
    with pytest.raises(ProtocolViolation, match="stands at 6, having sent up to 5"):
        feed(core, frames)


def test_an_end_before_the_last_event_is_noticed() -> None:
    log, core = busy_log(1), WatchCore("t")
    connect(core, log)
    with pytest.raises(ProtocolViolation, match="ended with event 9"):
        core.receive(control("end", status="completed", last_event_id=9))


def test_an_event_before_any_snapshot_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        WatchCore("t", since="latest").receive(b'{"event":"x","event_id":5,"trace_id":"t","ts":"T"}')


@pytest.mark.parametrize(
    "junk",
    [b"", b"{", b"[]", b"7", b"{}", b'{"event":"connected"}', b'{"event":"end"}', b'{"event":"goal_tree_part"}',
     b'{"event":"caught_up","cursor":"?"}', b'{"event":"x","event_id":"1"}', b'{"event":"message_added","event_id":1}'],
)  # fmt: skip
def test_junk_is_a_violation_and_nothing_else(junk: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        WatchCore("t").receive(junk)


def test_a_frame_of_a_later_protocol_is_let_pass() -> None:
    assert WatchCore("t").receive(b'{"event":"weather","sun":true}') is None


# --- gaps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "reason", "resume"),
    [("x.3", "reset", 10), ("e.99", "ahead", 16), ("3", "trimmed", 10), ("e.3", "trimmed", 10)],
)
@pytest.mark.parametrize("limit", [1600, 512 * 1024])
def test_a_gap_is_raised_with_what_it_takes_to_go_on(since: str | None, reason: str, resume: int, limit: int) -> None:
    log, core = busy_log(1, first_event_id=11), WatchCore("t", since=since)
    log.limit = limit
    with pytest.raises(WatchGap) as caught:
        connect(core, log)
    assert (caught.value.reason, caught.value.resume_event_id) == (reason, resume)
    assert shown(caught.value.state) == shown(log.state)
    assert kinds(core)[-1] == "gap"
    assert connect(WatchCore("t", since=caught.value.cursor), log) == list(range(resume + 1, 17))


@pytest.mark.parametrize("since", [None, "", "0", 0, "-99", "e.0"])
def test_all_there_is_of_a_trimmed_log_is_given(since: str | int | None) -> None:
    log, core = busy_log(1, first_event_id=11), WatchCore("t", since=since)
    assert connect(core, log) == list(range(11, 17))
    assert shown(core.root.state) == shown(log.state)
    assert core.root.cursor == "e.16"
    told = [news for news in core.news if news.kind == "gap"]
    assert [(news.error, news.resume_event_id) for news in told] == ([] if since == "-99" else [("trimmed", 10)])


@pytest.mark.parametrize("skip", [False, True])
def test_what_is_trimmed_under_a_watch(skip: bool) -> None:
    """It is raised, or passed over where that was asked for; told of it is in any case."""
    log, core = busy_log(2), WatchCore("t", skip_trimmed=skip)
    assert connect(core, log)[-1] == 12
    core.lost("broken", 1.0)
    later = busy_log(1, first_event_id=31)
    if not skip:
        with pytest.raises(WatchGap) as caught:
            connect(core, later)
        assert (caught.value.facts["requested"], caught.value.cursor) == ("e.12", "e.30")
    else:
        assert connect(core, later) == list(range(31, 37))
        assert shown(core.root.state) == shown(later.state)
        assert core.status == "live"
    assert [(news.last_event_id, news.resume_event_id) for news in core.news if news.kind == "gap"] == [(12, 30)]


def test_a_position_of_ones_own_is_not_passed_over() -> None:
    log, core = busy_log(1, first_event_id=11), WatchCore("t", since="e.3", skip_trimmed=True)
    with pytest.raises(WatchGap):
        connect(core, log)


# --- filters, ends, status -------------------------------------------------------------------------------------


def test_a_filtered_watch_follows_checkpoints() -> None:
    log, core = busy_log(2), WatchCore("t", types=["thought", "error"])
    assert core.query()["types"] == "thought,error"
    core.opened()
    frames = [frame for frame in log.frames(core.query()) if b'"event_id"' not in frame or b'"thought"' in frame]
    assert feed(core, frames[:2]) == [4]
    assert core.root.cursor == "e.4"
    core.receive(control("checkpoint", cursor="e.8"))
    assert core.root.cursor == "e.8"
    assert feed(core, frames[2:]) == [10]
    assert core.root.cursor == "e.12"  # caught up: what was left out lies behind


def test_the_end_ends_it() -> None:
    log, core = busy_log(1), WatchCore("t")
    connect(core, log)
    assert core.status == "live"
    log.append(DONE)
    core.receive(log.bodies[-1])
    core.receive(control("end", status="completed", last_event_id=7))
    assert core.status == "ended"
    assert core.root.state.status == "completed"


def test_news_is_told_once_per_outage() -> None:
    log, core = busy_log(1), WatchCore("t")
    core.lost("refused", 0.1)
    core.lost("refused", 0.1)
    assert (kinds(core), core.status) == (["lost"], "connecting")
    connect(core, log)
    assert kinds(core) == ["connected", "caught_up"]
    core.lost("reset", 0.2)
    core.lost("refused", 0.4)
    core.opened()
    core.receive(next(log.frames(core.query())))
    core.lost("reset again before it had caught up", 0.4)
    assert (kinds(core), core.status) == (["lost"], "reconnecting")
    log.append({"event": "thought"})
    connect(core, log)
    (news,) = core.news
    assert (news.kind, news.replayed, news.last_event_id) == ("reconnected", 1, 7)


def test_falling_behind_is_catching_up() -> None:
    log, core = busy_log(1), WatchCore("t")
    connect(core, log)
    core.receive(control("fell_behind", sent_event_id=6, current_event_id=900))
    assert (core.status, core.current_event_id) == ("catching_up", 900)


def test_the_servers_heartbeat_sets_the_patience() -> None:
    log, core = busy_log(1), WatchCore("t")
    feed(core, log.frames(core.query(), heartbeat_s=2.0))
    assert core.silence_s == 5.0


@pytest.mark.parametrize(
    ("close_code", "code", "kind"),
    [
        (4504, "unknown_trace", UnknownTrace),
        (4504, "trace_deleted", TraceDeleted),
        (4504, None, UnknownTrace),
        (4500, "invalid_cursor", InvalidCursor),
        (4501, "unauthorized", ApiError),
        (4503, None, Forbidden),
        (4999, "news_of_tomorrow", WatchError),
    ],
)
def test_a_close_that_is_final_is_raised(close_code: int, code: str | None, kind: type[Exception]) -> None:
    core = WatchCore("t")
    if code:
        core.receive(control("error", code=code, message="said so"))
    with pytest.raises(kind) as caught:
        core.closed_with(close_code, "")
    assert type(caught.value) is kind


@pytest.mark.parametrize("close_code", [1000, 1001, 1006, 1011, 1012, 4008, 4029, 4499])
def test_a_close_that_is_not_final_is_not(close_code: int) -> None:
    WatchCore("t").closed_with(close_code, "")


def test_garbage_for_a_cursor_is_refused_at_once_where_it_can_be() -> None:
    with pytest.raises(InvalidCursor):
        WatchCore("t", since="e.x")


# --- children --------------------------------------------------------------------------------------------------


def test_children_each_keep_their_own_order_and_cursor() -> None:
    parent, child = busy_log(1), busy_log(1, trace_id="c")
    core = WatchCore("t", children=True)
    core.opened()
    one, two = (list(log.frames(core.query(), trace_id=log.trace_id)) for log in (parent, child))
    mixed = [frame for pair in zip(one, two, strict=True) for frame in pair]
    got = [core.receive(frame) for frame in mixed[:8]]
    assert [(e["trace_id"], e["event_id"]) for e in got if e] == [(t, n) for n in (1, 2, 3) for t in ("t", "c")]
    subscribe = orjson.loads(core.subscribe())["subscribe"]
    assert subscribe == {
        "trace_id": "t",
        "since_event_id": "e.3",
        "until": "end",
        "nulls": "1",
        "subtree": True,
        "cursors": {"c": "e.3"},
    }
    feed(core, mixed[8:])
    assert core.status == "live"
    assert shown(core.tracks["c"].state) == shown(child.state)


def test_the_watch_of_a_subtree_ends_when_all_have() -> None:
    parent, child = busy_log(1), busy_log(1, trace_id="c")
    core = WatchCore("t", children=True)
    core.opened()
    parent.append(DONE)
    feed(core, child.frames(core.query(), trace_id="c"))
    feed(core, parent.frames(core.query(), trace_id="t"))
    assert core.status == "live"
    child.append(DONE)
    core.receive(child.bodies[-1])
    core.receive(control("end", trace_id="c", status="completed", last_event_id=7))
    assert core.status == "ended"


def test_a_sub_trace_that_is_gone_does_not_hold_up_the_end() -> None:
    parent = busy_log(1)
    parent.append(DONE)
    core = WatchCore("t", children=True)
    core.opened()
    core.receive(control("error", trace_id="c", code="unknown_trace", message="gone"))
    feed(core, parent.frames(core.query(), trace_id="t"))
    assert core.status == "ended"
    with pytest.raises(UnknownTrace):
        core.receive(control("error", trace_id="t", code="unknown_trace", message="gone"))


@pytest.mark.parametrize("until", ["end", None])
def test_a_server_without_room_for_a_sub_trace_is_tried_again_later(until: Any) -> None:
    core = WatchCore("t", children=True, until=until)
    core.opened()
    with pytest.raises(ConnectionError, match="full"):
        core.receive(control("error", trace_id="b", code="too_many", message="full"))


def test_a_watch_waits_for_every_sub_trace_its_log_names() -> None:
    parent, child = busy_log(1), busy_log(1, trace_id="c")
    parent.append(DONE)
    child.append(DONE)
    core = WatchCore("t", children=True)
    core.opened()
    began = {"event": "sub_trace_started", "sub_trace_id": "c", "parent_goal_id": None, "agent_type": "a", "task": "x"}
    apply_into(parent.state, {**began, "event_id": 8, "trace_id": "t", "ts": TS})
    parent.bodies.append(orjson.dumps({**began, "event_id": 8, "trace_id": "t", "ts": TS}))
    feed(core, parent.frames(core.query(), trace_id="t"))
    assert core.status == "live"
    assert feed(core, child.frames({"since_event_id": None, "until": "end"}, trace_id="c")) == [1, 2, 3, 4, 5, 6, 7]
    assert core.status == "ended"


def test_another_history_replaces_all_that_is_known() -> None:
    """Whatever ids it has: here it has more events than the one before, and the same messages' names."""
    log, core = busy_log(1), WatchCore("t", children=True)
    connect(core, log)
    sub = busy_log(1, trace_id="sub")
    feed(core, sub.frames({"since_event_id": None}, trace_id="sub"))
    assert set(core.tracks) == {"t", "sub"} and core.root.state.messages["a0"]["content"] == "It is"
    core.lost("the server was restarted", 0.1)
    other = FakeLog(epoch="another")
    other.append(*[{"event": "thought"}] * 40, {"event": "goal_added", "goal": {"description": "Another"}})
    with pytest.raises(WatchGap) as caught:
        connect(core, other)
    assert caught.value.reason == "reset"
    assert shown(caught.value.state) == shown(other.state) == shown(core.root.state)
    assert caught.value.state.messages == {} and set(core.tracks) == {"t"}
