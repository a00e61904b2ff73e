"""The live list of traces: who has changed, at most ten times a second each, the latest state wins.

Rule: a change is only noted; the summary is read when it is sent, so that nothing is queued however fast traces change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..errors import Unavailable
from ..log import EventLog, Grown, TraceQuery
from .hub import Hub

INTERVAL_S = 0.1  # protocol, section 4: at most 10 a second per trace
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
        # What the client has seen, by trace_id: it is told also when one leaves the filter, and nothing twice
        self._shown: dict[str, dict[str, Any]] = {}

    def _note(self, grown: Sequence[Grown]) -> None:
        for one in grown:
            self._changed[one.trace_id] = one.deleted
        self._wake.set()

    async def run(self) -> None:
        """Send ``traces``, then ``trace_changed`` and ``trace_deleted`` until cancelled."""
        unlisten = self._hub.on_growth(self._note)
        try:
            traces = await self._first()
            self._shown.update((trace["trace_id"], trace) for trace in traces)
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
            if deleted and self._shown.pop(trace_id, None) is not None:
                await self._send({"event": "trace_deleted", "trace_id": trace_id})
        alive = [trace_id for trace_id, deleted in changed.items() if not deleted]
        for trace in await self._log.summaries(alive, self._query.below):
            seen = self._shown.get(trace["trace_id"])
            if trace != seen and (seen is not None or self._matches(trace)):
                self._shown[trace["trace_id"]] = trace
                await self._send({"event": "trace_changed", "trace": trace})

    def _matches(self, trace: dict[str, Any]) -> bool:
        query = self._query
        if query.status and trace["status"] not in query.status:
            return False
        if query.q:
            needle = query.q.lower()
            return any(needle in trace[key].lower() for key in ("task", "trace_id", "agent_type"))
        return True
