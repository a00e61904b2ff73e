"""One trace being written: turns "the agent said", "a tool was called" into steps that fit the protocol's limits.

Rule 1: ids are counted, so the same file always gives the same: ``msg-1``, ``goal-1``, ``<trace>-s1``.
Rule 2: no event is above EVENT_BYTES. Text goes on in ``append`` chunks, then in a further message of the same
        role. What is too large elsewhere (a tool's result, an unknown key) moves as text into a message of role
        ``attachment`` that names where it belongs, and leaves ``{"moved_to_message", "bytes"}`` or its beginning
        behind.
Rule 3: a tool's call and result are one message. A call still open at the end is closed without a result, saying
        so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..model.canonical import depth_exceeds
from .reading import clip, name_of
from .steps import Append, CreateTrace, Step

EVENT_BYTES = 224 * 1024  # the limit is 256 KiB; the rest is for what the server adds
PART_BYTES = 128 * 1024  # of text in one event, as JSON
MESSAGE_PARTS = 24  # × PART_BYTES is below what a message may hold (4 MiB)
METADATA_BYTES = 64 * 1024
DEPTH = 180  # of an event; the limit is 200
TASK_CHARS = 10_000


@dataclass
class Call:
    """A tool's call that waits for its result."""

    message_id: str
    content: dict[str, Any]  # as it was added: what is too large already moved out


@dataclass
class TraceWriter:
    """Writes one trace's steps into ``out``, which the importer hands on and empties."""

    out: list[Step]
    trace_id: str
    calls: dict[str, Call] = field(default_factory=dict)  # open ones, by the source's id, oldest first
    last_text: str = ""  # what the agent said last
    ended: bool = False
    root: TraceWriter | None = None  # whose sub-trace this is, directly or not; it counts them all
    _messages: int = 0
    _goals: int = 0
    _children: int = 0

    # --- traces ---

    def create(
        self,
        task: str,
        *,
        agent_type: str,
        parent: TraceWriter | None = None,
        parent_goal_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        at: str | None = None,
    ) -> None:
        """Create the trace. A blank ``task`` becomes "(no task)"; metadata that is too large becomes an event."""
        kept, large = _split_metadata(metadata or {})
        spec: dict[str, Any] = {
            "trace_id": self.trace_id,
            "task": clip(task, TASK_CHARS) or "(no task)",
            "agent_type": name_of(agent_type) or "agent",
        }
        if parent is not None:
            spec["parent_trace_id"] = parent.trace_id
            if parent_goal_id is not None:
                spec["parent_goal_id"] = parent_goal_id
        spec["metadata"] = kept
        self.out.append(CreateTrace(spec))
        if large:
            self.event("import.metadata", {"metadata": large}, at=at)

    def child(self) -> TraceWriter:
        """The writer of a sub-trace, which is still to be created."""
        root = self.root or self
        root._children += 1
        return TraceWriter(self.out, f"{root.trace_id}-s{root._children}", root=root)

    def complete(self, status: str, *, summary: str = "", error: str | None = None, at: str | None = None) -> None:
        """End the trace, once. Closes calls that never got a result."""
        if self.ended:
            return
        self.ended = True
        for call_id in list(self.calls):
            call = self.calls.pop(call_id)
            patch = {"status": "complete", "no_result": True}
            self.event("message_updated", {"message_id": call.message_id, "patch": patch}, at=at)
        payload: dict[str, Any] = {"status": status}
        if summary.strip():
            payload["summary"] = clip(summary, 2000)
        if error is not None:
            payload["error"] = clip(error, 2000)
        self.event("trace_completed", payload, at=at)

    # --- messages ---

    def message(self, role: str, content: Any, *, at: str | None = None, **fields: Any) -> str:
        """Add a complete message and return its id. ``fields`` that are None or empty are left out."""
        if isinstance(content, str):
            if role == "assistant" and content.strip() and fields.get("kind") != "thought":
                self.last_text = content
            return self._text(role, content, at, fields)
        return self._add(role, content, at, fields)

    def _new_message_id(self) -> str:
        self._messages += 1
        return f"msg-{self._messages}"

    def _add(self, role: str, content: Any, at: str | None, fields: dict[str, Any], own_id: str | None = None) -> str:
        message_id = own_id or self._new_message_id()
        message = {"message_id": message_id, "role": name_of(role) or "unknown", "content": content}
        message.update({key: value for key, value in fields.items() if value is not None and value != {}})
        self.event("message_added", {"message": message}, at=at)
        return message_id

    def _text(self, role: str, text: str, at: str | None, fields: dict[str, Any], own_id: str | None = None) -> str:
        parts = list(text_parts(text))
        if len(parts) == 1:
            return self._add(role, text, at, fields, own_id)
        first_id = ""
        for start in range(0, len(parts), MESSAGE_PARTS):
            head, *rest = parts[start : start + MESSAGE_PARTS]
            if first_id:
                fields = {"goal_id": fields["goal_id"]} if "goal_id" in fields else {}
                fields["continues_message"] = first_id
            status = "streaming" if rest else "complete"
            message_id = self._add(role, head, at, {**fields, "status": status}, None if first_id else own_id)
            first_id = first_id or message_id
            for index, part in enumerate(rest, 1):
                update: dict[str, Any] = {"message_id": message_id, "append": part}
                if index == len(rest):
                    update["patch"] = {"status": "complete"}
                self.event("message_updated", update, at=at)
        return first_id

    def call(self, tool: str, arguments: Any, *, call_id: str | None, at: str | None = None, **fields: Any) -> str:
        """A tool's call begins: one message, running. Returns its id. ``call_id`` is how ``result`` finds it."""
        content = {"tool_name": tool} | ({} if arguments is None else {"arguments": arguments})
        place = len(self.out)
        fields = {"tool_call_id": name_of(call_id), "status": "running", **fields}
        message_id = self._add("tool", content, at, fields)
        added = self.out[place]
        assert isinstance(added, Append)
        key = call_id if call_id is not None and call_id not in self.calls else message_id
        self.calls[key] = Call(message_id, added.event["message"]["content"])
        return message_id

    def result(
        self,
        call_id: str | None,
        value: Any,
        *,
        failed: bool = False,
        tool: str = "unknown",
        at: str | None = None,
        **fields: Any,
    ) -> None:
        """The result of a call, or a tool message of its own where there is no such call."""
        outcome = {"error" if failed else "result": value}
        given = {key: item for key, item in fields.items() if item is not None and item != {}}
        call = self.calls.pop(call_id, None) if call_id is not None else None
        if call is None:
            content = {"tool_name": tool, **outcome}
            self._add("tool", content, at, {"tool_call_id": name_of(call_id), "no_call": True, **given})
            return
        patch = {"content": {**call.content, **outcome}, "status": "complete", **given}
        self.event("message_updated", {"message_id": call.message_id, "patch": patch}, at=at)

    # --- goals ---

    def goal(self, description: str, *, at: str | None = None, **fields: Any) -> str:
        """Add a goal and return its id. A description beyond 2,000 characters is kept whole in ``full_description``."""
        self._goals += 1
        goal_id = f"goal-{self._goals}"
        goal = {"id": goal_id, "description": clip(description, 2000) or "(no description)"}
        if len(description.strip()) > 2000:
            goal["full_description"] = description
        goal.update({key: value for key, value in fields.items() if value is not None and value != {}})
        self.event("goal_added", {"goal": goal}, at=at)
        return goal_id

    def goal_update(self, goal_id: str, *, at: str | None = None, **patch: Any) -> None:
        """Change a goal. A description or summary is clipped to 2,000 characters."""
        patch = {key: clip(v, 2000) if isinstance(v, str) else v for key, v in patch.items()}
        self.event("goal_updated", {"goal_id": goal_id, "patch": patch}, at=at)

    # --- every event goes through here ---

    def event(self, name: str, payload: dict[str, Any], *, at: str | None = None) -> None:
        """Append an event, made to fit. ``at``: when it happened, where the source says."""
        event: dict[str, Any] = {"event": name, **payload}
        if at is not None:
            event["occurred_at"] = at
        if depth_exceeds(event, DEPTH):
            event = _flattened(event, DEPTH)
        moved: list[tuple[str, str, str]] = []
        while len(orjson.dumps(event)) > EVENT_BYTES:
            event = orjson.loads(orjson.dumps(event))  # a copy of our own: what is moved out stays in the source
            attachment_id = self._new_message_id()
            moved.append((attachment_id, *_move_largest(event, attachment_id)))
        self.out.append(Append(self.trace_id, event))
        of = (event.get("message_id") or event.get("message", {}).get("message_id")) if moved else None
        for attachment_id, path, text in moved:
            fields = {"description": f"{path} ({len(text):,} characters)", "field": path}
            self._text("attachment", text, at, fields | ({"of_message": of} if of else {}), attachment_id)


def drain(out: list[Step]) -> Iterator[Step]:
    """Hand on what has been written so far."""
    yield from out
    out.clear()


def text_parts(text: str) -> Iterator[str]:
    """``text`` in pieces of at most PART_BYTES each, written as JSON."""
    start = 0
    while start < len(text) or not start:
        length = PART_BYTES - 2  # the quotes
        while (size := len(orjson.dumps(text[start : start + length]))) > PART_BYTES:
            length = length * (PART_BYTES - 2) // size  # smaller each time, since size is above
        yield text[start : start + length]
        start += length


def _split_metadata(metadata: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is small enough to stand in the trace's header, and the rest."""
    if depth_exceeds(metadata, DEPTH):
        metadata = _flattened(metadata, DEPTH)
    if len(orjson.dumps(metadata)) <= METADATA_BYTES:
        return metadata, {}
    small = {key: value for key, value in metadata.items() if len(orjson.dumps(value)) <= 1024}
    return small, {key: value for key, value in metadata.items() if key not in small}


def _flattened(value: Any, levels: int) -> Any:
    """``value`` with what lies deeper than ``levels`` as its JSON text."""
    if not isinstance(value, (dict, list)):
        return value
    if levels <= 1:
        return _json_text(value)
    if isinstance(value, list):
        return [_flattened(item, levels - 1) for item in value]
    return {key: _flattened(item, levels - 1) for key, item in value.items()}


def _json_text(value: Any) -> str:
    """``value`` as JSON however deep it is: neither json nor orjson writes a thousand levels."""
    written: list[str] = []
    waiting: list[tuple[bool, Any]] = [(False, value)]  # from the end; True: text that is JSON already
    while waiting:
        done, item = waiting.pop()
        if done:
            written.append(item)
        elif isinstance(item, (dict, list)):
            pairs = [(f"{orjson.dumps(k).decode()}:", v) for k, v in item.items()] if isinstance(item, dict) else None
            waiting.append((True, "]" if pairs is None else "}"))
            for index, (key, child) in reversed(
                list(enumerate(pairs if pairs is not None else [("", child) for child in item]))
            ):
                waiting += [(False, child), (True, f",{key}" if index else key)]
            written.append("[" if pairs is None else "{")
        else:
            written.append(orjson.dumps(item).decode())
    return "".join(written)


def _move_largest(event: dict[str, Any], message_id: str) -> tuple[str, str]:
    """Replace what weighs most in ``event``; returns its path and it as text. The text of a message stays."""
    container: Any = event
    path: list[str] = []
    while True:
        weights = {key: len(orjson.dumps(child)) for key, child in _children(container, path)}
        key = max(weights, key=lambda k: weights[k])
        child = container[key]
        path.append(str(key))
        inner = [len(orjson.dumps(item)) for _, item in _children(child, path)]
        # Go down as long as one part makes up most of the whole: the rest then stays in place, as do the objects
        # whose keys the protocol knows.
        known = len(path) == 1 or (path[1:] == ["content"] and "tool_name" in child)
        if not inner or not (known or max(inner) >= weights[key] // 2):
            break
        container = child
    size = weights[key]
    if isinstance(child, str):
        container[key] = f"{child[:1000]}… (the whole text: message {message_id})"
        return ".".join(path), child
    container[key] = {"moved_to_message": message_id, "bytes": size}
    return ".".join(path), orjson.dumps(child).decode()


def _children(container: Any, path: list[str]) -> list[tuple[Any, Any]]:
    if isinstance(container, dict):
        text_of_message = container.get("content") if path == ["message"] else None
        return [(k, v) for k, v in container.items() if not (k == "content" and isinstance(text_of_message, str))]
    return list(enumerate(container)) if isinstance(container, list) else []
