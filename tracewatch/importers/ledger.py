"""The ledger of a trace: what its log holds of a source, so that the same fact, told again, writes nothing.

A source that grows, such as a transcript, is read again and again: by an import, by who follows it, by a pipe, also by
several of them at once. Each of them tells all that it knows as Puts. A ledger is a fold over the events of the trace's
log, and turns a Put into the events that say something new.

Rule 1: a message and a goal are added once, by the source's own id. A message moves from running or streaming to
        complete and never back; a goal as the protocol lets it. What is complete keeps its content.
Rule 2: the usage of a message only grows: lines that were read before say less.
Rule 3: an event and a status have the key of what told them, and stand in the log once under this key. So has a new
        text of a goal or trace, since an old one that is told again would be new, too.
Rule 4: "running" is written where something new follows in a trace that is not running.
Rule 5: a message that a hook has told of under an id of its own is the same message (twins.py).
Rule 6: the events of one Put are in one piece: what is stored of them ends with the message complete, or is told again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..model import fit
from ..model.canonical import STATUSES
from ..model.contents import Keep, event_taken_out, reference
from ..model.usage import total_of
from .long_dict import LongDict
from .reading import clip, without
from .steps import AppendEvent, CreateTrace, KeepContent, Put, Step
from .twins import HOOK, Twins

_LATE = ("answer", "cost", "cost_of", "model", "sub_trace_id", "left", "duration_ms", "also")
_TAKEN = re.compile(r"[mr]\d+")  # ids of this form are the server's own
_COUNTED = ("tokens", "usage", "cost", "cost_of", "answer")
_ENDED = ("completed", "failed", "stopped")
_OPEN = ("pending", "in_progress")
_UNTOLD = "(no description)"  # of a goal whose change came before it
_DETAILS = ("session_id", "user_id", "tags", "started_at")


@dataclass(slots=True)
class _Message:
    level: int  # 0: in flight, 1: a call that has ended without a result, 2: complete
    chars: int  # of its text so far, while it is in flight
    tokens: int
    late: dict[str, Any] | None = None  # values that may come after it is complete


@dataclass(slots=True)
class _Goal:
    description: str
    status: str
    summary: str | None = None


@dataclass
class Ledger:
    """What the log of one trace holds. A new one is that of a trace that is not there yet."""

    trace_id: str
    spec: dict[str, Any] | None = None  # of the trace, once it is there
    status: str = "running"
    last_event_id: int = 0
    _messages: LongDict[_Message] = field(default_factory=LongDict)
    _goals: dict[str, _Goal] = field(default_factory=dict)
    _holders: LongDict[str] = field(default_factory=LongDict)  # answer of the model → the message that has its usage
    _keys: LongDict[bool] = field(default_factory=LongDict)
    _twins: Twins = field(default_factory=Twins)
    _summary: str | None = None
    _fresh: bool = False  # something that is no status was planned after the last one
    _latest: str | None = None  # when the latest message was told of
    keep: Keep | None = None  # takes what is big or binary in new events
    ended_now: bool = False  # a status that ends the trace was planned
    _resumes: Put | None = None  # says that the trace goes on, if anything new follows

    def plan(self, put: Put) -> list[dict[str, Any]]:
        """The events that are missing of ``put``, made to fit. The ledger has them from now on.

        The Put of a trace that is not there is no event: see ``creates``.
        """
        if put.kind in ("message", "append") and (not put.key or _TAKEN.fullmatch(put.key)):
            put = replace(put, key=f"id-{put.key}")
        if put.kind in ("message", "show"):
            put = self._as_twin(put)
        if put.kind == "status" and put.fields["status"] == "running":
            self._resumes = put
            return []
        events: list[dict[str, Any]] = []
        missing = self._missing(put)
        if missing and put.kind != "trace":
            events += self._resumed()
        if put.kind == "status" or missing:
            self._resumes = None
        self._fresh |= bool(missing) and put.kind != "status"
        for event in missing:
            if put.at is not None:
                event["occurred_at"] = put.at
            if self.keep is not None:
                event = event_taken_out(event, self.keep)
            events += fit.fit(event, _Parts(put.key[:240]).__next__)
        for event in events:
            self.absorb(event)
        return events

    def _resumed(self) -> list[dict[str, Any]]:
        put = self._resumes
        if put is None or self.status == "running" or put.key in self._keys:
            return []
        event: dict[str, Any] = {"event": "trace_status_changed", "status": "running", "key": put.key}
        return [event if put.at is None else event | {"occurred_at": put.at}]

    def creates(self, put: Put) -> dict[str, Any] | None:
        """The body of ``POST /api/traces`` for the Put of a trace that is not there; None for any other."""
        if put.kind != "trace" or self.spec is not None:
            return None
        spec = without(put.fields, "key")
        spec["task"] = fit.task(clip(spec.get("task") or "", fit.TASK_CHARS))
        spec["agent_type"] = fit.name(spec.get("agent_type") or "agent")
        spec["metadata"], _ = fit.split_metadata(spec.get("metadata") or {})
        self.spec = {"trace_id": self.trace_id} | {key: value for key, value in spec.items() if value is not None}
        return self.spec

    def _missing(self, put: Put) -> list[dict[str, Any]]:
        if put.kind == "message":
            return self._of_answer(put.key, put.fields, put.at)
        if put.kind == "append":
            return self._append(put.key, put.fields)
        if put.kind == "show":
            return self._show(put.key, put.fields)
        if put.kind == "said":
            return self._said(put.key, put.fields)
        if put.kind == "goal":
            return self._goal(put.key, put.fields)
        if put.kind == "event":
            return [] if put.key in self._keys else [{"event": put.fields["event"], "key": put.key, **put.fields}]
        if put.kind == "status":
            return self._become(put)
        return self._trace(put.fields)

    # --- the trace ---

    def _trace(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        assert self.spec is not None
        changed = {name: fields[name] for name in _DETAILS if fields.get(name) and not self.spec.get(name)}
        task, key = fit.task(clip(fields.get("task") or "", fit.TASK_CHARS)), fields.get("key")
        named = self.spec.get("task") == "(no task)" if key is None else key not in self._keys
        if named and task not in (self.spec.get("task"), "(no task)"):
            changed |= {"task": task} | ({} if key is None else {"key": key})
        known = self.spec.get("metadata") or {}
        fresh = {name: value for name, value in (fields.get("metadata") or {}).items() if name not in known}
        fresh, _ = fit.split_metadata(fresh)
        if fresh:
            changed["metadata"] = fresh
        return [{"event": "trace_updated", **changed}] if changed else []

    def _become(self, put: Put) -> list[dict[str, Any]]:
        """A status. One that ends a trace that has ended another way begins it again first.

        That of a ``whole`` file is nothing where the log has messages from after its end: the file is an older copy.
        """
        key, fields = put.key, put.fields
        status = fields["status"]
        older = fields.get("whole") and put.at is not None and self._latest is not None and put.at < self._latest
        if key in self._keys or older or (status == "idle" and (self.status in _ENDED or status not in STATUSES)):
            return []
        same = status == self.status and (status not in _ENDED or fields.get("summary") == self._summary)
        if same and (not self._fresh or status not in _ENDED):
            return []
        self._fresh = False
        rest = {name: value for name, value in fields.items() if name not in ("status", "whole") and value}
        if status not in _ENDED:
            return [{"event": "trace_status_changed", "status": status, "key": key, **rest}]
        self.ended_now = True
        begun: list[dict[str, Any]] = []
        if self.status in _ENDED and not self._resumed():
            begun.append({"event": "trace_status_changed", "status": "running"})
        return [*begun, {"event": "trace_completed", "status": status, "key": key, **_clipped(rest, "error")}]

    # --- messages ---

    def _of_answer(self, key: str, fields: dict[str, Any], at: str | None) -> list[dict[str, Any]]:
        """A message, whose usage and cost go to the one that has them for the same answer of the model."""
        holder = self._holders.get(str(fields.get("answer")), key)
        if holder == key or not fields.keys() & {"usage", "cost"}:
            return self._message(key, fields, at)
        counted = {name: fields[name] for name in _COUNTED if name in fields}
        rest = {name: value for name, value in fields.items() if name not in _COUNTED}
        told = self._message(key, rest, at) if key in self._messages or "role" in rest else []
        return told + self._message(holder, {"status": "running", **counted}, at)

    def _message(self, key: str, fields: dict[str, Any], at: str | None) -> list[dict[str, Any]]:
        known = self._messages.get(key)
        content = fields.get("content")
        fields = {n: v for n, v in fields.items() if (v is not None and v != {}) or n == "goal_id"}
        if known is None:
            fields.setdefault("content", "" if content is None else content)  # a message has one, if an empty object
            return [{"event": "message_added", "message": {"message_id": key, **fields}}]
        patch = _of_patch(fields) | {"status": "complete"} if _level(fields) > known.level else {}
        if known.level == 1 and patch and at:
            patch["ended_at"] = at  # it was complete before, for all that was known then
        late = known.late or {}
        patch |= {name: fields[name] for name in _LATE if name in fields and name not in late}
        if "also" in fields and fields["also"] != late.get("also"):
            patch |= {name: fields[name] for name in ("also", "source") if name in fields}
        if "cost" in fields and late.get("cost_source") == "priced":
            patch["cost"] = fields["cost"]  # what the source says is better than what was worked out
        if fields.get("cost_of") == "whole run" and fields.get("cost", 0.0) > late.get("cost", 0.0):
            patch["cost"] = fields["cost"]  # the run has gone on
        patch = {name: value for name, value in patch.items() if name not in ("tokens", "usage")}
        if _tokens(fields) > known.tokens:
            patch |= {name: fields[name] for name in ("tokens", "usage") if name in fields}
        if not patch:
            return []
        event: dict[str, Any] = {"event": "message_updated", "message_id": key}
        content = patch.get("content")
        goes_on = isinstance(content, str) and 0 < known.chars <= len(content) and self._twins.goes_on(key, content)
        if goes_on and isinstance(content, str):  # what streamed goes on
            event |= {"append": content[known.chars :]} if len(content) > known.chars else {}
            del patch["content"]
        return [event | {"patch": patch}]

    def _as_twin(self, put: Put) -> Put:
        """The Put under the id of the message that it is the twin of, if there is one."""
        key = self._twins.id_of(put.key)
        if key != put.key:
            return replace(put, key=key)
        if key in self._messages or put.kind != "message":
            return put
        twin = self._twins.find(key, put.fields)
        return put if twin is None else replace(put, key=twin, fields={**put.fields, "also": key})

    def _show(self, key: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """A piece of an answer, as a hook tells them one by one: the one numbered ``index``, the last one ``final``."""
        known, text, index = self._messages.get(key), fields["text"], fields["index"]
        done = {"patch": {"status": "complete"}} if fields["final"] else {}
        if known is not None:
            if known.level or index <= self._twins.reached.get(key, -1) or not (text or done):
                return []
            piece = {"append": text} if text else {}
            return [{"event": "message_updated", "message_id": key, **piece, **done, "shown": index}]
        if not text or self._twins.repeats(key, text):
            return []
        twin = self._twins.begins_with(text)
        if twin is not None:
            return [{"event": "message_updated", "message_id": twin, "patch": {"also": key}}]
        status = "complete" if fields["final"] else "streaming"
        message = {"role": "assistant", "content": text, "status": status, "told_by": HOOK, "shown": index}
        goal = {"goal_id": fields["goal_id"]} if fields.get("goal_id") else {}
        return [{"event": "message_added", "message": {"message_id": key, **message, **goal}}]

    def _said(self, key: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """A whole answer, as a hook says it at the end of a turn: nothing, where its pieces or the line are there."""
        text = fields["text"]
        if key in self._messages or self._twins.has(text):
            return []
        streaming = self._twins.ends_with(text)
        if streaming is not None:
            return self._message(streaming, {"role": "assistant", "content": text, "status": "complete"}, None)
        message = {"role": "assistant", "content": text, "status": "complete", "told_by": HOOK}
        goal = {"goal_id": fields["goal_id"]} if fields.get("goal_id") else {}
        return [{"event": "message_added", "message": {"message_id": key, **message, **goal}}]

    def _append(self, key: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
        known = self._messages.get(key)
        if known is None or known.level or not fields["start"] <= known.chars < fields["start"] + len(fields["text"]):
            return []
        return [
            {"event": "message_updated", "message_id": key, "append": fields["text"][known.chars - fields["start"] :]}
        ]

    # --- goals ---

    def _goal(self, key: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
        known = self._goals.get(key)
        fields = {name: value for name, value in fields.items() if value is not None and value != {}}
        if known is None:
            return self._new_goal(key, fields)
        patch: dict[str, Any] = {}
        description, told = clip(fields.get("description", ""), 2000), fields.get("key")
        if told is not None and told not in self._keys and description != known.description:
            return [{**_update(key, {"description": description}), "key": told}]
        if description and known.description == _UNTOLD:
            patch["description"] = description
        status = fields.get("status", known.status)
        if status != known.status and known.status in _OPEN and status != "pending":
            if status == "completed" and known.status == "pending":
                return [_update(key, {"status": "in_progress"}), _update(key, patch | _ending(fields, status))]
            patch |= _ending(fields, status)
        return [_update(key, patch)] if patch else []

    def _new_goal(self, key: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
        text = fields.get("description", "")
        goal = {**without(fields, "key"), "id": key, "description": clip(text, 2000) or _UNTOLD}
        if len(text.strip()) > 2000:
            goal["full_description"] = text
        for name in ("after_id", "parent_id"):
            if goal.get(name) not in self._goals:
                goal.pop(name, None)
        return [{"event": "goal_added", "goal": goal}]

    # --- what the log holds ---

    def absorb(self, event: dict[str, Any]) -> None:
        """Take an event of the trace's log, or one that will be in it."""
        name, key = event["event"], event.get("key")
        self.last_event_id = event.get("event_id", self.last_event_id)
        if isinstance(key, str):
            self._keys[key] = True
        if name in ("message_added", "message_updated"):
            self._latest = max(self._latest or "", event.get("occurred_at") or "") or None
        message = event.get("message") or event.get("patch") or {}
        answer = message.get("answer") if name in ("message_added", "message_updated") else None
        if isinstance(answer, str) and answer not in self._holders:
            self._holders[answer] = message.get("message_id") or event["message_id"]
        if name == "message_added":
            self._messages[message["message_id"]] = _told(message)
            self._twins.added(message)
        elif name == "message_updated":
            known = self._messages.get(event["message_id"])
            if known is not None:
                _tell(known, event)
                self._messages[event["message_id"]] = known
                self._twins.updated(event)
        elif name == "goal_added":
            goal = event["goal"]
            self._goals[goal["id"]] = _Goal(goal["description"], goal.get("status", "pending"), goal.get("summary"))
        elif name == "goal_updated" and event["goal_id"] in self._goals:
            for attribute, value in event["patch"].items():
                if attribute in ("description", "status", "summary"):
                    setattr(self._goals[event["goal_id"]], attribute, value)
        elif name in ("trace_status_changed", "trace_completed"):
            if name == "trace_status_changed" or self.status not in _ENDED:
                self.status, self._summary = event["status"], event.get("summary")
        elif name == "trace_updated" and self.spec is not None:
            self.spec = {**self.spec, **{k: event[k] for k in ("task", *_DETAILS) if k in event}}
            self.spec["metadata"] = {**self.spec.get("metadata", {}), **event.get("metadata", {})}
        for goal in event.get("affected_goals") or ():
            if goal["goal_id"] in self._goals and "status" in goal:
                self._goals[goal["goal_id"]].status = goal["status"]


class _Parts:
    """Ids for the messages that go on with one that is too large: ``<its id>~2`` and so on."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._number = 1

    def __next__(self) -> str:
        self._number += 1
        return f"{self._key}~{self._number}"


def _clipped(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: clip(value, 2000) if isinstance(value, str) else value for name, value in fields.items()}


def _of_patch(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ("role", "goal_id", "tool_call_id")}


def _update(key: str, patch: dict[str, Any]) -> dict[str, Any]:
    return {"event": "goal_updated", "goal_id": key, "patch": patch}


def _ending(fields: dict[str, Any], status: str) -> dict[str, Any]:
    summary = fields.get("summary")
    return {"status": status} | ({"summary": clip(summary, 2000)} if summary else {})


def _tokens(fields: dict[str, Any]) -> int:
    usage = fields.get("usage")
    return fields.get("tokens") or (total_of(usage) if isinstance(usage, dict) else 0)


def _level(message: dict[str, Any]) -> int:
    content = message.get("content")
    if message.get("status", "complete") != "complete":
        return 0
    unanswered = isinstance(content, dict) and "tool_name" in content and not {"result", "error"} & content.keys()
    return 1 if unanswered else 2


def _told(message: dict[str, Any]) -> _Message:
    content, level = message.get("content"), _level(message)
    late = {name: message[name] for name in (*_LATE, "cost_source") if name in message}
    return _Message(
        level, len(content) if isinstance(content, str) and not level else 0, _tokens(message), late or None
    )


def _tell(known: _Message, event: dict[str, Any]) -> None:
    patch = event.get("patch") or {}
    known.chars += len(event.get("append") or "")
    if patch.get("status") == "complete":
        known.level = max(known.level, _level(patch) if "content" in patch else 2)
    if "tokens" in patch or "usage" in patch:
        known.tokens = _tokens(patch)
    if late := {name: patch[name] for name in (*_LATE, "cost_source") if name in patch}:
        known.late = {**(known.late or {}), **({"cost_source": "given"} if "cost" in late else {}), **late}


def steps_of(steps: Iterable[Step], ledgers: dict[str, Ledger] | None = None) -> Iterator[Step]:
    """The steps, each Put as what it writes into an empty log, or one that holds what ``ledgers`` say.

    Example: ``list(steps_of(open_import("session.jsonl")))``.
    """
    ledgers = {} if ledgers is None else ledgers
    for step in steps:
        if not isinstance(step, Put):
            yield step
            continue
        ledger = ledgers.setdefault(step.trace_id, Ledger(step.trace_id))
        spec = ledger.creates(step)
        if spec is not None:
            yield CreateTrace(spec)
            continue
        kept: list[KeepContent] = []
        ledger.keep = _keeping(step.trace_id, kept)
        events = ledger.plan(step)
        yield from kept
        yield from (AppendEvent(step.trace_id, event) for event in events)


def _keeping(trace_id: str, kept: list[KeepContent]) -> Keep:
    def keep(data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any]:
        kept.append(KeepContent(trace_id, data, media_type))
        return reference(data, media_type, preview, **more)

    return keep
