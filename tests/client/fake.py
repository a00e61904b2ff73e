"""A log in memory that answers by the protocol, for tests of the client without a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from tracewatch.model.canonical import canonical
from tracewatch.model.events import validate_event
from tracewatch.model.frames import control, format_cursor, resolve_since, snapshot_frames, snapshot_values
from tracewatch.model.rules import complete
from tracewatch.model.state import State, apply_into

TS = "2026-11-20T08:00:00.000Z"


class FakeLog:
    """One trace's log: ``append`` as a recorder does, ``frames`` as a watcher is sent them."""

    def __init__(self, trace_id: str = "t", epoch: str = "e", first_event_id: int = 1) -> None:
        self.trace_id = trace_id
        self.epoch = epoch
        self.state = State(trace_id, task="task", root_trace_id=trace_id, created_at=TS, first_event_id=first_event_id)
        self.state.last_event_id = first_event_id - 1
        self.bodies: list[bytes] = []
        self.limit = 512 * 1024  # of a frame

    def append(self, *events: dict[str, Any]) -> None:
        for raw in events:
            stored = complete(self.state, validate_event(raw), event_id=self.state.last_event_id + 1, ts=TS)
            apply_into(self.state, stored)
            self.bodies.append(canonical(stored))

    @property
    def events(self) -> list[dict[str, Any]]:
        return [orjson.loads(body) for body in self.bodies]

    def after(self, event_id: int) -> list[bytes]:
        return self.bodies[event_id - self.state.first_event_id + 1 :]

    def frames(self, query: dict[str, Any], heartbeat_s: float = 15.0, **tag: str) -> Iterator[bytes]:
        """What a watcher is sent until it has caught up; the snapshot is of the moment this is called."""
        last = self.state.last_event_id
        start = resolve_since(
            query["since_event_id"],
            epoch=self.epoch,
            first_event_id=self.state.first_event_id,
            last_event_id=last,
        )
        cursor = format_cursor(self.epoch, start.after)
        values = {**tag, **snapshot_values(self.state, lease_alive=True), "cursor": cursor, "epoch": self.epoch}
        frame = {"event": "connected", **values, "protocol": 1, "heartbeat_s": heartbeat_s}
        yield from snapshot_frames(frame, self.limit)
        if start.gap:
            facts = {"requested": query["since_event_id"], "resume_event_id": start.after}
            yield control("gap", **tag, reason=start.gap, first_event_id=1, current_event_id=last, **facts)
            yield from snapshot_frames({"event": "snapshot", **values}, self.limit)
        sent = 0
        for body in self.after(start.after):
            sent += 1
            yield body
        yield self.caught_up(sent, **tag)
        if query.get("until") and self.state.ended:
            yield control("end", **tag, status=self.state.status, last_event_id=self.state.last_event_id)

    def caught_up(self, replayed: int, **tag: str) -> bytes:
        last = self.state.last_event_id
        cursor = format_cursor(self.epoch, last)
        return control("caught_up", **tag, current_event_id=last, cursor=cursor, replayed=replayed)


def busy_log(rounds: int = 3, **options: Any) -> FakeLog:
    """A log with goals, streamed messages and tool calls: six events a round."""
    log = FakeLog(**options)
    for n in range(rounds):
        log.append(
            {"event": "goal_added", "goal": {"id": f"g{n}", "description": "a goal", "status": "in_progress"}},
            {"event": "message_added", "message": {"message_id": f"a{n}", "role": "assistant", "content": "It "}},
            {"event": "message_updated", "message_id": f"a{n}", "append": "is", "patch": {"tokens": 3}},
            {"event": "thought", "text": "hm"},
            {"event": "message_updated", "message_id": f"a{n}", "patch": {"status": "complete"}},
            {"event": "goal_updated", "goal_id": f"g{n}", "patch": {"status": "completed"}},
        )
    return log
