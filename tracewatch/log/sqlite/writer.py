"""Group commit: one writing connection, one transaction for all that waits.

Rule 1: while one transaction is being written the next appends gather; an idle log waits for nothing.
Rule 2: one job's refusal is its own; a failure of the database fails the whole group and leaves nothing of it.
Rule 3: an answer is given after COMMIT has returned, and listeners hear of it before the answer's receiver runs. A
        commit into a file that has lost its name is no commit.
Rule 4: nobody waits without end, and what waits is bounded: another program's lock is tried again in short turns, in
        which those who have waited too long are told so.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import aiosqlite

from ...errors import TracewatchError, Unavailable
from ...model.times import format_time
from .. import Grown, Listener
from ..cache import StateCache
from ..counts import LogCounts
from ..health import CROWDED, DISK_FULL, LOCKED, SLOW, Fault, Health, fault_of, is_busy, said
from ..jobs import Check, Job
from ..rows import Statement, TraceRow, begin, run_all
from ..transaction import Transaction
from .identity import OpenFile

logger = logging.getLogger("tracewatch.log")
GROUP_EVENTS = 2000  # a group that is larger would hold up the loop for longer than a frame
LOCKED_S = 2.0  # a lock held for so long is a trouble
ROOM_BYTES = 1024**2  # a disk with less room is full, even though a small append may find a place


class Writer:
    """The task that owns the writing connection."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        cache: StateCache,
        clock: Callable[[], float],
        steady: Callable[[], float],
        *,
        health: Health,
        file: OpenFile,
        lock_wait_s: float,
        max_waiting_bytes: int,
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._clock = clock
        self._steady = steady
        self._health = health
        self._file = file
        self._lock_wait_s = lock_wait_s
        self._max_waiting_bytes = max_waiting_bytes
        self.counts = LogCounts()
        self._waiting: deque[Job] = deque()  # jobs not yet in a transaction
        self._waiting_bytes = 0  # of those, and of those being written
        self._began: float | None = None  # loop time of the transaction being written
        self._work = asyncio.Event()  # set while there is something to do
        self._closing = False
        self._listeners: list[Listener] = []
        self._task = asyncio.create_task(self._run(), name="tracewatch-writer")

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after each commit; the result takes it back."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def waiting(self) -> int:
        """Jobs that are not in a transaction yet."""
        return len(self._waiting)

    async def do(self, make: Callable[[asyncio.Future[Any]], Job]) -> Any:
        """Have a job done and return its answer. Raises what it raises, or Unavailable."""
        if self._closing:
            raise Unavailable("the log is closing", retry_after_s=1)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        job = make(future)
        if self._waiting_bytes and self._waiting_bytes + job.size > self._max_waiting_bytes:
            raise CROWDED.error("written")
        job.since = loop.time()
        self._waiting.append(job)
        self._waiting_bytes += job.size
        self._work.set()
        return await future

    async def check(self) -> None:
        """See whether the log can be written, unless somebody is just finding out; what it finds is in ``health``."""
        if self._waiting or self._began is not None:
            self._look_at_slow()
            return
        trouble = self._health.of("write")
        try:
            await self.do(lambda future: Check(future, write=trouble is not None and trouble.code != LOCKED.code))
        except Unavailable:
            pass  # it is noted

    def _look_at_slow(self) -> None:
        late = asyncio.get_running_loop().time() - self._lock_wait_s
        if self._began is not None and self._began < late:  # the disk hangs: what it has been given may yet be stored
            self._waiting = deque(self._still_waiting(self._waiting, SLOW))
            self._health.note_error("write", SLOW.error("written"))

    def _still_waiting(self, jobs: Iterable[Job], fault: Fault) -> list[Job]:
        """Those that may wait longer; the others are told that it was in vain."""
        late = asyncio.get_running_loop().time() - self._lock_wait_s
        waiting: list[Job] = []
        for job in jobs:
            if job.since > late and not self._closing:
                waiting.append(job)
            else:
                self._answer(job, fault.error("written"))
        return waiting

    async def close(self) -> None:
        """Finish what waits and end the task. The connection stays open."""
        self._closing = True
        self._work.set()
        await self._task

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                self._work.clear()
                await self._work.wait()
                continue
            group = self._gather()
            await (self._work_bare(group[0]) if group[0].bare else self._write(group))

    async def _work_bare(self, job: Job) -> None:
        self._began = asyncio.get_running_loop().time()
        try:
            self._file.check()
            answer = await job.work(self._connection)
        except Exception as error:
            await self._fail([job], error)
        else:
            self._answer(job, answer)
        finally:
            self._began = None

    def _gather(self) -> list[Job]:
        group = [self._waiting.popleft()]
        events = group[0].events
        while self._waiting and not group[0].exclusive and not self._waiting[0].exclusive and events < GROUP_EVENTS:
            group.append(self._waiting.popleft())
            events += group[-1].events
        return group

    async def _write(self, group: list[Job]) -> None:
        answers: list[tuple[Job, Any]] = []
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        try:
            self._file.check()
            group, rows = await self._begin(group)
            if not group:
                return
            self._began = loop.time()
            try:
                now = self._clock()
                tx = Transaction(self._connection, self._cache, now, self._steady(), format_time(now))
                await tx.load_with_ancestors(rows)
                await tx.load_messages(pair for job in group for pair in job.messages())
                for job in group:
                    answers.append((job, await self._attempt(job, tx)))
                grown, statements = await tx.flush()
                await self._commit(statements)
                self._file.check()
            except BaseException:
                await self._rollback()
                raise
        except Exception as error:
            self.counts.failed_groups += 1
            await self._fail(group, error)
            return
        finally:
            self._began = None
        self._count(len(group), time.perf_counter() - began, grown)
        self._written()
        tx.remember()
        if grown:
            self._tell(grown)
        for job, answer in answers:
            self._answer(job, answer)

    async def _begin(self, group: list[Job]) -> tuple[list[Job], dict[str, TraceRow]]:
        """BEGIN IMMEDIATE, however long another program holds the lock.

        Returns who of the group still waited for it then, and the rows of their traces.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        while group:
            try:
                return group, await begin(self._connection, {trace_id for job in group for trace_id in job.traces()})
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
            if loop.time() - since >= min(LOCKED_S, self._lock_wait_s):
                self._health.note_error("write", LOCKED.error("written"))
            group = self._still_waiting(group, LOCKED)
            self._waiting = deque(self._still_waiting(self._waiting, LOCKED))
        return [], {}

    async def _commit(self, statements: list[Statement]) -> None:
        """Write and COMMIT, which may find the database locked as well: then the transaction is still there."""
        left: deque[Statement] = deque((*statements, ("COMMIT", None)))
        loop = asyncio.get_running_loop()
        until = loop.time() + self._lock_wait_s
        while True:
            try:
                await run_all(self._connection, left)
                return
            except sqlite3.OperationalError as error:
                if not is_busy(error) or loop.time() >= until:
                    raise

    def _written(self) -> None:
        trouble = self._health.of("write")
        if trouble is None:
            return
        if trouble.code == DISK_FULL.code:
            free = self._file.free_bytes()
            if free is not None and free < ROOM_BYTES:
                return
        self._health.clear("write")

    def _count(self, jobs: int, took_s: float, grown: Sequence[Grown]) -> None:
        self.counts.commit_s.add(took_s)
        self.counts.group_jobs.add(jobs)
        for one in grown:
            self.counts.events += len(one.bodies)
            self.counts.bytes += sum(map(len, one.bodies))

    async def _fail(self, group: list[Job], error: Exception) -> None:
        fault = fault_of(error, self._file.free_bytes() if isinstance(error, sqlite3.Error) else None)
        if len(group) > 1 and not isinstance(error, Unavailable) and (fault is None or fault.own):
            # Not the disk's doing: what one job brought with it (a damaged trace, a defect) must not cost the others
            for job in group:
                await self._write([job])
            return
        answer = self._refusal(error, fault)
        for job in group:
            self._answer(job, copy.copy(answer), error)

    def _refusal(self, error: Exception, fault: Fault | None) -> TracewatchError:
        if isinstance(error, Unavailable):  # the file has gone
            return self._health.note_error("file", error)
        if fault is not None:
            area = "damage" if fault.code == "damaged" else "write"
            return self._health.note_error(area, fault.error("written"))
        logger.error(
            "a defect in tracewatch failed a transaction; nothing of it was stored%s", said(error), exc_info=error
        )
        return TracewatchError("an internal error: nothing was stored")

    def _answer(self, job: Job, answer: Any, cause: BaseException | None = None) -> None:
        self._waiting_bytes -= job.size
        if job.future.done():  # whoever waited has gone; what was asked is done all the same
            return
        if isinstance(answer, BaseException):
            answer.__cause__ = cause
            job.future.set_exception(answer)
        else:
            job.future.set_result(answer)

    async def _attempt(self, job: Job, tx: Transaction) -> Any:
        try:
            return await job.run(tx)
        except TracewatchError as refusal:
            return refusal

    async def _rollback(self) -> None:
        try:
            await self._connection.execute_fetchall("ROLLBACK")
        except sqlite3.Error:
            pass  # SQLite has rolled back by itself (disk full, I/O error): there is no transaction left

    def _tell(self, grown: Sequence[Grown]) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(grown)
            except Exception as error:  # its defect; the events are stored, and the writer must live on
                context = {"message": "a listener of the log failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
