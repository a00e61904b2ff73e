"""The writer of one trace: messages, tool calls and goals become steps that fit the protocol's limits.

Rule 1: ids are counted (``msg-1``, ``goal-1``, ``<trace>-s1``), so a file always gives the same ids.
Rule 2: what is big or binary is stored beside the log. Every event is made to fit by ``model/fit.py``, and nothing of
        it is lost: a value that is still too large moves as text into a message of role ``attachment``.
Rule 3: a tool's call and result are one message. A call that is still open at the end is closed with ``no_result``.
Rule 4: what a file tells that ``grows`` are Puts, which write what is new of it when it is imported again. Its trace
        has a name that stays the same, and what was told of its beginning stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..model import fit
from ..model.contents import event_taken_out, reference
from .reading import BadJson, clip, digest_of, whole, without
from .steps import AppendEvent, CreateTrace, ImportFault, KeepContent, Put, Step

NO_TIMES = {"times": "none"}  # docs/protocol.md, Time


@dataclass
class Call:
    """A tool's call that waits for its result."""

    message_id: str
    content: dict[str, Any]  # as it was added, without the large values that moved out


@dataclass
class TraceWriter:
    """Writes one trace's steps into ``out``, from which the importer yields them."""

    out: list[Step]
    trace_id: str
    calls: dict[str, Call] = field(default_factory=dict)  # open calls by the source's id, oldest first
    last_text: str = ""  # the agent's last words
    ended: bool = False
    root: TraceWriter | None = None  # the writer of the topmost trace, which counts all sub-traces
    timeless: bool = False  # the source says no times: its metadata tells so, as nothing else does
    grows: bool = False  # the file may be written again with more
    _messages: int = 0
    _goals: int = 0
    _children: int = 0
    _events: int = 0  # with a place for their only name

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
        told = NO_TIMES if self.timeless else {}
        kept, large = fit.split_metadata({**(metadata or {}), **told})
        spec: dict[str, Any] = {
            "trace_id": self.trace_id,
            "task": fit.task(clip(task, fit.TASK_CHARS)),
            "agent_type": fit.name(agent_type or "agent"),
        }
        if parent is not None:
            spec["parent_trace_id"] = parent.trace_id
            if parent_goal_id is not None:
                spec["parent_goal_id"] = parent_goal_id
        spec["metadata"] = kept
        if self.grows:
            self._put("trace", "", without(spec, "trace_id"), at)
        else:
            self.out.append(CreateTrace(spec))
        if large:
            self.event("import.metadata", {"metadata": large}, at=at)

    def child(self) -> TraceWriter:
        """The writer of a sub-trace, which is still to be created."""
        root = self.root or self
        root._children += 1
        return TraceWriter(
            self.out, f"{root.trace_id}-s{root._children}", root=root, timeless=self.timeless, grows=self.grows
        )

    def complete(self, status: str, *, summary: str = "", error: str | None = None, at: str | None = None) -> None:
        """End the trace, once. Closes calls that never got a result."""
        if self.ended:
            return
        self.ended = True
        for call_id in list(self.calls):
            call = self.calls.pop(call_id)
            patch = {"status": "complete", "no_result": True} | ({"content": call.content} if self.grows else {})
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
        if isinstance(content, str) and role == "assistant" and content.strip() and fields.get("kind") != "thought":
            self.last_text = content
        return self._add(role, content, at, fields)

    def _new_message_id(self) -> str:
        self._messages += 1
        return f"msg-{self._messages}"

    def _add(self, role: str, content: Any, at: str | None, fields: dict[str, Any]) -> str:
        message_id = self._new_message_id()
        message = {"message_id": message_id, "role": fit.name(role or "unknown"), "content": content}
        message.update({key: value for key, value in fields.items() if value is not None and value != {}})
        self.event("message_added", {"message": message}, at=at)
        return message_id

    def call(self, tool: str, arguments: Any, *, call_id: str | None, at: str | None = None, **fields: Any) -> str:
        """Add the running message of a tool's call and return its id. ``result`` finds the call by ``call_id``."""
        content = {"tool_name": tool} | ({} if arguments is None else {"arguments": arguments})
        place = len(self.out)
        fields = {"tool_call_id": fit.name(call_id) if call_id else None, "status": "running", **fields}
        message_id = self._add("tool", content, at, fields)
        added = next((step.event["message"] for step in self.out[place:] if isinstance(step, AppendEvent)), None)
        key = call_id if call_id is not None and call_id not in self.calls else message_id
        self.calls[key] = Call(message_id, content if added is None else added["content"])
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
        """Add the result to its call's message, or add a tool message of its own if there is no such call."""
        outcome = {"error" if failed else "result": value}
        given = {key: item for key, item in fields.items() if item is not None and item != {}}
        call = self.calls.pop(call_id, None) if call_id is not None else None
        if call is None:
            content = {"tool_name": tool, **outcome}
            self._add(
                "tool", content, at, {"tool_call_id": fit.name(call_id) if call_id else None, "no_call": True, **given}
            )
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
        """Append an event, made to fit. ``at``: its time (RFC 3339), if the source has it."""
        event: dict[str, Any] = {"event": name, **payload}
        if self.grows:
            self._put(*_fact(name, payload, self._events), at)
            self._events += 1
            return
        if at is not None:
            event["occurred_at"] = at
        event = event_taken_out(event, self._keep)
        self.out += [AppendEvent(self.trace_id, one) for one in fit.fit(event, self._new_message_id)]

    def _put(self, kind: str, key: str, fields: dict[str, Any], at: str | None) -> None:
        self.out.append(Put(self.trace_id, kind, key, fields, at))

    def _keep(self, data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any]:
        self.out.append(KeepContent(self.trace_id, data, media_type))
        return reference(data, media_type, preview, **more)


def _fact(name: str, payload: dict[str, Any], place: int) -> tuple[str, str, dict[str, Any]]:
    """An event as a fact of its trace: its kind, its key and its fields."""
    if name == "message_added":
        return "message", payload["message"]["message_id"], without(payload["message"], "message_id")
    if name == "message_updated":
        return "message", payload["message_id"], payload["patch"]
    if name == "goal_added":
        return "goal", payload["goal"]["id"], without(payload["goal"], "id")
    if name == "goal_updated":
        return "goal", payload["goal_id"], payload["patch"]
    if name == "trace_completed":
        return "status", f"end {place} {digest_of(payload)}", {"whole": True, **payload}
    return "event", f"{name} {place} {digest_of(payload)}", {"event": name, **payload}


def read_document(
    path: Path, is_known: Callable[[Any], bool], unknown: ImportFault, tell: Callable[[list[Step], Any], Iterable[None]]
) -> Iterator[Step]:
    """The steps of a file that is one JSON document. ``tell`` writes them, and yields where they may be taken.

    ``unknown``: what is said of a document of another form.
    """
    try:
        value = whole(path)
    except BadJson as error:
        yield ImportFault(error.message, error.line)
        return
    if not is_known(value):
        yield unknown
        return
    out: list[Step] = []
    for _ in tell(out, value):
        yield from drain(out)
    yield from drain(out)


def drain(out: list[Step]) -> Iterator[Step]:
    """Yield the steps written so far, and empty ``out``."""
    yield from out
    out.clear()
