"""OpenHands: the events of a conversation, as a list, an object with ``history`` or ``trajectory``, or one a line.

Checked against openhands/events/serialization/event.py of All-Hands-AI/OpenHands (V0: ``action`` and ``observation``)
and events of its agent SDK as several programs read them (V1: ``kind``).

Rule 1: a conversation is a trace ``oh-<its id>``, without one by its contents. Messages of the user and the agent are
        messages, any other action is a tool call, and the observation that it caused is its result.
Rule 2: tokens and costs are sums over the conversation: what they grew by belongs to the action that they stand with.
Rule 3: it is completed where the agent has finished or had the last word, failed where its state is an error, and
        otherwise stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.fit import amount, count
from .chat_forms import arguments_of
from .reading import BadJson, digest, digest_of, documents, name_of, text_of, time_of, without
from .steps import ImportFault, Step
from .traces import TraceWriter, drain

_SILENT = ("change_agent_state", "agent_state_changed", "null", "system", "recall", "delegate_summary")
_V1_ENDS = {"finished": "completed", "error": "failed", "stuck": "stopped", "paused": "stopped"}


def is_event(item: Any) -> bool:
    """Whether a JSON value is one of its events."""
    if not isinstance(item, dict):
        return False
    if isinstance(item.get("kind"), str) and item["kind"].endswith(("Event", "Observation")) and "source" in item:
        return True
    told = isinstance(item.get("action"), str) and isinstance(item.get("args"), dict)
    seen = isinstance(item.get("observation"), str) and ("extras" in item or "content" in item)
    return told or seen


def is_conversation(value: Any) -> bool:
    """Whether a JSON value is a conversation of it."""
    return any(is_event(item) for item in events_of(value)[:20])


def events_of(value: Any) -> list[Any]:
    """The events of a conversation."""
    if isinstance(value, dict):
        value = next((value[k] for k in ("history", "trajectory", "events") if isinstance(value.get(k), list)), [])
    return value if isinstance(value, list) else []


def read(path: Path) -> Iterator[Step]:
    """The steps of each conversation in the file."""
    out: list[Step] = []
    loose: list[tuple[int | None, Any]] = []
    for number, (line, value) in enumerate(documents(path), 1):
        if isinstance(value, BadJson):
            yield ImportFault(value.message, value.line)
        elif is_event(value):
            loose.append((line, value))
        elif is_conversation(value):
            rest = without(value, "history", "trajectory", "events") if isinstance(value, dict) else {}
            _trace(out, _name(path, events_of(value), number), [(line, e) for e in events_of(value)], rest)
            yield from drain(out)
        else:
            yield ImportFault("this is JSON, and neither an event nor a conversation of OpenHands", line)
    if loose:
        _trace(out, _name(path, [event for _, event in loose], 0), loose, {})
        yield from drain(out)


def _name(path: Path, events: list[Any], number: int) -> str:
    """The trace's name: of its first event, where that has a time, so that it stays when more events come."""
    first = next((event for event in events if isinstance(event, dict)), {})
    if time_of(first.get("timestamp")):
        return f"oh-{digest_of(first)}"
    return f"oh-{digest([path])}" + (f"-{number:04d}" if number else "")


def _trace(out: list[Step], trace_id: str, events: list[tuple[int | None, Any]], rest: dict[str, Any]) -> None:
    trace = TraceWriter(out, trace_id, grows=True)
    teller = _Teller(trace)
    known = [event for _, event in events if isinstance(event, dict)]
    at = next(filter(None, (time_of(event.get("timestamp")) for event in known)), None)
    trace.timeless = at is None
    asked = next((text for event in known if (text := _asked(event))), "")
    trace.create(asked, agent_type="openhands", metadata={"format": "openhands", "source": rest}, at=at)
    for place, (line, event) in enumerate(events):
        if isinstance(event, dict):
            teller.event(event)
        else:
            out.append(ImportFault("an event is a JSON object", line, f"[{place}]"))
    teller.end()


def _asked(event: dict[str, Any]) -> str:
    if event.get("source") != "user":
        return ""
    message = event.get("llm_message")
    args = event["args"] if isinstance(event.get("args"), dict) else {}
    return text_of(message.get("content") if isinstance(message, dict) else args.get("content")).strip()


class _Teller:
    """Writes the events of one conversation."""

    def __init__(self, trace: TraceWriter) -> None:
        self._trace = trace
        self._at: str | None = None
        self._status: tuple[str, str | None] | None = None
        self._spoke = False
        self._sums = {"cost": 0.0, "input": 0, "output": 0}

    def event(self, event: dict[str, Any]) -> None:
        """Write one event."""
        self._at = time_of(event.get("timestamp")) or self._at
        if isinstance(event.get("kind"), str):
            self._new(event["kind"], event)
        elif isinstance(event.get("action"), str):
            self._action(event["action"], event)
        elif isinstance(event.get("observation"), str):
            self._observation(event["observation"], event)
        else:
            self._trace.event("openhands.event", {"line": event}, at=self._at)

    def _used(self, event: dict[str, Any]) -> dict[str, Any]:
        """What the sums have grown by."""
        metrics = event["llm_metrics"] if isinstance(event.get("llm_metrics"), dict) else {}
        given = metrics.get("accumulated_token_usage")
        given = given if isinstance(given, dict) else {}
        now = {"cost": amount(metrics.get("accumulated_cost")) or 0.0}
        now |= {"input": count(given.get("prompt_tokens")) or 0, "output": count(given.get("completion_tokens")) or 0}
        grown = {key: now[key] - self._sums[key] for key in now}
        self._sums = {key: max(now[key], self._sums[key]) for key in now}
        fields: dict[str, Any] = {"cost": round(grown["cost"], 10)} if grown["cost"] > 0 else {}
        if grown["input"] > 0 or grown["output"] > 0:
            fields["usage"] = {"input_tokens": max(0, grown["input"]), "output_tokens": max(0, grown["output"])}
        model = name_of(given.get("model"))
        return fields | ({"model": model} if model and fields else {})

    def _say(self, role: str, text: Any, **fields: Any) -> None:
        self._spoke = role == "assistant" and fields.get("kind") is None
        self._trace.message(role, text, at=self._at, **fields)

    # --- version 0 ---

    def _action(self, action: str, event: dict[str, Any]) -> None:
        args = event["args"] if isinstance(event.get("args"), dict) else {}
        rest = without(event, "args", "action", "message", "llm_metrics", "timestamp")
        role = {"user": "user", "agent": "assistant"}.get(str(event.get("source")), "system")
        if action in ("message", "think"):
            thought = {"kind": "thought"} if action == "think" else {}
            self._say(role, args.get("content", args.get("thought", "")), source=rest, **thought, **self._used(event))
        elif action == "finish":
            words = args.get("final_thought") or args.get("thought") or event.get("message") or ""
            self._say("assistant", words, source={**rest, "args": args}, **self._used(event))
            self._status = ("completed", None)
        elif action in _SILENT:
            self._trace.event("openhands.action", {"line": event}, at=self._at)
        else:
            if isinstance(args.get("thought"), str) and args["thought"].strip():
                self._say("assistant", args["thought"], kind="thought")
            self._spoke = False
            given = without(args, "thought")
            call_id = str(event.get("id"))
            self._trace.call(action, given, call_id=call_id, at=self._at, source=rest, **self._used(event))

    def _observation(self, seen: str, event: dict[str, Any]) -> None:
        extras = event["extras"] if isinstance(event.get("extras"), dict) else {}
        if seen == "agent_state_changed":
            state = str(extras.get("agent_state"))
            if state == "error":
                self._status = ("failed", str(extras.get("reason") or event.get("message") or "error"))
            elif state in ("finished", "running", "stopped"):
                self._status = {"finished": ("completed", None), "stopped": ("stopped", "stopped")}.get(state)
            self._trace.event("openhands.state", {"line": event}, at=self._at)
            return
        call_id = str(event.get("cause"))
        failed = seen == "error" or event.get("success") is False
        if seen in _SILENT or call_id not in self._trace.calls:
            self._trace.event("openhands.observation", {"line": event}, at=self._at)
            return
        source = without(event, "content", "observation", "timestamp", "message", "cause")
        self._trace.result(call_id, event.get("content"), failed=failed, at=self._at, result_source=source)

    # --- version 1 ---

    def _new(self, kind: str, event: dict[str, Any]) -> None:
        rest = without(event, "kind", "timestamp", "llm_message", "action", "observation", "tool_call", "thought")
        call_id = str(event.get("tool_call_id") or event.get("action_id"))
        if kind == "MessageEvent":
            message = event["llm_message"] if isinstance(event.get("llm_message"), dict) else {}
            role = {"user": "user", "agent": "assistant"}.get(str(event.get("source")), "system")
            thought = message.get("reasoning_content")
            if isinstance(thought, str) and thought:
                self._say(role, thought, kind="thought")
            content = message.get("content")
            self._say(role, text_of(content) or content or "", source=rest)
        elif kind == "ActionEvent":
            thought = text_of(event.get("thought")) or event.get("reasoning_content")
            if isinstance(thought, str) and thought.strip():
                self._say("assistant", thought, kind="thought")
            call = event["tool_call"] if isinstance(event.get("tool_call"), dict) else {}
            action = event["action"] if isinstance(event.get("action"), dict) else None
            given = without(action, "kind") if action else arguments_of(call.get("arguments"))
            name = name_of(event.get("tool_name")) or name_of(call.get("name")) or "action"
            self._spoke = False
            self._trace.call(name, given, call_id=call_id, at=self._at, source=rest)
            if name == "finish":
                self._trace.last_text = str((action or {}).get("message") or self._trace.last_text)
                self._status = ("completed", None)
        elif kind in ("ObservationEvent", "UserRejectObservation", "AgentErrorEvent"):
            seen = event["observation"] if isinstance(event.get("observation"), dict) else {}
            failed = kind != "ObservationEvent" or seen.get("is_error") is True
            value = (
                text_of(seen.get("content"))
                or without(seen, "kind")
                or event.get("error")
                or event.get("rejection_reason")
            )
            name = name_of(event.get("tool_name")) or "unknown"
            self._trace.result(call_id, value, failed=failed, tool=name, at=self._at, result_source=rest)
        else:
            state = event.get("value") if event.get("key") == "execution_status" else None
            if str(state) in _V1_ENDS:
                self._status = (_V1_ENDS[str(state)], str(state))
            self._trace.event("openhands.event", {"line": event}, at=self._at)

    def end(self) -> None:
        """End the conversation."""
        status, why = self._status or (("completed", None) if self._spoke else ("stopped", None))
        if status == "completed":
            self._trace.complete(status, summary=self._trace.last_text, at=self._at)
        elif status == "failed":
            self._trace.complete(status, summary=self._trace.last_text, error=why, at=self._at)
        else:
            self._trace.complete(status, summary=why or "the events end before the agent has answered", at=self._at)
