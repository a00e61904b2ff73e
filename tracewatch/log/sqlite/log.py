"""The log in one SQLite file: WAL, ``synchronous=FULL``, one writing connection, a few reading ones.

Rule 1: the writing connection is the only one of this process that writes or checkpoints.
Rule 2: what comes in is validated here, before it waits for the writer, so that every way in has the same gate.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
import orjson

from ...errors import Invalid, InvalidField, LogError, LogLocked, TooLarge, TracewatchError, Unavailable
from ...model.base import read_base
from ...model.events import canonical, validate_event, validate_stored
from .. import Appended, Snapshot
from ..cache import StateCache
from ..commands import Answer, Cancel, ExpireInput
from ..counts import LogCounts, LogLook
from ..health import Health, fault_of, is_busy
from ..inputs import fill_inputs
from ..jobs import Append, Create, Expire, Job, Renew
from ..removal import Delete
from ..restore import Restore
from ..rows import fetch
from ..tokens import Tokens
from . import opening
from .connections import connect, run
from .housekeeping import Housekeeping
from .identity import OpenFile
from .reader import Reader
from .watchdog import Watchdog
from .writer import Writer

READERS = 3


class SQLiteLog:
    """An EventLog in a SQLite file. Open with ``SQLiteLog.open``."""

    def __init__(
        self,
        path: Path,
        connection: aiosqlite.Connection,
        probe: aiosqlite.Connection,
        readers: Sequence[aiosqlite.Connection],
        epoch: str,
        *,
        max_event_bytes: int,
        max_batch_events: int,
        lock_wait_s: float,
        max_waiting_bytes: int,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self.path = path
        self.epoch = epoch
        self.engine_version = sqlite3.sqlite_version
        self._max_event_bytes = max_event_bytes
        self._max_batch_events = max_batch_events
        self._clock = clock
        self._steady = steady
        self._connection = connection
        self._probe = probe  # asks for data_version and nothing else, so it never waits for a reader
        self._cache = StateCache()
        self.health = Health()
        file = OpenFile(path)
        self._reader = Reader(readers, self._cache, steady, health=self.health, file=file)
        self._writer = Writer(
            connection,
            self._cache,
            clock,
            steady,
            health=self.health,
            file=file,
            lock_wait_s=lock_wait_s,
            max_waiting_bytes=max_waiting_bytes,
        )
        self._watchdog = Watchdog(
            file=file, health=self.health, connection=connection, writer=self._writer, reader=self._reader
        )
        self.replaced = self._watchdog.replaced
        self._offer()

    def _offer(self) -> None:
        """Those methods that are a part's own."""
        self.read = self._reader.read
        self.snapshot = self._reader.snapshot
        self.messages = self._reader.messages
        self.message = self._reader.message
        self.traces = self._reader.traces
        self.summaries = self._reader.summaries
        self.changes = self._reader.changes
        self.last_seq = self._reader.last_seq
        self.inputs = self._reader.inputs
        self.inputs_of = self._reader.inputs_of
        # The earlier of both: a clock that is set forward must not delete what is not old
        housekeeping = Housekeeping(self.path, self._writer, self._reader, lambda: min(self._clock(), self._steady()))
        self.outdated = self._reader.outdated
        self.delete_outdated = housekeeping.delete_outdated
        self.trim = housekeeping.trim
        self.sweep = housekeeping.sweep
        self.shrink = housekeeping.shrink
        self.checkpoint = housekeeping.checkpoint
        self.vacuum = housekeeping.vacuum
        self.gives_back = self._reader.gives_back
        self.claim_retention = housekeeping.claim
        self.listen = self._writer.listen
        self.counts: LogCounts = self._writer.counts
        self.tokens = Tokens(self._writer, self._reader.lend_always, self._clock)

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        max_event_bytes: int = 256 * 1024,
        max_batch_events: int = 1000,
        lock_wait_s: float = 10.0,
        max_waiting_bytes: int = 64 * 1024**2,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
    ) -> SQLiteLog:
        """Open or create the file and bring its schema up to date.

        ``lock_wait_s``: an append, and the opening, wait so long for another program's lock.
        ``max_waiting_bytes``: of what waits to be written.
        ``steady``: by default the machine's (clock.py), or ``clock`` if that is not the system's.
        Raises LogError, NewerDatabase, LogLocked.
        """
        path = Path(path)
        opened: list[aiosqlite.Connection] = []
        own_clock = steady is None and clock is time.time
        try:
            opened.append(connection := await connect(partial(opening.open_writing, path, lock_wait_s)))
            await fill_inputs(connection)
            epoch, machine = await run(connection, partial(opening.begin_writing, path=path, own_clock=own_clock))
            for _ in range(1 + READERS):
                opened.append(await connect(partial(opening.open_reading, path)))
            probe, *readers = opened[1:]
        except BaseException as error:
            for one in opened:
                await one.close()
            if is_busy(error) or is_busy(error.__cause__ or error):
                raise LogLocked(f"the log {str(path)!r} is held locked by another program") from error
            if isinstance(error, sqlite3.Error | OSError):
                raise LogError(f"can't open the log {str(path)!r}: {opening.reason(error)}") from error
            raise
        return cls(
            path,
            connection,
            probe,
            readers,
            epoch,
            max_event_bytes=max_event_bytes,
            max_batch_events=max_batch_events,
            lock_wait_s=lock_wait_s,
            max_waiting_bytes=max_waiting_bytes,
            clock=clock,
            steady=steady or machine or clock,
        )

    async def create_trace(self, spec: dict[str, Any]) -> tuple[Snapshot, bool]:
        """See EventLog.create_trace."""
        canonical(spec["metadata"])  # refuses here what JSON can't say
        draft, created = await self._writer.do(lambda future: Create(future, spec=spec))
        return await self.snapshot(draft.row.trace_id), created

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
    ) -> Appended:
        """See EventLog.append."""
        try:
            self._check_count(events)
            if (producer is None) != (seq is None) or (seq is not None and seq < 1):
                raise InvalidField("seq: a producer's events are numbered from 1, and a number needs its producer")
            single = len(events) == 1
            raws = [validate_event(raw, None if single else i, by_server=by_server) for i, raw in enumerate(events)]
            answer: Appended = await self._writer.do(
                lambda future: Append(
                    future,
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

    async def restore(self, header: dict[str, Any], events: Sequence[Any]) -> Appended:
        """See EventLog.restore. ``header`` is what ``validate_header`` returned."""
        if len(events) > self._max_batch_events:
            self._check_count(events)
        if header.get("base") is not None:
            header = {**header, "base": read_base(header["base"])}
        stored = [validate_stored(raw, i) for i, raw in enumerate(events)]
        for index, event in enumerate(stored):
            if event["trace_id"] != header["trace_id"]:
                raise Invalid(f"{index}.trace_id: is {event['trace_id']!r}, not {header['trace_id']!r} of the header")
        answer: Appended = await self._writer.do(
            lambda future: Restore(
                future, events=len(stored), size=_size(stored), exclusive=True, header=header, stored=stored
            )
        )
        return answer

    async def delete_trace(self, trace_id: str) -> list[str]:
        """See EventLog.delete_trace."""
        deleted: list[str] = await self._writer.do(lambda future: Delete(future, trace_id=trace_id))
        return deleted

    async def renew_lease(self, trace_id: str) -> None:
        """See EventLog.renew_lease. Looks first: most traces have no lease, and the writer is not troubled for them."""
        if await self._reader.is_renewed_for_nothing(trace_id):
            return
        await self._writer.do(lambda future: Renew(future, trace_id=trace_id))

    async def expire_leases(self) -> list[str]:
        """See EventLog.expire_leases. Looks first: the writer is not troubled while no lease has run out."""
        expired = await self._reader.expired_leases()
        lost = await self._do_all([partial(Expire, trace_id=one) for one in expired])
        return [trace_id for marked in lost for trace_id in marked]

    async def _do_all(self, makes: Sequence[Callable[[asyncio.Future[Any]], Job]]) -> list[Any]:
        """Have jobs done together, each on its own: one that fails (a damaged trace) is raised after the others."""
        answers = await asyncio.gather(*(self._writer.do(make) for make in makes), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    async def cancel(self, trace_id: str, *, reason: str | None = None, by: str | None = None) -> str:
        """See EventLog.cancel."""
        status: str = await self._writer.do(lambda future: Cancel(future, trace_id=trace_id, reason=reason, by=by))
        return status

    async def answer(self, trace_id: str, request_id: str, value: Any, *, by: str | None = None) -> None:
        """See EventLog.answer."""
        canonical({"value": value})  # refuses here what JSON can't say
        await self._writer.do(
            lambda future: Answer(future, trace_id=trace_id, request_id=request_id, value=value, by=by)
        )

    async def expire_inputs(self) -> list[tuple[str, str]]:
        """See EventLog.expire_inputs. Looks first, like expire_leases."""
        expired = await self._reader.expired_inputs()
        closed = await self._do_all(
            [partial(ExpireInput, trace_id=one, request_id=request_id) for one, request_id in expired]
        )
        return [one for one, was_open in zip(expired, closed, strict=True) if was_open]

    @property
    def waiting(self) -> int:
        """See EventLog.waiting."""
        return self._writer.waiting

    async def look(self) -> LogLook:
        """See EventLog.look."""
        return await self._reader.look(self.path)

    async def data_version(self) -> int:
        """See EventLog.data_version."""
        try:
            return int((await fetch(self._probe, "PRAGMA data_version"))[0][0])
        except sqlite3.Error as error:
            fault = fault_of(error)
            raise fault.error("read") if fault else Unavailable("the log can't be read", retry_after_s=1) from error

    async def close(self) -> None:
        """See EventLog.close."""
        await self._watchdog.close()
        await self._writer.close()
        await self._reader.close()
        await self._watchdog.clear_wal()
        await self._probe.close()
        await self._connection.close()


def _size(events: Sequence[Any]) -> int:
    """Bytes, roughly."""
    try:
        return len(orjson.dumps(events))
    except TypeError:  # what JSON can't say is refused in its turn
        return 1024
