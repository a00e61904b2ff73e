"""Reading: pages, states, messages and lists, each from one read transaction of a read-only connection.

Rule 1: a connection has one owner at a time; two tasks on one would share a transaction.
Rule 2: readers never checkpoint (the WAL-reset bug of SQLite before 3.51.3 needs a second checkpointer) and never
        write.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiosqlite
import orjson

from ...errors import Gap, NoSuchMessage, TracewatchError, Unavailable, UnknownTrace
from ...model.state import State
from ...model.times import format_time
from .. import Grown, Page, Snapshot, TraceQuery
from ..cache import Cached, StateCache
from ..counts import LogLook, look
from ..health import Health, fault_of, said
from ..inputs import expired_inputs, inputs_of, open_inputs
from ..removal import gives_back
from ..retention import DAY_S, Outdated, find_outdated
from ..rows import BELOW, TRACE_COLUMNS, TraceRow, at_first, fetch, hole, load_state, trace_rows
from .identity import OpenFile

logger = logging.getLogger("tracewatch.log")
MOST_DAMAGED = 100  # traces whose damage is remembered; the check of the whole file finds what else there is

# Below three characters the trigram index can't help: then only as many of the newest traces are looked through.
SHORT_SEARCH_ROWS = 10_000

# The trace's row, then its events, in one statement: no ORDER BY, which would sort what the tree has in order already;
# what comes back is checked to be consecutive.
_PAGE = """
SELECT first_event_id, last_event_id, status, trace_key FROM traces WHERE trace_id = ?1
UNION ALL
SELECT event_id, body, NULL, NULL FROM events
WHERE trace_key = (SELECT trace_key FROM traces WHERE trace_id = ?1) AND event_id > ?2 AND event_id <= ?2 + ?3
AND (event_id = ?2 + 1 OR end_offset <= ?4 + (
    SELECT end_offset - length(body) FROM events
    WHERE trace_key = (SELECT trace_key FROM traces WHERE trace_id = ?1) AND event_id = ?2 + 1
))
"""

# One statement is one read transaction. The newest change number comes last
_CHANGES = """
SELECT trace_id, last_event_id, status FROM traces WHERE change_seq > ?1
UNION ALL
SELECT trace_id, last_event_id, 'deleted' FROM deleted_traces WHERE change_seq > ?1
UNION ALL
SELECT NULL, change_seq, NULL FROM change_counter
"""


class Reader:
    """A few read-only connections, lent out one by one."""

    def __init__(
        self,
        connections: Sequence[aiosqlite.Connection],
        cache: StateCache,
        clock: Callable[[], float] = time.time,
        *,
        health: Health,
        file: OpenFile,
    ) -> None:
        self._connections = list(connections)
        self._cache = cache
        self._clock = clock
        self._health = health
        self._file = file
        self.damaged: set[str] = set()  # the traces in which damage was found
        self._closing = False
        self._free: asyncio.LifoQueue[aiosqlite.Connection] = asyncio.LifoQueue()
        for connection in connections:
            self._free.put_nowait(connection)

    async def close(self) -> None:
        """Wait for what is being read and close the connections. Who still waits for one hears that it is over."""
        if self._closing:
            return
        self._closing = True
        for _ in self._connections:
            await (await self._free.get()).close()
        for connection in self._connections:
            self._free.put_nowait(connection)

    def _lend(
        self, trace_id: str = "", *, transaction: bool = False
    ) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        self._file.check_readable()
        return self.lend_always(trace_id, transaction=transaction)

    @asynccontextmanager
    async def lend_always(
        self, trace_id: str = "", *, transaction: bool = False
    ) -> AsyncIterator[aiosqlite.Connection]:
        """A connection, also to a file that was replaced: for the tokens, since who may come in is no history."""
        connection = await self._free.get()
        try:
            if self._closing:
                raise Unavailable("the log is closing", retry_after_s=1)
            try:
                if transaction:
                    await connection.execute_fetchall("BEGIN")
                yield connection
            finally:
                if transaction:
                    await _end(connection)
            self._health.clear("read")
        except (sqlite3.Error, orjson.JSONDecodeError) as error:
            raise await self._failed(connection, trace_id, error) from error
        finally:
            self._free.put_nowait(connection)

    async def _failed(self, connection: aiosqlite.Connection, trace_id: str, error: Exception) -> TracewatchError:
        fault = fault_of(error)
        if fault is None:
            logger.error("a defect in tracewatch failed a read%s", said(error), exc_info=error)
            return TracewatchError("an internal error: nothing was read")
        if fault.code != "damaged":
            return self._health.note_error("read", fault.error("read"))
        if trace_id and len(self.damaged) < MOST_DAMAGED:
            self.damaged.add(trace_id)
        with suppress(sqlite3.Error):  # it must not stay in memory when the file has been repaired
            await fetch(connection, "PRAGMA shrink_memory")
        return self._health.note_error("damage", fault.error("read"))

    async def check(self) -> None:
        """Read everything where damage was found, and have SQLite check the whole file. Raises Damaged."""
        async with self._lend() as connection:
            (found,) = (await fetch(connection, "PRAGMA quick_check(1)"))[0]
            if found != "ok":
                raise sqlite3.DatabaseError(str(found))
        for trace_id in sorted(self.damaged):
            with suppress(UnknownTrace):
                await self._read_all(trace_id)
            self.damaged.discard(trace_id)

    async def _read_all(self, trace_id: str) -> None:
        after = (await self.read(trace_id, 0, max_events=1, max_bytes=1)).first_event_id - 1
        while (page := await self.read(trace_id, after, max_events=500, max_bytes=1 << 20)).bodies:
            for body in page.bodies:
                orjson.loads(body)
            after = page.upto
        await self.messages(trace_id, goal_id=None, before=None, limit=1000)
        await self.snapshot(trace_id)

    async def read(self, trace_id: str, after: int, *, max_events: int, max_bytes: int) -> Page:
        """See EventLog.read."""
        async with self._lend(trace_id) as connection:
            # One statement is one read transaction. The page is cut by end_offset, so that no body behind the cut is
            # read.
            rows = await fetch(
                connection,
                _PAGE,
                trace_id,
                after,
                max_events,
                max_bytes,
            )
            if not rows:
                raise UnknownTrace(f"there is no trace {trace_id!r}", trace_id=trace_id)
            (first, last, status, key), found = rows[0], [(event_id, body) for event_id, body, _, _ in rows[1:]]
            if not first <= after + 1 <= last:
                found = []  # trimmed, or the end: the page says so by its first and last_event_id
            elif not found or [row[0] for row in found] != list(range(after + 1, after + 1 + len(found))):
                raise hole(trace_id, after)
            elif b"\0" in b"".join([body for _, body in found]):
                # No JSON holds it, and a page of zeros or of rubbish does: SQLite has no checksums
                raise sqlite3.DatabaseError(f"trace {trace_id}: an event after {after} is not what was stored")
        return Page([body for _, body in found], after, first, last, status, key)

    async def snapshot(self, trace_id: str, at_event_id: int | None = None) -> Snapshot:
        """See EventLog.snapshot."""
        async with self._lend(trace_id, transaction=True) as connection:
            row = (await trace_rows(connection, [trace_id])).get(trace_id)
            if row is None:
                raise UnknownTrace(f"there is no trace {trace_id!r}", trace_id=trace_id)
            alive = row.lease_alive(self._clock())
            if at_event_id is not None:
                return Snapshot(await self._state_at(connection, row, at_event_id), alive, row.trace_key)
            known = self._cache.get(row)
            if known is not None and known.state.last_event_id >= row.last_event_id:
                state = at_first(known.state, max(known.state.first_event_id, row.first_event_id))
            else:
                state = await load_state(connection, row, row.last_event_id, known.state if known else None)
                self._cache.put(Cached(row.trace_key, state))
            if state.sub_traces:
                state = await self._with_live_sub_traces(connection, state)
            return Snapshot(state, alive, row.trace_key)

    async def _state_at(self, connection: aiosqlite.Connection, row: TraceRow, at_event_id: int) -> State:
        if not row.first_event_id - 1 <= at_event_id <= row.last_event_id:
            reason = "ahead" if at_event_id > row.last_event_id else "trimmed"
            raise Gap(
                reason,
                f"the log holds events {row.first_event_id} to {row.last_event_id}, not {at_event_id}",
                first_event_id=row.first_event_id,
                current_event_id=row.last_event_id,
                resume_event_id=row.last_event_id if reason == "ahead" else row.first_event_id - 1,
            )
        return await load_state(connection, row, at_event_id)

    async def _with_live_sub_traces(self, connection: aiosqlite.Connection, state: State) -> State:
        """What the parent's log learns only at the end, as it is now."""
        rows = await fetch(connection, f"SELECT {TRACE_COLUMNS} FROM traces WHERE parent_trace_id = ?", state.trace_id)
        now = state.copy()
        for values in rows:
            child = TraceRow(*values)
            sub = now.sub_traces.get(child.trace_id)
            if sub is not None:
                live = {"status": child.status, "summary": child.summary, "stats": child.tree_totals()}
                now.sub_traces[child.trace_id] = {**sub, **live}
        return now

    async def messages(
        self, trace_id: str, *, goal_id: str | None, before: int | None, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """See EventLog.messages."""
        async with self._lend(trace_id, transaction=True) as connection:
            row = (await trace_rows(connection, [trace_id])).get(trace_id)
            if row is None:
                raise UnknownTrace(f"there is no trace {trace_id!r}", trace_id=trace_id)
            of_goal = "" if goal_id is None else " AND m.goal_id = ?4"
            found = await fetch(
                connection,
                "SELECT m.body, CASE WHEN m.body IS NULL THEN e.body END FROM messages AS m"
                " LEFT JOIN events AS e ON e.trace_key = m.trace_key AND e.event_id = m.event_id"
                f" WHERE m.trace_key = ?1 AND m.sequence < ?2{of_goal} ORDER BY m.sequence DESC LIMIT ?3",
                row.trace_key,
                2**62 if before is None else before,
                limit + 1,
                *([] if goal_id is None else [goal_id]),
            )
            messages = [
                orjson.loads(body) if body is not None else orjson.loads(event)["message"]
                for body, event in reversed(found[:limit])
            ]
        return messages, len(found) > limit

    async def message(self, trace_id: str, message_id: str) -> tuple[int, dict[str, Any]]:
        """See EventLog.message."""
        async with self._lend(trace_id, transaction=True) as connection:
            row = (await trace_rows(connection, [trace_id])).get(trace_id)
            if row is None:
                raise UnknownTrace(f"there is no trace {trace_id!r}", trace_id=trace_id)
            found = await fetch(
                connection,
                "SELECT m.event_id, m.body, CASE WHEN m.body IS NULL THEN e.body END FROM messages AS m"
                " LEFT JOIN events AS e ON e.trace_key = m.trace_key AND e.event_id = m.event_id"
                " WHERE m.trace_key = ? AND m.message_id = ?",
                row.trace_key,
                message_id,
            )
            if not found:
                raise NoSuchMessage(f"there is no message {message_id[:200]!r} in this trace", trace_id=trace_id)
            event_id, body, event = found[0]
            return event_id, orjson.loads(body) if body is not None else orjson.loads(event)["message"]

    async def traces(self, query: TraceQuery) -> tuple[list[dict[str, Any]], int | None]:
        """See EventLog.traces."""
        where, values = _conditions(query)
        async with self._lend() as connection:
            found = await fetch(
                connection,
                f"SELECT {TRACE_COLUMNS} FROM traces WHERE {where} ORDER BY trace_key DESC LIMIT ?",
                *values,
                query.limit + 1,
            )
        rows = [TraceRow(*row) for row in found[: query.limit]]
        now = self._clock()
        more = rows[-1].trace_key if rows and len(found) > query.limit else None
        return [row.trace(now) for row in rows], more

    async def summaries(self, trace_ids: Sequence[str], below: str | None = None) -> list[dict[str, Any]]:
        """See EventLog.summaries."""
        async with self._lend() as connection:
            rows = await trace_rows(connection, trace_ids)
            if below is not None:
                allowed = {row[0] for row in await fetch(connection, BELOW, below)}
                rows = {trace_id: row for trace_id, row in rows.items() if trace_id in allowed}
        now = self._clock()
        return [row.trace(now) for row in rows.values()]

    async def last_seq(self, trace_id: str, producer: str) -> int:
        """See EventLog.last_seq."""
        async with self._lend() as connection:
            rows = await fetch(
                connection,
                "SELECT last_seq FROM producers JOIN traces USING (trace_key) WHERE trace_id = ? AND producer = ?",
                trace_id,
                producer,
            )
        return int(rows[0][0]) if rows else 0

    async def is_renewed_for_nothing(self, trace_id: str) -> bool:
        """Whether it changes nothing that a recorder shows up: there is no lease, and the trace is not lost."""
        async with self._lend() as connection:
            sql = "SELECT 1 FROM traces WHERE trace_id = ? AND lease_s IS NULL AND status != 'lost'"
            return bool(await fetch(connection, sql, trace_id))

    async def expired_leases(self) -> list[str]:
        """The running traces whose lease has run out."""
        async with self._lend() as connection:
            sql = "SELECT trace_id FROM traces WHERE lease_expires_at <= ? AND status IN ('running', 'waiting')"
            return [str(row[0]) for row in await fetch(connection, sql, self._clock())]

    async def expired_inputs(self) -> list[tuple[str, str]]:
        """``(trace_id, request_id)`` of the open questions whose time has run out."""
        async with self._lend() as connection:
            return await expired_inputs(connection, self._clock())

    async def outdated(self, *, keep_days: float = 0, keep_events: int = 0) -> list[Outdated]:
        """See EventLog.outdated."""
        before = format_time(self._clock() - keep_days * DAY_S) if keep_days else None
        async with self._lend() as connection:
            return await find_outdated(connection, keep_events=keep_events, before=before)

    async def has_leftovers(self) -> bool:
        """Whether something was trimmed or deleted and is still in the file."""
        async with self._lend() as connection:
            return bool(await fetch(connection, "SELECT 1 FROM leftovers LIMIT 1"))

    async def pages(self) -> tuple[int, int]:
        """The file's pages, and how many of them are free."""
        async with self._lend(transaction=True) as connection:
            pages = (await fetch(connection, "PRAGMA page_count"))[0][0]
            return int(pages), int((await fetch(connection, "PRAGMA freelist_count"))[0][0])

    async def gives_back(self) -> bool:
        """See EventLog.gives_back."""
        async with self._lend() as connection:
            return await gives_back(connection)

    async def inputs(self, limit: int, below: str | None = None) -> list[dict[str, Any]]:
        """See EventLog.inputs."""
        async with self._lend() as connection:
            return await open_inputs(connection, limit, below)

    async def inputs_of(self, trace_id: str, request_id: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """See EventLog.inputs_of."""
        async with self._lend() as connection:
            return await inputs_of(connection, trace_id, request_id=request_id, limit=limit)

    async def look(self, path: Path) -> LogLook:
        """See EventLog.look."""
        async with self._lend() as connection:
            try:
                return await look(path, connection, self._clock())
            except OSError as error:
                raise Unavailable(f"the log can't be looked at: {error.strerror}", retry_after_s=1) from error

    async def changes(self, since: int) -> tuple[list[Grown], int]:
        """See EventLog.changes."""
        async with self._lend() as connection:
            *rows, (_, newest, _) = await fetch(connection, _CHANGES, since)
        return [Grown(trace_id, last, status, deleted=status == "deleted") for trace_id, last, status in rows], newest


async def _end(connection: aiosqlite.Connection) -> None:
    # Also for a caller cancelled while BEGIN was on its way: it happens all the same, and a connection left inside
    # that transaction would show its next borrowers the past for ever
    try:
        await connection.execute_fetchall("ROLLBACK")
    except sqlite3.OperationalError:
        pass  # BEGIN had failed: there is none


def _conditions(query: TraceQuery) -> tuple[str, list[Any]]:
    where, values = ["1"], list[Any]()
    if query.status:
        where.append(f"status IN ({', '.join('?' * len(query.status))})")
        values.extend(query.status)
    for column in ("agent_type", "parent_trace_id", "root_trace_id"):
        value = getattr(query, column)
        if value is not None:
            where.append(f"{column} = ?")
            values.append(value)
    if query.below is not None:
        where.append(f"trace_id IN ({BELOW.replace('?1', '?')})")
        values.append(query.below)
    text = query.q.replace("\0", "") if query.q else ""  # an FTS query ends at NUL
    if text:
        if len(text) >= 3:
            where.append("trace_key IN (SELECT rowid FROM traces_text WHERE traces_text MATCH ?)")
            values.append('"' + text.replace('"', '""') + '"')
        else:
            like = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            where.append("trace_key > (SELECT COALESCE(MAX(trace_key), 0) - ? FROM traces)")
            where.append("(task LIKE ? ESCAPE '\\' OR trace_id LIKE ? ESCAPE '\\' OR agent_type LIKE ? ESCAPE '\\')")
            values.extend([SHORT_SEARCH_ROWS, like, like, like])
    if query.before is not None:
        where.append("trace_key < ?")
        values.append(query.before)
    return " AND ".join(where), values
