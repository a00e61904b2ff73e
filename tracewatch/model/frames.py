"""The wire: cursors, control frames, and the frames around the stored bytes of events.

Rule 1: a control frame never has an ``event_id``, so a client can tell it from an event by that alone.
Rule 2: an event's frame depends on its stored bytes only, so one frame serves every watcher.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import orjson

from ..errors import InvalidCursor
from .canonical import event_name
from .preview import shorten, size_of
from .state import State

PROTOCOL = 1
CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1012  # "service restart", as the protocol's section 4 has it for goaway

_POSITION = re.compile(r"(?:([A-Za-z0-9_-]{1,64})\.)?([0-9]{1,18})", re.ASCII)
_LISTS = ("sub_traces", "pending_inputs", "steps")  # of a snapshot, beside its goals; there may be no steps
ITEMS_AT_ONCE = 32  # of a snapshot's lists, encoded before their size is looked at
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
        **({"steps": list(state.steps.values())} if state.steps else {}),
        **({"in_flight": state.in_flight} if state.in_flight else {}),
    }


def snapshot_frames(frame: dict[str, Any], limit: int) -> Iterator[bytes]:
    """A ``connected`` or ``snapshot`` frame as JSON: one frame of at most ``limit`` bytes, or else several.

    Above ``limit`` the frame has ``goal_tree: null`` and the first of its sub-traces and open questions. The others
    follow in ``snapshot_part`` frames, and the goals in ``goal_tree_part`` frames. An object of more than a quarter of
    ``limit`` is a preview there.
    """
    whole = _whole(frame, limit)
    if whole is not None:
        yield whole
        return
    tags = {"trace_id": frame["trace_id"]} if "trace_id" in frame else {}
    most = limit // 4
    names = [name for name in _LISTS if name in frame]
    bare = {**frame, "goal_tree": None, **{name: [] for name in names}}
    if size_of(bare) > limit * 3 // 4:
        bare["trace"] = shorten(frame["trace"], limit // 2)
    lists = {name: _Bodies(_encoded(frame[name], most)) for name in names}
    room = limit - size_of(bare)
    first = {name: items.take(room // len(lists)) for name, items in lists.items()}
    yield orjson.dumps({**bare, **{name: orjson.Fragment(_array(bodies)) for name, bodies in first.items()}})
    for name, items in lists.items():
        room = limit - len(control("snapshot_part", **tags, **{name: []}))
        while bodies := items.take(room, least=1):
            yield control("snapshot_part", **tags, **{name: orjson.Fragment(_array(bodies))})
    yield from _tree_parts(frame["goal_tree"], tags, limit)


class _Bodies:
    """Encoded objects, taken as many at a time as there is room for."""

    def __init__(self, bodies: Iterator[bytes]) -> None:
        self._bodies = bodies
        self._next = next(bodies, None)

    def take(self, room: int, least: int = 0) -> list[bytes]:
        """The next ones, of at most ``room`` bytes with the commas between them, or ``least`` of them."""
        taken: list[bytes] = []
        while self._next is not None:
            room -= len(self._next) + 1
            if room < 0 and len(taken) >= least:
                break
            taken.append(self._next)
            self._next = next(self._bodies, None)
        return taken


def _whole(frame: dict[str, Any], limit: int) -> bytes | None:
    """The frame as JSON; None if it is above ``limit``, which is found without encoding much more than that."""
    encoded: dict[str, Any] = dict(frame)
    room = limit
    tree = frame["goal_tree"]
    for name, items in (("goal_tree", tree["goals"]), *((name, frame[name]) for name in _LISTS if name in frame)):
        bodies = []
        for start in range(0, len(items), ITEMS_AT_ONCE):
            body = orjson.dumps(items[start : start + ITEMS_AT_ONCE])[1:-1]
            room -= len(body) + 1
            if room < 0:
                return None
            bodies.append(body)
        encoded[name] = orjson.Fragment(_array(bodies))
    encoded["goal_tree"] = {**tree, "goals": encoded["goal_tree"]}
    whole = orjson.dumps(encoded)
    return whole if len(whole) <= limit else None


def _tree_parts(tree: dict[str, Any], tags: dict[str, str], limit: int) -> Iterator[bytes]:
    """A goal tree in as many frames as it takes, at least one."""
    most = len(tree["goals"])  # the largest number of parts
    room = limit - len(control("goal_tree_part", **tags, part=most, parts=most, **{**tree, "goals": []}))
    parts = [0]  # how many goals are in each
    size = 0
    for body in _encoded(tree["goals"], limit // 4):
        if parts[-1] and size + len(body) + 1 > room:
            parts.append(0)
            size = 0
        parts[-1] += 1
        size += len(body) + 1
    bodies = _encoded(tree["goals"], limit // 4)  # encoded again: they are not kept while a slow reader takes them
    for number, count in enumerate(parts, 1):
        goals = orjson.Fragment(_array(list(islice(bodies, count))))
        yield control("goal_tree_part", **tags, part=number, parts=len(parts), **{**tree, "goals": goals})


def _encoded(items: Iterable[dict[str, Any]], most: int) -> Iterator[bytes]:
    for item in items:
        body = orjson.dumps(item)
        yield body if len(body) <= most else orjson.dumps(shorten(item, most))


def _array(bodies: list[bytes]) -> bytes:
    return b"[" + b",".join(bodies) + b"]"


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
