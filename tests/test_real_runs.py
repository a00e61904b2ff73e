"""Every real agent run: imported as the CLI does it, then replayed over every transport to the same bytes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import connect

from tracewatch.cli.sending import Counts, Pace, StepSender
from tracewatch.client.api import Api
from tracewatch.importers import open_import
from tracewatch.log import TraceQuery

from .server.wire import NDJSON, SSE, stored
from .support import Serving, serving

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def importable(folder: Path) -> list[Path]:
    files = sorted([*folder.glob("tau-bench/*.json"), *folder.glob("tapeagents/*.json")])
    files += sorted(folder.glob("claude-code/**/session.jsonl")) + sorted(folder.glob("claude-code/*.jsonl"))
    return [file for file in files if file.name != "delegate_stack__llm.json"]  # settings of a model, no tape


def import_file(url: str, file: Path) -> Counts:
    sender = StepSender(Api(url), Pace(None), on_fault=lambda fault: None)
    for step in open_import(file):
        sender.take(step)
    sender.flush()
    return sender.counts


async def over_websocket(server: Serving, trace_id: str) -> list[bytes]:
    bodies: list[bytes] = []
    address = f"{server.ws_url}/api/traces/{trace_id}/watch?until=end"
    async with connect(address, compression=None, max_size=None, proxy=None) as ws:
        async for data in ws:
            assert isinstance(data, str)
            if "event_id" in orjson.loads(data):
                bodies.append(data.encode())
    return bodies


async def over_sse(client: httpx.AsyncClient, trace_id: str) -> list[bytes]:
    answer = await client.get(f"/api/traces/{trace_id}/events", headers={"accept": SSE})
    events = [block.split(b"\n") for block in answer.content.strip(b"\n").split(b"\n\n")]
    return [lines[-1].removeprefix(b"data: ") for lines in events if lines[0].startswith(b"id: ")]


async def over_ndjson(client: httpx.AsyncClient, trace_id: str) -> list[bytes]:
    answer = await client.get(f"/api/traces/{trace_id}/events", headers={"accept": NDJSON})
    return answer.content.split(b"\n")[:-1]


async def over_pages(client: httpx.AsyncClient, trace_id: str) -> list[bytes]:
    bodies: list[bytes] = []
    since = "0"
    while True:
        answer = await client.get(f"/api/traces/{trace_id}/events", params={"since_event_id": since, "limit": 7})
        page = orjson.loads(answer.content)
        start = answer.content.index(b"[") + 1
        for event in page["events"]:  # the bytes as they stand in the page
            size = len(orjson.dumps(event))
            bodies.append(answer.content[start : start + size])
            start += size + 1
        if not page["has_more"]:
            return bodies
        since = page["cursor"]


# By hand: US dollars for a million tokens that came in beside the cache, went into it, came from it, and went out
PRICES = {
    "claude-3-sonnet-20240229": (3.0, 3.75, 0.3, 15.0),
    "claude-haiku-4-5-20251001": (1.0, 1.25, 0.1, 5.0),
    "claude-opus-4-8": (5.0, 6.25, 0.5, 25.0),
}
COUNTED = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
SESSIONS = (
    "claude-code/representative_messages.jsonl",
    "claude-code/session-with-subagents/session.jsonl",
    "wire/claude-code-tasks/home/projects/*/*.jsonl",
)


def cost_by_hand(files: list[Path]) -> float:
    """The cost of the usage in transcripts, once for each answer of the model, whose lines repeat it."""
    answers: dict[str, dict[str, Any]] = {}
    for file in files:
        for line in file.read_bytes().splitlines():
            message = orjson.loads(line).get("message")
            if isinstance(message, dict) and "usage" in message:
                answers[message["id"]] = message
    assert len(answers) >= 5
    total = 0.0
    for message in answers.values():
        counts = [message["usage"].get(key) or 0 for key in COUNTED]
        total += sum(count * price for count, price in zip(counts, PRICES[message["model"]], strict=True))
    return total / 1_000_000


def transcripts(folder: Path, name: str) -> list[Path]:
    """A session and its sub-agents."""
    (file,) = folder.glob(name)
    return [file, *file.parent.glob("subagents/*.jsonl"), *file.with_suffix("").glob("subagents/*.jsonl")]


@pytest.mark.parametrize("name", SESSIONS)
async def test_a_session_costs_what_its_usage_says(shared_data: Path, tmp_path: Path, name: str) -> None:
    file, *beside = transcripts(shared_data, name)
    async with serving(tmp_path / "runs.db") as server:
        await asyncio.to_thread(import_file, server.url, file)
        traces, _ = await server.services.log.traces(TraceQuery(limit=1000))
    (root,) = [trace for trace in traces if trace["parent_trace_id"] is None]
    assert root["tree_totals"]["total_cost"] == pytest.approx(cost_by_hand([file, *beside]), abs=1e-9)
    assert {model for trace in traces for model in trace["models"]} <= set(PRICES)


@pytest.mark.timeout(300)
async def test_every_real_run_replays_alike(shared_data: Path, tmp_path: Path) -> None:
    files = importable(shared_data)
    assert len(files) > 25
    async with serving(tmp_path / "runs.db") as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        counts = Counts()
        for file in files:
            counts.add(await asyncio.to_thread(import_file, server.url, file))
        assert counts.traces >= 250 and counts.events > 6000
        log = server.services.log
        traces, more = await log.traces(TraceQuery(limit=1000))
        assert more is None and len(traces) == counts.traces
        assert not [
            trace["trace_id"] for trace in traces if 0 in (trace["total_cost"], trace["tree_totals"]["total_cost"])
        ], "what nobody knows is null"
        for trace in traces:
            trace_id = trace["trace_id"]
            bodies = await stored(log, trace_id)
            assert [orjson.loads(body)["event_id"] for body in bodies] == list(range(1, trace["last_event_id"] + 1))
            assert await over_websocket(server, trace_id) == bodies
            assert await over_sse(client, trace_id) == bodies
            assert await over_ndjson(client, trace_id) == bodies
            assert await over_pages(client, trace_id) == bodies
