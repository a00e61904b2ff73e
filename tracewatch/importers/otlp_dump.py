"""Files with what OpenTelemetry SDKs sent, as OTLP/JSON: a request on each line, as the collector's file exporter and
the SDKs' own write them, or one request, or a list of them.

Rule 1: the server has the mapping (ingest/), so a request is given to it as if its SDK had sent it. What is there
        already is nothing new, and a run without its end is lost after a while.
Rule 2: a request that is large is given in parts, as the server has a limit for each.

Source of the form: https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from .reading import BadJson, entries, list_of, without
from .steps import ImportFault, Step, WireBody

_PART = 500  # spans or records of one request
_PART_BYTES = 4 * 1024 * 1024
_KINDS = {
    "resourceSpans": ("/v1/traces", "scopeSpans", "spans"),
    "resourceLogs": ("/v1/logs", "scopeLogs", "logRecords"),
    "resourceMetrics": ("/v1/metrics", "scopeMetrics", "metrics"),
}


def is_dump(value: Any) -> bool:
    """Whether a JSON value is such a request."""
    return isinstance(value, dict) and any(isinstance(value.get(name), list) for name in _KINDS)


def read(path: Path) -> Iterator[Step]:
    """The requests of a file, in its order. Metrics are passed over: nothing of them is kept."""
    for line, _, value in entries(path):
        if isinstance(value, BadJson):
            yield ImportFault(value.message, value.line)
            continue
        for place, one in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if is_dump(one):
                yield from _bodies(one, line)
            else:
                where = None if place is None else f"[{place}]"
                yield ImportFault("a request of OTLP has resourceSpans, resourceLogs or resourceMetrics", line, where)


def _bodies(request: dict[str, Any], line: int | None) -> Iterator[WireBody]:
    for name, (route, scopes, items) in _KINDS.items():
        for resource in list_of(request.get(name)) if name != "resourceMetrics" else ():
            if not isinstance(resource, dict):
                continue
            for scoped in list_of(resource.get(scopes)):
                for part in _parts(list_of(scoped.get(items)) if isinstance(scoped, dict) else []):
                    one = without(resource, scopes) | {scopes: [without(scoped, items) | {items: part}]}
                    yield WireBody(route, orjson.dumps({name: [one]}), len(part), line)


def _parts(items: list[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    size = 0
    for item in items:
        length = len(orjson.dumps(item))
        if part and (len(part) >= _PART or size + length > _PART_BYTES):
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    if part:
        yield part
