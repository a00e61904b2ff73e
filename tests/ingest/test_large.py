"""Large and binary values of foreign spans stand beside the log, whole, once, and come back as they were."""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.ingest.recordings import all_traces, messages_of
from tests.log.helpers import bodies, events, opened
from tracewatch.ingest.ingester import Ingester, Process
from tracewatch.ingest.items import ROOT, Item
from tracewatch.ingest.otlp import read
from tracewatch.ingest.spans import items
from tracewatch.ingest.store import LogStore
from tracewatch.log import EventLog
from tracewatch.model.contents import references_in

pytestmark = pytest.mark.anyio
PROCESS = Process("p", "service")
NOW = 1_796_000_000.0
TEXT = "".join(random.Random(1).choices("abcdefgh äöü\n", k=400_000))


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", max_trace_blob_bytes=64 * 1024**2) as found:
        yield found


async def take(log: EventLog, *some: Item) -> int:
    """As a server that was just started would: it knows what the log has."""
    ingester = Ingester(LogStore(log))
    written = await ingester.take("x", some, process=PROCESS, received_at=NOW)
    assert not {what for _, what in ingester.counts.seen} & {"refused", "failed"}
    return written


async def whole(log: EventLog, trace_id: str, ref: dict[str, Any]) -> bytes:
    return await log.blobs.whole(trace_id, ref["blob"])


async def test_a_span_of_sixteen_megabytes_is_kept_whole(log: EventLog) -> None:
    text = TEXT * 16
    span = {
        "traceId": "a" * 32,
        "spanId": "b" * 16,
        "startTimeUnixNano": str(int(NOW * 1e9)),
        "endTimeUnixNano": str(int(NOW * 1e9) + 10**9),
        "attributes": [
            {"key": "gen_ai.operation.name", "value": {"stringValue": "execute_tool"}},
            {"key": "gen_ai.tool.call.result", "value": {"stringValue": text}},
            {"key": "my.own", "value": {"stringValue": TEXT}},
        ],
    }
    body = orjson.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    found = list(items(read("traces", body, json=True)))
    assert await take(log, *found) > 0
    (message,) = await messages_of(log, f"x-{'a' * 32}")
    assert (await whole(log, f"x-{'a' * 32}", message["content"]["result"])).decode() == text
    assert (await whole(log, f"x-{'a' * 32}", message["attributes"]["my.own"])).decode() == TEXT
    assert sum(map(len, await bodies(log, f"x-{'a' * 32}"))) < 16_000
    assert await take(log, *found) == 0  # also after a restart


async def test_pictures_and_prompts_come_back_as_they_were(log: EventLog) -> None:
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(200_000)).decode()
    asked: list[dict[str, Any]] = [
        {"role": "system", "content": TEXT},
        {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": picture}}]},
        *({"role": "assistant", "content": f"answer {n} {TEXT[:2000]}"} for n in range(300)),
    ]
    call = Item(trace="t", key="c1", kind="model_call", parent="top", input=asked, text=TEXT, final=True)
    call.tools = [{"name": f"tool{n}", "description": TEXT[:3000]} for n in range(50)]
    tool = Item(trace="t", key="t1", kind="tool", parent="top", tool_call_id="c", result=TEXT, final=True)
    top = Item(trace="t", key="top", kind="agent", parent=ROOT, name="agent")
    more: list[dict[str, Any]] = [
        *asked,
        {"role": "assistant", "content": TEXT},
        {"role": "tool", "tool_call_id": "c", "content": TEXT},
    ]
    again = Item(trace="t", key="c2", kind="model_call", parent="top", input=more, text="done", final=True)
    again.tools = call.tools
    assert await take(log, top, call, tool, again) > 0
    for key, given in (("c1", asked), ("c2", more)):
        prompt = orjson.loads(await log.prompt("x-t", key))["prompt"]
        assert (prompt["exact"], prompt["lost"]) == (True, [])
        assert (prompt["input"], prompt["tools"]) == (given, call.tools)
    stored = await bodies(log, "x-t")
    assert sum(map(len, stored)) < 64_000
    assert {ref["media_type"] for body in stored for ref in references_in(orjson.loads(body))} >= {"image/png"}
    assert await take(log, top, call, tool, again) == 0


async def test_what_moves_to_its_parent_takes_its_contents_along(log: EventLog) -> None:
    tool = Item(trace="t", key="b", kind="tool", parent="a", name="read", result=TEXT, final=True)
    beside = Item(trace="t", key="z", kind="tool", parent="y", name="read", result=TEXT[::-1], final=True)
    await take(log, tool)
    await take(log, beside)
    for key, parent in (("a", "top"), ("y", "top")):
        await take(log, Item(trace="t", key=key, kind="step", parent=parent, final=True))
    await take(log, Item(trace="t", key="top", kind="agent", parent=ROOT, name="agent", final=True))
    (trace,) = await all_traces(log)
    results = [message["content"]["result"] for message in await messages_of(log, trace["trace_id"])]
    assert {(await whole(log, trace["trace_id"], ref)).decode() for ref in results} == {TEXT, TEXT[::-1]}


async def test_what_only_looks_like_a_reference_costs_nobody_anything(log: EventLog) -> None:
    strange = [{"blob": f"{n:064x}", "bytes": n, "media_type": "text/plain"} for n in range(1, 400)]
    tool = Item(trace="t", key="a", kind="tool", parent="top", name="read", result=strange, final=True)
    few = Item(trace="t", key="b", kind="tool", parent="top", name="read", result=strange[:3], final=True)
    await take(log, tool, few)
    assert [len(one["content"]["result"]) for one in await messages_of(log, "x-t")] == [399, 3]


async def test_what_the_log_has_no_room_for_goes_on_in_the_message(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", max_trace_blob_bytes=1000) as log:
        ingester = Ingester(LogStore(log))
        call = Item(trace="t", key="a", kind="model_call", parent=ROOT, text=TEXT, final=True)
        await ingester.take("x", [call], process=PROCESS, received_at=NOW)
        (message,) = await messages_of(log, "x-t")
        assert message["content"] == TEXT
        assert await Ingester(LogStore(log)).take("x", [call], process=PROCESS, received_at=NOW) == 0
        assert "ingest_refused" not in {event["event"] for event in await events(log, "x-t")}
