"""``@tracewatch.observe``: calls become goals, tools and sub-traces, and the functions behave as they did before."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, assert_type, cast

import pytest

import tracewatch
from tests.client.test_handles import events, new_trace, state
from tracewatch.client.trace import Trace

pytestmark = pytest.mark.anyio
MB = 1_000_000


@pytest.fixture
def t() -> Trace:
    return new_trace()


def goals(t: Trace) -> list[tuple[str, str, str | None]]:
    return [(g["description"], g["status"], g["summary"]) for g in state(t).goal_tree()["goals"]]


def tools(t: Trace) -> list[dict[str, Any]]:
    return [cast(dict[str, Any], m["content"]) for m in state(t).messages.values() if m["role"] == "tool"]


# --- what a call becomes ---


@tracewatch.observe
def plan(topic: str, depth: int = 2, *rest: int, **more: Any) -> list[str]:
    """Plans."""
    t = tracewatch.current()
    if t is not None:
        t.message("assistant", "planning")
    return [topic] * depth


@tracewatch.observe(kind="tool", name="grep")
def search(pattern: str) -> dict[str, Any]:
    return {"found": [pattern]}


@tracewatch.observe(kind="sub_trace")
async def research(topic: str) -> str:
    await asyncio.sleep(0)
    plan(topic)
    return "all of it"


def test_a_function_is_a_goal_with_its_arguments_and_its_result(t: Trace) -> None:
    with t:
        assert plan("cats", 1, 2, 3, way="fast") == ["cats"]
    assert goals(t) == [('plan(topic="cats", depth=1, rest=[2,3], way="fast")', "completed", '["cats"]')]
    (goal,) = state(t).goal_tree()["goals"]
    assert goal["arguments"] == {"topic": "cats", "depth": 1, "rest": [2, 3], "way": "fast"}
    (message,) = state(t).messages.values()
    assert message["goal_id"] == goal["id"]


def test_a_function_is_a_tool_with_the_whole_of_both(t: Trace) -> None:
    with t:
        assert search("x" * 10_000)["found"]
    (tool,) = tools(t)
    assert tool == {
        "tool_name": "grep",
        "arguments": {"pattern": "x" * 10_000},
        "result": {"found": ["x" * 10_000]},
    }


async def test_a_function_is_a_sub_trace(t: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Trace] = []
    begin = Trace.sub_trace

    def sub_trace(self: Trace, *args: Any, **options: Any) -> Trace:
        made.append(begin(self, *args, **options))
        return made[-1]

    monkeypatch.setattr(Trace, "sub_trace", sub_trace)
    async with t:
        assert await research("cats") == "all of it"
        assert tracewatch.current() is t
    (child,) = made
    spec = child._outbox.spec
    assert (spec["task"], spec["agent_type"], spec["metadata"]) == (
        *('research(topic="cats")', "research", {"arguments": {"topic": "cats"}}),
    )
    assert (spec["parent_trace_id"], state(child).status, state(child).summary) == ("t", "completed", "all of it")
    assert [one[0] for one in goals(child)] == ['plan(topic="cats")'] and goals(t) == []


def test_outside_of_a_trace_only_a_sub_trace_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEWATCH_URL", f"sqlite:///{tmp_path}/t.db")
    monkeypatch.setenv("TRACEWATCH_SPOOL_DIR", str(tmp_path / "spool"))
    assert (plan("x"), search("x")) == (["x", "x"], {"found": ["x"]})
    assert not list(tmp_path.iterdir())
    seen: list[Trace | None] = []

    @tracewatch.observe(kind="sub_trace")
    def agent() -> None:
        seen.append(tracewatch.current())
        plan("y")

    agent()
    (run,) = seen
    assert run is not None and run._above is None and run.flush(30)
    assert tracewatch.current() is None


def test_switches_keep_values_out(t: Trace) -> None:
    @tracewatch.observe(capture_args=False, capture_result=False)
    def goal(password: str) -> str:
        return password

    @tracewatch.observe(kind="tool", capture_args=False, capture_result=False)
    def tool(password: str) -> str:
        return password

    @tracewatch.observe(kind="tool", capture_args=False, capture_result=False)
    def items(password: str) -> Iterator[str]:
        yield password

    with t:
        assert (goal("hunter2"), tool("hunter2"), list(items("hunter2"))) == ("hunter2", "hunter2", ["hunter2"])
    assert b"hunter2" not in b"".join(t._outbox.take(1, 1000, 10**9))
    assert goals(t) == [("goal", "completed", None)] and [one["tool_name"] for one in tools(t)] == ["tool", "items"]


def test_methods_of_every_kind(t: Trace) -> None:
    class Agent:
        @tracewatch.observe(kind="tool")
        def own(self, a: int) -> int:
            return a

        @tracewatch.observe(kind="tool")
        @classmethod
        def of_class(cls, b: int) -> int:
            return b

        @staticmethod
        @tracewatch.observe(kind="tool")
        def of_none(c: int) -> int:
            return c

        def __call__(self, d: int) -> int:
            return d

    agent = Agent()
    with t:
        called = tracewatch.observe(kind="tool")(agent)
        partly = tracewatch.observe(kind="tool", name="partly")(functools.partial(agent.own, 5))
        assert [agent.own(1), agent.of_class(2), Agent.of_class(2), agent.of_none(3), called(4), partly()] == [
            *(1, 2, 2, 3, 4, 5)
        ]
    assert [(one["tool_name"], one.get("arguments")) for one in tools(t)] == [
        ("own", {"a": 1}),
        *[("of_class", {"b": 2})] * 2,
        ("of_none", {"c": 3}),
        ("Agent", {"d": 4}),
        ("partly", None),
        ("own", {"a": 5}),
    ]


# --- what stays as it was ---


def test_a_function_keeps_what_it_is() -> None:
    assert_type(plan("x"), list[str])
    assert_type(search("x"), dict[str, Any])
    assert (plan.__name__, plan.__doc__, str(inspect.signature(plan))[:18]) == ("plan", "Plans.", "(topic: 'str', dep")
    assert inspect.iscoroutinefunction(research)
    assert inspect.isgeneratorfunction(count) and inspect.isasyncgenfunction(acount)
    for wrong in (5, "name", Trace):
        with pytest.raises(TypeError, match="observe takes a function"):
            cast(Any, tracewatch.observe)(wrong)


def test_an_exception_is_recorded_and_is_the_same(t: Trace) -> None:
    error = ValueError("no such page")

    def fails() -> None:
        raise error

    with t:
        for kind in ("goal", "tool"):
            with pytest.raises(ValueError) as raised:
                cast(Any, tracewatch.observe)(kind=kind)(fails)()
            assert raised.value is error and raised.value.__context__ is None
        with pytest.raises(TypeError, match=r"plan\(\) missing 1 required"):
            cast(Any, plan)()
    assert goals(t) == [
        ("fails()", "abandoned", "ValueError: no such page"),
        ("plan()", "abandoned", "TypeError: plan() missing 1 required positional argument: 'topic'"),
    ]
    (tool,) = tools(t)
    assert tool["error"] == {"type": "ValueError", "message": "no such page"}


def test_arguments_are_as_they_were_before_the_call(t: Trace) -> None:
    @tracewatch.observe(kind="tool")
    def clears(given: list[int]) -> list[int]:
        given.clear()
        return given

    @tracewatch.observe(kind="tool")
    def grows(given: dict[str, int]) -> dict[str, int]:
        return given

    with t:
        clears([1, 2])
        result = grows({})
        result["later"] = 1
    assert [(one["arguments"], one["result"]) for one in tools(t)] == [
        *(({"given": [1, 2]}, []), ({"given": {}}, {})),
    ]


def test_large_values_are_shortened_and_a_goal_stays_small(t: Trace) -> None:
    with t:
        plan("é" * 10 * MB, 1)
        plan("x", 1, *range(100_000), **{f"k{n}": n for n in range(200)})
        search("é" * 10 * MB)
    sizes = [len(body) for body in t._outbox.take(1, 1000, 10**9)]
    assert max(sizes) <= 256 * 1024
    for goal in state(t).goal_tree()["goals"]:
        assert len(goal["description"]) <= 300 and len(str(goal["arguments"])) < 20_000
        assert len(goal["summary"]) < 5_000


# --- generators ---


@tracewatch.observe
def count(n: int) -> Any:
    t = tracewatch.current()
    got = []
    for number in range(n):
        if t is not None:
            t.message("assistant", f"inside {number}")
        got.append((yield number))
    return got


@tracewatch.observe(kind="tool")
async def acount(n: int) -> AsyncIterator[str]:
    for number in range(n):
        await asyncio.sleep(0)
        yield f"{number} "


def test_a_generator_is_open_only_while_its_own_code_runs(t: Trace) -> None:
    with t:
        for number in count(2):
            t.message("user", f"outside {number}")
        with t.goal("mine"):
            numbers = count(2)
            next(numbers)
            t.message("user", "mine")
            assert list(numbers) == [1]
    by_id = {goal["id"]: goal["description"] for goal in state(t).goal_tree()["goals"]}
    assert [(m["content"], by_id.get(m["goal_id"] or "")) for m in state(t).messages.values()] == [
        *(("inside 0", "count(n=2)"), ("outside 0", None), ("inside 1", "count(n=2)"), ("outside 1", None)),
        *(("inside 0", "count(n=2)"), ("mine", "mine"), ("inside 1", "count(n=2)")),
    ]
    assert goals(t)[0][1:] == ("completed", '{"yielded":[0,1],"returned":[null,null]}')
    assert [goal["parent_id"] for goal in state(t).goal_tree()["goals"]] == [None, None, "g" + goals_id(t, "mine")]


def goals_id(t: Trace, description: str) -> str:
    return next(str(g["id"][1:]) for g in state(t).goal_tree()["goals"] if g["description"] == description)


def test_a_generator_is_sent_thrown_into_left_and_ends_as_before(t: Trace) -> None:
    @tracewatch.observe
    def echo() -> Any:
        got: list[Any] = []
        try:
            while True:
                try:
                    got.append((yield len(got)))
                except KeyError as error:
                    got.append(error)
        finally:
            ends.append(got)

    ends: list[Any] = []
    with t:
        steps = echo()
        error = KeyError("x")
        assert [next(steps), steps.send("a"), steps.throw(error)] == [0, 1, 2]
        steps.close()
        other = echo()
        next(other)
        with pytest.raises(ValueError, match="mine"):
            other.throw(ValueError("mine"))
        assert next(echo()) == 0  # and is forgotten
        unused = echo()
        del unused
    assert ends[:2] == [["a", error], []]
    statuses = [(status, summary) for _, status, summary in goals(t)]
    assert statuses == [("completed", "[0,1,2]"), ("abandoned", "ValueError: mine"), ("completed", "[0]")]


async def test_an_async_generator(t: Trace) -> None:
    async with t:
        assert [item async for item in acount(3)] == ["0 ", "1 ", "2 "]
        async with contextlib.aclosing(cast(Any, acount(3))) as some:
            assert await anext(some) == "0 "
        await asyncio.gather(*(take(acount(2)) for _ in range(3)))
        with pytest.raises(asyncio.CancelledError):
            raised = cast(Any, acount(2))
            await anext(raised)
            await raised.athrow(asyncio.CancelledError())
    results = [one.get("result") for one in tools(t)]
    assert sorted(filter(None, results)) == ["0 ", *["0 1 "] * 3, "0 1 2 "]
    assert tools(t)[-1]["error"]["type"] == "CancelledError"
    assert [item async for item in acount(1)] == ["0 "], "outside of a trace"


async def take(items: AsyncIterator[str]) -> list[str]:
    return [item async for item in items]


def test_a_generator_without_end_is_kept_in_bounds(t: Trace) -> None:
    @tracewatch.observe(kind="tool")
    def endless() -> Iterator[str]:
        while True:
            yield "x" * 100_000

    with t:
        for number, _ in enumerate(endless()):
            if number == 2_000:
                break
    (tool,) = tools(t)
    assert 128 * 1024 < len(tool["result"]) < 256 * 1024 and tool["result"].endswith("… 1,999 more")
    assert max(len(body) for body in t._outbox.take(1, 1000, 10**9)) <= 256 * 1024


# --- around it ---


def test_threads_and_tasks(t: Trace) -> None:
    with t, t.goal("outer"):
        for work in (plan, tracewatch.carry(plan)):
            thread = threading.Thread(target=cast(Callable[[str], Any], work), args=("x",))
            thread.start()
            thread.join()
    assert [one[0] for one in goals(t)] == ["outer", 'plan(topic="x")']


async def test_a_cancel_ends_an_observed_agent_as_stopped(t: Trace) -> None:
    @tracewatch.observe
    async def waits() -> None:
        await asyncio.sleep(60)

    with pytest.raises(tracewatch.Cancelled):
        async with t, t.cancel_scope():
            t._outbox.control.cancelled_by({"reason": "enough", "by": "ann"})
            await waits()
    assert state(t).status == "stopped"


def test_a_kind_that_is_none_is_a_goal(t: Trace, caplog: pytest.LogCaptureFixture) -> None:
    observed = cast(Any, tracewatch.observe)(kind="spam")(lambda: 1)
    assert "and not spam" in caplog.text
    with t:
        assert observed() == 1
    assert [event["event"] for event in events(t)][:1] == ["goal_added"]
