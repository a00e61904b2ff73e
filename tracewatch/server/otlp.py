"""OTLP over HTTP: traces, logs and metrics of any OpenTelemetry SDK, at the paths of its specification.

Rule 1: what can be read is answered 200, also where nothing of it is kept: a client repeats what it is refused. What
        can't be stored now is 503 with Retry-After, and the client sends it again.
Rule 2: a request is answered after all of it is on disk.
Rule 3: an answer has the encoding of the request: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ..errors import BadRequest, TracewatchError
from ..ingest.ingester import Process
from ..ingest.items import Item
from ..ingest.known import trace_id_of
from ..ingest.otlp import BadOtlp, LogRecord, Span, is_json, read
from ..ingest.spans import is_left_out, items
from .decoding import ASIDE_BYTES, read_decoded
from .http import JSON, Services, error_response, json_response, services

SOURCE = "otel"
PROTOBUF = "application/x-protobuf"
GRPC_CODES = {400: 3, 401: 16, 403: 7, 413: 8, 429: 8, 503: 14}  # google.rpc.Code of an HTTP status
Batch = tuple[Process, list[Item]]
TRACES = "tracewatch-traces"  # header of an answer: the traces that the request was about
MOST_TRACES = 20  # that it names


async def traces(request: Request) -> Response:
    """``POST /v1/traces``."""
    return await _answered(request, "traces")


async def logs(request: Request) -> Response:
    """``POST /v1/logs``."""
    return await _answered(request, "logs")


async def metrics(request: Request) -> Response:
    """``POST /v1/metrics``: taken, as a sign of life, and not kept."""
    return await _answered(request, "metrics")


async def info(request: Request) -> Response:
    """``GET /v1/info``: Logfire's client asks it for the project that its token belongs to."""
    url = f"{request.url.scheme}://{request.headers.get('host', 'localhost')}/"
    return json_response({"project_name": "tracewatch", "project_url": url})


async def _answered(request: Request, kind: str) -> Response:
    json = is_json(request.headers.get("content-type", ""))
    served = services(request)
    try:
        body = await read_decoded(request, served.settings.max_ingest_bytes)
        rejected, traces = (0, "") if kind == "metrics" else await _take(request, kind, body, json=json)
    except TracewatchError as error:
        return _refusal(error, json=json)
    answer = _accepted(kind, rejected, json=json)
    if traces:
        answer.headers[TRACES] = traces
    return answer


async def _take(request: Request, kind: str, body: bytes, *, json: bool) -> tuple[int, str]:
    """Write what a body has.

    Returns the number of spans or records that can't be told apart, as they have no ids, and which traces it was about.
    """
    served = services(request)
    client = request.client.host if request.client else "here"

    def work() -> tuple[list[Batch], int]:
        return _batches(kind, list(read(kind, body, json=json)), client)

    try:
        batches, rejected = work() if len(body) < ASIDE_BYTES else await asyncio.to_thread(work)
    except BadOtlp as error:
        served.ingester.counts.note(SOURCE, "unreadable")
        raise BadRequest(str(error)) from error
    for process, some in batches:
        if some:
            await served.ingester.take(SOURCE, some, process=process)
        else:
            await served.ingester.alive(process)
    _count_unknown(served, kind, batches, rejected)
    return rejected, traces_of(SOURCE, [item for _, some in batches for item in some])


def traces_of(source: str, items: Iterable[Item]) -> str:
    """The traces that items are about, as the header ``tracewatch-traces`` names them: ids with a blank between."""
    return " ".join(islice(dict.fromkeys(trace_id_of(source, item.trace) for item in items), MOST_TRACES))


def _count_unknown(served: Services, kind: str, batches: list[Batch], rejected: int) -> None:
    if rejected or (kind == "logs" and not any(some for _, some in batches)):
        served.ingester.counts.note(SOURCE, "unknown", max(rejected, 1))


def _batches(kind: str, found: list[Span | LogRecord], client: str) -> tuple[list[Batch], int]:
    """The items by the process that sent them, and how many spans had no ids."""
    by_process: dict[Process, list[Item]] = {}
    rejected = 0
    processes: dict[int, Process] = {}
    for one in found:
        process = processes.get(id(one.resource))
        if process is None:
            process = processes[id(one.resource)] = _process(one.resource, client)
        some = by_process.setdefault(process, [])
        some += items([one])
        if isinstance(one, Span) and not (one.trace_id and one.span_id) and not is_left_out(one):
            rejected += 1
    return list(by_process.items()), rejected


def _process(resource: dict[str, Any], client: str) -> Process:
    name = str(resource.get("service.name") or "agent")
    if name.startswith("unknown_service"):  # what an SDK says where nobody named it
        name = str(resource.get("process.executable.name") or name.partition(":")[2] or "agent")
    instance = resource.get("service.instance.id")
    if not instance:
        instance = f"{resource.get('host.name', client)}/{resource.get('process.pid', '')}"
    return Process(f"{name[:200]}/{str(instance)[:200]}", name[:200])


# --- answers -------------------------------------------------------------------------------------------------------

_REJECTED = {"traces": "rejectedSpans", "logs": "rejectedLogRecords"}
_NO_IDS = "without a trace id and a span id"


def _accepted(kind: str, rejected: int, *, json: bool) -> Response:
    if json:
        partial = {_REJECTED[kind]: str(rejected), "errorMessage": _NO_IDS} if rejected else {}
        return json_response({"partialSuccess": partial})
    # Export…ServiceResponse.partial_success is field 1, in which the number is field 1 and the message field 2
    inner = b"\x08" + _varint(rejected) + _text_field(2, _NO_IDS) if rejected else b""
    body = b"\x0a" + _varint(len(inner)) + inner if rejected else b""
    return Response(body, 200, media_type=PROTOBUF)


def _refusal(error: TracewatchError, *, json: bool) -> Response:
    answer = error_response(error)
    code = GRPC_CODES.get(error.status, 2)
    if json:
        body, media_type = orjson.dumps({"code": code, "message": error.message}), JSON
    else:  # google.rpc.Status: code is field 1, message field 2
        body, media_type = b"\x08" + _varint(code) + _text_field(2, error.message), PROTOBUF
    headers = {name: value for name, value in answer.headers.items() if name in ("retry-after", "connection")}
    return Response(body, error.status, headers, media_type=media_type)


def _varint(number: int) -> bytes:
    parts: list[int] = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _text_field(field: int, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return bytes([field << 3 | 2]) + _varint(len(data)) + data
