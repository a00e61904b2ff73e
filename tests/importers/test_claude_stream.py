"""What ``claude -p`` prints as a stream, the Agent SDK's messages and the array of the GitHub action."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.importers import detect, open_import

from .folding import Imported, fold

USAGE = {"input_tokens": 10, "cache_read_input_tokens": 1000, "output_tokens": 5}
TOOL = {"type": "tool_use", "id": "t1", "name": "Task", "input": {"prompt": "Count", "description": "Count files"}}
SUB_TOOL = {"type": "tool_use", "id": "t2", "name": "Bash", "input": {"command": "ls"}}


def row(kind: str, content: Any, answer: str = "", parent: str | None = None, **fields: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": kind, "content": content}
    if kind == "assistant":
        message |= {"id": answer, "model": "m", "usage": USAGE}
    return {"type": kind, "message": message, "parent_tool_use_id": parent, "session_id": "s1", **fields}


def result(tool: str, text: str, parent: str | None = None) -> dict[str, Any]:
    return row("user", [{"type": "tool_result", "tool_use_id": tool, "content": text}], parent=parent)


RUN = [
    {"type": "system", "subtype": "init", "session_id": "s1", "cwd": "/work", "model": "m"},
    row("assistant", [{"type": "text", "text": "I ask."}], "a1"),
    row("assistant", [TOOL], "a1"),
    row("user", [{"type": "text", "text": "Count"}], parent="t1"),
    row("assistant", [SUB_TOOL], "a2", "t1"),
    result("t2", "12", "t1"),
    result("t1", "There are 12"),
    row("assistant", [{"type": "text", "text": "12 files."}], "a3"),
]
END = {"type": "result", "subtype": "success", "is_error": False, "result": "12 files.", "session_id": "s1"}
PAID = {"total_cost_usd": 0.0421, "usage": {"output_tokens": 15}}


def imported(folder: Path, rows: list[dict[str, Any]], form: str = "lines") -> Imported:
    path = folder / "out.json"
    path.write_bytes(orjson.dumps(rows) if form == "array" else b"\n".join(map(orjson.dumps, rows)))
    assert detect(path) == "claude-stream"
    return fold(open_import(path))


@pytest.mark.parametrize("form", ["lines", "array"])
def test_a_run_with_a_sub_agent_and_its_cost(tmp_path: Path, form: str) -> None:
    done = imported(tmp_path, [*RUN, END | PAID], form)
    assert done.faults == []
    main, sub = done.traces.values()
    assert (main.trace_id, sub.trace_id) == ("cc-s1", "cc-s1-t1")
    assert (main.status, main.summary, sub.status, sub.summary) == (
        *("completed", "12 files."),
        *("completed", "There are 12"),
    )
    assert (main.total_tokens, sub.total_tokens) == (2030, 1015)
    assert [state.total_cost for state in (main, sub)] == [pytest.approx(0.0421 * 2 / 3), pytest.approx(0.0421 / 3)]
    assert sub.task == "Count"
    assert main.metadata["session"]["cwd"] == "/work"


def test_a_run_that_was_cut_off_or_failed_is_not_completed(tmp_path: Path) -> None:
    assert imported(tmp_path, RUN).root.status == "stopped"
    failed = imported(tmp_path, [*RUN, {**END, "subtype": "error_max_turns", "is_error": True, "result": None}]).root
    assert (failed.status, failed.error) == ("failed", "error_max_turns")
    again = [*RUN, END, row("assistant", [{"type": "text", "text": "More"}], "a4")]
    assert imported(tmp_path, again).root.status == "stopped"
    assert imported(tmp_path, [*again, END]).statuses == ["completed", "completed"]


def test_a_text_grows_token_by_token_and_has_its_usage_in_the_end(tmp_path: Path) -> None:
    def part(event: dict[str, Any]) -> dict[str, Any]:
        return {"type": "stream_event", "event": event, "session_id": "s1", "parent_tool_use_id": None}

    def delta(text: str) -> dict[str, Any]:
        return part({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})

    rows = [
        RUN[0],
        row("user", [{"type": "text", "text": "Say it"}]),
        part({"type": "message_start", "message": {"id": "a1", "model": "m"}}),
        part({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        delta("Two "),
        delta("words"),
        row("assistant", [{"type": "text", "text": "Two words."}], "a1"),
        part({"type": "content_block_stop", "index": 0}),
        part({"type": "message_delta", "usage": {"output_tokens": 40}}),
        END,
    ]
    done = imported(tmp_path, rows)
    assert done.root.task == "Say it"
    (text,) = [m for m in done.messages() if m["role"] == "assistant"]
    assert (text["message_id"], text["content"], text["tokens"]) == ("a1.0", "Two words.", 1050)
    events = done.events["cc-s1"]
    assert [e.get("append") for e in events if e["event"] == "message_updated"][:3] == ["Two ", "words", "."]


def test_the_end_of_an_agent_in_the_background_is_a_line_of_the_system(tmp_path: Path) -> None:
    started = {"type": "system", "subtype": "task_started", "task_id": "bg1", "tool_use_id": "t1", "session_id": "s1"}
    ended = {**started, "subtype": "task_notification", "status": "failed", "summary": "Agent failed"}
    rows = [RUN[0], *RUN[1:3], started | {"task_type": "local_agent"}, result("t1", "Async agent launched …")]
    done = imported(tmp_path, [*rows, RUN[7], ended, END])
    assert list(done.traces) == ["cc-s1", "cc-s1-bg1"]
    assert (done.statuses, done.traces["cc-s1-bg1"].error) == (["completed", "failed"], "Agent failed")
