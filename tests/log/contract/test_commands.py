"""Commands: the effect of each one in each state of a trace, once, through any process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from tests.log.conftest import Hold
from tests.log.helpers import (
    Clock,
    Heard,
    ask,
    check_trace,
    create,
    end,
    events,
    names,
    notes,
    opened,
    settle,
    summary,
)
from tracewatch.errors import (
    AlreadyAnswered,
    NoSuchRequest,
    NotAnswerable,
    NotRunning,
    TracewatchError,
    UnknownRequest,
    UnknownTrace,
)
from tracewatch.log import Appended, EventLog

pytestmark = pytest.mark.anyio


async def states(log: EventLog, trace_id: str = "t") -> dict[str, str]:
    """Each question's state, by the table; compared with the fold, which knows nothing of tables."""
    found = {one["request_id"]: one["state"] for one in await log.inputs_of(trace_id)}
    state = (await log.snapshot(trace_id)).state
    assert found == {**state.closed_inputs, **dict.fromkeys(state.pending_inputs, "open")}
    return found


async def code_of(awaitable: Awaitable[Any]) -> str:
    """The code of the refusal, or ``"ok"``."""
    try:
        await awaitable
    except TracewatchError as error:
        return error.code
    return "ok"


# --- cancel ----------------------------------------------------------------------------------------------------


async def test_cancel_waits_for_a_recorder_that_is_there(log: EventLog) -> None:
    await create(log, lease_s=10)
    assert await log.cancel("t", reason="enough", by="me") == "cancelling"
    (event,) = await events(log)
    assert (event["event"], event["reason"], event["by"]) == ("cancel_requested", "enough", "me")
    assert await log.cancel("t", reason="again") == "cancelling"
    assert await names(log) == ["cancel_requested"]
    state = await check_trace(log)
    assert (state.status, state.cancel_requested) == ("running", {"reason": "enough", "by": "me"})
    await log.append("t", [end("stopped")])
    assert (await check_trace(log)).cancel_requested is None


@pytest.mark.parametrize("how", ["lost", "run out"])
async def test_cancel_stops_at_once_where_the_recorder_is_gone(log: EventLog, clock: Clock, how: str) -> None:
    await create(log, lease_s=10)
    await log.append("t", [ask()])
    clock.now += 11
    if how == "lost":
        assert await log.expire_leases() == ["t"]
    assert await log.cancel("t", reason="gone") == "stopped"
    assert (await names(log))[-2:] == ["cancel_requested", "trace_completed"]
    state = await check_trace(log)
    assert (state.status, state.pending_inputs) == ("stopped", {})
    assert await states(log) == {"q": "closed"}
    assert await log.expire_leases() == []
    with pytest.raises(NotRunning):
        await log.cancel("t")


async def test_a_cancel_that_nobody_acknowledged_stops_the_lost(log: EventLog, clock: Clock) -> None:
    await create(log, lease_s=10)
    assert await log.cancel("t") == "cancelling"
    clock.now += 11
    assert await log.expire_leases() == ["t"]
    assert (await log.snapshot("t")).state.cancel_requested is not None
    assert await log.cancel("t") == "stopped"
    assert await names(log) == ["cancel_requested", "trace_status_changed", "trace_completed"]


async def test_without_a_lease_nobody_is_gone(log: EventLog, clock: Clock) -> None:
    await create(log)
    clock.now += 1e6
    assert await log.cancel("t") == "cancelling"


async def test_a_sign_of_life_in_the_same_group_counts(log: EventLog, clock: Clock, hold: Hold) -> None:
    await create(log, lease_s=10)
    clock.now += 11
    with hold():
        asking = asyncio.create_task(log.append("t", notes(1)))
        await settle()
        renewing = asyncio.create_task(log.renew_lease("t"))
        cancelling = asyncio.create_task(log.cancel("t"))
        await settle()
    assert await cancelling == "cancelling"
    await asyncio.gather(asking, renewing)


@pytest.mark.parametrize("status", ["completed", "failed", "stopped"])
async def test_the_ended_are_not_cancelled(log: EventLog, status: str) -> None:
    await create(log, lease_s=10)
    await log.append("t", [end(status)])
    with pytest.raises(NotRunning) as refused:
        await log.cancel("t")
    assert refused.value.facts["trace_status"] == status
    assert await names(log) == ["trace_completed"]
    await log.append("t", [{"event": "trace_status_changed", "status": "running"}])
    assert await log.cancel("t") == "cancelling", "it goes on"
    with pytest.raises(UnknownTrace):
        await log.cancel("nope")


async def test_a_stopped_sub_trace_tells_its_parent(log: EventLog, clock: Clock) -> None:
    await create(log, "p")
    await create(log, "c", parent_trace_id="p", lease_s=10)
    clock.now += 11
    assert await log.cancel("c") == "stopped"
    told = (await events(log, "p"))[-1]
    assert (told["event"], told["sub_trace_id"], told["status"]) == ("sub_trace_completed", "c", "stopped")
    await check_trace(log, "p")


async def test_two_processes_cancel_once(log: EventLog, other: EventLog, clock: Clock) -> None:
    await create(log, "kept", lease_s=100)
    await create(log, "gone", lease_s=10)
    clock.now += 11
    both = [one.cancel("kept") for one in (log, other) * 5]
    assert set(await asyncio.gather(*both)) == {"cancelling"}
    codes = await asyncio.gather(*(code_of(one.cancel("gone")) for one in (log, other) * 5))
    assert sorted(codes) == ["not_running"] * 9 + ["ok"]
    assert await names(log, "kept") == ["cancel_requested"]
    assert await names(log, "gone") == ["cancel_requested", "trace_completed"]


# --- answer ----------------------------------------------------------------------------------------------------


async def test_the_first_answer_wins(log: EventLog) -> None:
    await create(log)
    await log.append("t", [ask(), ask("other")])
    assert (await summary(log))["status"] == "waiting"
    await log.answer("t", "q", {"deep": [1, None]}, by="me")
    event = (await events(log))[-1]
    assert (event["event"], event["request_id"], event["value"], event["by"]) == (
        *("input_provided", "q", {"deep": [1, None]}),
        "me",
    )
    with pytest.raises(AlreadyAnswered):
        await log.answer("t", "q", 2)
    assert (await summary(log))["status"] == "waiting", "one is still open"
    await log.answer("t", "other", None)
    assert (await summary(log))["status"] == "running"
    assert await states(log) == {"q": "answered", "other": "answered"}
    answered = await log.inputs_of("t", "q")
    assert answered == [{"request_id": "q", "state": "answered", "value": {"deep": [1, None]}, "by": "me"}]
    await check_trace(log)


async def test_two_processes_answer_once(log: EventLog, other: EventLog) -> None:
    await create(log)
    await log.append("t", [ask(str(n)) for n in range(5)])
    for n in range(5):
        answers = (code_of(one.answer("t", str(n), at)) for at, one in enumerate((log, other) * 4))
        assert sorted(await asyncio.gather(*answers)) == ["already_answered"] * 7 + ["ok"]
    assert (await names(log)).count("input_provided") == 5
    assert await log.inputs_of("t") == await other.inputs_of("t")
    state = await check_trace(other)
    assert state.status == "running"


async def test_what_can_not_be_answered(log: EventLog, clock: Clock) -> None:
    await create(log)
    await log.append("t", [ask(), ask("short", expires_in_s=5), ask("late", expires_in_s=6)])
    assert await code_of(log.answer("nope", "q", 1)) == "unknown_trace"
    assert await code_of(log.answer("t", "nope", 1)) == "unknown_request"
    assert await code_of(log.answer("t", "q", float("nan"))) == "invalid_event"
    clock.now += 5
    assert await code_of(log.answer("t", "short", 1)) == "expired", "before anybody has written so"
    assert await log.expire_inputs() == [("t", "short")]
    assert await code_of(log.answer("t", "short", 1)) == "expired"
    await log.append("t", [end()])
    assert await code_of(log.answer("t", "q", 1)) == "not_running"
    assert await code_of(log.answer("t", "short", 1)) == "expired"
    with pytest.raises(NoSuchRequest):
        await log.answer("t", "nope", 1)
    await log.append("t", [{"event": "trace_status_changed", "status": "running"}, ask("new")])
    assert await code_of(log.answer("t", "late", 1)) == "not_running"
    assert await code_of(log.answer("t", "new", 1)) == "ok"
    assert await states(log) == {"q": "closed", "short": "expired", "late": "closed", "new": "answered"}
    assert (await names(log)).count("input_provided") == 1


async def test_an_answer_leaves_the_lost_lost(log: EventLog, clock: Clock) -> None:
    await create(log, lease_s=10)
    await log.append("t", [ask()])
    clock.now += 11
    await log.expire_leases()
    await log.answer("t", "q", "yes")
    assert (await summary(log))["status"] == "lost"
    await log.renew_lease("t")
    assert (await summary(log))["status"] == "running"


# --- expiry ----------------------------------------------------------------------------------------------------


async def test_questions_expire_once(log: EventLog, other: EventLog, clock: Clock) -> None:
    for n in range(4):
        await create(log, f"t{n}")
        await log.append(f"t{n}", [ask("a", expires_in_s=10), ask("b", expires_in_s=20), ask("c")])
    assert await log.expire_inputs() == []
    clock.now += 10
    answers = await asyncio.gather(*(one.expire_inputs() for one in (log, other) * 4))
    assert sorted(pair for answer in answers for pair in answer) == [(f"t{n}", "a") for n in range(4)]
    await log.answer("t0", "b", 1)
    clock.now += 10
    assert sorted(await other.expire_inputs()) == [(f"t{n}", "b") for n in range(1, 4)]
    assert await names(log, "t1") == ["input_requested"] * 3 + ["input_expired"] * 2
    assert (await summary(log, "t1"))["status"] == "waiting"
    assert await states(log, "t1") == {"a": "expired", "b": "expired", "c": "open"}
    await check_trace(other, "t1")


async def test_an_answer_in_the_same_group_wins(log: EventLog, clock: Clock, hold: Hold) -> None:
    await create(log)
    await log.append("t", [ask(expires_in_s=10)])
    with hold():
        first = asyncio.create_task(log.append("t", notes(1)))  # what follows gathers behind it
        await settle()
        answering = asyncio.create_task(log.answer("t", "q", 1))
        await settle()
        clock.now += 11
        expiring = asyncio.create_task(log.expire_inputs())
        await settle()
    outcomes = await asyncio.gather(first, code_of(answering), expiring)
    assert (outcomes[1], outcomes[2]) in [("expired", [("t", "q")]), ("ok", [])]
    assert (await names(log)).count("input_expired") + (await names(log)).count("input_provided") == 1


async def test_the_end_of_a_trace_expires_nothing(log: EventLog, clock: Clock) -> None:
    await create(log)
    await log.append("t", [ask(expires_in_s=5), end()])
    await create(log, "deleted")
    await log.append("deleted", [ask(expires_in_s=5)])
    await log.delete_trace("deleted")
    clock.now += 6
    assert await log.expire_inputs() == []
    assert (await log.inputs(10))[0] == []


# --- the inbox -------------------------------------------------------------------------------------------------


async def test_the_inbox(log: EventLog, other: EventLog, clock: Clock) -> None:
    await create(log, "b", agent_type="coder", task="Code")
    await create(log, "a", parent_trace_id="b")
    await log.append("b", [ask("1", options=["yes"], expires_in_s=60)])
    clock.now += 1
    await log.append("a", [ask("2"), ask("gone"), {"event": "input_requested", "question": "unnamed"}])
    clock.now += 1
    await log.append("b", [ask("3"), ask("closed at once"), *notes(1)])
    await log.answer("a", "gone", 1)
    await log.answer("b", "closed at once", 1)
    inbox = (await other.inputs(10))[0]
    assert [(one["trace_id"], one["request_id"]) for one in inbox] == [("b", "1"), ("a", "2"), ("a", "r3"), ("b", "3")]
    pending = (await log.snapshot("b")).state.pending_inputs["1"]
    where = {"trace_id": "b", "task": "Code", "agent_type": "coder", "root_trace_id": "b", "trace_status": "waiting"}
    assert inbox[0] == {**where, **pending}
    assert inbox[1]["root_trace_id"] == "b"
    assert (await log.inputs(2))[0] == inbox[:2]
    await log.delete_trace("a")
    assert [one["request_id"] for one in (await other.inputs(10))[0]] == ["1", "3"]


async def test_the_newest_of_many(log: EventLog) -> None:
    await create(log)
    await log.append("t", [ask("open")])
    for n in range(20):
        await log.append("t", [ask(str(n))])
        await log.answer("t", str(n), n)
    found = await log.inputs_of("t", limit=3)
    assert [one["request_id"] for one in found] == ["open", "17", "18", "19"]
    assert [one["request_id"] for one in await log.inputs_of("t", limit=100)] == ["open", *map(str, range(20))]
    assert (await log.inputs_of("t", "2"))[0]["value"] == 2
    assert await log.inputs_of("t", "nope") == await log.inputs_of("nope") == []


async def test_restored_questions(log: EventLog, clock: Clock, tmp_path: Path) -> None:
    await create(log)
    await log.append("t", [ask("a", expires_in_s=5), ask("b"), ask("c")])
    await log.answer("t", "b", "value", by="me")
    header, stored = await summary(log), await events(log)
    async with opened(f"sqlite:///{tmp_path / 'copy.db'}", clock=clock) as copy:
        from tracewatch.model.events import validate_header

        await copy.restore(validate_header(header), stored)
        assert (await copy.inputs(10))[0] == (await log.inputs(10))[0]
        assert await copy.inputs_of("t") == await log.inputs_of("t")
        clock.now += 6
        assert await copy.expire_inputs() == [("t", "a")]


async def test_a_refusal_writes_nothing(log: EventLog, clock: Clock) -> None:
    await create(log)
    await log.append("t", [ask(), end()])
    heard = Heard(log)
    for refused in (log.cancel("t"), log.answer("t", "q", 1), log.answer("t", "x", 1), log.cancel("x")):
        assert await code_of(refused) != "ok"
    assert await log.expire_inputs() == []
    assert heard.commits == []


async def test_a_question_of_the_terminal_is_answered_there(log: EventLog) -> None:
    await create(log)
    await log.append("t", [ask("q", answerable="terminal"), ask("p"), ask("r")])
    with pytest.raises(NotAnswerable):
        await log.answer("t", "q", 1)
    there = {"event": "input_provided", "by": "terminal"}
    assert (await log.append("t", [{**there, "request_id": "q", "value": "yes"}])).last_event_id == 4
    await log.answer("t", "p", 1, by="ann")
    with pytest.raises(AlreadyAnswered):
        await log.answer("t", "q", 1)
    late = [{**there, "request_id": name} for name in ("q", "p")]
    assert await log.append("t", late) == Appended(None, 5, 2), "whoever is first is heard"
    await log.append("t", [{**there, "request_id": "r"}])
    with pytest.raises(UnknownRequest):
        await log.append("t", [{**there, "request_id": "never"}])
    found = {one["request_id"]: one for one in await log.inputs_of("t")}
    assert [(found[name]["value"], found[name]["by"]) for name in "qpr"] == [
        *(("yes", "terminal"), (1, "ann"), (None, "terminal"))
    ]
    assert (await check_trace(log)).status == "running"
