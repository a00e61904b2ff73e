"""tracewatch's own exports: bytes go through untouched, faults name the line, holes end a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tracewatch.importers import ImportFault, RestoreEvent, RestoreTrace, Step, open_import


def header(trace_id: str, **fields: Any) -> bytes:
    return orjson.dumps({"trace": {"trace_id": trace_id, "task": "x", **fields}})


def event(trace_id: str, event_id: int, **fields: Any) -> bytes:
    stored = {"event": "thought", "event_id": event_id, "trace_id": trace_id, "ts": "2026-11-20T08:00:00.123Z"}
    return orjson.dumps({**stored, **fields})


def steps(folder: Path, *lines: bytes, end: bytes = b"\n") -> list[Step]:
    path = folder / "export.ndjson"
    path.write_bytes(b"\n".join(lines) + end)
    return list(open_import(path, "tracewatch"))


def test_traces_follow_one_another_byte_for_byte(tmp_path: Path) -> None:
    odd = b'{"event":"thought","event_id":2,"trace_id":"a","ts":"2026-11-20T08:00:00.123Z","x":1.50,"y":"\\u00e9"}'
    lines = [header("a", metadata={"k": [1]}), event("a", 1), odd, header("b"), event("b", 7), event("b", 8)]
    got = steps(tmp_path, *lines, end=b"")
    assert got == [
        RestoreTrace({"trace_id": "a", "task": "x", "metadata": {"k": [1]}}),
        RestoreEvent(lines[1]),
        RestoreEvent(odd),
        RestoreTrace({"trace_id": "b", "task": "x"}),
        RestoreEvent(lines[4]),  # a trimmed log begins later
        RestoreEvent(lines[5]),
    ]


def test_a_line_that_is_no_json_ends_its_trace_and_not_the_next(tmp_path: Path) -> None:
    lines = [header("a"), event("a", 1), b'{"event": "thou', event("a", 3), header("b"), event("b", 1)]
    got = steps(tmp_path, *lines)
    fault = got[2]
    assert isinstance(fault, ImportFault)
    assert fault.line == 3
    assert "this is not JSON" in fault.message
    assert "the rest of trace a is passed over" in fault.message
    assert got[3:] == [RestoreTrace({"trace_id": "b", "task": "x"}), RestoreEvent(lines[5])]


def test_a_hole_is_named(tmp_path: Path) -> None:
    got = steps(tmp_path, header("a"), event("a", 1), event("a", 3), event("a", 4))
    fault = got[2]
    assert isinstance(fault, ImportFault)
    assert (fault.line, fault.field) == (3, "event_id")
    assert fault.message.startswith("is 3 where 2 was expected")
    assert len(got) == 3


def test_what_is_no_stored_event_is_named_by_line_and_field(tmp_path: Path) -> None:
    for number, (line, field) in enumerate(
        [
            (event("other", 1), "trace_id"),
            (event("a", 0), "event_id"),
            (event("a", 1, ts="yesterday"), "ts"),
            (event("a", 1, event="Bad Name"), "event"),
            (b"[1]", None),
            (orjson.dumps({**orjson.loads(event("a", 1)), "event": "goal_updated", "goal_id": 4}), "goal_id"),
        ]
    ):
        got = steps(tmp_path, header("a"), line)
        assert isinstance(got[1], ImportFault), number
        assert (got[1].line, got[1].field) == (2, field)


def test_headers_are_checked(tmp_path: Path) -> None:
    got = steps(tmp_path, event("a", 1), b'{"trace": 4}', b'{"trace": {"task": "x"}}', header("a"), event("a", 1))
    faults = [step for step in got if isinstance(step, ImportFault)]
    assert [(fault.line, fault.field) for fault in faults] == [(1, "event"), (2, "trace"), (3, "trace.trace_id")]
    assert got[-1] == RestoreEvent(event("a", 1))


def test_an_empty_trace_restores(tmp_path: Path) -> None:
    assert steps(tmp_path, header("a")) == [RestoreTrace({"trace_id": "a", "task": "x"})]
