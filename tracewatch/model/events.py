"""The validation of events and requests from recorders, and of the lines of an export.

Rule: every event of a recorder passes ``validate_event``, every line of an export ``validate_stored``. Code behind
      these two may rely on the form of an event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import Invalid, InvalidField, ReservedEvent
from .canonical import MAX_EVENT_ID, SERVER_EVENTS, TERMINAL
from .payloads import ANSWER_SPEC, CANCEL_SPEC, ELSEWHERE, GENERIC, RECORDED, SERVER, STORED, TRACE_SPEC
from .prompt import faults_of
from .times import normalize_time

_NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}", re.ASCII)
_ASSIGNED = frozenset({"event_id", "trace_id", "ts"})  # the log gives these; a recorder's are dropped
MOST_FAULTS = 100  # told in one answer
MOST_NAMED = 256  # characters of a key in a path

# Later than the first version: absent where they are not given, so that a trace created before equals itself
LATER_FIELDS = ("session_id", "user_id", "tags", "links", "started_at")
PLACE_FIELDS = ("parent_step_id", "parent_message_id")  # of the parent, in whose log they stand
# Where the events that add something have its id
IDS = {
    "goal_added": ("goal", "id"),
    "message_added": ("message", "message_id"),
    "step_added": ("step", "id"),
    "input_requested": ("", "request_id"),
}
PARTS_OF_MESSAGES = {"message_added": "message", "message_updated": "patch"}
MESSAGE_IDENTITY = ("message_id", "sequence", "role")


def _faults(error: ValidationError, prefix: str) -> list[dict[str, Any]]:
    faults: list[dict[str, Any]] = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False)[:MOST_FAULTS]:
        path = ".".join(str(part)[:MOST_NAMED] for part in fault["loc"])
        faults.append({"path": f"{prefix}{path}", "message": fault["msg"]})
    return faults


def _refuse(prefix: str, path: str, message: str) -> Invalid:
    where = f"{prefix}{path}"
    return Invalid(f"{where}: {message}", details=[{"path": where, "message": message}])


def _check(adapter: TypeAdapter[Any], raw: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = adapter.validator.validate_python(raw)
    except ValidationError as error:
        raise _invalid(Invalid, error, prefix) from error
    return event


def _invalid(kind: type[Invalid], error: ValidationError, prefix: str = "") -> Invalid:
    details = _faults(error, prefix)
    first = ": ".join(filter(None, (details[0]["path"], details[0]["message"])))
    more = f" (and {error.error_count() - 1:,} more)" if len(details) > 1 else ""
    return kind(first + more, details=details)


def validate_trace(raw: Any) -> dict[str, Any]:
    """Check the body of ``POST /api/traces`` and fill in the optional fields; ``trace_id`` may stay None.

    Raises InvalidField with the path of each fault.
    """
    try:
        given = TRACE_SPEC.validate_python(raw)
    except ValidationError as error:
        raise _invalid(InvalidField, error) from error
    return {
        "trace_id": given.get("trace_id"),
        "task": given["task"],
        "agent_type": given.get("agent_type") or "agent",
        "parent_trace_id": given.get("parent_trace_id"),
        "parent_goal_id": given.get("parent_goal_id"),
        "lease_s": given.get("lease_s"),
        "metadata": given.get("metadata") or {},
        **{key: given[key] for key in (*LATER_FIELDS, *PLACE_FIELDS) if given.get(key)},
        **({"if_absent": True} if given.get("if_absent") else {}),
    }


def validate_cancel(raw: Any) -> dict[str, Any]:
    """Check the body of a cancel: ``{reason, by}``, each may be None. Raises InvalidField."""
    try:
        given = CANCEL_SPEC.validate_python(raw)
    except ValidationError as error:
        raise _invalid(InvalidField, error) from error
    return {"reason": given.get("reason"), "by": given.get("by")}


def validate_answer(raw: Any) -> dict[str, Any]:
    """Check the body of an answer: ``{value, by}``; ``by`` may be None. Raises InvalidField."""
    try:
        given = ANSWER_SPEC.validate_python(raw)
    except ValidationError as error:
        raise _invalid(InvalidField, error) from error
    if given.get("by") == TERMINAL:
        said = f"{TERMINAL!r} is whom a recorder names that was answered at its own terminal; give another name"
        raise InvalidField(f"by: {said}", details=[{"path": "by", "message": said}])
    return {"value": given["value"], "by": given.get("by")}


def validate_event(raw: Any, index: int | None = None, *, by_server: bool = False) -> dict[str, Any]:
    """Check one event of a recorder and return it in the form that the fold takes.

    ``raw`` is parsed JSON; ``index`` is its place in a batch and begins the paths of the faults (``"3.goal.status"``).
    ``by_server`` also accepts the events that only the server writes.
    The result is a new dict: ``event``, the named keys in the protocol's order, then the others.
    Raises Invalid (with the path of each fault) or ReservedEvent.
    """
    prefix = "" if index is None else f"{index}."
    if not isinstance(raw, dict):
        raise _refuse(prefix, "event", 'an event is a JSON object with an "event" name')
    name = raw.get("event")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refuse(prefix, "event", "an event's name is 1-64 of a-z 0-9 _ . and begins with a letter")
    if not _ASSIGNED.isdisjoint(raw):
        raw = _without_assigned(raw)
    adapter = RECORDED.get(name)
    if adapter is None and name in SERVER_EVENTS:
        if name == "input_provided" and raw.get("by") == TERMINAL and not by_server:
            return {"value": None, **_check(ELSEWHERE, raw, prefix)}
        if not by_server:
            raise ReservedEvent(
                f"{prefix}event: {name} is written by the server only",
                details=[{"path": f"{prefix}event", "message": f"{name} is written by the server only"}],
            )
        adapter = SERVER[name]
    event = _check(adapter or GENERIC, raw, prefix)
    if name == "message_updated":
        _check_message_update(event, prefix)
    elif "if_absent" in event and name in IDS:
        _check_if_absent(event, prefix)
    part = PARTS_OF_MESSAGES.get(name)
    if part is not None and part in event and "request" in event[part]:
        _check_request(event, part, prefix)
    return event


def _without_assigned(raw: dict[str, Any]) -> dict[str, Any]:
    raw = dict(raw)
    stamp = raw.get("ts")
    for key in _ASSIGNED:
        raw.pop(key, None)
    if isinstance(stamp, str) and "occurred_at" not in raw:
        try:
            raw["occurred_at"] = normalize_time(stamp)
        except ValueError:
            pass  # an older producer's ts in another form: it is dropped
    return raw


def _check_if_absent(event: dict[str, Any], prefix: str) -> None:
    if event["if_absent"] and named_in(event) is None:
        part, key = IDS[event["event"]]
        raise _refuse(prefix, f"{part}.{key}" if part else key, "if_absent needs it: by it a repeat is known")


def named_in(event: Mapping[str, Any]) -> str | None:
    """The id that an event which adds something gives to it; None where the log is to make one."""
    part, key = IDS[event["event"]]
    given: str | None = (event[part] if part else event).get(key)
    return given


def _check_request(event: dict[str, Any], part: str, prefix: str) -> None:
    """Check the references of a message's ``request``."""
    request = event[part]["request"]
    if request is None:
        return
    details = [
        {"path": f"{prefix}{part}.request.{path}", "message": message}
        for path, message in islice(faults_of(request), MOST_FAULTS)
    ]
    if details:
        raise Invalid(f"{details[0]['path']}: {details[0]['message']}", details=details)


def _check_message_update(event: dict[str, Any], prefix: str) -> None:
    if "append" not in event and "patch" not in event:
        raise _refuse(prefix, "patch", "message_updated needs append, patch or both")
    for key in MESSAGE_IDENTITY:
        if key in event.get("patch", ()):
            raise _refuse(prefix, f"patch.{key}", "can't be changed")


def validate_stored(raw: Any, index: int | None = None) -> dict[str, Any]:
    """Check a stored event (a line of an export), so that the fold can apply it, and return it. Raises Invalid."""
    prefix = "" if index is None else f"{index}."
    if not isinstance(raw, dict):
        raise _refuse(prefix, "event", "a stored event is a JSON object")
    name = raw.get("event")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refuse(prefix, "event", "an event's name is 1-64 of a-z 0-9 _ . and begins with a letter")
    event_id = raw.get("event_id")
    if not isinstance(event_id, int) or isinstance(event_id, bool) or not 0 < event_id < 2**53:
        raise _refuse(prefix, "event_id", "a whole number from 1")
    for key in ("ts", "occurred_at"):
        stamp = raw.get(key)
        if key == "occurred_at" and key not in raw:
            continue
        try:
            good = isinstance(stamp, str) and normalize_time(stamp) == stamp
        except ValueError:
            good = False
        if not good:
            raise _refuse(prefix, key, "a time in UTC with milliseconds, such as 2026-11-20T08:00:00.123Z")
    if list(raw)[:4] != ["event", "event_id", "trace_id", "ts"]:
        raise _refuse(prefix, "event", "a stored event begins with event, event_id, trace_id, ts, in this order")
    if not isinstance(raw["trace_id"], str):
        raise _refuse(prefix, "trace_id", "a string")
    _check(STORED.get(name, GENERIC), raw, prefix)
    if name == "message_updated":
        _check_message_update(raw, prefix)
    part = PARTS_OF_MESSAGES.get(name)
    if part is not None and "request" in raw.get(part, ()):
        _check_request(raw, part, prefix)
    return raw


def validate_header(raw: Any) -> dict[str, Any]:
    """Check the ``trace`` in an export's header line; returns the fields that restoring needs. Raises InvalidField."""
    if not isinstance(raw, dict):
        raise InvalidField('an export begins with a line {"trace": {…}}')
    spec = {key: raw.get(key) for key in ("trace_id", "task", "agent_type", "parent_trace_id", "parent_goal_id")}
    header = validate_trace({**spec, "metadata": raw.get("metadata"), **{key: raw.get(key) for key in LATER_FIELDS}})
    header["root_trace_id"] = raw.get("root_trace_id")
    header["created_at"] = raw.get("created_at")
    header["first_event_id"] = raw.get("first_event_id", 1)
    header["last_event_id"] = raw.get("last_event_id", 0)
    header["base"] = raw.get("base")  # only a trimmed log has one; ``read_base`` checks it
    for key in ("trace_id", "root_trace_id", "created_at"):
        if not isinstance(header[key], str):
            raise InvalidField(f"trace.{key}: is missing", details=[{"path": f"trace.{key}", "message": "is missing"}])
    try:
        header["created_at"] = normalize_time(header["created_at"])
    except ValueError as error:
        raise InvalidField(f"trace.created_at: {error}") from error
    first = header["first_event_id"]
    if not isinstance(first, int) or isinstance(first, bool) or not 1 <= first <= MAX_EVENT_ID // 2:
        raise InvalidField(f"trace.first_event_id: a whole number from 1 to {MAX_EVENT_ID // 2:,}")
    last = header["last_event_id"]
    if not isinstance(last, int) or isinstance(last, bool) or not 0 <= last <= MAX_EVENT_ID // 2:
        raise InvalidField(f"trace.last_event_id: a whole number from 0 to {MAX_EVENT_ID // 2:,}")
    return header
