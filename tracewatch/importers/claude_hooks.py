"""What Claude Code's hooks tell of a session while it is at work, as the facts that its transcript tells later.

Rule 1: a hook has no time and is not sent again: it is of the moment when it comes, and what comes out of order is
        taken as it comes. After a restart the mapping knows nothing, and needs to know nothing: the log does.
Rule 2: tools, plans and sub-agents are those of the transcript, by the same ids (claude_session.py). Prompts and
        answers have ids of their own, and are the transcript's twins (twins.py).
Rule 3: which call began a sub-agent, its first hook does not say: the one that has waited longest for an agent of this
        type. The transcript's folder says it where it can be read.
Rule 4: a hook that is not known is kept as an event ``hook.<its name>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from .claude_lines import ClaudeAgent
from .claude_session import ClaudeSession
from .reading import digest_of, name_of, without
from .steps import Put
from .twins import HOOK

_BASE = ("session_id", "transcript_path", "cwd", "prompt_id", "permission_mode", "hook_event_name", "effort")
_NOTE = re.compile(r"<(task-id|tool-use-id|status|summary|result)>(.*?)</\1>", re.DOTALL)
_NAME = re.compile(r"(?<=[a-z])(?=[A-Z])")
_REPEATS = ("TaskCreated", "TaskCompleted", "InstructionsLoaded", "UserPromptExpansion")  # of what others say
PERMISSION = "PermissionRequest"


@dataclass
class Permission:
    """A permission that a session asks for. ``call_id``: of the tool's call, where it is known."""

    trace_id: str
    key: str
    tool: str
    given: dict[str, Any]
    call_id: str | None
    agent: str  # who asks
    cwd: str | None
    suggestions: list[Any]


@dataclass
class ClaudeHooks:
    """The mapping of one session's hooks. ``followed``: its transcript is read as well, and says what hooks don't."""

    session_id: str
    followed: bool = False
    puts: list[Put] = field(default_factory=list)
    ended: bool = False  # by its last hook
    at_work: bool | None = None  # within a turn; None: not known

    def __post_init__(self) -> None:
        """Begin the session."""
        self._session = ClaudeSession(self.session_id)
        self._session.sidechains = True  # nothing is made up of what a sub-agent did not tell itself
        self._calls: dict[str, tuple[str, Any, str | None]] = {}  # id of an open call → tool, input, agent
        self._known: set[str] = set()  # ids of calls
        self._pieces: dict[str, dict[int, dict[str, Any]]] = {}  # answer → pieces that wait for those before them
        self._next: dict[str, int] = {}
        self._about: dict[str, Any] = {}
        self._number = 0

    @property
    def trace_id(self) -> str:
        """The session's trace."""
        return self._session.trace_id

    def hook(self, body: dict[str, Any], at: str) -> Permission | None:
        """Take one hook's body, which came at ``at``; what it asks for, if it does. ``drain`` has its facts."""
        session, name = self._session, body.get("hook_event_name")
        session.clock = at
        self.ended = False
        self._about = {key: body[key] for key in ("cwd", "transcript_path") if isinstance(body.get(key), str)}
        if name != "MessageDisplay":
            self._release()
        take = _HOOKS.get(str(name))
        asked = None
        if name in _REPEATS:
            return None
        if take is not None:
            take(self, body, at)
        elif name == PERMISSION:
            asked = self._permission(body, at)
        else:
            self._keep(body, at)
        return asked

    def recall(self, goals: list[dict[str, Any]]) -> None:
        """Take the plan that the log has of the session, when this mapping begins in the middle of it."""
        self._session.main.plan.remember(goals)

    def drain(self) -> list[Put]:
        """The facts since the last time."""
        found: list[Put] = []
        for step in self._session.drain():
            if not isinstance(step, Put):
                continue
            fields = step.fields
            if step.kind == "trace" and step.trace_id == self.trace_id:
                metadata = {**fields["metadata"], **({"hooks": self._about} if self._about else {})}
                step = replace(step, fields={**fields, "metadata": metadata})
            elif step.kind == "message" and fields.get("role") in ("user", "system", "assistant"):
                step = replace(step, fields={**fields, "told_by": HOOK})
            found.append(step)
        return found

    # --- what hooks say ---

    def _line(self, uuid: str, kind: str, content: Any, body: dict[str, Any], **more: Any) -> None:
        self._number += 1
        row = {"type": kind, "uuid": uuid, "message": {"role": kind, "content": content}, **more}
        agent_id = body.get("agent_id")
        self._session.line(self._number, row, agent_id=agent_id if isinstance(agent_id, str) and agent_id else None)

    def _prompt(self, body: dict[str, Any], at: str) -> None:
        prompt = _text(body.get("prompt")) or ""
        key = _text(body.get("prompt_id")) or digest_of(body)
        main = self._session.main
        main.put("status", f"turn prompt {key}", {"status": "running"}, at)
        self.at_work = main.open = True
        main.ended_turn = False
        if prompt.lstrip().startswith("<task-notification>"):
            told = {name.replace("-", "_"): value.strip() for name, value in _NOTE.findall(prompt)}
            self._session.ended_in_background(told.get("tool_use_id"), told.get("task_id"), told, at)
            return
        self._line(f"prompt {key}", "user", prompt, body, promptId=key)

    def _call(self, body: dict[str, Any], at: str) -> None:
        call_id = _text(body.get("tool_use_id"))
        tool = name_of(body.get("tool_name")) or "unknown"
        if call_id is None or call_id in self._known:
            return
        self._known.add(call_id)
        given = body.get("tool_input")
        if tool == "TaskUpdate" and isinstance(given, dict):
            self._session.main.plan.recall(str(given.get("taskId") or "")[:100])
        self._calls[call_id] = (tool, given, _text(body.get("agent_id")))
        self._line(f"call {call_id}", "assistant", [_use(call_id, tool, given)], body)

    def _result(self, body: dict[str, Any], at: str) -> None:
        self._call(body, at)  # it may be the first that is heard of it
        call_id = _text(body.get("tool_use_id"))
        if call_id is None:
            return
        self._calls.pop(call_id, None)
        failed = body["hook_event_name"] != "PostToolUse"
        told = body.get("error") if failed else body.get("tool_response")
        block = {"type": "tool_result", "tool_use_id": call_id, "content": words_of(told)}
        if failed:
            block["is_error"] = True
        agent_id = _text(told.get("agentId")) if isinstance(told, dict) else None
        if agent_id is not None:
            self._session.expected.add(agent_id)
        self._line(f"result {call_id}", "user", [block], body, toolUseResult=told)
        if not self.followed:
            self._session.ended_without_lines(call_id, agent_id, at)

    def _batch(self, body: dict[str, Any], at: str) -> None:
        """Take the results of calls that went on together: those that were refused have no other hook."""
        calls = body.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and call.get("tool_use_id") in self._calls:
                told = {"hook_event_name": "PostToolUseFailure", "error": call.get("tool_response")}
                self._result({**body, **call, **told}, at)

    def _show(self, body: dict[str, Any], at: str) -> None:
        """Take a piece of an answer. They are told in their order; all that are there when something else comes."""
        key, index = _text(body.get("message_id")), body.get("index")
        if key is None or not isinstance(index, int):
            return
        waiting = self._pieces.setdefault(key, {})
        waiting.setdefault(index, body)
        while self._next.get(key, 0) in waiting:
            self._tell(key, waiting.pop(self._next.get(key, 0)))

    def _release(self) -> None:
        for key, waiting in self._pieces.items():
            for index in sorted(waiting):
                self._tell(key, waiting.pop(index))

    def _tell(self, key: str, body: dict[str, Any]) -> None:
        index, text, final = body["index"], body.get("delta"), body.get("final") is True
        self._next[key] = index + 1
        text = text if isinstance(text, str) else ""
        main = self._session.main
        main.empty = False
        fields = {"index": index, "text": text, "final": final, "goal_id": main.plan.current}
        main.put("show", f"shown-{key}", fields, self._session.clock)
        if final:
            self._pieces[key] = {}

    def _agent_begins(self, body: dict[str, Any], at: str) -> None:
        agent_id = _text(body.get("agent_id"))
        session, kind = self._session, name_of(body.get("agent_type"))
        if agent_id is None:
            return
        session.meta(agent_id, {"agentType": kind} if kind else {})
        if self.followed or agent_id in session.agents:
            return  # its transcript says whose it is, in a moment
        waiting = [sub for sub in session.subs.values() if sub.agent is None and not sub.ended]
        same = [sub for sub in waiting if sub.kind == kind] or waiting
        if same:
            session.links[agent_id] = same[0].call_id
            prompt = _text(body.get("prompt_id"))
            more = {"promptId": prompt} if prompt else {}
            self._line(f"prompt {agent_id}", "user", same[0].prompt, body, **more)

    def _agent_ends(self, body: dict[str, Any], at: str) -> None:
        agent_id, words = _text(body.get("agent_id")), body.get("last_assistant_message")
        if agent_id is None:
            return
        session = self._session
        agent = session.agents.get(agent_id)
        if isinstance(words, str) and words.strip() and not self.followed:
            agent = agent or session.agent_of({"type": "assistant"}, agent_id)
            agent.empty, agent.open, agent.last_text = False, False, words
            agent.put("said", f"said {agent_id} {digest_of(words)}", {"text": words, "goal_id": None}, at)
        call_id = session.links.get(agent_id, "")
        if call_id in session.subs:
            told = {"status": "completed", "result": words if isinstance(words, str) else ""}
            session.ended_in_background(call_id, agent_id, told, at)
        elif agent is not None:
            summary = words if isinstance(words, str) else agent.last_text
            agent.end(f"end {agent_id} {digest_of(body)}"[:250], "completed", at, summary=summary)

    def _turn_ends(self, body: dict[str, Any], at: str) -> None:
        main = self._session.main
        words, failed = body.get("last_assistant_message"), body["hook_event_name"] == "StopFailure"
        if failed:
            self._keep(body, at)
            words = _text(body.get("error_details")) or _text(body.get("error")) or words
            main.error = words if isinstance(words, str) else "failed"
        elif isinstance(words, str) and words.strip():
            main.error, main.last_text = None, words
            key = f"said {_text(body.get('prompt_id'))} {digest_of(words)}"
            main.put("said", key, {"text": words, "goal_id": main.plan.current}, at)
        main.open, main.ended_turn, main.empty, self.at_work = False, True, False, False
        tasks = body.get("background_tasks")
        busy = isinstance(tasks, list) and any(isinstance(t, dict) and t.get("status") == "running" for t in tasks)
        if not busy:
            self._session.turn_over(f"stop {_text(body.get('prompt_id'))} {digest_of(body)}", at)

    def _session_ends(self, body: dict[str, Any], at: str) -> None:
        session, reason = self._session, body.get("reason")
        session.finish(itself=False)
        status = "stopped" if self.at_work else "completed"
        main, error = session.main, session.main.error
        status = "failed" if error and status == "completed" else status
        key = f"end hook {_text(body.get('prompt_id')) or ''} {reason}"
        main.end(key, status, at, summary=main.last_text, error=error)
        self.ended = True

    def _keep(self, body: dict[str, Any], at: str) -> None:
        name = _NAME.sub("_", _text(body.get("hook_event_name")) or "unknown").lower()
        name = re.sub(r"[^a-z0-9_.]", "_", name)
        said = without(body, *_BASE)
        self._agent(body).event(f"hook {digest_of(body)}", f"hook.{name}"[:64], {"told": said}, at)

    def _agent(self, body: dict[str, Any]) -> ClaudeAgent:
        return self._session.agents.get(_text(body.get("agent_id")) or "", self._session.main)

    # --- permissions ---

    def _permission(self, body: dict[str, Any], at: str) -> Permission:
        tool, given = name_of(body.get("tool_name")) or "unknown", body.get("tool_input")
        agent_id, call_id = _text(body.get("agent_id")), _text(body.get("tool_use_id"))
        if call_id is None:
            wanted = (tool, given, agent_id)
            call_id = next((one for one, call in reversed(self._calls.items()) if call == wanted), None)
        if call_id is not None:
            self._call({**body, "tool_use_id": call_id}, at)
        else:
            self._session.main.put("status", f"asks {digest_of(body)}", {"status": "running"}, at)
        suggestions = body.get("permission_suggestions")
        return Permission(
            trace_id=self._agent(body).trace_id,
            key=f"{call_id or digest_of(body)}.permission"[:250],
            tool=tool,
            given=given if isinstance(given, dict) else {"input": given},
            call_id=call_id,
            agent=name_of(body.get("agent_type")) or "Claude Code",
            cwd=_text(body.get("cwd")),
            suggestions=suggestions if isinstance(suggestions, list) else [],
        )

    def declined(self, key: str, at: str) -> list[Put]:
        """The facts of a permission that was refused at the terminal, which ends the turn there."""
        self.at_work = self._session.main.open = False
        self._session.turn_over(f"declined {key}", at)
        return self.drain()


def words_of(told: Any) -> Any:
    """A tool's response as its result: the text where it is one, else the response as it is."""
    if not isinstance(told, dict):
        return told
    if isinstance(told.get("stdout"), str):
        return "\n".join(text for text in (told["stdout"], told.get("stderr")) if isinstance(text, str) and text)
    file = told.get("file")
    if told.get("type") == "text" and isinstance(file, dict) and isinstance(file.get("content"), str):
        return file["content"]
    return told["content"] if isinstance(told.get("content"), list) else told


def _use(call_id: str, tool: str, given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": tool, "input": given}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


_HOOKS = {
    "UserPromptSubmit": ClaudeHooks._prompt,
    "PreToolUse": ClaudeHooks._call,
    "PostToolUse": ClaudeHooks._result,
    "PostToolUseFailure": ClaudeHooks._result,
    "PostToolBatch": ClaudeHooks._batch,
    "MessageDisplay": ClaudeHooks._show,
    "SubagentStart": ClaudeHooks._agent_begins,
    "SubagentStop": ClaudeHooks._agent_ends,
    "Stop": ClaudeHooks._turn_ends,
    "StopFailure": ClaudeHooks._turn_ends,
    "SessionEnd": ClaudeHooks._session_ends,
}
