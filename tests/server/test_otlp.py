"""OTLP over HTTP: what is answered, who may send, and that both encodings give the same."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.server.wire import http
from tests.support import Serving, serving
from tracewatch.errors import Unavailable

pytestmark = pytest.mark.anyio
PROTOBUF, JSON = {"content-type": "application/x-protobuf"}, {"content-type": "application/json"}
BEGAN = 1_790_000_000


def span(span_id: str, parent: str = "", trace: str = "a" * 32, **attributes: str) -> dict[str, Any]:
    return {
        "traceId": trace,
        "spanId": span_id,
        "parentSpanId": parent,
        "name": "a span",
        "startTimeUnixNano": str(BEGAN * 10**9),
        "endTimeUnixNano": str((BEGAN + 1) * 10**9),
        "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()],
    }


def body_of(*spans: dict[str, Any]) -> dict[str, Any]:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "weather"}}]}
    return {
        "resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "test"}, "spans": list(spans)}]}]
    }


def in_protobuf(body: dict[str, Any]) -> bytes:
    request = ExportTraceServiceRequest()
    for one in body["resourceSpans"]:
        made = request.resource_spans.add()
        for pair in one["resource"]["attributes"]:
            made.resource.attributes.add(key=pair["key"]).value.string_value = pair["value"]["stringValue"]
        for raw in one["scopeSpans"][0]["spans"]:
            added = (made.scope_spans or [made.scope_spans.add()])[0].spans.add(
                trace_id=bytes.fromhex(raw["traceId"]),
                span_id=bytes.fromhex(raw["spanId"]),
                parent_span_id=bytes.fromhex(raw["parentSpanId"]),
                name=raw["name"],
                start_time_unix_nano=int(raw["startTimeUnixNano"]),
                end_time_unix_nano=int(raw["endTimeUnixNano"]),
            )
            for pair in raw["attributes"]:
                added.attributes.add(key=pair["key"]).value.string_value = pair["value"]["stringValue"]
    return request.SerializeToString()


def agent_run(trace: str) -> dict[str, Any]:
    """An agent with a model call and a tool."""
    named = {"gen_ai.agent.name": "planner", "gen_ai.operation.name": "invoke_agent"}
    return body_of(
        span("1" * 16, trace=trace, **named),
        span("2" * 16, "1" * 16, trace, **{"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}),
        span("3" * 16, "1" * 16, trace, **{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look"}),
    )


@pytest.fixture(scope="module")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    """A server that takes requests of 256 KiB."""
    async with serving(tmp_path_factory.mktemp("otlp") / "log.db", max_ingest_bytes=256 * 1024) as started:
        yield started


@pytest.fixture(scope="module")
async def sender(small: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with http(small) as opened:
        yield opened


@pytest.mark.parametrize("way", ["json", "protobuf", "json gzip", "protobuf gzip", "protobuf deflate"])
async def test_a_run_comes_in_by_each_encoding(sender: httpx.AsyncClient, way: str) -> None:
    trace = f"{zlib.crc32(way.encode()):032x}"
    run = agent_run(trace)
    body, headers = (orjson.dumps(run), JSON) if "json" in way else (in_protobuf(run), PROTOBUF)
    if "gzip" in way:
        body, headers = gzip.compress(body), {**headers, "content-encoding": "gzip"}
    elif "deflate" in way:
        body, headers = zlib.compress(body), {**headers, "content-encoding": "deflate"}
    answer = await sender.post("/v1/traces", content=body, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == headers["content-type"]
    assert answer.content == (b'{"partialSuccess":{}}' if "json" in way else b"")
    found = (await sender.get(f"/api/traces/otel-{trace}")).json()["trace"]
    assert (found["agent_type"], found["status"], found["total_messages"]) == ("planner", "completed", 2)
    messages = (await sender.get(f"/api/traces/otel-{trace}/messages")).json()["messages"]
    assert [message["role"] for message in messages] == ["assistant", "tool"]
    assert messages[0]["model"] == "m"
    assert messages[1]["content"]["tool_name"] == "look"


async def test_spans_without_ids_are_told_as_a_partial_success(sender: httpx.AsyncClient) -> None:
    body = body_of(span("", trace=""), span("4" * 16, trace="b" * 32))
    answer = await sender.post("/v1/traces", json=body)
    assert answer.json()["partialSuccess"]["rejectedSpans"] == "1"
    binary = await sender.post("/v1/traces", content=in_protobuf(body), headers=PROTOBUF)
    assert ExportTraceServiceResponse.FromString(binary.content).partial_success.rejected_spans == 1


async def test_what_is_not_otlp_is_400_and_what_is_too_large_413(sender: httpx.AsyncClient) -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    for body, headers, status in (
        (b"{", JSON, 400),
        (b"[]", JSON, 400),
        (b"\xff\xff\xff", PROTOBUF, 400),
        (b"not gzip", {**PROTOBUF, "content-encoding": "gzip"}, 400),
        (gzip.compress(b"x" * 1000)[:-9], {**PROTOBUF, "content-encoding": "gzip"}, 400),
        (b"", {**PROTOBUF, "content-encoding": "br"}, 400),
        (bomb, {**PROTOBUF, "content-encoding": "gzip"}, 413),
        (bytes(300_000), PROTOBUF, 413),
    ):
        answer = await sender.post("/v1/traces", content=body, headers=headers)
        assert answer.status_code == status, (body[:20], answer.content)
        assert answer.headers["content-type"] == headers["content-type"]
    assert "JSON" in (await sender.post("/v1/logs", content=b"{", headers=JSON)).json()["message"]


async def test_metrics_and_logs_are_taken(sender: httpx.AsyncClient) -> None:
    assert (await sender.post("/v1/metrics", content=b"\x0a\x00", headers=PROTOBUF)).status_code == 200
    assert (await sender.post("/v1/metrics", json={"resourceMetrics": []})).json() == {"partialSuccess": {}}
    record = {"timeUnixNano": "1", "body": {"stringValue": "a line"}}
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
    assert (await sender.post("/v1/logs", json=body)).json() == {"partialSuccess": {}}
    assert 'tracewatch_ingested_total{source="otel"' in (await sender.get("/metrics")).text


async def test_logfire_is_told_a_project(sender: httpx.AsyncClient) -> None:
    answer = await sender.get("/v1/info", headers={"authorization": "pylf_v1_us_0123456789"})
    assert answer.json() == {"project_name": "tracewatch", "project_url": f"{sender.base_url}/"}


async def test_a_log_that_cannot_be_written_is_503_with_retry_after(
    small: Serving, sender: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*args: Any, **more: Any) -> int:
        raise Unavailable("no room", retry_after_s=7)

    monkeypatch.setattr(small.services.ingester, "take", refuse)
    answer = await sender.post("/v1/traces", content=in_protobuf(agent_run("c" * 32)), headers=PROTOBUF)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert b"no room" in answer.content


async def test_who_may_send(tmp_path: Path) -> None:
    body = orjson.dumps(agent_run("d" * 32))
    async with serving(tmp_path / "log.db") as started, http(started) as client:
        tokens = started.services.log.tokens
        write, read = await tokens.create(["write"]), await tokens.create(["read"])
        for headers, status in (
            ({}, 401),
            ({"authorization": f"Bearer {write}"}, 200),
            ({"authorization": write}, 200),
            ({"x-api-key": write}, 200),
            ({"authorization": f"Bearer {read}"}, 403),
            ({"x-api-key": "wrong"}, 401),
        ):
            answer = await client.post("/v1/traces", content=body, headers={**JSON, **headers})
            assert answer.status_code == status, headers
