"""OTLP's bodies, protobuf or JSON, as spans and log records in plain Python. Pure: bytes in, values out.

Rule 1: both encodings give the same. Ids are lower case hexadecimal, times Unix seconds, values JSON's types.
Rule 2: a body that can't be read raises ``BadOtlp`` and nothing else; a single value that can't is its text.

Source of the forms: https://opentelemetry.io/docs/specs/otlp/ and opentelemetry-proto.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from json import loads as json_loads
from typing import Any

import orjson
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from .items import plain
from .lenient import lenient

DEEPEST = 40  # levels of an attribute's value
ERROR = 2  # the status code of a span: https://opentelemetry.io/docs/specs/otel/trace/api/#set-status
SERVER, CLIENT = 2, 3  # kinds of span
KINDS = {"INTERNAL": 1, "SERVER": SERVER, "CLIENT": CLIENT, "PRODUCER": 4, "CONSUMER": 5}
CODES = {"UNSET": 0, "OK": 1, "ERROR": ERROR}
_REQUESTS: dict[str, type[Message]] = {"traces": ExportTraceServiceRequest, "logs": ExportLogsServiceRequest}

Attributes = dict[str, Any]


class BadOtlp(Exception):
    """A body that is not OTLP. The text says what is wrong with it."""


@dataclass(slots=True)
class SpanEvent:
    """Something that happened within a span."""

    name: str
    at: float | None
    attributes: Attributes


@dataclass(slots=True)
class Span:
    """One span as it was sent."""

    trace_id: str
    span_id: str
    parent_id: str  # "" for a root
    name: str
    kind: int
    started_at: float | None
    ended_at: float | None
    attributes: Attributes
    resource: Attributes
    scope: str
    status: int = 0
    status_message: str = ""
    events: list[SpanEvent] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)  # (trace id, span id)


@dataclass(slots=True)
class LogRecord:
    """One record of a log."""

    trace_id: str
    span_id: str
    name: str  # of the event, "" for a line of a log
    at: float | None
    body: Any
    attributes: Attributes
    resource: Attributes
    scope: str


def is_json(content_type: str) -> bool:
    """Whether a body of this type is JSON; anything else is protobuf."""
    return "json" in content_type.lower()


def read(kind: str, body: bytes, *, json: bool) -> Iterator[Span | LogRecord]:
    """The spans (``kind``: "traces") or records ("logs") of a body. Raises BadOtlp, before the first of them."""
    tree = _json_tree(body) if json else _proto_tree(kind, body)
    many, scopes, items = {"traces": ("resourceSpans", "scopeSpans", "spans")}.get(
        kind, ("resourceLogs", "scopeLogs", "logRecords")
    )
    made = _span if kind == "traces" else _record
    groups = [
        (_attributes(_dict(one.get("resource")).get("attributes")), _dict(scoped.get("scope")).get("name"), scoped)
        for one in _dicts(tree.get(many))
        for scoped in _dicts(one.get(scopes))
    ]
    return (
        made(raw, resource, scope if isinstance(scope, str) else "")
        for resource, scope, scoped in groups
        for raw in _dicts(scoped.get(items))
    )


def count(kind: str, body: bytes, *, json: bool) -> int:
    """How many points a body of metrics has at least: it is looked at, and not kept. Raises BadOtlp."""
    return len(_dicts(_json_tree(body).get("resourceMetrics"))) if json else 0


def words_of_status(body: bytes) -> str:
    """The message of a google.rpc.Status; "" for what is none."""
    status = ExportTracePartialSuccess()  # which has the same two fields
    try:
        status.ParseFromString(body)
    except DecodeError:
        return ""
    return status.error_message


def _json_tree(body: bytes) -> dict[str, Any]:
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        tree = _lenient_json(body, error)
    if not isinstance(tree, dict):
        raise BadOtlp("a request is a JSON object")
    return tree


def _lenient_json(body: bytes, error: Exception) -> Any:
    """JSON with what is no Unicode in it, or with NaN, as JavaScript and Python may write it. Raises BadOtlp."""
    try:
        return plain(json_loads(body.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        raise BadOtlp(f"not JSON: {error}") from error


# --- protobuf, as the tree that JSON would be ----------------------------------------------------------------------


def _proto_tree(kind: str, body: bytes) -> dict[str, Any]:
    request: Any = _REQUESTS[kind]()
    try:
        request.ParseFromString(body)
    except (DecodeError, RecursionError, ValueError) as error:
        request = lenient(_REQUESTS[kind], body)
        if request is None:
            raise BadOtlp(f"not protobuf of OTLP: {error}") from error
    if kind == "traces":
        return {
            "resourceSpans": [
                {
                    "resource": {"attributes": one.resource.attributes},
                    "scopeSpans": [
                        {"scope": {"name": scoped.scope.name}, "spans": map(_proto_span, scoped.spans)}
                        for scoped in one.scope_spans
                    ],
                }
                for one in request.resource_spans
            ]
        }
    return {
        "resourceLogs": [
            {
                "resource": {"attributes": one.resource.attributes},
                "scopeLogs": [
                    {"scope": {"name": scoped.scope.name}, "logRecords": map(_proto_record, scoped.log_records)}
                    for scoped in one.scope_logs
                ],
            }
            for one in request.resource_logs
        ]
    }


def _proto_span(span: Any) -> dict[str, Any]:
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "parentSpanId": span.parent_span_id,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": span.start_time_unix_nano,
        "endTimeUnixNano": span.end_time_unix_nano,
        "attributes": span.attributes,
        "status": {"code": span.status.code, "message": span.status.message},
        "events": [
            {"name": one.name, "timeUnixNano": one.time_unix_nano, "attributes": one.attributes} for one in span.events
        ],
        "links": [{"traceId": one.trace_id, "spanId": one.span_id} for one in span.links],
    }


def _proto_record(record: Any) -> dict[str, Any]:
    return {
        "traceId": record.trace_id,
        "spanId": record.span_id,
        "eventName": record.event_name,
        "timeUnixNano": record.time_unix_nano or record.observed_time_unix_nano,
        "body": record.body,
        "attributes": record.attributes,
    }


# --- the tree as spans and records ----------------------------------------------------------------------------------


def _span(raw: dict[str, Any], resource: Attributes, scope: str) -> Span:
    status = _dict(raw.get("status"))
    return Span(
        trace_id=_id(raw.get("traceId")),
        span_id=_id(raw.get("spanId")),
        parent_id=_id(raw.get("parentSpanId")),
        name=_text(raw.get("name")),
        kind=_enum(raw.get("kind"), KINDS),
        started_at=_seconds(raw.get("startTimeUnixNano")),
        ended_at=_seconds(raw.get("endTimeUnixNano")),
        attributes=_attributes(raw.get("attributes")),
        resource=resource,
        scope=scope,
        status=_enum(status.get("code"), CODES),
        status_message=_text(status.get("message")),
        events=[
            SpanEvent(_text(one.get("name")), _seconds(one.get("timeUnixNano")), _attributes(one.get("attributes")))
            for one in _dicts(raw.get("events"))
        ],
        links=[(_id(one.get("traceId")), _id(one.get("spanId"))) for one in _dicts(raw.get("links"))],
    )


def _record(raw: dict[str, Any], resource: Attributes, scope: str) -> LogRecord:
    attributes = _attributes(raw.get("attributes"))
    name = _text(raw.get("eventName")) or attributes.get("event.name")
    return LogRecord(
        trace_id=_id(raw.get("traceId")),
        span_id=_id(raw.get("spanId")),
        name=name if isinstance(name, str) else "",
        at=_seconds(raw.get("timeUnixNano") or raw.get("observedTimeUnixNano")),
        body=_value(raw.get("body")),
        attributes=attributes,
        resource=resource,
        scope=scope,
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    if value is None or isinstance(value, str | int | float | dict):
        return []
    return [one for one in value if isinstance(one, dict)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _id(value: Any) -> str:
    """An id in hexadecimal. Some senders of JSON write it as base64, as protobuf's own JSON would be."""
    if isinstance(value, bytes):
        return value.hex() if any(value) else ""
    text = _text(value).strip()
    if not text.strip("0"):
        return ""
    if len(text) in (16, 32):
        return text.lower()
    try:
        return base64.b64decode(text, validate=True).hex()
    except (binascii.Error, ValueError):
        return text.lower()


def _enum(value: Any, names: dict[str, int]) -> int:
    if isinstance(value, str):
        return names.get(value.rpartition("_")[2], 0)
    return value if isinstance(value, int) else 0


def _seconds(nanos: Any) -> float | None:
    try:
        number = int(nanos or 0)
    except (TypeError, ValueError, OverflowError):
        return None
    return number / 1e9 if 0 < number < 2**63 else None


def _attributes(pairs: Any) -> Attributes:
    found: Attributes = {}
    if pairs is None or isinstance(pairs, str | int | float | dict):
        return found
    for pair in pairs:
        if isinstance(pair, dict):
            key, value = pair.get("key"), pair.get("value")
        elif isinstance(pair, KeyValue):
            key, value = pair.key, pair.value
        else:
            continue
        if isinstance(key, str):
            found[key] = _value(value)
    return found


def _value(value: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        return str(value)[:10_000]
    if isinstance(value, Message):
        return _proto_value(value, depth)
    if not isinstance(value, dict):
        return value if isinstance(value, str | bool) else None if value is None else str(value)
    for kind, given in value.items():
        if kind == "arrayValue":
            return [_value(one, depth + 1) for one in _dict(given).get("values") or () if isinstance(one, dict)]
        if kind == "kvlistValue":
            pairs = _dicts(_dict(given).get("values"))
            return {_text(one.get("key")): _value(one.get("value"), depth + 1) for one in pairs}
        if kind in ("intValue", "doubleValue"):
            return _number(given, whole=kind == "intValue")
        if kind in ("stringValue", "boolValue", "bytesValue"):
            return given if isinstance(given, str | bool) else _text(given)
    return None


def _proto_value(value: Any, depth: int) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    given = getattr(value, kind)
    if kind == "array_value":
        return [_value(one, depth + 1) for one in given.values]
    if kind == "kvlist_value":
        return {one.key: _value(one.value, depth + 1) for one in given.values}
    if kind == "bytes_value":
        return base64.b64encode(given).decode()
    return _number(given, whole=kind == "int_value") if kind in ("int_value", "double_value") else given


def _number(given: Any, *, whole: bool) -> Any:
    if isinstance(given, bool):
        return given
    try:
        number = int(given) if whole else float(given)
    except (TypeError, ValueError, OverflowError):
        return _text(given)
    if isinstance(number, float):
        return number if math.isfinite(number) else str(number)
    return number if -(2**53) < number < 2**53 else str(number)
