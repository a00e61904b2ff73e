"""A session of Claude Code: its agents, told line by line while it grows, or afterwards.

Rule 1: a session is the trace ``cc-<its id>``; a sub-agent is the sub-trace ``cc-<its id>-<the agent's id>`` below the
        agent that called it. Which call began it says its ``.meta.json``, the call's result, a line of the stream, or
        else its prompt. It begins with its first line; what nobody called stands below the session.
Rule 2: a sub-agent ends with the answer that its caller gets: the result, or for one in the background the task
        notification. It is what the notification says, and without any of them it was stopped.
Rule 3: a session is completed only on a positive sign: an answer without a call, by the model, in whole lines. One
        whose last answer is an API error has failed; one that the user interrupted, or that ends before the agent has
        answered, is stopped. Where it still may go on (``turn_over``) it is idle between its turns.
Rule 4: lines of another session, which a forked one begins with, are shown, and count in that session's own trace.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..model.usage import Usage
from .claude_lines import CONSTANT, ClaudeAgent, OpenCall
from .claude_titles import command, words_in
from .long_dict import LongDict
from .reading import name_of, text_of, time_of
from .steps import ImportFault, Put, Step

_NOTE = re.compile(r"<(task-id|tool-use-id|status|summary|result)>(.*?)</\1>", re.DOTALL)
_ODD = re.compile(r"[^A-Za-z0-9._@-]")
_EARLY = 500  # lines of a sub-agent wait for its call
HOOKS_PATH = "/api/hooks/"  # of the addresses that sessions tell us of themselves at
_LAUNCHED = "Async agent launched"
_UNANSWERED = "the transcript ends before the agent has answered"
_ENDINGS = {"completed": "completed", "failed": "failed", "error": "failed"}  # anything else: stopped


@dataclass
class Sub:
    """A sub-agent's call, and the sub-agent once it has begun."""

    caller: ClaudeAgent
    call_id: str
    key: str  # of the call's message
    prompt: str
    kind: str
    goal_id: str | None  # that the sub-agent stands below
    own_goal: bool  # made for it alone
    agent: ClaudeAgent | None = None
    background: bool = False
    ended: bool = False
    answer: str | None = None  # what the caller got while the sub-agent's own lines are still to come
    failed: bool = False
    at: str | None = None  # when it got it


@dataclass
class ClaudeSession:
    """The mapping of one session. ``line`` takes what is told, ``drain`` gives the facts so far."""

    session_id: str
    out: list[Step] = field(default_factory=list)
    constant: dict[str, Any] = field(default_factory=dict)  # values that most lines repeat, such as cwd
    links: dict[str, str] = field(default_factory=dict)  # agent id → id of the call that began it
    expected: set[str] = field(default_factory=set)  # ids of agents whose own lines will come
    sidechains: bool = False  # lines of sub-agents will come in the session's own file
    clock: str | None = None  # the time, where lines that come now have none
    alone: str | None = None  # the name of a sub-agent's file that is told without its session

    def __post_init__(self) -> None:
        """Begin the session's trace."""
        self.trace_id = trace_of(self.session_id) + (f"-{_ODD.sub('_', self.alone)[:40]}" if self.alone else "")
        self._forks: list[str] = []
        self._early: dict[str, list[tuple[int, dict[str, Any], str, str | None]]] = {}  # lines before their call's
        self._began: str | None = None
        self.main = ClaudeAgent(self, self.trace_id)
        self.agents: dict[str, ClaudeAgent] = {}
        self.subs: dict[str, Sub] = {}  # by the id of the call
        self._task, self._weak, self._title = "", False, ""
        self._copied = False  # the task is that of the session that this one was forked from
        self._torn: str | None = None
        self._summary = ""
        self._idle = True
        self._types: dict[str, str] = {}  # agent id → its type
        self._chains: LongDict[str] = LongDict()  # uuid of a sub-agent's line inside the session → its trace
        self._traces: dict[str, ClaudeAgent] = {}
        self._workflows: dict[str, str] = {}  # agent id → id of its run

    # --- what comes in ---

    def drain(self) -> list[Step]:
        """The facts since the last time. The trace itself is always the first of them."""
        steps, self.out = self.out, []
        if not steps:
            return steps
        metadata: dict[str, Any] = {"format": "claude-code"} | ({"session": self.constant} if self.constant else {})
        metadata |= {"forked_from": self._forks} if self._forks else {}
        fields: dict[str, Any] = {"task": self._task, "agent_type": "claude-code", "metadata": metadata}
        fields |= {"session_id": name_of(self.session_id), "started_at": self._began}
        trace = Put(self.trace_id, "trace", "", fields)
        return [trace, *steps]

    def meta(self, agent_id: str, meta: dict[str, Any]) -> None:
        """Take what stands in an agent's ``.meta.json``."""
        if isinstance(meta.get("toolUseId"), str):
            self.links[agent_id] = meta["toolUseId"]
        if isinstance(meta.get("agentType"), str):
            self._types[agent_id] = meta["agentType"]

    def workflow(self, agent_id: str, run_id: str) -> None:
        """Take that an agent's file lies in the folder of a workflow's run."""
        self._workflows[agent_id] = run_id

    def line(self, number: int, row: Any, *, agent_id: str | None = None, file: str | None = None) -> None:
        """Take one line: its object, or its ImportFault. ``agent_id``: whose file it is, unless it is the session's."""
        if isinstance(row, ImportFault):
            self.out.append(replace(row, file=file))
            self._torn = agent_id or ""
            return
        if self._torn == (agent_id or ""):
            self._torn = None
        if not self.constant and row.get("type") in ("user", "assistant"):
            self.constant = {key: row[key] for key in CONSTANT if key in row and key != "agentId"}
        origin = row.get("forkedFrom")
        of = origin.get("sessionId") if isinstance(origin, dict) else row.get("sessionId")
        copied = trace_of(of) if agent_id is None and isinstance(of, str) and of not in ("", self.session_id) else None
        if copied is not None and copied not in self._forks:
            self._forks.append(copied)
        call_id = self.links.get(agent_id or "")
        if call_id is not None and call_id not in self.subs and agent_id not in self.agents:
            early = self._early.setdefault(call_id, [])
            early.append((number, row, str(agent_id), file))
            if len(early) >= _EARLY:
                self._without_call(call_id)
            return
        agent = self.agent_of(row, agent_id)
        agent.line(number, row, file, copied)
        self._began = self._began or agent.at
        uuid = row.get("uuid")
        if agent is not self.main and agent_id is None and isinstance(uuid, str):
            self._chains[uuid] = agent.trace_id

    def agent_of(self, row: dict[str, Any], agent_id: str | None = None) -> ClaudeAgent:
        """The agent that a line is of, which begins now if it hasn't."""
        call_id = row.get("parent_tool_use_id")
        if isinstance(call_id, str) and call_id in self.subs:
            return self._begin(self.subs[call_id], _linked(self.links, call_id))
        if agent_id is None and row.get("isSidechain") is True and self.alone is None:
            chained = self._traces.get(self._chains.get(str(row.get("parentUuid")), ""))
            agent_id = row["agentId"] if isinstance(row.get("agentId"), str) else None
            if chained is not None and agent_id not in self.agents:
                return chained
            agent_id = agent_id or f"side-{row.get('uuid') or len(self.agents)}"
        if agent_id is None:
            return self.main
        known = self.agents.get(agent_id)
        if known is not None:
            return known
        sub = self._sub_of(agent_id, row)
        if sub is None:
            return self._adopt(agent_id, row)
        agent = self.agents[agent_id] = self._begin(sub, None if agent_id.startswith("side-") else agent_id)
        return agent

    def _sub_of(self, agent_id: str, row: dict[str, Any]) -> Sub | None:
        """The call that began an agent whose first line is ``row``."""
        call_id = self.links.get(agent_id)
        if call_id is not None:
            return self.subs.get(call_id)
        run = self._workflows.get(agent_id)
        if run is not None:
            return None
        task = _prompt_of(row)
        waiting = [sub for sub in self.subs.values() if sub.agent is None and sub.kind != "workflow"]
        same = [sub for sub in waiting if sub.prompt.strip() and task.startswith(sub.prompt.strip())]
        return next((sub for sub in same if not sub.ended), same[0] if same else None)

    # --- sub-agents ---

    def called(
        self,
        caller: ClaudeAgent,
        call_id: str,
        key: str,
        tool: str,
        given: dict[str, Any],
        goal_id: str | None,
    ) -> None:
        """Take a call that begins a sub-agent, or a workflow of several."""
        own = goal_id is not None and goal_id.startswith("agent-")
        kind = name_of(given.get("subagent_type")) or ("workflow" if tool == "Workflow" else "general-purpose")
        prompt = given["prompt"] if isinstance(given.get("prompt"), str) else ""
        sub = Sub(caller, call_id, key, prompt, kind, goal_id, own)
        self.subs[call_id if call_id not in self.subs else key] = sub
        for number, row, agent_id, file in self._early.pop(call_id, ()):
            self.line(number, row, agent_id=agent_id, file=file)

    def _begin(self, sub: Sub, agent_id: str | None) -> ClaudeAgent:
        """The agent of a call, which begins now if it hasn't."""
        if sub.agent is None:
            sub.agent = self._new(
                agent_id or sub.key, sub.caller, sub.prompt, sub.kind, sub.goal_id, sub.caller.at, linked=bool(agent_id)
            )
            patch = {"role": "tool", "status": "running", "sub_trace_id": sub.agent.trace_id}
            sub.caller.put("message", sub.key, patch, sub.caller.at)
        if agent_id is not None:
            self.agents[agent_id] = sub.agent
        return sub.agent

    def _adopt(self, agent_id: str, row: dict[str, Any]) -> ClaudeAgent:
        """The agent of lines that no known call began, below the session or the call of its workflow."""
        kind = self._types.get(agent_id) or ("compact" if agent_id.startswith("acompact") else "sidechain")
        goal_id, caller = None, self.main
        if agent_id in self._workflows:
            kind = "workflow"
            calls = [sub for sub in self.subs.values() if sub.kind == "workflow"]
            if calls:
                caller, goal_id = calls[-1].caller, calls[-1].goal_id
        at = time_of(row.get("timestamp"))
        agent = self._new(agent_id, caller, _prompt_of(row), kind, goal_id, at, linked=True)
        self.agents[agent_id] = agent
        return agent

    def _new(
        self,
        agent_id: str,
        caller: ClaudeAgent,
        task: str,
        kind: str,
        goal_id: str | None,
        at: str | None,
        *,
        linked: bool,
    ) -> ClaudeAgent:
        short = _ODD.sub("_", agent_id)
        agent = ClaudeAgent(self, f"{self.trace_id}-{short}"[:128])
        self._traces[agent.trace_id] = agent
        agent.at = at
        metadata = {"format": "claude-code"} | ({"agent_id": agent_id} if linked else {})
        kind = self._types.get(agent_id) or kind
        fields = {"task": task, "agent_type": kind, "metadata": metadata, "parent_trace_id": caller.trace_id}
        if goal_id is not None:
            fields["parent_goal_id"] = goal_id
        if at is not None:  # its caller's log tells of it at once, before its first event
            fields["started_at"] = at
        agent.put("trace", "", fields, at)
        return agent

    def returned(
        self, caller: ClaudeAgent, call_id: str, call: OpenCall, told: Any, value: Any, failed: bool, at: str | None
    ) -> None:
        """Take the result of a call: of an agent, or of a task's change."""
        tool = call.content["tool_name"]
        if tool == "TaskCreate" and not failed:
            caller.task_made(call, told, value, at)
        elif tool == "TaskUpdate" and not failed and isinstance(call.content.get("arguments"), dict):
            self.task_changed(caller, call.content["arguments"], call.key, at)
        sub = next((s for s in (self.subs.get(call_id), self.subs.get(call.key)) if s and s.key == call.key), None)
        if sub is None:
            return
        told = told if isinstance(told, dict) else {}
        agent_id = told.get("agentId")
        if isinstance(agent_id, str):
            self.links.setdefault(agent_id, sub.call_id)
            if sub.agent is not None and agent_id not in self.agents:
                self.agents[agent_id] = sub.agent
        text = _answer(value)
        if told.get("status") == "async_launched" or told.get("isAsync") or text.startswith(_LAUNCHED):
            sub.background = True
            self._begin(sub, agent_id if isinstance(agent_id, str) else _linked(self.links, sub.call_id))
            return
        sub.answer, sub.failed, sub.at = text, failed, at
        if sub.agent is not None and not sub.agent.empty:
            self._end(sub, text, "failed" if failed else "completed", at)
        elif sub.kind != "workflow" and not self._may_come(sub, agent_id):
            self._without_transcript(sub)

    def ended_without_lines(self, call_id: str, agent_id: str | None, at: str | None) -> None:
        """End a sub-agent that has given its answer, where nobody tells its lines."""
        sub = self.subs.get(call_id)
        if sub is not None and sub.answer is not None and not sub.ended:
            self._begin(sub, agent_id)
            self._end(sub, sub.answer, "failed" if sub.failed else "completed", at)

    def _may_come(self, sub: Sub, agent_id: Any) -> bool:
        """Whether the sub-agent's own lines may still come, so that its end waits for them."""
        if isinstance(agent_id, str):
            return agent_id in self.expected
        return self.sidechains or bool(self.expected - set(self.agents))

    def _without_transcript(self, sub: Sub) -> None:
        """End a sub-agent of which only the caller's prompt and answer are known."""
        agent_id = _linked(self.links, sub.call_id)
        agent = self._begin(sub, agent_id)
        if agent.empty:
            agent.message(f"{sub.key}.prompt", "user", sub.prompt, sub.caller.at, no_transcript=True)
            if (sub.answer or "").strip():
                agent.message(f"{sub.key}.answer", "assistant", sub.answer, sub.at, no_transcript=True)
        self._end(sub, sub.answer or "", "failed" if sub.failed else "completed", sub.at)

    def notified(self, agent: ClaudeAgent, key: str, row: dict[str, Any], at: str | None) -> bool:
        """Take a task notification: not the user's words, but the end of what ran in the background."""
        text = text_of(row["message"].get("content")).strip()
        origin = row.get("origin")
        if not text.startswith("<task-notification>") and not (
            isinstance(origin, dict) and origin.get("kind") == "task-notification"
        ):
            return False
        told = dict(_NOTE.findall(text))
        fields = {name.replace("-", "_"): value.strip() for name, value in told.items()}
        agent.event(key, "task.notification", {**fields, "line": row}, at)
        self.ended_in_background(fields.get("tool_use_id"), fields.get("task_id"), fields, at)
        if agent is self.main:
            self._begin_turn(key, at)
        return True

    def ended_in_background(
        self, call_id: str | None, agent_id: str | None, told: dict[str, Any], at: str | None
    ) -> None:
        """Take that a sub-agent in the background has ended as ``status`` and ``result`` of ``told`` say."""
        sub = self.subs.get(call_id or "") or self.subs.get(self.links.get(agent_id or "", ""))
        if sub is None or not sub.background:
            return
        answer = told.get("result") or (sub.agent.last_text if sub.agent else "") or told.get("summary") or ""
        status = _ENDINGS.get(str(told.get("status")), "stopped")
        sub.answer, sub.at = answer, at
        if sub.agent is None or sub.agent.empty:
            self._begin(sub, agent_id)
        self._end(sub, answer, status, at)

    def _end(self, sub: Sub, answer: str, status: str, at: str | None) -> None:
        agent = sub.agent
        assert agent is not None
        if sub.ended and not agent.open:
            return
        sub.ended = True
        at = max((t for t in (at, agent.at) if t), default=None)  # a transcript may go on after its answer
        agent.close(at)
        error = (answer or "failed") if status == "failed" else None
        agent.end(f"end {sub.key}"[:250], status, at, summary=answer or agent.last_text, error=error)
        self._end_goal(sub, status, answer, at)

    def _end_goal(self, sub: Sub, status: str, answer: str, at: str | None) -> None:
        if sub.own_goal and sub.goal_id is not None:
            fields = {"status": "completed" if status == "completed" else "abandoned", "summary": answer or None}
            sub.caller.put("goal", sub.goal_id, fields, at)

    # --- turns, titles and tasks ---

    def prompted(self, agent: ClaudeAgent, key: str, prompt: str, at: str | None, *, copied: bool) -> None:
        """Take the words of a user's line, or of who called a sub-agent. ``copied``: those of another session."""
        if agent is not self.main:
            return
        self._begin_turn(key, at)
        if not self._task or (self._weak and (self._copied or self.main.last_text == "")):
            self._task, self._weak, self._copied = prompt, copied, copied

    def _begin_turn(self, key: str, at: str | None) -> None:
        self.main.turns += 1
        if self.main.turns > 1:
            self.main.put("status", f"turn {key}", {"status": "running"}, at)

    def answered(self, agent: ClaudeAgent, row: dict[str, Any], message: dict[str, Any], at: str | None) -> None:
        """Take that a line of the model's is at its end."""
        failed = row.get("isApiErrorMessage") or (row.get("error") and message.get("model") == "<synthetic>")
        agent.error = text_of(message.get("content")) if failed else None
        agent.open = agent.open or message.get("stop_reason") == "tool_use"
        agent.ended_turn = message.get("stop_reason") in ("end_turn", "stop_sequence") and not agent.open

    def other_line(self, agent: ClaudeAgent, key: str, row: dict[str, Any], at: str | None) -> None:
        """Take a line that is neither the user's nor the model's."""
        kind = row.get("type")
        if row.get("subtype") in ("stop_hook_summary", "turn_duration"):
            agent.ended_turn = not agent.open
        if kind == "summary" and isinstance(row.get("summary"), str):
            self._summary = row["summary"]
        title = row.get("customTitle") if kind == "custom-title" else None
        if isinstance(title, str) and title.strip() and title != self._title:
            self._title = title
            self.main.put("trace", "", {"task": title, "key": f"title {title}"[:250]}, at)
        if not _is_our_hook(row):
            agent.keep(key, row, at)

    def note_command(self, row: dict[str, Any]) -> None:
        """Take a command without words, such as /init, as the task until there is another."""
        if not self._task and (name := command(row)):
            self._task, self._weak = name, True

    def task_changed(self, caller: ClaudeAgent, given: dict[str, Any], key: str, at: str | None) -> None:
        """Take TaskUpdate: with its call, or with its result where the task is not known before."""
        task_id = str(given.get("taskId") or "")[:100]
        status = given.get("status") if isinstance(given.get("status"), str) else None
        text = given.get("subject") if isinstance(given.get("subject"), str) else None
        owners = [caller, self.main, *self.agents.values()]  # the tasks are the session's
        owner = next((agent for agent in owners if agent.plan.knows(task_id)), None)
        if owner is not None:
            owner.plan.change(task_id, at, status=status, text=text, told_by=key)

    # --- the end ---

    @property
    def turn_is_over(self) -> bool:
        """Whether the model has answered, and nothing that it began in the background is at work."""
        main = self.main
        at_work = any(sub.background and not sub.ended for sub in self.subs.values())
        return not main.empty and not main.open and (main.ended_turn or main.interrupted) and not at_work

    def turn_over(self, key: str, at: str | None) -> None:
        """Say that the session waits for its user."""
        self.main.put("status", f"idle {key}"[:250], {"status": "idle"}, at)

    def status(self) -> tuple[str, str, str | None]:
        """How the session stands at the end of its lines: status, summary and error."""
        main = self.main
        summary = self._summary or main.last_text
        if main.error is not None:
            return "failed", summary, main.error
        if main.interrupted:
            return "stopped", "interrupted by the user", None
        if main.open or main.empty or self._torn is not None:
            return "stopped", _UNANSWERED, None
        return "completed", summary, None

    def name_task(self, task: str) -> None:
        """Say what the user asked, where the lines don't."""
        self._task = self._task or task

    def finish(self, *, itself: bool = True) -> None:
        """End what is still open: there are no more lines. ``itself``: the session, too."""
        for call_id in list(self._early):
            self._without_call(call_id)
        for sub in list(self.subs.values()):
            self._finish_sub(sub)
        called = {id(sub.agent) for sub in self.subs.values()}
        for agent_id, agent in self.agents.items():
            if id(agent) not in called:
                agent.close(agent.at)
                answered = not agent.open and not agent.empty
                words = agent.last_text if answered else _UNANSWERED
                status = "completed" if answered else "stopped"
                agent.end(f"end {agent_id} {agent.last_key}"[:250], status, agent.at, summary=words, whole=True)
        at = max((a.at for a in (self.main, *self.agents.values()) if a.at), default=None)
        self.main.close(at)
        if not itself:
            return
        status, summary, error = self.status()
        self.main.end(f"end {self.main.last_key}"[:250], status, at, summary=summary, error=error, whole=True)

    def _without_call(self, call_id: str) -> None:
        """Tell the lines that wait for a call that does not come."""
        self.links = {agent_id: of for agent_id, of in self.links.items() if of != call_id}
        for number, row, agent_id, file in self._early.pop(call_id):
            self.line(number, row, agent_id=agent_id, file=file)

    def _finish_sub(self, sub: Sub) -> None:
        agent = sub.agent
        if sub.kind == "workflow" or (sub.ended and (agent is None or not agent.open)):
            return
        if sub.answer is not None and (agent is None or agent.empty):
            self._without_transcript(sub)
        elif sub.answer is not None:
            self._end(sub, sub.answer, "failed" if sub.failed else "completed", sub.at)
        elif agent is None:
            self._end_goal(sub, "stopped", "", None)  # nothing is known of it but its call
        else:
            done = sub.background and not agent.open and not agent.empty
            self._end(sub, agent.last_text if done else "", "completed" if done else "stopped", None)


class CostOfRuns:
    """What a source says a whole run has cost, shared out among its answers by what they used.

    The shares are weighted as the prices of such models stand to each other: 1 for input, 5 for output, a tenth for
    what is read from the cache and 1.25 for what is written to it. Their sum is what the source says.
    """

    def __init__(self) -> None:
        self._answers: list[tuple[Callable[[float], None], Callable[[], Usage]]] = []

    def add(self, write: Callable[[float], None], used: Callable[[], Usage]) -> None:
        """Add an answer, whose cost ``write`` takes. ``used``: what it has used in the end."""
        self._answers.append((write, used))

    def share(self, total: float) -> None:
        """Share out what the run has cost, in US dollars."""
        weights = [_weight(used()) for _, used in self._answers]
        left = total
        for place, ((write, _), weight) in enumerate(zip(self._answers, weights, strict=True), 1):
            share = weight / sum(weights) if sum(weights) else 1 / len(weights)
            part = left if place == len(weights) else round(total * share, 8)
            left = round(left - part, 10)
            write(max(part, 0.0))


def _weight(used: Usage) -> float:
    read, written = used.get("cache_read_tokens", 0), used.get("cache_write_tokens", 0)
    fresh = max(0, used.get("input_tokens", 0) - read - written)
    return fresh + 5 * used.get("output_tokens", 0) + read / 10 + written * 1.25


def _is_our_hook(row: dict[str, Any]) -> bool:
    """Whether a line says only that a hook has told this run of what it has told anyway."""
    attachment = row.get("attachment")
    said = attachment.get("command") if isinstance(attachment, dict) else None
    return isinstance(said, str) and said.startswith("http") and f"{HOOKS_PATH}claude-code" in said


def trace_of(session_id: str) -> str:
    """The id of a session's trace."""
    return f"cc-{_ODD.sub('_', session_id)[:80]}"


def _prompt_of(row: dict[str, Any]) -> str:
    message = row.get("message")
    if row.get("type") != "user" or not isinstance(message, dict):
        return ""
    return words_in(text_of(message.get("content")).strip())


def _linked(links: dict[str, str], call_id: str) -> str | None:
    return next((agent_id for agent_id, of in links.items() if of == call_id), None)


def _answer(value: Any) -> str:
    """A sub-agent's answer to its caller, without the note on how to call it again."""
    if isinstance(value, list):
        value = [part for part in value if not (isinstance(part, dict) and text_of([part]).startswith("agentId: "))]
    return text_of(value)
