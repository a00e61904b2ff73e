"""The log: the append-only store and the only order there is, over whatever engine keeps the rows (storage.py).

Rule 1: an append is acknowledged after its transaction has reached the disk, never before.
Rule 2: an answer about a state is of one moment, and says the event_id that it is as of.
Rule 3: listeners are told after the commit. What they are told is a convenience; the log is the truth.
Rule 4: events are validated here, before they wait for their turn, so that every way in has the same gate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

import orjson

from ..errors import Invalid, InvalidField, TooLarge, TracewatchError
from ..model.base import read_base
from ..model.blobs import DEFAULT_TRACE_BYTES
from ..model.canonical import canonical
from ..model.events import validate_event, validate_stored
from .blobs import Blobs
from .cache import StateCache
from .commands import Answer, Cancel, Expire, ExpireInput, Renew
from .counts import LogCounts, LogLook
from .finder import Finder, SearchQuery
from .group import Group
from .health import Health
from .jobs import Append, Create, Delete
from .moves import Rehome
from .prices import Prices, concerned
from .reader import Reader
from .restore import Restore
from .retention import Policy, Pruned, Retention
from .search import SearchIndex
from .storage import Storage
from .tokens import Tokens
from .views import Appended, Grown, Listener, Page, Snapshot, TraceQuery

T = TypeVar("T")


class EventLog:
    """A store of traces and their events. All methods may be called from many tasks of one event loop at once."""

    def __init__(
        self,
        storage: Storage,
        *,
        max_event_bytes: int = 256 * 1024,
        max_batch_events: int = 1000,
        lock_wait_s: float = 10.0,
        max_waiting_bytes: int = 64 * 1024**2,
        max_trace_blob_bytes: int = DEFAULT_TRACE_BYTES,
        prices: Prices | None = None,
        index: SearchIndex | None = None,
    ) -> None:
        self.storage = storage
        self.epoch = storage.epoch
        self.engine_version = storage.engine_version  # of what stores it: SQLite's
        self.health = Health()  # what is wrong with it now
        self.replaced = asyncio.Event()  # set when another file stands in its place: nothing is served any more
        self.stop_watching: Callable[[], Awaitable[None]] | None = None  # ends what looks after the storage
        self._max_event_bytes = max_event_bytes
        self._max_batch_events = max_batch_events
        self._prices = prices or Prices()
        cache = StateCache()
        self.reader = Reader(storage, cache, health=self.health)
        self.group = Group(
            storage, cache, health=self.health, lock_wait_s=lock_wait_s, max_waiting_bytes=max_waiting_bytes
        )
        self.retention = Retention(storage, self.group, self.reader)
        self.tokens = Tokens(storage, self.group, self.reader)
        self.blobs = Blobs(storage, self.group, self.reader, max_trace_bytes=max_trace_blob_bytes)
        self.finder = Finder(index, storage, self.reader)
        self.counts: LogCounts = self.group.counts

    @property
    def waiting(self) -> int:
        """Appends and other jobs of this process that wait for the transaction being written."""
        return self.group.waiting

    # --- writing ---

    async def create_trace(self, spec: dict[str, Any], below: str | None = None) -> tuple[Snapshot, bool]:
        """Create a trace from what ``validate_trace`` returned; False if it was there already with the same fields.

        ``below``: who asks may do so for this trace, and below it, only. What was restored before its parent, and names
        the new trace as that, is below it from now on only where ``below`` is None.

        Raises TraceConflict, UnknownParent, UnknownParentGoal.
        """
        canonical(spec["metadata"])  # refuses here what JSON can't say
        trace_id, created = await self.group.do(Create(spec=spec, below=below))
        return await self.snapshot(trace_id), created

    async def append(
        self,
        trace_id: str,
        events: Sequence[Any],
        *,
        producer: str | None = None,
        seq: int | None = None,
        expected_last_event_id: int | None = None,
        by_server: bool = False,
        parsed: bool = False,
        below: str | None = None,
    ) -> Appended:
        """Append events as recorders send them, all or none; returns once they are on disk.

        ``seq`` is the first event's number by ``producer``, from 1. ``parsed``: the events were read from JSON, so
        nobody has to look for NaN and Infinity in them. Raises the refusals of errors.py, TooLarge,
        UnknownTrace, SequenceGap, UnexpectedLastEventId, Unavailable. ``below``: who asks may see this trace and what
        was recorded below it only, so a trace may be put below those only (``trace_parent_changed``).
        """
        try:
            self._check_count(events)
            if (producer is None) != (seq is None) or (seq is not None and seq < 1):
                raise InvalidField("seq: a producer's events are numbered from 1, and a number needs its producer")
            single = len(events) == 1
            raws = [validate_event(raw, None if single else i, by_server=by_server) for i, raw in enumerate(events)]
            kind: Callable[..., Append] = Append
            if any(raw["event"] == "trace_parent_changed" for raw in raws):
                if not single:
                    raise Invalid("trace_parent_changed stands alone in its append")
                kind = partial(Rehome, below=below)
            answer: Appended = await self.group.do(
                kind(
                    events=len(raws),
                    size=_size(raws),
                    trace_id=trace_id,
                    raws=raws,
                    producer=producer,
                    seq=seq,
                    expected_last_event_id=expected_last_event_id,
                    by_server=by_server,
                    parsed=parsed,
                    max_event_bytes=self._max_event_bytes,
                    prices=self._prices if concerned(raws) else None,
                )
            )
        except TracewatchError as error:
            self.counts.refused[error.code] += 1
            raise
        self.counts.appends += 1
        return answer

    def _check_count(self, events: Sequence[Any]) -> None:
        if not events:
            raise Invalid("the batch is empty")
        if len(events) > self._max_batch_events:
            raise TooLarge(
                f"the batch has {len(events):,} events; the limit is {self._max_batch_events:,}",
                limit=self._max_batch_events,
            )

    async def restore(self, header: dict[str, Any], events: Sequence[Any], below: str | None = None) -> Appended:
        """Put back events as `export` wrote them. Raises TraceConflict where the log has others, Invalid.

        ``header`` is what ``validate_header`` returned. ``below`` is as for ``create_trace``.
        """
        if len(events) > self._max_batch_events:
            self._check_count(events)
        if header.get("base") is not None:
            header = {**header, "base": read_base(header["base"])}
        stored = [validate_stored(raw, i) for i, raw in enumerate(events)]
        for index, event in enumerate(stored):
            if event["trace_id"] != header["trace_id"]:
                raise Invalid(f"{index}.trace_id: is {event['trace_id']!r}, not {header['trace_id']!r} of the header")
        job = Restore(events=len(stored), size=_size(stored), header=header, stored=stored, below=below)
        answer: Appended = await self.group.do(job)
        return answer

    async def delete_trace(self, trace_id: str) -> list[str]:
        """Remove a trace and its sub-traces; returns their ids. Raises UnknownTrace."""
        deleted: list[str] = await self.group.do(Delete(trace_id=trace_id))
        return deleted

    async def renew_lease(self, trace_id: str) -> None:
        """Count the recorder's lease from now; a lost trace is running again. Raises UnknownTrace.

        Looks first: most traces have no lease, and the writer is not troubled for them.
        """
        if not await self.reader.is_renewed_for_nothing(trace_id):
            await self.group.do(Renew(trace_id=trace_id))

    async def expire_leases(self) -> list[str]:
        """Mark as lost what no recorder keeps alive, sub-traces included; returns the ids of those traces.

        Looks first: the writer is not troubled while no lease has run out.
        """
        lost = await self.group.do_all([Expire(trace_id=one) for one in await self.reader.expired_leases()])
        return [trace_id for marked in lost for trace_id in marked]

    async def cancel(self, trace_id: str, *, reason: str | None = None, by: str | None = None) -> str:
        """Ask the recorder to stop: ``"cancelling"``; where there is none any more the trace ends: ``"stopped"``.

        Asking again changes nothing. Raises UnknownTrace, NotRunning.
        """
        status: str = await self.group.do(Cancel(trace_id=trace_id, reason=reason, by=by))
        return status

    async def answer(self, trace_id: str, request_id: str, value: Any, *, by: str | None = None) -> None:
        """Answer a question; the first answer wins. ``value`` is checked by the caller.

        Raises UnknownTrace, NoSuchRequest, AlreadyAnswered, Expired, NotRunning.
        """
        canonical({"value": value})  # refuses here what JSON can't say
        await self.group.do(Answer(trace_id=trace_id, request_id=request_id, value=value, by=by))

    async def expire_inputs(self) -> list[tuple[str, str]]:
        """Close the questions whose time has run out; returns their ``(trace_id, request_id)``.

        Looks first, like expire_leases.
        """
        expired = await self.reader.expired_inputs()
        jobs = [ExpireInput(trace_id=one, request_id=request_id) for one, request_id in expired]
        closed = await self.group.do_all(jobs)
        return [one for one, was_open in zip(expired, closed, strict=True) if was_open]

    async def prune(self, policy: Policy, *, dry_run: bool = False) -> Pruned:
        """Let go what the policy does not keep, sweep up what earlier removals left, and give the space back.

        Appends go on meanwhile, but for ``policy.rewrite``. ``dry_run``: only say what would go.
        """
        return await self.retention.prune(policy, dry_run=dry_run)

    async def tend(self, policy: Policy, every_s: float) -> bool:
        """As prune, unless another process has begun to in the last ``every_s`` seconds: then False."""
        return await self.retention.tend(policy, every_s)

    # --- reading ---

    async def read(self, trace_id: str, after: int, *, max_events: int, max_bytes: int) -> Page:
        """Events after ``after``: at most ``max_events`` and ``max_bytes``, but at least one. Raises UnknownTrace."""
        return await self.reader.read(trace_id, after, max_events=max_events, max_bytes=max_bytes)

    async def trimmed(self, trace_id: str, names: Collection[str]) -> int:
        """The last event with one of these names that was trimmed, or may have been; 0: there is none.

        Raises UnknownTrace.
        """
        return await self.reader.trimmed(trace_id, names)

    async def snapshot(self, trace_id: str, at_event_id: int | None = None) -> Snapshot:
        """The trace now, or as it was after ``at_event_id``.

        Raises UnknownTrace, or Gap if the log does not hold it, or TooMuchWork.
        """
        return await self.reader.snapshot(trace_id, at_event_id)

    async def aside(self, work: Callable[[], T]) -> T:
        """Do what takes long, such as encoding a large state, off the loop, in turn with the reads of its client."""
        return await self.reader.aside(work)

    async def messages(
        self, trace_id: str, *, goal_id: str | None, before: int | None, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """The last ``limit`` messages of a sequence below ``before`` as they now stand, and whether there are more.

        Large ones make it fewer. Raises UnknownTrace, TooMuchWork.
        """
        return await self.reader.messages(trace_id, goal_id=goal_id, before=before, limit=limit)

    async def message(self, trace_id: str, message_id: str) -> tuple[int, dict[str, Any]]:
        """The event_id a message was added with, and the message as it now stands.

        Raises UnknownTrace and NoSuchMessage.
        """
        return await self.reader.message(trace_id, message_id)

    async def prompt(self, trace_id: str, message_id: str) -> bytes:
        """``{event_id, message, prompt}`` as JSON: the message, and all that its model call was asked, put together.

        ``prompt`` is ``{params, tools, input, exact, lost}`` (see ``model/prompt.py``), or null for a message without a
        request. Raises UnknownTrace, NoSuchMessage and TooMuchWork.
        """
        return await self.reader.prompt(trace_id, message_id)

    async def traces(self, query: TraceQuery) -> tuple[list[dict[str, Any]], str | None]:
        """Summaries, newest first, and the ``before`` of the next page or None. Raises TooMuchWork, BadRequest.

        Text that a filter looks for is found by the search index. Long values are previews. The page ends with
        ``query.limit`` or ``query.max_bytes``, whichever comes first.
        """
        return await (self.finder.traces(query) if query.sought else self.reader.traces(query))

    async def search(self, query: SearchQuery) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int | None]:
        """The texts that are found, newest first, the summaries of their traces, and the place to go on before or None.

        A text is ``{trace_id, event_id, kind, label, message_id …, ts, snippet}``; ``snippet`` is plain, found, plain …
        Raises Unavailable while there is no index, TooMuchWork.
        """
        return await self.finder.find(query)

    async def summaries(self, trace_ids: Sequence[str], below: str | None = None) -> list[dict[str, Any]]:
        """Summaries of those of these traces that exist (and are ``below`` or one of its sub-traces)."""
        return await self.reader.summaries(trace_ids, below)

    async def lines(self, trace_ids: Sequence[str]) -> dict[str, tuple[dict[str, Any], frozenset[str]]]:
        """Of those of these traces that exist: the summary, and the ids of the trace itself and of all above it."""
        return await self.reader.lines(trace_ids)

    async def inputs(
        self, limit: int, below: str | None = None, after: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """The open questions of all traces, oldest first, each with ``trace_id``, ``task``, ``agent_type`` …

        With them comes the ``after`` of the next page, or None. ``below``: only those of this trace and its sub-traces.
        Raises InvalidField for an ``after`` that no page gave, TooMuchWork.
        """
        return await self.reader.inputs(limit, below, after)

    async def inputs_of(self, trace_id: str, request_id: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """A trace's questions, oldest first, or the one named: ``{request_id, state, …}``.

        All that are open, and the newest ``limit`` of the others. ``state`` is open (then the question is in it),
        answered (then ``value`` and ``by``), expired or closed. Beyond a megabyte the oldest have these two keys only.
        """
        return await self.reader.inputs_of(trace_id, request_id, limit)

    async def last_seq(self, trace_id: str, producer: str) -> int:
        """The last sequence number stored for a producer of a trace, 0 if none."""
        return await self.reader.last_seq(trace_id, producer)

    async def changes(self, seen: Any = None, traces: Collection[str] | None = None) -> tuple[list[Grown], Any]:
        """What any process has changed since ``seen``, without bodies, and the ``seen`` to go on with. Cheap.

        ``seen``: what the last call returned, and nothing else can be done with it; None: from now on, so nothing is
        told. ``traces``: only these; None: all. What was committed while an earlier call looked is told by a later one.
        """
        return await self.reader.changes(seen, traces)

    async def look(self) -> LogLook:
        """How the log stands now: its size, live traces, leases, open questions. Raises Unavailable."""
        return await self.reader.look()

    def turn(self, name: str) -> AbstractAsyncContextManager[bool]:
        """Keep others that have a turn of this name out, in all processes: for what takes several appends.

        Gives True where nobody had one since this log's last: what was remembered then still holds. Raises Unavailable.

            async with log.turn("otel 7f3a") as nobody_else: ...
        """
        return self.storage.turn(name)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after each commit of this process; the result takes it back."""
        return self.group.listen(listener)

    async def close(self) -> None:
        """Finish what is being written and close the storage."""
        if self.stop_watching is not None:
            await self.stop_watching()
        if self.finder.index is not None:
            await self.finder.index.close()
        await self.blobs.close()
        await self.group.close()
        await self.storage.close()


def _size(events: Sequence[Any]) -> int:
    """Bytes, roughly."""
    try:
        return len(orjson.dumps(events))
    except TypeError:  # what JSON can't say is refused in its turn
        return 1024
