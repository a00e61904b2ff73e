"""A trace and its sub-traces as they stand, in one stream: what `tail --children --no-follow` prints.

Rule: events of one trace keep their order; between traces the time of appending decides.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import orjson

from ..client.api import Api
from .following import Output
from .position import Start
from .resolve import all_events, subtree
from .sink import EventWriter


def read_merged(api: Api, trace: dict[str, Any], start: Start, sink: EventWriter, output: Output) -> str:
    """Print the events of a trace and its sub-traces in order of time; returns the trace's status."""

    def parsed(found: dict[str, Any], since: str | None) -> Iterator[tuple[dict[str, Any], bytes]]:
        for body in all_events(api, found, since):
            yield orjson.loads(body), body

    streams = [parsed(found, start.since if depth == 0 else None) for found, depth in subtree(api, trace["trace_id"])]
    for event, body in heapq.merge(*streams, key=lambda pair: str(pair[0]["ts"])):
        sink.take(event, body)
        output.settle_sometimes()
    sink.finish()
    output.settle()
    return str(trace["status"])
