"""The core of a watch, without I/O: the order of events, the fold, the cursor, and the request of a reconnect.

Rule 1: an unfiltered watch hands out position + 1 and nothing else; a hole or a repeat is a ProtocolViolation.
Rule 2: the position moves only with the events handed out, so a reconnect from it can't skip or repeat one.
Rule 3: the state comes from the snapshot of each connect, and only events after it are folded into it. No snapshot has
        messages, so these are folded from every event, and carried over a reconnect.
Rule 4: another epoch is another history. Its snapshot replaces all that is known, messages and sub-traces too.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import orjson

from .. import errors
from ..model.frames import format_cursor, parse_cursor
from ..model.state import State, added_message, apply_into, updated_message
from .clock import ServerClock
from .errors import ApiError, unauthorized

HEARTBEAT_S = 15.0  # until the server has said its own
SILENT_HEARTBEATS = 2.5  # a socket silent for so many is dead

_RAISED: dict[str, type[errors.TracewatchError]] = {
    kind.code: kind
    for kind in (
        errors.BadRequest,
        errors.InvalidCursor,
        errors.InvalidField,
        errors.Forbidden,
        errors.UnknownTrace,
        errors.TraceDeleted,
    )
}
_GONE = frozenset({"unknown_trace", "trace_deleted"})
_BY_CLOSE_CODE = {4500: "bad_request", 4501: "unauthorized", 4503: "forbidden", 4504: "unknown_trace"}


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """A change of a watch's connection, as its ``on_status`` gets it.

    ``kind``: connected, caught_up, lost (the watch reconnects), reconnected, gap or over_http (no WebSocket gets
    through, and ``error`` says why). ``last_event_id``: the last event
    of the watched trace that was handed out. ``replayed``: the number of events from the connect to the log's end.
    ``retry_in_s``: seconds until the next attempt. ``error``: the reason of a loss or a gap. ``resume_event_id``: for a
    gap, the event that the next one follows.

        tracewatch.watch_sync("run-1", on_status=lambda news: print(news.kind))
    """

    kind: str
    last_event_id: int | None
    replayed: int | None = None
    retry_in_s: float | None = None
    error: str | None = None
    resume_event_id: int | None = None


class Track:
    """One trace within a watch."""

    def __init__(self, trace_id: str, since: str | None) -> None:
        self.trace_id = trace_id
        self.since = since  # the request until the server has named its position
        self.position: int | None = None  # the last event handed out, or the one before the watch's first
        self.epoch: str | None = None
        self.state = State(trace_id)
        self.caught_up = False  # on this connection
        self.begun = False  # whether it was at the end once, or has handed out an event
        self.ended = False  # whether its `end` frame came
        self.gap: dict[str, Any] | None = None  # the frame, until its snapshot is complete
        self.snapshot: dict[str, Any] | None = None  # a frame of which parts are still coming
        if not since or since.isdecimal():
            self.position = int(since or 0)
        elif "." in since:
            self.epoch, self.position = parse_cursor(since)

    @property
    def cursor(self) -> str | None:
        """The cursor that a reconnect goes on from."""
        if self.epoch is None or self.position is None:
            return self.since or None
        return format_cursor(self.epoch, self.position)


class WatchCore:
    """One watch over all its connections: frames in, events and news of the connection out."""

    def __init__(
        self,
        trace_id: str,
        *,
        since: str | int | None = None,
        types: list[str] | None = None,
        until: str | None = "end",
        wait: bool = False,
        children: bool = False,
        skip_trimmed: bool = False,
    ) -> None:
        self.clock = ServerClock()
        self.root = Track(trace_id, None if since is None else str(since))
        self.tracks = {trace_id: self.root}
        self.children = children
        self.status = "connecting"
        self.current_event_id: int | None = None  # the last event in the log of the watched trace, by the server
        self.heartbeat_s = HEARTBEAT_S
        self.goaway_ms: int | None = None  # the time to come back within, after a goaway
        self.news: deque[ConnectionStatus] = deque()  # for the edge to hand on
        self.alive = False  # whether the server has sent a frame on this connection
        self._types = types
        self._until = until
        self._wait = wait
        self._skip_trimmed = skip_trimmed
        self._connected = False  # whether there was a connection
        self._outage = False  # whether a lost connection was reported and is not back
        self._replayed = 0  # events since the connect, of all traces
        self._error: dict[str, Any] | None = None  # the frame that explains the close to come

    # --- connecting ---

    def query(self) -> dict[str, Any]:
        """The parameters to connect with, also the keys of ``subscribe``. None: left out."""
        return {
            "since_event_id": self.root.cursor,
            "types": ",".join(self._types) if self._types else None,
            "until": self._until,
            "wait": "1" if self._wait else None,
            "nulls": "1",
        }

    def subscribe(self) -> bytes:
        """The frame that asks ``/api/watch`` for the trace and all below it."""
        cursors = {t.trace_id: t.cursor for t in self.tracks.values() if t is not self.root and t.cursor is not None}
        return self._subscribe(self.root, subtree=True, cursors=cursors)

    def _subscribe(self, track: Track, **more: Any) -> bytes:
        asked = {"trace_id": track.trace_id, **self.query(), "since_event_id": track.cursor, **more}
        return orjson.dumps({"subscribe": {key: value for key, value in asked.items() if value is not None}})

    def opened(self) -> None:
        """Note a new connection."""
        self.alive = False
        self.goaway_ms = self._error = None
        self._replayed = 0
        for track in self.tracks.values():
            track.caught_up = False
            track.snapshot = track.gap = None

    def lost(self, error: str, retry_in_s: float) -> None:
        """Note that the connection broke and is tried again in ``retry_in_s``; news only once for each outage."""
        self.status = "reconnecting" if self._connected else "connecting"
        if not self._outage:
            self._outage = True
            self.news.append(ConnectionStatus("lost", self.last_event_id, retry_in_s=retry_in_s, error=error))

    def closed_with(self, code: int, reason: str) -> None:
        """Note that the server closed the connection. Raises an error if reconnecting would not help."""
        if 4500 <= code <= 4999:
            frame = self._error or {}
            raise refusal(str(frame.get("code") or _BY_CLOSE_CODE.get(code)), str(frame.get("message") or reason), code)

    # --- frames ---

    @property
    def last_event_id(self) -> int | None:
        """The last event of the watched trace that was handed out, or the one before the watch's first."""
        return self.root.position

    @property
    def silence_s(self) -> float:
        """Seconds without a frame after which a connection is dead."""
        return self.heartbeat_s * SILENT_HEARTBEATS

    def receive(self, data: bytes) -> dict[str, Any] | None:
        """Take one frame; returns the event if it is one.

        Raises ProtocolViolation, WatchGap, and the error of an ``error`` frame that does not close the connection.
        """
        try:
            frame: dict[str, Any] = orjson.loads(data)
            if "event_id" in frame:
                return self._event(frame)
            self._control(frame)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.ProtocolViolation(f"not a frame of the protocol: {data[:200]!r} ({error!r})") from error
        return None

    def _event(self, event: dict[str, Any]) -> dict[str, Any] | None:
        track = self._track(event)
        event_id, position = event["event_id"], track.position
        if position is None or track.snapshot is not None:
            raise errors.ProtocolViolation(f"event {event_id} of {track.trace_id} came before its snapshot")
        if event_id <= position or (event_id != position + 1 and not self._types):
            raise errors.ProtocolViolation(
                f"event {event_id} of {track.trace_id} came after {position}", expected_event_id=position + 1
            )
        if event_id <= track.state.last_event_id:
            _fold_message(track.state, event)
        else:
            apply_into(track.state, event)
        track.position, track.begun = event_id, True
        self._replayed += not track.caught_up
        if track is self.root and event_id > (self.current_event_id or 0):
            self.current_event_id = event_id
        return event

    def _track(self, frame: dict[str, Any]) -> Track:
        trace_id = frame.get("trace_id", self.root.trace_id) if self.children else self.root.trace_id
        track = self.tracks.get(trace_id)
        if track is None:
            track = self.tracks[trace_id] = Track(trace_id, None)
        return track

    def _control(self, frame: dict[str, Any]) -> None:
        name, track = frame["event"], self._track(frame)
        if name != "error":
            self.alive = True
        self.clock.hear(frame.get("ts"))
        if track is self.root and "current_event_id" in frame:
            self.current_event_id = frame["current_event_id"]
        if name in ("connected", "snapshot"):
            self._began(track, frame)
        elif name == "snapshot_part":
            self._snapshot_part(track, frame)
        elif name == "goal_tree_part":
            self._tree_part(track, frame)
        elif name == "caught_up":
            self._caught_up(track, frame)
        elif name == "fell_behind":
            track.caught_up = False
            if track is self.root:
                self.status = "catching_up"
        elif name == "checkpoint":
            self._skip_to(track, frame["cursor"])
        elif name == "gap":
            track.gap = frame
        elif name == "end":
            self._ended(track, frame)
        elif name == "goaway":
            self.goaway_ms = int(frame["after_ms"])
        elif name == "error":
            self._refused(track, frame)
        # heartbeat and pong show that the line is alive; names of later protocols are ignored

    def _began(self, track: Track, frame: dict[str, Any]) -> None:
        if frame["goal_tree"] is None:
            track.snapshot = {**frame, "goal_tree": {"goals": []}}
            return
        track.snapshot = None
        state = State.from_snapshot(frame)
        epoch, begin = _place(frame["cursor"])
        if track.epoch in (None, epoch):
            state.messages = track.state.messages
        elif track is self.root:  # another history: nothing of the one before is true in it, whatever ids it has
            self.tracks = {track.trace_id: track}
        track.state = state
        if frame["event"] == "snapshot":
            gap, track.gap = track.gap or {}, None
            self._pass_gap(track, gap, frame["cursor"])
        self.heartbeat_s = float(frame.get("heartbeat_s") or self.heartbeat_s)
        track.epoch = track.epoch or epoch  # ours stays: if the server's differs, a gap frame follows
        if track.position is None:
            track.position = begin
        if track is self.root:
            self.status = "catching_up"
            if not self._connected:
                self._connected, self._outage = True, False
                self.news.append(ConnectionStatus("connected", track.position))

    def _snapshot_part(self, track: Track, part: dict[str, Any]) -> None:
        if track.snapshot is None:
            raise errors.ProtocolViolation("a snapshot_part came without the frame it belongs to")
        for name in ("sub_traces", "pending_inputs", "steps"):
            if name in part:
                track.snapshot[name] = [*track.snapshot.get(name, ()), *part[name]]

    def _tree_part(self, track: Track, part: dict[str, Any]) -> None:
        if track.snapshot is None:
            raise errors.ProtocolViolation("a goal_tree_part came without the frame it belongs to")
        goals = [*track.snapshot["goal_tree"]["goals"], *part["goals"]]
        track.snapshot["goal_tree"] = {**part, "goals": goals}
        if part["part"] == part["parts"]:
            self._began(track, track.snapshot)

    def _pass_gap(self, track: Track, gap: dict[str, Any], cursor: str) -> None:
        """Report a gap. Raises WatchGap, unless no requested event is missing or ``skip_trimmed`` allows it."""
        reason, resume = gap["reason"], gap["resume_event_id"]
        news = ConnectionStatus("gap", track.position, error=reason, resume_event_id=resume)
        self.news.append(news)
        if reason == "trimmed" and (not track.position or (self._skip_trimmed and track.begun)):
            track.position = resume
            return
        facts = {key: gap.get(key) for key in ("requested", "first_event_id", "current_event_id")}
        raise errors.WatchGap(
            f"the events after {gap.get('requested')} are not to be had ({reason}); the log goes on after {resume}",
            reason=reason,
            resume_event_id=resume,
            cursor=cursor,
            state=track.state,
            trace_id=track.trace_id,
            **facts,
        )

    def _caught_up(self, track: Track, frame: dict[str, Any]) -> None:
        track.caught_up = track.begun = True
        self._skip_to(track, frame["cursor"])
        if track is not self.root:
            return
        self.status = "live"
        kind, self._outage = "reconnected" if self._outage else "caught_up", False
        replayed = self._replayed if self.children else frame.get("replayed")
        self.news.append(ConnectionStatus(kind, track.position, replayed=replayed))

    def _skip_to(self, track: Track, cursor: str) -> None:
        """Take the position that the server names. Only with a filter may it be beyond the last event handed out."""
        event_id = _place(cursor)[1]
        if event_id > (track.position or 0):
            if not self._types:
                raise errors.ProtocolViolation(f"the server stands at {event_id}, having sent up to {track.position}")
            track.position = event_id

    def _ended(self, track: Track, frame: dict[str, Any]) -> None:
        if not self._types and frame["last_event_id"] != track.position:
            raise errors.ProtocolViolation(
                f"the trace ended with event {frame['last_event_id']}, the server sent up to {track.position}"
            )
        track.ended = True
        self._end_when_all_have()

    def _end_when_all_have(self) -> None:
        if not self.root.ended:
            return
        if not self.children:
            self.status = "ended"
            return
        if any(track.state.sub_traces.keys() - self.tracks.keys() for track in self.tracks.values()):
            return  # there are sub-traces that the server has not come to yet
        if all(t.ended or (t.caught_up and t.state.status == "lost") for t in self.tracks.values()):
            self.status = "ended"

    def _refused(self, track: Track, frame: dict[str, Any]) -> None:
        self._error = frame
        if "trace_id" not in frame or not self.children:
            return  # a close follows
        if track is self.root:
            raise refusal(str(frame.get("code")), str(frame.get("message")), 4500)
        if frame.get("code") == "too_many":
            raise ConnectionError(f"the server is full: {frame.get('message')}")  # it may have room later
        if frame.get("code") not in _GONE:
            raise refusal(str(frame.get("code")), f"{track.trace_id}: {frame.get('message')}", 4500)
        track.ended = True
        self._end_when_all_have()


def refusal(code: str, message: str, close_code: int) -> errors.TracewatchError:
    """The error for the code of a refusal, of the server's own class if that is known here."""
    kind = _RAISED.get(code)
    if kind is not None:
        return kind(message or code)
    if close_code == 4501:
        return unauthorized(message)
    return errors.WatchError(message or f"the server closed the watch with {close_code}")


def refused(error: ApiError) -> errors.TracewatchError:
    """The error of a refusal over HTTP, of the server's own class if that is known here."""
    kind = _RAISED.get(error.code)
    return error if kind is None else kind(error.message)


def _place(cursor: str) -> tuple[str | None, int]:
    """The epoch and event_id of a cursor from the server."""
    try:
        return parse_cursor(cursor)
    except errors.InvalidCursor as error:
        raise errors.ProtocolViolation(f"the server sent {cursor!r} for a cursor") from error


def _fold_message(state: State, event: dict[str, Any]) -> None:
    """Fold the message of an event that a snapshot already has, because snapshots have no messages."""
    if event["event"] == "message_added":
        state.messages[event["message"]["message_id"]] = added_message(event)
    elif event["event"] == "message_updated":
        message = state.messages.get(event["message_id"])
        if message is not None:
            state.messages[event["message_id"]] = updated_message(message, event)
