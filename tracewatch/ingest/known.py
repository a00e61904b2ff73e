"""What the log has of one trace of a source: a fold of the events of the traces that it became. Pure.

Rule 1: everything here can be had again from the log, so nothing is lost by a restart, and nothing has to be stored
        beside the log: ``note`` takes an event just written, or one read back, alike.
Rule 2: a trace of the log has owners: the keys of items that it stands for. An agent's run; the source's root that has
        no agent above; or an item that others name as their parent and that has not come yet (a stub).
Rule 3: an item that is over is remembered by a fingerprint only. What more is said of it is compared with the log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ..model.canonical import ENDED
from .aside import Aside
from .digests import answer_print, digest, value_print
from .items import ROOT, Item, Kind

_ID = re.compile(r"[^A-Za-z0-9._:@-]")
_ASSIGNED_ID = re.compile(r"[mrs]\d+")  # ids of this form are the log's to give
_FIELDS = ("task", "agent_type", "session_id", "user_id", "tags", "started_at")
MOST_KEY = 200  # characters of a key
MOST_TRACE = 60  # characters of a source's trace id within ours
MOST_ABOVE = 100  # items above one that are looked at
PROMPT = "in-"  # begins the id of a message that a model was given

Event = dict[str, Any]


def key_of(native: str) -> str:
    """An item's key as an id of the log; what is too long ends with a fingerprint of the whole."""
    if len(native) > MOST_KEY:
        native = f"{native[: MOST_KEY - 20]}~{digest(native)}"
    return f"k-{native}" if not native or _ASSIGNED_ID.fullmatch(native) or native.startswith(PROMPT) else native


def trace_id_of(source: str, trace: str, key: str | None = None) -> str:
    """Our trace_id for a source's trace, and for the agent ``key`` in it.

    >>> trace_id_of("otel", "7f3a", "b1")
    'otel-7f3a-b1'
    """
    parts = [source]
    for part in (trace, key):
        if part is not None:
            clean = _ID.sub("_", part)
            parts.append(clean if clean == part and len(part) <= MOST_TRACE else f"{clean[:40]}.{digest(part)}")
    return "-".join(parts)


@dataclass(slots=True)
class Entry:
    """One item as the log has it."""

    key: str
    kind: Kind | None = None
    parent: str | None = None
    trace_id: str | None = None  # where it was written; of an agent its own trace; None: not yet
    final: bool = False
    said: dict[str, str] | None = field(default_factory=dict)  # what of it was written; None: ask the log
    content: dict[str, Any] | None = None  # of a tool call that is running
    call_id: str | None = None  # of a tool call
    depth: int = 0  # of a step: how many steps it stands in, with itself
    within: str | None = None  # of a step: the one that it stands in
    asked: str = ""  # the digest of a model call's request
    is_asked: bool = False  # its request has an input
    text: str = ""  # of a message that is not complete
    whole: tuple[str, ...] = ()  # fingerprints of the items that said all this


@dataclass(slots=True)
class KnownTrace:
    """One trace of the log that stands for items."""

    trace_id: str
    owners: list[str]
    head: int = 0  # the last event that is known
    parent_trace_id: str | None = None
    process: str | None = None  # that its root is of; None while that has not come
    place: str | None = None  # the step or message above in the parent
    status: str = "running"
    ended_at: str | None = None
    said: dict[str, str] = field(default_factory=dict)  # fingerprints of its fields
    fields: dict[str, Any] = field(default_factory=dict)  # what it is about
    about: str = ""  # fingerprint of what its metadata says of its owners


@dataclass(slots=True)
class ToolCalled:
    """A tool's message, and the fingerprint of its result."""

    key: str
    result: str = ""


@dataclass(frozen=True, slots=True)
class LastCall:
    """What the last model call of a trace was asked: the next one's prompt begins with it."""

    key: str
    params: dict[str, Any] | None
    params_key: str  # of the call that has them
    tools: list[bytes]
    given: list[bytes]


class Known:
    """The traces and items of one trace of a source."""

    def __init__(self, source: str, trace: str) -> None:
        self.source = source
        self.trace = trace
        self.base = trace_id_of(source, trace)  # the id of its first trace
        self.root: str | None = None  # key of its root, where the source says it before it comes
        self.thread: str | None = None  # the session that its traces are of, where each item says it
        self.traces: dict[str, KnownTrace] = {}
        self.by_owner: dict[str, str] = {}
        self.items: dict[str, Entry] = {}
        self.siblings: list[str] = []  # keys of traces of their own, beside the first one's tree
        self.prompts: dict[str, dict[str, str]] = {}  # trace → fingerprint of a message → its id
        self.calls: dict[tuple[str, str], ToolCalled] = {}  # by trace and tool_call_id
        self.last_call: dict[str, LastCall] = {}  # by trace; only what this process has written itself
        self.begun: dict[str, LastCall] = {}  # the same of calls that have not ended, by key
        self.aside = Aside()
        self.asked: dict[str, str] = {}  # open questions that wait beyond the run that asked, and when they were asked
        self.resumed: dict[str, tuple[str, Any]] = {}  # by run: when it went on, and the answer
        self.places: dict[str, list[str]] = {}  # name and place in its graph → keys of sub-agents, the first one first
        self.undecided: dict[str, Item] = {}  # steps that are more if nothing of their kind stands above
        self.orphans: dict[str, list[str]] = {}  # key of a parent that is not there → items written without it

    def entry(self, key: str) -> Entry:
        """The item's entry, made if there is none."""
        found = self.items.get(key)
        if found is None:
            found = self.items[key] = Entry(key)
        return found

    def add_trace(self, trace_id: str, owners: list[str], parent: str | None = None) -> KnownTrace:
        """A trace that is in the log now."""
        trace = self.traces[trace_id] = KnownTrace(trace_id, [], parent_trace_id=parent)
        self.give(trace, owners)
        return trace

    def give(self, trace: KnownTrace, owners: list[str]) -> None:
        """Have the trace stand for these items."""
        for key in trace.owners:
            if self.by_owner.get(key) == trace.trace_id:
                del self.by_owner[key]
        trace.owners = list(owners)
        for key in owners:
            self.by_owner[key] = trace.trace_id

    # --- where an item belongs ---

    def entry_kind(self, key: str) -> Kind | None:
        """What an item is; None for one that has not come."""
        found = self.items.get(key)
        return None if found is None else found.kind

    def stands_in(self, key: str | None, kind: Kind) -> bool:
        """Whether ``key``, or an item above it, is of that kind; an agent's run is not looked out of."""
        for _ in range(MOST_ABOVE):
            entry = self.items.get(key or ROOT)
            if entry is None or entry.kind == "agent":
                return False
            if entry.kind == kind:
                return True
            key = entry.parent
        return False

    def above(self, key: str, cache: dict[str, tuple[str, str]]) -> tuple[str, str]:
        """What stands above an item: ("agent", its key), ("root", the topmost's key) or ("missing", a key).

        "missing" with ROOT: nobody said what its parent is. A circle of parents counts as a root.
        """
        path: list[str] = []
        on_path: set[str] = set()
        while True:
            if key in cache:
                found = cache[key]
                break
            path.append(key)
            on_path.add(key)
            entry = self.items.get(key)
            parent = entry.parent if entry is not None else None
            if entry is None or parent is None:
                found = ("missing", key if entry is None else ROOT)
                break
            if parent == ROOT:
                found = ("root", key)
                break
            above = self.items.get(parent)
            if above is None or above.kind is None:
                found = ("missing", parent)
                break
            if above.kind == "agent":
                found = ("agent", parent)
                break
            if parent in on_path:
                found = ("root", min(on_path))
                break
            key = parent
        for one in path:
            cache[one] = found
        return found

    # --- the fold ---

    def note(self, trace_id: str, event: Event) -> None:
        """Take in an event of one of the traces, as it was planned or as it is stored."""
        trace = self.traces[trace_id]
        name = event["event"]
        if name == "message_added":
            self._note_message(trace, event["message"])
        elif name == "message_updated":
            self._note_patch(event["message_id"], event.get("patch") or {}, event.get("append"))
        elif name == "step_added":
            self._note_step(trace, event["step"])
        elif name == "step_updated":
            self._note_patch(event["step_id"], event["patch"], None)
        elif name == "goal_added":
            goal = event["goal"]
            self._say(self._own(trace, goal["id"], goal, "goal"), goal)
        elif name == "goal_updated":
            self._note_patch(event["goal_id"], event["patch"], None)
        elif name == "input_requested":
            self._say(self._own(trace, event["request_id"], event, "question"), event)
            if event.get("resumable") is True:
                self.asked[event["request_id"]] = event.get("occurred_at") or event.get("ts") or ""
        elif name in ("input_provided", "input_expired"):
            self.asked.pop(event["request_id"], None)
            if (entry := self.items.get(event["request_id"])) is not None:
                entry.final = True
        elif name == "trace_updated":
            self._note_trace(trace, event)
        elif name == "trace_parent_changed":
            trace.parent_trace_id = event["parent_trace_id"]
            trace.place = event.get("parent_step_id") or event.get("parent_message_id")
        elif name in ("trace_completed", "trace_status_changed"):
            self._note_status(trace, event)
        elif isinstance(event.get("item_key"), str):
            self._own(trace, event["item_key"], event, "event").final = True

    def _own(self, trace: KnownTrace, key: str, holder: dict[str, Any], kind: Kind) -> Entry:
        entry = self.entry(key)
        entry.kind, entry.trace_id = kind, trace.trace_id
        if isinstance(parent := holder.get("item_parent"), str):
            entry.parent = parent
        return entry

    def _note_message(self, trace: KnownTrace, message: dict[str, Any]) -> None:
        key, role = message["message_id"], message["role"]
        if key.startswith(PROMPT):
            self.prompts.setdefault(trace.trace_id, {})[key.removeprefix(PROMPT)] = key
            return
        if "item_parent" not in message:
            return  # a further part of a large message, or somebody else's
        kind: Kind = "tool" if role == "tool" else "model_call" if message.get("item_kind") == "call" else "message"
        entry = self._own(trace, key, message, kind)
        if isinstance(call_id := message.get("tool_call_id"), str) and kind == "tool":
            self.calls.setdefault((trace.trace_id, call_id), ToolCalled(key))
            entry.call_id = call_id
        self._say(entry, message)
        self._complete(entry, message)

    def _note_step(self, trace: KnownTrace, step: dict[str, Any]) -> None:
        entry = self._own(trace, step["id"], step, "step")
        above = self.items.get(step.get("step_id") or "")
        entry.within, entry.depth = (None, 1) if above is None else (above.key, above.depth + 1)
        self._say(entry, step)
        entry.final = step.get("status", "running") != "running"
        if step.get("kind") == "resume":
            self.resumed[step["id"]] = step.get("started_at") or "", step.get("input")

    def _note_patch(self, key: str, patch: dict[str, Any], append: str | None) -> None:
        entry = self.items.get(key)
        if entry is None:
            return
        if isinstance(parent := patch.get("item_parent"), str):
            entry.parent = parent
        if append:
            entry.text += append
            if entry.said is not None:
                entry.said["content"] = value_print(entry.text)
        self._say(entry, patch)
        if entry.kind == "step":
            entry.final = entry.final or patch.get("status", "running") != "running"
        elif entry.kind in ("message", "tool", "model_call"):
            self._complete(entry, patch)

    def _complete(self, entry: Entry, said: dict[str, Any]) -> None:
        if said.get("status", "complete" if "role" in said else None) != "complete":
            return
        if entry.kind == "model_call" and entry.trace_id is not None:
            self._note_output(entry, said)
        entry.final, entry.said, entry.content, entry.text = True, None, None, ""

    def _note_output(self, entry: Entry, said: dict[str, Any]) -> None:
        """What a model answered is part of the next prompt: it is found there by this."""
        assert entry.trace_id is not None
        text = said.get("content", entry.text)
        words = answer_print(text, said.get("tool_calls"))
        if words is not None:
            self.prompts.setdefault(entry.trace_id, {})[words] = entry.key

    def _say(self, entry: Entry, fields: dict[str, Any]) -> None:
        if entry.said is None:
            return
        for name, value in fields.items():
            entry.said[name] = value_print(value)
        request, content = fields.get("request"), fields.get("content")
        if isinstance(request, dict) and isinstance(request.get("digest"), str):
            entry.asked, entry.is_asked = request["digest"], entry.is_asked or "input" in request
        if isinstance(content, dict) and entry.call_id is not None and entry.trace_id is not None:
            self.calls[entry.trace_id, entry.call_id].result = value_print(content.get("result"))
        if isinstance(content, str):
            entry.text = content
        elif isinstance(content, dict):
            entry.content = content

    def _note_trace(self, trace: KnownTrace, event: Event) -> None:
        about = (event.get("metadata") or {}).get("ingest")
        if isinstance(about, dict):
            self.note_about(trace, about)
        trace.fields |= {name: event[name] for name in _FIELDS if event.get(name)}
        metadata = event.get("metadata") or {}
        if isinstance(began := metadata.get("resumed"), dict):
            self.resumed[trace.trace_id] = began.get("at") or "", began.get("value")
        if isinstance(place := metadata.get("checkpoint_ns"), str) and trace.owners:
            there = self.places.setdefault(f"{trace.fields.get('agent_type')}|{place}", [])
            there += [trace.owners[-1]] if trace.owners[-1] not in there else []
        trace.said |= {name: digest(value) for name, value in event.items() if name != "metadata"}
        trace.said |= {f"metadata.{name}": digest(value) for name, value in metadata.items()}

    def about(self, trace: KnownTrace) -> dict[str, Any]:
        """What a trace's metadata says of the items it stands for: so that the table can be had from the log."""
        owners = []
        for key in trace.owners:
            entry = self.items.get(key)
            known = {} if entry is None or entry.kind is None else {"kind": entry.kind, "parent": entry.parent}
            owners.append({"key": key, **known})
        about: dict[str, Any] = {"source": self.source, "trace": self.trace, "owners": owners}
        about |= {"process": trace.process} if trace.process is not None else {}
        return {**about, "siblings": self.siblings} if self.siblings and trace.trace_id == self.base else about

    def note_about(self, trace: KnownTrace, about: dict[str, Any]) -> None:
        """Take in what a trace's metadata says of the items it stands for."""
        trace.about = digest(about)
        trace.process = about["process"] if isinstance(about.get("process"), str) else None
        owners = [one for one in about.get("owners") or [] if isinstance(one, dict) and isinstance(one.get("key"), str)]
        self.give(trace, [one["key"] for one in owners])
        for one in owners:
            if "kind" in one:
                entry = self.entry(one["key"])
                entry.kind = one["kind"]
                entry.parent = one["parent"] if isinstance(one.get("parent"), str) else entry.parent
                if entry.kind == "agent":
                    entry.trace_id = trace.trace_id
        if isinstance(siblings := about.get("siblings"), list):
            self.siblings = [one for one in siblings if isinstance(one, str)]

    def _note_status(self, trace: KnownTrace, event: Event) -> None:
        trace.status = event["status"]
        trace.ended_at = event.get("occurred_at") if trace.status in ENDED else None
        entry = self.items.get(trace.owners[-1]) if trace.owners else None
        if entry is not None and entry.kind == "agent":
            entry.final = trace.status in ENDED
