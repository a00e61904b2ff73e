"""Fitting: events, values of messages and fields of traces become small enough for the protocol. Pure: JSON in and out.

The recorder and the importers use it. (``client/encode.py`` turns an agent's Python objects into JSON.)

Rule 1: no value makes ``fit`` raise, and its events are never too large or too deep for the log.
Rule 2: for a caller that can make message ids nothing is lost. The text of a message goes on in appends, then in
        further messages; another large value moves as text into a message of role ``attachment``.
Rule 3: without such ids, text is cut where a message is full, and other large values are shortened. A marker says how
        much is missing. The work grows with the size of the part that is kept, not of the part left out.
Rule 4: the log refuses a whole event for a value of a wrong type or size. ``count``, ``amount``, ``name`` and ``task``
        return values that it accepts.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from .canonical import depth_exceeds

EVENT_BYTES = 252 * 1024  # the log takes 256 KiB; the rest is a margin
PART_BYTES = 128 * 1024  # of a text in one of several events, as JSON
MESSAGE_PARTS = 24  # × PART_BYTES is below the limit of a message (4 MiB), for any text
MESSAGE_CHARS = 4_000_000  # a message may hold 4 MiB of characters
MOVED_BYTES = 2048  # a smaller value is not worth a message of its own
METADATA_BYTES = 64 * 1024  # of a trace; every list of traces contains it
TASK_CHARS = 10_000
NAME_CHARS = 256
DEPTH = 180  # the log takes 200 levels

Event = dict[str, Any]
NewId = Callable[[], str]


def fit(event: Event, new_id: NewId | None = None) -> list[Event]:
    """The event as one or more events that the log takes.

    ``event``: as a recorder sends it, of JSON's types only; it is not changed. ``new_id`` returns an id for one more
    message of the trace: then nothing is lost. Without it, large values are shortened.

        >>> fit({"event": "thought", "text": "hm"})
        [{'event': 'thought', 'text': 'hm'}]
    """
    if depth_exceeds(event, DEPTH):
        event = flattened(event, DEPTH)
    size = json_bytes(event)
    if size <= EVENT_BYTES:
        return [event]
    fitting: list[Event] = []
    for part in _split_text(event, new_id):
        if json_bytes(part) <= EVENT_BYTES:
            fitting.append(part)
        elif new_id is None:
            fitting.append(_shortened(part, size))
        else:
            fitting += _moved(part, new_id)
    return fitting


def json_bytes(value: Any) -> int:
    """The size of the value as JSON."""
    return len(orjson.dumps(value))


# --- the text of a message ---------------------------------------------------------------------------------------


def marker(omitted: int) -> str:
    """The marker in the place of so many bytes."""
    return f"…[shortened by the recorder: {omitted} bytes]"


_MARKER = re.compile(r"…\[shortened by the recorder: (\d{1,20}) bytes\]\Z")


def shortened_text(text: str, chars: int) -> str:
    """The text, cut after so many characters, with a marker that says how much is missing.

    A marker at its end counts with what it says.
    """
    if len(text) <= chars:
        return text
    end, missing = len(text), 0
    cut_before = _MARKER.search(text, max(0, end - 60))
    if cut_before is not None:
        end, missing = max(chars, cut_before.start()), int(cut_before[1])
    step = 1_000_000  # as much as the rest may be: a part at a time, and no copy of all of it
    missing += sum(len(text[at : min(at + step, end)].encode("utf-8", "replace")) for at in range(chars, end, step))
    return text[:chars] + marker(missing)


def text_parts(text: str) -> Iterator[str]:
    """The text in parts, each of at most PART_BYTES as JSON; there is at least one."""
    start = 0
    while start < len(text) or not start:
        length = PART_BYTES - 2  # the quotes
        while (size := json_bytes(text[start : start + length])) > PART_BYTES:
            length = length * (PART_BYTES - 2) // size  # smaller each time, since size is above
        yield text[start : start + length]
        start += length


def _split_text(event: Event, new_id: NewId | None) -> Iterator[Event]:
    """``message_added`` and ``message_updated`` with much text as several events; any other event as it is."""
    message, text = event.get("message"), event.get("append")
    if event["event"] == "message_added" and isinstance(message, dict) and isinstance(message.get("content"), str):
        if "message_id" not in message and new_id is not None:
            message = {"message_id": new_id(), **message}
        yield from _split_message(event, message, new_id)
    elif event["event"] == "message_updated" and isinstance(text, str) and "message_id" in event:
        first, *rest = text_parts(shortened_text(text, MESSAGE_CHARS))
        if rest and "patch" in event:  # as it would have been: all of the text, then the patch
            begun = {key: value for key, value in event.items() if key != "patch"} | {"append": first}
            yield begun
            yield from _appends(event, event["message_id"], rest, event["patch"])
        else:
            yield {**event, "append": first}
            yield from _appends(event, event["message_id"], rest)
    else:
        yield event


def _split_message(event: Event, message: dict[str, Any], new_id: NewId | None) -> Iterator[Event]:
    text = message["content"]
    parts = list(text_parts(text if new_id is not None else shortened_text(text, MESSAGE_CHARS)))
    if len(parts) == 1 or "message_id" not in message:
        yield {**event, "message": message}
        return
    in_one = MESSAGE_PARTS if new_id is not None else len(parts)
    first_id = message_id = message["message_id"]
    for begin in range(0, len(parts), in_one):
        if begin:
            assert new_id is not None
            message_id = new_id()
            same: dict[str, Any] = {key: message[key] for key in ("role", "goal_id") if key in message}
            message = {"message_id": message_id, **same, "continues_message": first_id}
        head, *rest = parts[begin : begin + in_one]
        complete = bool(rest) and message.get("status", "complete") == "complete"
        status = {"status": "streaming"} if complete else {}
        yield {**event, "message": {**message, "content": head, **status}}
        yield from _appends(event, message_id, rest, {"status": "complete"} if complete else None)


def _appends(event: Event, message_id: str, parts: list[str], patch: dict[str, Any] | None = None) -> Iterator[Event]:
    """The rest of a message's text, with the last of it ``patch``."""
    stamp = {"occurred_at": event["occurred_at"]} if "occurred_at" in event else {}
    for number, part in enumerate(parts, 1):
        last = {"patch": patch} if patch is not None and number == len(parts) else {}
        yield {"event": "message_updated", "message_id": message_id, "append": part, **last, **stamp}


# --- large values are moved --------------------------------------------------------------------------------------


def _moved(event: Event, new_id: NewId) -> list[Event]:
    """The event with its largest parts moved into attachments, and then the attachments."""
    event = orjson.loads(orjson.dumps(event))  # a copy, so that the caller's event stays whole
    moved: list[tuple[str, str, str]] = []
    while (size := json_bytes(event)) > EVENT_BYTES:
        path = _heaviest(event)
        if not path:  # nothing in it is large, there is only very much of it
            event = _shortened(event, size)
            break
        attachment_id = new_id()
        moved.append((attachment_id, ".".join(map(str, path)), _move(event, path, attachment_id)))
    of = event.get("message_id") or event.get("message", {}).get("message_id")
    stamp = {"occurred_at": event["occurred_at"]} if "occurred_at" in event else {}
    events = [event]
    for attachment_id, where, text in moved:
        message = {"message_id": attachment_id, "role": "attachment", "content": text}
        message |= {"description": f"{where} ({len(text):,} characters)", "field": where}
        message |= {"of_message": of} if of else {}
        events += fit({"event": "message_added", "message": message, **stamp}, new_id)
    return events


def _heaviest(event: Event) -> list[Any]:
    """The path to the largest part of ``event``; [] if it is not worth moving. The text of a message stays."""
    container: Any = event
    path: list[Any] = []
    while True:
        weights = {key: json_bytes(child) for key, child in _children(container, path)}
        key = max(weights, key=lambda k: weights[k])
        child = container[key]
        path.append(key)
        inner = [json_bytes(item) for _, item in _children(child, path)]
        # Go down as long as one part makes up most of the whole: the rest then stays in place, as do the objects
        # whose keys the protocol knows.
        known = len(path) == 1 or (path[1:] == ["content"] and "tool_name" in child)
        if not inner or not (known or max(inner) >= weights[key] // 2):
            return path if weights[key] >= MOVED_BYTES else []
        container = child


def _move(event: Event, path: list[Any], message_id: str) -> str:
    """Put a note in the place of the value at ``path``; returns the value as text."""
    container: Any = event
    for key in path[:-1]:
        container = container[key]
    child = container[path[-1]]
    if isinstance(child, str):
        container[path[-1]] = f"{child[:1000]}… (the whole text: message {message_id})"
        return child
    text = orjson.dumps(child)
    container[path[-1]] = {"moved_to_message": message_id, "bytes": len(text)}
    return text.decode()


def _children(container: Any, path: list[Any]) -> list[tuple[Any, Any]]:
    if isinstance(container, dict):
        text_of_message = container.get("content") if path == ["message"] else None
        return [(k, v) for k, v in container.items() if not (k == "content" and isinstance(text_of_message, str))]
    return list(enumerate(container)) if isinstance(container, list) else []


# --- large values are shortened ----------------------------------------------------------------------------------


def _shortened(event: Event, size: int) -> Event:
    """The event with its longest parts cut until it fits."""
    for longest, room in ((65_536, EVENT_BYTES), (16_384, EVENT_BYTES // 2), (1024, EVENT_BYTES // 8)):
        cut: Event = _cut(event, longest, [room])
        if json_bytes(cut) <= EVENT_BYTES:
            return cut
    return _bones(event, marker(size))


def _cut(value: Any, longest: int, room: list[int], depth: int = 0) -> Any:
    """The value with texts and lists of at most ``longest``, and shorter ones after ``room[0]`` kept characters.

    The two outer levels keep all their keys, and short texts stay whole, because they are the essence of the event.
    """
    if isinstance(value, str):
        kept = shortened_text(value, max(64, min(longest, room[0])))
        room[0] -= len(kept)
        return kept
    room[0] -= 8
    if isinstance(value, list):
        items: list[Any] = []
        for item in value:
            if len(items) == longest or room[0] <= 0:
                return [*items, marker(json_bytes(value[len(items) :]))]
            items.append(_cut(item, longest, room, depth + 1))
        return items
    if isinstance(value, dict):
        fields: dict[str, Any] = {}
        for key, item in value.items():
            if len(fields) == longest or (room[0] <= 0 and (depth > 1 or len(fields) >= 64)):
                return {**fields, "…": marker(json_bytes(value))}
            fields[key[:NAME_CHARS]] = _cut(item, longest, room, depth + 1)
        return fields
    return value


_BONES = {
    "message_added": ("message_id", "role", "goal_id", "tool_call_id", "status", "tokens", "cost"),
    "message_updated": ("status", "tokens", "cost", "duration_ms"),
}


def _bones(event: Event, note: str) -> Event:
    """The rest of an event that is large in every part: an event that the log still takes."""
    kind = event["event"]
    kept = {key: event[key] for key in ("event", "goal_id", "message_id", "request_id", "status", "occurred_at")
            if isinstance(event.get(key), str)}  # fmt: skip
    inner = event.get("message" if kind == "message_added" else "patch")
    bones = {k: v for k, v in inner.items() if k in _BONES.get(kind, ())} if isinstance(inner, dict) else {}
    if kind == "message_added":
        return kept | {"message": bones | {"content": note}}
    if kind == "message_updated":
        return kept | {"patch": bones | ({"content": note} if inner and "content" in inner else {"note": note})}
    return kept | {"shortened": note}


# --- deep values -------------------------------------------------------------------------------------------------


def flattened(value: Any, levels: int) -> Any:
    """The value with all parts deeper than ``levels`` as their JSON text."""
    if not isinstance(value, (dict, list)):
        return value
    if levels <= 1:
        return _json_text(value)
    if isinstance(value, list):
        return [flattened(item, levels - 1) for item in value]
    return {key: flattened(item, levels - 1) for key, item in value.items()}


def _json_text(value: Any) -> str:
    """The value as JSON at any depth; neither json nor orjson writes a thousand levels."""
    written: list[str] = []
    waiting: list[tuple[bool, Any]] = [(False, value)]  # from the end; True: text that is JSON already
    while waiting:
        done, item = waiting.pop()
        if done:
            written.append(item)
        elif isinstance(item, (dict, list)):
            pairs = [(f"{orjson.dumps(k).decode()}:", v) for k, v in item.items()] if isinstance(item, dict) else None
            waiting.append((True, "]" if pairs is None else "}"))
            for index, (key, child) in reversed(
                list(enumerate(pairs if pairs is not None else [("", child) for child in item]))
            ):
                waiting += [(False, child), (True, f",{key}" if index else key)]
            written.append("[" if pairs is None else "{")
        else:
            written.append(orjson.dumps(item).decode())
    return "".join(written)


# --- a trace's fields --------------------------------------------------------------------------------------------


def task(text: str) -> str:
    """The task of a trace: text of 1-10,000 characters."""
    text = text.strip()
    return (text if len(text) <= TASK_CHARS else shortened_text(text, TASK_CHARS - 100)) or "(no task)"


def split_metadata(metadata: dict[str, Any], limit: int = METADATA_BYTES) -> tuple[dict[str, Any], dict[str, Any]]:
    """The part of a trace's metadata that fits into its header, of at most ``limit`` bytes, and the rest.

    If not all of it fits, the part has keys of at most 1 KiB each, as many as there is room for.
    """
    if depth_exceeds(metadata, DEPTH):
        metadata = flattened(metadata, DEPTH)
    if json_bytes(metadata) <= limit:
        return metadata, {}
    kept: dict[str, Any] = {}
    for key, value in metadata.items():
        size = json_bytes({key: value})
        if size <= 1024 and size <= limit:
            kept[key] = value
            limit -= size
    return kept, {key: value for key, value in metadata.items() if key not in kept}


# --- values with a type of their own ---------------------------------------------------------------------------


def count(value: Any, most: int = 10**9) -> int | None:
    """``value`` as a whole number from 0 to ``most`` (by default that of tokens); None for anything else."""
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number <= most and not isinstance(value, bool) else None


def amount(value: Any, most: float = 1e9) -> float | None:
    """``value`` as a finite number from 0 to ``most`` (by default that of a cost); None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and 0 <= number <= most and not isinstance(value, (bool, str)) else None


def name(text: str) -> str:
    """An id or name: text of 1-256 characters."""
    return text[:NAME_CHARS] or "?"
