"""Group commit: one writing connection, one transaction for all that waits.

Rule 1: while one transaction is being written the next appends gather; an idle log waits for nothing.
Rule 2: one job's refusal is its own; a failure of the database fails the whole group and leaves nothing of it.
Rule 3: an answer is given after COMMIT has returned, and listeners hear of it before the answer's receiver runs.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import aiosqlite

from ..errors import TracewatchError, Unavailable
from ..model.times import format_time
from . import Grown, Listener
from .cache import StateCache
from .jobs import Job
from .transaction import Transaction

logger = logging.getLogger("tracewatch.log")
GROUP_EVENTS = 2000  # a group that is larger would hold up the loop for longer than a frame


class Writer:
    """The task that owns the writing connection."""

    def __init__(
        self, connection: aiosqlite.Connection, cache: StateCache, clock: Callable[[], float] = time.time
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._clock = clock
        self._waiting: deque[Job] = deque()  # jobs not yet in a transaction
        self._work = asyncio.Event()  # set while there is something to do
        self._closing = False
        self._listeners: list[Listener] = []
        self._task = asyncio.create_task(self._run(), name="tracewatch-writer")

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after each commit; the result takes it back."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def do(self, make: Callable[[asyncio.Future[Any]], Job]) -> Any:
        """Have a job done and return its answer. Raises what it raises, or Unavailable."""
        if self._closing:
            raise Unavailable("the log is closing", retry_after_s=1)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(make(future))
        self._work.set()
        return await future

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
            await self._write(self._gather())

    def _gather(self) -> list[Job]:
        group = [self._waiting.popleft()]
        events = group[0].events
        while self._waiting and not group[0].exclusive and not self._waiting[0].exclusive and events < GROUP_EVENTS:
            group.append(self._waiting.popleft())
            events += group[-1].events
        return group

    async def _write(self, group: list[Job]) -> None:
        answers: list[tuple[Job, Any]] = []
        try:
            await self._connection.execute_fetchall("BEGIN IMMEDIATE")
            try:
                now = self._clock()
                tx = Transaction(self._connection, self._cache, now, format_time(now))
                await tx.load((trace_id for job in group for trace_id in job.traces()), with_ancestors=True)
                await tx.load_messages(pair for job in group for pair in job.messages())
                for job in group:
                    answers.append((job, await self._attempt(job, tx)))
                grown = await tx.flush()
                await self._connection.execute_fetchall("COMMIT")
            except BaseException:
                await self._rollback()
                raise
        except Exception as error:
            await self._fail(group, error)
            return
        tx.remember()
        if grown:
            self._tell(grown)
        for job, answer in answers:
            _resolve(job.future, answer)

    async def _fail(self, group: list[Job], error: Exception) -> None:
        if len(group) > 1 and not isinstance(error, sqlite3.OperationalError):
            # Not the disk's doing: what one job brought with it (a damaged trace, a defect) must not cost the others
            for job in group:
                await self._write([job])
            return
        for job in group:
            _resolve(job.future, _failure(error), error)

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


def _failure(error: Exception) -> TracewatchError:
    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
        return Unavailable(f"the log can't be written: {error}", retry_after_s=1)
    logger.error("a defect in tracewatch failed a transaction; nothing of it was stored", exc_info=error)
    return TracewatchError("an internal error: nothing was stored")


def _resolve(future: asyncio.Future[Any], answer: Any, cause: BaseException | None = None) -> None:
    if future.done():  # whoever waited has gone; what was asked is done all the same
        return
    if isinstance(answer, BaseException):
        answer.__cause__ = cause
        future.set_exception(answer)
    else:
        future.set_result(answer)
