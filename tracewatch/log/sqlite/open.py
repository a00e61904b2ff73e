"""A log in a SQLite file, from its path to what serves it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aiosqlite

from ...errors import LogError, LogLocked
from ..log import Log
from . import opening
from .connections import connect, run
from .faults import is_busy
from .storage import SQLiteStorage
from .watchdog import Watchdog

READERS = 3


async def open_sqlite(
    path: str | Path,
    *,
    max_event_bytes: int = 256 * 1024,
    max_batch_events: int = 1000,
    lock_wait_s: float = 10.0,
    max_waiting_bytes: int = 64 * 1024**2,
    clock: Callable[[], float] = time.time,
    steady: Callable[[], float] | None = None,
) -> Log:
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
    storage = SQLiteStorage(
        path,
        connection,
        probe,
        readers,
        epoch=epoch,
        lock_wait_s=lock_wait_s,
        clock=clock,
        steady=steady or machine or clock,
    )
    log = Log(
        storage,
        max_event_bytes=max_event_bytes,
        max_batch_events=max_batch_events,
        lock_wait_s=lock_wait_s,
        max_waiting_bytes=max_waiting_bytes,
    )
    watchdog = Watchdog(storage, health=log.health, group=log.group, reader=log.reader, replaced=log.replaced)
    log.stop_watching = watchdog.close
    return log
