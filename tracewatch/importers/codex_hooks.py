"""What Codex's hooks tell of a thread while it is at work. Its rollout, which is written as fast, says more.

Rule 1: where the thread's rollout is read as well, hooks tell the end of the session, and what it asks leave for.
Rule 2: else prompts, tools (by the rollout's ids), the answers at the ends of turns, and threads below it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .claude_hooks import PERMISSION, Permission
from .codex import trace_of
from .plans import ImportedPlan
from .reading import digest_of, name_of
from .steps import Put
from .twins import HOOK


@dataclass
class CodexHooks:
    """The mapping of one thread's hooks. ``parent_id``: the thread that began it."""

    thread_id: str
    followed: bool = False
    parent_id: str | None = None
    ended: bool = False
    puts: list[Put] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin the thread."""
        self._task, self._kind, self._said, self._at = "", "codex", "", ""
        self._calls: dict[str, tuple[str, Any]] = {}
        self._plan = ImportedPlan(self._goal, lambda key, name, payload, at: None)
        self._cwd: str | None = None

    @property
    def trace_id(self) -> str:
        """The thread's trace."""
        return trace_of(self.thread_id)

    def hook(self, body: dict[str, Any], at: str) -> Permission | None:
        """Take one hook's body, which came at ``at``; what it asks for, if it does. ``drain`` has its facts."""
        name, turn = body.get("hook_event_name"), _text(body.get("turn_id")) or ""
        self._at, self.ended = at, False
        self._cwd = _text(body.get("cwd")) or self._cwd
        self._kind = name_of(body.get("agent_type")) or self._kind
        if name == PERMISSION:
            return self._permission(body)
        if name == "SessionEnd":
            self.ended = True
            self._put("status", f"end hook {turn}", {"status": "completed", "summary": self._said[:2000] or None})
        elif not self.followed:
            self._told(str(name), turn, body)
        return None

    def recall(self, goals: list[dict[str, Any]]) -> None:
        """Take the plan that the log has."""
        self._plan.remember(goals)

    def drain(self) -> list[Put]:
        """The facts since the last time."""
        puts, self.puts = self.puts, []
        if not puts:
            return []
        metadata = {"format": "codex"} | ({"hooks": {"cwd": self._cwd}} if self._cwd else {})
        fields: dict[str, Any] = {"task": self._task, "agent_type": self._kind, "metadata": metadata}
        fields |= {"session_id": name_of(self.parent_id or self.thread_id)}
        if self.parent_id is not None:
            fields["parent_trace_id"] = trace_of(self.parent_id)
        return [Put(self.trace_id, "trace", "", fields), *puts]

    def declined(self, key: str, at: str) -> list[Put]:
        """The facts of a permission that was refused at the terminal."""
        self._at = at
        self._put("status", f"idle declined {key}", {"status": "idle"})
        return self.drain()

    # --- what hooks say ---

    def _put(self, kind: str, key: str, fields: dict[str, Any]) -> None:
        self.puts.append(Put(self.trace_id, kind, key[:250], fields, self._at))

    def _goal(self, goal_id: str, fields: dict[str, Any], at: str | None) -> None:
        self._put("goal", goal_id, fields)

    def _told(self, name: str, turn: str, body: dict[str, Any]) -> None:
        words = _text(body.get("last_assistant_message"))
        if name == "UserPromptSubmit":
            prompt = _text(body.get("prompt")) or ""
            self._task = self._task or prompt
            self._put("status", f"turn {turn or digest_of(body)}", {"status": "running"})
            told = {"role": "user", "content": prompt, "status": "complete", "told_by": HOOK}
            self._put("message", f"prompt {turn or digest_of(body)}", told)
        elif name in ("PreToolUse", "PostToolUse"):
            self._tool(name, body)
        elif name in ("Stop", "SubagentStop"):
            if words:
                self._said = words
                self._put("said", f"said {turn} {digest_of(words)}", {"text": words, "goal_id": None})
            ended = {"status": "completed", "summary": (words or "")[:2000] or None}
            self._put("status", f"over {turn}", ended if name == "SubagentStop" else {"status": "idle"})
        else:
            self._put("event", f"hook {digest_of(body)}", {"event": "hook.told", "name": name[:64]})

    def _tool(self, name: str, body: dict[str, Any]) -> None:
        call_id, tool = _text(body.get("tool_use_id")), name_of(body.get("tool_name")) or "unknown"
        if call_id is None:
            return
        given = body.get("tool_input")
        content = {"tool_name": tool} | ({} if given is None else {"arguments": given})
        fields = {"role": "tool", "tool_call_id": name_of(call_id), "content": content, "status": "running"}
        if name == "PreToolUse":
            self._calls[call_id] = (tool, given)
            self._put("message", call_id, fields)
            return
        self._calls.pop(call_id, None)
        result = {"result": body.get("tool_response")}
        self._put("message", call_id, {**fields, "status": "complete", "content": {**content, **result}})

    def _permission(self, body: dict[str, Any]) -> Permission:
        tool, given = name_of(body.get("tool_name")) or "unknown", body.get("tool_input")
        call_id = _text(body.get("tool_use_id")) or next(
            (one for one, call in reversed(self._calls.items()) if call == (tool, given)), None
        )
        key = f"{call_id or digest_of(body)}.permission"
        self._put("status", f"asks {key}", {"status": "running"})
        return Permission(
            trace_id=self.trace_id,
            key=key[:250],
            tool=tool,
            given=given if isinstance(given, dict) else {"input": given},
            call_id=call_id,
            agent="Codex" if self._kind == "codex" else self._kind,
            cwd=self._cwd,
            suggestions=[],
        )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
