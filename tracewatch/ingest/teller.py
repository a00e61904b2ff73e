"""The teller of Puts to the log of this process: what cli/courier.py does over HTTP, for what a server is told itself.

Rule 1: what the log has is the only table. A ledger is read from the trace's events, caught up before each time, and an
        append names the event that it builds on. Where another writer was faster all is read anew.
Rule 2: what the log refuses is mended as for any recorder, or kept as ``ingest_refused``.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ..errors import TraceConflict, TracewatchError, Unavailable, UnexpectedLastEventId, UnknownTrace
from ..importers import Put
from ..importers.ledger import Ledger
from ..log import EventLog
from ..model.contents import reference
from .store import LogStore
from .writing import IngestCounts, portions, put_right

MOST_LEDGERS = 500
TRIES = 20  # of what others write to as well


class Teller:
    """Writes what is new of Puts. One task at a time may tell of a trace: the caller sees to that."""

    def __init__(self, log: EventLog, counts: IngestCounts, source: str) -> None:
        """``source``: whose Puts they are, for what is counted."""
        self._log = log
        self._store = LogStore(log)
        self._counts = counts
        self._source = source
        self._ledgers: OrderedDict[str, Ledger] = OrderedDict()
        self._contents: dict[str, list[tuple[bytes, str]]] = {}

    async def tell(self, puts: Sequence[Put], *, lease_s: float | None = None) -> int:
        """Write what the log does not have of ``puts``; the number of events. Returns when they are on disk.

        ``lease_s``: of a trace without a parent that is created for it. Raises Unavailable.
        """
        by_trace: dict[str, list[Put]] = {}
        for put in puts:
            by_trace.setdefault(put.trace_id, []).append(put)
        written = 0
        for trace_id, some in by_trace.items():
            for _ in range(TRIES):
                done = await self._told(trace_id, some, lease_s)
                if done is not None:
                    written += done
                    break
                self._ledgers.pop(trace_id, None)
            else:
                raise Unavailable("others write to the same trace all the time; try again", retry_after_s=1)
        self._counts.note(self._source, "event", written)
        return written

    async def _told(self, trace_id: str, puts: list[Put], lease_s: float | None) -> int | None:
        """Write to one trace; None: the log is another than was believed."""
        try:
            ledger = await self._ledger(trace_id)
            events: list[dict[str, Any]] = []
            for put in puts:
                spec = ledger.creates(put)
                if spec is not None:
                    if not await self._create(ledger, spec, lease_s):
                        return None
                elif ledger.spec is not None:
                    events += ledger.plan(put)
            written = 0
            for some in portions(events):
                written += len(some)
                if not await self._append(ledger, some):
                    return None
            return written
        except BaseException:
            self._ledgers.pop(trace_id, None)  # what was planned and not written is not known
            raise

    async def _ledger(self, trace_id: str) -> Ledger:
        ledger = self._ledgers.pop(trace_id, None)
        if ledger is None:
            ledger = Ledger(trace_id)
            found = await self._log.summaries([trace_id])
            if found:
                ledger.spec = (await self._log.snapshot(trace_id)).state.trace()
        if ledger.spec is not None:
            async for event_id, event in self._store.events(trace_id, ledger.last_event_id):
                ledger.absorb(event)
                ledger.last_event_id = event_id
        self._contents[trace_id] = []
        ledger.keep = self._keeping(trace_id)
        self._ledgers[trace_id] = ledger
        while len(self._ledgers) > MOST_LEDGERS:
            gone, _ = self._ledgers.popitem(last=False)
            self._contents.pop(gone, None)
        return ledger

    def _keeping(self, trace_id: str) -> Any:
        def keep(data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any]:
            self._contents[trace_id].append((data, media_type))
            return reference(data, media_type, preview, **more)

        return keep

    async def _create(self, ledger: Ledger, spec: dict[str, Any], lease_s: float | None) -> bool:
        if lease_s is not None and "parent_trace_id" not in spec:
            spec = spec | {"lease_s": lease_s}
        try:
            created, last_event_id = await self._store.create(spec)
        except TraceConflict:
            return False  # another writer was faster
        except Unavailable:
            raise
        except TracewatchError as error:
            if "parent_goal_id" in spec:  # it was refused
                return await self._create(ledger, {k: v for k, v in spec.items() if k != "parent_goal_id"}, lease_s)
            if "parent_trace_id" not in spec:
                raise Unavailable(f"the trace could not be created: {error.message}", retry_after_s=1) from error
            return await self._create(ledger, {k: v for k, v in spec.items() if k != "parent_trace_id"}, lease_s)
        ledger.last_event_id = last_event_id
        return created

    async def _append(self, ledger: Ledger, events: list[dict[str, Any]]) -> bool:
        await self._store_contents(ledger.trace_id)
        for _ in range(2 * len(events) + TRIES):
            try:
                ledger.last_event_id = await self._store.append(ledger.trace_id, events, ledger.last_event_id)
                return True
            except (UnexpectedLastEventId, UnknownTrace):
                return False
            except Unavailable:
                raise
            except TracewatchError as error:
                events = put_right(events, error, self._counts, self._source)
        raise Unavailable("this trace can't be written now; try again", retry_after_s=1)

    async def _store_contents(self, trace_id: str) -> None:
        contents, self._contents[trace_id] = self._contents.get(trace_id, []), []
        for data, media_type in contents:

            async def whole(data: bytes = data) -> AsyncIterator[bytes]:
                yield data

            sha256 = hashlib.sha256(data).hexdigest()
            try:
                await self._log.blobs.put(trace_id, sha256, whole(), media_type=media_type, size=len(data))
            except Unavailable:
                raise
            except TracewatchError:
                self._counts.note(self._source, "refused")  # its event is mended: only what it was is told
