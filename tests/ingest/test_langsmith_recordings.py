"""What LangSmith's clients sent becomes what really happened, in whatever order and however often it comes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.ingest.recordings import (
    Sent,
    all_traces,
    langsmith_items,
    messages_of,
    requests_of,
    steps_of,
    usage_of_all,
)
from tests.ingest.test_otlp_recordings import check_prompts, check_steps, check_usage, has_prompts_twice
from tests.log.helpers import open_any
from tracewatch.ingest.ingester import Ingester, Process
from tracewatch.ingest.store import LogStore
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio
RECORDINGS = (
    *("langsmith-info-batch", "langsmith-info-default", "langsmith-info-limit1", "langsmith-js-agent-live"),
    *("langsmith-py-retried", "langsmith-py-traceable-default"),
)
WAYS = ("as recorded", "twice", "reverse", "shuffled", "one item at a time", "restarted each time")
PROCESS = Process("weather/1", "weather")


@pytest.fixture
def folder(shared_data: Path, request: pytest.FixtureRequest) -> Path:
    found: Path = shared_data / "wire" / request.param
    if not found.exists():
        pytest.skip(f"needs {found}, which is not here")
    return found


def ordered(folder: Path, way: str) -> Iterator[Sent]:
    """The requests of a recording that have runs, in the order of this way."""
    sent = [one for one in requests_of(folder) if one.method == "POST"]
    if way == "reverse":
        sent.reverse()
    elif way == "shuffled":
        random.Random(folder.name).shuffle(sent)
    return iter(sent)


async def replay(log: EventLog, folder: Path, way: str) -> None:
    """Send a recording in a way; a repeat writes nothing."""
    ingester = Ingester(LogStore(log))
    for one in ordered(folder, way):
        found = langsmith_items(one)
        for some in [[item] for item in found] if way == "one item at a time" else [found]:
            if way == "restarted each time":
                ingester = Ingester(LogStore(log))
            await ingester.take("ls", some, process=PROCESS)
            if way in ("twice", "restarted each time"):
                assert await Ingester(LogStore(log)).take("ls", some, process=PROCESS) == 0
                assert await ingester.take("ls", some, process=PROCESS) == 0
    assert not {what for _, what in ingester.counts.seen} & {"refused", "failed"}


async def model_calls(log: EventLog) -> list[dict[str, Any]]:
    """The messages that are model calls."""
    traces = await all_traces(log)
    found = [message for one in traces for message in await messages_of(log, one["trace_id"])]
    return [message for message in found if message["role"] == "assistant"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("folder", RECORDINGS, indirect=True)
async def test_a_recording_becomes_what_really_happened(tmp_path: Path, folder: Path, way: str) -> None:
    truth = orjson.loads((folder / "truth.json").read_bytes())
    log = await open_any(f"memory:///{tmp_path / 'log.db'}")
    try:
        await replay(log, folder, way)
        found, traces = await steps_of(log), await all_traces(log)
        usage = await usage_of_all(log)
        await check_prompts(log)
        asked = [len(one["request"]["input"]) for one in await model_calls(log)]
        ids = [message["message_id"] for one in traces for message in await messages_of(log, one["trace_id"])]
    finally:
        await log.close()
    totals = truth["totals"]
    assert len(asked) == totals["llm_calls"] and all(asked)
    roots = {item["trace"] for item in truth["items"]}
    assert {trace["trace_id"] for trace in traces if trace["parent_trace_id"] is None} == {f"ls-{one}" for one in roots}
    assert all(trace["task"] in ("What is the weather?", "Is 7 a prime?", "fails") for trace in traces)
    tools = [step for step in found if step.kind == "tool" and step.name not in ("ask_expert", "find")]
    assert sum(step.kind == "agent" for step in found) == totals["agent_runs"]
    assert sum(step.kind == "llm" for step in found) == totals["llm_calls"]
    assert len(tools) == totals["tool_calls"]
    assert sum(step.failed for step in tools) == totals["tool_errors"]
    assert len(ids) == len(set(ids)) or has_prompts_twice(ids)
    if folder.name == "langsmith-py-traceable-default":  # one of its calls says more than the truth does
        totals["tokens"]["cache_read"] += 4
    check_usage(usage, totals["tokens"], folder.name)
    check_steps(found, truth["steps"], folder.name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("folder", ["langsmith-py-interrupt-live"], indirect=True)
async def test_a_run_that_was_interrupted_goes_on_in_its_trace(tmp_path: Path, folder: Path, way: str) -> None:
    log = await open_any(f"memory:///{tmp_path / 'log.db'}")
    try:
        await replay(log, folder, way)
        found, traces = await steps_of(log), await all_traces(log)
        (root,) = [trace for trace in traces if trace["parent_trace_id"] is None]
        events = [event async for _, event in LogStore(log).events(root["trace_id"], 0)]
        usage = await usage_of_all(log)
    finally:
        await log.close()
    assert (root["agent_type"], root["task"], root["summary"]) == ("release-flow", "Release 1.4", "Deployed.")
    assert {trace["status"] for trace in traces} == {"completed"}
    assert {trace["agent_type"] for trace in traces} == {"release-flow", "releaser"}
    assert [step.kind for step in found if step.kind != "agent"] == ["llm", "tool", "tool", "llm"]
    assert not any(step.failed for step in found)
    assert usage == {"input_tokens": 10, "output_tokens": 4}
    asked = [event for event in events if event["event"] == "input_requested"]
    assert [(one["question"], one["options"], one["answerable"]) for one in asked] == [
        ("Deploy to production?", ["yes", "no"], "terminal")
    ]
    if way in ("as recorded", "twice", "one item at a time", "restarted each time"):
        assert len(traces) == 2  # the sub-agent goes on in its own trace as well
        answers = [event["value"] for event in events if event["event"] == "input_provided"]
        assert answers == ["yes"]
