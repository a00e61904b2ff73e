"""The connections of a SQLite file: aiosqlite owns each and its thread, and a whole unit of work is one hop to it.

A hop is two turns of a loop that may have much else to do, and aiosqlite's own methods make one for each statement.
So work that knows what it does is written as a plain function of a ``sqlite3.Connection``, and ``run`` has it called
in the connection's thread, from BEGIN to COMMIT.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import aiosqlite

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
_WORK = "-- a function, not a statement"


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
