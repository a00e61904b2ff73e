"""The lines of one agent of Claude Code become facts of its trace, whichever way they come: file, follow or pipe.

Rule 1: one content block is one message: text, thinking (``kind: thought``), a tool's call and result together. Its id
        is the model's answer's with the number of the block, a tool call's own, or that of the line. Other keys of a
        line and its message are kept in the message's ``source`` (for a result: ``result_source``). Values that the
        whole session repeats stand in the trace's metadata instead.
Rule 2: usage and cost are counted once for each answer of the model. One answer is spread over several lines, and each
        of them repeats its usage. Its input_tokens are those beside the cache; ours are all that went in.
Rule 3: TodoWrite, TaskCreate and TaskUpdate make goals (plans.py). Calls of agents are the session's (claude_session).
Rule 4: a line of another type is an event ``line.<type>`` with the whole ``line``. So is a partly unreadable line,
        beside its ImportFault. A line that was there before is nothing.
Rule 5: a prompt whose parent is not the last line, with another prompt between them, begins a new branch: the messages
        that were left are marked ``left``. They count as they did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from ..model.fit import amount, count
from ..model.times import parse_time
from ..model.usage import Usage, total_of
from .claude_titles import asked, by_program, interrupted
from .long_dict import LongDict
from .plans import ImportedPlan
from .reading import clip, digest_of, first_line, name_of, time_of, without
from .steps import ImportFault, Put, Step

CONSTANT = ("sessionId", "cwd", "version", "userType", "gitBranch", "agentId", "entrypoint")
AGENT_TOOLS = frozenset({"Agent", "Task"})
_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_PARTS = (("cache_read_input_tokens", "cache_read_tokens"), ("cache_creation_input_tokens", "cache_write_tokens"))
_OF_LINE = ("type", "message", "isSidechain", "session_id", "parent_tool_use_id")
_MADE = re.compile(r"Task #(\S+) created")
_ANSWERS = 256  # of the model, whose lines may still come


def usage_of(given: Any) -> Usage:
    """The usage in an answer of Anthropic's API in our parts; {} where it says none."""
    if not isinstance(given, dict):
        return {}
    used = {
        "input_tokens": count(sum(count(given.get(key)) or 0 for key in _INPUT)) or 0,
        "output_tokens": count(given.get("output_tokens")) or 0,
        **{ours: number for theirs, ours in _PARTS if (number := count(given.get(theirs)))},
    }
    return used if count(total_of(used)) else {}


def only_text(value: Any) -> Any:
    """A tool's result; where it is one content part of text, the text."""
    one = value[0] if isinstance(value, list) and len(value) == 1 else None
    return one["text"] if isinstance(one, dict) and set(one) == {"type", "text"} else value


@dataclass
class AnswerParts:
    """An answer of the model, of which one block after the other comes."""

    key: str  # of the message that has its usage
    used: Usage
    blocks: int = 0


@dataclass
class OpenCall:
    """A tool's call that waits for its result."""

    key: str
    content: dict[str, Any]
    at: str | None
    goal_id: str | None


@dataclass
class _Line:
    """What is kept of a line, to know what a new branch leaves."""

    parent: str | None
    prompt: bool
    keys: list[str] = field(default_factory=list)
    left: bool = False


class LinesOf(Protocol):
    """What the lines of an agent are told to beside its own trace: the session, as claude_session.py has it."""

    out: list[Step]
    constant: dict[str, Any]
    clock: str | None

    def other_line(self, agent: ClaudeAgent, key: str, row: dict[str, Any], at: str | None) -> None:
        """Take a line that is neither the user's nor the model's."""

    def notified(self, agent: ClaudeAgent, key: str, row: dict[str, Any], at: str | None) -> bool:
        """Take a user's line, if it is a task notification."""

    def note_command(self, row: dict[str, Any]) -> None:
        """Take a user's line without words."""

    def prompted(self, agent: ClaudeAgent, key: str, prompt: str, at: str | None, *, copied: bool) -> None:
        """Take the words of a user's line."""

    def answered(self, agent: ClaudeAgent, row: dict[str, Any], message: dict[str, Any], at: str | None) -> None:
        """Take that a line of the model's is at its end."""

    def called(
        self, caller: ClaudeAgent, call_id: str, key: str, tool: str, given: dict[str, Any], goal_id: str | None
    ) -> None:
        """Take a call that begins sub-agents."""

    def returned(
        self, caller: ClaudeAgent, call_id: str, call: OpenCall, told: Any, value: Any, failed: bool, at: str | None
    ) -> None:
        """Take the result of a call."""

    def task_changed(self, caller: ClaudeAgent, given: dict[str, Any], key: str, at: str | None) -> None:
        """Take a change of a task."""


class ClaudeAgent:
    """One agent of a session, and its trace. ``put`` writes a fact of the trace."""

    def __init__(self, session: LinesOf, trace_id: str) -> None:
        self.trace_id = trace_id
        self.plan = ImportedPlan(self._goal, self.event)
        self.last_text = ""
        self.answers: dict[str, AnswerParts] = {}
        self.calls: dict[str, OpenCall] = {}  # open ones by the source's id, oldest first
        self.at: str | None = None  # the last time in a line; a line without a time gets it
        self.empty = True  # no message yet
        self.error: str | None = None
        self.open = True  # the last line waits for the agent
        self.interrupted = False
        self.turns = 0
        self.ended_turn = False
        self.last_key = ""  # of the line that was told last
        self._session = session
        self._closed: dict[str, OpenCall] = {}  # without a result
        self._seen: LongDict[int] = LongDict()  # key of a line → what it says, as a hash
        self._used: LongDict[bool] = LongDict()  # ids of calls
        self._lines: LongDict[_Line] = LongDict()
        self._copied: dict[str, str] = {}  # said of the messages of a line that a fork has copied
        self._last: str | None = None
        self._waits = False  # the line that is told is one that the agent answers

    # --- facts ---

    def put(self, kind: str, key: str, fields: dict[str, Any], at: str | None) -> None:
        """Write a fact of this trace."""
        self._session.out.append(Put(self.trace_id, kind, key[:250], fields, at))

    def _goal(self, goal_id: str, fields: dict[str, Any], at: str | None) -> None:
        self.put("goal", goal_id, fields, at)

    def event(self, key: str, name: str, payload: dict[str, Any], at: str | None) -> None:
        """Write an event, told by what has this key."""
        self.put("event", key, {"event": name, **payload}, at)

    def message(self, key: str, role: str, content: Any, at: str | None, **fields: Any) -> str:
        """Write a complete message and return its key."""
        if isinstance(content, str) and role == "assistant" and content.strip() and fields.get("kind") != "thought":
            self.last_text = content
        self.empty = False
        goal = {"goal_id": self.plan.current}
        self.put("message", key, {**goal, "role": role, "content": content, **fields, **self._copied}, at)
        return key

    # --- lines ---

    def line(self, number: int, row: dict[str, Any], file: str | None, copied_from: str | None = None) -> None:
        """Take one line. ``number`` and ``file`` are its place, for faults and where it has no id of its own.

        ``copied_from``: the trace that a copied line of a fork is of.
        """
        self._copied = {} if copied_from is None else {"copied_from": copied_from}
        uuid = row.get("uuid")
        key = uuid if isinstance(uuid, str) and uuid else f"line {digest_of(row)}"
        told = hash(orjson.dumps(row.get("message", row)))
        before = self._seen.get(key)
        if before == told:
            return
        if before is not None:  # another line under the same id
            key = f"{key}.{number}"
        self._seen[key] = told
        self.last_key = key
        at = self.at = time_of(row.get("timestamp")) or self._session.clock or self.at
        kind, message = row.get("type"), row.get("message")
        if kind not in ("user", "assistant"):
            self._session.other_line(self, key, row, at)
        elif not isinstance(message, dict):
            self._fault(number, "message", "must be a JSON object", file)
            self.keep(key, row, at)
        elif not isinstance(message.get("content"), (str, list)):
            self._fault(number, "message.content", "must be text or a list of blocks", file)
            self.keep(key, row, at)
        elif row.get("isCompactSummary"):
            self.event(key, "line.compact_summary", {"line": row}, at)
        elif not self._session.notified(self, key, row, at):
            self._message(_Place(key, number, file), row, message, at)
        if kind not in ("user", "assistant") and isinstance(uuid, str):
            self._lines[uuid] = _Line(_text(row.get("parentUuid")), False)

    def _fault(self, number: int, path: str, message: str, file: str | None) -> None:
        self._session.out.append(ImportFault(message, number, path, file))

    def keep(self, key: str, row: dict[str, Any], at: str | None) -> None:
        """Keep the whole line as an event."""
        kind = row.get("subtype") if row.get("type") == "system" else row.get("type")
        name = re.sub(r"[^a-z0-9_.]", "_", kind.lower()) if isinstance(kind, str) and kind else "unknown"
        self.event(key, f"line.{name}"[:64], {"line": row}, at)

    def _message(self, place: _Place, row: dict[str, Any], message: dict[str, Any], at: str | None) -> None:
        role = "assistant" if row["type"] == "assistant" else name_of(message.get("role")) or "user"
        if role == "user" and (row.get("isMeta") or row.get("isSynthetic")):
            role = "system"
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        line = self._begin_line(place.key, row, at)
        model = name_of(message.get("model"))
        first: dict[str, Any] = {
            "source": self._source(row, message),
            "model": None if model == "<synthetic>" else model,
        }
        answer, used = name_of(message.get("id")), {} if self._copied else usage_of(message.get("usage"))
        counted = self.answers.get(answer or "")
        if answer and counted is None and role == "assistant":
            counted = self._begin_answer(answer)
        if used and (counted is None or not counted.used):
            first |= {"tokens": total_of(used), "usage": used, "cost": amount(row.get("costUSD")), "answer": answer}
        written = unreadable = False
        for index, block in enumerate(blocks):
            if not isinstance(block, dict):
                self._fault(place.number, f"message.content[{index}]", "a block is a JSON object", place.file)
                unreadable = True
                continue
            written = True
            place.index, place.many, place.answer, place.answer_id = index, len(blocks) > 1, counted, answer or ""
            if key := self._block(place, role, block, at, first):
                line.keys.append(key)
                if counted is not None and "usage" in first:
                    counted.key, counted.used = key, used
                first = {}
        self._lines[place.key] = line
        if counted is not None and counted.key and total_of(used) > total_of(counted.used):
            counted.used = used
            self.put("message", counted.key, {"tokens": total_of(used), "usage": used, "answer": answer}, at)
        if unreadable or not written:
            self.keep(place.key, row, at)
        if row["type"] == "assistant":
            self._session.answered(self, row, message, at)

    def _begin_answer(self, answer: str) -> AnswerParts:
        if len(self.answers) >= _ANSWERS:
            del self.answers[next(iter(self.answers))]
        begun = self.answers[answer] = AnswerParts("", {})
        return begun

    def _begin_line(self, key: str, row: dict[str, Any], at: str | None) -> _Line:
        prompt, parent = asked(row), _text(row.get("parentUuid"))
        line = _Line(parent, bool(prompt))
        self._waits = bool(prompt)
        if not prompt:
            self._session.note_command(row)
        else:
            self._session.prompted(self, key, prompt, at, copied=bool(self._copied))
            if parent is not None and parent != self._last and parent in self._lines:
                self._leave(key, parent, at)
        self._last = key
        return line

    def _leave(self, key: str, parent: str, at: str | None) -> None:
        """Mark what stands below ``parent`` and is left by the prompt ``key``, if a prompt is among it."""
        below, left = {parent}, {}
        for uuid, line in self._lines.after(parent):
            if line.parent in below:
                below.add(uuid)
                if not line.left:
                    left[uuid] = line
        if not any(line.prompt for line in left.values()):
            return
        keys = [one for line in left.values() for one in line.keys]
        for uuid, line in left.items():
            line.left = True
            self._lines[uuid] = line
        self.event(f"{key}.rewind", "session.rewind", {"after": parent, "left": len(keys), "by": key}, at)
        for one in keys:
            self.put("message", one, {"left": True, "status": "running"}, at)

    def _source(self, row: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        source = without(row, *_OF_LINE, *(("timestamp",) if time_of(row.get("timestamp")) else ()))
        for key in CONSTANT:
            if key in source and source[key] == self._session.constant.get(key):
                del source[key]
        of_message = without(message, "role", "content", "model", "type")
        return source | ({"message": of_message} if of_message else {})

    # --- blocks ---

    def _block(
        self, place: _Place, role: str, block: dict[str, Any], at: str | None, first: dict[str, Any]
    ) -> str | None:
        """Write one block; returns the key of its message. A result goes into its call's message and returns None."""
        kind = block.get("type")
        if kind == "tool_result":
            self.open = True
            self.result(place, block, at, first.pop("source", None))
            return None
        key = place.next()
        if kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
            self.open = True
            return self._call(place, block, at, first)
        if kind == "text" and isinstance(block.get("text"), str):
            self.open = role != "assistant" and (self._waits or self.open)
            self.interrupted = role == "user" and interrupted(block["text"])
            rest = without(block, "type", "text") or None
            if role == "user" and by_program(block["text"]):
                role = "system"
            return self.message(key, role, block["text"], at, block=rest, status="complete", **first)
        self.open = True
        if kind == "thinking" and isinstance(block.get("thinking"), str):
            rest = without(block, "type", "thinking") or None
            return self.message(
                key, role, block["thinking"], at, kind="thought", block=rest, status="complete", **first
            )
        named = kind if isinstance(kind, str) else None
        return self.message(key, role, block, at, kind=named, description=named, **first)

    def _call(self, place: _Place, block: dict[str, Any], at: str | None, first: dict[str, Any]) -> str:
        tool, given = name_of(block.get("name")) or "unknown", block.get("input")
        call_id = block["id"] if isinstance(block.get("id"), str) and block["id"] else place.key
        key, again = call_id[:240], 1
        while key in self._used:
            key, again = f"{call_id[:240]}.{again + 1}", again + 1
        self._used[key] = True
        content = {"tool_name": tool} | ({} if given is None else {"arguments": given})
        goal_id = self.plan.current
        inputs: dict[str, Any] = given if isinstance(given, dict) else {}
        is_agent = tool in AGENT_TOOLS and isinstance(inputs.get("prompt"), str) and not self._copied
        if is_agent and goal_id is None:
            goal_id = f"agent-{key}"[:250]
            title = inputs.get("description")
            title = title if isinstance(title, str) and title.strip() else first_line(inputs["prompt"])
            self.put("goal", goal_id, {"description": title, "type": "agent_call", "status": "in_progress"}, at)
        self.calls[call_id if call_id not in self.calls else key] = OpenCall(key, content, at, goal_id)
        rest = without(block, "type", "name", "id", "input") or None
        fields = {"role": "tool", "goal_id": goal_id, "content": content, "status": "running", "block": rest}
        fields |= self._copied
        self.put("message", key, {**fields, "tool_call_id": name_of(call_id), **first}, at)
        self.empty = False
        if is_agent or (tool == "Workflow" and not self._copied):
            self._session.called(self, call_id, key, tool, inputs, goal_id)
        else:
            self._plans(place, tool, key, inputs, at)
        return key

    def _plans(self, place: _Place, tool: str, key: str, given: dict[str, Any], at: str | None) -> None:
        if tool == "TodoWrite" and isinstance(given.get("todos"), list):
            for path, fault in self.plan.write(given["todos"], at, key):
                where = f"message.content[{place.index}].input.todos{path}"
                self._fault(place.number, where, fault, place.file)
        elif tool == "TaskUpdate":
            self._session.task_changed(self, given, key, at)

    def result(self, place: _Place, block: dict[str, Any], at: str | None, source: dict[str, Any] | None) -> None:
        """Write the result of a call into the call's message, or a message of its own if there is no such call."""
        call_id = block["tool_use_id"] if isinstance(block.get("tool_use_id"), str) else ""
        value, failed = block.get("content"), block.get("is_error") is True
        value = only_text(value)
        source = dict(source or {})
        told = source.get("toolUseResult", source.get("tool_use_result"))
        if isinstance(value, str) and told in (value, f"Error: {value}"):
            source.pop("toolUseResult", None)  # it repeats the text
            source.pop("tool_use_result", None)
        call = self.calls.pop(call_id, None) or self._closed.pop(call_id, None)
        outcome = {"error" if failed else "result": value}
        fields: dict[str, Any] = {"role": "tool", "tool_call_id": name_of(call_id), "status": "complete"}
        fields |= {"result_source": source or None}
        if call is None:
            key = f"{place.key}.{place.index}" if call_id in self._used or not call_id else call_id
            self._used[call_id] = True
            content = {"tool_name": "unknown", **outcome}
            self.message(key, "tool", content, at, **without(fields, "role"), no_call=True)
            return
        if at and call.at:
            fields["duration_ms"] = max(0, round((parse_time(at) - parse_time(call.at)) * 1000))
        content = {**call.content, **outcome}
        self.put("message", call.key, {**fields, "goal_id": call.goal_id, "content": content}, at)
        self._session.returned(self, call_id, call, told, value, failed, at)

    def task_made(self, call: OpenCall, told: Any, value: Any, at: str | None) -> None:
        """Take the result of TaskCreate: its task is a goal from now on."""
        task = told.get("task") if isinstance(told, dict) else None
        made = _MADE.search(value) if isinstance(value, str) else None
        task_id = str(task["id"]) if isinstance(task, dict) and "id" in task else made[1] if made else None
        given = call.content.get("arguments")
        given = given if isinstance(given, dict) else {}
        subject = given.get("subject") or (task.get("subject") if isinstance(task, dict) else None)
        if task_id is not None and isinstance(subject, str):
            self.plan.add(task_id[:100], subject, at, todo=without(given, "subject"))

    # --- the end ---

    def close(self, at: str | None) -> None:
        """Close the calls that never got a result."""
        for call in self.calls.values():
            fields = {"role": "tool", "goal_id": call.goal_id, "content": call.content}
            self.put("message", call.key, {**fields, "status": "complete"}, at)
        self._closed |= self.calls  # a line that comes late may have a result after all
        self.calls.clear()

    def end(
        self,
        key: str,
        status: str,
        at: str | None,
        *,
        summary: str = "",
        error: str | None = None,
        whole: bool = False,
    ) -> None:
        """End the trace. ``whole``: because there are no more lines, and not as one of them says."""
        fields: dict[str, Any] = {"whole": True} if whole else {}
        fields |= {"status": status, "summary": clip(summary, 2000) or None, "error": error and clip(error, 2000)}
        self.put("status", key, fields, at)


@dataclass
class _Place:
    """Where a block stands."""

    key: str  # of its line
    number: int
    file: str | None
    index: int = 0
    many: bool = False
    answer: AnswerParts | None = None
    answer_id: str = ""

    def next(self) -> str:
        """The key of the block's message."""
        if self.answer is None:
            return f"{self.key}.{self.index}" if self.many else self.key
        self.answer.blocks += 1
        return f"{self.answer_id}.{self.answer.blocks - 1}"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
