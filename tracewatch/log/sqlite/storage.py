"""A SQLite file as an engine: WAL, ``synchronous=FULL``, one writing connection, a few reading ones.

Rule 1: the writing connection is the only one of this process that writes or checkpoints.
Rule 2: a unit of work takes two hops to its thread: BEGIN IMMEDIATE with all that is to be loaded, and all writes with
        COMMIT. Heads are not compared: nobody else can write between the two.
Rule 3: a commit into a file that has lost its name is no commit.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiosqlite

from ..counts import LogLook
from ..health import Fault
from ..patience import SLICE_S, Patience
from ..row import TraceRow
from ..storage import (
    BlobRoom,
    Busy,
    Changes,
    Gathering,
    Head,
    InDoubt,
    Loaded,
    Needs,
    OpenInput,
    StorageFault,
    StoredMessage,
    TraceInput,
    Upload,
    View,
    Written,
)
from ..views import Grown, ListPlace, Page, Token, TraceQuery
from . import blobs, housekeeping, lists, read, write
from .connections import Readers, Work, one_moment, one_step, patient, run
from .faults import REPLACED, fault_of, is_busy, told
from .identity import OpenFile
from .turns import NamedTurns

T = TypeVar("T")
SEARCHED_KEYS = 256  # of traces, in the first slice of a search
SEARCHED_TEXT = 3  # characters that the index of texts can look for
ROOM_BYTES = 1024**2  # a disk with less room is full, even though a small append may find a place


class ChangesSeen(NamedTuple):
    """How far the changes of a file have been told."""

    data_version: int  # differs when another connection has written
    change_seq: int


class SQLiteStorage:
    """A Storage (see there) in a SQLite file."""

    optimistic = False

    def __init__(
        self,
        path: Path,
        connection: aiosqlite.Connection,
        probe: aiosqlite.Connection,
        readers: Sequence[aiosqlite.Connection],
        *,
        epoch: str,
        lock_wait_s: float,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self.path = path
        self.epoch = epoch
        self.engine_version = sqlite3.sqlite_version
        self.now = clock
        self.steady = steady
        self.file = OpenFile(path)
        self._turns = NamedTurns(path)
        self._lock_wait_s = lock_wait_s
        self._connection = connection
        self._probe = probe  # asks for data_version and nothing else, so it never waits for a reader
        self._readers = Readers(readers)

    # --- writing ---

    async def begin(self, needs: Needs) -> Loaded:
        """See Storage.begin."""
        return await self._write(lambda db: self._begin(db, needs))

    def _begin(self, db: sqlite3.Connection, needs: Needs) -> Loaded:
        if not db.in_transaction:
            self._check_file()
            db.execute("BEGIN IMMEDIATE")
        try:
            return write.load(db, needs, self.now, self.steady)
        except BaseException:
            _rollback(db)
            raise

    async def commit(self, changes: Changes) -> Written:
        """See Storage.commit."""
        return Written(await self._write(lambda db: self._commit(db, changes)))

    def _commit(self, db: sqlite3.Connection, changes: Changes) -> dict[str, int]:
        try:
            keys = write.write(db, changes)
            until = time.monotonic() + self._lock_wait_s
            while True:
                try:
                    db.execute("COMMIT")
                    break
                except sqlite3.OperationalError as error:  # locked: the transaction is still there
                    if not is_busy(error) or time.monotonic() >= until:
                        raise
        except BaseException:
            _rollback(db)
            raise
        self._check_file()
        return keys

    def _check_file(self) -> None:
        fault = self.file.fault()
        if fault is not None:
            raise StorageFault(fault)

    async def rollback(self) -> None:
        """See Storage.rollback."""
        await run(self._connection, _rollback)

    async def settle(self, changes: Changes) -> Written:
        """See Storage.settle: SQLite always says whether it has committed."""
        raise InDoubt

    async def put_piece(self, key: int | None, sha256: str, piece: int, body: bytes) -> int | None:
        """See Storage.put_piece."""
        now = self.now()
        return await self._care(one_step(lambda db: blobs.put_piece(db, key, sha256, piece, body, now)))

    async def keep_blob(self, upload: Upload) -> BlobRoom | None:
        """See Storage.keep_blob."""
        now = self.now()
        return await self._care(one_step(lambda db: blobs.keep(db, upload, now)))

    async def drop_blob(self, key: int) -> None:
        """See Storage.drop_blob."""
        await self._care(one_step(lambda db: blobs.drop(db, key)))

    async def tend(self, keep_free_share: float, wal_bytes: int) -> bool:
        """See Storage.tend. Looks first: a file with nothing to do is spared the writer's turn."""
        now = min(self.now(), self.steady())  # a clock that is set forward must not remove what is not old
        if await self._read(lambda db: housekeeping.has_leftovers(db, now)):
            return await self._care(lambda db: housekeeping.sweep(db, now))
        pages, free = await self._read(one_moment(housekeeping.pages))
        keep = int(pages * keep_free_share)
        if free > keep and await self._care(lambda db: housekeeping.shrink(db, keep)):
            return True
        if await asyncio.to_thread(housekeeping.extra_bytes, self.path, pages) > wal_bytes:
            await self._care(housekeeping.checkpoint)
        return False

    async def rewrite(self) -> None:
        """See Storage.rewrite."""
        await self._care(housekeeping.vacuum)
        await self._care(housekeeping.checkpoint)

    def has_room(self) -> bool:
        """See Storage.has_room."""
        free = self.file.free_bytes()
        return free is None or free >= ROOM_BYTES

    async def _care(self, work: Work[T]) -> T:
        def checked(db: sqlite3.Connection) -> T:
            self._check_file()
            return work(db)

        return await self._write(checked)

    async def _write(self, work: Work[T]) -> T:
        try:
            return await run(self._connection, work)
        except sqlite3.Error as error:
            if is_busy(error):
                raise Busy from error
            with told(await asyncio.to_thread(self.file.free_bytes)):
                raise

    # --- reading ---

    async def _read(self, work: Work[T], *, always: bool = False) -> T:
        """``always``: also of a file that was replaced."""
        if self.file.replaced and not always:
            raise StorageFault(REPLACED)

        def shrinking(db: sqlite3.Connection) -> T:
            try:
                return work(db)
            except sqlite3.DatabaseError as error:
                if "UTF-8" in str(error):  # one damaged text must not take the others with it
                    return _leniently(db, work)
                fault = fault_of(error)
                if fault is not None and fault.area == "damage":
                    with suppress(sqlite3.Error):  # it must not stay in memory when the file has been repaired
                        db.execute("PRAGMA shrink_memory")
                raise

        with told():
            return await self._readers.run(shrinking)

    async def aside(self, work: Callable[[], T]) -> T:
        """See Storage.aside."""
        return await self._readers.run(lambda db: work())

    async def page(self, trace_id: str, after: int, max_events: int, max_bytes: int) -> Page | None:
        """See Storage.page. One statement is one read transaction."""
        return await self._read(lambda db: read.page(db, trace_id, after, max_events, max_bytes))

    async def view(
        self, trace_id: str, known: Head | None, upto: int | None, *, subs: bool, skip: Collection[int] = ()
    ) -> View | None:
        """See Storage.view."""
        return await self._read(one_moment(lambda db: read.view(db, trace_id, known, upto, subs=subs, skip=skip)))

    async def messages(
        self, trace_id: str, goal_id: str | None, before: int | None, limit: int, patience: Patience
    ) -> tuple[list[StoredMessage], bool] | None:
        """See Storage.messages."""
        work: Work[tuple[list[StoredMessage], bool] | None] = one_moment(
            lambda db: read.messages(db, trace_id, goal_id, before, limit)
        )
        return await self._read(patient(work, patience))

    async def message(self, trace_id: str, message_id: str) -> list[StoredMessage] | None:
        """See Storage.message."""
        return await self._read(one_moment(lambda db: read.message(db, trace_id, message_id)))

    async def gather(self, trace_id: str, begin: Callable[[], Gathering[T]], patience: Patience) -> T | None:
        """See Storage.gather."""
        work: Work[T | None] = one_moment(lambda db: read.gather(db, trace_id, begin(), patience))
        return await self._read(patient(work, patience))

    async def list_traces(
        self, query: TraceQuery, patience: Patience, keys: Collection[int] | None = None
    ) -> tuple[list[TraceRow], bool]:
        """See Storage.list_traces. What is searched for in texts is looked for in slices, others' turns in between."""
        text = lists.text_of(query)
        if keys is not None:
            few: Sequence[int] = list(keys)
            work = one_moment(partial(lists.page, query=query, patience=patience, keys=few))
            return await self._read(patient(work, patience))
        if not text and not query.error:
            return await self._read(patient(one_moment(lambda db: lists.page(db, query, patience)), patience))
        begin, found = await self._read(patient(lambda db: (lists.begin_of(db, query), lists.few(db, query)), patience))
        if found is None and len(text) >= SEARCHED_TEXT:
            found = await self._searched(text, patience)
        if found is not None:
            return await self._read(
                patient(one_moment(lambda db: lists.page(db, query, patience, keys=found, begin=begin)), patience)
            )
        floor = None
        if 0 < len(text) < SEARCHED_TEXT:
            floor = await self._read(lambda db: lists.place_after(db, query, None, lists.SHORT_SEARCH_ROWS))
        return await self._looked_through(query, patience, begin, floor)

    async def _searched(self, text: str, patience: Patience) -> list[int] | None:
        """The keys of the traces whose texts may have ``text`` in them, if they are few. The index can't be stopped."""
        found: list[int] = []
        before, pace = 1 + await self._read(lists.newest_key), _Pace()
        while before > 1 and len(found) < lists.FEW:
            after, room = max(0, before - 1 - pace.size), lists.FEW - len(found)
            found += await self._read(
                patient(partial(lists.searched, text=text, after=after, before=before, most=room), patience)
            )
            before = after + 1
            pace.step()
        return found if len(found) < lists.FEW else None

    async def _looked_through(
        self, query: TraceQuery, patience: Patience, begin: ListPlace | None, floor: ListPlace | None
    ) -> tuple[list[TraceRow], bool]:
        """Along the order of the list, and no further than ``floor``."""
        found: list[TraceRow] = []
        room, pace = query.max_bytes, _Pace()
        while floor is None or begin is None or begin > floor:
            rest = replace(query, limit=query.limit - len(found), max_bytes=room)
            end = await self._read(partial(lists.place_after, query=query, begin=begin, traces=pace.size))
            end = floor if end is None or (floor is not None and end < floor) else end
            rows, more = await self._read(
                patient(one_moment(partial(lists.page, query=rest, patience=patience, begin=begin, end=end)), patience)
            )
            found += rows
            room -= sum([row.listed_bytes() for row in rows])
            if more or len(found) == query.limit or room <= 0 or end is None:
                return found, more or end is not None
            begin = end
            pace.step()
        return found, False

    async def rows(self, trace_ids: Collection[str], below: str | None = None) -> list[TraceRow]:
        """See Storage.rows."""
        return await self._read(lambda db: read.rows(db, trace_ids, below))

    async def keys_below(self, trace_id: str, *, covered: bool) -> list[int]:
        """See Storage.keys_below."""
        return await self._read(lambda db: read.keys_below(db, trace_id, covered=covered))

    async def lines(self, trace_ids: Collection[str]) -> list[TraceRow]:
        """See Storage.lines."""
        return await self._read(lambda db: read.lines(db, trace_ids))

    async def is_below(self, root_id: str, trace_id: str) -> bool:
        """See Storage.is_below. Of a file that was replaced as well: it is asked for tokens."""
        return await self._read(lambda db: read.is_below(db, root_id, trace_id), always=True)

    async def last_seq(self, trace_id: str, producer: str) -> int:
        """See Storage.last_seq."""
        return await self._read(lambda db: read.last_seq(db, trace_id, producer))

    async def open_inputs(
        self, limit: int, below: str | None, after: str | None, patience: Patience
    ) -> tuple[list[OpenInput], str | None]:
        """See Storage.open_inputs."""
        return await self._read(patient(lambda db: read.open_inputs(db, limit, below, after), patience))

    async def inputs_of(self, trace_id: str, request_id: str | None, limit: int) -> list[TraceInput]:
        """See Storage.inputs_of."""
        return await self._read(lambda db: read.inputs_of(db, trace_id, request_id, limit))

    async def blob_room(self, trace_id: str, sha256: str) -> BlobRoom | None:
        """See Storage.blob_room."""
        return await self._read(one_moment(lambda db: blobs.room(db, trace_id, sha256)))

    async def blob_piece(self, blob_key: int, piece: int) -> bytes | None:
        """See Storage.blob_piece."""
        return await self._read(lambda db: blobs.piece(db, blob_key, piece))

    async def expired_leases(self) -> list[str]:
        """See Storage.expired_leases."""
        return await self._read(lambda db: read.expired_leases(db, self.steady()))

    async def expired_inputs(self) -> list[tuple[str, str]]:
        """See Storage.expired_inputs."""
        return await self._read(lambda db: read.expired_inputs(db, self.steady()))

    async def long(self, events: int) -> list[TraceRow]:
        """See Storage.long."""
        return await self._read(lambda db: read.long(db, events))

    async def untouched(self, before: str, statuses: Sequence[str]) -> list[list[TraceRow]]:
        """See Storage.untouched."""
        return await self._read(one_moment(lambda db: read.untouched(db, before, statuses)))

    async def kept_before(self, trace_key: int, event_id: int) -> int:
        """See Storage.kept_before."""
        return await self._read(lambda db: read.kept_before(db, trace_key, event_id))

    async def event_head(self, trace_key: int, event_id: int) -> bytes | None:
        """See Storage.event_head."""
        return await self._read(lambda db: read.event_head(db, trace_key, event_id))

    async def size(self, trace_key: int, first: int, last: int) -> int:
        """See Storage.size."""
        return await self._read(lambda db: read.size(db, trace_key, first, last))

    async def content_size(self, trace_key: int, upto: int | None) -> int:
        """See Storage.content_size."""
        return await self._read(lambda db: blobs.size(db, trace_key, upto))

    async def names(self, trace_key: int, first: int, last: int) -> dict[str, int]:
        """See Storage.names."""
        return await self._read(lambda db: read.names(db, trace_key, first, last))

    async def trimmed(self, trace_id: str, names: Collection[str]) -> int | None:
        """See Storage.trimmed."""
        return await self._read(lambda db: read.trimmed(db, trace_id, names))

    async def tokens(self, token_ids: Collection[str] | None = None, limit: int | None = None) -> list[Token]:
        """See Storage.tokens. Of a file that was replaced as well: who may come in is no history."""
        return await self._read(lambda db: read.tokens(db, token_ids, limit), always=True)

    async def look(self) -> LogLook:
        """See Storage.look."""
        traces, leases, inputs = await self._read(one_moment(lambda db: read.counts(db, self.steady())))
        try:  # a sick disk must not hold up the loop
            db_bytes, wal_bytes, free_bytes = await asyncio.to_thread(housekeeping.sizes, self.path)
        except OSError as error:
            raise StorageFault(Fault("cant_open", f"its files can't be looked at: {error.strerror}")) from error
        return LogLook(db_bytes, wal_bytes, free_bytes, traces, leases, inputs)

    async def gives_back(self) -> bool:
        """See Storage.gives_back."""
        return await self._read(housekeeping.gives_back)

    async def changes(self, seen: Any, traces: Collection[str] | None) -> tuple[list[Grown], Any]:
        """See Storage.changes. Cheap while nobody has written: then it is one question to the probe."""
        if self.file.replaced:
            raise StorageFault(REPLACED)
        with told():
            # The version first: what is written after it shows up as another one next time
            version = await run(self._probe, lambda db: int(db.execute("PRAGMA data_version").fetchone()[0]))
        if isinstance(seen, ChangesSeen) and seen.data_version == version:
            return [], seen
        since = seen.change_seq if isinstance(seen, ChangesSeen) else None
        grown, newest = await self._read(lambda db: read.changes(db, since))
        if traces is not None:
            grown = [one for one in grown if one.trace_id in traces]
        return grown, ChangesSeen(version, newest)

    async def verify(self) -> None:
        """See Storage.verify."""

        def check(db: sqlite3.Connection) -> None:
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(str(found))

        await self._read(check)

    async def clear_wal(self) -> None:
        """Leave nothing beside a database that was put in this one's place. Where that fails, it is done next time."""

        def clear(db: sqlite3.Connection) -> None:
            busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            for side in () if busy else self.file.stray_sides():
                side.unlink()

        if self.file.stray_sides():
            with suppress(sqlite3.Error, OSError):
                await run(self._connection, clear)

    def turn(self, name: str) -> AbstractAsyncContextManager[bool]:
        """See Storage.turn."""
        return self._turns.turn(name)

    async def close(self) -> None:
        """See Storage.close."""
        self._turns.close()
        await self._readers.close()
        await self.clear_wal()
        await self._probe.close()
        await self._connection.close()


class _Pace:
    """How many traces are looked through at once, so that it takes about SLICE_S."""

    def __init__(self) -> None:
        self.size = SEARCHED_KEYS
        self._began = time.monotonic()

    def step(self) -> None:
        """Note that so many have been looked through."""
        took = time.monotonic() - self._began
        if took < SLICE_S / 4:
            self.size *= 4
        elif took > SLICE_S:
            self.size = max(1, self.size // 2)
        self._began = time.monotonic()


def _leniently(db: sqlite3.Connection, work: Work[T]) -> T:
    """Do it with texts that are no UTF-8 read as far as they are."""
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        return work(db)
    finally:
        db.text_factory = str


def _rollback(db: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):  # SQLite has rolled back by itself (disk full, I/O error)
        if db.in_transaction:
            db.execute("ROLLBACK")
