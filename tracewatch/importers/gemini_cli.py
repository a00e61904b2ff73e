"""Gemini CLI's chats (``~/.gemini/tmp/<project>/chats/session-*.jsonl``, before ``.json``): a line for each record.

Checked against packages/core/src/services/chatRecordingService.ts of google-gemini/gemini-cli.

Rule 1: a chat is the trace ``gc-<its session>``; a sub-agent's, in a folder named by its parent, a sub-trace of that.
Rule 2: a message is written again, under the same id, when its tools have ended: it is the same messages with more.
Rule 3: candidates' tokens and thoughts are both output. ``$rewindTo`` marks what is left from that message on.
Rule 4: it is completed where the model has the last word, and otherwise stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.fit import count
from ..model.usage import total_of
from .plans import ImportedPlan
from .reading import BadJson, digest, digest_of, documents, list_of, name_of, text_of, time_of, without
from .steps import ImportFault, Put, Step

_ODD = re.compile(r"[^A-Za-z0-9._@-]")
_TYPES = ("user", "gemini", "info", "error", "warning")
_CUT = "the chat ends before the model has answered"


def is_chat(value: Any) -> bool:
    """Whether a JSON value is a chat, or the first line of one."""
    return isinstance(value, dict) and isinstance(value.get("sessionId"), str) and "projectHash" in value


def chats(directory: Path) -> list[Path]:
    """The chats below ``directory``, by their names, which begin with their times; sub-agents' after all others."""
    found = [p for p in directory.glob("**/chats/**/*.json*") if p.suffix in (".json", ".jsonl")]
    return sorted(found, key=lambda path: (path.parent.name != "chats", path.name))


def read(path: Path) -> Iterator[Step]:
    """The steps of a chat, or of all chats below a directory."""
    for file in chats(path) if path.is_dir() else [path]:
        chat = GeminiChat(file.parent.name if file.parent.parent.name == "chats" and path.is_dir() else None)
        for line, value in documents(file):
            if isinstance(value, BadJson):
                yield ImportFault(value.message, value.line, file=file.name if path.is_dir() else None)
            elif isinstance(value, dict):
                chat.line(value)
            else:
                yield ImportFault("a record of a chat is a JSON object", line)
        if chat.session_id is None:
            chat.session_id = digest([file])
        chat.finish()
        yield from chat.drain()


class GeminiChat:
    """The mapping of one chat. ``line`` takes what is told, ``drain`` gives the facts so far."""

    def __init__(self, parent_id: str | None = None) -> None:
        self.session_id: str | None = None
        self._parent_id = parent_id
        self._out: list[tuple[str, str, dict[str, Any], str | None]] = []
        self._meta: dict[str, Any] = {}
        self._task = ""
        self._at: str | None = None
        self._latest: str | None = None  # of all times, which a damaged or edited chat has in no order
        self._began: str | None = None
        self._plan = ImportedPlan(self._goal, self._event)
        self._order: dict[str, list[str]] = {}  # id of a record → keys of its messages
        self._open: dict[str, dict[str, Any]] = {}
        self._said = ""
        self._answered = False
        self._last = ""

    def _put(self, kind: str, key: str, fields: dict[str, Any]) -> None:
        self._out.append((kind, key[:250], fields, self._at))

    def _goal(self, goal_id: str, fields: dict[str, Any], at: str | None) -> None:
        self._put("goal", goal_id, fields)

    def _event(self, key: str, name: str, payload: dict[str, Any], at: str | None) -> None:
        self._put("event", key, {"event": name, **payload})

    def line(self, record: dict[str, Any]) -> None:
        """Take one record, or a whole chat of the older form."""
        if is_chat(record):
            self.session_id = self.session_id or record["sessionId"]
            self._meta |= without(record, "messages")
            self._began = self._began or time_of(record.get("startTime"))
            for message in list_of(record.get("messages")):
                if isinstance(message, dict):
                    self.line(message)
        elif isinstance(record.get("$set"), dict):
            given = record["$set"]
            self._meta |= {key: value for key, value in given.items() if key != "messages" and key not in self._meta}
            for message in list_of(given.get("messages")):
                if isinstance(message, dict):
                    self.line(message)
        elif isinstance(record.get("$rewindTo"), str):
            self._rewind(record["$rewindTo"])
        elif isinstance(record.get("id"), str) and record["id"] and _kind(record) is not None:
            self._message(record["id"], record)
        else:
            self._event(f"line {digest_of(record)}", "line.gemini", {"line": record}, self._at)

    def _rewind(self, to: str) -> None:
        ids = list(self._order)
        left = [key for one in ids[ids.index(to) if to in ids else 0 :] for key in self._order.pop(one)]
        self._event(f"rewind {to} {self._last}", "session.rewind", {"to": to, "left": len(left)}, self._at)
        for key in left:
            self._put("message", key, {"left": True, "status": "running"})

    def _message(self, key: str, record: dict[str, Any]) -> None:
        self._at = time_of(record.get("timestamp")) or self._at
        self._latest = max(self._latest or "", self._at or "") or None
        self._began, self._last = self._began or self._at, key
        keys = self._order[key] = []
        content, kind = record.get("content"), _kind(record)
        text = text_of(content) if not isinstance(content, str) else content
        if kind in ("info", "error", "warning"):
            self._event(key, f"gemini.{kind}", {"message": text, "line": record}, self._at)
            self._answered = self._answered and kind != "error"
            return
        goal = {"goal_id": self._plan.current}
        if kind == "user":
            self._task = self._task or text.strip()
            self._answered = False
            whole = text if text or not content else content
            self._put("message", key, {**goal, "role": "user", "content": whole, "status": "complete"})
            keys.append(key)
            return
        for place, thought in enumerate(list_of(record.get("thoughts"))):
            if isinstance(thought, dict):
                words = "\n".join(str(thought[k]) for k in ("subject", "description") if thought.get(k))
                fields = {**goal, "role": "assistant", "content": words, "kind": "thought", "status": "complete"}
                self._put("message", f"{key}.t{place}", fields)
                keys.append(f"{key}.t{place}")
        calls = [call for call in list_of(record.get("toolCalls")) if isinstance(call, dict)]
        used = _used(record)
        if text.strip() or not calls:
            fields = {**goal, "role": "assistant", "content": text, "status": "complete", "answer": key}
            self._put("message", key, fields | used)
            keys.append(key)
            used, self._said = {}, text or self._said
        for place, call in enumerate(calls):
            keys.append(self._call(key, place, call, used))
            used = {}
        self._answered = bool(text.strip()) and not calls

    def _call(self, key: str, place: int, call: dict[str, Any], used: dict[str, Any]) -> str:
        call_id = name_of(call.get("id")) or f"{key}.c{place}"
        given = call.get("args")
        content: dict[str, Any] = {"tool_name": name_of(call.get("name")) or "unknown", "arguments": given}
        fields = {"role": "tool", "goal_id": self._plan.current, "tool_call_id": call_id, "answer": key, **used}
        if call.get("name") == "write_todos" and isinstance(given, dict) and isinstance(given.get("todos"), list):
            todos = [t | {"content": t.get("description")} if isinstance(t, dict) else t for t in given["todos"]]
            self._plan.write(todos, self._at, call_id)
        status = str(call.get("status", ""))
        if "result" not in call and status not in ("success", "error", "cancelled"):
            self._open[call_id] = {**fields, "content": content}
            self._put("message", call_id, {**fields, "content": content, "status": "running"})
            return call_id
        self._open.pop(call_id, None)
        content["error" if status in ("error", "cancelled") else "result"] = _result(call.get("result"), status)
        source = without(call, "id", "name", "args", "result", "status")
        self._put("message", call_id, {**fields, "content": content, "status": "complete", "result_source": source})
        return call_id

    def finish(self) -> None:
        """End what is still open: there are no more records."""
        self._at = self._latest
        for call_id, fields in self._open.items():
            self._put("message", call_id, {**fields, "status": "complete"})
        status = "completed" if self._answered else "stopped"
        summary = self._said if self._answered else _CUT
        self._put("status", f"end {self._last}", {"whole": True, "status": status, "summary": summary[:2000]})

    def drain(self) -> list[Step]:
        """The facts since the last time. The trace itself is always the first of them."""
        facts, self._out = self._out, []
        trace_id = f"gc-{_ODD.sub('_', str(self.session_id))[:100]}"
        fields: dict[str, Any] = {"task": self._task, "agent_type": "gemini-cli", "started_at": self._began}
        fields |= {"session_id": name_of(self.session_id), "metadata": {"format": "gemini-cli", "session": self._meta}}
        if self._parent_id is not None:
            fields["parent_trace_id"] = f"gc-{_ODD.sub('_', self._parent_id)[:100]}"
        told: list[Step] = [Put(trace_id, kind, key, given, at) for kind, key, given, at in facts]
        return [Put(trace_id, "trace", "", fields), *told] if told else []


def _kind(record: dict[str, Any]) -> str | None:
    kind = record.get("type")
    return kind if isinstance(kind, str) and kind in _TYPES else None


def _result(given: Any, status: str) -> Any:
    """The text of a tool's response, where it is one; the parts of it, where not."""
    parts = given if isinstance(given, list) else [given]
    told = [p.get("functionResponse") for p in parts if isinstance(p, dict)]
    answers = [response.get("response") for response in told if isinstance(response, dict)]
    if len(answers) == 1 and isinstance(answers[0], dict) and len(answers[0]) == 1:
        return next(iter(answers[0].values()))
    return (answers[0] if len(answers) == 1 else answers) if answers else given if given is not None else status


def _used(record: dict[str, Any]) -> dict[str, Any]:
    tokens = record["tokens"] if isinstance(record.get("tokens"), dict) else {}
    thoughts = count(tokens.get("thoughts")) or 0
    usage = {
        "input_tokens": (count(tokens.get("input")) or 0) + (count(tokens.get("tool")) or 0),
        "output_tokens": (count(tokens.get("output")) or 0) + thoughts,
        "cache_read_tokens": count(tokens.get("cached")) or 0,
        "reasoning_tokens": thoughts,
    }
    usage = {part: number for part, number in usage.items() if number}
    fields: dict[str, Any] = {"model": name_of(record.get("model"))}
    return fields | ({"usage": usage, "tokens": total_of(usage)} if total_of(usage) else {})
