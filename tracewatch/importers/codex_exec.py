"""What ``codex exec --json`` prints: a thread's items as they begin and end, and what each turn has used.

Rule 1: the run is the trace ``cx-<its thread>-exec``: its lines have no ids of what the thread's rollout tells.
        That one (codex.py) is the better source where it can be had.
Rule 2: a command, a change of files, a tool of MCP or a call of an agent is a tool message; a to-do list is the plan.
Rule 3: the usage of a turn goes to the last message of its agent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.usage import total_of
from .codex import trace_of, usage_of
from .plans import ImportedPlan
from .reading import clip, list_of, name_of, without
from .steps import ImportFault, Put, Step
from .timeline import tell

_TYPES = ("thread.started", "turn.started", "turn.completed", "turn.failed", "item.started", "item.updated",
          "item.completed")  # fmt: skip
_SAID = {"agent_message": ("assistant", {}), "reasoning": ("assistant", {"kind": "thought"})}
_NO_TURN = "the stream ends before the turn has ended"
_OUTCOME = ("aggregated_output", "exit_code", "result", "error", "status", "agents_states", "receiver_thread_ids")


def is_exec(row: Any) -> bool:
    """Whether a JSON value is a line of such a stream."""
    return isinstance(row, dict) and row.get("type") in _TYPES and ("item" in row or "thread_id" in row or len(row) < 4)


def read(path: Path) -> Iterator[Step]:
    """The steps of a stream that was kept as a file."""
    stream = CodexExec()
    yield from tell(path, stream)
    stream.finish()
    yield from stream.drain()


class CodexExec:
    """The mapping of one stream. ``line`` takes what is told, ``drain`` gives the facts so far."""

    def __init__(self) -> None:
        self.thread_id: str | None = None
        self.task: str | None = None  # as the caller knows it
        self._at: str | None = None
        self._out: list[tuple[str, str, dict[str, Any], str | None]] = []
        self._faults: list[ImportFault] = []
        self._trace: str | None = None  # once something of it was told
        self._plan = ImportedPlan(self._goal, self._event)
        self._began: dict[str, str | None] = {}  # id of an open item → its time
        self._items: dict[str, dict[str, Any]] = {}
        self._turns = 0
        self._last: str | None = None
        self._said = ""
        self._status: tuple[str, str | None] = ("stopped", _NO_TURN)

    @property
    def trace_id(self) -> str | None:
        """The trace of the run, once a line has named it."""
        return None if self.thread_id is None else self._trace_id()

    def clock(self, at: str | None) -> None:
        """Set the time of the lines that come now."""
        self._at = at

    def _put(self, kind: str, key: str, fields: dict[str, Any]) -> None:
        self._out.append((kind, key[:250], fields, self._at))

    def _trace_id(self) -> str:
        return self._trace or f"{trace_of(self.thread_id or 'stream')}-exec"

    def _goal(self, goal_id: str, fields: dict[str, Any], at: str | None) -> None:
        self._put("goal", goal_id, fields)

    def _event(self, key: str, name: str, payload: dict[str, Any], at: str | None) -> None:
        self._put("event", key, {"event": name, **payload})

    def line(self, number: int, row: Any) -> None:
        """Take one line: its object, or its ImportFault."""
        if isinstance(row, ImportFault):
            self._faults.append(row)
            return
        kind, item = str(row.get("type")), row.get("item")
        if kind == "thread.started":
            self.thread_id = str(row.get("thread_id") or "stream")
        elif kind == "turn.started":
            self._turns += 1
            self._status = ("stopped", _NO_TURN)
            if self._turns > 1:
                self._put("status", f"turn {self._turns}", {"status": "running"})
        elif kind in ("turn.completed", "turn.failed"):
            self._turn_over(kind, row)
        elif kind.startswith("item.") and isinstance(item, dict):
            self._item(kind, str(item.get("id") or f"line {number}"), item)
        else:
            error = row.get("message")
            if kind == "error" and isinstance(error, str):
                self._status = ("failed", error)
            self._event(f"line {number}", "line.codex", {"line": row}, self._at)

    def _turn_over(self, kind: str, row: dict[str, Any]) -> None:
        error = row.get("error")
        words = error.get("message") if isinstance(error, dict) else None
        self._status = ("failed", str(words or "the turn failed")) if kind == "turn.failed" else ("completed", None)
        used = usage_of(row.get("usage"))
        if used and self._last is not None:
            self._put("message", self._last, {"status": "running", "tokens": total_of(used), "usage": used})

    def _item(self, stage: str, key: str, item: dict[str, Any]) -> None:
        kind = str(item.get("type"))
        if kind == "todo_list":
            steps = item.get("items")
            steps = steps if isinstance(steps, list) else []
            todos = [
                {"content": s.get("text"), "status": "completed" if s.get("completed") else "pending"}
                for s in steps if isinstance(s, dict)
            ]  # fmt: skip
            self._plan.write(todos, self._at, key)
        elif kind in _SAID or kind == "user_message":
            if stage == "item.completed":
                self._message(key, kind, str(item.get("text") or ""))
        elif kind == "error":
            self._event(key, "codex.error", {"error": item.get("message")}, self._at)
        else:
            self._tool(stage, key, kind, item)

    def _message(self, key: str, kind: str, text: str) -> None:
        role, fields = _SAID.get(kind, ("user", {}))
        goal = {"goal_id": self._plan.current}
        self._put("message", key, {**goal, "role": role, "content": text, "status": "complete", **fields})
        if kind == "agent_message":
            self._last, self._said = key, text

    def _tool(self, stage: str, key: str, kind: str, item: dict[str, Any]) -> None:
        ended = stage == "item.completed"
        name = item.get("tool") if isinstance(item.get("tool"), str) else kind
        given = {k: v for k, v in without(item, "id", "type", "tool", *_OUTCOME).items() if v is not None}
        content: dict[str, Any] = {"tool_name": name, "arguments": given}
        if ended:
            found = {k: item[k] for k in _OUTCOME if item.get(k) not in (None, "", [], {})}
            result = found.pop("aggregated_output", None)
            result = found.pop("result", result)
            error = found.pop("error", None)
            failed = error is not None or (item.get("status") == "failed" and kind != "command_execution")
            content |= (
                {"error": error or result or "failed"} if failed else {"result": "" if result is None else result}
            )
            content |= found
        sub = next((t for t in list_of(item.get("receiver_thread_ids")) if isinstance(t, str)), None)
        fields = {"role": "tool", "goal_id": self._plan.current, "content": content, "tool_call_id": key}
        fields["sub_trace_id"] = trace_of(sub) if sub and name == "spawn_agent" else None
        self._items.pop(key, None)
        if not ended:
            self._items[key] = fields
        self._put("message", key, {**fields, "status": "complete" if ended else "running"})
        self._last = key

    def drain(self) -> list[Step]:
        """The facts since the last time. The trace itself is always the first of them."""
        facts, self._out = self._out, []
        faults, self._faults = self._faults, []
        if not facts:
            return list(faults)
        trace_id = self._trace = self._trace_id()
        fields: dict[str, Any] = {"task": self.task or "", "agent_type": "codex", "started_at": facts[0][3]}
        fields |= {"session_id": name_of(self.thread_id), "metadata": {"format": "codex-exec"}}
        told = [Put(trace_id, kind, key, given, at) for kind, key, given, at in facts]
        return [*faults, Put(trace_id, "trace", "", fields), *told]

    def finish(self) -> None:
        """End what is still open: there are no more lines."""
        for key, fields in self._items.items():
            self._put("message", key, {**fields, "status": "complete"})
        status, words = self._status
        ended: dict[str, Any] = {"status": status, "summary": clip(words or self._said, 2000) or None}
        self._put("status", f"end {self._turns} {self._last}", ended | ({"error": words} if status == "failed" else {}))
