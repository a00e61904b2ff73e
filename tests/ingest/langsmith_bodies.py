"""Bodies as LangSmith's clients write them, written for tests."""

from __future__ import annotations

import uuid
from typing import Any

import orjson

BOUNDARY = "4c06a13883fa47b6bb9975701cbc5c3d"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
PARTS = ("inputs", "outputs", "events", "extra", "error", "serialized")
BEGAN = "2026-11-30T03:58:5"


def run_id(name: str) -> str:
    """The id of the run that a test calls ``name``."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def run(name: str, run_type: str = "chain", *above: str, start: int = 0, **more: Any) -> dict[str, Any]:
    """A run below the runs of these names, from the root on."""
    line = [run_id(one) for one in (*above, name)]
    found: dict[str, Any] = {
        "id": line[-1],
        "name": name,
        "run_type": run_type,
        "trace_id": line[0],
        "start_time": f"{BEGAN}{start}.100000+00:00",
        "dotted_order": ".".join(f"20261130T035859{place:06}Z{one}" for place, one in enumerate(line)),
        "session_name": "default",
        "tags": [],
    }
    if len(line) > 1:
        found["parent_run_id"] = line[-2]
    return found | more


def ended(found: dict[str, Any], *, end: int = 1, **more: Any) -> dict[str, Any]:
    """The same run at its end."""
    return {**found, "parent_run_id": found.get("parent_run_id"), "end_time": f"{BEGAN}{end}.900000+00:00", **more}


def metadata(**values: Any) -> dict[str, Any]:
    """``extra`` with this metadata."""
    return {"metadata": {"LANGSMITH_TRACING": "true", **values}, "runtime": {"sdk": "langsmith-py"}}


def part(name: str, value: Any, *, length: str = "header") -> bytes:
    """One part. ``length``: where its length stands: "header", "type" (JavaScript; Python's files) or nowhere."""
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    media_type = "image/png" if isinstance(value, bytes) else "application/json"
    more = f"; length={len(data)}" if length == "type" else ""
    lines = [f"--{BOUNDARY}", f'Content-Disposition: form-data; name="{name}"', f"Content-Type: {media_type}{more}"]
    if length == "header":
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode() + data + b"\r\n"


def multipart(*parts: bytes) -> bytes:
    """A body of these parts."""
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def parts_of(kind: str, found: dict[str, Any], **more: Any) -> bytes:
    """The parts of a run that is posted or patched."""
    alone = {key: value for key, value in found.items() if key not in PARTS}
    made = [part(f"{kind}.{found['id']}", alone, **more)]
    made += [part(f"{kind}.{found['id']}.{key}", found[key], **more) for key in PARTS if key in found]
    return b"".join(made)


def body(post: list[dict[str, Any]] = [], patch: list[dict[str, Any]] = [], **more: Any) -> bytes:  # noqa: B006
    """A body of ``/runs/multipart``."""
    whole = [parts_of("post", one, **more) for one in post] + [parts_of("patch", one, **more) for one in patch]
    return multipart(*whole)
