"""`record`: what an agent prints goes through unchanged, and into the log while it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.cli import record
from tracewatch.client.api import Api

from .conftest import Spawned, wait_until

INIT = {"type": "system", "subtype": "init", "session_id": "p1", "cwd": "/work", "model": "m"}
END = {"type": "result", "subtype": "success", "is_error": False, "result": "Hi there.", "session_id": "p1"}


def part(event: dict[str, Any]) -> bytes:
    return line({"type": "stream_event", "event": event, "session_id": "p1", "parent_tool_use_id": None})


def line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row) + b"\n"


def said(text: str) -> bytes:
    content = [{"type": "text", "text": text}]
    return line(
        {"type": "assistant", "session_id": "p1", "message": {"id": "a1", "role": "assistant", "content": content}}
    )


BEGUN = [
    part({"type": "message_start", "message": {"id": "a1", "model": "m"}}),
    part({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
    part({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi "}}),
]
ODD = b"not json \xff\n\n"


@pytest.fixture
def recorder(spawn: Callable[..., Spawned], tmp_path: Path) -> Callable[..., Spawned]:
    def begin(*args: str, **more: str) -> Spawned:
        return spawn("record", *args, TRACEWATCH_SPOOL_DIR=str(tmp_path / "spool"), HOME=str(tmp_path), **more)

    return begin


def feed(one: Spawned, data: bytes) -> None:
    assert one.process.stdin is not None
    one.process.stdin.write(data)
    one.process.stdin.flush()


def test_text_is_in_the_log_while_it_streams_and_every_byte_goes_through(
    recorder: Callable[..., Spawned], api: Api, tmp_path: Path
) -> None:
    one = recorder("--task", "Say hi")
    begun = line(INIT) + ODD + b"".join(BEGUN)
    feed(one, begun)
    wait_until(lambda: [m["content"] for m in messages(api, "cc-p1")] == ["Hi "])
    (message,) = messages(api, "cc-p1")
    assert (message["status"], api.trace("cc-p1")["trace"]["is_running"]) == ("streaming", True)
    rest = said("Hi there.") + line(END)[:-1]  # without its last line break
    done = one.end(rest)
    assert (done.code, done.out) == (0, begun + rest)
    trace = api.trace("cc-p1")["trace"]
    assert (trace["status"], trace["summary"], trace["task"]) == ("completed", "Hi there.", "Say hi")
    assert [m["content"] for m in messages(api, "cc-p1")] == ["Hi there."]
    assert list((tmp_path / "spool" / "pipes").iterdir()) == []


def messages(api: Api, trace_id: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = api.messages(trace_id)["messages"]
    except Exception:  # it is not there yet
        return []
    return found


def test_what_was_asked_is_found_in_the_session_s_own_file(
    recorder: Callable[..., Spawned], api: Api, tmp_path: Path
) -> None:
    prompt = {"type": "user", "sessionId": "p2", "uuid": "u", "message": {"role": "user", "content": "Count them"}}
    project = tmp_path / ".claude" / "projects" / "-work"
    project.mkdir(parents=True)
    (project / "p2.jsonl").write_bytes(line(prompt))
    assert recorder().end(line(INIT | {"session_id": "p2"}) + line(END | {"session_id": "p2"})).code == 0
    assert api.trace("cc-p2")["trace"]["task"] == "Count them"


def test_a_reader_that_leaves_and_a_server_that_is_away_cost_the_agent_nothing(
    recorder: Callable[..., Spawned], api: Api, tmp_path: Path
) -> None:
    one = recorder()
    feed(one, line(INIT | {"session_id": "p3"}))
    assert one.line() == line(INIT | {"session_id": "p3"})
    assert one.process.stdout is not None
    one.process.stdout.close()
    one.process.stdout = None
    done = one.end(line(END | {"session_id": "p3"}))
    assert done.code == 0
    assert api.trace("cc-p3")["trace"]["status"] == "completed"

    rows = line(INIT | {"session_id": "p4"}) + line(END | {"session_id": "p4"})
    away = recorder(url="http://127.0.0.1:1").end(rows)
    assert (away.code, away.out) == (0, rows)
    (kept,) = (tmp_path / "spool" / "pipes").iterdir()
    assert kept.read_bytes() == rows
    assert f"tracewatch import {kept}" in away.err


def test_what_is_of_no_known_form_goes_through_and_is_told(recorder: Callable[..., Spawned]) -> None:
    done = recorder().end(b"plain words\n")
    assert (done.code, done.out) == (1, b"plain words\n")
    assert "no form that is known" in done.err
    assert recorder().end(b"").code == 0


def test_after_ctrl_c_the_agent_s_last_words_are_recorded(recorder: Callable[..., Spawned], api: Api) -> None:
    one = recorder()
    feed(one, line(INIT | {"session_id": "p5"}))
    assert one.line()
    one.process.send_signal(signal.SIGINT)
    done = one.end(line(END | {"session_id": "p5", "subtype": "error_during_execution", "is_error": True}))
    assert done.code == 130
    assert api.trace("cc-p5")["trace"]["status"] == "failed"


def test_a_run_whose_recorder_was_killed_is_not_running_for_ever(recorder: Callable[..., Spawned], api: Api) -> None:
    one = recorder()
    feed(one, line(INIT | {"session_id": "p6"}))
    wait_until(lambda: events_of(api, "cc-p6") > 0)
    one.process.kill()
    assert api.trace("cc-p6")["trace"]["is_running"]  # until its lease runs out
    rows = line(INIT | {"session_id": "p6"}) + line(END | {"session_id": "p6"})
    again = subprocess.run(
        [sys.executable, "-m", "tracewatch", "record"],
        input=rows,
        env={**os.environ, "TRACEWATCH_URL": api.url},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert again.stdout == rows
    kinds = [orjson.loads(event)["event"] for event in api.events("cc-p6")]
    assert kinds == ["line.init", "line.result", "trace_completed"]


def events_of(api: Api, trace_id: str) -> int:
    try:
        return sum(1 for _ in api.events(trace_id))
    except Exception:  # it is not there yet
        return 0


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_too_much_for_the_memory_waits_in_the_file(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr(record, "_QUEUED", 100)
    monkeypatch.setattr(record, "_PIECE", 70)
    folder = tmp_path / "spool"
    if not kept:
        folder.write_text("a file, so that there is no room for anything")
    name = f"p7{kept}"
    recording = record.PipeRecording(api, "Go", folder)
    texts = [f"word {number}" for number in range(30)]
    rows = [line(INIT | {"session_id": name})]
    for number, text in enumerate(texts):
        message = {"id": f"a{number}", "role": "assistant", "content": [{"type": "text", "text": text}]}
        rows.append(line({"type": "assistant", "session_id": name, "message": message}))
    data = b"".join([*rows, line(END | {"session_id": name})])
    for place in range(0, len(data), 90):
        recording.feed(data[place : place + 90])
        if place == 1800:
            recording.start()
    assert recording.finish(30.0) == []
    assert [m["content"] for m in messages(api, f"cc-{name}")] == texts
    assert api.trace(f"cc-{name}")["trace"]["status"] == "completed"
