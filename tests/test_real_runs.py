"""Every real agent run: imported as the CLI does it, then replayed over every transport to the same bytes."""

from __future__ import annotations

import asyncio
from pathlib import Path

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
        for trace in traces:
            trace_id = trace["trace_id"]
            bodies = await stored(log, trace_id)
            assert [orjson.loads(body)["event_id"] for body in bodies] == list(range(1, trace["last_event_id"] + 1))
            assert await over_websocket(server, trace_id) == bodies
            assert await over_sse(client, trace_id) == bodies
            assert await over_ndjson(client, trace_id) == bodies
            assert await over_pages(client, trace_id) == bodies
