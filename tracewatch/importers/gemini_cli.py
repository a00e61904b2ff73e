"""Gemini CLI's chats (``~/.gemini/tmp/<project>/chats/session-*.jsonl``, before ``.json``): a line for each record.

Checked against packages/core/src/services/chatRecordingService.ts of google-gemini/gemini-cli, and its version 0.61.

Rule 1: a chat is the trace ``gc-<its session>``; a sub-agent's, in a folder named by its parent, a sub-trace of that.
        A chat of which only the program has written something is none.
Rule 2: a message is written again, under the same id, when its tools have ended: it is the same messages with more.
        A chat that is resumed repeats all that it had. What a tool gave stands in its call; the user's is a repeat.
Rule 3: candidates' tokens and thoughts are both output. ``$rewindTo`` marks what is left from that message on.
Rule 4: it is completed where the model has the last word, and otherwise stopped. A text may be the last word, or come
        before a call that is still at work: nothing in the file says which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.fit import count
from ..model.usage import total_of
from .folder import each
from .long_dict import LongDict
from .plans import ImportedPlan
from .reading import digest, digest_of, list_of, name_of, text_of, time_of, without
from .steps import ImportFault, Put, Step
from .timeline import tell

_ODD = re.compile(r"[^A-Za-z0-9._@-]")
_TYPES = ("user", "gemini", "info", "error", "warning")
_BY_PROGRAM = "<session_context>"
_CUT = "the chat ends before the model has answered"


def is_chat(value: Any) -> bool:
    """Whether a JSON value is a chat, or the first line of one."""
    return isinstance(value, dict) and isinstance(value.get("sessionId"), str) and "projectHash" in value


def chats(directory: Path) -> list[Path]:
    """The chats below ``directory``, by their names, which begin with their times; sub-agents' after all others."""
    found = [p for p in directory.glob("**/chats/**/*.json*") if p.suffix in (".json", ".jsonl")]
    return sorted(found, key=lambda path: (path.parent.name != "chats", path.name))


def parent_of(path: Path) -> str | None:
    """The session that a chat's sub-agent is of, by its folder; None: it is no sub-agent's."""
    return path.parent.name if path.parent.parent.name == "chats" else None


def cwd_of(path: Path) -> str | None:
    """The folder that a chat is about, as it stands beside the chats."""
    folder = next((parent for parent in path.parents if parent.name == "chats"), path).parent
    try:
        return (folder / ".project_root").read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def read(path: Path) -> Iterator[Step]:
    """The steps of a chat, or of all chats below a directory."""
    if not path.is_dir():
        yield from read_chat(path)
        return
    yield from each(path, chats(path), lambda file, name: read_chat(file, parent_of(file), name))


def read_chat(path: Path, parent_id: str | None = None, name: str | None = None) -> Iterator[Step]:
    """The steps of one chat. ``name``: of its file in faults."""
    chat = GeminiChat(parent_id, name)
    yield from tell(path, chat)
    if chat.session_id is None:
        chat.session_id = digest([path])
    chat.finish()
    yield from chat.drain()


class GeminiChat:
    """The mapping of one chat. ``line`` takes what is told, ``drain`` gives the facts so far."""

    def __init__(self, parent_id: str | None = None, file: str | None = None) -> None:
        self.session_id: str | None = None
        self.parent_id = parent_id
        self.cwd: str | None = None  # the folder that it is about, as who reads it knows
        self.turn_over = False  # the model has said something, and called nothing that is known
        self.last_key = ""  # of the record that was told last
        self._file = file
        self._faults: list[Step] = []
        self._out: list[tuple[str, str, dict[str, Any], str | None]] = []
        self._meta: dict[str, Any] = {}
        self._task = ""
        self._at: str | None = None
        self._latest: str | None = None  # of all times, which a damaged or edited chat has in no order
        self._began: str | None = None
        self._plan = ImportedPlan(self._goal, self._event)
        self._told: LongDict[int] = LongDict()  # id of a record → what it says, as a hash
        self._order: LongDict[list[str]] = LongDict()  # id of a record → keys of its messages, none once they are left
        self._empty: tuple[str, dict[str, Any]] | None = None  # an answer without anything, of which more may come
        self._open: dict[str, dict[str, Any]] = {}
        self._said = ""
        self._turns = 0
        self._talked = False

    @property
    def trace_id(self) -> str:
        """The chat's trace; "" while there is nothing to tell of it."""
        return _trace_of(self.session_id) if self.session_id and self._talked else ""

    def _put(self, kind: str, key: str, fields: dict[str, Any]) -> None:
        self._out.append((kind, key[:250], fields, self._at))

    def _goal(self, goal_id: str, fields: dict[str, Any], at: str | None) -> None:
        self._put("goal", goal_id, fields)

    def _event(self, key: str, name: str, payload: dict[str, Any], at: str | None) -> None:
        self._put("event", key, {"event": name, **payload})

    def line(self, number: int, record: Any) -> None:
        """Take one record or its ImportFault, or a whole chat of the older form."""
        if isinstance(record, ImportFault):
            self._faults.append(ImportFault(record.message, record.line, record.field, self._file))
        elif is_chat(record):
            self.session_id = self.session_id or record["sessionId"]
            self._meta |= without(record, "messages")
            self._began = self._began or time_of(record.get("startTime"))
            self._lines(number, record.get("messages"))
        elif isinstance(record.get("$set"), dict):
            given = record["$set"]
            self._meta |= {key: value for key, value in given.items() if key != "messages" and key not in self._meta}
            self._lines(number, given.get("messages"))
        elif isinstance(record.get("$rewindTo"), str):
            self._rewind(record["$rewindTo"])
        elif isinstance(record.get("id"), str) and record["id"] and _kind(record) is not None:
            said = hash(str(record))
            if self._told.get(record["id"]) != said:
                self._told[record["id"]] = said
                self._message(record["id"], record)
        else:
            self._event(f"line {digest_of(record)}", "line.gemini", {"line": record}, self._at)

    def _lines(self, number: int, records: Any) -> None:
        for record in list_of(records):
            if isinstance(record, dict):
                self.line(number, record)

    def _rewind(self, to: str) -> None:
        whole = list(self._order.after(None if to not in self._order else to))
        if to in self._order:
            whole.insert(0, (to, self._order.get(to, [])))
        left = [key for _, keys in whole for key in keys]
        for one, _ in whole:
            self._order[one] = []
        self._event(f"rewind {to} {self.last_key}", "session.rewind", {"to": to, "left": len(left)}, self._at)
        for key in left:
            self._put("message", key, {"left": True, "status": "running"})

    def _message(self, key: str, record: dict[str, Any]) -> None:
        if self._empty is not None and self._empty[0] != key:
            self._tell_empty()
        self._at = time_of(record.get("timestamp")) or self._at
        self._latest = max(self._latest or "", self._at or "") or None
        self._began, self.last_key = self._began or self._at, key
        content, kind = record.get("content"), _kind(record)
        text = text_of(content) if not isinstance(content, str) else content
        if kind in ("info", "error", "warning"):
            self._event(key, f"gemini.{kind}", {"message": text, "line": record}, self._at)
            self.turn_over = self.turn_over and kind != "error"
            return
        if kind == "user":
            self._order[key] = self._asked(key, text, content)
        else:
            self._talked = True
            self._order[key] = self._answer(key, text, record)

    def _asked(self, key: str, text: str, content: Any) -> list[str]:
        self.turn_over = False
        if any(isinstance(part, dict) and "functionResponse" in part for part in list_of(content)):
            parts = [part for part in content if not (isinstance(part, dict) and "functionResponse" in part)]
            if not parts:
                return []
            content, text = parts, text_of(parts)
        role = "system" if text.lstrip().startswith(_BY_PROGRAM) else "user"
        if role == "user":
            self._task = self._task or text.strip()
            self._turns += 1
            self._talked = True
            if self._turns > 1:
                self._put("status", f"turn {key}", {"status": "running"})
        whole = text if text or not content else content
        goal = {"goal_id": self._plan.current}
        self._put("message", key, {**goal, "role": role, "content": whole, "status": "complete"})
        return [key]

    def _answer(self, key: str, text: str, record: dict[str, Any]) -> list[str]:
        goal, keys = {"goal_id": self._plan.current}, []
        for place, thought in enumerate(list_of(record.get("thoughts"))):
            if isinstance(thought, dict):
                words = "\n".join(str(thought[k]) for k in ("subject", "description") if thought.get(k))
                fields = {**goal, "role": "assistant", "content": words, "kind": "thought", "status": "complete"}
                self._put("message", f"{key}.t{place}", fields)
                keys.append(f"{key}.t{place}")
        calls = [call for call in list_of(record.get("toolCalls")) if isinstance(call, dict)]
        used = _used(record)
        self._empty = None if text.strip() or calls else (key, used)
        if text.strip():
            fields = {**goal, "role": "assistant", "content": text, "status": "complete", "answer": key}
            self._put("message", key, fields | used)
            keys.append(key)
            used, self._said = {}, text
        for place, call in enumerate(calls):
            keys.append(self._call(key, place, call, used))
            used = {}
        self.turn_over = bool(text.strip()) and not calls
        return keys

    def _tell_empty(self) -> None:
        """Tell of an answer without words and calls, which stays as it is."""
        if self._empty is not None:
            key, used = self._empty
            self._empty = None
            fields = {"goal_id": self._plan.current, "role": "assistant", "content": "", "status": "complete"}
            self._put("message", key, {**fields, "answer": key, **used})

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

    def wait_for_user(self) -> None:
        """Say that the chat waits for its user."""
        self._put("status", f"idle {self.last_key}", {"status": "idle"})

    def finish(self) -> None:
        """End what is still open: there are no more records."""
        self._tell_empty()
        self._at = self._latest
        for call_id, fields in self._open.items():
            self._put("message", call_id, {**fields, "status": "complete"})
        status = "completed" if self.turn_over else "stopped"
        summary = self._said if self.turn_over else _CUT
        self._put("status", f"end {self.last_key}", {"whole": True, "status": status, "summary": summary[:2000]})

    def drain(self) -> list[Step]:
        """The facts since the last time. The trace itself is always the first of them."""
        faults, self._faults = self._faults, []
        trace_id = self.trace_id
        if not trace_id or not self._out:
            return faults
        facts, self._out = self._out, []
        fields: dict[str, Any] = {"task": self._task, "agent_type": "gemini-cli", "started_at": self._began}
        fields |= {"session_id": name_of(self.session_id), "metadata": {"format": "gemini-cli", "session": self._meta}}
        if self.parent_id is not None:
            fields["parent_trace_id"] = _trace_of(self.parent_id)
        told: list[Step] = [Put(trace_id, kind, key, given, at) for kind, key, given, at in facts]
        return [*faults, Put(trace_id, "trace", "", fields), *told]


def _trace_of(session_id: str) -> str:
    return f"gc-{_ODD.sub('_', session_id)[:100]}"


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
