"""Group commit: jobs that wait during a transaction share the next one; each refusal is its own; listeners; the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.log.helpers import (
    Heard,
    all_messages,
    bodies,
    check_trace,
    create,
    end,
    goal,
    names,
    notes,
    opened,
    say,
    settle,
    soon,
    summary,
)
from tracewatch.errors import Invalid, SequenceGap, Unavailable, UnknownGoal, UnknownTrace
from tracewatch.log import Appended, EventLog, Grown
from tracewatch.model.rules import complete

pytestmark = pytest.mark.anyio
Hold = Callable[[], AbstractContextManager[None]]


async def test_what_waits_is_one_transaction(log: EventLog, hold: Hold) -> None:
    await create(log)
    heard = Heard(log)
    with hold():
        first = asyncio.create_task(log.append("t", notes(1)))
        await settle()
        rest = [asyncio.create_task(log.append("t", notes(2))) for _ in range(50)]
        await settle()
        assert heard.commits == []
        assert not first.done()
    await soon(asyncio.gather(first, *rest))
    assert [len(grown[0].bodies) for grown in heard.commits] == [1, 100]
    assert [task.result().first_event_id for task in rest] == list(range(2, 102, 2))
    await check_trace(log)


async def test_a_lone_append_is_a_transaction(log: EventLog) -> None:
    await create(log)
    heard = Heard(log)
    for _ in range(3):
        await log.append("t", notes(1))
    assert len(heard.commits) == 3


async def gathered(log: EventLog, hold: Hold, *asked: Any) -> list[Any]:
    """The answers (or errors) of what is asked while nothing can be written: all in one group, behind a lone one."""
    with hold():
        tasks = [asyncio.create_task(log.renew_lease("leased"))]
        await settle()
        for one in asked:
            tasks.append(asyncio.create_task(one))
            await settle()
    return (await soon(asyncio.gather(*tasks, return_exceptions=True)))[1:]


async def test_a_refusal_is_its_own(log: EventLog, hold: Hold) -> None:
    await create(log, "leased", lease_s=10)
    await create(log)
    heard = Heard(log)
    answers = await gathered(
        *(log, hold),
        log.append("t", [goal(id="g")], producer="p", seq=1),
        log.append("t", [say(), say(goal_id="nope")]),
        log.append("t", [say("one", goal_id="g")], producer="p", seq=2),
        log.append("t", notes(1), producer="p", seq=9),
        log.append("nope", notes(1)),
        create(log, "c", parent_trace_id="t", parent_goal_id="g"),
        log.append("c", [say("sub")]),
        log.append("t", [{"event": "message_updated", "message_id": "m2", "append": "!"}]),
        log.append("t", notes(1), expected_last_event_id=4),
    )
    assert [a if isinstance(a, str | Appended) else type(a) for a in answers] == [
        *(Appended(1, 1), UnknownGoal, Appended(2, 2), SequenceGap, UnknownTrace),
        *("c", Appended(1, 1), Appended(4, 4), Appended(5, 5)),
    ]
    assert len(heard.commits) == 2
    assert [m["content"] for m in await all_messages(log)] == ["one!"]
    await check_trace(log)
    await check_trace(log, "c")


async def test_a_defect_costs_only_who_brought_it(
    log: EventLog, hold: Hold, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(state: Any, raw: Any, **more: Any) -> Any:
        if raw["event"] == "poison":
            raise KeyError("a defect")
        return complete(state, raw, **more)

    monkeypatch.setattr("tracewatch.log.jobs.complete", broken)
    await create(log, "leased", lease_s=10)
    await create(log)
    answers = await gathered(
        *(log, hold),
        log.append("t", notes(2)),
        log.append("t", [*notes(1), {"event": "poison"}]),
        log.append("t", notes(1)),
    )
    assert answers[0] == Appended(1, 2)
    assert "internal error" in str(answers[1])
    assert answers[2] == Appended(3, 3)
    assert "defect" in caplog.text
    await check_trace(log)


async def test_a_trace_and_its_parent_in_one_group(log: EventLog, hold: Hold) -> None:
    await create(log, "leased", lease_s=10)
    await gathered(
        *(log, hold),
        create(log, "p"),
        create(log, "c", parent_trace_id="p"),
        log.append("c", [say(tokens=5)]),
        log.append("p", [say(tokens=1)]),
        log.append("c", [end(summary="Done")]),
    )
    assert await names(log, "p") == ["sub_trace_started", "message_added", "sub_trace_completed"]
    state = await check_trace(log, "p")
    assert (state.sub_traces["c"]["stats"]["total_tokens"], state.sub_traces["c"]["summary"]) == (5, "Done")
    assert (await summary(log, "p"))["tree_totals"]["total_tokens"] == 6


# --- listeners ---


async def test_listeners_hear_after_the_commit_and_before_the_answer(log: EventLog, other: EventLog) -> None:
    await create(log)
    order: list[str] = []
    seen: list[asyncio.Task[Any]] = []

    def listener(grown: Any) -> None:
        order.append("heard")
        seen.append(asyncio.create_task(other.read("t", 0, max_events=10, max_bytes=10_000)))

    stop = log.listen(listener)
    await log.append("t", notes(2))
    order.append("answered")
    assert order == ["heard", "answered"]
    assert (await seen[0]).last_event_id == 2
    stop()
    await log.append("t", notes(1))
    assert order == ["heard", "answered"]


async def test_what_listeners_are_told(log: EventLog) -> None:
    await create(log, "p")
    heard = Heard(log)
    await create(log, "c", parent_trace_id="p")
    await log.append("c", [say(), end("failed")])
    with pytest.raises(Invalid):
        await log.append("c", [{"event": "No"}])
    await log.delete_trace("p")
    told = [{g.trace_id: (g.last_event_id, g.status, len(g.bodies), g.deleted) for g in c} for c in heard.commits]
    assert told == [
        {"c": (0, "running", 0, False), "p": (1, "running", 1, False)},
        {"c": (2, "failed", 2, False), "p": (2, "running", 1, False)},
        {"c": (2, "deleted", 0, True), "p": (2, "deleted", 0, True)},
    ]
    assert heard.ids("c") == [1, 2]


async def test_the_bytes_told_are_the_bytes_stored(log: EventLog) -> None:
    await create(log)
    heard = Heard(log)
    await asyncio.gather(*(log.append("t", [goal(), say(str(n))]) for n in range(20)))
    assert [body for commit in heard.commits for grown in commit for body in grown.bodies] == await bodies(log)


async def test_a_listener_that_fails_does_not_stop_the_log(log: EventLog) -> None:
    await create(log)
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def listener(grown: Any) -> None:
        raise RuntimeError("defect")

    log.listen(listener)
    heard = Heard(log)
    assert await soon(log.append("t", notes(1))) == Appended(1, 1)
    assert await soon(log.append("t", notes(1))) == Appended(2, 2)
    assert heard.ids() == [1, 2]
    assert [str(context["exception"]) for context in reported] == ["defect", "defect"]


async def test_a_listener_may_leave_while_it_is_told(log: EventLog) -> None:
    await create(log)
    told: list[str] = []

    def once(grown: list[Grown] | Any) -> None:
        told.append("once")
        stop()

    stop = log.listen(once)
    log.listen(lambda grown: told.append("always"))
    await log.append("t", notes(1))
    await log.append("t", notes(1))
    assert told == ["once", "always", "always"]


# --- the end ---


async def test_close_finishes_what_waits(url: str) -> None:
    async with opened(url) as log:
        await create(log)
        tasks = [asyncio.create_task(log.append("t", notes(3))) for _ in range(40)]
        reads = [asyncio.create_task(log.snapshot("t")) for _ in range(10)]
        await settle()
        await soon(log.close())
        assert all(task.done() for task in tasks)
        assert sum(task.result().last_event_id == 120 for task in tasks) == 1
        for done in await soon(asyncio.gather(*reads, return_exceptions=True)):
            assert not isinstance(done, BaseException) or isinstance(done, Unavailable)
        with pytest.raises(Unavailable):
            await log.append("t", notes(1))
        with pytest.raises(Unavailable):
            await log.snapshot("t")
        await soon(log.close())
    async with opened(url) as log:
        assert (await check_trace(log)).last_event_id == 120


async def test_who_is_cancelled_has_asked_all_the_same(log: EventLog, hold: Hold) -> None:
    await create(log)
    with hold():
        tasks = [asyncio.create_task(log.append("t", notes(1))) for _ in range(5)]
        await settle()
        for task in tasks[::2]:
            task.cancel()
        await settle()
    answers = await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False] * 2 + [True]
    assert answers[3] == Appended(4, 4)
    assert await log.append("t", notes(1)) == Appended(6, 6)
    await check_trace(log)


async def test_a_cancelled_reader_leaves_nothing_behind(log: EventLog) -> None:
    """Cancelled at any step, on every connection: the next reader sees the log as it is, not as it was."""
    await create(log)
    for steps in range(12):
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(log.snapshot("t")) for _ in range(3)]
        tasks += [asyncio.create_task(log.messages("t", goal_id=None, before=None, limit=1)) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await soon(asyncio.gather(*tasks, return_exceptions=True))
        await log.append("t", [say(str(steps))])
        for page in await asyncio.gather(*(log.messages("t", goal_id=None, before=None, limit=1) for _ in range(6))):
            assert page[0][0]["content"] == str(steps)
        for read in await asyncio.gather(*(log.read("t", 0, max_events=1, max_bytes=1) for _ in range(6))):
            assert read.last_event_id == steps + 1
