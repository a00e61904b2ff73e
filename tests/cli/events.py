"""Stored events made by the model itself, for tests that need no server."""

from __future__ import annotations

from typing import Any

import orjson

from tracewatch.model.canonical import canonical
from tracewatch.model.events import validate_event
from tracewatch.model.rules import complete
from tracewatch.model.state import State, apply_into

EPOCH_S = "2026-11-20T08:00:00.000Z"


def stored(trace_id: str, *given: dict[str, Any], task: str = "Fix it") -> list[tuple[dict[str, Any], bytes]]:
    """The events as the log would store them, with their bytes. One second apart."""
    state, done = State(trace_id, task=task, root_trace_id=trace_id, created_at=EPOCH_S), []
    for number, raw in enumerate(given):
        ts = f"2026-11-20T08:00:{number:02d}.000Z"
        event = complete(state, validate_event(raw, by_server=True), event_id=number + 1, ts=ts)
        body = canonical(event)
        event = orjson.loads(body)
        apply_into(state, event)
        done.append((event, body))
    return done
