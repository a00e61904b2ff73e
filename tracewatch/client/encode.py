"""From what an agent hands over to the bytes of events the server takes.

Rule 1: nothing here raises because of a value: what JSON can't say becomes its repr, what is too large is split
        (the text of a message) or shortened with a marker that says so.
Rule 2: bytes are made in the caller's thread, at once: what the agent changes later does not change what was said.
"""

from __future__ import annotations

import math
import operator
import time
from typing import Any

import orjson

from ..model.canonical import MAX_DEPTH, depth_exceeds
from ..model.times import format_time

MAX_EVENT_BYTES = 256 * 1024
ROOM_BYTES = 4096  # left for what the server adds; its limit is on the event as sent, so this is margin
PIECE_CHARS = 40_000  # JSON takes at most 6 bytes for a character, so any piece fits into an event
MAX_TEXT_CHARS = 4_000_000  # of a message: the server's limit is 4 MiB
_LIMIT = MAX_EVENT_BYTES - ROOM_BYTES
_DEEPEST = 60  # where a value that is too deep, or contains itself, is cut

Event = dict[str, Any]


def encode(event: Event, at: float | None = None) -> list[bytes]:
    """The event as JSON, with ``occurred_at``; more than one where a message's text had to be split."""
    event = {**event, "occurred_at": format_time(time.time() if at is None else at)}
    body = dumps(event)
    if len(body) <= _LIMIT:
        return [body]
    return _split_text(event, len(body)) or [_shorten(event, len(body))]


def dumps(value: Any) -> bytes:
    """JSON of anything."""
    try:
        body = orjson.dumps(value, default=_default)
        if body.count(b"[") + body.count(b"{") <= MAX_DEPTH or not depth_exceeds(orjson.loads(body)):
            return body
    except (TypeError, ValueError, RecursionError):
        pass  # non-text keys, lone surrogates, huge numbers, cycles: the slow way knows them all
    return orjson.dumps(plain(value))


def _default(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return list(value)
    return text_of(value)


def text_of(value: Any) -> str:
    """``repr`` that can't raise and that JSON can say."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__} whose repr raises>"
    return clean(text)


def clean(text: str) -> str:
    """The text without what UTF-8 can't say."""
    return text.encode("utf-8", "replace").decode("utf-8")


def plain(value: Any, depth: int = _DEEPEST) -> Any:
    """The value in the types of JSON, however strange it is."""
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
        return text_of(value)[:MAX_EVENT_BYTES]


# --- what is too large -----------------------------------------------------------------------------------------


def marker(omitted: int) -> str:
    """What stands where something was left out."""
    return f"…[shortened by the recorder: {omitted} bytes]"


def shorten_text(text: str, chars: int) -> str:
    """The text, at most about ``chars`` long."""
    if len(text) <= chars:
        return text
    return text[:chars] + marker(len(text[chars:].encode("utf-8", "replace")))


def pieces(text: str) -> list[str]:
    """The text in pieces of which each fits into an event."""
    return [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]


def _split_text(event: Event, size: int) -> list[bytes]:
    """``message_added`` and ``message_updated`` with much text as one event and appends; [] for anything else."""
    message = event.get("message")
    stamp = {"occurred_at": event["occurred_at"]}
    if event["event"] == "message_added" and isinstance(message, dict) and isinstance(message.get("content"), str):
        if "message_id" not in message:
            return []
        first, *rest = pieces(clean(shorten_text(message["content"], MAX_TEXT_CHARS)))
        begun, message_id = {**event, "message": {**message, "content": first}}, message["message_id"]
    elif event["event"] == "message_updated" and isinstance(event.get("append"), str) and len(event["append"]) > 1:
        first, *rest = pieces(clean(shorten_text(event["append"], MAX_TEXT_CHARS)))
        begun, message_id = {**event, "append": first}, event["message_id"]
    else:
        return []
    body = dumps(begun)
    updates = [{"event": "message_updated", "message_id": message_id, "append": piece, **stamp} for piece in rest]
    return [body if len(body) <= _LIMIT else _shorten(begun, size), *map(dumps, updates)]


def _shorten(event: Event, size: int) -> bytes:
    """The event with its longest parts cut until it fits. Costs what is kept, not what is left out."""
    event = orjson.loads(dumps(event))
    for longest, room in ((65_536, _LIMIT), (16_384, _LIMIT // 2), (1024, _LIMIT // 8)):
        body = orjson.dumps(_cut(event, longest, [room]))
        if len(body) <= _LIMIT:
            return body
    return orjson.dumps(_bones(event, marker(size)))


def _cut(value: Any, longest: int, room: list[int], depth: int = 0) -> Any:
    """The value with texts and lists of at most ``longest``, and less of them once ``room[0]`` characters are kept.

    The two outer levels keep all their keys, and short texts stay whole: they are what the event is about.
    """
    if isinstance(value, str):
        kept = shorten_text(value, max(64, min(longest, room[0])))
        room[0] -= len(kept)
        return kept
    room[0] -= 8
    if isinstance(value, list):
        items: list[Any] = []
        for item in value:
            if len(items) == longest or room[0] <= 0:
                return [*items, marker(len(orjson.dumps(value[len(items) :])))]
            items.append(_cut(item, longest, room, depth + 1))
        return items
    if isinstance(value, dict):
        fields: dict[str, Any] = {}
        for key, item in value.items():
            if len(fields) == longest or (room[0] <= 0 and (depth > 1 or len(fields) >= 64)):
                return {**fields, "…": marker(len(orjson.dumps(value)))}
            fields[key[:256]] = _cut(item, longest, room, depth + 1)
        return fields
    return value


_BONES = {
    "message_added": ("message_id", "role", "goal_id", "tool_call_id", "status", "tokens", "cost"),
    "message_updated": ("status", "tokens", "cost", "duration_ms"),
}


def _bones(event: Event, note: str) -> Event:
    """What is left of an event that is large in every part: still one that the server takes."""
    name = event["event"]
    kept = {key: event[key] for key in ("event", "goal_id", "message_id", "request_id", "status", "occurred_at")
            if isinstance(event.get(key), str)}  # fmt: skip
    inner = event.get("message" if name == "message_added" else "patch")
    bones = {k: v for k, v in inner.items() if k in _BONES.get(name, ())} if isinstance(inner, dict) else {}
    if name == "message_added":
        return kept | {"message": bones | {"content": note}}
    if name == "message_updated":
        return kept | {"patch": bones | ({"content": note} if inner and "content" in inner else {"note": note})}
    return kept | {"shortened": note}


# --- values with a type of their own ---------------------------------------------------------------------------


def count(value: Any) -> int | None:
    """A whole number from 0, or None for what is none: the server would refuse the whole event for it."""
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number <= 2**53 and not isinstance(value, bool) else None


def amount(value: Any) -> float | None:
    """A finite number from 0, or None for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 and not isinstance(value, (bool, str)) else None


def words(value: Any, longest: int = 100_000) -> str:
    """Text for a person from whatever was given."""
    return shorten_text(clean(value) if isinstance(value, str) else text_of(value), longest)


def name_of(value: Any) -> str:
    """An id or name: text of 1-256 characters."""
    return (clean(value) if isinstance(value, str) else text_of(value))[:256] or "?"
