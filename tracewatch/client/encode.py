"""Encoding: any Python values of an agent become the bytes of events that the server accepts.

Rule 1: no value makes anything here raise. A value that JSON can't hold becomes its repr; one that is too large or too
        deep for an event is made to fit by ``model/fit.py``.
Rule 2: bytes are made at once, in the caller's thread. If the agent changes a value later, the event stays as it was.
"""

from __future__ import annotations

import dataclasses
import enum
import marshal
import math
import time
from typing import Any

import orjson

from ..model import fit
from ..model.canonical import MAX_DEPTH, depth_exceeds
from ..model.times import format_time

_DEEPEST = 60  # levels; a deeper value, or one that contains itself, is cut there
_MOST = 150_000  # values; an event of the size that the log takes has no more


def encode(event: dict[str, Any], at: float | None = None, *, own: bool = False) -> list[bytes]:
    """The event as JSON with ``occurred_at``; several events if a message's text has to be split.

    ``at``: its time in Unix seconds; None is now. ``own``: all its values are ``settled`` already.
    """
    timed = {**event, "occurred_at": format_time(time.time() if at is None else at)}
    body = _json(timed) if own else dumps(timed)
    if len(body) <= fit.EVENT_BYTES:
        return [body]
    return [orjson.dumps(one) for one in fit.fit(orjson.loads(body))]


def dumps(value: Any) -> bytes:
    """Any value as JSON.

    orjson must not meet a list that another thread changes while code of the agent's runs in it. So it gets a copy of
    our own, and runs no such code: ``marshal`` copies plain data in one step, ``plain`` all other values.
    """
    return _json(settled(value))


def _json(value: Any) -> bytes:
    try:
        body = orjson.dumps(value)
        if body.count(b"[") + body.count(b"{") <= MAX_DEPTH or not depth_exceeds(orjson.loads(body)):
            return body
    except (TypeError, ValueError, RecursionError):
        pass  # bytes, sets, non-text keys, lone surrogates, huge numbers, cycles: the slow way below takes them all
    return orjson.dumps(plain(value))


def settled(value: Any) -> Any:
    """A copy of our own, to be encoded later without code of the agent's."""
    if value is None or type(value) in (str, bool, int, float):
        return value
    try:
        return marshal.loads(marshal.dumps(value))
    except ValueError:  # objects, or too deep
        return plain(value)


def text_of(value: Any) -> str:
    """The ``repr`` of a value, which never raises here and which JSON can hold."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__} whose repr raises>"
    return clean(text)


def clean(text: str) -> str:
    """The text without characters that UTF-8 can't hold. The two halves of a surrogate pair become one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return joined.encode("utf-8", "replace").decode()
    return text


def plain(value: Any, depth: int = _DEEPEST) -> Any:
    """Any value in the types of JSON, copied: at most ``depth`` levels and _MOST values of it."""
    return _plain(value, depth, [_MOST])


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value, depth - 1, left) if depth else None
    if isinstance(value, str):
        return clean(str.__str__(value))
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else _digits(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return text_of(value) if len(value) <= fit.EVENT_BYTES else f"{text_of(value[: fit.EVENT_BYTES])}…"
    try:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [field.name for field in dataclasses.fields(value) if not field.name.startswith("_")]
            value = {name: getattr(value, name) for name in fields}
        if isinstance(value, (dict, list, tuple, set, frozenset)):
            return _container(value, depth - 1, left) if depth else f"<{type(value).__name__}>"
        return orjson.loads(orjson.dumps(value))  # times, UUIDs
    except Exception:
        return text_of(value)[: fit.EVENT_BYTES]


def _container(value: Any, depth: int, left: list[int]) -> Any:
    """A copy, cut after _MOST values: ``left`` counts down. Another thread may change the value meanwhile."""
    if isinstance(value, dict):
        kept: dict[str, Any] = {}
        for key, item in dict(value).items():
            if left[0] <= 0:
                kept["…"] = "cut"
                break
            kept[clean(key) if isinstance(key, str) else text_of(key)] = _plain(item, depth, left)
        return kept
    items: list[Any] = []
    for item in list(value):
        if left[0] <= 0:
            items.append("… cut")
            break
        items.append(_plain(item, depth, left))
    return items


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python writes
        return fit.shortened_text(hex(value), 10_000)


# --- text and names from any value -------------------------------------------------------------------------------


def words(value: Any, longest: int = 100_000) -> str:
    """Any value as text for a person, of about ``longest`` characters at most."""
    return fit.shortened_text(clean(value) if isinstance(value, str) else text_of(value), longest)


def name_of(value: Any) -> str:
    """Any value as an id or name: text of 1-256 characters."""
    return fit.name(clean(value) if isinstance(value, str) else text_of(value))
