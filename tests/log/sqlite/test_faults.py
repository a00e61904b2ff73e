"""Faults of SQLite: files that can't be opened, full disks, damaged databases, and databases that others lock."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from tests.log.helpers import Heard, bodies, check_trace, create, fetch, notes, opened, say, settle, soon, sqlite
from tracewatch.errors import LogError, Unavailable
from tracewatch.log import Appended, EventLog, open_log
from tracewatch.log.sqlite.connections import run
from tracewatch.log.sqlite.faults import fault_of

pytestmark = pytest.mark.anyio


# --- opening ---


async def refused(url: str, *words: str) -> None:
    """Opening is refused by an error that says why, and leaves no thread behind."""
    before = threading.active_count()
    with pytest.raises(LogError) as caught:
        await open_log(url)
    for word in words:
        assert word in caught.value.message
    for _ in range(1000):
        if threading.active_count() <= before:  # one of an earlier log may have been ending still
            break
        await asyncio.sleep(0.005)
    assert threading.active_count() <= before


async def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (f"sqlite:///{tmp_path}/a.db", "sqlite:///a.db", f"{tmp_path}/a.db", "a.db"):
        async with opened(url) as log:
            assert sqlite(log).path.resolve() == tmp_path / "a.db"
    await refused("postgres://host/db", "postgres://")
    await refused("sqlite://", "empty")
    await refused("", "empty")
    await refused(":memory:", "WAL")


async def test_a_missing_folder(tmp_path: Path) -> None:
    await refused(f"{tmp_path}/no/such/log.db", f"there is no folder '{tmp_path}/no/such'")
    assert not (tmp_path / "no").exists()


async def test_a_directory(tmp_path: Path) -> None:
    await refused(str(tmp_path), str(tmp_path), "unable to open")


async def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Shopping list: milk, bread, and many other things.\n" * 100)
    await refused(str(tmp_path / "notes.txt"), "notes.txt", "not a database")


async def test_another_programs_database(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "theirs.db")
    connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    await refused(str(tmp_path / "theirs.db"), "another program")
    connection = sqlite3.connect(tmp_path / "theirs.db")
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("bookmarks",)]
    connection.close()


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """For root nothing is read-only."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A log in a folder that anybody may enter and nobody may write to."""
    with tempfile.TemporaryDirectory() as made:
        folder, path = Path(made), Path(made) / "log.db"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE schema_migrations (number, name)")
        connection.close()
        path.chmod(0o444)
        folder.chmod(0o555)
        yield path
        folder.chmod(0o755)


async def test_a_read_only_file(read_only: Path, ordinary_user: None) -> None:
    await refused(str(read_only), "log.db", "may not write to", "mode 0444")


async def test_a_read_only_folder(read_only: Path, ordinary_user: None) -> None:
    await refused(str(read_only.with_name("new.db")), "new.db", "may not make files in the folder")


# --- a full disk ---


async def test_a_full_disk_and_room_again(log: EventLog) -> None:
    await create(log)
    await log.append("t", [say("before")], producer="p", seq=1)
    (pages,) = (await fetch(log, "PRAGMA page_count"))[0]
    await fetch(log, f"PRAGMA max_page_count = {pages + 2}")
    heard = Heard(log)
    stored, seq = 1, 2
    while stored < 1000:
        try:
            await log.append("t", [say("x" * 3000), say("y")], producer="p", seq=seq)
        except Unavailable as error:
            assert "full" in error.message
            break
        stored, seq = stored + 2, seq + 2
    assert stored < 100
    told = len(heard.commits)
    for _ in range(3):
        answers = await asyncio.gather(
            log.append("t", [say("x" * 30_000)], producer="p", seq=seq),
            log.append("t", [say("x" * 30_000)]),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
    assert len(heard.commits) == told
    assert len(await bodies(log)) == stored
    assert await log.last_seq("t", "p") == seq - 1
    await check_trace(log)
    await fetch(log, "PRAGMA max_page_count = 1000000")
    assert await log.append("t", [say("x" * 30_000)], producer="p", seq=seq) == Appended(stored + 1, stored + 1)
    await check_trace(log)
    assert (await fetch(log, "PRAGMA integrity_check"))[0][0] == "ok"


async def test_a_full_disk_while_migrating(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "log.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()

    def too_small(db: sqlite3.Connection) -> str:
        db.execute("PRAGMA max_page_count = 5")
        return str(db.execute("PRAGMA journal_mode = WAL").fetchone()[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracewatch.log.sqlite.opening.set_wal", too_small)
        await refused(str(tmp_path / "log.db"), "full")
    async with opened(str(tmp_path / "log.db")) as log:
        await create(log)
        await check_trace(log)


# --- damage, and others ---


async def test_a_damaged_trace_costs_only_itself(
    log: EventLog, hold: Callable[[], AbstractContextManager[None]]
) -> None:
    await create(log, "good")
    await create(log, "bad")
    await log.append("bad", notes(5))
    await fetch(log, "DELETE FROM events WHERE event_key & 0xffffffff = 3")
    async with opened(str(sqlite(log).path)) as fresh:
        with hold():
            tasks = [asyncio.create_task(fresh.append(t, notes(1))) for t in ("good", "good", "bad", "good")]
            await settle()
        answers = await soon(asyncio.gather(*tasks, return_exceptions=True))
        assert isinstance(answers[2], Unavailable)
        assert [answers[n] for n in (0, 1, 3)] == [Appended(n, n) for n in (1, 2, 3)]
        with pytest.raises(Unavailable):
            await fresh.snapshot("bad")
        assert len((await fresh.read("bad", 0, max_events=2, max_bytes=9999)).bodies) == 2
        for after in (0, 1, 2):
            with pytest.raises(Unavailable, match="hole"):
                await fresh.read("bad", after, max_events=4, max_bytes=9999)
        await check_trace(fresh, "good")


async def test_a_database_that_is_held_too_long(
    log: EventLog, hold: Callable[[], AbstractContextManager[None]]
) -> None:
    await create(log)
    async with opened(str(sqlite(log).path), lock_wait_s=0.1) as other:
        with hold():
            with pytest.raises(Unavailable) as caught:
                await soon(other.append("t", notes(1)))
            assert "locked" in caught.value.message
            assert caught.value.facts == {"reason": "locked", "retry_after_s": 1}
            assert [trouble.code for trouble in other.health.troubles] == ["locked"]
            assert await bodies(other) == [], "reading goes on"
        assert await other.append("t", notes(1)) == Appended(1, 1)
        assert other.health.troubles == []


async def test_what_waits_is_bounded(log: EventLog, hold: Callable[[], AbstractContextManager[None]]) -> None:
    await create(log)
    async with opened(str(sqlite(log).path), max_waiting_bytes=10_000) as other:
        with hold():
            first = asyncio.create_task(other.append("t", [say("x" * 20_000)]))  # alone it may be of any size
            await settle()
            with pytest.raises(Unavailable) as caught:
                await soon(other.append("t", notes(1)))
            assert caught.value.facts["reason"] == "too_many_waiting"
        assert await soon(first) == Appended(1, 1)
        fifty = [other.append("t", [say("x" * 1000)]) for _ in range(50)]
        answers = await soon(asyncio.gather(*fifty, return_exceptions=True))
        assert 8 <= sum(isinstance(answer, Appended) for answer in answers) <= 12
        assert await other.append("t", [say("x" * 9_000)]) == Appended(*[len(await bodies(other))] * 2)


async def test_closing_does_not_wait_for_a_lock(
    log: EventLog, hold: Callable[[], AbstractContextManager[None]]
) -> None:
    await create(log)
    other = await open_log(str(sqlite(log).path))
    with hold():
        waits = asyncio.create_task(other.append("t", notes(1)))
        await settle()
        await asyncio.wait_for(other.close(), 5)
        with pytest.raises(Unavailable):
            await waits


async def pragma(connection: aiosqlite.Connection, name: str) -> Any:
    row = await run(connection, lambda db: db.execute(f"PRAGMA {name}").fetchone())
    return row and row[0]


async def test_settings_of_the_connections(log: EventLog) -> None:
    (mode,) = (await fetch(log, "PRAGMA journal_mode"))[0]
    (synchronous,) = (await fetch(log, "PRAGMA synchronous"))[0]
    assert (mode, synchronous) == ("wal", 2)
    for reader in (sqlite(log)._probe, *sqlite(log)._readers._connections):
        assert await pragma(reader, "query_only") == 1
        assert await pragma(reader, "wal_autocheckpoint") == 0
        assert await pragma(reader, "mmap_size") in (None, 0)


async def test_a_commit_that_finds_the_file_locked_for_too_long(tmp_path: Path) -> None:
    """COMMIT is refused although the transaction has its lock: nothing is stored, and the reason is said."""
    async with opened(str(tmp_path / "log.db"), lock_wait_s=0.05) as log:
        await create(log)
        busy = sqlite3.OperationalError("database is locked")
        busy.sqlite_errorcode = sqlite3.SQLITE_BUSY

        def refusing(db: sqlite3.Connection, changes: object) -> dict[str, int]:
            raise busy

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tracewatch.log.sqlite.write.write", refusing)
            with pytest.raises(Unavailable) as caught:
                await log.append("t", [say("x")])
            assert caught.value.facts["reason"] == "locked"
            patch.setattr("tracewatch.log.sqlite.read.rows", lambda *_: refusing(*_[:2]))
            with pytest.raises(Unavailable) as caught:
                await log.summaries(["t"])
            assert caught.value.facts["reason"] == "locked"
        assert (await log.append("t", [say("x")])).last_event_id == 1


def test_a_process_that_stopped_with_the_locks_of_the_wal_is_a_lock() -> None:
    error = sqlite3.OperationalError("locking protocol")
    error.sqlite_errorcode = sqlite3.SQLITE_PROTOCOL
    fault = fault_of(error)
    assert fault is not None and fault.code == "locked"
