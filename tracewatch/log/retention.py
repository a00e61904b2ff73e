"""Retention: which traces are too old or too long, and the work of letting them go.

Rule 1: ``keep_events``: a trace keeps at least its newest so many. ``keep_days``: a trace that is over, with all below
        it, and in which nothing has happened for so long, is deleted whole; of any other what is older goes.
Rule 2: what is found is only a proposal; each job looks again in its own unit.
Rule 3: after each transaction as long a pause as it took: appends come first.
Rule 4: of all processes on a log one prunes at a time, by ``tend``; one that dies at it is followed by another.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnknownTrace
from ..model.times import format_time
from . import project
from .group import Alone, Group
from .jobs import OVER, Claim, Delete, Trim
from .reader import Reader
from .row import TraceRow
from .storage import Storage

DAY_S = 86_400.0
HOLD_S = 20.0  # while at work, retention is claimed again this often
CLAIM = "retention"
NAMES_AT_ONCE = 5000  # events
_TS = re.compile(rb'\{"event":"[^"]*","event_id":[0-9]+,"trace_id":"[^"]*","ts":"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Policy:
    """What is kept. 0 days or events: that one is off."""

    keep_days: float = 0
    keep_events: int = 0
    keep_free_share: float = 0.0  # of the room that the log takes (0 to 1): this may stay free, to be filled again
    wal_bytes: int = 0  # the largest journal that may stay
    rewrite: bool = False  # write everything anew at the end: nobody can append meanwhile


@dataclass(frozen=True, slots=True)
class Outdated:
    """What of a trace may go: the whole of it, or its events up to ``upto``."""

    trace_id: str
    task: str
    status: str
    upto: int  # the last event that goes
    events: int
    bytes: int  # of these events
    content_bytes: int  # of what stands beside the log and goes with them, as no other trace has it
    deleted: bool  # the trace goes whole
    with_trace: str | None = None  # it goes with this trace, whose sub-trace it is


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, or would go."""

    gone: list[Outdated] = field(default_factory=list)
    gives_back: bool = True  # whether free space goes back to the file system; if not, ``rewrite`` changes that


class Retention:
    """Finds what is outdated and lets it go."""

    def __init__(self, storage: Storage, group: Group, reader: Reader) -> None:
        self._storage = storage
        self._group = group
        self._reader = reader

    def _now(self) -> float:
        # The earlier of both: a clock that is set forward must not delete what is not old
        return min(self._storage.now(), self._storage.steady())

    async def prune(
        self, policy: Policy, *, dry_run: bool = False, hold: Callable[[], Awaitable[Any]] | None = None
    ) -> Pruned:
        """See EventLog.prune. ``hold`` is awaited now and then meanwhile."""
        going = await self._outdated(policy)
        if not dry_run:
            pace = _Pace(hold)
            going = await self._let_go(going, policy.keep_days, pace)
            more = True
            while more:
                async with pace:
                    more = await self._group.do(
                        Alone(lambda: self._storage.tend(policy.keep_free_share, policy.wal_bytes))
                    )
            if policy.rewrite:
                await self._group.do(Alone(self._storage.rewrite))
        async with self._reader.reading() as storage:
            return Pruned(going, await storage.gives_back())

    async def tend(self, policy: Policy, every_s: float) -> bool:
        """See EventLog.tend."""
        claim_s = max(every_s, 2 * HOLD_S)  # while at work it is claimed again every HOLD_S
        if not await self._group.do(Claim(name=CLAIM, for_s=claim_s)):
            return False
        await self.prune(policy, hold=lambda: self._group.do(Claim(name=CLAIM, for_s=claim_s, held=True)))
        await self._group.do(Claim(name=CLAIM, for_s=every_s, held=True))  # whose turn it is then is open
        return True

    # --- finding ---

    async def _outdated(self, policy: Policy) -> list[Outdated]:
        """What may go. A trace that goes whole stands before those that go with it."""
        before = format_time(self._now() - policy.keep_days * DAY_S) if policy.keep_days else None
        async with self._reader.reading() as storage:
            found: dict[str, Outdated] = {}
            for going in await self._over(storage, before) if before is not None else ():
                found.setdefault(going.trace_id, going)
            every = project.SNAPSHOT_EVERY
            for row in await storage.long(every - 1) if before is not None or policy.keep_events else ():
                if row.trace_id in found:
                    continue
                upto = max(0, row.last_event_id - policy.keep_events) // every * every if policy.keep_events else 0
                if before is not None:
                    upto = max(upto, await _too_old(storage, row, before))
                if upto >= row.first_event_id:
                    upto = await storage.kept_before(row.trace_key, upto)  # of many goals not every boundary has one
                if upto >= row.first_event_id:
                    found[row.trace_id] = await _outdated(storage, row, upto, deleted=False)
        return list(found.values())

    async def _over(self, storage: Storage, before: str) -> list[Outdated]:
        found: dict[str, Outdated] = {}
        for family in await storage.untouched(before, OVER):
            root_id = family[0].trace_id
            if root_id in found or any(row.status not in OVER or row.updated_at >= before for row in family):
                continue
            for row in family:
                above = None if row.trace_id == root_id else root_id
                found[row.trace_id] = await _outdated(storage, row, row.last_event_id, deleted=True, above=above)
        return sorted(found.values(), key=lambda going: going.with_trace is not None)

    # --- letting go ---

    async def _let_go(self, outdated: list[Outdated], keep_days: float, pace: _Pace) -> list[Outdated]:
        gone: dict[str, Outdated] = {}
        for going in outdated:
            if going.with_trace is not None:
                if going.with_trace in gone:  # which took it along
                    gone[going.trace_id] = going
                continue
            async with pace:
                if await self._one(going, keep_days):
                    gone[going.trace_id] = going
        return list(gone.values())

    async def _one(self, going: Outdated, keep_days: float) -> bool:
        try:
            if not going.deleted:
                return await self.trim(going.trace_id, going.upto)
            return bool(await self.delete_outdated(going.trace_id, keep_days))
        except UnknownTrace:
            return False  # somebody else was faster

    async def trim(self, trace_id: str, upto: int) -> bool:
        """Let a log begin after ``upto``. False where no snapshot of it is kept. Raises UnknownTrace."""
        key, names = await self._names(trace_id, upto)
        trimmed = bool(await self._group.do(Trim(trace_id=trace_id, upto=upto, trace_key=key, names=names)))
        self._group.counts.trims += trimmed
        return trimmed

    async def _names(self, trace_id: str, upto: int) -> tuple[int, dict[str, int]]:
        """The trace's key, and the last event of each name up to ``upto``. Events never change: no lock is needed."""
        names: dict[str, int] = {}
        async with self._reader.reading() as storage:
            rows = await storage.rows([trace_id])
            for row in rows:
                for first in range(row.first_event_id, upto + 1, NAMES_AT_ONCE):
                    names |= await storage.names(row.trace_key, first, min(first + NAMES_AT_ONCE - 1, upto))
                return row.trace_key, names
        return 0, names

    async def delete_outdated(self, trace_id: str, keep_days: float) -> list[str]:
        """Delete a trace if all of it is over and nothing has happened in it for ``keep_days``; else nothing, []."""
        since = format_time(self._now() - keep_days * DAY_S)
        deleted: list[str] = await self._group.do(Delete(trace_id=trace_id, idle_since=since))
        self._group.counts.outdated += len(deleted)
        return deleted


async def _outdated(storage: Storage, row: TraceRow, upto: int, *, deleted: bool, above: str | None = None) -> Outdated:
    size = await storage.size(row.trace_key, row.first_event_id, upto)
    contents = await storage.content_size(row.trace_key, None if deleted else upto)
    events = upto + 1 - row.first_event_id
    return Outdated(row.trace_id, row.task, row.status, upto, events, size, contents, deleted, above)


async def _too_old(storage: Storage, row: TraceRow, before: str) -> int:
    """The newest boundary whose event is older than ``before``; 0 if there is none. Times rise with the ids."""
    every = project.SNAPSHOT_EVERY
    low, high = 0, row.last_event_id // every  # boundary `low` is old enough, those above `high` are not
    while low < high:
        middle = (low + high + 1) // 2
        head = await storage.event_head(row.trace_key, middle * every)
        ts = None if head is None else _TS.match(head)
        if middle * every < row.first_event_id or (ts is not None and ts[1].decode() < before):
            low = middle
        else:
            high = middle - 1
    return low * every


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
