"""Claude Code sessions: blocks, tools, plans and sub-agents, wherever their lines are, and lines that are broken."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.importers import NextFile, claude_code, open_import

from .folding import Imported, Log, fold, import_lines

SESSION = "5555"


class Lines:
    """Writes transcript lines, each a second after the one before."""

    def __init__(self, *, agent: str | None = None, start: int = 0) -> None:
        self.rows: list[dict[str, Any]] = []
        self._agent = agent
        self._second = start
        self._name = f"{agent or 'main'}-{start}" if start else agent or "main"

    def row(self, kind: str, content: Any, **fields: Any) -> Lines:
        self._second += 1
        message = {"role": kind, "content": content, **fields.pop("message", {})}
        if kind == "assistant":
            message.setdefault("model", "claude")
        extra = {"agentId": self._agent} if self._agent else {}
        self.rows.append(
            {
                "type": kind,
                "uuid": f"{self._name}-{len(self.rows)}",
                "parentUuid": self.rows[-1]["uuid"] if self.rows else None,
                "isSidechain": self._agent is not None,
                "sessionId": SESSION,
                "cwd": "/work",
                "timestamp": f"2026-06-15T10:00:{self._second:02d}.000Z",
                "message": message,
                **extra,
                **fields,
            }
        )
        return self

    def user(self, text: str, **fields: Any) -> Lines:
        return self.row("user", text, **fields)

    def said(self, text: str, **fields: Any) -> Lines:
        return self.row("assistant", [{"type": "text", "text": text}], **fields)

    def call(self, call_id: str, name: str, **arguments: Any) -> Lines:
        return self.row("assistant", [{"type": "tool_use", "id": call_id, "name": name, "input": arguments}])

    def result(self, call_id: str, content: Any, *, failed: bool = False, **fields: Any) -> Lines:
        block = {"type": "tool_result", "tool_use_id": call_id, "content": content}
        return self.row("user", [block | ({"is_error": True} if failed else {})], **fields)

    def todos(self, call_id: str, *todos: Any) -> Lines:
        listed = [{"content": t[0], "status": t[1]} if isinstance(t, tuple) else t for t in todos]
        return self.call(call_id, "TodoWrite", todos=listed).result(call_id, "ok")

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in self.rows))
        return path


def imported(folder: Path, lines: Lines) -> Imported:
    return import_lines(folder, *lines.rows)


# --- messages ----------------------------------------------------------------------------------------------------


def test_text_thinking_and_tools_are_messages(tmp_path: Path) -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "c1", "name": "Bash", "input": {"command": "ls"}},
    ]
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 4}
    lines = Lines().user("List the files.").row("assistant", blocks, message={"id": "a1", "usage": usage})
    done = imported(
        tmp_path, lines.result("c1", [{"type": "text", "text": "a.py"}], toolUseResult={"stdout": "a.py"}).said("One.")
    )
    assert done.faults == []
    user, thought, text, tool, answer = done.messages()
    assert (user["role"], user["content"]) == ("user", "List the files.")
    assert (thought["content"], thought["kind"], thought["block"]) == ("Hm.", "thought", {"signature": "sig"})
    assert (thought["tokens"], thought["model"]) == (10, "claude")
    assert thought["source"]["message"] == {"id": "a1", "usage": usage}
    assert text["content"] == "Let me look."
    assert tool["content"] == {"tool_name": "Bash", "arguments": {"command": "ls"}, "result": "a.py"}
    assert (tool["tool_call_id"], tool["duration_ms"]) == ("c1", 1000)
    assert tool["result_source"]["toolUseResult"] == {"stdout": "a.py"}
    assert answer["content"] == "One."
    root = done.root
    assert (root.task, root.agent_type, root.status, root.summary) == (
        "List the files.",
        "claude-code",
        "completed",
        "One.",
    )
    assert root.total_tokens == 10
    assert root.metadata["session"] == {"sessionId": SESSION, "cwd": "/work"}
    assert all("occurred_at" in event for event in done.events[root.trace_id])


def test_one_answer_over_several_lines_counts_its_tokens_once(tmp_path: Path) -> None:
    lines = Lines().user("q")
    for text, tokens in (("a", 5), ("b", 5), ("c", 9)):
        lines.said(text, message={"id": "a1", "usage": {"input_tokens": 100, "output_tokens": tokens}})
    lines.said("d", message={"id": "a2", "usage": {"input_tokens": 1, "output_tokens": 1}})
    done = imported(tmp_path, lines)
    assert [m.get("tokens") for m in done.messages()] == [None, 109, None, None, 2]
    assert done.root.total_tokens == 111


def test_usage_has_its_parts_and_a_cost_that_the_line_says(tmp_path: Path) -> None:
    """Claude counts what went through the cache beside its input_tokens; here it is a part of them."""
    lines = Lines()
    lines.user("Go")
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 300, "output_tokens": 4}
    for text, cost in (("a", 0.0123), ("b", 0.0123)):  # two lines of one answer
        lines.said(text, message={"id": "a1", "usage": usage}, costUSD=cost)
    lines.said("c", message={"id": "a1", "usage": usage | {"output_tokens": 9}})
    lines.said("d", message={"id": "a2", "usage": {"input_tokens": 5, "output_tokens": 6}})
    done = imported(tmp_path, lines)
    used = {"input_tokens": 321, "output_tokens": 9, "cache_read_tokens": 300, "cache_write_tokens": 20}
    assert [m.get("usage") for m in done.messages()] == [
        *(None, used, None, None),
        {"input_tokens": 5, "output_tokens": 6},
    ]
    assert [m.get("cost") for m in done.messages()] == [None, 0.0123, None, None, None]
    assert done.root.total_cost == 0.0123
    assert done.root.total_tokens == 341


@pytest.mark.parametrize("usage", [None, 4, {"input_tokens": -1}, {"input_tokens": "9"}, {"output_tokens": 10**15}])
def test_usage_that_can_not_be_is_kept_and_not_counted(tmp_path: Path, usage: Any) -> None:
    done = imported(tmp_path, Lines().user("q").said("a", message={"id": "a1", "usage": usage}))
    assert done.root.total_tokens == 0
    assert done.messages()[1]["source"]["message"]["usage"] == usage


def test_a_failed_tool_has_an_error(tmp_path: Path) -> None:
    lines = Lines().user("q").call("c1", "Run").result("c1", "not found", failed=True, toolUseResult="Error: not found")
    done = imported(tmp_path, lines.result("c9", "who asked?"))
    _, tool, orphan = done.messages()
    assert tool["content"]["error"] == "not found"
    assert "result" not in tool["content"]
    assert "toolUseResult" not in tool["result_source"]
    assert orphan["no_call"] is True


def test_blocks_of_other_types_are_kept_as_they_are(tmp_path: Path) -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}
    done = imported(tmp_path, Lines().row("user", [image, {"type": "text", "text": "What is it?"}]).said("A cat."))
    assert done.messages()[0]["content"] == image
    assert done.messages()[0]["kind"] == "image"
    assert done.root.task == "What is it?"


def test_a_picture_that_a_tool_gives_is_stored_once(tmp_path: Path) -> None:
    """It stands in the result, and once more beside it."""
    picture = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
    text = base64.b64encode(picture).decode()
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": text}}
    beside = {"type": "image", "file": {"base64": text, "type": "image/png", "originalSize": len(picture)}}
    lines = Lines().user("Look.").call("c1", "Read", file_path="a.png").result("c1", [block], toolUseResult=beside)
    done = imported(tmp_path, lines.said("A picture."))
    tool = done.messages()[1]
    assert tool["content"]["result"] == [block] and tool["result_source"]["toolUseResult"] == beside
    assert list(done.contents.values()) == [picture]
    assert all(text not in orjson.dumps(event).decode() for event in done.events[done.root.trace_id])


def test_the_task_is_what_the_user_said_and_not_a_program(tmp_path: Path) -> None:
    lines = Lines().user("Caveat: generated").user("<command-name>/clear</command-name>").user("meta", isMeta=True)
    assert imported(tmp_path, lines.user("Fix it").said("ok")).root.task == "Fix it"


# --- plans -------------------------------------------------------------------------------------------------------


def goals(done: Imported) -> list[tuple[str, str]]:
    return [(g["description"], g["status"]) for g in done.root.goal_tree()["goals"]]


def test_todos_become_goals_that_only_move_forward(tmp_path: Path) -> None:
    lines = Lines().user("q").todos("c1", ("a", "pending"), ("b", "in_progress"), ("c", "pending"))
    lines.todos("c2", ("a", "completed"), ("b", "pending"), ("new", "pending"), ("c", "in_progress"))
    done = imported(tmp_path, lines.said("working"))
    assert done.faults == []
    assert goals(done) == [("a", "completed"), ("b", "in_progress"), ("new", "pending"), ("c", "in_progress")]
    A, B, C = (next(g["id"] for g in done.root.goals.values() if g["description"] == text) for text in "abc")
    updates = [e for e in done.events[done.root.trace_id] if e["event"] == "goal_updated"]
    assert [(e["goal_id"], e["patch"]["status"]) for e in updates] == [
        (A, "in_progress"),
        (A, "completed"),
        (C, "in_progress"),
    ]
    back = [e for e in done.events[done.root.trace_id] if e["event"] == "plan.status"]
    assert [(e["goal_id"], e["status"]) for e in back] == [(B, "pending")]
    assert done.messages()[-1]["goal_id"] == C  # begun last, so current


def test_todos_that_vanish_come_back_or_change_their_text(tmp_path: Path) -> None:
    def todo(number: int, text: str, status: str) -> dict[str, Any]:
        return {"id": str(number), "content": text, "status": status, "priority": "high"}

    lines = Lines().user("q").todos("c1", todo(1, "a", "completed"), todo(2, "b", "pending"), todo(3, "c", "pending"))
    lines.todos("c2", todo(1, "a", "in_progress"), todo(2, "b, better", "pending"))
    lines.todos("c3", todo(1, "a", "completed"), todo(2, "b, better", "cancelled"))
    done = imported(tmp_path, lines.said("ok"))
    assert done.faults == []
    assert goals(done) == [("a", "completed"), ("a", "completed"), ("b, better", "abandoned"), ("c", "abandoned")]
    first, again = next(iter(done.root.goals)), list(done.root.goals.values())[-1]
    assert again["reason"] == f"{first} again"
    assert again["todo"] == {"id": "1", "priority": "high"}


def test_broken_todos_are_named_and_remove_nothing(tmp_path: Path) -> None:
    lines = Lines().user("q").todos("c1", ("a", "pending"), ("b", "pending"))
    lines.todos(
        "c2",
        "broken",
        ("b", "in_progress"),
        {"content": "c", "status": "later"},
        {"status": "pending"},
        {"content": "d", "status": {}},
    )
    done = imported(tmp_path, lines.said("ok"))
    assert done.said == [
        "line 4: message.content[0].input.todos[0]: a to-do is a JSON object",
        "line 4: message.content[0].input.todos[2].status: must be pending, in_progress or completed",
        "line 4: message.content[0].input.todos[3].content: must be text",
        "line 4: message.content[0].input.todos[4].status: must be pending, in_progress or completed",
    ]
    assert goals(done) == [("a", "pending"), ("b", "in_progress")]


# --- sub-agents --------------------------------------------------------------------------------------------------

TOLD = [{"type": "text", "text": "It is fine."}, {"type": "text", "text": "agentId: x1 (use SendMessage …)"}]


def main_lines(*, linked: bool = True) -> Lines:
    lines = (
        Lines().user("Check it.").call("c1", "Agent", description="Look", subagent_type="scout", prompt="Look at it.")
    )
    extra: dict[str, Any] = {"toolUseResult": {"agentId": "x1"}} if linked else {}
    return lines.result("c1", TOLD, **extra).said("Fine.")


def agent_lines(agent: str = "x1", prompt: str = "Look at it.") -> Lines:
    return (
        Lines(agent=agent, start=20).user(prompt).call("s1", "Read", path="x").result("s1", "text").said("It is fine.")
    )


def check_sub_agent(done: Imported, agent: str = "x1") -> None:
    assert done.faults == []
    assert len(done.traces) == 2
    main, sub = done.traces.values()
    assert (main.trace_id, sub.trace_id) == (f"cc-{SESSION}", f"cc-{SESSION}-{agent}")
    assert (sub.task, sub.status, sub.summary) == ("Look at it.", "completed", "It is fine.")
    assert [m["role"] for m in sub.messages.values()] == ["user", "tool", "assistant"]
    (goal,) = main.goals.values()
    assert (goal["description"], goal["type"], goal["status"]) == ("Look", "agent_call", "completed")
    assert goal["sub_trace_ids"] == [sub.trace_id]
    call = main.messages["c1"]
    assert (call["sub_trace_id"], call["goal_id"]) == (sub.trace_id, goal["id"])
    assert done.specs[sub.trace_id]["agent_type"] == "scout"


@pytest.mark.parametrize("place", ["subagents", "session/subagents", "."])
@pytest.mark.parametrize("linked", [True, False])
def test_a_sub_agent_has_its_own_file(tmp_path: Path, place: str, linked: bool) -> None:
    path = main_lines(linked=linked).write(tmp_path / "session.jsonl")
    agent_lines().write(tmp_path / place / "agent-x1.jsonl")
    check_sub_agent(fold(open_import(path)))
    check_sub_agent(fold(open_import(tmp_path)))


def test_a_sub_agent_has_its_lines_in_the_session(tmp_path: Path) -> None:
    lines = main_lines(linked=False)
    rows = [{k: v for k, v in row.items() if k != "agentId"} for row in agent_lines().rows]
    lines.rows[2:2] = rows
    check_sub_agent(imported(tmp_path, lines), "c1")
    lines.rows = [*main_lines(linked=False).rows, *rows]  # late: its caller has its answer already
    check_sub_agent(imported(tmp_path, lines), "c1")


def test_a_sub_agent_without_a_transcript_has_what_its_caller_knows(tmp_path: Path) -> None:
    done = imported(tmp_path, main_lines())
    sub = list(done.traces)[1]
    assert [(m["role"], m["no_transcript"]) for m in done.messages(sub)] == [("user", True), ("assistant", True)]
    assert (done.traces[sub].status, done.traces[sub].summary) == ("completed", "It is fine.")


def test_sub_agents_nest_and_stand_below_the_todo_in_progress(tmp_path: Path) -> None:
    lines = Lines().user("Go.").todos("t1", ("think", "in_progress")).call("c1", "Task", prompt="Outer")
    lines.result("c1", "done", toolUseResult={"agentId": "o"}).said("Gone.")
    outer = Lines(agent="o").user("Outer").call("c2", "Task", prompt="Inner")
    outer.result("c2", "bad", failed=True, toolUseResult={"agentId": "i"}).said("done")
    path = lines.write(tmp_path / "session.jsonl")
    outer.write(tmp_path / "subagents" / "agent-o.jsonl")
    agent_lines("i", "Inner").write(tmp_path / "subagents" / "agent-i.jsonl")
    done = fold(open_import(path))
    main, outer_id, inner_id = done.traces
    assert done.specs[inner_id]["parent_trace_id"] == outer_id
    assert done.specs[outer_id]["parent_trace_id"] == main
    (todo,) = (goal["id"] for goal in done.traces[main].goals.values())
    assert done.specs[outer_id]["parent_goal_id"] == todo  # no goal of its own: there is one in progress
    assert done.statuses == ["completed", "completed", "failed"]
    assert done.traces[inner_id].error == "bad"
    assert [goal["status"] for goal in done.traces[outer_id].goals.values()] == ["abandoned"]


def test_transcripts_nobody_called_are_adopted_and_strangers_are_not(tmp_path: Path) -> None:
    path = Lines().user("Hi.").said("Hello.").write(tmp_path / "session.jsonl")
    agent_lines("lost").write(tmp_path / "subagents" / "agent-lost.jsonl")
    stranger = agent_lines("other")
    for row in stranger.rows:
        row["sessionId"] = "another"
    stranger.write(tmp_path / "subagents" / "agent-other.jsonl")
    done = fold(open_import(path))
    assert [spec["task"] for spec in done.specs.values()] == ["Hi.", "Look at it."]
    assert done.statuses == ["completed", "completed"]
    alone = fold(open_import(tmp_path / "subagents" / "agent-other.jsonl"))
    assert [spec["task"] for spec in alone.specs.values()] == ["Look at it."]
    assert len(alone.messages()) == 3


def test_a_sub_agent_that_never_answered_ended_with_its_last_line(tmp_path: Path) -> None:
    agent_lines("lost").write(tmp_path / "subagents" / "agent-lost.jsonl")
    path = Lines(start=50).user("Hi.").said("Hello.").write(tmp_path / "session.jsonl")
    done = fold(open_import(path))
    root, sub = done.traces.values()
    seconds = [str(at)[17:19] for at in (sub.started_at, sub.ended_at, root.ended_at)]
    assert seconds == ["21", "24", "52"]


def test_a_session_that_grows_adds_to_the_traces_that_it_had(tmp_path: Path) -> None:
    """At each line that it may end with: told again it is nothing, and what is new comes behind."""
    lines = Lines().user("Check it.").todos("t1", ("a", "in_progress")).todos("t2", ("a", "completed"))
    rows = lines.rows + main_lines().rows[1:] + Lines(start=40).user("Go on").call("c2", "Bash").result("c2", "x").rows
    rows = [row | {"uuid": f"u{number}"} for number, row in enumerate(rows)]
    agent_rows = agent_lines().rows
    log = Log()
    for count in range(1, len(rows) + 1):
        lines.rows = rows[:count]
        path = lines.write(tmp_path / "session.jsonl")
        if count >= len(rows) - 4:  # the sub-agent's transcript is there from its call on, and grows as well
            agent = agent_lines()
            agent.rows = agent_rows[: max(1, count - len(rows) + 4)]
            agent.write(tmp_path / "subagents" / "agent-x1.jsonl")
        assert log.take(open_import(path)) > 0
        before = {trace_id: list(events) for trace_id, events in log.done.events.items()}
        assert log.take(open_import(path)) == 0
        assert log.done.events == before
    assert list(log.done.traces) == [f"cc-{SESSION}", f"cc-{SESSION}-x1"]
    assert log.done.statuses == ["stopped", "completed"]
    whole = fold(open_import(path))
    for trace_id, state in log.done.traces.items():
        assert set(state.messages) == set(whole.traces[trace_id].messages)
        assert [g["status"] for g in state.goals.values()] == [
            g["status"] for g in whole.traces[trace_id].goals.values()
        ]


def test_a_fork_shows_its_copied_part_and_counts_its_own(tmp_path: Path) -> None:
    usage = {"usage": {"input_tokens": 10, "output_tokens": 5}}
    first = (
        Lines().user("Plan it").call("c1", "Task", prompt="Look").result("c1", "seen").said("Planned.", message=usage)
    )
    fork = Lines(start=9).user("Now do it").said("Done.", message=usage)
    fork.rows = [*first.rows, *(row | {"sessionId": "5556"} for row in fork.rows)]
    original = fold(open_import(first.write(tmp_path / f"{SESSION}.jsonl")))
    for name in ("5556.jsonl", "renamed.jsonl"):
        done = fold(open_import(fork.write(tmp_path / name)))
        assert list(done.traces) == ["cc-5556"]
        assert done.root.metadata["forked_from"] == [f"cc-{SESSION}"]
        assert [m.get("copied_from") for m in done.messages()] == [f"cc-{SESSION}"] * 3 + [None] * 2
        assert (done.root.total_tokens, original.root.total_tokens) == (15, 15)
    assert list(original.traces) == [f"cc-{SESSION}", f"cc-{SESSION}-c1"]


def test_faults_in_a_sub_agents_file_name_it(tmp_path: Path) -> None:
    path = main_lines().write(tmp_path / "session.jsonl")
    agent = agent_lines().write(tmp_path / "subagents" / "agent-x1.jsonl")
    agent.write_bytes(agent.read_bytes() + b"{broken\n")
    assert str(fold(open_import(path)).faults[0]).startswith("subagents/agent-x1.jsonl: line 5: this is not JSON")


def test_a_directory_is_all_its_sessions(tmp_path: Path) -> None:
    Lines().user("One.").said("1").write(tmp_path / "a.jsonl")
    two = Lines().user("Two.").said("2")
    two.rows = [row | {"sessionId": "5556"} for row in two.rows]
    two.write(tmp_path / "b.jsonl")
    assert [spec["task"] for spec in fold(open_import(tmp_path)).specs.values()] == ["One.", "Two."]


def test_what_is_no_session_or_cannot_be_read_does_not_end_a_folders_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "closed", "z"):
        told = Lines().user(name).said("1")
        told.rows = [row | {"sessionId": name} for row in told.rows]
        told.write(tmp_path / "project" / f"{name}.jsonl")
    (tmp_path / "project" / "empty.jsonl").touch()
    (tmp_path / "project" / "other.jsonl").write_bytes(b'{"a": 1}\n\xff\x00rubbish\n')
    (tmp_path / "shut").mkdir()
    whole, entries = claude_code.own_session, Path.iterdir

    def refused(path: Path) -> str:
        if path.stem == "closed":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    def shut(path: Path) -> Iterator[Path]:
        if path.name == "shut":
            raise PermissionError(13, "Permission denied")
        return entries(path)

    monkeypatch.setattr(claude_code, "own_session", refused)
    monkeypatch.setattr(Path, "iterdir", shut)
    steps = list(open_import(tmp_path))
    files = [(step.name, step.number, step.of) for step in steps if isinstance(step, NextFile)]
    names = ["a", "closed", "empty", "other", "z"]
    assert files == [(f"project/{name}.jsonl", number, 5) for number, name in enumerate(names, 1)]
    done = fold(steps)
    assert [spec["task"] for spec in done.specs.values()] == ["a", "z"]
    assert [str(fault) for fault in done.faults] == [
        "shut: Permission denied",
        "project/closed.jsonl: Permission denied",
        "project/other.jsonl: no line of it is one of Claude Code's",
    ]


# --- what is broken, and how it ended ----------------------------------------------------------------------------


def test_broken_lines_are_named_and_the_rest_is_imported(tmp_path: Path) -> None:
    good, end = Lines().user("Hi.").rows[0], Lines(start=9).said("Bye.").rows[0]
    done = import_lines(
        tmp_path,
        good,
        "{broken",
        "42",
        '["x"]',
        {"type": "user", "message": "error"},
        {"type": "user", "message": {"role": "user", "contenst": []}},
        {"type": "user", "message": {"role": "user", "content": ["wow", {"type": "text", "text": "kept"}]}},
        {"silly": "this"},
        {"type": "file-history-snapshot", "snapshot": {"a": 1}},
        {"type": "Goal_Added!", "goal": 1},
        end,
    )
    assert done.said[0].startswith("line 2: this is not JSON")
    assert done.said[1:] == [
        "line 3: a line is a JSON object",
        "line 4: a line is a JSON object",
        "line 5: message: must be a JSON object",
        "line 6: message.content: must be text or a list of blocks",
        "line 7: message.content[0]: a block is a JSON object",
    ]
    assert [m["content"] for m in done.messages()] == ["Hi.", "kept", "Bye."]
    events = done.events[done.root.trace_id]
    kept = [(e["event"], e["line"]) for e in events if e["event"].startswith("line.")]
    assert [name for name, _ in kept] == [
        *["line.user"] * 3,
        "line.unknown",
        "line.file_history_snapshot",
        "line.goal_added_",
    ]
    assert kept[4][1] == {"type": "file-history-snapshot", "snapshot": {"a": 1}}
    assert events[1]["occurred_at"] == "2026-06-15T10:00:01.000Z"  # without a time of its own: when the last was


def test_how_a_session_ended_is_told_honestly(tmp_path: Path) -> None:
    def outcome(lines: Lines) -> tuple[str, str | None, Any]:
        root = imported(tmp_path, lines).root
        return root.status, root.summary, root.error

    begun = Lines().user("q").said("a")
    assert outcome(begun) == ("completed", "a", None)
    begun.rows.append({"type": "summary", "summary": "All about a", "leafUuid": "x"})
    assert outcome(begun) == ("completed", "All about a", None)
    failed = Lines().user("q").said("API Error: 500", isApiErrorMessage=True)
    assert outcome(failed) == ("failed", "API Error: 500", "API Error: 500")
    assert outcome(failed.user("again").said("a")) == ("completed", "a", None)
    interrupted = Lines().user("q").said("a").user("[Request interrupted by user]")
    assert outcome(interrupted) == ("stopped", "interrupted by the user", None)
    assert outcome(interrupted.user("go on").said("b")) == ("completed", "b", None)
    cut = ("stopped", "the transcript ends before the agent has answered", None)
    assert outcome(Lines().user("q")) == cut
    assert outcome(Lines().user("q").call("c1", "Bash")) == cut
    assert outcome(Lines().user("q").call("c1", "Bash").result("c1", "ok")) == cut
    assert outcome(Lines().user("q").row("assistant", [{"type": "thinking", "thinking": "Hm"}])) == cut
    assert outcome(Lines().user("q").said("I look", message={"stop_reason": "tool_use"})) == cut
    assert outcome(Lines().user("q").said("a").user("and?")) == cut
    left = Lines().user("q").said("a").user("<command-name>/exit</command-name>").user("Bye", isMeta=True)
    assert outcome(left) == ("completed", "a", None)
    torn = import_lines(tmp_path, *Lines().user("q").said("a").rows, '{"type": "assist')
    assert (torn.root.status, torn.root.summary) == cut[:2]


def test_two_sub_agents_called_under_one_id_are_both_ended(tmp_path: Path) -> None:
    calls = [{"type": "tool_use", "id": "c1", "name": "Task", "input": {"prompt": p}} for p in ("a", "b")]
    lines = Lines().user("q").row("assistant", calls)
    done = imported(tmp_path, lines.result("c1", "answer").said("Done."))
    assert done.statuses == ["completed", "completed"]  # of the other one nothing is known but its call
    assert [goal["status"] for goal in done.root.goals.values()] == ["completed", "abandoned"]
