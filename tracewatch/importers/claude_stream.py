"""What ``claude -p --output-format stream-json`` prints, what the Agent SDK's messages are, and the array that the
GitHub action leaves.

Rule 1: they are of the session that its transcript is of, and tell the same facts by the same ids. So a run that is
        piped here and followed in its transcript is one run.
Rule 2: with ``--include-partial-messages`` a text grows token by token. The whole line that comes after it ends it.
Rule 3: the result has what the whole run has cost, which is shared out among its answers, and how it ended. It ends the
        run if nothing comes after it: agents in the background go on.
Rule 4: the user's prompt is not in it, unless the program was told to repeat it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.fit import amount, count
from ..model.usage import total_of
from .claude_lines import ClaudeAgent, usage_of
from .claude_session import ClaudeSession, CostOfRuns
from .reading import name_of, text_of
from .steps import ImportFault, Step
from .timeline import tell

TYPES = ("system", "assistant", "user", "result", "stream_event")
_NOISE = ("thinking_tokens", "status")  # of the system: each token, and each request
_NO_RESULT = "the stream ends before its result"
_PART = {"text_delta": "text", "thinking_delta": "thinking"}


def is_stream(row: Any) -> bool:
    """Whether a JSON value is a line of such a stream."""
    return isinstance(row, dict) and row.get("type") in TYPES and isinstance(row.get("session_id"), str)


def read(path: Path) -> Iterator[Step]:
    """The steps of a stream that was kept as a file, of lines or as one array."""
    stream = ClaudeStream()
    yield from tell(path, stream)
    stream.finish()
    yield from stream.drain()


class ClaudeStream:
    """The mapping of one stream. ``line`` takes what is told, ``drain`` gives the facts so far."""

    def __init__(self) -> None:
        self._session: ClaudeSession | None = None
        self._waiting: list[ImportFault] = []  # before the session is known
        self._result: tuple[str, str, dict[str, Any]] | None = None  # its key, the status, and what else it says
        self._open: dict[int, tuple[str, str]] = {}  # id of an agent's object → its streaming answer and its model
        self._texts: dict[str, int] = {}  # key of a message that streams → its characters so far
        self._costs = CostOfRuns()
        self._priced: set[str] = set()  # ids of answers
        self._cost: float | None = None
        self._told_output = 0  # of all answers since the last result
        self._last_answer: tuple[ClaudeAgent, str] | None = None
        self.task: str | None = None  # as the caller knows it

    @property
    def session(self) -> ClaudeSession | None:
        """The session, once a line has named it."""
        return self._session

    @property
    def trace_id(self) -> str | None:
        """The trace of the run, once a line has named it."""
        return None if self._session is None else self._session.trace_id

    def clock(self, at: str | None) -> None:
        """Set the time of lines that come now and have none of their own."""
        if self._session is not None:
            self._session.clock = at

    def line(self, number: int, row: Any) -> None:
        """Take one line: its object, or its ImportFault."""
        if isinstance(row, ImportFault):
            if self._session is None:
                self._waiting.append(row)
            else:
                self._session.line(number, row)
            return
        if self._session is None:
            self._session = ClaudeSession(str(row.get("session_id") or row.get("sessionId") or "stream"))
            self._session.out += self._waiting
            self._session.sidechains = True  # a sub-agent's lines come between the session's
        kind = row.get("type")
        if kind == "stream_event":
            self._part(self._session, row)
        elif kind == "result":
            self._take_result(self._session, number, row)
        elif kind == "system" and row.get("subtype") in _NOISE:
            pass
        else:
            self._take_line(self._session, number, row)

    def _take_line(self, session: ClaudeSession, number: int, row: dict[str, Any]) -> None:
        kind, subtype = row.get("type"), row.get("subtype")
        if kind == "system" and subtype == "init":
            constant = {"sessionId": row.get("session_id"), "cwd": row.get("cwd"), "model": row.get("model")}
            constant["version"] = row.get("claude_code_version")
            session.constant = session.constant or {k: v for k, v in constant.items() if v is not None}
        if kind == "system" and row.get("task_type") == "local_agent" and isinstance(row.get("task_id"), str):
            session.meta(row["task_id"], {"toolUseId": row.get("tool_use_id"), "agentType": row.get("subagent_type")})
        self._go_on(row)
        session.line(number, row)
        if kind == "system" and subtype == "task_notification":
            told = {"status": row.get("status"), "summary": row.get("summary")}
            session.ended_in_background(row.get("tool_use_id"), row.get("task_id"), told, session.clock)
        if kind == "assistant":
            self._price(session, row)

    def _go_on(self, row: dict[str, Any]) -> None:
        """A line after the result: the run was not over."""
        if self._result is not None and row.get("type") in ("assistant", "user"):
            self._result = None

    def _agent(self, session: ClaudeSession, row: dict[str, Any]) -> ClaudeAgent:
        return session.agent_of(row)

    def _price(self, session: ClaudeSession, row: dict[str, Any]) -> None:
        message = row.get("message")
        answer = name_of(message.get("id")) if isinstance(message, dict) else None
        agent = self._agent(session, row)
        parts = agent.answers.get(answer or "")
        if answer is None or parts is None or not parts.key or answer in self._priced:
            return
        self._priced.add(answer)
        key, at = parts.key, session.clock

        def write(cost: float) -> None:
            agent.put(
                "message",
                key,
                {"status": "running", "cost": cost, "cost_of": "share of the run's cost", "answer": answer},
                at,
            )

        self._costs.add(write, lambda: parts.used)
        self._told_output += parts.used.get("output_tokens", 0)
        if agent is session.main:
            self._last_answer = (agent, answer)

    # --- token by token ---

    def _part(self, session: ClaudeSession, row: dict[str, Any]) -> None:
        event = row.get("event")
        if not isinstance(event, dict):
            return
        self._go_on({"type": "assistant"})
        agent, kind = self._agent(session, row), event.get("type")
        message = event.get("message")
        if kind == "message_start" and isinstance(message, dict) and name_of(message.get("id")):
            self._open[id(agent)] = (str(message["id"]), str(message.get("model") or ""))
            return
        answer, model = self._open.get(id(agent), ("", ""))
        key = f"{answer}.{event.get('index')}"
        block, delta = event.get("content_block"), event.get("delta")
        if not answer:
            return
        if kind == "content_block_start" and isinstance(block, dict) and block.get("type") in ("text", "thinking"):
            self._texts[key] = 0
            kept = {"kind": "thought"} if block["type"] == "thinking" else {}
            agent.message(key, "assistant", "", session.clock, status="streaming", model=model or None, **kept)
        elif kind == "content_block_delta" and isinstance(delta, dict) and delta.get("type") in _PART:
            text = delta.get(_PART[delta["type"]])
            if isinstance(text, str) and text and key in self._texts:
                agent.put("append", key, {"start": self._texts[key], "text": text}, session.clock)
                self._texts[key] += len(text)
        elif kind == "content_block_stop":
            self._texts.pop(key, None)
        elif kind == "message_delta":
            self._used(agent, answer, event.get("usage"), session.clock)

    def _used(self, agent: ClaudeAgent, answer: str, given: Any, at: str | None) -> None:
        """Take what an answer has used in the end, of which its lines say only what was known at its start."""
        parts = agent.answers.get(answer)
        output = count(given.get("output_tokens")) if isinstance(given, dict) else None
        if parts is None or not parts.key or output is None or output <= parts.used.get("output_tokens", 0):
            return
        more = output - parts.used.get("output_tokens", 0)
        fuller = usage_of(given) if isinstance(given, dict) and given.get("input_tokens") else {}
        parts.used = {**parts.used, **fuller, "output_tokens": output}
        fields = {"status": "running", "tokens": total_of(parts.used), "usage": parts.used, "answer": answer}
        agent.put("message", parts.key, fields, at)
        self._told_output += more if answer in self._priced else 0

    # --- the result ---

    def _take_result(self, session: ClaudeSession, number: int, row: dict[str, Any]) -> None:
        key = f"result {row.get('uuid') or number}"
        session.main.event(key, "line.result", {"line": row}, session.clock)
        given = row.get("usage")
        output = count(given.get("output_tokens")) if isinstance(given, dict) else None
        if output is not None and self._last_answer is not None and output > self._told_output:
            agent, answer = self._last_answer  # without the parts of messages, answers say less than they used
            used = agent.answers[answer].used.get("output_tokens", 0) + output - self._told_output
            self._used(agent, answer, {"output_tokens": used}, session.clock)
        self._told_output, self._last_answer = 0, None
        self._cost = amount(row.get("total_cost_usd")) or self._cost  # of all until now
        words = row.get("result") if isinstance(row.get("result"), str) else ""
        failed = row.get("is_error") is True or str(row.get("subtype", "success")) != "success"
        errors = row.get("errors")
        said = words or (text_of(errors) or ", ".join(map(str, errors)) if isinstance(errors, list) else "")
        why = said or str(row.get("subtype"))
        self._result = (key, "failed" if failed else "completed", {"summary": words, "error": why if failed else None})

    def drain(self) -> list[Step]:
        """The facts since the last time."""
        if self._session is None:
            waiting, self._waiting = self._waiting, []
            return list(waiting)
        if self.task:
            self._session.name_task(self.task)
        return self._session.drain()

    def finish(self) -> None:
        """End what is still open: there are no more lines."""
        if self._session is None:
            return
        main = self._session.main
        if self._cost is not None:
            self._costs.share(self._cost)
        self._session.finish(itself=False)
        if self._result is None:
            end = f"end {main.last_key}"
            main.end(end, "stopped", self._session.clock or main.at, summary=_NO_RESULT, whole=True)
        else:
            key, status, said = self._result
            main.end(f"end {key}", status, self._session.clock or main.at, **said)
