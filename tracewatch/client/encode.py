"""Encoding: any Python values of an agent become the bytes of events that the server accepts.

Rule 1: no value makes anything here raise. A value that JSON can't hold becomes its repr; one that is too large or too
        deep for an event is made to fit by ``model/fit.py``.
Rule 2: bytes are made at once, in the caller's thread. If the agent changes a value later, the event stays as it was.
"""

from __future__ import annotations

import math
import time
from typing import Any

import orjson

from ..model import fit
from ..model.canonical import MAX_DEPTH, depth_exceeds
from ..model.times import format_time

_DEEPEST = 60  # levels; a deeper value, or one that contains itself, is cut there


def encode(event: dict[str, Any], at: float | None = None) -> list[bytes]:
    """The event as JSON with ``occurred_at``; several events if a message's text has to be split.

    ``at``: its time in Unix seconds; None is now.
    """
    body = dumps({**event, "occurred_at": format_time(time.time() if at is None else at)})
    if len(body) <= fit.EVENT_BYTES:
        return [body]
    return [orjson.dumps(one) for one in fit.fit(orjson.loads(body))]


def dumps(value: Any) -> bytes:
    """Any value as JSON."""
    try:
        body = orjson.dumps(value, default=_default)
        if body.count(b"[") + body.count(b"{") <= MAX_DEPTH or not depth_exceeds(orjson.loads(body)):
            return body
    except (TypeError, ValueError, RecursionError):
        pass  # non-text keys, lone surrogates, huge numbers, cycles: the slow way below takes them all
    return orjson.dumps(plain(value))


def _default(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return list(value)
    return text_of(value)


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
    """Any value in the types of JSON."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth and isinstance(value, dict):
        items = list(value.items())  # a copy: another thread may be changing it
        return {clean(key) if isinstance(key, str) else text_of(key): plain(item, depth - 1) for key, item in items}
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, depth - 1) for item in list(value)]
    try:
        return orjson.loads(orjson.dumps(value)) if depth else text_of(value)[:1000]  # times, dataclasses, enums
    except (TypeError, ValueError, RecursionError):
        return text_of(value)[: fit.EVENT_BYTES]


# --- text and names from any value -------------------------------------------------------------------------------


def words(value: Any, longest: int = 100_000) -> str:
    """Any value as text for a person, of about ``longest`` characters at most."""
    return fit.shortened_text(clean(value) if isinstance(value, str) else text_of(value), longest)


def name_of(value: Any) -> str:
    """Any value as an id or name: text of 1-256 characters."""
    return fit.name(clean(value) if isinstance(value, str) else text_of(value))
