"""Codex's rollouts: a file for each thread, which grows, told line by line. ``codex exec --json`` is codex_exec.py.

Rule 1: a thread is the trace ``cx-<its id>``; that of a sub-agent is a sub-trace below its parent's thread.
Rule 2: messages and calls are the ``response_item``s, by their own ids; what events say of the same once more is left
        out. A call ends with its output; what the command's end says beside it (exit code, time) is kept with it.
Rule 3: what a response has used is counted once, with the last message of that response. Its input includes what was
        cached, its output the reasoning, as ours do. Old rollouts say only sums: then by their differences.
Rule 4: what a program wrote in the user's name (environment, instructions, a sub-agent's end) has the role ``system``.
Rule 5: a turn's end is no end of the thread. It is completed where the last turn is, stopped where it was cut off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..model.fit import count
from ..model.times import parse_time
from ..model.usage import Usage, total_of
from .claude_titles import words_in
from .long_dict import LongDict
from .plans import ImportedPlan
from .reading import clip, digest_of, list_of, name_of, time_of, without
from .steps import ImportFault, Put, Step

_ODD = re.compile(r"[^A-Za-z0-9._@-]")
_BY_PROGRAM = ("<environment_context", "<user_instructions", "# AGENTS.md instructions", "<subagent_", "<turn_aborted",
               "<skill", "<user_shell_command", "<permissions")  # fmt: skip
_TWICE = re.compile(  # events of what stands in response items, and of a text's parts
    r"(user|agent)_(message|reasoning)\w*|(exec_command|mcp_tool_call|patch_apply|web_search)_(begin|output_delta)"
    r"|raw_response_item|item_started"
)
_PARTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cache_read_tokens",
    "cache_write_input_tokens": "cache_write_tokens",
    "reasoning_output_tokens": "reasoning_tokens",
}
_CUT = "the rollout ends before the agent has answered"


def trace_of(thread_id: str) -> str:
    """The id of a thread's trace."""
    return f"cx-{_ODD.sub('_', thread_id)[:100]}"


def usage_of(given: Any) -> Usage:
    """The usage that Codex says, in our parts; {} where it says none."""
    if not isinstance(given, dict):
        return {}
    parts = {ours: number for theirs, ours in _PARTS.items() if (number := count(given.get(theirs)))}
    return parts if total_of(parts) else {}


@dataclass
class _Call:
    content: dict[str, Any]
    at: str | None
    goal_id: str | None
    extra: dict[str, Any] = field(default_factory=dict)
    failed: bool = False


class CodexThread:
    """The mapping of one thread. ``line`` takes what is told, ``drain`` gives the facts so far."""

    def __init__(self, thread_id: str, file: str | None = None) -> None:
        self.thread_id = thread_id
        self.out: list[Step] = []
        self.parent_id: str | None = None
        self.alone = False  # a sub-agent's thread that is told without its parent
        self.turn_over = False
        self.last_key = ""
        self.at: str | None = None
        self._file = file
        self._meta: dict[str, Any] = {}
        self._kind = "codex"
        self._task = ""
        self._model: str | None = None
        self._began: str | None = None
        self._calls: dict[str, _Call] = {}
        self._plan = ImportedPlan(self._goal, self._event)
        self._last: str | None = None  # the message that the response's usage goes to
        self._records = False  # usage comes with each response
        self._sum: Usage = {}
        self._said = ""
        self._status: tuple[str, str | None] = ("stopped", _CUT)
        self._seen: LongDict[bool] = LongDict()  # keys of lines
        self._goals = 0
        self._turns = 0

    @property
    def trace_id(self) -> str:
        """The thread's trace."""
        return trace_of(self.thread_id)

    @property
    def cwd(self) -> str | None:
        """The folder that the agent works in."""
        cwd = self._meta.get("cwd")
        return cwd if isinstance(cwd, str) else None

    def wait_for_user(self) -> None:
        """Say that the thread waits for its user."""
        self._put("status", f"idle {self.last_key}", {"status": "idle"})

    def drain(self) -> list[Step]:
        """The facts since the last time. The trace itself is always the first of them."""
        steps, self.out = self.out, []
        if not steps:
            return steps
        fields: dict[str, Any] = {"task": self._task, "agent_type": self._kind, "started_at": self._began}
        fields["metadata"] = {"format": "codex", "session": self._meta}
        fields["session_id"] = name_of(self._meta.get("session_id") or self.thread_id)
        if self.parent_id is not None:
            fields["parent_trace_id"] = trace_of(self.parent_id)
        return [Put(self.trace_id, "trace", "", fields), *steps]

    def _put(self, kind: str, key: str, fields: dict[str, Any]) -> None:
        self.out.append(Put(self.trace_id, kind, key[:250], fields, self.at))

    def _goal(self, goal_id: str, fields: dict[str, Any], at: str | None) -> None:
        self._put("goal", goal_id, fields)

    def _event(self, key: str, name: str, payload: dict[str, Any], at: str | None) -> None:
        self._put("event", key, {"event": name, **payload})

    # --- lines ---

    def line(self, number: int, row: Any) -> None:
        """Take one line: its object, or its ImportFault."""
        if isinstance(row, ImportFault):
            self.out.append(ImportFault(row.message, row.line, row.field, self._file))
            self._status = ("stopped", _CUT)
            return
        self.at = time_of(row.get("timestamp")) or self.at
        self._began = self._began or self.at
        ordinal = row.get("ordinal")
        key = f"line {ordinal if isinstance(ordinal, int) else digest_of(row)}"
        if key in self._seen:
            return
        self._seen[key] = True
        self.last_key = key
        kind, payload = row.get("type"), row.get("payload")
        if not isinstance(payload, dict):
            self.out.append(ImportFault("must be a JSON object", number, "payload", self._file))
            self._keep(key, "unknown", row)
        elif kind == "session_meta":
            self._begin(key, payload)
        elif kind == "response_item":
            self._item(key, payload)
        elif kind == "event_msg":
            self._happened(key, payload, row)
        elif kind == "token_usage_record":
            self._records = True
            self._used(usage_of(payload.get("usage")))
        elif kind == "turn_context":
            self._model = name_of(payload.get("model")) or self._model
            self._keep(key, "turn_context", row)
        else:
            self._keep(key, str(kind or "unknown"), row)

    def _keep(self, key: str, kind: str, row: dict[str, Any]) -> None:
        name = re.sub(r"[^a-z0-9_.]", "_", f"line.{kind}".lower())[:64]
        self._event(key, name, {"line": row}, self.at)

    def _begin(self, key: str, payload: dict[str, Any]) -> None:
        if self._meta:
            self._keep(key, "session_meta", payload)  # of the thread that this one was forked from
            return
        text = payload.get("base_instructions")
        self._meta = without(payload, "base_instructions", "instructions")
        if text:
            self._keep(key, "instructions", {"base_instructions": text})
        else:
            self._keep(key, "session_meta", {"cwd": payload.get("cwd")})
        parent = payload.get("parent_thread_id")
        source = payload.get("source")
        spawned = source.get("subagent") if isinstance(source, dict) else None
        spawned = spawned.get("thread_spawn") if isinstance(spawned, dict) else None
        if isinstance(spawned, dict):
            parent = parent or spawned.get("parent_thread_id")
        if isinstance(parent, str) and parent and not self.alone:
            self.parent_id = parent
            self._kind = name_of(payload.get("agent_role")) or "codex-agent"

    # --- what is said and done ---

    def _item(self, key: str, item: dict[str, Any]) -> None:
        kind = str(item.get("type"))
        own = item.get("id") if isinstance(item.get("id"), str) and item["id"] else key
        if kind == "message":
            self._message(str(own), item)
        elif kind == "reasoning":
            parts = [*list_of(item.get("summary")), *list_of(item.get("content"))]
            text = "\n\n".join(p["text"] for p in parts if isinstance(p, dict) and isinstance(p.get("text"), str))
            if text:
                self._say(str(own), "assistant", text, kind="thought")
        elif kind in ("function_call", "custom_tool_call", "local_shell_call", "web_search_call", "tool_search_call"):
            self._call(str(own), kind, item)
        elif kind.endswith("_output"):
            self._result(key, item)
        else:
            self._keep(key, kind, {"response_item": item})

    def _message(self, key: str, item: dict[str, Any]) -> None:
        parts = item.get("content")
        parts = parts if isinstance(parts, list) else []
        text = "\n".join(p["text"] for p in parts if isinstance(p, dict) and isinstance(p.get("text"), str))
        others = [p for p in parts if not (isinstance(p, dict) and isinstance(p.get("text"), str))]
        role = item.get("role")
        words = words_in(text.strip()) if role == "user" and not text.lstrip().startswith(_BY_PROGRAM) else ""
        if role == "user" and not words:
            role = "system"
        elif role == "user":
            self._task = self._task or words
            self._status = ("stopped", _CUT)
        content: Any = text if not others else parts
        self._say(key, str(role or "user"), content)
        if role == "assistant":
            self._said = text or self._said

    def _say(self, key: str, role: str, content: Any, **fields: Any) -> None:
        model = self._model if role == "assistant" else None
        goal = {"goal_id": self._plan.current}
        self._put(
            "message", key, {**goal, "role": role, "content": content, "status": "complete", "model": model, **fields}
        )
        if role == "assistant":
            self._last = key

    def _call(self, own: str, kind: str, item: dict[str, Any]) -> None:
        call_id = item.get("call_id") if isinstance(item.get("call_id"), str) else own
        name = item.get("name") or {"local_shell_call": "shell", "web_search_call": "web_search"}.get(kind, kind)
        if isinstance(item.get("namespace"), str):
            name = f"{item['namespace']}.{name}"
        given = item.get("arguments", item.get("input", item.get("action")))
        if isinstance(given, str) and kind == "function_call":
            try:
                given = orjson.loads(given)
            except orjson.JSONDecodeError:
                pass  # it stays text
        content = {"tool_name": name_of(name) or "unknown"} | ({} if given is None else {"arguments": given})
        call = self._calls[str(call_id)] = _Call(content, self.at, self._plan.current)
        rest = without(item, "type", "name", "arguments", "input", "action", "call_id", "namespace", "status")
        ended = kind == "web_search_call"  # it has no output of its own
        self._put(
            "message",
            str(call_id),
            {"role": "tool", "goal_id": call.goal_id, "content": content | ({"result": None} if ended else {}),
             "status": "complete" if ended else "running", "tool_call_id": name_of(call_id), "model": self._model,
             "source": rest or None},
        )  # fmt: skip
        if ended:
            del self._calls[str(call_id)]
        self._last = str(call_id)
        self._status = ("stopped", _CUT)
        self._plans(str(call_id), str(item.get("name")), given)

    def _plans(self, key: str, name: str, given: Any) -> None:
        if not isinstance(given, dict):
            return
        if name == "update_plan" and isinstance(given.get("plan"), list):
            steps = [{**s, "content": s.get("step")} if isinstance(s, dict) else s for s in given["plan"]]
            for path, fault in self._plan.write(steps, self.at, key):
                self.out.append(ImportFault(fault, None, f"update_plan.plan{path}", self._file))
        elif name == "create_goal" and isinstance(given.get("objective"), str):
            self._goals += 1
            self._plan.add(f"goal{self._goals}", given["objective"], self.at)
            self._plan.change(f"goal{self._goals}", self.at, status="in_progress", text=None, told_by=key)
        elif name == "update_goal" and self._goals:
            status = {"complete": "completed", "blocked": "abandoned"}.get(str(given.get("status")))
            self._plan.change(f"goal{self._goals}", self.at, status=status, text=None, told_by=key)

    def _result(self, key: str, item: dict[str, Any]) -> None:
        call_id = str(item.get("call_id") or key)
        value = item.get("output", without(item, "type", "call_id", "id"))
        if isinstance(value, dict) and "content" in value:
            value = value["content"]
        call = self._calls.pop(call_id, None)
        if call is None:
            content: dict[str, Any] = {"tool_name": "unknown", "result": value}
            self._say(f"{key}.result", "tool", content, no_call=True, tool_call_id=name_of(call_id))
            return
        fields: dict[str, Any] = {"role": "tool", "goal_id": call.goal_id, "status": "complete"}
        if self.at and call.at:
            fields["duration_ms"] = max(0, round((parse_time(self.at) - parse_time(call.at)) * 1000))
        content = {**call.content, ("error" if call.failed else "result"): value, **call.extra}
        self._put("message", call_id, {**fields, "content": content})

    # --- what happens ---

    def _happened(self, key: str, payload: dict[str, Any], row: dict[str, Any]) -> None:
        kind = str(payload.get("type"))
        if _TWICE.fullmatch(kind):
            return
        if kind == "token_count":
            self._count(payload.get("info"))
        elif kind == "item_completed" and isinstance(payload.get("item"), dict):
            self._ended(key, payload["item"], row)
        elif kind in ("exec_command_end", "patch_apply_end", "mcp_tool_call_end"):
            self._ended(key, {**payload, "id": payload.get("call_id")}, row)
        elif kind in ("task_started", "turn_started"):
            self._turns += 1
            self.turn_over = False
            self._status = ("stopped", _CUT)
            if self._turns > 1:
                self._put("status", f"turn {key}", {"status": "running"})
            self._keep(key, kind, row)
        elif kind in ("task_complete", "turn_complete", "turn_aborted", "error"):
            self._over(key, kind, payload)
            self._keep(key, kind, row)
        else:
            self._keep(key, kind, row)

    def _over(self, key: str, kind: str, payload: dict[str, Any]) -> None:
        self.turn_over = kind != "error"
        words = payload.get("last_agent_message") or payload.get("message") or payload.get("reason")
        words = words if isinstance(words, str) else None
        ended = {"turn_aborted": "stopped", "error": "failed"}.get(kind, "completed")
        if ended == "completed" and self._status[0] == "failed":
            return
        self._status = (ended, words)
        if self.parent_id is not None and ended != "failed":
            self._put("status", f"over {key}", self._end())

    def _end(self) -> dict[str, Any]:
        status, words = self._status
        fields: dict[str, Any] = {"status": status, "summary": clip(words or self._said, 2000) or None}
        return fields | ({"error": words} if status == "failed" else {})

    def _ended(self, key: str, item: dict[str, Any], row: dict[str, Any]) -> None:
        """Take the end of a command, a change of files or a tool of MCP, of which the output comes after it."""
        kind = item.get("type")
        if kind in ("UserMessage", "AgentMessage", "Reasoning"):
            return
        call = self._calls.get(str(item.get("id")))
        if kind == "CollabAgentToolCall" and item.get("tool") == "spawn_agent":
            for thread_id in list_of(item.get("receiver_thread_ids")):
                if isinstance(thread_id, str):
                    self._put("message", str(item["id"]), {"status": "running", "sub_trace_id": trace_of(thread_id)})
        if call is None:
            self._keep(key, str(kind), row)
            return
        call.extra = {k: item[k] for k in ("exit_code", "duration") if item.get(k) is not None}
        is_command = kind in ("CommandExecution", "exec_command_end")
        call.failed = not is_command and (item.get("status") == "failed" or item.get("success") is False)

    def _count(self, info: Any) -> None:
        if self._records or not isinstance(info, dict):
            return
        total = usage_of(info.get("total_token_usage"))
        more = {part: number for part in total if (number := total[part] - self._sum.get(part, 0)) > 0}
        if total_of(total) > total_of(self._sum):
            self._sum = total
            self._used(more)

    def _used(self, used: Usage) -> None:
        if used and self._last is not None:
            self._put("message", self._last, {"status": "running", "tokens": total_of(used), "usage": used})
        elif used:
            self._put("event", f"{self.last_key}.usage", {"event": "usage", "usage": used})

    # --- the end ---

    def finish(self) -> None:
        """End what is still open: there are no more lines."""
        for call_id, call in self._calls.items():
            fields = {"role": "tool", "goal_id": call.goal_id, "content": call.content, "status": "complete"}
            self._put("message", call_id, fields)
        self._calls.clear()
        self._put("status", f"end {self.last_key}", {"whole": True, **self._end()})
