"""What real frameworks sent over OTLP becomes what they really did, in whatever order and however often it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.ingest.recordings import Step, all_traces, messages_of, otlp_items, requests_of, steps_of, usage_of_all
from tests.log.helpers import open_any
from tracewatch.ingest.ingester import Ingester, Process
from tracewatch.ingest.store import LogStore
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio
RECORDINGS = (
    *("otlp-google-adk-content", "otlp-langchain-openinference", "otlp-mcp", "otlp-openai-agents-logfire"),
    *("otlp-pydantic-ai-logfire-token", "otlp-pydantic-ai-sdk", "otlp-strands", "otlp-vercel-ai-proto"),
)
WAYS = ("as recorded", "twice", "reverse", "one span at a time", "restarted each time")
PROCESS = Process("weather/1", "weather")


@pytest.fixture
def folder(shared_data: Path, request: pytest.FixtureRequest) -> Path:
    found: Path = shared_data / "wire" / request.param
    if not found.exists():
        pytest.skip(f"needs {found}, which is not here")
    return found


async def replay(log: EventLog, folder: Path, way: str) -> None:
    """Send a recording's spans in a way; a repeat writes nothing."""
    ingester = Ingester(LogStore(log))
    sent = [one for one in requests_of(folder) if one.path == "/v1/traces"]
    for one in reversed(sent) if way == "reverse" else sent:
        found = otlp_items(one)
        for some in [[item] for item in found] if way == "one span at a time" else [found]:
            if way == "restarted each time":
                ingester = Ingester(LogStore(log))
            await ingester.take("otel", some, process=PROCESS)
            if way in ("twice", "restarted each time"):
                assert await Ingester(LogStore(log)).take("otel", some, process=PROCESS) == 0
                assert await ingester.take("otel", some, process=PROCESS) == 0
    refused = {what for _, what in ingester.counts.seen} & {"refused", "failed"}
    assert not refused


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("folder", RECORDINGS, indirect=True)
async def test_a_recording_becomes_what_really_happened(tmp_path: Path, folder: Path, way: str) -> None:
    truth = orjson.loads((folder / "truth.json").read_bytes())
    log = await open_any(f"memory:///{tmp_path / 'log.db'}")
    try:
        await replay(log, folder, way)
        found = await steps_of(log)
        usage = await usage_of_all(log)
        await check_prompts(log)
        ids = [
            message["message_id"]
            for one in await all_traces(log)
            for message in await messages_of(log, one["trace_id"])
        ]
    finally:
        await log.close()
    calls = [step for step in found if step.kind == "llm"]
    tools = [step for step in found if step.kind == "tool" and step.name != "ask_expert"]  # the truth leaves that out
    totals = truth["totals"]
    assert len(calls) == totals["llm_calls"]
    assert len(tools) == totals["tool_calls"]
    assert sum(step.failed for step in tools) == totals["tool_errors"]
    assert len(ids) == len(set(ids)) or folder.name == "otlp-mcp" or has_prompts_twice(ids)
    check_usage(usage, totals["tokens"], folder.name)
    check_steps(found, truth["steps"], folder.name)


def has_prompts_twice(ids: list[str]) -> bool:
    """A user's words to an agent and to one below it are messages of each."""
    twice = {one for one in ids if ids.count(one) > 1}
    return all(one.startswith("in-") for one in twice)


async def check_prompts(log: EventLog) -> None:
    """Each call says what it was asked, naming what its trace has."""
    for trace in await all_traces(log):
        for message in await messages_of(log, trace["trace_id"]):
            if "request" in message:
                prompt = orjson.loads(await log.prompt(trace["trace_id"], message["message_id"]))["prompt"]
                assert (prompt["exact"], prompt["lost"]) == (True, [])


def check_usage(usage: dict[str, int], tokens: dict[str, int], name: str) -> None:
    if not tokens:
        return
    assert usage["input_tokens"] == tokens["input"]
    assert usage["cache_read_tokens"] == tokens["cache_read"]
    thoughts = tokens["reasoning"] if name == "otlp-google-adk-content" else 0  # part of its output on the wire
    assert usage["output_tokens"] == tokens["output"] + thoughts
    if "reasoning_tokens" in usage:  # strands and the AI SDK don't say
        assert usage["reasoning_tokens"] == tokens["reasoning"]


def check_steps(found: list[Step], truth: list[dict[str, Any]], name: str) -> None:
    """Each step of the truth is there, with its times and its agent."""
    agents = {step["id"]: step["name"] for step in truth if step["kind"] == "agent"}
    left = list(found)
    for step in truth:
        near = [
            one
            for one in left
            if one.kind == step["kind"]
            and (one.kind == "llm" or one.name == step["name"])
            and abs(one.ended_at - step["ended_at"]) < 1.0  # where a client is slow at first, the wire has it otherwise
            and abs(one.started_at - step["started_at"]) < 1.5
        ]
        assert near, (step["kind"], step["name"], step["started_at"])
        one = min(near, key=lambda one: abs(one.ended_at - step["ended_at"]) + abs(one.started_at - step["started_at"]))
        left.remove(one)
        if step["parent"] is not None and name != "otlp-openai-agents-logfire":
            assert one.agent == agents[step["parent"]]
