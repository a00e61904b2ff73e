"""OTLP over gRPC: the same as over HTTP. A client that speaks gRPC to the port of HTTP is told what to do."""

from __future__ import annotations

import asyncio
import gzip
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.ingest.recordings import all_traces
from tests.support import Serving, serving
from tests.tracing import TRACE, body_of

grpc = pytest.importorskip("grpc", reason="needs the extra tracewatch[grpc]")
pytestmark = pytest.mark.anyio
EXPORT = "/opentelemetry.proto.collector.{}.v1.{}Service/Export"
AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def request_of(**attributes: Any) -> bytes:
    body = body_of("invoke_agent planner", {**AGENT, **attributes}, parentSpanId="")
    span = body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    ids = {name: bytes.fromhex(span.pop(name)) for name in ("traceId", "spanId", "parentSpanId")}
    request = ParseDict(body, ExportTraceServiceRequest())
    made = request.resource_spans[0].scope_spans[0].spans[0]
    made.trace_id, made.span_id = ids["traceId"], ids["spanId"]
    return bytes(request.SerializeToString())


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[tuple[Serving, int]]:
    port = free_port()
    async with serving(tmp_path / "log.db", grpc_port=port, max_ingest_bytes=256 * 1024) as started:
        yield started, port


async def export(port: int, body: bytes, signal: str = "trace", **options: Any) -> bytes:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(EXPORT.format(signal, signal.capitalize()))
        async with asyncio.timeout(60):
            return bytes(await call(body, **options))


async def test_what_an_exporter_sends_is_taken(door: tuple[Serving, int]) -> None:
    served, port = door
    assert await export(port, request_of()) == b""
    assert await export(port, request_of(), compression=grpc.Compression.Gzip) == b""
    assert await export(port, b"", "logs") == await export(port, b"", "metrics") == b""
    (trace,) = await all_traces(served.services.log)
    assert (trace["trace_id"], trace["agent_type"], trace["status"]) == (f"otel-{TRACE}", "planner", "completed")
    assert served.services.ingester.counts.seen["otel", "repeat"] == 1


async def test_what_is_refused_is_told(door: tuple[Serving, int]) -> None:
    served, port = door
    for body, code in ((b"\xff\xff", "INVALID_ARGUMENT"), (bytes(300 * 1024), "RESOURCE_EXHAUSTED")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await export(port, body)
        assert refused.value.code().name == code
    bomb = request_of(large="x" * 2**22)
    assert len(gzip.compress(bomb)) < 10_000
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await export(port, bomb, compression=grpc.Compression.Gzip)
    assert refused.value.code().name == "RESOURCE_EXHAUSTED"
    assert await all_traces(served.services.log) == []


async def test_a_token_is_needed_where_http_needs_one(door: tuple[Serving, int]) -> None:
    served, port = door
    token = await served.services.log.tokens.create(["write"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await export(port, request_of())
    assert refused.value.code().name == "UNAUTHENTICATED"
    assert "token" in refused.value.details()
    for metadata in ((("authorization", f"Bearer {token}"),), (("x-api-key", token),)):
        assert await export(port, request_of(), metadata=metadata) == b""


async def test_a_client_at_the_port_of_http_is_told(door: tuple[Serving, int]) -> None:
    served, _ = door
    port = int(served.url.rpartition(":")[2])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await export(port, request_of(), timeout=30)
    assert refused.value.code().name == "UNAVAILABLE"
    assert "http1.x server" in str(refused.value)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert b"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in await reader.read()
    writer.close()


async def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['grpc'] = None; from tracewatch.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", "0", "--grpc-port", "4317"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode != 0
    assert "pip install 'tracewatch[grpc]'" in done.stderr
    assert "Traceback" not in done.stderr
