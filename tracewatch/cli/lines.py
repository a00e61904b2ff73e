"""Events as lines of text for a reader: one line for each event. Pure; ``screen.py`` prints them.

Rule 1: an ``EventLine`` holds the agent's words as it wrote them; ``screen.py`` escapes them.
Rule 2: a message's text is told once: text appended later becomes a line of its own that continues the first one.
Rule 3: an event of an unknown name or form becomes a line as well; no event raises an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..model.blobs import shown
from ..model.contents import replaced
from ..model.error import error_line
from . import text
from .times import OwnTimes

Event = Mapping[str, Any]

GOAL_GLYPHS = {"pending": "○", "in_progress": "◐", "completed": "●", "abandoned": "⊘"}
GOAL_STYLES = {"pending": "dim", "in_progress": "yellow", "completed": "green", "abandoned": "dim"}
GOAL_WORDS = {"in_progress": "started", "completed": "completed", "abandoned": "abandoned", "pending": "added"}
STATUS_GLYPHS = {
    "running": "◐",
    "waiting": "?",
    "idle": "◌",
    "completed": "✓",
    "failed": "✗",
    "stopped": "■",
    "lost": "!",
}
STATUS_STYLES = {
    "running": "yellow",
    "waiting": "magenta",
    "idle": "cyan",
    "completed": "green",
    "failed": "red",
    "stopped": "yellow",
    "lost": "red",
}
_ROLES = {"user": ("❯", "cyan"), "assistant": ("◆", "blue"), "system": ("∙", "dim"), "tool": ("✓", "green")}
_BASE_KEYS = frozenset({"event", "event_id", "trace_id", "ts", "occurred_at", "affected_goals"})


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event as a line for a reader."""

    at: str  # RFC 3339, UTC: when it happened; "" where the run has no times of its own
    trace_id: str
    glyph: str
    style: str
    role: str
    text: str
    goal: str = ""
    note: str = ""  # tokens, duration, cost
    error: bool = False
    message_id: str | None = None
    goes_on: bool = False  # the text continues an earlier line of message_id
    still_open: bool = False  # message_id may still get more text
    step: int = 0  # the event's number, in the place of a time


@dataclass(slots=True)
class _Told:
    """The parts of a message that are needed to tell its updates."""

    role: str
    goal_id: str | None
    tool: str = ""
    arguments: str = ""
    streaming: bool = False
    held: list[str] = field(default_factory=list)  # text that waits for the message to be complete (``whole``)


class Narrator:
    """Turns the events of one trace into lines, in order. ``whole``: a streamed message is one line, once complete.

    ``timeless``: no times of this run are known.
    """

    def __init__(self, trace_id: str, *, whole: bool = False, timeless: bool = False) -> None:
        self.trace_id = trace_id
        self.timeless = timeless
        self._times = OwnTimes()
        self._at: tuple[int, str] = (0, "")  # the last event that was told, and when it happened
        self._whole = whole
        self._goals: dict[str, str] = {}
        self._told: dict[str, _Told] = {}
        self._steps: dict[str, str] = {}  # their names

    def know(
        self,
        goals: Iterable[Mapping[str, Any]],
        messages: Iterable[Mapping[str, Any]] = (),
        steps: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Learn the goals, messages and steps from before the first event, as they now stand."""
        self._steps |= {step["id"]: step["name"] for step in steps}
        for goal in goals:
            self._goals.setdefault(goal["id"], goal["description"])
        for message in messages:
            self._told.setdefault(message["message_id"], _told(message))

    def tell(self, event: Event) -> EventLine | None:
        """The event as a line; None if there is nothing to print yet."""
        self._when(event)
        teller = _TELLERS.get(event["event"])
        return teller(self, event) if teller else self._other(event)

    def unfinished(self, event: Event) -> Iterator[EventLine]:
        """With ``whole``: a line for each message that was never completed, as of ``event``."""
        for message_id, told in self._told.items():
            if told.held:
                content, told.held = "".join(told.held), []
                yield self._said(event, message_id, told, content)

    def _when(self, event: Event) -> str:
        number = event.get("event_id", 0)
        if number != self._at[0] or not number:
            self._at = number, "" if self.timeless else self._times.of(event)
        return self._at[1]

    def _goal(self, goal_id: str | None) -> str:
        return self._goals.get(goal_id, "") if goal_id is not None else ""

    # --- goals ---

    def _goal_added(self, event: Event) -> EventLine:
        goal = event["goal"]
        self._goals[goal["id"]] = goal["description"]
        reason = f" — {goal['reason']}" if goal.get("reason") else ""
        return self._goal_line(event, goal["status"], goal["description"] + reason, goal.get("parent_id"))

    def _goal_updated(self, event: Event) -> EventLine:
        patch = event["patch"]
        if "description" in patch:
            self._goals[event["goal_id"]] = patch["description"]
        words = self._goal(event["goal_id"]) or str(event["goal_id"])
        if patch.get("summary"):
            words += f" — {patch['summary']}"
        return self._goal_line(event, patch.get("status", ""), words)

    def _goal_line(self, event: Event, status: str, words: str, parent_id: str | None = None) -> EventLine:
        also = [
            self._goal(change["goal_id"]) or change["goal_id"]
            for change in event.get("affected_goals", ())
            if change.get("status") == "completed"
        ]
        return self._line(
            event,
            GOAL_GLYPHS.get(status, "○"),
            GOAL_STYLES.get(status, "dim"),
            "goal",
            f"{GOAL_WORDS.get(status, 'changed')}: {words}",
            goal=self._goal(parent_id),
            note="; ".join(f"completes {goal}" for goal in also),
        )

    # --- messages ---

    def _message_added(self, event: Event) -> EventLine | None:
        message = event["message"]
        told = self._told[message["message_id"]] = _told(message)
        if message["role"] == "tool":
            return self._tool(event, message["message_id"], told, message)
        content = readable(message["content"])
        if self._whole and told.streaming:
            told.held.append(content)
            return None
        return self._said(event, message["message_id"], told, content, message)

    def _message_updated(self, event: Event) -> EventLine | None:
        message_id, patch = event["message_id"], event.get("patch", {})
        told = self._told.setdefault(message_id, _Told("message", event.get("goal_id"), streaming=True))
        if told.role == "tool" or (isinstance(patch.get("content"), dict) and "tool_name" in patch["content"]):
            return self._tool(event, message_id, told, patch)
        content = event.get("append", "")
        replaced = "content" in patch and not content
        if replaced:
            content = readable(patch["content"])
        ended = patch.get("status") == "complete" or not told.streaming
        told.streaming = not ended
        if self._whole:
            told.held = [content] if replaced else [*told.held, content]
            if not ended:
                return None
            content, told.held = "".join(told.held), []
            return self._said(event, message_id, told, content, patch)
        return self._said(event, message_id, told, content, patch, goes_on=not replaced)

    def _said(
        self,
        event: Event,
        message_id: str,
        told: _Told,
        content: str,
        message: Mapping[str, Any] | None = None,
        *,
        goes_on: bool = False,
    ) -> EventLine:
        glyph, style = _ROLES.get(told.role, ("•", "cyan"))
        if failed := error_line((message or {}).get("error")):
            glyph, style, content = "✗", "red", f"{content} ✗ {failed}" if content or goes_on else failed
        return self._line(
            event,
            glyph,
            style,
            told.role,
            content,
            goal=self._goal(told.goal_id),
            note=_note(message or {}),
            error=bool(failed),
            message_id=message_id,
            goes_on=goes_on,
            still_open=told.streaming,
        )

    def _tool(self, event: Event, message_id: str, told: _Told, message: Mapping[str, Any]) -> EventLine:
        content = message.get("content")
        parts = content if isinstance(content, dict) else {}
        told.tool = str(
            parts.get("tool_name") or parts.get("name") or told.tool or message.get("description") or "tool"
        )
        if "arguments" in parts:
            told.arguments = _arguments(parts["arguments"])
        running = message.get("status") == "running"
        words, error = " ".join(part for part in (told.tool, told.arguments) if part), parts.get("error") is not None
        if error:
            words += f" ✗ {error_line(parts['error'])}"
        elif "result" in parts:
            words += f" → {readable(parts['result'])}"
        elif content is not None and not isinstance(content, dict):
            words += f" → {readable(content)}"
        glyph, style = ("✗", "red") if error else ("…", "yellow") if running else _ROLES["tool"]
        goal = self._goal(told.goal_id)
        note = _note(message)
        return self._line(event, glyph, style, "tool", words, goal=goal, note=note, error=error, message_id=message_id)

    # --- steps ---

    def _step_added(self, event: Event) -> EventLine:
        step = event["step"]
        self._steps[step["id"]] = step["name"]
        return self._step_line(event, step, step["name"] + ("" if step["kind"] == "span" else f" ({step['kind']})"))

    def _step_updated(self, event: Event) -> EventLine | None:
        patch, name = event["patch"], self._steps.get(event["step_id"], event["step_id"])
        self._steps[event["step_id"]] = name = patch.get("name", name)
        return self._step_line(event, patch, name) if patch.get("status") or patch.get("error") is not None else None

    def _step_line(self, event: Event, step: Mapping[str, Any], words: str) -> EventLine:
        status = step.get("status") or "failed"
        shown = step.get("input") if status == "running" else step.get("output")
        said = error_line(step["error"]) if step.get("error") is not None else shown
        glyph, style = (
            STATUS_GLYPHS.get(status, "•"),
            "dim" if status == "completed" else STATUS_STYLES.get(status, "dim"),
        )
        words += f": {said}" if said else ""
        return self._line(
            event, glyph, style, "step", words, goal=self._goal(step.get("goal_id")), error=status == "failed"
        )

    # --- the trace ---

    def _sub_trace(self, event: Event) -> EventLine:
        goal = self._goal(event.get("parent_goal_id"))
        words = f"{event.get('agent_type', 'agent')} started: {event.get('task', '')}"
        return self._line(event, "↳", "magenta", "agent", f"{words} ({event['sub_trace_id']})", goal=goal)

    def _sub_trace_completed(self, event: Event) -> EventLine:
        status, summary = event["status"], event.get("summary")
        said = [part for part in (error_line(event.get("error")), summary) if part]
        words = ": ".join([f"{event['sub_trace_id']} {status}", *said])
        stats = event["stats"]
        totals = {"tokens": stats["total_tokens"], "cost": stats["total_cost"], "usage": stats.get("usage")}
        error = status in ("failed", "lost")
        return self._line(event, "↲", STATUS_STYLES.get(status, "dim"), "agent", words, note=_note(totals), error=error)

    def _status(self, event: Event) -> EventLine:
        status = event["status"]
        said = (readable(event.get("reason")), error_line(event.get("error")), readable(event.get("summary")))
        words = [status, *(part for part in said if part)]
        note = []
        if event.get("total_messages"):
            note = [
                text.count(event["total_messages"], "message"),
                _note(_totals(event)),
            ]
        return self._line(
            event,
            STATUS_GLYPHS.get(status, "■"),
            STATUS_STYLES.get(status, "dim"),
            "trace",
            ": ".join(words),
            note=", ".join(part for part in note if part),
            error=status in ("failed", "lost"),
        )

    def _input_requested(self, event: Event) -> EventLine:
        options = ", ".join(readable(option) for option in event.get("options") or ())
        goal = self._goal(event.get("goal_id"))
        words = event["question"] + (f" [{options}]" if options else "")
        return self._line(event, "?", "magenta", "question", words, goal=goal)

    def _input_closed(self, event: Event) -> EventLine:
        words = readable(event["value"]) if "value" in event else "nobody answered in time"
        by = f"by {event['by']}" if event.get("by") else ""
        return self._line(event, "!", "magenta", "answer", words, note=by)

    def _cancel(self, event: Event) -> EventLine:
        words = ": ".join(str(part) for part in ("cancel requested", event.get("reason")) if part)
        by = f"by {event['by']}" if event.get("by") else ""
        return self._line(event, "■", "yellow", "control", words, note=by)

    def _other(self, event: Event) -> EventLine:
        payload = {key: value for key, value in event.items() if key not in _BASE_KEYS}
        only = next(iter(payload.values())) if len(payload) == 1 else None
        words = only if isinstance(only, str) else compact(payload) if payload else ""
        if payload.keys() == {"error"}:
            words = error_line(only)
        name = event["event"]
        error = name == "error" or name.endswith((".error", "_error"))
        return self._line(event, "✗" if error else "•", "red" if error else "cyan", name, words, error=error)

    def _line(self, event: Event, glyph: str, style: str, role: str, words: str, **more: Any) -> EventLine:
        return EventLine(self._when(event), self.trace_id, glyph, style, role, words, step=self._at[0], **more)


_TELLERS: dict[str, Callable[[Narrator, Event], EventLine | None]] = {
    "goal_added": Narrator._goal_added,
    "goal_updated": Narrator._goal_updated,
    "message_added": Narrator._message_added,
    "message_updated": Narrator._message_updated,
    "step_added": Narrator._step_added,
    "step_updated": Narrator._step_updated,
    "sub_trace_started": Narrator._sub_trace,
    "sub_trace_completed": Narrator._sub_trace_completed,
    "trace_status_changed": Narrator._status,
    "trace_completed": Narrator._status,
    "input_requested": Narrator._input_requested,
    "input_provided": Narrator._input_closed,
    "input_expired": Narrator._input_closed,
    "cancel_requested": Narrator._cancel,
}


def _told(message: Mapping[str, Any]) -> _Told:
    content = message["content"]
    parts = content if message["role"] == "tool" and isinstance(content, dict) else {}
    return _Told(
        message["role"],
        message.get("goal_id"),
        tool=str(parts.get("tool_name") or parts.get("name") or ""),
        arguments=_arguments(parts["arguments"]) if "arguments" in parts else "",
        streaming=message.get("status") == "streaming",
    )


def _note(message: Mapping[str, Any]) -> str:
    parts = []
    if message.get("duration_ms") is not None:
        parts.append(text.duration(message["duration_ms"]))
    if words := text.used(message, message.get("tokens")):
        parts.append(words)
    if message.get("cost"):
        parts.append(text.dollars(message["cost"]))
    return ", ".join(parts)


def _totals(event: Event) -> Event:
    """The sums of an event that ends a trace, by the names that a message has for them."""
    return {"tokens": event.get("total_tokens"), "cost": event.get("total_cost"), "usage": event.get("usage")}


def compact(value: Any) -> str:
    """A value as JSON on one line, with previews of what stands beside the log."""
    return orjson.dumps(replaced(value, shown)).decode()


def readable(value: Any) -> str:
    """``value`` as readable text: its text, or the texts of its content parts, else JSON on one line."""
    value = replaced(value, shown)
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list) and value:
        parts = [part.get("text") if isinstance(part, dict) else part for part in value]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "\n".join(texts)
    if isinstance(value, dict) and isinstance(value.get("text"), str) and set(value) <= {"text", "type"}:
        return str(value["text"])
    return compact(value)


def _arguments(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={item if _bare(item) else compact(item)}" for key, item in value.items())
    return readable(value)


def _bare(item: Any) -> bool:
    """Whether ``item`` is a string that can stand among others without quotes."""
    return isinstance(item, str) and bool(item) and not any(c.isspace() or c in "\"'=" for c in item)
