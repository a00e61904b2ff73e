"""Kinds of Claude Code's files that people have: agents in the background, tasks, workflows, titles, other branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.importers import open_import

from .folding import Imported, Log, fold, import_text
from .test_claude_code import SESSION, Lines, agent_lines, imported

USAGE = {"usage": {"input_tokens": 10, "cache_read_input_tokens": 1000, "output_tokens": 5}}


def goals(done: Imported) -> list[tuple[str, str, str | None]]:
    return [(g["description"], g["status"], (g["ended_at"] or "")[17:19] or None) for g in done.root.goals.values()]


def launched(agent: str = "bg") -> Lines:
    lines = (
        Lines()
        .user("Look at it")
        .call("c1", "Agent", description="Review", prompt="Look at it.", run_in_background=True)
    )
    return lines.result(
        "c1", f"Async agent launched successfully.\nagentId: {agent}", toolUseResult={"isAsync": True, "agentId": agent}
    ).said("Started.")


def notification(status: str, result: str = "It has 3 bugs.") -> str:
    told = f"<task-id>bg</task-id>\n<tool-use-id>c1</tool-use-id>\n<status>{status}</status>\n<result>{result}</result>"
    return f"<task-notification>\n{told}\n</task-notification>"


@pytest.mark.parametrize(
    ("status", "ours", "goal"),
    [("completed", "completed", "completed"), ("failed", "failed", "abandoned"), ("killed", "stopped", "abandoned")],
)
def test_an_agent_in_the_background_ends_with_its_notification(
    tmp_path: Path, status: str, ours: str, goal: str
) -> None:
    lines = launched()
    lines.rows += Lines(start=40).user(notification(status), origin={"kind": "task-notification"}).said("So.").rows
    path = lines.write(tmp_path / f"{SESSION}.jsonl")
    agent_lines("bg").write(tmp_path / SESSION / "subagents" / "agent-bg.jsonl")
    done = fold(open_import(path))
    main, sub = done.traces.values()
    assert (sub.trace_id, sub.status, sub.summary) == (f"cc-{SESSION}-bg", ours, "It has 3 bugs.")
    assert str(sub.ended_at)[17:19] == "41"
    assert goals(done) == [("Review", goal, "41")]
    assert [m["role"] for m in main.messages.values()] == ["user", "tool", "assistant", "assistant"]
    assert (main.status, main.summary) == ("completed", "So.")
    assert "task.notification" in done.names()


def test_an_agent_in_the_background_that_nobody_heard_of_again_was_stopped(tmp_path: Path) -> None:
    path = launched().write(tmp_path / f"{SESSION}.jsonl")
    agent = agent_lines("bg")
    del agent.rows[-1]
    agent.write(tmp_path / SESSION / "subagents" / "agent-bg.jsonl")
    assert fold(open_import(path)).statuses == ["completed", "stopped"]


def test_tasks_are_goals_and_what_is_done_meanwhile_stands_below_them(tmp_path: Path) -> None:
    lines = Lines().user("Add a field")
    for number, subject in enumerate(("Model", "Form", "Docs"), 1):
        lines.call(f"t{number}", "TaskCreate", subject=subject, description="…")
        lines.result(
            f"t{number}", f"Task #{number} created successfully: {subject}", toolUseResult={"task": {"id": number}}
        )
    lines.call("u1", "TaskUpdate", taskId="1", status="in_progress").result("u1", "ok")
    lines.call("e1", "Edit", file="m.py").result("e1", "done")
    lines.call("u2", "TaskUpdate", taskId="1", status="completed").result("u2", "ok")
    lines.call("u3", "TaskUpdate", taskId="2", status="completed", subject="The form").result("u3", "ok")
    lines.call("u4", "TaskUpdate", taskId="3", status="deleted").result("u4", "ok")
    lines.call("u5", "TaskUpdate", taskId="1", status="in_progress").result("u5", "ok")
    lines.call("u6", "TaskUpdate", taskId="9", status="completed").result("u6", "no such task", failed=True)
    log = Log()
    path = lines.said("Done.").write(tmp_path / "s.jsonl")
    log.take(open_import(path))
    assert [(g["description"], g["status"]) for g in log.done.root.goals.values()] == [
        ("Model", "completed"),
        ("The form", "completed"),
        ("Docs", "abandoned"),
    ]
    assert log.done.root.messages["e1"]["goal_id"] == "task-1"
    assert [e["status"] for e in log.done.events[log.done.root.trace_id] if e["event"] == "plan.status"] == [
        "in_progress"
    ]
    assert log.take(open_import(path)) == 0


@pytest.mark.parametrize("told_by", ["folder", "meta"])
def test_agents_of_workflows_and_those_that_only_their_meta_file_links(tmp_path: Path, told_by: str) -> None:
    tool = (
        ("Workflow", {"script": "review"})
        if told_by == "folder"
        else ("Task", {"prompt": "Look", "description": "Look"})
    )
    path = Lines().user("Go").call("c1", tool[0], **tool[1]).write(tmp_path / f"{SESSION}.jsonl")
    below = "workflows/wf_1/" if told_by == "folder" else ""
    file = agent_lines("w1", "Look\n\n(and more)").write(tmp_path / SESSION / f"subagents/{below}agent-w1.jsonl")
    if told_by == "meta":
        file.with_suffix(".meta.json").write_text('{"agentType": "Explore", "toolUseId": "c1"}')
    done = fold(open_import(path))
    assert list(done.traces) == [f"cc-{SESSION}", f"cc-{SESSION}-w1"]
    began = done.traces[f"cc-{SESSION}-w1"].started_at
    assert done.specs[f"cc-{SESSION}-w1"]["started_at"] == began, "its caller's log tells of it before its first event"
    assert done.specs[f"cc-{SESSION}-w1"]["agent_type"] == ("workflow" if told_by == "folder" else "Explore")
    if told_by == "meta":
        assert done.root.goals["agent-c1"]["sub_trace_ids"] == [f"cc-{SESSION}-w1"]
        assert done.statuses == ["stopped", "stopped"]


def test_a_branch_that_was_left_is_marked_and_counts(tmp_path: Path) -> None:
    lines = Lines().user("Pick one").said("Red.", message={"id": "a1", **USAGE})
    lines.user("Delete it").said("Deleted.", message={"id": "a2", **USAGE})
    lines.user("Blue", parentUuid="main-1").said("Blue.", message={"id": "a3", **USAGE})
    done = imported(tmp_path, lines)
    assert [m.get("left") for m in done.messages()] == [None, None, True, True, None, None]
    assert (done.root.total_tokens, done.root.summary) == (3045, "Blue.")
    rewinds = [e for e in done.events[done.root.trace_id] if e["event"] == "session.rewind"]
    assert [(e["after"], e["left"]) for e in rewinds] == [("main-1", 2)]


def test_results_of_calls_side_by_side_are_no_other_branch(tmp_path: Path) -> None:
    lines = Lines().user("q").call("c1", "Bash").call("c2", "Bash")
    lines.result("c1", "1", parentUuid="main-1").result("c2", "2").user("and?", parentUuid="main-3").said("So.")
    assert not any(m.get("left") for m in imported(tmp_path, lines).messages())


@pytest.mark.parametrize(
    ("rows", "task"),
    [
        (
            ["<bash-input>ls</bash-input>", "<bash-stdout>a</bash-stdout><bash-stderr></bash-stderr>", "What is a?"],
            "What is a?",
        ),
        ([[("ide_selection", "lines 1 to 3"), "Rename x"]], "Rename x"),
        ([[("system-reminder", "Today"), "Fix it"]], "Fix it"),
        (
            [
                "<command-message>r</command-message>\n<command-name>/r</command-name>\n"
                "<command-args>2.1 now</command-args>"
            ],
            "/r 2.1 now",
        ),
        (["<command-name>/init</command-name>\n<command-args></command-args>"], "/init"),
        (["<command-name>/clear</command-name>", "Caveat: generated", "Go"], "Go"),
    ],
)
def test_the_task_is_what_the_user_said(tmp_path: Path, rows: list[Any], task: str) -> None:
    lines = Lines()
    for row in rows:
        parts = row if isinstance(row, list) else [row]
        texts = [p if isinstance(p, str) else f"<{p[0]}>\n{p[1]}\n</{p[0]}>" for p in parts]
        lines.row("user", [{"type": "text", "text": text} for text in texts])
    assert imported(tmp_path, lines.said("Done.")).root.task == task


def test_a_title_that_the_user_gave_is_the_task_whenever_it_comes(tmp_path: Path) -> None:
    lines = Lines().user("hello").said("Hi.")
    path, log = lines.write(tmp_path / "s.jsonl"), Log()
    log.take(open_import(path))
    titles = [("custom-title", "customTitle", "Coupons"), ("ai-title", "aiTitle", "Greeting")]
    lines.rows += [{"type": kind, key: title, "sessionId": SESSION} for kind, key, title in titles]
    log.take(open_import(lines.write(path)))
    assert [e["task"] for e in log.done.events[f"cc-{SESSION}"] if e["event"] == "trace_updated"] == ["Coupons"]
    assert log.take(open_import(path)) == 0
    assert imported(tmp_path, lines).root.task == "Coupons"


BAD = {
    "zeros": (b"\0" * 50 + b"\n", b"", "50 bytes of 0"),
    "glued": (b"", b"}{", "2 records on one line"),
    "latin1": (b"", "caf\u00e9".encode("latin-1"), "no UTF-8"),
    "tab": (b"", b"a\tb", "a control character"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_few_bad_bytes_are_named_and_lose_nothing_else(tmp_path: Path, kind: str) -> None:
    tail, inside, words = BAD[kind]
    rows = Lines().user("Fix it").call("c1", "Bash").result("c1", "X").said("Done.", message={"id": "a", **USAGE}).rows
    lines = [orjson.dumps(row) for row in rows]
    if kind == "glued":
        lines[1:3] = [lines[1] + lines[2]]
    else:
        lines[2] = lines[2].replace(b'"X"', b'"' + (inside or b"X") + b'"')
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" + tail)
    done = fold(open_import(path))
    assert len(done.faults) == 1
    assert words in done.said[0]
    assert len(done.messages()) == 3
    assert done.root.total_tokens == 1015


def test_a_home_and_its_projects_are_all_sessions(tmp_path: Path) -> None:
    home = tmp_path / ".claude"
    for number in (1, 2):
        lines = Lines().user(f"Task {number}").said("ok")
        lines.rows = [row | {"sessionId": f"s{number}"} for row in lines.rows]
        lines.write(home / "projects" / f"-home-p{number}" / f"s{number}.jsonl")
    (home / "history.jsonl").write_text('{"display": "Task 1", "timestamp": 1772355600000, "sessionId": "s1"}\n')
    for folder in (home, home / "projects"):
        assert [spec["task"] for spec in fold(open_import(folder)).specs.values()] == ["Task 1", "Task 2"]
    assert list(fold(open_import(home / "projects" / "-home-p1")).traces) == ["cc-s1"]


def test_what_the_api_refused_stands_at_its_time(tmp_path: Path) -> None:
    lines = Lines().user("q").said("a")
    refused = {"type": "system", "subtype": "api_error", "uuid": "e", "timestamp": "2026-06-15T10:00:01.500Z"}
    text = "\n".join(orjson.dumps(row).decode() for row in [*lines.rows, refused])
    assert import_text(tmp_path, text, name="s.jsonl").names() == [
        *["message_added", "line.api_error", "message_added", "trace_completed"]
    ]
