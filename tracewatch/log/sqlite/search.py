"""The search index of a SQLite log: a database of its own beside the log's, ``<log>-search``.

Rule 1: a file of its own, so that what is written to the index never waits for the log's lock, nor the log for it.
        What it costs appends: ``python -m benchmarks search``.
Rule 2: of all processes on a log one fills the index: the one that holds the lock on ``<log>-search-lock``. It loses it
        when it dies, however it dies.
Rule 3: an index of another history (a log restored, replaced or copied), of another version, or one that is damaged is
        removed and made anew: it can be.
Rule 4: what was asked for is looked for in the order of places, from the newest. FTS5 is asked for a range of places
        at a time, so that a trace is left when it has given enough, and those that are not asked for are passed over.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import aiosqlite
import orjson

from ...model.terms import Term, positive, separated
from ..patience import Patience
from ..search import Found, SearchProgress
from ..storage import Closing, StorageFault
from . import indexing
from .connections import Readers, Work, WorkConnection, connect, one_moment, patient, run
from .faults import fault_of, told
from .identity import identity
from .obstacles import side_files

T = TypeVar("T")
logger = logging.getLogger("tracewatch.log")
READERS = 2
CACHE_KIB = 8_192
WAL_BYTES = 4 * 1024 * 1024
NO_PLACE = 2**62
COUNTED = 10_000  # traces that are behind: beyond that they are many


def index_path(path: Path) -> Path:
    """The file of the search index of a log."""
    real = path.resolve()  # of a link it is beside where that leads, as SQLite's own files are
    return real.with_name(f"{real.name}-search")


def index_files(path: Path) -> list[Path]:
    """All files of the search index of a log, whether they are there or not."""
    file = index_path(path)
    return [file, *side_files(file), lock_path(path)]


def lock_path(path: Path) -> Path:
    """The file whose lock the process that fills the index holds."""
    file = index_path(path)
    return file.with_name(f"{file.name}-lock")


def remove_index(path: Path) -> None:
    """Remove the index of a log, but for its lock. Nobody may have it open."""
    for file in index_files(path)[:-1]:
        file.unlink(missing_ok=True)


def take_lock(path: Path) -> int | None:
    """The descriptor of the lock on filling an index; None: another process holds it."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def made_anew(file: Path, epoch: str) -> WorkConnection:
    """An empty index of a log's history, in a new file. Only its owner may read it."""
    for old in (file, *side_files(file)):
        old.unlink(missing_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    db = _connect(file)
    try:
        indexing.begin(db, epoch)
    except BaseException:
        db.close()
        raise
    return db


def match_of(terms: Sequence[Term]) -> str:
    """The terms in FTS5's words."""

    def one(term: Term) -> str:
        quoted = " ".join(term.words).replace('"', "")
        return f'"{separated(quoted)}"' + (" *" if term.prefix else "")

    wanted = " AND ".join(one(term) for term in terms if not term.negative)
    unwanted = " OR ".join(one(term) for term in terms if term.negative)
    return f"({wanted}) NOT ({unwanted})" if unwanted else wanted


class SQLiteSearch:
    """A SearchIndex (see there) beside a SQLite log."""

    def __init__(
        self, path: Path, epoch: str, open_log: Callable[[], WorkConnection], is_replaced: Callable[[], bool]
    ) -> None:
        """``open_log``: a connection to the log that only reads. ``is_replaced``: another file has taken its place."""
        self.path = index_path(path)
        self._lock_path = lock_path(path)
        self._epoch = epoch
        self._open_log = open_log
        self._is_replaced = is_replaced
        self._writing: aiosqlite.Connection | None = None  # to the index: this process fills it
        self._log: sqlite3.Connection | None = None  # used in the thread of the one before only
        self._readers: Readers | None = None
        self._lock: int | None = None  # the descriptor of the lock that this process holds
        self._opening = asyncio.Lock()
        self._closed = False
        self._read_from: tuple[int, int] | None = None  # the file that the readers have open, and
        self._written_to: tuple[int, int] | None = None  # the one that is filled
        self.trouble = ""  # why the index can't be filled

    # --- finding ---

    async def find(
        self,
        terms: Sequence[Term],
        *,
        before: int | None,
        traces: Collection[int] | None,
        limit: int,
        per_trace: int,
        patience: Patience,
    ) -> tuple[list[Found], int | None]:
        """See SearchIndex.find."""
        match = match_of(terms)
        place = NO_PLACE if before is None else before

        def work(db: sqlite3.Connection) -> tuple[list[Found], int | None]:
            return _find(db, match, place, traces, limit, per_trace, patience)

        return await self._read(patient(one_moment(work), patience))

    async def traces_with(self, terms: Sequence[Term], most: int, patience: Patience) -> list[int] | None:
        """See SearchIndex.traces_with."""
        match = match_of(positive(terms))
        return await self._read(patient(one_moment(lambda db: _traces_with(db, match, most, patience)), patience))

    async def among(self, terms: Sequence[Term], trace_ids: Collection[str], patience: Patience) -> set[str]:
        """See SearchIndex.among."""
        return await self._read(patient(one_moment(lambda db: _among(db, terms, trace_ids)), patience))

    async def progress(self) -> SearchProgress:
        """See SearchIndex.progress."""
        try:
            known = await self._read(indexing.meta)
            behind, traces = await self._read(self._behind(int(known["changed"]), int(known["changed_key"])))
        except StorageFault as fault:
            return SearchProgress("off", 0, 0, self.trouble or fault.fault.text)
        state = "building" if not known["built"] else "behind" if behind else "current"
        return SearchProgress(state, behind, traces, self.trouble)

    def _behind(self, changed: int, key: int) -> Work[tuple[int, int]]:
        def work(db: sqlite3.Connection) -> tuple[int, int]:
            log = self._open_log()
            try:
                sql = "SELECT 1 FROM traces WHERE change_seq >= ? AND (change_seq, trace_key) > (?, ?) LIMIT ?"
                values = (changed, changed, key, COUNTED)
                (behind,) = log.execute(f"SELECT COUNT(*) FROM ({sql})", values).fetchone()
                (traces,) = log.execute("SELECT COUNT(*) FROM traces").fetchone()
                return int(behind), int(traces)
            finally:
                log.close()

        return work

    async def _read(self, work: Work[T]) -> T:
        with told():
            return await (await self._opened()).run(work)

    async def _opened(self) -> Readers:
        if self._closed:
            raise Closing
        async with self._opening:
            file = identity(self.path)
            if self._readers is not None and file != self._read_from:  # it was made anew
                readers, self._readers = self._readers, None
                await readers.close()
            if self._readers is None:
                if file is None:
                    raise sqlite3.OperationalError("there is no search index yet")
                self._read_from = file
                connections: list[aiosqlite.Connection] = []
                try:
                    for _ in range(READERS):
                        connections.append(await connect(self._open_reading))
                except BaseException:
                    for one in connections:
                        await one.close()
                    raise
                self._readers = Readers(connections)
            return self._readers

    def _open_reading(self) -> WorkConnection:
        db = _connect(self.path)
        try:
            db.execute("PRAGMA wal_autocheckpoint = 0")
            db.execute("PRAGMA query_only = 1")
            known = indexing.meta(db)
            if (known.get("version"), known.get("epoch")) != (indexing.VERSION, self._epoch):
                raise sqlite3.OperationalError("the search index is of another log, and not made anew yet")
        except BaseException:
            db.close()
            raise
        return db

    # --- filling ---

    async def step(self) -> bool:
        """See SearchIndex.step. What fails is noted as ``trouble``."""
        if self._closed or self._is_replaced():
            return False
        try:
            if self._writing is not None and identity(self.path) != self._written_to:
                await self._let_go()  # somebody wants it anew
            if self._writing is None and not await self._begin():
                return False
            assert self._writing is not None
            more = await run(self._writing, self._step)
        except indexing.LogUnreadable as error:
            self._note(f"the log can't be read: {error}")
            return False
        except (sqlite3.Error, OSError) as error:
            await self._failed(error)
            return False
        self.trouble = ""
        return more

    def _step(self, db: sqlite3.Connection) -> bool:
        assert self._log is not None
        return indexing.step(db, self._log)

    async def _begin(self) -> bool:
        """Open the index to fill it. False: another process does that."""
        if self._lock is None and not self._take_lock():
            return False
        self._writing = await connect(self._open_writing)
        self._written_to = identity(self.path)
        self._log = await run(self._writing, lambda db: self._open_log())
        return True

    def _take_lock(self) -> bool:
        self._lock = take_lock(self._lock_path)
        return self._lock is not None

    def _open_writing(self) -> WorkConnection:
        db: WorkConnection | None = None
        try:
            db = _connect(self.path)
            known = indexing.meta(db)
            if (known.get("version"), known.get("epoch")) == (indexing.VERSION, self._epoch):
                return db
        except sqlite3.Error as error:
            fault = fault_of(error)
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR and (
                fault is None or fault.area != "damage"
            ):
                if db is not None:
                    db.close()
                raise  # it may be good
        if db is not None:
            db.close()
        return made_anew(self.path, self._epoch)

    async def _failed(self, error: sqlite3.Error | OSError) -> None:
        fault = fault_of(error)
        self._note(fault.text if fault is not None else str(error))
        await self._let_go()
        if fault is not None and fault.area == "damage":
            logger.warning("the search index %s is damaged (%s), and is made anew", self.path, error)
            self.path.unlink(missing_ok=True)

    def _note(self, trouble: str) -> None:
        if trouble != self.trouble:
            logger.warning("search does not go on: %s", trouble)
        self.trouble = trouble

    async def rebuild(self) -> None:
        """See SearchIndex.rebuild. Whoever fills the index sees that its file is gone."""
        await self._let_go()
        self.path.unlink(missing_ok=True)

    # --- the end ---

    async def _let_go(self) -> None:
        """Close what is open, but for the lock."""
        writing, log, readers = self._writing, self._log, self._readers
        self._writing = self._log = self._readers = None
        if readers is not None:
            await readers.close()
        if writing is not None:
            if log is not None:
                await run(writing, lambda db: log.close())
            await writing.close()

    async def close(self) -> None:
        """See SearchIndex.close."""
        self._closed = True
        await self._let_go()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _connect(path: Path) -> WorkConnection:
    db = sqlite3.connect(path, isolation_level=None, factory=WorkConnection)
    try:
        db.execute("PRAGMA busy_timeout = 5000")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is read again
        db.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        db.close()
        raise
    return db


# --- looking ---------------------------------------------------------------------------------------------------

_NEXT = "SELECT rowid FROM found WHERE found MATCH ? AND rowid BETWEEN ? AND ? ORDER BY rowid DESC LIMIT ?"


def _find(
    db: sqlite3.Connection,
    match: str,
    before: int,
    traces: Collection[int] | None,
    limit: int,
    per_trace: int,
    patience: Patience,
) -> tuple[list[Found], int | None]:
    slots = None if traces is None else _slots(db, traces)
    places: list[int] = []
    while True:
        patience.check()
        low = 0
        if slots is not None:  # in one trace at a time
            number = bisect_left(slots, indexing.slot_of(before - 1) + 1) - 1
            if number < 0:
                return _read_texts(db, places), None
            low = indexing.first_place(slots[number])
            before = min(before, indexing.first_place(slots[number] + 1))
        if len(places) == limit:  # whether there is more
            more = db.execute(_NEXT, (match, low, before - 1, 1)).fetchone()
            if more is None and slots is not None:
                before = low
                continue
            return _read_texts(db, places), None if more is None else before
        found = [place for (place,) in db.execute(_NEXT, (match, low, before - 1, limit - len(places)))]
        if found:
            before = _take(places, found, per_trace)
        elif slots is None:
            return _read_texts(db, places), None
        else:
            before = low


def _slots(db: sqlite3.Connection, traces: Collection[int]) -> list[int]:
    """The slots of traces, in their order."""
    sql = "SELECT slot FROM traces WHERE trace_key IN (SELECT value FROM json_each(?)) ORDER BY slot"
    return [slot for (slot,) in db.execute(sql, (orjson.dumps(list(traces)).decode(),))]


def _take(places: list[int], found: Sequence[int], per_trace: int) -> int:
    """Take what may be taken of each trace; the place before which to go on."""
    for place in found:
        slot = indexing.slot_of(place)
        if sum(1 for one in places[-per_trace:] if indexing.slot_of(one) == slot) >= per_trace:
            return indexing.first_place(slot)  # leave this trace
        places.append(place)
    return found[-1]


def _traces_with(db: sqlite3.Connection, match: str, most: int, patience: Patience) -> list[int] | None:
    keys: list[int] = []
    before = NO_PLACE
    while found := db.execute(_NEXT, (match, 0, before - 1, 1)).fetchone():
        patience.check()
        if len(keys) == most:
            return None
        slot = indexing.slot_of(found[0])
        before = indexing.first_place(slot)
        keys += [key for (key,) in db.execute("SELECT trace_key FROM traces WHERE slot = ?", (slot,))]
    return keys


def _among(db: sqlite3.Connection, terms: Sequence[Term], trace_ids: Collection[str]) -> set[str]:
    wanted = positive(terms)
    tests = [(match_of(wanted), True)] if wanted else []
    tests += [(match_of([replace(term, negative=False)]), False) for term in terms if term.negative]
    found: set[str] = set()
    for trace_id in trace_ids:
        row = db.execute("SELECT slot FROM traces WHERE trace_id = ?", (trace_id,)).fetchone()
        bounds = (0, -1) if row is None else (indexing.first_place(row[0]), indexing.first_place(row[0] + 1) - 1)
        if all((db.execute(_NEXT, (match, *bounds, 1)).fetchone() is not None) is due for match, due in tests):
            found.add(trace_id)
    return found


def _read_texts(db: sqlite3.Connection, places: Sequence[int]) -> list[Found]:
    found: list[Found] = []
    sql = "SELECT t.trace_key, t.trace_id, x.kind, x.label, x.name, x.at, x.text FROM texts AS x, traces AS t"
    for place in places:
        slot = indexing.slot_of(place)
        row = db.execute(f"{sql} WHERE x.place = ? AND t.slot = ?", (place, slot)).fetchone()
        if row is not None:
            key, trace_id, kind, label, name, at, text = row
            event_id = place - indexing.first_place(slot)
            found.append(Found(place, key, trace_id, event_id, kind, label, name, at, indexing.unpacked(text)))
    return found
