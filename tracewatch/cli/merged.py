"""A trace and its sub-traces as they stand, in one stream: what `tail --children --no-follow` and `export` read.

Rule: events of one trace keep their order; between traces the time of appending decides.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import orjson

from ..client.api import Api
from ..client.errors import ApiError
from .following import Output
from .position import Start
from .sink import Sink


def subtree(api: Api, trace_id: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Summaries of a trace and all below it, depth first in the order they were started, with their depth."""
    waiting = [(trace_id, 0)]
    while waiting:
        this, depth = waiting.pop()
        try:
            found = api.trace(this)
        except ApiError as error:
            if error.status == 404 and depth:
                continue  # a sub-trace that was deleted: its parent's log goes on naming it
            raise
        yield found["trace"], depth
        started = sorted(found["sub_traces"], key=lambda sub: int(sub["started_event_id"]))
        waiting.extend((sub["trace_id"], depth + 1) for sub in reversed(started))


def all_events(api: Api, trace: dict[str, Any], since: str | None = None) -> Iterator[bytes]:
    """The stored bytes of each event the log holds, from the first that it still has."""
    return api.events(trace["trace_id"], since if since is not None else str(trace["first_event_id"] - 1))


def read_merged(api: Api, trace: dict[str, Any], start: Start, sink: Sink, output: Output) -> str:
    """Print the events of a trace and its sub-traces in order of time; returns the trace's status."""

    def parsed(found: dict[str, Any], since: str | None) -> Iterator[tuple[dict[str, Any], bytes]]:
        for body in all_events(api, found, since):
            yield orjson.loads(body), body

    streams = [parsed(found, start.since if depth == 0 else None) for found, depth in subtree(api, trace["trace_id"])]
    for event, body in heapq.merge(*streams, key=lambda pair: str(pair[0]["ts"])):
        sink.take(event, body)
        output.settle_sometimes()
    output.settle()
    return str(trace["status"])
