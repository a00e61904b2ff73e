"""Goals, messages, tool calls and traces without a connection: the rules of the log accept every event of theirs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import io
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.fake import TS
from tracewatch.client.handles import Goal, carry
from tracewatch.client.outbox import Outbox
from tracewatch.client.sender import Sender
from tracewatch.client.trace import Trace, current, trace
from tracewatch.errors import InvalidField
from tracewatch.model.canonical import parse_json
from tracewatch.model.events import validate_event, validate_trace
from tracewatch.model.rules import complete
from tracewatch.model.state import State, apply_into
from tracewatch.settings import Settings


class Idle(Sender):
    """A sender without a thread: ``poke`` and ``later`` only note that they were called."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "/nowhere", 1, 1)
        self.poked: list[Outbox] = []
        self.timers: list[Any] = []

    def poke(self, outbox: Outbox) -> None:
        self.poked.append(outbox)

    def later(self, seconds: float, call: Any) -> None:
        assert 0 < seconds <= 0.05
        self.timers.append(call)


def new_trace() -> Trace:
    return Trace({"trace_id": "t", "task": "x"}, Idle(), Settings(spool_dir="/nowhere"))


@pytest.fixture
def t() -> Trace:
    return new_trace()


def events(t: Trace) -> list[dict[str, Any]]:
    return [orjson.loads(body) for body in t._outbox.take(1, 100_000, 10**9)]


def state(t: Trace) -> State:
    """As the log would have it; fails where the log would refuse."""
    folded = State("t")
    for body in t._outbox.take(1, 100_000, 10**9):
        event = validate_event(parse_json(body))
        apply_into(folded, complete(folded, event, event_id=folded.last_event_id + 1, ts=TS))
    return folded


def test_the_five_lines(t: Trace) -> None:
    with t:
        with t.goal("Find the cause"):
            with t.tool_call("grep", {"pattern": "login"}) as call:
                call.result("3 matches")
            with t.message("assistant") as m:
                m.stream("It is ")
                m.stream("the cookie.")
        child = t.sub_trace("Write a test", agent_type="tester")
    now = state(t)
    (goal,) = now.goals.values()
    tool, text = now.messages.values()
    assert (now.status, goal["status"], goal["description"]) == ("completed", "completed", "Find the cause")
    assert tool["content"] == {"tool_name": "grep", "arguments": {"pattern": "login"}, "result": "3 matches"}
    assert (tool["status"], tool["goal_id"], tool["duration_ms"] >= 0) == ("complete", goal["id"], True)
    assert (text["content"], text["status"]) == ("It is the cookie.", "complete")
    spec = validate_trace(child._outbox.spec)
    assert (spec["parent_trace_id"], spec["agent_type"], spec["task"]) == ("t", "tester", "Write a test")
    assert now.started_at is not None and now.started_at <= spec["started_at"] <= events(t)[-1]["occurred_at"]
    assert child._outbox.after == (t._outbox, t._outbox.next_seq - 2)  # before the end of its parent


def test_what_is_recorded_in_a_step_stands_in_it(t: Trace) -> None:
    with t.goal("outer") as outer, t.step("plan", kind="node", input={"n": 1}) as plan:
        t.message("user", "in")
        with t.step("retry") as retry, t.goal("inner") as inner:
            sub = t.sub_trace("x")._outbox.spec
        plan.set(attempt=2, name="plan again")
        plan.output("x" * 5000)
    t.message("user", "out")
    with pytest.raises(ValueError), t.step("fails") as fails:
        raise ValueError("no")
    late = t.step("late").start()
    late.end(output=[1], error="broken")
    late.end(output="twice")
    now = state(t)
    assert [one["step_id"] for one in now.steps.values()] == [None, plan.id, None, None]
    first = now.steps[plan.id]
    assert (first["name"], first["kind"], first["status"], first["input"]) == (
        "plan again",
        "node",
        "completed",
        '{"n":1}',
    )
    assert first["goal_id"] == outer.id and len(first["output"]) < 2000 and "3100 bytes" in first["output"]
    assert (now.steps[retry.id]["goal_id"], now.goals[inner.id]["step_id"]) == (outer.id, retry.id)
    assert (sub["parent_goal_id"], sub["parent_step_id"]) == (inner.id, retry.id)
    assert [one.get("step_id") for one in now.messages.values()] == [plan.id, None]
    assert (now.steps[fails.id]["status"], now.steps[fails.id]["error"]) == (
        "failed",
        {"type": "ValueError", "message": "no"},
    )
    assert (now.steps[late.id]["status"], now.steps[late.id]["output"]) == ("failed", "[1]")
    with ThreadPoolExecutor(1) as pool, t.step("pool") as pooled:
        pool.submit(carry(lambda: t.message("user", "carried"))).result()
    assert list(state(t).messages.values())[-1]["step_id"] == pooled.id


def test_between_its_turns_a_session_is_idle(t: Trace) -> None:
    with t:
        with t.turn("first") as turn:
            t.message("user", "hello")
            assert state(t).status == "running"
        assert state(t).status == "idle"
        with t.turn():
            assert state(t).status == "running"
        with pytest.raises(ValueError), t.turn("broken"):
            raise ValueError("no")
        now = state(t)
        assert now.status == "idle" and next(iter(now.messages.values()))["step_id"] == turn.id
        assert [(one["kind"], one["status"]) for one in now.steps.values()] == [
            *(("turn", "completed"), ("turn", "completed"), ("turn", "failed"))
        ]
    assert state(t).status == "completed"


def test_a_question_of_the_terminal_is_told_and_closed(t: Trace) -> None:
    asked = t.asked_at_terminal("Delete?", options=["yes", "no"])
    (pending,) = state(t).pending_inputs.values()
    assert (pending["answerable"], pending["options"], pending["request_id"]) == (
        "terminal",
        ["yes", "no"],
        asked.request_id,
    )
    asked.answered("yes")
    now = state(t)
    assert (now.status, now.closed_inputs) == ("running", {asked.request_id: "answered"})
    named = t.asked_at_terminal("Go?", request_id="go")
    named.answered(object())
    assert events(t)[-2]["if_absent"] and state(t).closed_inputs["go"] == "answered"


def test_a_run_names_others_that_it_has_to_do_with(t: Trace) -> None:
    other = new_trace()
    said = other.message("user", "first try")
    t.link(other, "retry_of", message=said)
    t.link("t", "retry_of", message=said.id)
    t.link("elsewhere", object())  # type: ignore[arg-type]
    t.link(None, "nothing")  # type: ignore[arg-type]
    first, second = state(t).links
    assert first == {"trace_id": "t", "kind": "retry_of", "message_id": said.id}
    assert second["trace_id"] == "elsewhere" and "object" in second["kind"]


# --- goals -----------------------------------------------------------------------------------------------------


def test_goals_nest_and_messages_belong_to_the_innermost(t: Trace) -> None:
    with t.goal("outer") as outer:
        with t.goal("inner") as inner:
            t.message("user", "in")
            t.message("user", "elsewhere", goal=outer)
            t.message("user", "nowhere", goal=None)
        t.message("user", "out")
        assert t.sub_trace("x")._outbox.spec["parent_goal_id"] == outer.id
    now = state(t)
    assert now.goals[inner.id]["parent_id"] == outer.id
    assert [m["goal_id"] for m in now.messages.values()] == [inner.id, outer.id, None, outer.id]


def test_a_plan_is_worked_off(t: Trace) -> None:
    with t.goal("all") as whole:
        first = t.add_goal("first")
        third = t.add_goal("third", reason="because")
        second = t.add_goal("second", after=first)
        first.start()
        first.complete("done")
        with second:
            pass
        third.update(description="3rd")
        third.abandon("no time")
    now = state(t)
    assert [g["description"] for g in now.goal_tree()["goals"]] == ["all", "first", "second", "3rd"]
    assert [now.goals[g.id]["status"] for g in (whole, first, second, third)] == [
        "completed", "completed", "completed", "abandoned",
    ]  # fmt: skip
    assert now.goals[second.id]["parent_id"] == whole.id
    assert now.goals[first.id]["summary"] == "done"


def test_an_exception_abandons_the_goals_it_passes_and_fails_the_trace(t: Trace) -> None:
    with pytest.raises(ValueError, match="broken"), t:
        with t.goal("outer") as outer, t.goal("inner") as inner:
            with t.tool_call("grep") as call:
                raise ValueError("broken")
    now = state(t)
    assert (now.status, now.error["type"], now.error["message"]) == ("failed", "ValueError", "broken")
    assert "test_handles" in now.error["traceback"]
    assert [now.goals[g.id]["status"] for g in (outer, inner)] == ["abandoned", "abandoned"]
    assert now.goals[inner.id]["summary"] == "ValueError: broken"
    assert now.messages[call.id]["content"]["error"] == {"type": "ValueError", "message": "broken"}


def test_a_goal_its_children_have_completed_is_not_asked_to_be_abandoned(t: Trace) -> None:
    with pytest.raises(ValueError), t.goal("outer") as outer:
        with t.goal("inner"):
            pass
        raise ValueError("too late")
    now = state(t)
    assert (now.goals[outer.id]["status"], now.goals[outer.id]["summary"]) == ("completed", "ValueError: too late")


def test_ends_said_twice_are_said_once(t: Trace) -> None:
    with t.goal("a") as a:
        a.complete()
        a.complete()
    with t.goal("b") as b:
        b.abandon()
    with t:
        t.stop("enough")
    assert [e["event"] for e in events(t)] == ["goal_added", "goal_updated"] * 2 + ["trace_completed"]
    assert state(t).status == "stopped"


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["add", "start", "complete", "abandon", "with", "raise"])),
                max_size=30))  # fmt: skip
def test_whatever_is_done_to_goals_the_log_refuses_nothing_and_agrees(steps: list[tuple[int, str]]) -> None:
    t = new_trace()
    goals: list[Goal] = [t.add_goal("0")]
    for number, step in steps:
        goal = goals[number % len(goals)]
        if step == "add":
            goals.append(
                t.add_goal("more", parent=goal if number else None, status=["pending", "completed"][number % 2])
            )
        elif step == "with":
            with goal:
                goals.append(t.add_goal("inside"))
        elif step == "raise":
            with pytest.raises(KeyError), goal:
                raise KeyError("x")
        else:
            getattr(goal, step)()
    now = state(t)
    assert {g.id: now.goals[g.id]["status"] for g in goals} == {g.id: t._journal.book.status_of(g.id) for g in goals}


def test_goals_of_tasks_and_threads_do_not_mix(t: Trace) -> None:
    async def work(name: str, met: asyncio.Barrier) -> tuple[str, str]:
        async with t.goal(name) as goal:
            await met.wait()
            message = t.message("user", name)
            await met.wait()
            return goal.id, message.id

    async def main() -> list[tuple[str, str]]:
        met = asyncio.Barrier(2)
        async with t.goal("both"):
            return list(await asyncio.gather(work("a", met), work("b", met)))

    pairs = asyncio.run(main())
    now = state(t)
    for goal_id, message_id in pairs:
        assert now.messages[message_id]["goal_id"] == goal_id
        assert now.goals[now.goals[goal_id]["parent_id"]]["description"] == "both"


def alice_and_bob(t: Trace, carried: Any = lambda function: function) -> dict[str, str | None]:
    """Two threads of a pool at the same time, one in a goal of its own: where their messages belong."""
    met = threading.Barrier(2)

    def alice() -> None:
        with t.goal("alice"):
            met.wait(60)
            t.message("assistant", "of alice")
            met.wait(60)

    def bob() -> None:
        met.wait(60)
        t.message("assistant", "of bob")
        with t.tool_call("grep"):
            pass
        met.wait(60)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(carried(alice)), pool.submit(carried(bob))]:
            future.result(60)
    said = [event["message"] for event in events(t) if event["event"] == "message_added"]
    tool, of_bob = (next(one for one in said if one["content"] == c) for c in ({"tool_name": "grep"}, "of bob"))
    assert tool["goal_id"] == of_bob["goal_id"]
    descriptions = {goal_id: goal["description"] for goal_id, goal in state(t).goals.items()}
    return {one["content"]: descriptions.get(one["goal_id"]) for one in said if one["role"] != "tool"}


def test_a_thread_without_a_goal_is_in_that_of_where_the_trace_was_entered(t: Trace) -> None:
    with t, t.goal("outer"):
        assert alice_and_bob(t) == {"of alice": "alice", "of bob": "outer"}
    outer, alice = state(t).goals.values()
    assert alice["parent_id"] == outer["id"]


def test_a_thread_without_a_goal_is_never_in_another_threads(t: Trace) -> None:
    with t:
        assert alice_and_bob(t) == {"of alice": "alice", "of bob": None}
        assert "goal_id" not in t.message("assistant", "then")._message  # the log chooses


def test_a_goal_started_without_a_block_is_that_of_all_threads(t: Trace) -> None:
    t.add_goal("plan").start()
    assert alice_and_bob(t) == {"of alice": "alice", "of bob": "plan"}


def test_carry_takes_the_open_goals_into_another_thread(t: Trace) -> None:
    def work() -> dict[str, str | None]:
        with t.goal("in a thread"):
            return alice_and_bob(t, carry)

    with t, t.goal("outer"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result(60) == {"of alice": "alice", "of bob": "in a thread"}
        assert pool.submit(lambda: t.message("user", "bare")._message).result(60)["goal_id"] is not None


def test_carry_of_an_async_function_and_of_any_callable(t: Trace) -> None:
    async def work(name: str) -> Any:
        await asyncio.sleep(0)
        return t.message("user", name)._message["goal_id"]

    with t.goal("carried") as goal:
        carried, partial = carry(work), carry(functools.partial(t.message, "user"))
    with t.goal("other") as other:
        assert asyncio.run(carried("x")) == goal.id
        assert partial("y")._message["goal_id"] == goal.id
        assert t.message("user", "z")._message["goal_id"] == other.id
    assert carried.__name__ == "work"


def test_a_task_without_a_goal_is_never_in_another_tasks(t: Trace) -> None:
    async def alice(met: asyncio.Barrier) -> None:
        async with t.goal("alice"):
            await met.wait()
            await met.wait()

    async def bob(met: asyncio.Barrier) -> Any:
        await met.wait()
        goal_id = t.message("user", "of bob")._message["goal_id"]
        await met.wait()
        return goal_id

    async def main() -> None:
        met = asyncio.Barrier(2)
        async with t:
            _, goal_id = await asyncio.gather(alice(met), bob(met))
            assert goal_id is None

    asyncio.run(main())


def test_a_question_of_no_goal(t: Trace) -> None:
    with t.goal("open"):
        asked = t._questions.question("Deploy?", None, None, None, None, None)
    assert asked.event["goal_id"] is None


def test_a_goal_left_in_another_context_than_it_was_entered_in(t: Trace) -> None:
    def steps() -> Iterator[None]:
        with t.goal("by a generator"):
            yield

    running = steps()
    contextvars.copy_context().run(next, running)
    assert next(running, "over") == "over"
    assert t.message("user", "after")._message.get("goal_id") is None
    assert [g["status"] for g in state(t).goals.values()] == ["completed"]


# --- messages --------------------------------------------------------------------------------------------------


def test_streamed_text_is_gathered_and_keeps_its_place(t: Trace) -> None:
    sender = t._sender
    assert isinstance(sender, Idle)
    with t.message("assistant") as m:
        m.stream("a")  # the first is an event at once
        for letter in "bcdef":
            m.stream(letter)
        assert len(sender.timers) == 1
        assert [e.get("append") for e in events(t)] == [None, "a"]
        sender.timers.pop()()
        m.stream("g")
        m.stream("h")
        t.event("thought", text="in between")
        m.stream("i")
    said = [e.get("append") or e["event"] for e in events(t)]
    assert said == ["message_added", "a", "bcdef", "gh", "thought", "i", "message_updated"]
    assert state(t).messages[m.id]["content"] == "abcdefghi"


def test_numbers_that_are_none_do_not_cost_the_message(t: Trace) -> None:
    wrong: dict[str, Any] = {"tokens": "many", "cost": float("nan"), "model": 7, "status": "odd"}
    t.message("user", "hi", temperature=0.5, role_hint=None, **wrong)
    with t.message("assistant") as m:
        m.set(tokens=12, cost=0.25, message_id="mine")
        m.stream("x")
    m.set(tokens=13)
    first, second = state(t).messages.values()
    assert (first["model"], first["temperature"], "tokens" in first, "cost" in first) == ("7", 0.5, False, False)
    assert (second["tokens"], second["cost"]) == (13, 0.25)


def test_what_a_call_used_and_when_it_was(t: Trace) -> None:
    with t.goal("g") as g:
        with t.message("assistant", model="m-1", usage={"input_tokens": 1}) as m:
            m.stream("x")
            m.usage(input_tokens=1200, output_tokens=300, cache_read_tokens=1000, reasoning_tokens=-1)
        began = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        t.message("user", "then", started_at=began, ended_at="2026-01-02T04:04:06+01:00")
        odd_values: list[Any] = [{"ended_at": object(), "usage": ["none"]}, {"ended_at": "yesterday"}]
        t.message("user", "odd", started_at=1767323045.5, **odd_values[0])
        t.message("user", "wrong", started_at=float("nan"), usage={"input_tokens": cast(int, "many")}, **odd_values[1])
    now = state(t)
    first, then, odd, wrong = now.messages.values()
    used = {"input_tokens": 1200, "output_tokens": 300, "cache_read_tokens": 1000}
    assert (first["usage"], first["tokens"], now.goals[g.id]["self_stats"]["usage"]) == (used, 1500, used)
    assert (then["started_at"], then["ended_at"]) == ("2026-01-02T03:04:05.000Z", "2026-01-02T03:04:06.000Z")
    assert (odd["started_at"], "usage" in odd, "usage" in wrong) == ("2026-01-02T03:04:05.500Z", False, False)


def test_a_trace_is_called_otherwise_later(t: Trace) -> None:
    with t:
        t.set(task="  Better ", tags=["a", "b"], metadata={"x": {1}}, session_id="s", user_id="u")
        t.set(session_id=None, tags=["c"], metadata={"y": 2})
        t.set()
        odd: Any = object()
        t.set(task=odd, tags=odd, metadata=odd, session_id=odd, user_id=odd)
    told = [event for event in events(t) if event["event"] == "trace_updated"]
    assert len(told) == 3
    assert (told[0]["task"], told[0]["metadata"]) == ("Better", {"x": [1]})
    assert {k: v for k, v in told[1].items() if k != "occurred_at"} == {
        "event": "trace_updated", "session_id": None, "tags": ["c"], "metadata": {"y": 2},
    }  # fmt: skip
    assert state(t).tags[0].startswith("<object object")


def test_content_may_be_any_json_and_anything_else(t: Trace) -> None:
    t.message("user", [{"type": "text", "text": "hi"}])
    t.message("user", {"made": object})
    t.message("user", 0)
    assert [m["content"] for m in state(t).messages.values()] == [
        [{"type": "text", "text": "hi"}], {"made": "<class 'object'>"}, 0,
    ]  # fmt: skip


# --- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "stopped"),
        (asyncio.CancelledError(), "stopped"),
        (GeneratorExit(), "stopped"),
        (SystemExit(0), "completed"),
        (SystemExit(3), "failed"),
        (MemoryError(), "failed"),
    ],
)
def test_how_it_ended(t: Trace, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), t:
        raise error
    assert state(t).status == status


def test_an_exception_that_cannot_be_printed(t: Trace) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(Odd), t, t.goal("g"):
        raise Odd
    assert state(t).error["type"].endswith("Odd")


def test_an_exception_keeps_its_type_wherever_it_is_said(t: Trace) -> None:
    with t.tool_call("x") as call:
        call.error(ValueError("bad"))
    t.message("assistant", "y", error=KeyError("k"))
    t.event("tool.error", error=OSError("disk"))
    tool, text = state(t).messages.values()
    said = tool["content"]["error"], text["error"], events(t)[-1]["error"]
    assert [one["type"] for one in said] == ["ValueError", "KeyError", "OSError"]
    assert [one["message"] for one in said] == ["bad", "'k'", "disk"]


def test_callbacks_begin_and_end_what_is_no_block(t: Trace) -> None:
    with t.goal("g") as goal:
        call = t.tool_call("grep", {"pattern": "x"}).start()
        m = t.message("assistant").start()
    m.stream("hi")

    def called_back() -> None:
        call.start().end("3 matches")
        call.end("again")

    other = threading.Thread(target=called_back)
    other.start()
    other.join(60)
    m.end()
    m.end()
    t.tool_call("never started").end(error=ValueError("bad"))
    t.message("assistant").end(error=KeyError("k"))
    tool, text, failed, silent = state(t).messages.values()
    assert tool["content"] == {"tool_name": "grep", "arguments": {"pattern": "x"}, "result": "3 matches"}
    assert (tool["status"], text["status"], text["content"]) == ("complete", "complete", "hi")
    assert tool["goal_id"] == text["goal_id"] == goal.id
    assert (failed["content"]["error"]["type"], silent["error"]["type"]) == ("ValueError", "KeyError")
    assert len([e for e in events(t) if e["event"] == "message_updated" and e["message_id"] == call.id]) == 1


def test_the_current_trace(t: Trace) -> None:
    seen: list[Any] = []
    assert current() is None
    with t:
        with t.sub_trace("x") as child:
            assert current() is child
        assert current() is t
        with ThreadPoolExecutor(1) as pool:
            seen += [pool.submit(current).result(30), pool.submit(carry(current)).result(30)]
    assert (current(), seen) == (None, [None, t])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("url", "quiet", "page"),
    [
        ("http://127.0.0.1:8400", 0, "http://127.0.0.1:8400/traces/a%25@b"),
        ("https://me:secret@host/watch", 0, "https://host/watch/traces/a%25@b"),
        ("http://127.0.0.1:8400", 1, None),
        ("sqlite:///x.db", 0, None),
    ],
)
def test_a_terminal_is_told_once_where_the_run_is_seen(
    url: str, quiet: int, page: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Terminal()
    monkeypatch.setattr(sys, "stderr", said)
    settings = Settings(url=url, spool_dir="/nowhere", quiet=quiet)
    recorded = Trace({"trace_id": "a%@b", "task": "x"}, Idle(), settings)
    for _ in range(2):
        with recorded, recorded.sub_trace("y"):
            pass
    assert said.getvalue() == (f"watch: {page}\n" if page else "")
    assert recorded.page_url == (page if not quiet else "http://127.0.0.1:8400/traces/a%25@b")


@pytest.mark.parametrize("stderr", [None, io.StringIO(), object()])
def test_what_is_no_terminal_is_told_nothing(t: Trace, stderr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stderr)
        with t:
            pass
    assert state(t).status == "completed" and not getattr(stderr, "getvalue", str)()


def test_fail_takes_what_it_is_given(t: Trace) -> None:
    t.fail("no luck", summary="it did not work")
    assert (state(t).error, state(t).summary) == ("no luck", "it did not work")


def test_async_with_is_the_same() -> None:
    async def main() -> Trace:
        async with new_trace() as t, t.goal("g"):
            async with t.tool_call("x") as call:
                call.result(1)
            async with t.message("assistant") as m:
                m.stream("hi")
        return t

    assert state(asyncio.run(main())).status == "completed"


# --- bad values ------------------------------------------------------------------------------------------------


def test_nothing_given_raises(t: Trace) -> None:
    odd: Any = object()
    with t:
        with t.goal(odd, reason=odd, id=odd, type="normal"):
            with t.tool_call(odd, odd, tool_call_id=odd) as call:
                call.result({odd: odd})
            with t.message(odd) as m:
                m.stream(odd)
                m.set(tokens=odd, cost=odd, model=odd, anything=odd)
        t.event("thought", event="other", **{"a b": odd})
        t.add_goal("", parent=odd, after=odd)
        t.sub_trace(odd, agent_type=odd, trace_id=odd, goal=odd, metadata=odd)
        t.status(odd, odd)
    assert t.pending > 8


def test_a_recorder_that_fails_is_told_of_once_and_kept_from_the_agent(
    t: Trace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> bool:
        raise MemoryError("none left")

    monkeypatch.setattr(t._outbox, "accept", fail)
    with t, t.goal("g"), t.message("assistant") as m:
        m.stream("x")
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"task": ""}, {"task": "(no task)"}),
        ({"task": "x", "trace_id": "a b/c"}, {"trace_id": "a_b_c"}),
        ({"task": "x", "lease_s": None}, {"lease_s": None}),
        ({"task": "x", "lease_s": -1}, {"lease_s": None}),
        ({"task": "x", "metadata": {"a": {1, 2}, 3: object}}, {"metadata": {"a": [1, 2], "3": "<class 'object'>"}}),
        ({"task": "x", "metadata": ["list"]}, {"metadata": {"metadata": ["list"]}}),
        ({"task": "x", "parent_goal_id": "g", "parent_trace_id": "p"}, {"parent_goal_id": "g", "parent_trace_id": "p"}),
        ({"task": None, "agent_type": None}, {"task": "None", "agent_type": "None"}),
        (
            {"task": "x", "session_id": "s" * 300, "user_id": 7, "tags": ["a", "a", "", 3, "b" * 200]},
            {"session_id": "s" * 256, "user_id": "7", "tags": ["a", "3", "b" * 128]},
        ),
        ({"task": "x", "tags": "one"}, {"tags": ["one"]}),
        ({"task": "x", "tags": object(), "session_id": ""}, {"session_id": "?"}),
    ],
)
def test_what_a_trace_is_created_with_is_such_that_it_can_be(
    given: dict[str, Any], asked: dict[str, Any], tmp_path: Path
) -> None:
    made = trace(url="http://127.0.0.1:1", spool_dir=str(tmp_path), **given)
    spec = validate_trace(made._outbox.spec)
    assert {key: spec[key] for key in asked} == asked


def test_a_long_task_is_shortened(tmp_path: Path) -> None:
    made = trace("x" * 20_000, url="http://127.0.0.1:1", spool_dir=str(tmp_path))
    assert validate_trace(made._outbox.spec)["task"].endswith("[shortened by the recorder: 10100 bytes]")


def test_ids_are_in_the_order_of_time_and_never_the_servers(tmp_path: Path) -> None:
    made = [trace("x", url="http://127.0.0.1:1", spool_dir=str(tmp_path)) for _ in range(3)]
    assert [t.trace_id[:12] for t in made] == sorted(t.trace_id[:12] for t in made)
    assert len({t.trace_id for t in made}) == 3
    assert not {t._journal.new_id("a")[:1] for t in made} & {"m", "r"}


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InvalidField):
        trace("x", url="localhost:8400")


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        (["smile \ud83d", "\ude00 done"], "smile \U0001f600 done"),
        (["\ud83d", "\ude00", "\ud83d", "\ude00"], "\U0001f600\U0001f600"),
        (["a\ud83d\ude00b"], "a\U0001f600b"),
        (["half \ud83d", "of one"], "half ?of one"),
        (["the other \ude00", "half"], "the other ?half"),
        (["at the end \ud83d"], "at the end ?"),
        (["\ud83d", "", "\ude00"], "\U0001f600"),
    ],
)
@pytest.mark.parametrize("pause", [False, True])
def test_half_a_surrogate_pair_waits_for_the_other_half(t: Trace, chunks: list[str], text: str, pause: bool) -> None:
    with t.message("assistant") as m:
        for chunk in chunks:
            m.stream(chunk)
            if pause:  # each chunk is an event of its own
                t.event("thought")
    assert state(t).messages[m.id]["content"] == text
    assert t.message("user", "\ud83d\ude00")._message and events(t)[-1]["message"]["content"] == "\U0001f600"


def test_fifty_threads_at_once_keep_the_order_of_each(t: Trace) -> None:
    def work(number: int) -> None:
        for step in range(40):
            t.event("thought", thread=number, step=step)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    seen: dict[int, list[int]] = {}
    for event in events(t):
        seen.setdefault(event["thread"], []).append(event["step"])
    assert seen == {n: list(range(40)) for n in range(50)}
    assert t.pending == 2000
