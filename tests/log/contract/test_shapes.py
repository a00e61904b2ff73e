"""Traces of an odd shape: very many goals, very deep ones, long texts. What an event costs is what it changes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.log.contract.test_messages import update
from tests.log.contract.test_restore import exported
from tests.log.helpers import (
    Json,
    all_messages,
    ask,
    check_trace,
    check_trimmed,
    create,
    end,
    events,
    goal,
    notes,
    opened,
    prune,
    say,
    summary,
)
from tracewatch.errors import GoalDepth, SubTraceDepth
from tracewatch.log import EventLog
from tracewatch.log.project import LONG
from tracewatch.log.storage import Changes, Needs
from tracewatch.model.canonical import MAX_GOAL_DEPTH
from tracewatch.model.canonical import MAX_SUB_TRACE_DEPTH as DEPTH

pytestmark = pytest.mark.anyio


class Spy:
    """What a log's storage is asked to load and to write."""

    def __init__(self, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.needs: list[Needs] = []
        self.changes: list[Changes] = []
        begin, commit = log.storage.begin, log.storage.commit

        async def begins(needs: Needs) -> Any:
            self.needs.append(needs)
            return await begin(needs)

        async def commits(changes: Changes) -> Any:
            self.changes.append(changes)
            return await commit(changes)

        monkeypatch.setattr(log.storage, "begin", begins)
        monkeypatch.setattr(log.storage, "commit", commits)

    def sizes(self, name: str) -> list[int]:
        """The bodies' sizes of what was written: ``events``, ``snapshots`` or ``bodies``."""
        return [len(row.body) for one in self.changes for change in one.traces for row in getattr(change, name)]

    def forget(self) -> None:
        self.needs.clear()
        self.changes.clear()


# --- many goals ------------------------------------------------------------------------------------------------


async def test_all_snapshots_take_no_more_than_the_log(
    log: EventLog, other: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One every 500 events took the square of the goals: 817 MB for 50,000."""
    spy = Spy(log, monkeypatch)
    await create(log)
    for start in range(0, 6_000, 500):
        await log.append("t", [goal(f"goal {n}", id=f"g{n}") for n in range(start, start + 500)])
        await check_counts(log)
    await log.append("t", notes(500))
    snapshots = spy.sizes("snapshots")
    assert 3 <= len(snapshots) <= 6
    assert sum(snapshots) <= 2 * sum(spy.sizes("events"))
    assert len((await other.snapshot("t")).state.goals) == 6_000
    for at in (0, 499, 500, 2_999, 3_000, 6_499):
        assert len((await other.snapshot("t", at)).state.goals) == min(at, 6_000)
    await check_trace(other)


async def check_counts(log: EventLog) -> None:
    state = (await log.snapshot("t")).state
    assert state.families[None].open == len(state.goals) == len(state.children(None))


async def test_a_log_of_many_goals_is_trimmed_up_to_a_kept_snapshot(log: EventLog) -> None:
    await create(log)
    for start in range(0, 5_000, 500):
        await log.append("t", [goal(f"goal {n}", id=f"g{n}") for n in range(start, start + 500)])
    (gone,) = await prune(log, keep_events=700)
    assert gone.upto % 500 == 0
    assert gone.upto < 4_300
    assert await check_trimmed(log) == gone.upto + 1 > 500
    assert await prune(log, keep_events=700) == []


async def test_a_child_ends_among_many(log: EventLog) -> None:
    await create(log)
    await log.append("t", [goal(id="top", status="in_progress")])
    for start in range(0, 3_000, 1_000):
        await log.append("t", [goal(id=f"g{n}", parent_id="top") for n in range(start, start + 1_000)])
    done = [{"event": "goal_updated", "goal_id": f"g{n}", "patch": {"status": "completed"}} for n in range(3_000)]
    for start in range(0, 3_000, 1_000):
        assert (await log.snapshot("t")).state.goals["top"]["status"] == "in_progress"
        await log.append("t", done[start : start + 1_000])
    assert (await log.snapshot("t")).state.goals["top"]["status"] == "completed"
    await check_trace(log)


async def test_generated_ids_among_many_taken_ones(log: EventLog) -> None:
    await create(log)
    await log.append("t", [goal(id=str(n)) for n in range(3, 900)])
    await log.append("t", [goal() for _ in range(3)])
    assert [event["goal"]["id"] for event in (await events(log))[-3:]] == ["900", "901", "902"]


async def test_an_event_beside_many_open_questions(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(log)
    await log.append("t", [ask(f"q{n}") for n in range(900)])
    spy = Spy(log, monkeypatch)
    await log.answer("t", "q7", "yes")
    await log.append("t", notes(1))
    assert [[one.request_id for one in c.closed_inputs] for all_ in spy.changes for c in all_.traces] == [["q7"], []]
    await log.append("t", [end()])
    assert len(spy.changes[-1].traces[0].closed_inputs) == 899
    assert (await log.inputs(10))[0] == []
    assert [(one["request_id"], one["state"]) for one in await log.inputs_of("t", "q7")] == [("q7", "answered")]


# --- deep ones -------------------------------------------------------------------------------------------------


def chain(count: int) -> list[Json]:
    return [
        goal(id=f"g{n}", status="in_progress", **({"parent_id": f"g{n - 1}"} if n > 1 else {}))
        for n in range(1, count + 1)
    ]


async def test_goals_have_a_depth(log: EventLog) -> None:
    await create(log)
    await log.append("t", chain(MAX_GOAL_DEPTH))
    with pytest.raises(GoalDepth) as caught:
        await log.append("t", [goal(parent_id=f"g{MAX_GOAL_DEPTH}")])
    assert caught.value.body()["parent_id"] == f"g{MAX_GOAL_DEPTH - 1}"
    assert (caught.value.status, caught.value.code, caught.value.body()["limit"]) == (422, "goal_depth", 100)
    await log.append("t", [goal(parent_id=f"g{MAX_GOAL_DEPTH - 1}"), say("deep", tokens=1)])
    await check_trace(log)


async def test_goals_of_an_older_log_that_are_deeper(log: EventLog) -> None:
    """Put back as they are and readable; what is new belongs to the goal at the deepest level that is allowed."""
    await create(log)
    await log.append("t", chain(MAX_GOAL_DEPTH))
    await log.append("t", [say("x", message_id="x", tokens=1)])
    header, stored = await exported(log, "t")
    goals = stored[:MAX_GOAL_DEPTH]
    for n in range(MAX_GOAL_DEPTH + 1, 300):
        deeper = orjson.loads(orjson.dumps(goals[-1]))
        deeper["event_id"] = n
        deeper["goal"] |= {"id": f"g{n}", "parent_id": f"g{n - 1}"}
        goals.append(deeper)
    message = stored[-1] | {"event_id": 300, "affected_goals": []}
    message["message"] = message["message"] | {"goal_id": "g299"}
    await log.delete_trace("t")
    await log.restore({**header, "last_event_id": 300}, [*goals, message])
    assert (await log.snapshot("t")).state.current_goal_id == "g299"
    await log.append("t", [say("named", goal_id="g250"), say("not named"), say("above", goal_id="g100")])
    found = (await events(log))[-3:]
    assert [event["message"]["goal_id"] for event in found] == ["g100"] * 3
    assert [len(event["affected_goals"]) for event in found] == [100] * 3
    with pytest.raises(GoalDepth):
        await log.append("t", [update("x", tokens=5)])
    await log.append("t", [update("x", " more", model="m")])
    with pytest.raises(GoalDepth) as caught:
        await log.append("t", [goal(parent_id="g299")])
    assert caught.value.body()["parent_id"] == "g99"
    await log.append("t", [{"event": "goal_updated", "goal_id": "g299", "patch": {"status": "completed"}}])
    assert (await log.snapshot("t")).state.goals["g1"]["status"] == "completed"
    await check_trace(log)


async def sub_traces(log: EventLog, count: int) -> None:
    await create(log, "s1")
    for n in range(2, count + 1):
        await create(log, f"s{n}", parent_trace_id=f"s{n - 1}")


async def test_sub_traces_have_a_depth(log: EventLog, other: EventLog) -> None:
    await sub_traces(log, DEPTH)
    for one in (log, other):
        for trace_id in (None, "deeper"):
            with pytest.raises(SubTraceDepth) as caught:
                await create(one, trace_id, parent_trace_id=f"s{DEPTH}")
            assert caught.value.body()["parent_trace_id"] == f"s{DEPTH - 1}"
            assert (caught.value.status, caught.value.code, caught.value.body()["limit"]) == (
                422,
                "sub_trace_depth",
                100,
            )
    await create(log, "beside", parent_trace_id=f"s{DEPTH - 1}")
    await log.append(f"s{DEPTH}", [say(tokens=3)])
    assert (await summary(log, "s1"))["tree_totals"]["total_tokens"] == 3
    assert await create(log, f"s{DEPTH}", parent_trace_id=f"s{DEPTH - 1}"), "is there already"


async def test_sub_traces_put_back_in_any_order_have_a_depth(log: EventLog) -> None:
    """Two chains of 60, of which the upper one is put back last."""
    await sub_traces(log, 60)
    headers = [await exported(log, f"s{n}") for n in range(1, 61)]
    await log.delete_trace("s1")
    for header, stored in headers:
        await log.restore({**header, "parent_trace_id": header["parent_trace_id"] or "u60"}, stored)
    await create(log, "u1")
    for n in range(2, 41):
        await create(log, f"u{n}", parent_trace_id=f"u{n - 1}")
    with pytest.raises(SubTraceDepth) as caught:
        await create(log, "u60", parent_trace_id="u40")
    assert caught.value.body()["parent_trace_id"] == "u39"
    await create(log, "u60", parent_trace_id="u39")
    with pytest.raises(SubTraceDepth):
        await create(log, "s61", parent_trace_id="s60")


# --- long texts ------------------------------------------------------------------------------------------------


async def test_a_long_text_is_neither_read_nor_written_for_a_character(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A character at the end of 4 MB, complete or not: 90 ms each before, and the 4 MB written each time."""
    await create(log)
    spy = Spy(log, monkeypatch)
    text = "Line one\n" + "x" * (2 * LONG)
    await log.append("t", [say("Line one", message_id="x", status="streaming")])
    await log.append("t", [update("x", text[8:])])
    for status in ("streaming", "complete"):
        await log.append("t", [update("x", "-", status=status)])
        await log.append("t", [update("x", "y")])
        text += "-y"
        spy.forget()
        for _ in range(40):
            await log.append("t", [update("x", "z"), update("x", tokens=1)])
            text += "z"
        assert spy.sizes("bodies") == []
        assert not any(needs.messages for needs in spy.needs)
        (message,) = await all_messages(log)
        assert (message["content"], message["status"]) == (text, status)
    await log.append("t", [update("x", text)])
    assert len(spy.sizes("bodies")) == 1
    await check_trace(log)


async def test_a_long_text_of_another_process(log: EventLog, other: EventLog, url: str) -> None:
    """Its row is behind; at a boundary it is not."""
    await create(log)
    text = "Line one\n" + "x" * LONG
    await log.append("t", [say(text, message_id="x"), say(text, message_id="y", status="streaming")])
    for n in range(300):
        one = (log, other)[n % 2]
        await one.append("t", [update("x", str(n)), update("y", str(n))])
        text += str(n)
        if n in (3, 245, 246, 247, 248, 249, 250, 251, 299):
            assert [m["content"] for m in await all_messages(one)] == [text, text]
    await log.append("t", [update("y", status="complete")])
    await log.append("t", notes(500))
    async with opened(url) as third:
        assert [m["content"] for m in await all_messages(third)] == [text, text]
        await third.append("t", [update("x", "!")])
        assert (await all_messages(log))[0]["content"] == f"{text}!"
        await check_trace(third)
