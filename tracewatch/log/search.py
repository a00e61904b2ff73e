"""Search over everything that a log holds: what of an event can be found, and the seam to what finds it.

Rule 1: whatever finds things follows the log as a watcher does. No append waits for it, and it says how far it is.
Rule 2: it can always be made anew from the log. What it says is checked against the log before anybody sees it, so a
        trace that was deleted, and a past that was trimmed, is not found any more, however late it hears of that.
Rule 3: one event gives one text at most. A message is found at the event that added it, as it stands when it is
        complete; one that never will be, as it stands when its trace has ended. Of the trace itself (task, agent, tags,
        session, user) there is one text, at event 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from ..model.blobs import is_reference, shown
from ..model.error import error_line
from ..model.terms import Term
from .patience import Patience
from .row import TraceRow, list_of

MOST_TEXT = 512 * 1024  # characters of one text that can be found
_BYTES = re.compile(r"(?:data:[^,]{0,200},)?[A-Za-z0-9+/=_-]{1000}")  # so begins what is no text
_OWN_KEYS = frozenset({"event", "event_id", "trace_id", "ts", "occurred_at", "affected_goals"})
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # a terminal's, which would be parts of words
_OF_A_CALL = ("tool_name", "name", "arguments", "result", "error")
_NO_TEXT = frozenset({"sub_trace_started", "sub_trace_completed", "sub_trace_left", "input_expired", "trace_updated"})


class Found(NamedTuple):
    """A text in which all was found."""

    place: int  # in the order of what is found, the newest highest
    trace_key: int
    trace_id: str
    event_id: int  # 0: the trace itself
    kind: str  # run, message, goal, step, question, answer, end or event
    label: str  # a message's role or tool, a custom event's name …
    name: str  # the message's id, or the goal's, the step's, the question's
    at: str
    text: str


class SearchProgress(NamedTuple):
    """How far the log has been read for search."""

    state: str  # current, behind, building or off
    behind: int  # traces that are not read to their ends
    traces: int  # in the log
    trouble: str = ""  # why it does not go on


class SearchIndex(Protocol):
    """What finds texts. All calls may be made at any time; a call that can't be served raises StorageFault."""

    async def find(
        self,
        terms: Sequence[Term],
        *,
        before: int | None,
        traces: Collection[int] | None,
        limit: int,
        per_trace: int,
        patience: Patience,
    ) -> tuple[list[Found], int | None]:
        """The newest ``limit`` texts with all of the terms, ``before`` a place, and the place to go on before, or None.

        The newest traces come first, each with its newest texts, at most ``per_trace`` of them. ``traces``: only in
        those of these keys. Raises TooLong.
        """

    async def traces_with(self, terms: Sequence[Term], most: int, patience: Patience) -> list[int] | None:
        """The keys of the traces that have a text with all of the terms, None if there are more than ``most``."""

    async def among(self, terms: Sequence[Term], trace_ids: Collection[str], patience: Patience) -> set[str]:
        """Those of these traces that have a text with all of the terms, and none with a negative one."""

    async def progress(self) -> SearchProgress:
        """How far it is."""

    async def step(self) -> bool:
        """Read on a little. False: there is nothing to read now, or another process does it."""

    async def rebuild(self) -> None:
        """Forget everything, so that all is read again."""

    async def close(self) -> None:
        """Let go."""


# --- what can be found of an event -----------------------------------------------------------------------------


class Text(NamedTuple):
    """What can be found of an event."""

    kind: str
    label: str
    name: str
    text: str


def run_text(row: TraceRow) -> Text:
    """What can be found of a trace itself."""
    tags = " ".join(f"#{tag}" for tag in list_of(row.tags))
    parts = (row.task, tags, row.trace_id, row.agent_type, row.session_id or "", row.user_id or "")
    return Text("run", row.agent_type, "", _cut("\n".join(part for part in parts if part)))


def message_text(message: dict[str, Any], whole: Callable[[dict[str, Any]], Any] = shown) -> Text:
    """What can be found of a message. ``whole`` gives the content that a reference stands for."""
    content = message.get("content")
    label = str(message.get("role") or "")
    if label == "tool" and isinstance(content, dict):
        label = str(content.get("tool_name") or content.get("name") or label)
        parts: list[Any] = [label, *(content.get(key) for key in ("arguments", "result", "error"))]
        content = [*parts, {key: value for key, value in content.items() if key not in _OF_A_CALL}]
    return Text("message", label[:256], str(message.get("message_id", "")), value_text(content, whole))


def event_text(event: dict[str, Any]) -> Text | None:
    """What can be found of an event that is about no message; None: nothing."""
    name = str(event.get("event"))
    if name in _NO_TEXT or name.startswith("message_"):
        return None
    if name in ("goal_added", "goal_updated", "step_added", "step_updated"):
        kind = name.partition("_")[0]
        value = event.get("patch" if name.endswith("updated") else kind) or {}
        keys = ("description", "reason", "summary", "name", "input", "output", "error")
        said = [value_text(value[key]) for key in keys if value.get(key) is not None]
        return _text(kind, "", event.get(f"{kind}_id") or value.get("id"), said)
    if name == "input_requested":
        return _text("question", "", event.get("request_id"), [event.get("question"), value_text(event.get("options"))])
    if name == "input_provided":
        by = str(event.get("by") or "")
        return _text("answer", by, event.get("request_id"), [value_text(event.get("value")), by])
    if name in ("trace_completed", "trace_status_changed"):
        error = event.get("error")
        line = error_line(error)
        told = value_text(error)
        parts = [event.get("summary"), event.get("reason"), line if line != told else "", told]
        return _text("end", str(event.get("status") or ""), "", parts)
    payload = {key: value for key, value in event.items() if key not in _OWN_KEYS}
    return _text("event", name, "", [name, value_text(payload)])


def _text(kind: str, label: str, name: Any, said: Sequence[Any]) -> Text | None:
    text = "\n".join(part for part in said if isinstance(part, str) and part)
    return Text(kind, label[:256], str(name or ""), _cut(text)) if text else None


def value_text(value: Any, whole: Callable[[dict[str, Any]], Any] = shown) -> str:
    """The keys and values of a JSON value, as text. Pictures and other bytes are none."""
    room, parts = MOST_TEXT, []
    for part in _parts(value, whole):
        parts.append(part[:room])
        room -= len(part) + 1
        if room <= 0:
            break
    return "\n".join(parts)


def _parts(value: Any, whole: Callable[[dict[str, Any]], Any]) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if not _BYTES.match(one):
                yield _COLOURS.sub("", one) if "\x1b" in one else one
        elif is_reference(one):
            restored = whole(one)
            waiting.append(shown(one) if is_reference(restored) else restored)
        elif isinstance(one, dict):
            if one.get("type") == "text" and isinstance(one.get("text"), str):
                waiting.append(one["text"])
                continue
            for key in reversed(one):
                waiting += [one[key], key]
        elif isinstance(one, list):
            waiting += reversed(one)
        elif one is not None and not isinstance(one, bool):
            yield str(one)


def _cut(text: str) -> str:
    return text[:MOST_TEXT]
