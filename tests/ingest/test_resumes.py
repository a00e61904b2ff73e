"""Runs of LangGraph that wait for a person, and go on in a root of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.ingest.langsmith_bodies import ended, metadata, run, run_id
from tests.ingest.recordings import all_traces, messages_of
from tests.log.helpers import Clock, open_any
from tracewatch.ingest.ingester import Ingester, Process
from tracewatch.ingest.langsmith import read_batch
from tracewatch.ingest.runs import items, resumed
from tracewatch.ingest.store import LogStore
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio
PROCESS = Process("p", "flow")
THREAD = metadata(thread_id="t-1", ls_integration="langgraph")
ASK = "GraphInterrupt((Interrupt(value={value!r}, id='cf1'),))"


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    opened = await open_any(f"memory:///{tmp_path / 'log.db'}")
    yield opened
    await opened.close()


async def send(log: EventLog, *runs: dict[str, Any], again: bool = True) -> None:
    """Each run by itself, to a server that has just been started; a repeat writes nothing."""
    for one in runs:
        body = read_batch(orjson.dumps({"post": [one]}))
        await Ingester(LogStore(log)).take("ls", list(items(body)), process=PROCESS)
        if again:
            assert await Ingester(LogStore(log)).take("ls", list(items(body)), process=PROCESS) == 0


def asked(name: str, *, start: int = 0, value: Any = "Deploy?", resume: Any = None) -> list[dict[str, Any]]:
    """The first run of a thread, or one that resumes it, which ends with a question."""
    inputs: dict[str, Any] = {"messages": [["user", "Release"]]}
    if resume is not None:
        inputs = {"input": {"graph": None, "update": None, "resume": resume, "goto": []}}
    root = run(name, start=start, inputs=inputs, extra=THREAD)
    tool = run(f"deploy {name}", "tool", name, start=start, extra=THREAD)
    question = ASK.format(value=value)
    return [root, tool, ended(tool, end=start, error=question), ended(root, end=start, outputs={"x": 1})]


def answered(name: str, *, start: int, resume: Any = "yes") -> list[dict[str, Any]]:
    """A run that resumes a thread, and ends."""
    inputs = {"input": {"graph": None, "update": None, "resume": resume, "goto": []}}
    root = run(name, start=start, inputs=inputs, extra=THREAD)
    tool = run(f"deploy {name}", "tool", name, start=start, extra=THREAD)
    over = ended(root, end=start, outputs={"messages": [["ai", "Done."]]})
    return [root, tool, ended(tool, end=start, outputs={"output": resume}), over]


async def events(log: EventLog, name: str, *kinds: str) -> list[dict[str, Any]]:
    """The events of these kinds in the trace of a root."""
    found = [event async for _, event in LogStore(log).events(f"ls-{run_id(name)}", 0)]
    return [event for event in found if event["event"] in kinds]


async def test_a_run_waits_for_its_answer_and_goes_on(log: EventLog) -> None:
    await send(log, *asked("one"))
    (waiting,) = await all_traces(log)
    assert (waiting["status"], waiting["session_id"], waiting["task"]) == ("waiting", "t-1", "Release")
    root, *rest = answered("two", start=3)
    await send(log, root)
    (going_on,) = await all_traces(log)
    assert going_on["status"] == "running"
    await send(log, *rest)
    (over,) = await all_traces(log)
    assert (over["trace_id"], over["status"], over["summary"]) == (f"ls-{run_id('one')}", "completed", "Done.")
    assert over["metadata"]["runs"] == {run_id("two"): "resumed"}
    (answer,) = await events(log, "one", "input_provided")
    assert (answer["value"], answer["by"]) == ("yes", "terminal")
    tools = [message["content"] for message in await messages_of(log, over["trace_id"])]
    assert [tool.get("result") for tool in tools] == [None, "yes"]
    assert not any("error" in tool for tool in tools)


@pytest.mark.parametrize("way", ["in order", "at once", "late"])
async def test_an_end_that_says_nothing_of_its_inputs(log: EventLog, way: str) -> None:
    """JavaScript's client sends them with the start only; the start may come after it."""
    await send(log, *asked("one"))
    root, tool, done, over = answered("two", start=3)
    del over["inputs"]
    if way == "at once":
        body = read_batch(orjson.dumps({"post": [root, tool], "patch": [done, over]}))
        await Ingester(LogStore(log)).take("ls", list(items(body)), process=PROCESS)
    else:
        await send(log, *([over, tool, done, root] if way == "late" else [root, tool, done, over]))
    (found,) = await all_traces(log)
    assert (found["status"], found["summary"]) == ("completed", "Done.")
    (answer,) = await events(log, "one", "input_provided")
    assert answer["value"] == (None if way == "late" else "yes")


async def test_a_run_and_its_resume_in_one_request(log: EventLog) -> None:
    body = read_batch(orjson.dumps({"post": [*asked("one"), *answered("two", start=3)]}))
    await Ingester(LogStore(log)).take("ls", list(items(body)), process=PROCESS)
    (found,) = await all_traces(log)
    assert (found["trace_id"], found["status"], found["summary"]) == (f"ls-{run_id('one')}", "completed", "Done.")
    assert len(await events(log, "one", "input_provided")) == 1


async def test_the_same_place_may_ask_again(log: EventLog) -> None:
    await send(log, *asked("one"), *asked("two", start=3, value="Sure?", resume="yes"))
    (waiting,) = await all_traces(log)
    assert waiting["status"] == "waiting"
    await send(log, *answered("three", start=6, resume={"cf1": "very"}))
    (over,) = await all_traces(log)
    assert over["status"] == "completed"
    questions = await events(log, "one", "input_requested")
    answers = await events(log, "one", "input_provided")
    assert [one["question"] for one in questions] == ["Deploy?", "Sure?"]
    assert [(one["request_id"], one["value"]) for one in answers] == [
        (questions[0]["request_id"], "yes"),
        (questions[1]["request_id"], "very"),
    ]


async def test_the_next_run_of_a_thread_is_a_trace_of_its_own(log: EventLog) -> None:
    for number, name in enumerate(("one", "two")):
        root = run(name, start=number, inputs={"messages": [["user", "Hi"]]}, extra=THREAD)
        await send(log, root, ended(root, end=number, outputs={"messages": [["ai", "Hi."]]}))
    found = await all_traces(log)
    assert {trace["trace_id"] for trace in found} == {f"ls-{run_id('one')}", f"ls-{run_id('two')}"}
    assert {trace["session_id"] for trace in found} == {"t-1"}


async def test_a_run_that_fails_while_it_asks_has_failed(log: EventLog) -> None:
    *before, root = asked("one")
    await send(log, *before, {**root, "error": "ValueError('no')"})
    (found,) = await all_traces(log)
    assert found["status"] == "failed"


async def test_a_question_that_comes_after_the_end_of_its_run_makes_it_wait(log: EventLog) -> None:
    root, tool, question, over = asked("one")
    await send(log, root, tool, over, question)
    (found,) = await all_traces(log)
    assert found["status"] == "waiting"
    await send(log, *answered("two", start=3))
    (found,) = await all_traces(log)
    assert found["status"] == "completed"


async def test_a_resume_that_comes_before_what_it_resumes(log: EventLog) -> None:
    await send(log, *answered("two", start=3), *asked("one"))
    (found,) = await all_traces(log)
    assert (found["status"], found["task"], found["summary"]) == ("completed", "Release", "Done.")
    assert found["started_at"].startswith("2026-11-30T03:58:50")


async def test_who_has_gone_and_comes_back_is_not_lost(tmp_path: Path) -> None:
    log = await open_any(f"memory:///{tmp_path / 'log.db'}", clock=(clock := Clock()))
    try:
        ingester = Ingester(LogStore(log))
        for one in asked("one"):
            await ingester.take("ls", list(items(read_batch(orjson.dumps({"post": [one]})))), process=PROCESS)
        other = run("other", inputs={"messages": [["user", "Hi"]]})
        await ingester.take("ls", list(items(read_batch(orjson.dumps({"post": [other]})))), process=PROCESS)
        clock.now += 1000
        await log.expire_leases()
        found = {trace["trace_id"]: trace["status"] for trace in await all_traces(log)}
        assert found == {f"ls-{run_id('one')}": "waiting", f"ls-{run_id('other')}": "lost"}
    finally:
        await log.close()


def test_what_resumes_a_graph() -> None:
    assert resumed({"input": {"graph": None, "update": None, "resume": "yes", "goto": []}}) == ["yes"]
    assert resumed({"lg_name": "Command", "resume": {"a": 1}}) == [{"a": 1}]
    many: list[Any] = [None, [], {}, {"input": "yes"}, {"resume": "a letter"}, {"input": {"resume": None, "goto": []}}]
    assert [resumed(one) for one in many] == [None] * len(many)
