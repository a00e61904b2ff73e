"""Reading: pages, states, messages, questions and lists, as the rooms above ask for them.

Rule 1: what one call answers is of one moment, with the event_id it is as of.
Rule 2: a read that fails says so in the log's health, and a read that works says that it is over.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Generator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import orjson

from ..errors import (
    BadRequest,
    Gap,
    InvalidField,
    NoSuchMessage,
    TooMuchWork,
    TracewatchError,
    Unavailable,
    UnknownTrace,
)
from ..model.contents import references_in, replaced, restored
from ..model.preview import ELLIPSIS
from ..model.prompt import MOST_BYTES, Prompt, TooMuch, assemble
from ..model.state import State
from .cache import BadSnapshot, Cached, StateCache, as_in_row, at_first, unfold
from .counts import LogLook
from .health import NO_JSON, Health
from .patience import Patience, TooLong
from .project import message_of
from .row import DAMAGED, TraceRow, object_of
from .storage import Closing, Gathering, Head, OpenInput, StateParts, Storage, StorageFault, TraceInput, View, said
from .views import Grown, ListPlace, Page, Snapshot, TraceQuery, place_of

logger = logging.getLogger("tracewatch.log")
T = TypeVar("T")
UNFOLDED_BYTES = 256 * 1024  # of a state's parts, made a state on the loop in some milliseconds; more is done aside
# The token of a page of questions: the time, the trace's key and the event of its last one
PLACE = re.compile(r"[0-9TZ:.-]{1,40}_[0-9]{1,18}_[0-9]{1,18}", re.ASCII)
NARROW_LIST = "ask for a longer or rarer text (q), one status or agent_type, or fewer with limit"
NARROW_STATE = "ask for an event nearer behind a multiple of 500, where a state is kept, or for the newest state"
NARROW_MESSAGES = "ask for fewer with limit, or without goal_id"
NARROW_PROMPT = "it names too many earlier calls"
MOST_DAMAGED = 100  # traces whose damage is remembered; the check of everything finds what else there is


def _unknown(trace_id: str) -> UnknownTrace:
    return UnknownTrace(f"there is no trace {trace_id!r}", trace_id=trace_id)


def _no_message(trace_id: str, message_id: str) -> NoSuchMessage:
    return NoSuchMessage(f"there is no message {message_id[:200]!r} in this trace", trace_id=trace_id)


def _whole(message: dict[str, Any], room: list[int]) -> Generator[str, bytes | None, dict[str, Any]]:
    """The message with all that stands beside the log. ``room``: how many bytes that may be, together."""
    contents: dict[str, bytes | None] = {}
    for ref in references_in(message):
        room[0] -= ref["bytes"]
        if room[0] < 0:
            raise TooMuch("too large")
        if ref["blob"] not in contents:
            contents[ref["blob"]] = yield ref["blob"]

    def instead(ref: dict[str, Any]) -> Any:
        data = contents[ref["blob"]]
        return ref if data is None else restored(ref, data)

    whole: dict[str, Any] = replaced(message, instead) if contents else message
    return whole


class Reader:
    """What can be read of a log."""

    def __init__(self, storage: Storage, cache: StateCache, *, health: Health) -> None:
        self._storage = storage
        self._cache = cache
        self._health = health
        self.damaged: set[str] = set()  # the traces in which damage was found

    @asynccontextmanager
    async def reading(self, trace_id: str = "", narrow: str = "") -> AsyncIterator[Storage]:
        """The storage, its failures told as errors of the log. ``narrow``: how to ask for less."""
        try:
            yield self._storage
        except Closing as error:
            raise Unavailable("the log is closing", retry_after_s=1) from error
        except (StorageFault, orjson.JSONDecodeError) as error:
            fault = error.fault if isinstance(error, StorageFault) else NO_JSON
            if fault.code == "damaged" and trace_id and len(self.damaged) < MOST_DAMAGED:
                self.damaged.add(trace_id)
            raise self._health.note_fault(fault, "read") from error
        except TooLong as error:
            raise TooMuchWork(f"this takes too long to read; {narrow}", retry_after_s=1) from error
        except TracewatchError:
            raise
        except Exception as error:
            logger.error("a defect in tracewatch failed a read%s", said(error), exc_info=error)
            raise TracewatchError("an internal error: nothing was read") from error
        self._health.clear("read")

    # --- one trace ---

    async def read(self, trace_id: str, after: int, *, max_events: int, max_bytes: int) -> Page:
        """See EventLog.read."""
        async with self.reading(trace_id) as storage:
            page = await storage.page(trace_id, after, max_events, max_bytes)
        if page is None:
            raise _unknown(trace_id)
        return page

    async def snapshot(self, trace_id: str, at_event_id: int | None = None) -> Snapshot:
        """See EventLog.snapshot."""
        async with self.reading(trace_id, NARROW_STATE) as storage:
            if at_event_id is not None:
                state, view = await self._at(trace_id, at_event_id, Patience())
            else:
                state, view = await self._newest(trace_id)
                if state.sub_traces:
                    state = _with_live_sub_traces(state, view.subs)
            alive = view.row.lease_alive(storage.steady())
        return Snapshot(state, alive, view.row.trace_key)

    async def _newest(self, trace_id: str) -> tuple[State, View]:
        known = self._cache.find(trace_id)
        skip: set[int] = set()
        while True:
            view = await self._view(trace_id, known.head if known else None, None, subs=True, skip=skip)
            row, parts = view.row, view.parts
            if parts is None:
                assert known is not None
                first = max(known.state.first_event_id, row.first_event_id)
                return at_first(as_in_row(known.state, row), first), view
            same = known is not None and known.trace_key == row.trace_key
            try:
                known = await self._unfold(row, parts, known.state if known is not None and same else None)
            except BadSnapshot as bad:
                skip.add(bad.event_id)
                continue
            if known.state.last_event_id >= row.last_event_id:
                self._cache.put(known)
                return known.state, view

    async def _unfold(self, row: TraceRow, parts: StateParts, known: State | None) -> Cached:
        """As ``unfold``. What takes long is done off the loop."""
        if len(parts.snapshot or b"") + sum(map(len, parts.events)) < UNFOLDED_BYTES:
            small = Cached(row.trace_key, unfold(row, parts, known), log_bytes=row.log_bytes)
            if known is None:
                small.guess(parts)
            return small
        own = None if known is None else known.copy()  # copying a state may change its form: not while others read it

        def unfolded() -> Cached:
            made = Cached(row.trace_key, unfold(row, parts, own), log_bytes=row.log_bytes)
            made.weigh(None)
            return made

        return await self._storage.aside(unfolded)

    async def aside(self, work: Callable[[], T]) -> T:
        """See EventLog.aside."""
        async with self.reading() as storage:
            return await storage.aside(work)

    async def _at(self, trace_id: str, at_event_id: int, patience: Patience) -> tuple[State, View]:
        state: State | None = None
        head: Head | None = None
        skip: set[int] = set()
        while True:
            view = await self._view(trace_id, head, at_event_id, subs=False, skip=skip)
            _check_held(view.row, at_event_id)
            assert view.parts is not None
            try:
                state = await self._storage.aside(_patiently(patience, partial(unfold, view.row, view.parts, state)))
            except BadSnapshot as bad:
                skip.add(bad.event_id)
                continue
            head = Head(view.row.trace_key, state.last_event_id)
            if state.last_event_id >= at_event_id:
                return state, view

    async def _view(
        self, trace_id: str, known: Head | None, upto: int | None, *, subs: bool, skip: Collection[int]
    ) -> View:
        view = await self._storage.view(trace_id, known, upto, subs=subs, skip=skip)
        if view is None:
            raise _unknown(trace_id)
        return view

    async def messages(
        self, trace_id: str, *, goal_id: str | None, before: int | None, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """See EventLog.messages."""
        async with self.reading(trace_id, NARROW_MESSAGES) as storage:
            found = await storage.messages(trace_id, goal_id, before, limit, Patience())
            if found is None:
                raise _unknown(trace_id)
            stored, more = found
            messages = [message_of(one) for one in reversed(stored)]
        return messages, more

    async def message(self, trace_id: str, message_id: str) -> tuple[int, dict[str, Any]]:
        """See EventLog.message."""
        async with self.reading(trace_id) as storage:
            found = await storage.message(trace_id, message_id)
            if found is None:
                raise _unknown(trace_id)
            if not found:
                raise _no_message(trace_id, message_id)
            return found[0].event_id, message_of(found[0])

    async def prompt(self, trace_id: str, message_id: str) -> bytes:
        """See EventLog.prompt."""

        def gathering() -> Gathering[bytes]:
            found = yield [message_id]
            if not found:
                return b""
            message = message_of(found[0])
            room = [MOST_BYTES]
            work = assemble((yield from _whole(message, room)))
            prompt: Prompt | None = None
            try:
                wanted = next(work)
                while True:
                    named = yield wanted
                    messages = {one.message_id: message_of(one) for one in named}
                    for name, one in messages.items():
                        messages[name] = yield from _whole(one, room)
                    wanted = work.send(messages)
            except StopIteration as over:
                prompt = over.value
            shown = None if prompt is None else prompt.to_json()
            return orjson.dumps({"event_id": found[0].event_id, "message": message, "prompt": shown})

        async with self.reading(trace_id, NARROW_PROMPT) as storage:
            try:
                body = await storage.gather(trace_id, gathering, Patience())
            except TooMuch as error:
                raise TooMuchWork(f"this prompt can't be put together: {error}", retry_after_s=1) from error
        if body is None:
            raise _unknown(trace_id)
        if not body:
            raise _no_message(trace_id, message_id)
        return body

    async def trimmed(self, trace_id: str, names: Collection[str]) -> int:
        """See EventLog.trimmed."""
        async with self.reading() as storage:
            last = await storage.trimmed(trace_id, names)
        if last is None:
            raise _unknown(trace_id)
        return last

    async def last_seq(self, trace_id: str, producer: str) -> int:
        """See EventLog.last_seq."""
        async with self.reading() as storage:
            return await storage.last_seq(trace_id, producer)

    # --- many traces ---

    async def traces(
        self, query: TraceQuery, keys: Collection[int] | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """See EventLog.traces. ``keys``: only of these traces."""
        place = None if query.before is None else place_of(query.before)
        if query.before is not None and place is None:
            raise BadRequest(f"page_token: {query.before[:40]!r} is not one this server gave")
        if place is not None and place.order not in ("", query.order):
            message = f"{query.before!r} is of a list by {place.order}, not by {query.order}"
            raise InvalidField(f"page_token: {message}", details=[{"path": "page_token", "message": message}])
        async with self.reading(narrow=NARROW_LIST) as storage:
            rows, more = await storage.list_traces(query, Patience(), keys)
            steady = storage.steady()
            before = _place(query, rows[-1]) if rows and more else None
            return [row.trace(steady) for row in rows], before

    async def summaries(self, trace_ids: Sequence[str], below: str | None = None) -> list[dict[str, Any]]:
        """See EventLog.summaries."""
        async with self.reading() as storage:
            steady = storage.steady()
            return [row.trace(steady) for row in await storage.rows(trace_ids, below)]

    async def lines(self, trace_ids: Sequence[str]) -> dict[str, tuple[dict[str, Any], frozenset[str]]]:
        """See EventLog.lines."""
        async with self.reading() as storage:
            steady, rows = storage.steady(), {row.trace_id: row for row in await storage.lines(trace_ids)}
        return {one: (rows[one].trace(steady), _line(rows, one)) for one in trace_ids if one in rows}

    async def inputs(
        self, limit: int, below: str | None = None, after: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """See EventLog.inputs."""
        if after is not None and not PLACE.fullmatch(after):
            raise InvalidField(f"page_token: {after[:40]!r} is not one this server gave")
        async with self.reading(narrow="ask for fewer with limit") as storage:
            found, more = await storage.open_inputs(limit, below, after, Patience())
            return [_open_question(one) for one in found], more

    async def inputs_of(self, trace_id: str, request_id: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """See EventLog.inputs_of."""
        async with self.reading() as storage:
            return [_question(one) for one in await storage.inputs_of(trace_id, request_id, limit)]

    async def is_renewed_for_nothing(self, trace_id: str) -> bool:
        """Whether it changes nothing that a recorder shows up: there is no lease, and the trace is not lost."""
        async with self.reading() as storage:
            return any(row.lease_s is None and row.status != "lost" for row in await storage.rows([trace_id]))

    async def expired_leases(self) -> list[str]:
        """The running traces whose lease has run out."""
        async with self.reading() as storage:
            return await storage.expired_leases()

    async def expired_inputs(self) -> list[tuple[str, str]]:
        """``(trace_id, request_id)`` of the open questions whose time has run out."""
        async with self.reading() as storage:
            return await storage.expired_inputs()

    async def look(self) -> LogLook:
        """See EventLog.look."""
        async with self.reading() as storage:
            return await storage.look()

    async def changes(self, seen: Any = None, traces: Collection[str] | None = None) -> tuple[list[Grown], Any]:
        """See EventLog.changes."""
        async with self.reading() as storage:
            return await storage.changes(seen, traces)

    # --- damage ---

    async def check(self) -> None:
        """Read everything where damage was found, and have the storage check everything. Raises Damaged."""
        async with self.reading() as storage:
            await storage.verify()
        for trace_id in sorted(self.damaged):
            with suppress(UnknownTrace):
                await self._read_all(trace_id)
            self.damaged.discard(trace_id)

    async def _read_all(self, trace_id: str) -> None:
        after = (await self.read(trace_id, 0, max_events=1, max_bytes=1)).first_event_id - 1
        while (page := await self.read(trace_id, after, max_events=500, max_bytes=1 << 20)).bodies:
            async with self.reading(trace_id):
                for body in page.bodies:
                    orjson.loads(body)
            after = page.upto
        await self.messages(trace_id, goal_id=None, before=None, limit=1000)
        await self.snapshot(trace_id)


def _place(query: TraceQuery, row: TraceRow) -> str | None:
    """The token of the page behind a row; None where its time is damaged, with which the list ends."""
    if query.order == "created":
        return str(ListPlace("created", "", row.trace_key))
    times = (row.active_at,) if query.order == "activity" else (row.started_at, row.created_at)
    at = min(time if isinstance(time, str) else "9" if isinstance(time, bytes) else "" for time in times)
    token = str(ListPlace(query.order, at, row.trace_key))
    return token if at and place_of(token) else None


def _line(rows: dict[str, TraceRow], trace_id: str | None) -> frozenset[str]:
    """The trace and all that cover it, which a token of one trace goes by."""
    ids: set[str] = set()
    keys = {row.trace_key: name for name, row in rows.items()}
    while trace_id is not None and trace_id not in ids:
        ids.add(trace_id)
        row = rows.get(trace_id)
        trace_id = None if row is None else keys.get(row.cover_key or 0) if row.moved else row.above
    return frozenset(ids)


def _patiently(patience: Patience, work: Callable[[], T]) -> Callable[[], T]:
    def counted() -> T:
        with patience.spending():
            return work()

    return counted


def _check_held(row: TraceRow, at_event_id: int) -> None:
    if not row.first_event_id - 1 <= at_event_id <= row.last_event_id:
        reason = "ahead" if at_event_id > row.last_event_id else "trimmed"
        raise Gap(
            reason,
            f"the log holds events {row.first_event_id} to {row.last_event_id}, not {at_event_id}",
            first_event_id=row.first_event_id,
            current_event_id=row.last_event_id,
            resume_event_id=row.last_event_id if reason == "ahead" else row.first_event_id - 1,
        )


def _with_live_sub_traces(state: State, subs: Sequence[TraceRow]) -> State:
    """What the parent's log learns only at the end, as it is now."""
    now = state.copy()
    for row in subs:
        sub = now.sub_traces.get(row.trace_id)
        if sub is not None:
            live: dict[str, Any] = {
                "status": row.status,
                "error": row.shown_error(),
                "stats": row.tree().totals(),
                "started_at": row.started_at,
                "ended_at": row.ended_at,
            }
            if "summary" not in row.cut:
                live["summary"] = row.summary
            elif not (sub["summary"] or "").startswith((row.summary or "").removesuffix(ELLIPSIS)):
                live |= {"summary": row.summary, "cut": ["summary"]}  # the log does not have the whole of it
            now.sub_traces[row.trace_id] = {**sub, **live}
    return now


def _open_question(one: OpenInput) -> dict[str, Any]:
    about = {
        "trace_id": one.trace_id,
        "task": one.task,
        "agent_type": one.agent_type,
        "root_trace_id": one.root_trace_id,
        "trace_status": one.trace_status,
    }
    body = object_of(one.body)
    if "question" not in body:
        times = {"requested_at": one.asked_at, "expires_at": None}
        body = {"request_id": one.request_id, "question": "(damaged)", "goal_id": None, **times, **DAMAGED}
    return {**about, **body}


def _question(one: TraceInput) -> dict[str, Any]:
    return {
        "request_id": one.request_id,
        "state": one.state,
        **({} if one.body is None else object_of(one.body)),
        **({} if one.answer is None else object_of(one.answer)),
    }
