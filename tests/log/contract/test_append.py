"""Appending: all or none, limits, producers, conditions, many at once."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.log.helpers import Heard, Json, all_messages, bodies, check_trace, create, end, events, goal, notes, say
from tracewatch.errors import (
    Invalid,
    InvalidField,
    MessageExists,
    ReservedEvent,
    SequenceGap,
    TooLarge,
    TracewatchError,
    UnexpectedLastEventId,
    UnknownGoal,
    UnknownMessage,
    UnknownTrace,
)
from tracewatch.log import Appended, EventLog
from tracewatch.model.canonical import canonical

pytestmark = pytest.mark.anyio


async def test_what_is_appended_is_there_in_order(log: EventLog) -> None:
    await create(log)
    assert await log.append("t", [goal(), say()]) == Appended(1, 2)
    assert await log.append("t", [{"event": "note", "occurred_at": "2026-01-01T00:00:00+01:00"}]) == Appended(3, 3)
    found = await events(log)
    assert [(e["event"], e["event_id"], e["trace_id"]) for e in found] == [
        *(("goal_added", 1, "t"), ("message_added", 2, "t"), ("note", 3, "t"))
    ]
    assert found[2]["occurred_at"] == "2025-12-31T23:00:00.000Z"
    assert [canonical(event) for event in found] == await bodies(log)
    await check_trace(log)


@pytest.mark.parametrize(
    ("bad", "error", "path"),
    [
        ({"event": "goal_added", "goal": {"description": 5}}, Invalid, "1.goal.description"),
        ({"event": "No Name"}, Invalid, "1.event"),
        ("text", Invalid, "1.event"),
        ({"event": "goal_updated", "goal_id": "nope", "patch": {}}, UnknownGoal, None),
        ({"event": "message_updated", "message_id": "nope", "append": ""}, UnknownMessage, None),
        ({"event": "cancel_requested"}, ReservedEvent, "1.event"),
        ({"event": "sub_trace_started"}, ReservedEvent, "1.event"),
        ({"event": "note", "x": "\ud800"}, Invalid, None),
        ({"event": "note", "x": 2**70}, Invalid, None),
        ({"event": "note", "x": [None, float("nan")]}, Invalid, None),
        ({"event": "note", "x": "y" * 262_144}, TooLarge, None),
    ],
)
async def test_one_bad_event_refuses_the_batch_and_says_which(
    log: EventLog, bad: Any, error: type[TracewatchError], path: str | None
) -> None:
    await create(log)
    with pytest.raises(error) as caught:
        await log.append("t", [goal(id="g"), bad, say()], producer="p", seq=1)
    assert caught.value.details[0]["path" if path else "index"] == (path or 1)
    assert await bodies(log) == []
    assert await log.last_seq("t", "p") == 0
    assert (await check_trace(log)).goals == {}
    assert await log.append("t", [goal(id="g")], producer="p", seq=1) == Appended(1, 1)


async def test_a_single_event_is_named_without_an_index(log: EventLog) -> None:
    await create(log)
    with pytest.raises(Invalid) as caught:
        await log.append("t", [{"event": "goal_added", "goal": {}}])
    assert caught.value.details[0]["path"] == "goal.description"
    with pytest.raises(UnknownGoal) as refused:
        await log.append("t", [say(goal_id="g")])
    assert refused.value.details == [{"goal_id": "g"}]


async def test_size_limits(log: EventLog) -> None:
    await create(log)
    limit = 256 * 1024
    room = limit - len(orjson.dumps(say("")))
    assert (await log.append("t", [say("x" * room)])).last_event_id == 1  # with what the server adds it is larger
    with pytest.raises(TooLarge) as caught:
        await log.append("t", [say("x" * (room + 1))])
    assert caught.value.facts["limit"] == limit
    with pytest.raises(TooLarge):
        await log.append("t", notes(1001))
    assert await log.append("t", notes(1000)) == Appended(2, 1001)
    with pytest.raises(Invalid):
        await log.append("t", [])
    await check_trace(log)


async def test_server_events_by_the_server(log: EventLog) -> None:
    await create(log)
    await log.append("t", [{"event": "cancel_requested", "reason": "enough"}], by_server=True)
    assert (await check_trace(log)).cancel_requested == {"reason": "enough", "by": None}


async def test_no_such_trace(log: EventLog) -> None:
    with pytest.raises(UnknownTrace):
        await log.append("nope", notes(1))
    with pytest.raises(UnknownTrace):
        await log.append("nope", notes(1), producer="p", seq=5)


# --- producers ---


async def test_duplicates_are_dropped_and_counted(log: EventLog) -> None:
    await create(log)
    four = [say(str(n)) for n in range(4)]
    assert await log.append("t", four[:2], producer="p", seq=1) == Appended(1, 2)
    assert await log.append("t", four[:2], producer="p", seq=1) == Appended(None, 2, 2)
    assert await log.append("t", four, producer="p", seq=1) == Appended(3, 4, 2)
    assert await log.append("t", four[1:3], producer="p", seq=2) == Appended(None, 4, 2)
    assert [m["content"] for m in await all_messages(log)] == ["0", "1", "2", "3"]
    assert await log.last_seq("t", "p") == 4


async def test_a_duplicate_is_not_judged_again(log: EventLog) -> None:
    """What was right when it was stored may be wrong now: a retried goal exists."""
    await create(log)
    batch = [goal(id="g"), say("x", message_id="x")]
    await log.append("t", batch, producer="p", seq=1)
    assert (await log.append("t", batch, producer="p", seq=1)).duplicates == 2
    with pytest.raises(MessageExists) as caught:
        await log.append("t", [*batch, batch[1]], producer="p", seq=1)
    assert caught.value.facts["index"] == 2


async def test_a_hole_says_what_comes_next(log: EventLog) -> None:
    await create(log)
    with pytest.raises(SequenceGap) as caught:
        await log.append("t", notes(1), producer="p", seq=2)
    assert caught.value.facts["expected_seq"] == 1
    await log.append("t", notes(3), producer="p", seq=1)
    with pytest.raises(SequenceGap) as caught:
        await log.append("t", notes(1), producer="p", seq=5)
    assert caught.value.facts["expected_seq"] == 4


@pytest.mark.parametrize(("producer", "seq"), [("p", 0), ("p", -3), ("p", None), (None, 1)])
async def test_numbers_below_one_would_lose_events(log: EventLog, producer: str | None, seq: int | None) -> None:
    await create(log)
    with pytest.raises(InvalidField):
        await log.append("t", notes(2), producer=producer, seq=seq)
    assert await bodies(log) == []


async def test_two_producers_count_by_themselves(log: EventLog) -> None:
    await create(log)
    await create(log, "u")
    for trace_id in ("t", "u"):
        for producer in ("p", "q"):
            assert (await log.append(trace_id, notes(2), producer=producer, seq=1)).duplicates == 0
    assert (await log.append("t", notes(3), producer="q", seq=2)).duplicates == 1
    assert [await log.last_seq(t, p) for t in "tu" for p in "pqr"] == [2, 4, 0, 2, 2, 0]


async def test_conditional_appends(log: EventLog) -> None:
    await create(log)
    assert await log.append("t", notes(2), expected_last_event_id=0) == Appended(1, 2)
    with pytest.raises(UnexpectedLastEventId) as caught:
        await log.append("t", notes(1), expected_last_event_id=1)
    assert caught.value.facts["last_event_id"] == 2
    assert await log.append("t", notes(1), producer="p", seq=1, expected_last_event_id=2) == Appended(3, 3)
    await log.append("t", notes(1))
    # Its answer was lost: what is stored is a duplicate, though the log has moved on
    assert await log.append("t", notes(1), producer="p", seq=1, expected_last_event_id=2) == Appended(None, 4, 1)


async def test_of_many_with_one_condition_one_wins(log: EventLog) -> None:
    await create(log)
    answers = await asyncio.gather(
        *(log.append("t", notes(1), expected_last_event_id=0) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(answer, Appended) for answer in answers) == 1
    assert sum(isinstance(answer, UnexpectedLastEventId) for answer in answers) == 19


# --- many at once ---


async def test_a_hundred_tasks_on_one_trace(log: EventLog) -> None:
    await create(log)
    heard = Heard(log)

    async def work(task: int) -> list[Appended]:
        return [await log.append("t", [say(f"{task}.{n}.{i}") for i in range(3)]) for n in range(4)]

    answers = [a for one in await asyncio.gather(*map(work, range(100))) for a in one]
    assert sorted(a.first_event_id or 0 for a in answers) == list(range(1, 1201, 3))
    assert heard.ids() == list(range(1, 1201))
    found = [m["content"] for m in await all_messages(log, limit=500)]
    assert sorted(found) == sorted(f"{t}.{n}.{i}" for t in range(100) for n in range(4) for i in range(3))
    for task in range(0, 100, 10):  # each task's own stand in its order
        mine = [text for text in found if text.startswith(f"{task}.")]
        assert mine == [f"{task}.{n}.{i}" for n in range(4) for i in range(3)]
    await check_trace(log)


async def test_many_traces_at_once(log: EventLog) -> None:
    async def work(number: int) -> str:
        trace_id = await create(log, f"t{number}")
        for n in range(5):
            await log.append(
                trace_id, [goal(status="in_progress"), say(str(n), tokens=number)], producer="p", seq=2 * n + 1
            )
        await log.append(trace_id, [end()])
        return trace_id

    for number, trace_id in enumerate(await asyncio.gather(*map(work, range(60)))):
        state = await check_trace(log, trace_id)
        assert (state.last_event_id, state.total_tokens, state.status) == (11, 5 * number, "completed")


async def test_strange_ids_of_messages_and_goals(log: EventLog) -> None:
    """Ids are any text; SQLite's JSON and C strings end at NUL, the log's must not."""
    await create(log)
    for number, text in enumerate(["a", "a\0b", "a\0c", "é", "e\u0301", "'\"%_\\", "😀", "x" * 256]):
        await log.append("t", [goal(id=text), say(text, message_id=text, goal_id=text)])
        with pytest.raises(MessageExists):
            await log.append("t", [say(message_id=text)])
        await log.append("t", [{"event": "message_updated", "message_id": text, "append": str(number)}])
        (found,) = await all_messages(log, goal_id=text)
        assert found["content"] == f"{text}{number}"
    await check_trace(log)


def wide(text: str) -> Json:
    return {"event": "note", "text": text}


async def test_text_comes_back_as_it_was(log: EventLog) -> None:
    await create(log)
    texts = ["", "\0", "\u2028\x1b[31m", "日本語 😀", '"\\', "\r\n"]
    await log.append("t", [wide(text) for text in texts])
    assert [event["text"] for event in await events(log)] == texts


@pytest.mark.parametrize("value", [5e-324, True, None, "usage", ["usage"], {"usage": 1}])
@pytest.mark.parametrize("key", ["message", "patch"])
async def test_keys_of_messages_in_other_events_may_be_anything(log: EventLog, key: str, value: Any) -> None:
    await create(log)
    question = {"event": "input_requested", "question": "?", "answerable": "terminal", "if_absent": False, key: value}
    await log.append("t", [question, {"event": "noted", key: value}])
    assert [event[key] for event in (await events(log))[-2:]] == [value, value]


async def test_what_is_there_already_is_nothing_if_absent(log: EventLog) -> None:
    await create(log)
    hello, plan = say("hello", message_id="a"), goal(id="g")
    await log.append("t", [hello, plan], producer="p", seq=1)
    again = [{**hello, "if_absent": True}, {**plan, "if_absent": True}]
    heard = Heard(log)
    assert await log.append("t", again, producer="p", seq=3) == Appended(None, 2, 2)
    assert heard.ids() == []
    mixed = [*again, {**say("new", message_id="b"), "if_absent": True}, {**say(message_id="b"), "if_absent": True}]
    assert await log.append("t", mixed, producer="p", seq=5) == Appended(3, 3, 3)
    assert await log.append("t", mixed, producer="p", seq=5) == Appended(None, 3, 4), "all of them were counted"
    assert await log.last_seq("t", "p") == 8
    with pytest.raises(MessageExists):
        await log.append("t", [hello])
    assert [event["event"] for event in await events(log)] == ["message_added", "goal_added", "message_added"]
    assert all("if_absent" not in event for event in await events(log))
    await log.append("t", notes(600))  # what it names is not in memory any more
    log.reader._cache.drop(["t"])
    assert (await log.append("t", [{**hello, "if_absent": True}])).first_event_id is None


async def test_a_model_call_counts_when_something_of_it_has_come(log: EventLog) -> None:
    await create(log)
    call = say("", message_id="a", status="streaming")
    await log.append("t", [call, say("hi", message_id="b"), say("", message_id="c", status="streaming")])
    assert (await log.snapshot("t")).state.total_messages == 1
    await check_trace(log)
    await log.append("t", notes(600))  # beyond a snapshot
    log.reader._cache.drop(["t"])
    await log.append("t", [{"event": "message_updated", "message_id": "a", "append": "It"}])
    state = await check_trace(log)
    assert (state.total_messages, state.in_flight) == (2, 1)
    assert [one["sequence"] for one in await all_messages(log)] == [1, 2, 3]
    await log.append("t", [say("behind", message_id="d")])
    assert (await log.message("t", "d"))[1]["sequence"] == 4
    assert (await log.message("t", "c"))[1]["counted"] is False
