"""Two servers on one database that are sent halves of the same trace at once: each item is there once, and whole."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.recordings import all_traces, messages_of, otlp_items, requests_of, steps_of, usage_of_all
from tests.log.helpers import opened
from tracewatch.ingest.ingester import Ingester, Process
from tracewatch.ingest.items import Item
from tracewatch.ingest.store import LogStore
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio
PROCESS = Process("weather/1", "weather")
RECORDINGS = ("otlp-pydantic-ai-logfire-token", "otlp-mcp", "otlp-openai-agents-logfire")


async def send(ingester: Ingester, portions: list[list[Item]], order: random.Random) -> None:
    for some in portions:
        await ingester.take("otel", some, process=PROCESS)
        for _ in range(order.randrange(4)):
            await asyncio.sleep(0)


async def facts(log: EventLog) -> dict[str, Any]:
    """What does not depend on the order in which it came."""
    steps = Counter((one.kind, one.name, one.agent, one.failed) for one in await steps_of(log))
    statuses = Counter((one["agent_type"], one["status"]) for one in await all_traces(log))
    ids: Counter[str] = Counter()
    for trace in await all_traces(log):
        ids.update(message["message_id"] for message in await messages_of(log, trace["trace_id"]))
        ids.update(list((await log.snapshot(trace["trace_id"])).state.steps))
    once = {one: count for one, count in ids.items() if not one.startswith("in-")}  # a prompt is each trace's own
    return {"steps": steps, "usage": await usage_of_all(log), "traces": statuses, "ids": once}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", RECORDINGS)
async def test_halves_of_a_trace_at_two_servers(tmp_path: Path, shared_data: Path, name: str, seed: int) -> None:
    order = random.Random(seed)
    found = [otlp_items(sent) for sent in requests_of(shared_data / "wire" / name) if sent.path == "/v1/traces"]
    portions = [[item] for some in found for item in some]
    order.shuffle(portions)
    halves = portions[::2] + portions[1::6], portions[1::2] + portions[::6]  # some are sent to both
    async with opened(f"memory://{tmp_path}/alone") as log:
        await send(Ingester(LogStore(log)), portions, order)
        alone = await facts(log)
    url = f"sqlite:///{tmp_path / 'log.db'}"
    async with opened(url) as one, opened(url) as other:
        servers = [Ingester(LogStore(log)) for log in (one, other)]
        sending = (send(server, half, order) for server, half in zip(servers, halves, strict=True))
        async with asyncio.timeout(120):
            await asyncio.gather(*sending)
        both = await facts(one)
        for server in servers:
            assert not {what for _, what in server.counts.seen} & {"refused", "failed"}
    assert max(both["ids"].values()) == 1
    assert both == alone
