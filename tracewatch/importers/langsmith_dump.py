"""Files with LangSmith's runs: those of a list or of lines, as its client and its exports write them, and the requests
that its client could not send (``LANGSMITH_FAILED_TRACES_DIR``), each in a file.

Rule: the server has the mapping (ingest/), so runs are given to it as if their client had sent them. What is there
      already is nothing new.

Source of the forms: langsmith 0.15.1, ``Client._write_trace_to_fallback_dir`` and ``Run.model_dump``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from .reading import BadJson, entries, without
from .steps import ImportFault, Step, WireBody

BATCH = "/runs/batch"
ROUTES = ("/runs/multipart", BATCH)
_PART = 200  # runs of one request
_PART_BYTES = 4 * 1024 * 1024
_DEEPEST = 100  # runs below each other in ``child_runs``


def is_dump(value: Any) -> bool:
    """Whether a JSON value is a run, a list of them under ``runs``, or a request that was not sent."""
    return _is_run(value) or _is_failed(value) or (isinstance(value, dict) and _are_runs(value.get("runs")))


def _is_run(value: Any) -> bool:
    return isinstance(value, dict) and {"id", "run_type", "start_time"} <= value.keys()


def _are_runs(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and _is_run(value[0])


def _is_failed(value: Any) -> bool:
    return isinstance(value, dict) and {"endpoint", "headers", "body_base64"} <= value.keys()


def read(path: Path) -> Iterator[Step]:
    """The runs of a file as requests, in its order."""
    part: list[dict[str, Any]] = []
    size = 0
    for line, _, value in entries(path):
        if isinstance(value, BadJson):
            yield ImportFault(value.message, value.line)
            continue
        for one in _each(value):
            if _is_failed(one):
                yield _failed(one, line)
            elif not _is_run(one):
                yield ImportFault("a run has an id, a run_type and a start_time", line)
            else:
                for run in _with_children(one):
                    part.append(run)
                    size += len(orjson.dumps(run))
                    if len(part) >= _PART or size > _PART_BYTES:
                        yield _batch(part)
                        part, size = [], 0
    if part:
        yield _batch(part)


def _each(value: Any) -> list[Any]:
    if isinstance(value, dict) and isinstance(value.get("runs"), list):
        value = value["runs"]
    return value if isinstance(value, list) else [value]


def _batch(runs: list[dict[str, Any]]) -> WireBody:
    return WireBody(BATCH, orjson.dumps({"post": runs}), len(runs))


def _with_children(run: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """A run, and those that stand in it, each by itself."""
    children = run.get("child_runs")
    yield without(run, "child_runs")
    for child in children if isinstance(children, list) and depth < _DEEPEST else ():
        if _is_run(child):
            above = {"parent_run_id": run["id"], "trace_id": run.get("trace_id") or run["id"]}
            yield from _with_children({**above, **child}, depth + 1)


def _failed(value: dict[str, Any], line: int | None) -> Step:
    route = f"/{str(value['endpoint']).strip('/')}"
    headers = value["headers"] if isinstance(value["headers"], dict) else {}
    if route not in ROUTES:
        return ImportFault(f"requests to {', '.join(ROUTES)} can be imported", line, "endpoint")
    try:
        body = base64.b64decode(value["body_base64"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        return ImportFault("is not base64", line, "body_base64")
    given = {name: str(one) for name, one in headers.items() if name.lower() in ("content-type", "content-encoding")}
    return WireBody(route, body, 1, line, given)
