"""LangSmith's bodies, multipart or JSON, as what was said of runs. Pure: bytes in, values out.

Rule 1: both forms give the same: an ``RunOperation`` for each run that is posted or patched in a body, in the order in
        which these stand there, with all of its parts.
Rule 2: a body that can't be read raises ``BadLangSmith`` and nothing else. A part that can't be read is counted, and
        costs nothing but itself.
Rule 3: a part ends where the boundary stands, whatever it says of its length. Some say it in a header of their own,
        some in their Content-Type (``application/json; length=459``), some not at all.

Source of the forms: what langsmith 0.15.1 (Python) and 0.12.0 (JavaScript) were seen to send, and
``langsmith/_internal/_operations.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

PARTS = ("inputs", "outputs", "events", "extra", "error", "serialized")  # that stand beside a run
OPERATIONS = ("post", "patch")
MOST_PARTS = 200_000  # of one body
_BOUNDARY = re.compile(r'boundary="?([^";,]{1,200})"?', re.IGNORECASE)
_NAME = re.compile(rb'content-disposition:[^\r\n]*?[;\s]name="([^"\r\n]*)"', re.IGNORECASE)
_TYPE = re.compile(rb"content-type:[ \t]*([^\r\n;]*)", re.IGNORECASE)

Run = dict[str, Any]


class BadLangSmith(Exception):
    """A body that is not LangSmith's. The text says what is wrong with it."""


@dataclass(slots=True)
class AttachedFile:
    """A file that stands beside a run."""

    name: str
    media_type: str
    data: bytes


@dataclass(slots=True)
class RunOperation:
    """What a body says of one run: the keys of LangSmith's run, of which only ``id`` is sure."""

    kind: str  # of OPERATIONS
    run: Run
    attachments: list[AttachedFile] = field(default_factory=list)


@dataclass(slots=True)
class Body:
    """All that stands in one body."""

    operations: list[RunOperation] = field(default_factory=list)
    feedback: list[dict[str, Any]] = field(default_factory=list)
    unreadable: int = 0  # parts


def read(body: bytes, content_type: str) -> Body:
    """A body of ``/runs/multipart`` or ``/runs/batch``, by its Content-Type. Raises BadLangSmith."""
    if "multipart/" in content_type.lower():
        return read_multipart(body, content_type)
    return read_batch(body)


def read_batch(body: bytes) -> Body:
    """``{"post": [run, …], "patch": [run, …]}``. Raises BadLangSmith."""
    tree = _json(body)
    if not isinstance(tree, dict) or not any(isinstance(tree.get(kind), list) for kind in OPERATIONS):
        raise BadLangSmith('a batch is {"post": [run, …], "patch": [run, …]}')
    found = Body()
    for kind in OPERATIONS:
        runs = tree.get(kind)
        for raw in runs if isinstance(runs, list) else ():
            _add_run(found, kind, raw)
    return found


def read_run(body: bytes, run_id: str | None = None) -> Body:
    """One run: of ``POST /runs``, or of ``PATCH /runs/<run_id>``. Raises BadLangSmith."""
    raw = _json(body)
    if not isinstance(raw, dict):
        raise BadLangSmith("a run is a JSON object")
    found = Body()
    _add_run(found, "post" if run_id is None else "patch", raw if run_id is None else {**raw, "id": run_id})
    if not found.operations:
        raise BadLangSmith("a run has an id")
    return found


def read_feedback(body: bytes) -> Body:
    """What is thought of a run: the body of ``POST /feedback``. Raises BadLangSmith."""
    raw = _json(body)
    if not isinstance(raw, dict) or not (isinstance(raw.get("run_id"), str) or isinstance(raw.get("trace_id"), str)):
        raise BadLangSmith("feedback is a JSON object with a run_id")
    return Body(feedback=[raw])


def _add_run(found: Body, kind: str, raw: Any) -> None:
    if not isinstance(raw, dict) or not isinstance(raw.get("id"), str) or not raw["id"]:
        found.unreadable += 1
        return
    found.operations.append(RunOperation(kind, raw))


# --- multipart -----------------------------------------------------------------------------------------------------


def read_multipart(body: bytes, content_type: str) -> Body:
    """A body whose parts are named ``post.<id>``, ``post.<id>.inputs`` … Raises BadLangSmith."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise BadLangSmith("the Content-Type names no boundary")
    found = Body()
    by_run: dict[tuple[str, str], RunOperation] = {}
    for head, data in _parts(body, b"--" + match[1].encode("utf-8", "replace")):
        name = _NAME.search(head)
        if name is None:
            found.unreadable += 1
            continue
        _take_part(found, by_run, name[1].decode("utf-8", "replace"), head, data)
    return found


def _parts(body: bytes, mark: bytes) -> list[tuple[bytes, bytes]]:
    """The parts between the boundaries, each as its headers and its content."""
    at = body.find(mark)
    if at < 0:
        raise BadLangSmith("the boundary that the Content-Type names does not stand in the body")
    delimiter = b"\r\n" + mark
    parts: list[tuple[bytes, bytes]] = []
    at += len(mark)
    while body[at : at + 2] == b"\r\n":
        end = body.find(delimiter, at)
        if end < 0:
            raise BadLangSmith("the body ends in the middle of a part")
        if len(parts) >= MOST_PARTS:
            raise BadLangSmith(f"more than {MOST_PARTS:,} parts")
        head, _, data = body[at + 2 : end].partition(b"\r\n\r\n")
        parts.append((head, data))
        at = end + len(delimiter)
    if body[at : at + 2] != b"--":
        raise BadLangSmith("the body ends in the middle of a part")
    return parts


def _take_part(found: Body, by_run: dict[tuple[str, str], RunOperation], name: str, head: bytes, data: bytes) -> None:
    kind, _, rest = name.partition(".")
    run_id, _, part = rest.partition(".")
    if not run_id or kind not in (*OPERATIONS, "attachment", "feedback"):
        found.unreadable += 1
        return
    if kind == "attachment":
        media_type = _TYPE.search(head)
        said = media_type[1].decode("latin-1").strip().lower() if media_type else ""
        run = _operation(found, by_run, _kind_of(by_run, run_id), run_id)
        run.attachments.append(AttachedFile(part, said, data))
        return
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        found.unreadable += 1
        return
    if kind == "feedback":
        if isinstance(value, dict):
            found.feedback.append({"id": run_id, **value})
        else:
            found.unreadable += 1
    elif part in PARTS:
        _operation(found, by_run, kind, run_id).run[part] = value
    elif not part and isinstance(value, dict):
        run = _operation(found, by_run, kind, run_id)
        run.run = {**value, **run.run, "id": run_id}
    else:
        found.unreadable += 1


def _kind_of(by_run: dict[tuple[str, str], RunOperation], run_id: str) -> str:
    return "post" if ("post", run_id) in by_run else "patch"


def _operation(found: Body, by_run: dict[tuple[str, str], RunOperation], kind: str, run_id: str) -> RunOperation:
    there = by_run.get((kind, run_id))
    if there is None:
        there = by_run[kind, run_id] = RunOperation(kind, {"id": run_id})
        found.operations.append(there)
    return there


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadLangSmith(f"not JSON: {error}") from error
