"""Events as bytes, and JSON with limits: the part of the model that an agent's process needs too.

Rule 1: canonical bytes are compact JSON with ``event, event_id, trace_id, ts, occurred_at`` first. They are made once.
Rule 2: nothing here imports pydantic, which takes longer to load than the whole recorder.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import orjson

from ..errors import BadRequest, Invalid, TooLarge

MAX_EVENT_ID = 2**32 - 1  # of a log; an import may begin in the lower half
MAX_TOTAL = 10**14  # of what is summed over messages or traces; a higher sum is shown as this, and marked
MAX_GOAL_DEPTH = 100  # of a new goal; a root is at 1. An event tells of all goals above the one that it changes
MAX_LINKS = 100  # of a trace, to others
MAX_STEP_DEPTH = 100  # of a step in steps; one that stands in none is at 1
MAX_SUB_TRACE_DEPTH = 100  # of a new trace; one without a parent is at 1. The sums of all above it count it
ORJSON_DEPTH = 254  # the most levels that orjson writes
MAX_DEPTH = 200  # of an event; the server wraps some more levels around it

STATUSES: tuple[str, ...] = ("running", "waiting", "idle", "completed", "failed", "stopped", "lost")
OPEN_STATUSES = ("running", "waiting", "idle")  # a recorder is there, or is expected to be: leases count
TERMINAL = "terminal"  # who has answered a question that only the source's own terminal can be sure of
ENDED = frozenset({"completed", "failed", "stopped"})
GOAL_ENDED = frozenset({"completed", "abandoned"})
# The events that only the server writes
SERVER_EVENTS = frozenset(
    {
        *("sub_trace_started", "sub_trace_completed", "sub_trace_left"),
        *("input_provided", "input_expired", "cancel_requested"),
    }
)


def canonical(event: Mapping[str, Any], *, parsed: bool = False) -> bytes:
    """The bytes of a stored event.

    ``parsed``: the values were read from JSON, which has no NaN, so there is no need to look for one.
    Raises Invalid for values that JSON can't hold (lone surrogates, NaN, Infinity) and for too deep nesting.
    """
    try:
        body = orjson.dumps(event)
    except (TypeError, RecursionError) as error:  # orjson's JSONEncodeError is a TypeError
        raise Invalid(f"the event can't be written as JSON: {error}") from error
    if len(body) > 2 * MAX_DEPTH and _openings(body) > MAX_DEPTH and depth_exceeds(event):
        raise Invalid(f"the event is nested deeper than {MAX_DEPTH} levels")
    if not parsed and b"null" in body and _holds_nan(event):  # orjson writes null for NaN and Infinity
        raise Invalid("the event can't be written as JSON: NaN and Infinity are no JSON numbers")
    # The copy matters: orjson's own result keeps its whole buffer, kilobytes for a body of 300 bytes.
    return bytes(memoryview(body))


def _openings(text: bytes | str) -> int:
    if isinstance(text, bytes):
        return text.count(b"[") + text.count(b"{")
    return text.count("[") + text.count("{")


def _holds_nan(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_nan, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_nan, value))
    return isinstance(value, float) and not isfinite(value)


def event_name(body: bytes) -> str:
    """The name of a stored event, read from its canonical bytes without parsing them."""
    return body[10 : body.index(b'"', 10)].decode()


def depth_exceeds(value: Any, limit: int = MAX_DEPTH) -> bool:
    """Whether JSON is nested deeper than ``limit`` levels (at most 254). Does not recurse."""
    wrapped = value
    for _ in range(ORJSON_DEPTH - limit):
        wrapped = [wrapped]
    try:
        orjson.dumps(wrapped)  # 20 to 50 times as fast as the walk below, which takes 20 ms for 60 kB of "{},"
        return False
    except (TypeError, RecursionError) as error:
        if str(error) == "Recursion limit reached":
            return True
    level: list[Any] = [value]  # orjson refused the value for another reason, so the levels are walked
    for _ in range(limit):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(v for v in item.values() if isinstance(v, (dict, list)))
            elif isinstance(item, list):
                below.extend(v for v in item if isinstance(v, (dict, list)))
        if not below:
            return False
        level = below
    return True


def parse_json(data: bytes | str) -> Any:
    """Parse JSON. Raises BadRequest with the place of the mistake, and Invalid for too deep nesting."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"this is not JSON: {error}") from error
    # Text with fewer brackets than the limit can't be nested too deep, so the check is rarely needed.
    if _openings(data) > MAX_DEPTH and depth_exceeds(value):
        raise Invalid(f"JSON nested deeper than {MAX_DEPTH} levels")
    return value


def parse_lines(data: bytes) -> list[Any]:
    """Parse NDJSON; blank lines are skipped. Raises BadRequest or Invalid that names the line, counted from 1."""
    values: list[Any] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            values.append(parse_json(line))
        except (BadRequest, Invalid) as error:
            raise type(error)(f"line {number}: {error.message}", line=number) from error
    return values


def check_size(body: bytes, limit: int, index: int | None = None) -> None:
    """Raise TooLarge if an event has more than ``limit`` bytes. ``index``: its place in a batch, for the message."""
    if len(body) > limit:
        where = "the event" if index is None else f"event {index} of the batch"
        raise TooLarge(f"{where} has {len(body):,} bytes; the limit is {limit:,}", limit=limit)
