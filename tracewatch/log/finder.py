"""Finding: what an index says, checked against the log, and only what may be seen of it.

Rule 1: the index is a hint. What it finds counts only while the log still has it: the same trace, and not trimmed.
Rule 2: whoever may see one trace only is shown what is in it, and the index is asked for nothing else.
Rule 3: a search that takes too long gives what it has found, and the place to go on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from ..errors import TooMuchWork, Unavailable
from ..model.terms import Term, positive, snippet_of
from .patience import Patience, TooLong
from .reader import Reader
from .row import TraceRow
from .search import Found, SearchIndex, SearchProgress
from .storage import Closing, Storage, StorageFault
from .views import TraceQuery

MOST_ROUNDS = 50  # in which traces that don't pass the filters are passed over
MOST_KEYS = 1000  # traces that have a text: beyond that they are many
NARROW = "ask for a longer or rarer word, or in one trace"
EVERY = TraceQuery()
OFF = SearchProgress("off", 0, 0, "this log has no search index")


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What to look for, newest first.

    ``terms``: at least one that is not negative. ``traces``: the filters that a trace has to pass; its ``below`` is
    what may be seen. ``within``: only in this trace and its sub-traces. ``per_trace``: texts of one trace, at most.
    ``before``: only behind this place.
    """

    terms: tuple[Term, ...]
    traces: TraceQuery = EVERY
    within: str | None = None
    limit: int = 20
    per_trace: int = 5
    before: int | None = None


class Finder:
    """Search over a log."""

    def __init__(self, index: SearchIndex | None, storage: Storage, reader: Reader) -> None:
        self.index = index
        self._storage = storage
        self._reader = reader

    async def progress(self) -> SearchProgress:
        """How far the log has been read for search."""
        return OFF if self.index is None else await self.index.progress()

    async def find(self, query: SearchQuery) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int | None]:
        """See EventLog.search."""
        index, patience = self._there(), Patience()
        async with self._reader.reading("", NARROW):
            keys = await self._keys(query)
        hits: list[dict[str, Any]] = []
        rows: dict[str, TraceRow] = {}
        place = query.before
        for _ in range(MOST_ROUNDS):
            room = query.limit - len(hits)
            try:
                async with _asking():
                    found, place = await index.find(
                        query.terms, before=place, traces=keys, limit=room, per_trace=query.per_trace, patience=patience
                    )
            except TooMuchWork:
                if not hits:
                    raise
                break
            async with self._reader.reading("", NARROW):
                hits += await self._checked(query, found, rows)
            if place is None or len(hits) >= query.limit:
                break
        steady = self._storage.steady()
        told = dict.fromkeys(hit["trace_id"] for hit in hits)
        return hits, [rows[trace_id].trace(steady) for trace_id in told], place

    async def traces(self, query: TraceQuery) -> tuple[list[dict[str, Any]], str | None]:
        """As EventLog.traces, of a query that looks for text.

        Where few traces have the text, they are looked up; where many do, the list is read in its order.
        """
        index, patience = self._there(), Patience()
        rest = replace(query, sought=())
        if positive(query.sought):
            async with _asking():
                keys = await index.traces_with(query.sought, MOST_KEYS, patience)
            if keys is not None and len(positive(query.sought)) == len(query.sought):
                return await self._reader.traces(rest, keys)
        else:
            keys = None
        found: list[dict[str, Any]] = []
        before = query.before
        for _ in range(MOST_ROUNDS):
            asked = replace(rest, limit=query.limit - len(found), before=before)
            traces, before = await self._reader.traces(asked, keys)
            async with _asking():
                passing = await index.among(query.sought, [trace["trace_id"] for trace in traces], patience)
            found += [trace for trace in traces if trace["trace_id"] in passing]
            if before is None or len(found) >= query.limit:
                break
        return found, before

    def _there(self) -> SearchIndex:
        if self.index is None:
            raise Unavailable(OFF.trouble, retry_after_s=60)
        return self.index

    async def _keys(self, query: SearchQuery) -> list[int] | None:
        """The keys of the traces in which to look; None: in all."""
        keys: list[int] | None = None
        for trace_id, covered in ((query.traces.below, True), (query.within, False)):
            if trace_id is not None:
                found = await self._storage.keys_below(trace_id, covered=covered)
                keys = found if keys is None else [key for key in keys if key in set(found)]
        return keys

    async def _checked(
        self, query: SearchQuery, found: Sequence[Found], rows: dict[str, TraceRow]
    ) -> list[dict[str, Any]]:
        new = {one.trace_id for one in found} - rows.keys()
        rows.update({row.trace_id: row for row in await self._storage.rows(new)} if new else {})
        steady = self._storage.steady()
        there = {one.trace_id for one in found} & rows.keys()
        passes = {name: query.traces.fits(rows[name].trace(steady)) for name in there}
        hits: list[dict[str, Any]] = []
        for one in found:
            row = rows.get(one.trace_id)
            if row is None or row.trace_key != one.trace_key or not passes[one.trace_id]:
                continue
            if 0 < one.event_id < row.first_event_id:
                continue
            hits.append(_hit(one, query.terms))
        return hits


@asynccontextmanager
async def _asking() -> AsyncIterator[None]:
    """What the index can't do is told as an error of ours. It is no trouble of the log's."""
    try:
        yield
    except TooLong as error:
        raise TooMuchWork(f"this takes too long to find; {NARROW}", retry_after_s=1) from error
    except (StorageFault, Closing) as error:
        why = error.fault.text if isinstance(error, StorageFault) else "the log is closing"
        raise Unavailable(f"search can't be used now: {why}", retry_after_s=5) from error


def _hit(found: Found, terms: Sequence[Term]) -> dict[str, Any]:
    hit: dict[str, Any] = {"trace_id": found.trace_id, "event_id": found.event_id, "kind": found.kind}
    if found.label:
        hit["label"] = found.label
    name = {"message": "message_id", "goal": "goal_id", "step": "step_id"}.get(found.kind, "request_id")
    if found.name:
        hit[name] = found.name
    return {**hit, "ts": found.at, "snippet": snippet_of(found.text, terms)}
