"""Events as bytes and by name, without their validation: what also an agent's process needs of them.

Rule 1: canonical bytes are compact JSON with ``event, event_id, trace_id, ts, occurred_at`` first. They are made once.
Rule 2: nothing here imports pydantic, which alone takes longer to load than all of the recorder.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import orjson

from ..errors import BadRequest, Invalid, TooLarge

ORJSON_DEPTH = 254  # levels that orjson writes
MAX_DEPTH = 200  # the margin is for what the server wraps around

STATUSES: tuple[str, ...] = ("running", "waiting", "completed", "failed", "stopped", "lost")
ENDED = frozenset({"completed", "failed", "stopped"})
# The events that only the server writes
SERVER_EVENTS = frozenset(
    {"sub_trace_started", "sub_trace_completed", "input_provided", "input_expired", "cancel_requested"}
)


def canonical(event: Mapping[str, Any], *, parsed: bool = False) -> bytes:
    """The bytes of a stored event.

    ``parsed``: its values were read from JSON, which has no NaN, so nobody has to look for one.
    Raises Invalid for what JSON can't say (lone surrogates, NaN, Infinity) and for what is nested too deep.
    """
    try:
        body = orjson.dumps(event)
    except (TypeError, RecursionError) as error:  # orjson's JSONEncodeError is a TypeError
        raise Invalid(f"the event can't be written as JSON: {error}") from error
    if len(body) > 2 * MAX_DEPTH and _openings(body) > MAX_DEPTH and depth_exceeds(event):
        raise Invalid(f"the event is nested deeper than {MAX_DEPTH} levels")
    if not parsed and b"null" in body and _holds_nan(event):  # orjson writes null for what is no number
        raise Invalid("the event can't be written as JSON: NaN and Infinity are no JSON numbers")
    # A copy: orjson's own result keeps the buffer it was written in, kilobytes for a body of 300 bytes
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
        orjson.dumps(wrapped)  # twenty to fifty times as fast as to look, which took 20 ms for 60 kB of "{},"
        return False
    except (TypeError, RecursionError) as error:
        if str(error) == "Recursion limit reached":
            return True
    level: list[Any] = [value]  # not JSON: nothing to be said by orjson
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
    """Parse JSON. Raises BadRequest that says where it breaks, and Invalid when it is nested too deep."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"this is not JSON: {error}") from error
    # Text that opens no more brackets than the limit can't be too deep: the walk is for the rare rest.
    if _openings(data) > MAX_DEPTH and depth_exceeds(value):
        raise Invalid(f"JSON nested deeper than {MAX_DEPTH} levels")
    return value


def parse_lines(data: bytes) -> list[Any]:
    """Parse NDJSON; blank lines are passed over. Raises BadRequest or Invalid that names the line, counted from 1."""
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
    """Raise TooLarge when one event's bytes are above ``limit``."""
    if len(body) > limit:
        where = "the event" if index is None else f"event {index} of the batch"
        raise TooLarge(f"{where} has {len(body):,} bytes; the limit is {limit:,}", limit=limit)
