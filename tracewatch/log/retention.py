"""Retention: which traces are too old or too long, and the work of letting them go.

Rule 1: ``keep_events``: a trace keeps at least its newest so many. ``keep_days``: a trace that is over, with all below
        it, and in which nothing has happened for so long, is deleted whole; of any other what is older goes.
Rule 2: what is found is only a proposal; each job looks again in its own transaction.
Rule 3: after each transaction as long a pause as it took: whoever appends comes first.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiosqlite

from ..errors import UnknownTrace
from .removal import DOWN, OVER
from .rows import SNAPSHOT_EVERY, fetch

if TYPE_CHECKING:
    from . import EventLog

DAY_S = 86_400.0
HOLD_S = 20.0  # while at work, retention is claimed again this often
_TS = re.compile(rb'\{"event":"[^"]*","event_id":[0-9]+,"trace_id":"[^"]*","ts":"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Outdated:
    """What of a trace may go: the whole of it, or its events up to ``upto``."""

    trace_id: str
    task: str
    status: str
    upto: int  # the last event that goes
    events: int
    bytes: int  # of these events
    deleted: bool  # the trace goes whole
    with_trace: str | None = None  # it goes with this trace, whose sub-trace it is


async def find_outdated(connection: aiosqlite.Connection, *, keep_events: int, before: str | None) -> list[Outdated]:
    """What may go by ``keep_events`` (0: all are kept) and what is older than ``before`` (None: nothing is too old).

    A trace that goes whole stands before those that go with it.
    """
    found: dict[str, Outdated] = {}
    if before is not None:
        for going in await _find_over(connection, before):
            found.setdefault(going.trace_id, going)
    rows = await fetch(  # the words of the index, which holds the long ones only
        connection,
        "SELECT trace_key, trace_id, task, status, first_event_id, last_event_id FROM traces"
        " WHERE last_event_id - first_event_id >= 499",
    )
    for key, trace_id, task, status, first, last in rows:
        if trace_id in found:
            continue
        upto = _boundary(last - keep_events) if keep_events else 0
        if before is not None:
            upto = max(upto, await _too_old(connection, key, first, last, before))
        if upto >= first:
            size = await _size(connection, key, first, upto)
            found[trace_id] = Outdated(trace_id, task, status, upto, upto + 1 - first, size, False)
    return list(found.values())


def _boundary(event_id: int) -> int:
    return max(0, event_id) // SNAPSHOT_EVERY * SNAPSHOT_EVERY


async def _find_over(connection: aiosqlite.Connection, before: str) -> list[Outdated]:
    found: dict[str, Outdated] = {}
    over = ", ".join(f"'{status}'" for status in OVER)
    candidates = await fetch(
        connection,
        f"SELECT trace_id FROM traces WHERE created_at < ?1 AND updated_at < ?1 AND status IN ({over})"
        " ORDER BY created_at, trace_key",
        before,
    )
    for (root_id,) in candidates:
        if root_id in found:
            continue
        rows = await fetch(
            connection,
            f"{DOWN} SELECT trace_key, trace_id, task, status, updated_at, first_event_id, last_event_id"
            " FROM traces JOIN down USING (trace_id)",
            root_id,
        )
        if any(status not in OVER or updated_at >= before for _, _, _, status, updated_at, _, _ in rows):
            continue
        for key, trace_id, task, status, _, first, last in rows:
            size = await _size(connection, key, first, last)
            above = None if trace_id == root_id else root_id
            found[trace_id] = Outdated(trace_id, task, status, last, last + 1 - first, size, True, above)
    return sorted(found.values(), key=lambda going: going.with_trace is not None)


async def _too_old(connection: aiosqlite.Connection, key: int, first: int, last: int, before: str) -> int:
    """The newest boundary whose event is older than ``before``; 0 if there is none. Times rise with the ids."""
    low, high = 0, last // SNAPSHOT_EVERY  # boundary `low` is old enough, those above `high` are not
    while low < high:
        middle = (low + high + 1) // 2
        event_id = middle * SNAPSHOT_EVERY
        rows = await fetch(
            connection,
            "SELECT substr(body, 1, 512) FROM events WHERE trace_key = ? AND event_id = ?",
            key,
            event_id,
        )
        ts = _TS.match(rows[0][0]) if rows else None
        if event_id < first or (ts is not None and ts[1].decode() < before):
            low = middle
        else:
            high = middle - 1
    return low * SNAPSHOT_EVERY


async def _size(connection: aiosqlite.Connection, key: int, first: int, upto: int) -> int:
    rows = await fetch(
        connection,
        "SELECT COALESCE(MAX(end_offset), 0) - COALESCE(MIN(end_offset - length(body)), 0) FROM events"
        " WHERE trace_key = ?1 AND event_id IN (?2, ?3)",
        key,
        first,
        upto,
    )
    return int(rows[0][0])


async def prune(
    log: EventLog,
    *,
    keep_days: float = 0,
    keep_events: int = 0,
    keep_free_share: float = 0.0,
    wal_bytes: int = 0,
    hold: Callable[[], Awaitable[Any]] | None = None,
) -> list[Outdated]:
    """Let go what is outdated, sweep up what earlier removals left, and give the space back. 0: that one is off.

    ``keep_free_share``: how much of the file may stay free, to be filled again; ``wal_bytes``: how large the WAL may
    stay. ``hold`` is awaited now and then meanwhile. Returns what went.
    """
    pace = _Pace(hold)
    gone: dict[str, Outdated] = {}
    for going in await log.outdated(keep_days=keep_days, keep_events=keep_events):
        if going.with_trace is not None:
            if going.with_trace in gone:  # which took it along
                gone[going.trace_id] = going
            continue
        async with pace:
            if await _let_go(log, going, keep_days):
                gone[going.trace_id] = going
    more = True
    while more:
        async with pace:
            more = await log.sweep()
    more = True
    while more:
        async with pace:
            more = await log.shrink(keep_free_share)
    await log.checkpoint(wal_bytes)
    return list(gone.values())


async def _let_go(log: EventLog, going: Outdated, keep_days: float) -> bool:
    try:
        if going.deleted:
            return bool(await log.delete_outdated(going.trace_id, keep_days))
        return await log.trim(going.trace_id, going.upto)
    except UnknownTrace:
        return False  # somebody else was faster


class _Pace:
    """Around each transaction: waits as long as it took, and keeps the claim alive."""

    def __init__(self, hold: Callable[[], Awaitable[Any]] | None) -> None:
        self._hold = hold
        self._held_s = self._began_s = time.monotonic()

    async def __aenter__(self) -> None:
        self._began_s = time.monotonic()
        if self._hold is not None and self._began_s - self._held_s > HOLD_S:
            self._held_s = self._began_s
            await self._hold()

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.sleep(time.monotonic() - self._began_s)
