"""The live list of traces: who has changed, at most ten times a second each, the latest state wins.

Rule 1: a change is only noted; the summary is read when it is sent, so that nothing is queued however fast traces
        change.
Rule 2: of what the client has seen only the newest MOST_KNOWN are remembered. What was forgotten may be told again,
        also a change that does not match the filter: the client is told too much rather than too little.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from ..errors import Unavailable
from ..log import EventLog, Grown, TraceQuery
from .hub import Hub

INTERVAL_S = 0.1  # protocol, section 4: at most 10 a second per trace
MOST_KNOWN = 1000  # traces
RETRY_S = 0.5  # until a log that could not be read is asked again


class ListWatch:
    """One client's live list. ``run`` is its life."""

    def __init__(
        self, log: EventLog, hub: Hub, query: TraceQuery, send: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        self._log = log
        self._hub = hub
        self._query = query
        self._send = send
        self._changed: dict[str, bool] = {}  # trace_id: whether it was deleted
        self._wake = asyncio.Event()
        # What the client has seen, as hashes: it is told also when one leaves the filter, and nothing twice
        self._shown: OrderedDict[str, int] = OrderedDict()
        self._forgot = False  # whether it has seen others too

    def _note(self, grown: Sequence[Grown]) -> None:
        for one in grown:
            self._changed[one.trace_id] = one.deleted
        self._wake.set()

    async def run(self) -> None:
        """Send ``traces``, then ``trace_changed`` and ``trace_deleted`` until cancelled."""
        unlisten = self._hub.on_growth(self._note)
        try:
            traces = await self._first()
            for trace in reversed(traces):
                self._is_news(trace)
            await self._send({"event": "traces", "traces": traces})
            while True:
                await self._wake.wait()
                self._wake.clear()
                changed, self._changed = self._changed, {}
                try:
                    await self._send_changes(changed)
                except Unavailable:
                    self._changed = {**changed, **self._changed}  # told later; what came meanwhile is newer
                    self._wake.set()
                    await asyncio.sleep(RETRY_S)
                await asyncio.sleep(INTERVAL_S)
        finally:
            unlisten()

    async def _first(self) -> list[dict[str, Any]]:
        while True:
            try:
                return (await self._log.traces(self._query))[0]
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    async def _send_changes(self, changed: dict[str, bool]) -> None:
        for trace_id, deleted in changed.items():
            # One that was forgotten might be one that this client may not know of
            told = self._forgot and not self._query.below
            if deleted and (self._shown.pop(trace_id, None) is not None or told):
                await self._send({"event": "trace_deleted", "trace_id": trace_id})
        alive = [trace_id for trace_id, deleted in changed.items() if not deleted]
        for trace in await self._log.summaries(alive, self._query.below):
            known = trace["trace_id"] in self._shown or self._forgot
            if (known or self._matches(trace)) and self._is_news(trace):
                await self._send({"event": "trace_changed", "trace": trace})

    def _is_news(self, trace: dict[str, Any]) -> bool:
        """Whether the client has not seen the trace like this; from now on it has."""
        trace_id, now = trace["trace_id"], hash(orjson.dumps(trace))
        news = self._shown.get(trace_id) != now
        self._shown[trace_id] = now
        self._shown.move_to_end(trace_id)
        if len(self._shown) > MOST_KNOWN:
            self._shown.popitem(last=False)
            self._forgot = True
        return news

    def _matches(self, trace: dict[str, Any]) -> bool:
        query = self._query
        if query.status and trace["status"] not in query.status:
            return False
        if query.q:
            needle = query.q.lower()
            return any(needle in trace[key].lower() for key in ("task", "trace_id", "agent_type"))
        return True
