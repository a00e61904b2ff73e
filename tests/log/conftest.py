"""The logs that the contract suite runs on. Another backend is an entry in ``BACKENDS``, and a ``hold`` for it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.log.helpers import MEMORIES, Clock, open_any
from tracewatch.log import EventLog

BACKENDS = ("sqlite", "memory")
Hold = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a log can be made."""
    return f"{request.param}:///{tmp_path / 'log.db'}"


@pytest.fixture(autouse=True)
def forget_memories() -> Iterator[None]:
    """Logs in memory end with their test."""
    yield
    MEMORIES.clear()


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """The file of a SQLite log."""
    return tmp_path / "log.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def log(url: str, clock: Clock) -> AsyncIterator[EventLog]:
    """A new log whose clock stands still."""
    opened = await open_any(url, clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
async def other(url: str, clock: Clock, log: EventLog) -> AsyncIterator[EventLog]:
    """The same log opened once more, as another process would."""
    opened = await open_any(url, clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
def hold(url: str, log: EventLog) -> Hold:
    """A gate: while it is held no transaction of any process can begin to write."""

    @contextmanager
    def gate() -> Iterator[None]:
        if url.startswith("memory:"):
            memory = MEMORIES[url]
            memory.holder = gate
            try:
                yield
            finally:
                memory.holder = None
            return
        connection = sqlite3.connect(url.split(":///")[1], isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
            connection.close()

    return gate
