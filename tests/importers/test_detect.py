"""The detection of a file's format, and the error for a file of no known format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.errors import BadRequest
from tracewatch.importers import FORMATS, ImportFault, detect, open_import

CHAT = [{"role": "user", "content": "hi"}]
CLAUDE = {"type": "user", "uuid": "u1", "sessionId": "s", "message": {"role": "user", "content": "hi"}}
TAPE: dict[str, Any] = {"metadata": {}, "context": None, "steps": []}
EVENT = {"event": "thought", "event_id": 1, "trace_id": "t", "ts": "2026-11-20T08:00:00.123Z"}


def lines(*rows: Any) -> bytes:
    return b"\n".join(row if isinstance(row, bytes) else orjson.dumps(row) for row in rows) + b"\n"


def pretty(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


@pytest.mark.parametrize(
    ("contents", "format"),
    [
        (lines({"trace": {"trace_id": "t"}}, EVENT), "tracewatch"),
        (pretty(CHAT), "openai"),
        (lines(CHAT), "openai"),
        (lines({"messages": CHAT}, {"messages": CHAT}), "openai"),
        (pretty({"messages": CHAT, "model": "m"}), "openai"),
        (pretty([{"messages": CHAT}]), "openai"),
        (lines(*CHAT, *CHAT), "openai"),
        (pretty([{"task_id": 0, "reward": 1.0, "traj": CHAT}]), "tau-bench"),
        (orjson.dumps([{"task_id": 0, "reward": 1.0, "traj": CHAT}]), "tau-bench"),
        (pretty(TAPE), "tapeagents"),
        (orjson.dumps([TAPE]), "tapeagents"),
        (lines(CLAUDE), "claude-code"),
        (lines({"type": "summary", "summary": "x", "leafUuid": "u"}, CLAUDE), "claude-code"),
        (lines(b"{broken", CLAUDE), "claude-code"),
        (b"\xef\xbb\xbf\n\n" + lines(CLAUDE), "claude-code"),
    ],
)
def test_each_format_is_known_by_its_contents(tmp_path: Path, contents: bytes, format: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(contents)
    assert detect(path) == format
    assert format in FORMATS


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b" \n\n\t", "is empty"),
        (b"\x89PNG\r\n\0\0", "is a binary file"),
        (b'{"resourceX": []}', "is JSON of a format that is not known here; the formats are tracewatch, openai"),
        (b"[]", "is JSON of a format that is not known here"),
        (b"42", "is JSON of a format that is not known here"),
        (b'{"model_name": "m",\n "parameters": {}}', "not known here"),
        (b'[\n {"role": "user",\n', "line 3: this is not JSON"),
        (b"hello\nworld\n", "line 1: this is not JSON"),
    ],
)
def test_what_is_no_format_is_refused_with_the_reason(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(contents)
    with pytest.raises(BadRequest, match=r"file\.json") as refused:
        detect(path)
    assert message in refused.value.message
    with pytest.raises(BadRequest):
        open_import(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="there is no such file"):
        open_import(tmp_path / "none.json")
    with pytest.raises(BadRequest, match="there is no such file"):
        open_import(tmp_path / "none.json", "openai")
    with pytest.raises(BadRequest, match="directory without Claude Code sessions"):
        open_import(tmp_path)
    with pytest.raises(BadRequest, match="is a directory"):
        open_import(tmp_path, "openai")
    with pytest.raises(BadRequest, match="is a directory"):
        open_import(tmp_path, "claude-code")


def test_an_unknown_format_is_refused_with_the_names_of_all(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="'xml' is not a format; the formats are tracewatch, openai, tau-bench"):
        open_import(tmp_path / "file", "xml")


@pytest.mark.parametrize("format", FORMATS)
def test_a_named_format_that_does_not_fit_gives_faults_and_no_trace_of_garbage(tmp_path: Path, format: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"[\n  1,\n  2\n")
    steps = list(open_import(path, format))
    faults = [step for step in steps if isinstance(step, ImportFault)]
    assert faults
    assert all("JSON" in fault.message for fault in faults)
    assert faults[0].line is not None


def test_a_fault_reads_as_one_line() -> None:
    assert str(ImportFault("must be text", 3, "message.content", "agent-1.jsonl")) == (
        "agent-1.jsonl: line 3: message.content: must be text"
    )
    assert str(ImportFault("odd")) == "odd"
