"""The lines of one Claude Code transcript become events of its trace.

Rule 1: one content block is one message: text, thinking (``kind: thought``), a tool's call and result together. Other
        keys of a line and its message are kept in the message's ``source`` (for a result: ``result_source``). Values
        that the whole session repeats stand in the trace's metadata instead.
Rule 2: usage and cost are counted once for each answer of the model. One answer is spread over several lines, and each
        of them repeats its usage. Its input_tokens are those beside the cache; ours are all that went in.
Rule 3: TodoWrite makes goals (plans.py). Agent and Task calls make sub-traces, below the to-do in progress or, if
        there is none, below a goal of type ``agent_call``.
Rule 4: a line of another type is an event ``line.<type>`` with the whole ``line``. So is a partly unreadable line,
        beside its ImportFault.
Rule 5: a transcript is completed if its last message is the agent's answer in words and the file is whole to its end.
        One whose last answer is an API error has failed. Any other one, such as one that the user interrupted, or that
        ends with a question, a thought or a tool, is stopped.
Rule 6: what a transcript says at its end, such as how it stands, is told by closing events: it may have grown when it
        is imported again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..model.fit import amount, count
from ..model.times import parse_time
from ..model.usage import Usage, total_of
from .plans import ImportedPlan
from .reading import first_line, name_of, text_of, time_of, without
from .steps import ImportFault
from .traces import TraceWriter

CONSTANT = ("sessionId", "cwd", "version", "userType", "gitBranch", "agentId")
_AGENT_TOOLS = frozenset({"Agent", "Task"})
_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_PARTS = (("cache_read_input_tokens", "cache_read_tokens"), ("cache_creation_input_tokens", "cache_write_tokens"))
_INTERRUPTED = "[Request interrupted by user"
_BY_PROGRAMS = ("<command-", "<local-command", "<system-reminder", "Caveat:")  # user messages that no user wrote
_NOT_ASKED = (*_BY_PROGRAMS, _INTERRUPTED)

Rows = Iterator[tuple[int, Any]]


@dataclass
class Session:
    """One session: the data that all its transcripts share."""

    constant: dict[str, Any]
    links: dict[str, str]  # call id → agent id
    files: dict[str, tuple[str, Rows]]  # agent id → its file's name and lines, until they are written
    tasks: dict[str, str]  # agent id → its task
    session_id: str | None  # its own; lines of another one are a copy
    trace_id: str  # of the session
    used_ids: set[str] = field(default_factory=set)  # of its sub-traces

    def sub_trace_id(self, source_id: str) -> str:
        """A new trace id for a sub-agent, from the id of its call, of the agent, or of its first line."""
        trace_id = plain = f"{self.trace_id}-{as_id(source_id)}"
        number = 1
        while trace_id in self.used_ids:
            number += 1
            trace_id = f"{plain}.{number}"
        self.used_ids.add(trace_id)
        return trace_id


@dataclass
class _Sub:
    """A sub-agent of a transcript."""

    transcript: Transcript
    prompt: str
    goal_id: str | None  # the goal that was made for it alone
    claimed: bool = False  # whether its lines were found


def as_id(source_id: str) -> str:
    """A part of a trace id from an id of the source's: itself, or its digest where it has other characters."""
    if re.fullmatch(r"[A-Za-z0-9._:@-]{1,50}", source_id):
        return source_id
    return hashlib.sha256(source_id.encode("utf-8", "replace")).hexdigest()[:16]


def task_in(row: dict[str, Any]) -> str:
    """The question of the user in a line; "" if there is none, or if a program wrote the line in the user's name."""
    message = row.get("message")
    if row.get("type") != "user" or row.get("isMeta") or not isinstance(message, dict):
        return ""
    text = text_of(message.get("content")).strip()
    return "" if text.startswith(_NOT_ASKED) else text


def _answer(value: Any) -> str:
    """A sub-agent's answer to its caller, without the note on how to call it again."""
    if isinstance(value, list):
        value = [part for part in value if not (isinstance(part, dict) and text_of([part]).startswith("agentId: "))]
    return text_of(value)


def _used(message: dict[str, Any]) -> Usage:
    """The usage of a model's answer in our parts; {} where it says none."""
    given = message.get("usage")
    if not isinstance(given, dict):
        return {}
    used = {
        "input_tokens": count(sum(count(given.get(key)) or 0 for key in _INPUT)) or 0,
        "output_tokens": count(given.get("output_tokens")) or 0,
        **{ours: number for theirs, ours in _PARTS if (number := count(given.get(theirs)))},
    }
    return used if count(total_of(used)) else {}


class Transcript:
    """Writes one agent's lines into its trace."""

    def __init__(
        self, session: Session, trace: TraceWriter, file: str | None, *, sidechain: bool, at: str | None = None
    ) -> None:
        self.trace = trace
        self._session = session
        self._file = file  # its name, for faults
        self._sidechain = sidechain  # all lines are marked isSidechain and are this trace's own
        self._plan = ImportedPlan(trace)
        self._subs: dict[str, _Sub] = {}  # by the id of the call, or the first line's uuid
        self._chains: dict[str, _Sub] = {}  # uuid of a line inside the session → the sub-agent that wrote it
        self._began: dict[str, str] = {}  # call id → time
        self._usage: dict[str, tuple[str, Usage]] = {}  # id of the model's answer → (our message_id, what it used)
        self._at = at  # the last time in a line; a line without a time gets it
        self._summary = ""
        self._error: str | None = None
        self._interrupted = False
        self._answered = False  # the last message is the agent's answer in words
        self._copied_from: str | None = None  # the trace of the session whose line this is, if it is another one
        self._empty = True

    # --- lines ---

    def line(self, number: int, row: Any) -> None:
        """Write one line: its object, or its ImportFault."""
        if isinstance(row, ImportFault):
            self.trace.out.append(replace(row, file=self._file))
            self._answered = False  # what it was nobody knows
            return
        at = self._at = time_of(row.get("timestamp")) or self._at
        if row.get("isSidechain") is True and not self._sidechain:
            self._of_sub_agent(row).line(number, row)
            return
        self._empty = False
        session_id = row.get("sessionId")
        copied = isinstance(session_id, str) and session_id and session_id != self._session.session_id
        self._copied_from = f"cc-{as_id(session_id)}" if copied else None
        kind, message = row.get("type"), row.get("message")
        if kind not in ("user", "assistant"):
            if kind == "summary" and isinstance(row.get("summary"), str):
                self._summary = row["summary"]
            self._keep(row, at)
        elif not isinstance(message, dict):
            self._fault(number, "message", "must be a JSON object")
            self._keep(row, at)
        elif not isinstance(message.get("content"), (str, list)):
            self._fault(number, "message.content", "must be text or a list of blocks")
            self._keep(row, at)
        else:
            self._message(number, row, message, at)

    def _fault(self, number: int, path: str, message: str) -> None:
        self.trace.out.append(ImportFault(message, number, path, self._file))

    def _keep(self, row: dict[str, Any], at: str | None) -> None:
        kind = row.get("type")
        name = re.sub(r"[^a-z0-9_.]", "_", kind.lower()) if isinstance(kind, str) and kind else "unknown"
        self.trace.event(f"line.{name}"[:64], {"line": row}, at=at)

    def _message(self, number: int, row: dict[str, Any], message: dict[str, Any], at: str | None) -> None:
        role = "assistant" if row["type"] == "assistant" else name_of(message.get("role")) or "user"
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        first: dict[str, Any] = {"source": self._source(row, message), "model": name_of(message.get("model"))}
        copied = {} if self._copied_from is None else {"copied_from": self._copied_from}
        answer, used = name_of(message.get("id")), {} if copied else _used(message)
        first |= copied
        counted = self._usage.get(answer or "")
        if counted is None and used:
            first |= {"tokens": total_of(used), "usage": used, "cost": amount(row.get("costUSD"))}
        place, unreadable, before = len(self.trace.out), False, self._answered
        for index, block in enumerate(blocks):
            if not isinstance(block, dict):
                self._fault(number, f"message.content[{index}]", "a block is a JSON object")
                unreadable = True
            elif message_id := self._block(number, index, role, block, at, first):
                if answer and "usage" in first:
                    self._usage[answer] = (message_id, used)
                first = dict(copied)
        if counted is not None and answer and total_of(used) > total_of(counted[1]):
            self._usage[answer] = (counted[0], used)
            patch = {"tokens": total_of(used), "usage": used}
            self.trace.event("message_updated", {"message_id": counted[0], "patch": patch}, at=at)
        if unreadable or len(self.trace.out) == place:
            self._keep(row, at)
        if row["type"] == "assistant":
            self._error = text_of(content) if row.get("isApiErrorMessage") else None
            self._answered = self._answered and message.get("stop_reason") != "tool_use"
        elif row.get("isMeta") or text_of(content).lstrip().startswith(_BY_PROGRAMS):
            self._answered = before  # nobody has asked anything

    def _source(self, row: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        source = without(
            row, "type", "message", "isSidechain", *(("timestamp",) if time_of(row.get("timestamp")) else ())
        )
        for key in CONSTANT:
            if key in source and source[key] == self._session.constant.get(key):
                del source[key]
        of_message = without(message, "role", "content", "model", "type")
        return source | ({"message": of_message} if of_message else {})

    # --- blocks ---

    def _block(
        self, number: int, index: int, role: str, block: dict[str, Any], at: str | None, first: dict[str, Any]
    ) -> str | None:
        """Write one block; returns the id of its message. A result goes into its call's message and returns None."""
        kind = block.get("type")
        if kind == "tool_result":
            self._answered = False
            self._result(block, at, first.get("source"))
            first.pop("source", None)
            return None
        self._answered = kind == "text" and role == "assistant"
        if kind == "tool_use":
            return self._call(number, index, block, at, first)
        if kind == "text" and isinstance(block.get("text"), str):
            if role == "assistant":
                self._interrupted = False
            else:
                self._interrupted = block["text"].startswith(_INTERRUPTED)
            return self.trace.message(role, block["text"], at=at, block=without(block, "type", "text"), **first)
        if kind == "thinking" and isinstance(block.get("thinking"), str):
            rest = without(block, "type", "thinking")
            return self.trace.message(role, block["thinking"], at=at, kind="thought", block=rest, **first)
        named = kind if isinstance(kind, str) else None
        return self.trace.message(role, block, at=at, kind=named, description=named, **first)

    def _call(self, number: int, index: int, block: dict[str, Any], at: str | None, first: dict[str, Any]) -> str:
        tool, given = name_of(block.get("name")) or "unknown", block.get("input")
        call_id = block["id"] if isinstance(block.get("id"), str) else None
        if call_id and at:
            self._began[call_id] = at
        first = {**first, "block": without(block, "type", "name", "id", "input")}
        prompt = given.get("prompt") if isinstance(given, dict) else None
        asks = self._copied_from is None and tool in _AGENT_TOOLS  # a copied one's trace is the other session's
        if asks and isinstance(given, dict) and isinstance(prompt, str):
            return self._call_agent(tool, call_id, given, at, first)
        message_id = self.trace.call(tool, given, call_id=call_id, at=at, **first)
        if tool == "TodoWrite" and isinstance(given, dict) and isinstance(given.get("todos"), list):
            for path, fault in self._plan.write(given["todos"], at):
                self._fault(number, f"message.content[{index}].input.todos{path}", fault)
        return message_id

    def _result(self, block: dict[str, Any], at: str | None, source: dict[str, Any] | None) -> None:
        call_id = block["tool_use_id"] if isinstance(block.get("tool_use_id"), str) else None
        value, failed = block.get("content"), block.get("is_error") is True
        if (
            isinstance(value, list)
            and len(value) == 1
            and isinstance(value[0], dict)
            and set(value[0]) == {"type", "text"}
        ):
            value = value[0]["text"]
        source = dict(source or {})
        if isinstance(value, str) and source.get("toolUseResult") in (value, f"Error: {value}"):
            del source["toolUseResult"]  # it repeats the text
        took = None
        if at and call_id in self._began:
            took = max(0, round((parse_time(at) - parse_time(self._began.pop(call_id))) * 1000))
        # A call that was closed by an earlier import ended then
        self.trace.result(call_id, value, failed=failed, at=at, result_source=source, duration_ms=took, ended_at=at)
        if call_id in self._subs:
            self._end_sub(self._subs.pop(call_id), _answer(value), failed, at)

    # --- sub-agents ---

    def _call_agent(
        self, tool: str, call_id: str | None, given: dict[str, Any], at: str | None, first: dict[str, Any]
    ) -> str:
        prompt, title = given["prompt"], given.get("description")
        goal_id = None
        if self._plan.current is None:
            title = title if isinstance(title, str) and title.strip() else first_line(prompt)
            goal_id = self.trace.goal(title, type="agent_call", status="in_progress", at=at)
            first = {**first, "goal_id": goal_id}
        trace = self.trace.child(self._session.sub_trace_id(call_id) if call_id else None)
        message_id = self.trace.call(tool, given, call_id=call_id, at=at, sub_trace_id=trace.trace_id, **first)
        # An id that comes twice belongs to the first call, so that each sub-agent is ended
        key = call_id if call_id and call_id not in self._subs else trace.trace_id
        self._subs[key] = self._begin_sub(
            trace,
            prompt,
            agent_type=name_of(given.get("subagent_type")) or "general-purpose",
            agent_id=self._session.links.get(call_id or "") or self._by_task(prompt),
            goal_id=goal_id,
            at=at,
        )
        return message_id

    def _by_task(self, prompt: str) -> str | None:
        """The id of the agent whose transcript begins with ``prompt``, for sessions whose results name no agent."""
        taken = set(self._session.links.values())
        for agent_id in self._session.files:
            if agent_id not in taken and self._session.tasks[agent_id] == prompt.strip():
                return agent_id
        return None

    def _begin_sub(
        self,
        trace: TraceWriter,
        prompt: str,
        *,
        agent_type: str,
        agent_id: str | None = None,
        goal_id: str | None = None,
        at: str | None = None,
    ) -> _Sub:
        """Create a sub-agent's trace and write the sub-agent's file into it, if there is one."""
        file, rows = self._session.files.pop(agent_id or "", (self._file, None))
        metadata = {"format": "claude-code"} | ({"agent_id": agent_id} if agent_id else {})
        parent_goal = goal_id or self._plan.current
        trace.create(
            prompt, agent_type=agent_type, parent=self.trace, parent_goal_id=parent_goal, metadata=metadata, at=at
        )
        transcript = Transcript(self._session, trace, file, sidechain=True, at=at)
        for number, row in rows or ():
            transcript.line(number, row)
        return _Sub(transcript, prompt, goal_id, claimed=rows is not None)

    def _of_sub_agent(self, row: dict[str, Any]) -> Transcript:
        """The transcript of the sub-agent that wrote this line, found by the line before it, its id or its prompt."""
        uuid, agent_id = row.get("uuid"), row.get("agentId")
        sub = self._chains.get(str(row.get("parentUuid"))) or self._chains.get(f"agent {agent_id}")
        if sub is None:
            task = task_in(row)
            waiting = [s for s in self._subs.values() if not s.claimed and s.prompt.strip() == task]
            sub = waiting[0] if waiting else None
            if sub is None:
                source_id = next((one for one in (agent_id, uuid) if isinstance(one, str) and one), None)
                trace = self.trace.child(self._session.sub_trace_id(source_id) if source_id else None)
                sub = self._begin_sub(trace, task, agent_type="sidechain", at=time_of(row.get("timestamp")))
                self._subs[f"line {uuid or len(self._subs)}"] = sub
            sub.claimed = True
        self._chains[str(uuid)] = sub
        if isinstance(agent_id, str):
            self._chains[f"agent {agent_id}"] = sub
        return sub.transcript

    def adopt_unclaimed(self) -> None:
        """Write the transcripts without a known call as sub-traces of this one."""
        for agent_id in list(self._session.files):
            if agent_id in self._session.files:  # a transcript adopted before may have called it
                task = self._session.tasks[agent_id]
                trace = self.trace.child(self._session.sub_trace_id(agent_id))
                sub = self._begin_sub(trace, task, agent_type="sidechain", agent_id=agent_id, at=self._at)
                self._subs[f"file {agent_id}"] = sub

    def _end_sub(
        self, sub: _Sub, answer: str = "", failed: bool = False, at: str | None = None, *, answered: bool = True
    ) -> None:
        child = sub.transcript
        if child._empty and answered:  # without its transcript, the prompt and the answer are all that is known
            child.trace.message("user", sub.prompt, at=at, no_transcript=True)
            if answer.strip():
                child.trace.message("assistant", answer, at=at, no_transcript=True)
        # One that never answered its caller ended with its last line
        status = child.finish(answer, failed=failed, at=at if answer or failed or child._empty else None)
        if sub.goal_id is not None and answered:
            goal_status = "completed" if status == "completed" else "abandoned"
            self.trace.goal_update(sub.goal_id, status=goal_status, summary=answer or None, at=at)

    # --- the end ---

    def finish(self, answer: str = "", *, failed: bool = False, at: str | None = None) -> str:
        """End the trace and its open sub-traces; returns its status. ``answer`` is the answer that its caller got."""
        at = max((t for t in (at, self._at) if t), default=None)  # a transcript may go on after its answer
        for key in list(self._subs):
            self._end_sub(self._subs.pop(key), at=at, answered=False)
        summary = answer or self._summary or self.trace.last_text
        status, error = "completed", None
        if failed or self._error is not None:
            status, error = "failed", (answer if failed else self._error)
        elif answer:
            pass  # the caller got an answer, so it is completed, whatever its last line is
        elif self._interrupted:
            status, summary = "stopped", "interrupted by the user"
        elif not self._answered:
            status, summary = "stopped", "the transcript ends before the agent has answered"
        self.trace.complete(status, summary=summary, error=error, at=at)
        return status
