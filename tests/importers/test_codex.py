"""Codex: rollouts of threads and their sub-agents, old and new, and what its exec prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tracewatch.importers import detect, open_import

from .folding import Imported, Log, fold

PLAN = [{"step": "Look", "status": "in_progress"}, {"step": "Write", "status": "pending"}]


class Rollout:
    """Writes lines of a rollout, each a second after the one before."""

    def __init__(self, thread: str = "t1", start: int = 0, **meta: Any) -> None:
        self.rows: list[dict[str, Any]] = []
        self._second = start
        self.thread = thread
        self.row("session_meta", id=thread, cwd="/work", cli_version="1", **meta)

    def row(self, kind: str, **payload: Any) -> Rollout:
        stamp = f"2026-06-15T10:00:{self._second:02d}.000Z"
        self.rows.append({"timestamp": stamp, "ordinal": len(self.rows), "type": kind, "payload": payload})
        self._second += 1
        return self

    def said(self, role: str, text: str) -> Rollout:
        part = {"type": "output_text" if role == "assistant" else "input_text", "text": text}
        return self.row("response_item", type="message", role=role, content=[part])

    def call(self, call_id: str, name: str, arguments: Any, output: Any = None) -> Rollout:
        given = orjson.dumps(arguments).decode()
        self.row("response_item", type="function_call", name=name, arguments=given, call_id=call_id)
        if output is not None:
            self.row("response_item", type="function_call_output", call_id=call_id, output=output)
        return self

    def event(self, kind: str, **payload: Any) -> Rollout:
        return self.row("event_msg", type=kind, **payload)

    def write(self, folder: Path) -> Path:
        path = folder / "2026" / "06" / "15" / f"rollout-2026-06-15T10-00-00-{self.thread}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in self.rows))
        return path


def imported(folder: Path, rollout: Rollout) -> Imported:
    return fold(open_import(rollout.write(folder)))


def test_a_turn_with_a_plan_a_tool_and_an_answer(tmp_path: Path) -> None:
    rollout = Rollout().said("developer", "Be brief").said("user", "<environment_context>…</environment_context>")
    rollout.row("turn_context", model="gpt-5.5").said("user", "Fix it").event("task_started")
    rollout.call("p1", "update_plan", {"plan": PLAN}, "Plan updated").call("c1", "exec_command", {"cmd": "ls"}, "a.py")
    rollout.call("c2", "shell", {"command": ["rm"]}).said("assistant", "Done.").event("agent_message", message="Done.")
    done = imported(tmp_path, rollout.event("task_complete", last_agent_message="Done."))
    assert done.faults == []
    assert (done.root.trace_id, done.root.task, done.root.status) == ("cx-t1", "Fix it", "completed")
    assert [m["role"] for m in done.messages()] == [*("developer", "system", "user"), *["tool"] * 3, "assistant"]
    assert [(g["description"], g["status"]) for g in done.root.goals.values()] == [
        ("Look", "in_progress"),
        ("Write", "pending"),
    ]
    tool = done.root.messages["c1"]
    assert (tool["content"]["result"], tool["duration_ms"], tool["model"]) == ("a.py", 1000, "gpt-5.5")
    assert tool["goal_id"] == next(iter(done.root.goals))
    assert done.messages()[-1]["content"] == "Done."


def test_how_a_thread_ended(tmp_path: Path) -> None:
    def status(*events: tuple[str, dict[str, Any]]) -> str:
        rollout = Rollout().said("user", "q").event("task_started").said("assistant", "a")
        for kind, payload in events:
            rollout.event(kind, **payload)
        return imported(tmp_path, rollout).root.status

    assert status() == "stopped"
    assert status(("task_complete", {})) == "completed"
    assert status(("turn_aborted", {"reason": "interrupted"})) == "stopped"
    assert status(("error", {"message": "429"}), ("task_complete", {})) == "failed"
    assert status(("task_complete", {}), ("task_started", {})) == "stopped"


def test_usage_of_old_rollouts_is_the_difference_of_their_sums(tmp_path: Path) -> None:
    rollout = Rollout().said("user", "q")
    for tokens in (100, 100, 250):
        rollout.said("assistant", "a")
        total = {"input_tokens": tokens, "cached_input_tokens": tokens // 2, "output_tokens": 10}
        rollout.event("token_count", info={"total_token_usage": total})
    done = imported(tmp_path, rollout)
    assert [m.get("tokens") for m in done.messages()] == [None, 110, None, 150]
    assert done.root.tree_totals()["usage"]["cache_read_tokens"] == 125


def test_a_sub_agent_is_below_the_thread_that_began_it_and_a_run_by_itself(tmp_path: Path) -> None:
    main = Rollout().said("user", "Go").call("s1", "spawn_agent", {"message": "Look"})
    item = {"type": "CollabAgentToolCall", "id": "s1", "tool": "spawn_agent", "receiver_thread_ids": ["t2"]}
    main.event("item_completed", item=item).said("assistant", "So.").event("task_complete")
    spawned = {"subagent": {"thread_spawn": {"parent_thread_id": "t1", "depth": 1}}}
    sub = Rollout("t2", 3, source=spawned, agent_role="scout").said("user", "Look").said("assistant", "Seen")
    main.write(tmp_path)
    path = sub.event("task_complete").write(tmp_path)
    for source in (tmp_path, main.write(tmp_path)):
        done = fold(open_import(source))
        assert list(done.traces) == ["cx-t1", "cx-t2"]
        assert done.specs["cx-t2"]["parent_trace_id"] == "cx-t1"
        assert (done.specs["cx-t2"]["agent_type"], done.statuses) == ("scout", ["completed", "completed"])
        assert done.root.messages["s1"]["sub_trace_id"] == "cx-t2"
    alone = fold(open_import(path))
    assert [spec["parent_trace_id"] for spec in alone.specs.values()] == [None]


def test_a_thread_that_goes_on_is_the_same_run(tmp_path: Path) -> None:
    rollout, log = Rollout().said("user", "Go"), Log()
    rollout.event("task_started").said("assistant", "One").event("task_complete")
    rollout.event("task_started").said("user", "And?").call("c1", "shell", {"command": "ls"}, "a").event(
        "task_complete"
    )
    rows = rollout.rows
    for count in range(1, len(rows) + 1):
        rollout.rows = rows[:count]
        path = rollout.write(tmp_path)
        log.take(open_import(path))
        assert log.take(open_import(path)) == 0
    assert log.done.root.messages.keys() == fold(open_import(path)).root.messages.keys()
    assert log.done.statuses == ["completed"]


EXEC: list[dict[str, Any]] = [
    {"type": "thread.started", "thread_id": "t9"},
    {"type": "turn.started"},
    {"type": "item.completed", "item": {"id": "i1", "type": "reasoning", "text": "Hm"}},
    {"type": "item.started", "item": {"id": "i2", "type": "mcp_tool_call", "server": "s", "tool": "find"}},
    {
        "type": "item.completed",
        "item": {"id": "i2", "type": "mcp_tool_call", "server": "s", "tool": "find", "error": {"message": "no"}},
    },
    {"type": "item.started", "item": {"id": "i3", "type": "command_execution", "command": "ls"}},
    {"type": "item.completed", "item": {"id": "i4", "type": "agent_message", "text": "Done."}},
    {"type": "turn.completed", "usage": {"input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 2}},
]


def test_the_stream_of_exec(tmp_path: Path) -> None:
    rows = list(EXEC)
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    assert detect(path) == "codex-exec"
    done = fold(open_import(path))
    assert (done.root.trace_id, done.root.status, done.root.summary) == ("cx-t9-exec", "completed", "Done.")
    assert done.root.messages["i2"]["content"]["error"] == {"message": "no"}
    assert done.root.total_tokens == 12
    rows[-1] = {"type": "turn.failed", "error": {"message": "429"}}
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    failed = fold(open_import(path)).root
    assert (failed.status, failed.error) == ("failed", "429")
