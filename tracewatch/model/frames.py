"""The wire: cursors, control frames, and the frames around the stored bytes of events.

Rule 1: a control frame never has an ``event_id``, so a client can tell it from an event by that alone.
Rule 2: an event's frame depends on its stored bytes only, so one frame serves every watcher.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from ..errors import InvalidCursor
from .canonical import event_name
from .state import State

PROTOCOL = 1
CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1012  # "service restart", as the protocol's section 4 has it for goaway

_POSITION = re.compile(r"(?:([A-Za-z0-9_-]{1,64})\.)?([0-9]{1,18})", re.ASCII)
_LAST = re.compile(r"-([0-9]{1,18})", re.ASCII)


def format_cursor(epoch: str, event_id: int) -> str:
    """``<epoch>.<event_id>``, the cursor of a client that has all events up to and including this one."""
    return f"{epoch}.{event_id}"


def parse_cursor(text: str) -> tuple[str | None, int]:
    """``(epoch or None, event_id)`` of a cursor or a bare event_id. Raises InvalidCursor."""
    match = _POSITION.fullmatch(text)
    if match is None:
        raise InvalidCursor(f"{text[:80]!r} is not a cursor such as 41 or <epoch>.41")
    return match[1], int(match[2])


class Start(NamedTuple):
    """The start of a watch: it gets the events after ``after``. ``gap``: why that is not the cursor it gave."""

    after: int
    gap: str | None = None  # trimmed, reset or ahead
    explicit: bool = False  # the client named an event_id, so it has watched before


def resolve_since(
    since: str | None, *, epoch: str, first_event_id: int, last_event_id: int, lost: int | None = None
) -> Start:
    """The start that ``since_event_id`` names in a log of the events ``first_event_id`` to ``last_event_id``.

    ``lost``: the last event that is gone and would be missed; None: the one before the first, as without a filter.
    Raises InvalidCursor if ``since`` has none of the forms of the protocol's section 4.
    """
    if since is None or since == "":
        since = "0"
    if since == "latest":
        return Start(last_event_id)
    back = _LAST.fullmatch(since)
    if back is not None:
        return Start(max(last_event_id - int(back[1]), first_event_id - 1))
    try:
        its_epoch, event_id = parse_cursor(since)
    except InvalidCursor as error:
        raise InvalidCursor(
            f"since_event_id {since[:80]!r} is none of: 0, an event_id, a cursor <epoch>.<event_id>, -N, latest"
        ) from error
    if its_epoch is not None and its_epoch != epoch:
        return Start(first_event_id - 1, "reset", True)
    if event_id > last_event_id:
        return Start(last_event_id, "ahead", True)
    if event_id < (first_event_id - 1 if lost is None else lost):
        return Start(first_event_id - 1, "trimmed", event_id > 0)
    return Start(max(event_id, first_event_id - 1), None, event_id > 0)


# --- frames ----------------------------------------------------------------------------------------------------


def control(event: str, **values: Any) -> bytes:
    """A control frame as JSON."""
    return orjson.dumps({"event": event, **values})


def snapshot_values(state: State, *, lease_alive: bool) -> dict[str, Any]:
    """The keys about a trace in ``connected``, ``snapshot`` and the answer of ``GET /api/traces/{id}``."""
    trace = state.trace(lease_alive=lease_alive)
    return {
        "current_event_id": state.last_event_id,
        "first_event_id": state.first_event_id,
        "trace": trace,
        "trace_status": trace["status"],
        "is_running": trace["is_running"],
        "goal_tree": state.goal_tree(),
        "sub_traces": list(state.sub_traces.values()),
        "pending_inputs": list(state.pending_inputs.values()),
    }


def with_tree_parts(frame: dict[str, Any], limit: int) -> Iterator[bytes]:
    """A ``connected`` or ``snapshot`` frame as JSON.

    Above ``limit`` bytes its goals follow in ``goal_tree_part`` frames. A part exceeds ``limit`` only if one goal does.
    """
    whole = orjson.dumps(frame)
    tree = frame["goal_tree"]
    if len(whole) <= limit or not tree["goals"]:
        yield whole
        return
    yield orjson.dumps({**frame, "goal_tree": None})
    tags = {"trace_id": frame["trace_id"]} if "trace_id" in frame else {}
    most = len(tree["goals"])  # the largest number of parts
    around = len(control("goal_tree_part", **tags, part=most, parts=most, **{**tree, "goals": []}))
    parts: list[list[dict[str, Any]]] = [[]]
    size = around
    for goal in tree["goals"]:
        goal_size = len(orjson.dumps(goal)) + 1
        if parts[-1] and size + goal_size > limit:
            parts.append([])
            size = around
        parts[-1].append(goal)
        size += goal_size
    for number, goals in enumerate(parts, 1):
        yield control("goal_tree_part", **tags, part=number, parts=len(parts), **{**tree, "goals": goals})


def ws_text(payload: bytes) -> bytes:
    """A server's WebSocket text frame (RFC 6455 section 5.2: FIN, opcode 1, unmasked)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def sse_event(epoch: str, event_id: int, body: bytes) -> bytes:
    """A stored event as a server-sent event. Canonical bytes have no line break, so one ``data`` line is enough."""
    return b"id: %b.%d\nevent: %b\ndata: %b\n\n" % (epoch.encode(), event_id, event_name(body).encode(), body)


def sse_control(payload: bytes) -> bytes:
    """A control frame as a server-sent event. It has no ``id``, so that the reader's cursor stays.

    A checkpoint has one: it is there to move the cursor of a filtered watch, beyond what was not sent.
    """
    name = event_name(payload)
    place = f"id: {orjson.loads(payload)['cursor']}\n" if name == "checkpoint" else ""
    return b"%bevent: %b\ndata: %b\n\n" % (place.encode(), name.encode(), payload)
