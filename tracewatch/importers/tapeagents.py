"""TapeAgents tapes: ``{metadata, context, steps: [{kind, metadata: {agent, node, …}, …}]}``, one or a list of them.

Rule 1: ``metadata.agent`` is a path (``Manager/Coder``). The first name is the tape's own trace, each further one a
        sub-trace. It begins with its parent's ``call`` or the agent's first step, and ends with its ``respond`` or when
        the tape goes on elsewhere. In its parent it stands below a goal of type ``agent_call``.
Rule 2: an action and the observation after it are one tool message. Words and thoughts of an agent are assistant
        messages; the ``kind`` of a thought ends in ``thought``.
Rule 3: every part of a step is kept. The ``step`` of a message has the kind, the metadata and each key that is not its
        content; a control step is an event ``tape.<kind>`` with the whole ``step``.
Rule 4: only model calls and browser actions have times (without an offset: UTC). A step without a time has that of the
        one before it, or of the first that has one. A tape may have none at all.
Rule 5: a tape has failed if it says so (``metadata.error``, a final answer with ``success: false``), is stopped if it
        ends before the agent answered (with a question, an action or a thought), and is completed otherwise. No answer
        is judged here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.fit import amount, count
from ..model.usage import total_of
from .openai import add_message
from .reading import BadJson, clip, digest, documents, first_line, time_of, without
from .steps import ImportFault, Step
from .tape_frames import Frames, TapeFrame
from .traces import TraceWriter, drain

_CONTROL = frozenset({"set_next_node", "final_step", "stop"})
_ASKING = frozenset({"user", "question", "task"})
_TEXT_KEYS = ("content", "reasoning", "text", "task", "thought", "long_answer", "answer")
_ACTIONS = frozenset({"execute_code"})


def read(path: Path) -> Iterator[Step]:
    """The steps of each tape in the file."""
    prefix = f"tape-{digest([path])}"
    out: list[Step] = []
    index = 0
    for line, value in documents(path):
        if isinstance(value, BadJson):
            yield ImportFault(value.message, value.line)
            continue
        for place, tape in enumerate(value) if isinstance(value, list) else [(None, value)]:
            index += 1
            where = "" if place is None else f"[{place}]."
            if not is_tape(tape):
                yield ImportFault("this is not a tape: a tape has a list of steps", line, f"{where}steps")
                continue
            _Tape(out, f"{prefix}-{index:04d}", tape, line, where).write()
            yield from drain(out)


def is_tape(value: Any) -> bool:
    """Whether ``value`` has the form of a tape: a list of steps, and metadata or a context."""
    return (
        isinstance(value, dict) and isinstance(value.get("steps"), list) and ("metadata" in value or "context" in value)
    )


class _Tape:
    """Writes one tape into a trace and its sub-traces."""

    def __init__(self, out: list[Step], trace_id: str, tape: dict[str, Any], line: int | None, where: str) -> None:
        self.out = out
        self.tape = tape
        self.line = line
        self.where = where  # before "steps[…]" in the path of a fault
        self.metadata = tape["metadata"] if isinstance(tape.get("metadata"), dict) else {}
        self.steps = [(i, step) for i, step in enumerate(tape["steps"]) if self._readable(i, step)]
        agents = [_agent(step) for _, step in self.steps if _agent(step)]
        author = self.metadata.get("author")
        root = agents[0].split("/")[0] if agents else author if isinstance(author, str) and author else "tape"
        self.at: str | None = None  # the time of the step that is being written
        self.frames = Frames(TapeFrame(TraceWriter(out, trace_id), root))

    def _readable(self, index: int, step: Any) -> bool:
        field = f"{self.where}steps[{index}]"
        if not isinstance(step, dict):
            self.out.append(ImportFault("a step is a JSON object", self.line, field))
            return False
        if not isinstance(step.get("kind"), str) or not step["kind"]:
            self.out.append(ImportFault("must be the step's kind", self.line, f"{field}.kind"))
            return False
        return True

    def write(self) -> None:
        trace = self.frames.root.trace
        # Faults of steps were found before, and may stand before the trace.
        context = self.tape.get("context")
        task = self._task()
        metadata = {"format": "tapeagents", "tape": self.metadata, **without(self.tape, "metadata", "context", "steps")}
        self.at = next(filter(None, (_time(step) for _, step in self.steps)), None)
        trace.timeless = self.at is None
        trace.create(task, agent_type=self.frames.root.path, metadata=metadata, at=self.at)
        if context not in (None, {}, [], ""):
            trace.event("tape.context", {"context": context}, at=self.at)
        for index, step in self.steps:
            self._step(index, step)
        self.frames.close_all(self.at)
        status, summary, error = self._outcome()
        trace.complete(status, summary=summary, error=error, at=self.at)

    def _task(self) -> str:
        for _, step in self.steps:
            if step["kind"] in _ASKING or step["kind"] == "call":
                text = _said(step)[0]
                if isinstance(text, str) and text.strip():
                    return text
        context = self.tape.get("context")
        return context if isinstance(context, str) and context.strip() else f"Tape of {self.frames.root.path}"

    # --- one step ---

    def _step(self, index: int, step: dict[str, Any]) -> None:
        self.at = _time(step) or self.at  # a step without a time has that of the one before it
        kind, at, agent = step["kind"], self.at, _agent(step)
        if not agent:
            self._from_outside(index, step, at)
            return
        frame = self.frames.of(agent, at)
        if kind == "call" and isinstance(step.get("agent_name"), str) and step["agent_name"]:
            frame.trace.event("tape.call", {"step": step}, at=at)
            self.frames.call(frame, step["agent_name"], _said(step)[0], at)
        elif kind == "respond":
            self._respond(frame, step, at)
        elif kind in _CONTROL:
            frame.trace.event(f"tape.{kind}", {"step": step}, at=at)
        elif kind == "assistant":
            where = f"{self.where}steps[{index}]"
            add_message(frame.trace, _as_chat(step), line=self.line, path=where, at=at, agent=agent, **_usage(step))
        elif _is_action(kind):
            tool = re.sub(r"_action$", "", kind)
            arguments = without(step, "kind", "metadata")
            kept = {"kind": kind, "metadata": step.get("metadata")}
            frame.trace.call(tool, arguments, call_id=None, at=at, step=kept, agent=agent, **_usage(step))
        else:
            content, rest = _said(step)
            description = _titled(step, content) if kind.endswith("thought") else None
            frame.trace.message(
                "assistant", content, at=at, kind=kind, step=rest, agent=agent, description=description, **_usage(step)
            )

    def _respond(self, frame: TapeFrame, step: dict[str, Any], at: str | None) -> None:
        content, rest = _said(step)
        answer = content if isinstance(content, str) and content.strip() else frame.trace.last_text
        if isinstance(content, str) and not content.strip():
            frame.trace.event("tape.respond", {"step": step}, at=at)
        else:
            frame.trace.message(
                "assistant", content, at=at, kind="respond", step=rest, agent=frame.path, **_usage(step)
            )
        self.frames.respond(frame, answer, at)

    def _from_outside(self, index: int, step: dict[str, Any], at: str | None) -> None:
        """A step without an agent: a question of the user, or an answer of the environment."""
        kind, frame = step["kind"], self.frames.last
        kept = {"kind": kind, "metadata": step.get("metadata")}
        if kind in _ASKING:
            content, rest = _said(step)
            frame.trace.message("user", content, at=at, step=rest)
        elif kind == "tool" or (kind == "system" and "content" in step):
            add_message(frame.trace, _as_chat(step), line=self.line, path=f"{self.where}steps[{index}]")
        else:
            error = step.get("error") or kind == "action_execution_failure"
            call_id = next(reversed(frame.trace.calls), None)
            seconds = amount(_other(step).get("action_execution_time"))
            took = {"duration_ms": round(seconds * 1000, 3)} if seconds is not None else {}
            value = without(step, "kind", "metadata")
            frame.trace.result(call_id, value, failed=bool(error), tool=kind, at=at, observation=kept, **took)

    # --- how it ended ---

    def _outcome(self) -> tuple[str, str, str | None]:
        said = [step for _, step in self.steps if step["kind"] not in ("set_next_node", "respond")]
        last = said[-1] if said else None
        result = self.metadata.get("result")
        given = str(result) if isinstance(result, (str, int, float)) and str(result).strip() else ""
        answer = given or _answer(last) or self.frames.root.trace.last_text or self.frames.answer
        error = self.metadata.get("error")
        if error:
            return "failed", answer, error if isinstance(error, str) else clip(str(error), 2000)
        if last is None:
            return "stopped", "no steps: this tape has not been run", None
        if last.get("success") is False and "answer" in last["kind"]:
            return "failed", answer, "the agent itself says that it did not succeed"
        if self.metadata.get("terminated") is True:
            return "stopped", answer, None
        acts = not _agent(last) or _is_action(last["kind"]) or bool(last.get("tool_calls"))
        if acts or (last["kind"].endswith("thought") and not given):
            return "stopped", "the tape ends before the agent has answered", None
        return "completed", answer, None


def _agent(step: dict[str, Any]) -> str:
    metadata = step.get("metadata")
    agent = metadata.get("agent") if isinstance(metadata, dict) else None
    return agent.strip("/") if isinstance(agent, str) else ""


def _is_action(kind: str) -> bool:
    return (kind.endswith("_action") and "answer" not in kind) or kind in _ACTIONS


def _said(step: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The content of a step, as text if it has one main text, and the rest of the step."""
    payload = without(step, "kind", "metadata")
    kept = {"kind": step["kind"], "metadata": step.get("metadata")}
    for key in _TEXT_KEYS:
        if isinstance(payload.get(key), str) and (payload[key] or len(payload) == 1):
            return payload[key], {**kept, **without(payload, key)}
    texts = [key for key, value in payload.items() if isinstance(value, str)]
    if len(payload) == 1 and texts:
        return payload[texts[0]], kept
    if step["kind"] in ("call", "respond"):
        return "", {**kept, **payload}
    return payload, kept


def _as_chat(step: dict[str, Any]) -> dict[str, Any]:
    """An assistant or tool step is a chat message with other names around it."""
    chat = without(step, "kind", "metadata")
    return {"role": step["kind"], **chat, "step": {"kind": step["kind"], "metadata": step.get("metadata")}}


def _titled(step: dict[str, Any], content: Any) -> str | None:
    """A plan or a survey of facts says what it is before its first line."""
    metadata = step.get("metadata")
    node = metadata.get("node") if isinstance(metadata, dict) else None
    title = node if isinstance(node, str) and re.search("plan|fact", node) else step["kind"].removesuffix("_thought")
    text = content if isinstance(content, str) else next((v for v in content.values() if isinstance(v, str)), "")
    if not re.search("plan|fact", title):
        return first_line(text) or title
    return clip(f"{title.replace('_', ' ')}: {first_line(text)}", 200)


def _answer(step: dict[str, Any] | None) -> str:
    """The final answer or reason a last step gives."""
    for key in ("answer", "reason", "text", "content"):
        if step is not None and isinstance(step.get(key), str) and step[key].strip():
            return str(step[key])
    return ""


def _other(step: dict[str, Any]) -> dict[str, Any]:
    metadata = step.get("metadata")
    other = metadata.get("other") if isinstance(metadata, dict) else None
    return other if isinstance(other, dict) else {}


def _time(step: dict[str, Any]) -> str | None:
    call, info = _other(step).get("llm_call"), _other(step).get("info")
    if isinstance(call, dict) and call.get("timestamp"):
        return time_of(call["timestamp"])
    return time_of(info["action_exec_stop"]) if isinstance(info, dict) and info.get("action_exec_stop") else None


def _usage(step: dict[str, Any]) -> dict[str, Any]:
    """Usage, cost and model of the model call that made a step, if the tape has it. A cost of 0 is an unknown one."""
    call = _other(step).get("llm_call")
    if not isinstance(call, dict):
        return {}
    usage: dict[str, Any] = {}
    used = {
        ours: count(call.get(theirs)) or 0
        for theirs, ours in (("prompt_length_tokens", "input_tokens"), ("output_length_tokens", "output_tokens"))
    }
    if tokens := count(total_of(used)):
        usage |= {"tokens": tokens, "usage": used}
    if cost := amount(call.get("cost")):
        usage["cost"] = cost
    model = call.get("llm_info", {}).get("model_name") if isinstance(call.get("llm_info"), dict) else None
    if isinstance(model, str):
        usage["model"] = model
    return usage
