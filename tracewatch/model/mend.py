"""Mending: what the log refused of an event or of a trace's fields goes, all the rest stays. Pure: JSON in and out.

Rule 1: a refusal costs what was refused. A field of a wrong form, or a reference to what the log does not have, is
        taken out, and stands as it was under ``refused`` beside what is left. Texts are never cut for it.
Rule 2: a mended event is another event than the refused one, so that mending comes to an end.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from . import fit
from .canonical import SERVER_EVENTS
from .contents import replaced, told
from .prompt import LISTS, count_of, references

Event = dict[str, Any]

STEP_EVENTS = ("step_added", "step_updated")
_NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}", re.ASCII)
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9_.]+")


def event_name(text: str) -> str:
    """The text as an event's name, which a recorder may use: 1-64 of ``a-z 0-9 _ .``, beginning with a letter.

    >>> event_name("Tool Error!")
    'tool_error'
    """
    if not _NAME.fullmatch(text):
        text = _NOT_IN_A_NAME.sub("_", text.lower()).strip("_.")
        text = (text if text[:1].isalpha() else f"event_{text}".rstrip("_"))[:64]
    return f"recorded.{text}"[:64] if text in SERVER_EVENTS else text


def mended(event: Event, code: str, details: list[dict[str, Any]]) -> Event | None:
    """The event in a form that the log may take; None if nothing of it can be saved in this way.

    ``code`` and ``details`` are those of the refusal (protocol, section 6). ``event`` is not changed.
    """
    kind = event.get("event")
    if code == "unknown_goal":
        return _without_goal(event, {one.get("goal_id") for one in details})
    if code == "unknown_message" and any(".request." in str(one.get("path")) for one in details):
        return _without_references(event, details)
    if code == "unknown_step" and kind == "step_updated" and details[:1] == [{"step_id": event.get("step_id")}]:
        return _step_begun(event)
    if code in ("unknown_step", "step_depth") or (code == "unknown_message" and kind in STEP_EVENTS):
        return _elsewhere(event, details)
    if code == "step_exists" and kind == "step_added":
        step = event["step"]
        return {**_outside(event, "step"), "step_id": step["id"], "patch": step, "event": "step_updated"}
    if code == "unknown_message" and kind == "message_updated":
        return _begun_again(event, event.get("message_id"), {"beginning": "lost"})
    if code in ("not_text", "message_too_large") and kind == "message_updated":
        own = str(event.get("message_id"))
        return _begun_again(event, f"{own}+"[-256:], {"continues_message": own})
    if code == "message_exists" and kind == "message_added":
        return _existing_message(event)
    if code == "goal_exists" and kind == "goal_added":
        goal = event["goal"]
        patch = {key: goal[key] for key in ("description", "reason", "summary", "status") if goal.get(key) is not None}
        return {**_outside(event, "goal"), "goal_id": goal["id"], "patch": patch, "event": "goal_updated"}
    if code == "invalid_transition" and kind == "goal_updated" and len(event.get("patch", ())) > 1:
        return _taken_out(event, ["patch", "status"])
    if code == "goal_depth" and kind == "goal_added":
        return _raised(event, details)
    if code == "unknown_blob":
        gone = {one.get("blob") for one in details}
        mended_one: Event = replaced(event, lambda ref: told(ref) if ref["blob"] in gone else ref)
        return mended_one if mended_one != event else None
    if code == "reserved_event":
        return {**event, "event": event_name(str(kind)), "original_event": kind}
    return _without_faults(event, details) if code in ("invalid_event", "invalid", "goal_depth") else None


def _outside(event: Event, part: str) -> Event:
    return {key: value for key, value in event.items() if key != part}


# --- references ----------------------------------------------------------------------------------------------------


def _without_goal(event: Event, unknown: set[Any]) -> Event | None:
    """The event without its references to goals that are not there."""
    part, keys = {
        "message_added": ("message", ("goal_id",)),
        "goal_added": ("goal", ("parent_id", "after_id")),
        "step_added": ("step", ("goal_id",)),
        "step_updated": ("patch", ("goal_id",)),
        "input_requested": ("", ("goal_id",)),
    }.get(str(event.get("event")), ("", ()))
    holder = event.get(part) if part else event
    if not isinstance(holder, dict):
        return None
    gone = [key for key in keys if holder.get(key) is not None and (holder[key] in unknown or unknown <= {None})]
    if not gone:
        return None
    kept = {**holder, "refused": {**_refused(holder), **{key: holder[key] for key in gone}}}
    for key in gone:
        if key == "goal_id":
            kept[key] = None  # of no goal: without the key it would be of the current one
        else:
            del kept[key]
    return {**event, part: kept} if part else kept


_TOLD = 20  # of a refusal's details: where there are so many, there may be more


def _without_references(event: Event, details: list[dict[str, Any]]) -> Event | None:
    """A message whose request no longer names messages that are not there: how many items are gone is still told."""
    part = "message" if event.get("event") == "message_added" else "patch"
    request = (event.get(part) or {}).get("request")
    if not isinstance(request, dict):
        return None
    unknown = {one["message_id"] for one in details if isinstance(one.get("message_id"), str)}
    all_of_them = len(details) >= _TOLD
    named = {path for path, name in references(request) if all_of_them or name in unknown}
    kept = {key: value for key, value in request.items() if key != "params_of" or key not in named}
    for name in LISTS:
        if name in kept:
            kept[name] = [
                {"refused": item, "count": count_of(item, name)} if f"{name}.{index}" in named else item
                for index, item in enumerate(kept[name])
            ]
    if "params_of" in named:
        kept["refused"] = {**_refused(request), "params_of": request["params_of"]}
    return {**event, part: {**event[part], "request": kept}} if named else None


def _raised(event: Event, details: list[dict[str, Any]]) -> Event | None:
    """A goal that would stand too deep, below the goal that may have children."""
    goal = event["goal"]
    lowest = next((one["parent_id"] for one in details if isinstance(one.get("parent_id"), str)), None)
    if lowest is None or "wanted_parent_id" in goal:
        return _taken_out(event, ["goal", "parent_id"])
    kept = {key: value for key, value in goal.items() if key not in ("parent_id", "after_id")}
    wanted = goal.get("parent_id") or goal.get("after_id")
    return {**event, "goal": {**kept, "parent_id": lowest, "wanted_parent_id": wanted}}


def _step_begun(event: Event) -> Event:
    """An update of a step that is not there, as a step of its own."""
    patch = event.get("patch")
    given = patch if isinstance(patch, dict) else {}
    step = {"name": "step", "goal_id": None, **given, "id": event.get("step_id"), "beginning": "lost"}
    return {"event": "step_added", "step": step, **{k: v for k, v in event.items() if k == "occurred_at"}}


def _elsewhere(event: Event, details: list[dict[str, Any]]) -> Event | None:
    """What names a step or message that it can't stand in: in the step above that may have it, else in none."""
    part = next((one for one in ("step", "patch", "message", "goal") if isinstance(event.get(one), dict)), None)
    if part is None:
        return None
    holder: Event = event[part]
    wanted = {key: holder[key] for key in ("step_id", "message_id") if holder.get(key) is not None}
    if part == "message":
        wanted.pop("message_id", None)  # its own
    lowest = next((one["step_id"] for one in details if isinstance(one.get("step_id"), str)), None)
    if not wanted:
        return None
    kept = {key: value for key, value in holder.items() if key not in wanted}
    kept |= {"step_id": lowest} if lowest is not None and "path" in details[0] else {}
    if part == "patch":
        return {**event, part: kept, "refused": {**_refused(event), **wanted}}
    return {**event, part: {**kept, "refused": {**_refused(holder), **wanted}}}


def _begun_again(event: Event, message_id: Any, more: Event) -> Event:
    """An update of a message that can't be updated, as a message of its own."""
    patch = dict(event.get("patch") or {})
    text = event.get("append")
    content = patch.pop("content", None)
    if isinstance(text, str):
        content = f"{content}{text}" if isinstance(content, str) else text
    role = "tool" if isinstance(content, dict) and "tool_name" in content else "assistant"
    message = {"message_id": message_id, "role": role, "content": "" if content is None else content}
    message |= {"goal_id": None, "status": "streaming", **patch, **more}
    return {"event": "message_added", "message": message, **{k: v for k, v in event.items() if k == "occurred_at"}}


def _existing_message(event: Event) -> Event | None:
    message = event["message"]
    if "continues_message" not in message or not isinstance(message.get("content"), str):
        return _taken_out(event, ["message", "message_id"])
    patch = {"status": message["status"]} if message.get("status") == "complete" else {}
    update = {"event": "message_updated", "message_id": message["message_id"], "append": message["content"]}
    stamp = {key: event[key] for key in ("occurred_at",) if key in event}
    return {**update, **({"patch": patch} if patch else {}), **stamp}


# --- fields --------------------------------------------------------------------------------------------------------


def _refused(holder: Event) -> Event:
    refused = holder.get("refused")
    return refused if isinstance(refused, dict) else {}


def _taken_out(event: Event, path: list[str]) -> Event | None:
    """The event without the field at ``path``, which then stands under ``refused``."""
    holder: Any = event
    for key in path[:-1]:
        holder = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or path[-1] not in holder:
        return None
    kept = {key: value for key, value in holder.items() if key != path[-1]}
    if len(path) == 1:
        return {**kept, "refused": {**_refused(event), path[-1]: holder[path[-1]]}}
    if path[0] == "patch":  # a goal's takes no further key
        taken = {**_refused(event), path[-1]: holder[path[-1]]}
        return {**event, "patch": kept, "refused": taken}
    kept["refused"] = {**_refused(holder), path[-1]: holder[path[-1]]}
    return {**event, path[0]: kept}


def _without_faults(event: Event, details: list[dict[str, Any]]) -> Event | None:
    """The event with each field that the log has named replaced or taken out."""
    now: Event | None = event
    for fault in details:
        path = [part for part in str(fault.get("path")).split(".") if part]
        path = path[1:] if path and path[0].isdigit() else path  # its place in the batch
        now = _without_fault(now, path[:2]) if now is not None and path else None
    return None if now is event else now


def _without_fault(event: Event, path: list[str]) -> Event | None:
    if path[0] not in ("goal", "message", "step", "patch"):
        path = path[:1]
    if path == ["event"]:
        name = event.get("event")
        return {**event, "event": event_name(name if isinstance(name, str) else "event"), "original_event": name}
    instead = _REQUIRED.get(".".join(path))
    if instead is None:
        return _taken_out(event, path)
    part = event.get(path[0])
    if len(path) == 1 or not isinstance(part, dict):
        return None  # the whole of it has another form, or an id that it can't be without
    given = part.get(path[1])
    return {**event, path[0]: {**part, path[1]: _text(given) if given is not None else instead}}


# The fields that an event can't be without, with the value for one that is missing
_REQUIRED: dict[str, str] = {
    "goal": "",
    "goal.description": "(no description)",
    "goal_id": "",
    "message": "",
    "message.role": "unknown",
    "message.content": "",
    "message_id": "",
    "step": "",
    "step.name": "step",
    "step_id": "",
    "patch": "",
    "question": "",
    "request_id": "",
    "status": "",
}


def _text(value: Any) -> str:
    """A value as text of 1-256 characters, or a text as it is."""
    return value if isinstance(value, str) and value else fit.name(orjson.dumps(value).decode())


# --- a trace's fields ----------------------------------------------------------------------------------------------


def less(spec: dict[str, Any], status: int, details: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a trace without those that were refused, and those. Nothing is refused that the log has not named.

    ``status``: of the refusal; 413 says that all is too large, and 422 names the fields in ``details``.
    """
    names = {str(fault.get("path")).partition(".")[0] for fault in details} & spec.keys()
    if status == 413:
        names = {"metadata"} if spec.get("metadata") else {"task"}
    refused = {name: spec[name] for name in names if name != "trace_id"}
    if "parent_trace_id" in refused:  # what is in that trace
        places = ("parent_goal_id", "parent_step_id", "parent_message_id")
        refused |= {key: spec[key] for key in places if key in spec}
    kept = {key: value for key, value in spec.items() if key not in refused}
    for fault in details:
        if "parent_trace_id" in refused and isinstance(fault.get("parent_trace_id"), str):
            kept["parent_trace_id"] = fault["parent_trace_id"]  # it would stand too deep: that one may have sub-traces
    if "task" in refused:
        kept["task"] = fit.task(_text(spec["task"]))[: 300 if status == 413 else None]
        if kept["task"] == spec["task"]:
            kept["task"] = "(no task)"
    return kept, refused


# --- one after another ---------------------------------------------------------------------------------------------


_MENDS = 6  # of one event, before a substitute says what it was
_SIZES = (fit.EVENT_BYTES, 4096, 1024, 0)  # of the substitutes that are tried in turn


class _Case:
    """One refused event."""

    def __init__(self, body: bytes, code: str, message: str) -> None:
        self.body = body
        self.code = code
        self.message = message
        self.sizes = [size for size in _SIZES if code != "too_large" or size < len(body) // 2 or not size]
        self.mends = 0


class Mender:
    """What goes in the place of refused events, until the log takes something. ``by``: recorder or import."""

    def __init__(self, by: str = "recorder") -> None:
        self._by = by
        self._cases: dict[int, _Case] = {}
        self._gone: set[str] = set()  # goals that the log does not have

    def instead(self, seq: int, body: bytes, code: str, message: str, details: list[dict[str, Any]]) -> bytes | None:
        """The event to send next in the place of ``body``, which was refused; None: the log refuses all there is."""
        case = self._cases.setdefault(seq, _Case(body, code, message))
        if case.mends < _MENDS:
            case.mends += 1
            event = orjson.loads(body)
            found = mended(event, code, details)
            if found is not None and found != event:
                self._gone |= {one["goal_id"] for one in details if code == "unknown_goal" and "goal_id" in one}
                return orjson.dumps(found)
            case.mends = _MENDS
        if not case.sizes:
            return None
        return substitute(case.body, case.code, case.message, by=self._by, most=case.sizes.pop(0))

    def settled(self, seq: int) -> None:
        """Forget the events up to ``seq``, which the log has."""
        if self._cases:
            self._cases = {at: case for at, case in self._cases.items() if at > seq}

    def ahead(self, bodies: list[bytes]) -> list[bytes]:
        """Events that are about to be sent, without references that would be refused as those before were."""
        return [self._ahead(body) for body in bodies] if self._gone else bodies

    def _ahead(self, body: bytes) -> bytes:
        if not any(orjson.dumps(goal_id) in body for goal_id in self._gone):
            return body
        event = orjson.loads(body)
        if event.get("event") == "goal_added" and event["goal"].get("id") in self._gone:
            self._gone.discard(event["goal"]["id"])
        found = _without_goal(event, set(self._gone)) if self._gone else None
        return body if found is None else orjson.dumps(found)


def substitute(body: bytes, code: str, message: str, *, by: str = "recorder", most: int = fit.EVENT_BYTES) -> bytes:
    """The event in the place of one that can't be stored: ``recorder_refused``, or ``import_refused``.

    ``body``: the refused event, beginning with its name. It is kept whole in ``refused`` if all of it then has at most
    ``most`` bytes; else its beginning stays as text in ``original``. With ``most`` 0 only the name and the code stay.
    """
    name = body[10 : body.find(b'"', 10)].decode("utf-8", "replace")
    said = {"event": f"{by}_refused", "original_event": name[:64], "error": code[:64]}
    said |= {"message": message[: min(1000, most // 8)]} if most else {}
    room = most - len(orjson.dumps(said)) - 32
    if room >= len(body):
        return orjson.dumps({**said, "refused": orjson.loads(body)})
    text = body[: max(room // 2, 0)].decode("utf-8", "replace")  # its quotes are escaped
    return orjson.dumps({**said, "original": text} if text else said)
