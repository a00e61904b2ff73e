"""The connections of a SQLite file: aiosqlite owns each and its thread, and a whole unit of work is one hop to it.

A hop is two turns of a loop that may have much else to do, and aiosqlite's own methods make one for each statement.
So work that knows what it does is written as a plain function of a ``sqlite3.Connection``, and ``run`` has it called
in the connection's thread, from BEGIN to COMMIT.

Rule 1: a reading connection has one borrower at a time, and comes back without a transaction.
Rule 2: the requests of one client have at most half of the reading connections at a time.
Rule 3: readers never checkpoint (the WAL-reset bug of SQLite before 3.51.3 needs a second checkpointer) and never
        write.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import aiosqlite

from ..patience import CLIENT, Patience, TooLong
from ..storage import Closing

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
_WORK = "-- a function, not a statement"
OPCODES = 10_000  # of SQLite's machine, between two looks at the clock: well under a millisecond


class _Done:
    """What ``execute`` gives for a function instead of a cursor."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def fetchall(self) -> list[Any]:
        return [self._result]


class WorkConnection(sqlite3.Connection):
    """A connection that executes functions as well as statements: aiosqlite has no other public way for them."""

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        if sql is _WORK:
            return _Done(parameters[0](self))
        return super().execute(sql, parameters)


async def connect(open_file: Callable[[], WorkConnection]) -> aiosqlite.Connection:
    """The connection that ``open_file`` makes, in a thread of its own. Raises what ``open_file`` raises."""
    failures: list[Exception] = []

    def connector() -> sqlite3.Connection:
        try:
            return open_file()
        except Exception as error:
            failures.append(error)
            return sqlite3.connect(":memory:")  # to be closed: only with a connection does aiosqlite end its thread

    connection = await aiosqlite.Connection(connector, iter_chunk_size=64)
    if failures:
        await connection.close()
        raise failures[0]
    return connection


async def run(connection: aiosqlite.Connection, work: Work[T]) -> T:
    """Call ``work`` in the connection's thread; the connection must be a ``WorkConnection``."""
    (result,) = cast("Iterable[Any]", await connection.execute_fetchall(_WORK, (work,)))
    return cast("T", result)


@dataclass(slots=True)
class _Turns:
    """The requests of one client that read or wait to."""

    free: asyncio.Semaphore
    users: int = 0


class Readers:
    """A few read-only connections, lent out one by one."""

    def __init__(self, connections: Sequence[aiosqlite.Connection]) -> None:
        self._connections = list(connections)
        self._share = max(1, len(connections) // 2)
        self._clients: dict[str, _Turns] = {}  # those that read, or wait for their turn
        self._closing = False
        self._free: asyncio.LifoQueue[aiosqlite.Connection] = asyncio.LifoQueue()
        for connection in connections:
            self._free.put_nowait(connection)

    async def run(self, work: Work[T]) -> T:
        """Call ``work`` in the thread of a connection that is free. Raises Closing, and what ``work`` raises."""
        client = CLIENT.get()
        if not client:
            return await self._run(work)
        turns = self._clients.setdefault(client, _Turns(asyncio.Semaphore(self._share)))
        turns.users += 1
        try:
            async with turns.free:
                return await self._run(work)
        finally:
            turns.users -= 1
            if not turns.users:
                del self._clients[client]

    async def _run(self, work: Work[T]) -> T:
        connection = await self._free.get()
        try:
            if self._closing:
                raise Closing
            return await run(connection, work)
        finally:
            self._free.put_nowait(connection)

    async def close(self) -> None:
        """Wait for what is being read and close the connections. Callers who still wait hear that it is over."""
        if self._closing:
            return
        self._closing = True
        for _ in self._connections:
            await (await self._free.get()).close()
        for connection in self._connections:
            self._free.put_nowait(connection)


def one_moment(work: Work[T]) -> Work[T]:
    """``work`` in a read transaction, so that all of its statements see the same."""

    def inside(db: sqlite3.Connection) -> T:
        db.execute("BEGIN")
        try:
            return work(db)
        finally:
            with suppress(sqlite3.OperationalError):  # SQLite has ended it by itself
                db.execute("ROLLBACK")

    return inside


def one_step(work: Work[T]) -> Work[T]:
    """``work`` in a transaction that writes: all of it or nothing."""

    def inside(db: sqlite3.Connection) -> T:
        db.execute("BEGIN IMMEDIATE")
        try:
            result = work(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return result

    return inside


def patient(work: Work[T], patience: Patience) -> Work[T]:
    """``work`` as far as the request that asks for it has patience. It raises TooLong."""

    def inside(db: sqlite3.Connection) -> T:
        with patience.spending():
            db.set_progress_handler(patience.is_over, OPCODES)
            try:
                return work(db)
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:  # not all of them have one
                    raise TooLong from error
                raise
            finally:
                db.set_progress_handler(None, 0)

    return inside
