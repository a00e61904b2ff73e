"""Backups are whole while other processes write, and a failed one leaves nothing behind."""

# ruff: noqa: ASYNC220 (nothing else runs in these loops)

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.log.helpers import bodies, check_trace, create, events, notes, opened, soon
from tests.support import DEADLINE_S
from tracewatch.errors import InvalidField, LogError, NewerDatabase, TracewatchError
from tracewatch.log import EventLog
from tracewatch.log.sqlite.backup import Copied, backup
from tracewatch.log.sqlite.doctor import errors
from tracewatch.log.sqlite.migrate import available

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def big(log: EventLog) -> EventLog:
    """A log of a few thousand pages: several steps."""
    await create(log)
    for _ in range(20):
        await log.append("t", notes(1000, "x" * 400))
    return log


def names(folder: Path) -> set[str]:
    """What lies there; the -wal and -shm of a source are its readers' and may come and go."""
    sides = tuple(f".{kind}{side}" for kind in ("db", "txt") for side in ("-wal", "-shm"))
    return {path.name for path in folder.iterdir() if not path.name.endswith(sides)}


async def test_one_checked_file_for_its_owner(big: EventLog, db: Path, tmp_path: Path) -> None:
    await create(big, "u", "another")
    folder = tmp_path / "backups"
    folder.mkdir()
    copied = await asyncio.to_thread(backup, db, folder / "b.db")
    assert copied == Copied(folder / "b.db", (folder / "b.db").stat().st_size, big.epoch, len(available()), 2, 20_000)
    assert names(folder) == {"b.db"}
    assert copied.path.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copied.path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",), "read without a -wal beside it"
    async with opened(str(copied.path)) as copy:
        assert copy.epoch != big.epoch, "opened as a log it goes on as another history"
        assert await events(copy) == await events(big)
        await check_trace(copy)


async def test_appends_do_not_wait_and_are_not_in_it(big: EventLog, db: Path, tmp_path: Path) -> None:
    """A busy log: another process commits between any two steps. It never begins again."""
    reached, go = threading.Event(), threading.Event()
    steps: list[int] = []

    def progress(what: str, done: int, total: int) -> None:
        if what == "copy":
            steps.append(done)
            with closing(sqlite3.connect(db, isolation_level=None)) as other:
                other.execute("UPDATE change_counter SET change_seq = change_seq + 1")
            reached.set()
            assert go.wait(DEADLINE_S)

    task = asyncio.create_task(asyncio.to_thread(backup, db, tmp_path / "b.db", progress=progress))
    await asyncio.to_thread(reached.wait, DEADLINE_S)
    before = await events(big)
    for _ in range(5):
        await soon(big.append("t", notes(100)))
    go.set()
    assert (await soon(task)).events == len(before)
    assert steps == sorted(set(steps))
    assert len(steps) > 2
    async with opened(str(tmp_path / "b.db")) as copy:
        assert await events(copy) == before
        await check_trace(copy)
    await check_trace(big)


@pytest.mark.slow
async def test_of_a_log_that_another_process_fills(tmp_path: Path) -> None:
    """Real processes: everything acknowledged before it began is in it."""
    db = tmp_path / "log.db"
    command = [sys.executable, "-m", "tests.crash.writer", str(db), "w"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            for turn in range(3):
                for _ in range(100):
                    line = await asyncio.to_thread(writer.stdout.readline)
                last = int(line.split()[3]) + int(line.split()[2]) - 1
                copied = await asyncio.to_thread(backup, db, tmp_path / f"{turn}.db")
                assert copied.events >= last
        finally:
            writer.kill()
    for turn in range(3):
        async with opened(str(tmp_path / f"{turn}.db")) as copy:
            await check_trace(copy)


# --- refused, or gone wrong ---


def refused(source: Path, target: Path, *words: str, error: type[TracewatchError] = LogError) -> None:
    folder = target.parent
    before = names(folder) if folder.is_dir() else set()
    with pytest.raises(error) as caught:
        backup(source, target)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert not folder.is_dir() or names(folder) == before


async def test_targets(log: EventLog, db: Path, tmp_path: Path) -> None:
    await create(log)
    (tmp_path / "there.db").write_text("mine")
    refused(db, tmp_path / "there.db", "exists already", "--force", error=InvalidField)
    refused(db, tmp_path, "is a folder", error=InvalidField)
    refused(db, tmp_path / "no" / "b.db", "no folder", error=InvalidField)
    (tmp_path / "link").symlink_to(db)
    for own in ("log.db", "log.db-wal", "link"):
        with pytest.raises(InvalidField, match="the log itself"):
            backup(db, tmp_path / own, replace=True)
    assert (tmp_path / "there.db").read_text() == "mine"
    assert backup(db, tmp_path / "there.db", replace=True).traces == 1
    assert (tmp_path / "there.db").stat().st_mode & 0o777 == 0o600


async def test_sources(log: EventLog, db: Path, tmp_path: Path) -> None:
    await create(log)
    target = tmp_path / "b.db"
    refused(tmp_path / "none.db", target, "there is no log", "none.db")
    refused(tmp_path, target, "a folder")
    (tmp_path / "notes.txt").write_text("Shopping list: milk, bread, and many other things.\n" * 100)
    refused(tmp_path / "notes.txt", target, "notes.txt", "not a database")
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    refused(tmp_path / "theirs.db", target, "another program")
    (tmp_path / "empty.db").touch()
    refused(tmp_path / "empty.db", target, "empty")
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("INSERT INTO schema_migrations (number, name) VALUES (999, '0999_later.sql')")
    refused(db, target, "newer tracewatch", error=NewerDatabase)


async def test_of_a_damaged_log(big: EventLog, db: Path, tmp_path: Path) -> None:
    await big.close()
    with db.open("r+b") as file:
        file.seek(4096 * 500)
        file.write(os.urandom(4096 * 3))
    refused(db, tmp_path / "b.db", "damaged", "doctor")


async def test_interrupted(big: EventLog, db: Path, tmp_path: Path) -> None:
    for when in ("copy", "check"):

        def interrupt(what: str, done: int, total: int, when: str = when) -> None:
            if what == when:
                raise KeyboardInterrupt

        before = names(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            backup(db, tmp_path / "b.db", progress=interrupt)
        assert names(tmp_path) == before
    await big.append("t", notes(1))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("can't mount a file system here: needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk(big: EventLog, db: Path, small_disk: Path) -> None:
    rest = small_disk / "rest"

    def fill(what: str, done: int, total: int) -> None:
        with rest.open("wb") as file:
            try:
                file.write(bytes(16 << 20))
            except OSError:
                pass  # now it is full

    with pytest.raises(LogError, match="full"):
        backup(db, small_disk / "b.db", progress=fill)
    assert names(small_disk) == {"rest"}
    with pytest.raises(LogError, match="bytes free"):
        backup(db, small_disk / "b.db")
    rest.unlink()
    assert backup(db, small_disk / "b.db").events == 20_000


def damage_found(db: Path) -> list[str]:
    return [finding.code for finding in errors(db)]


def backup_refused(db: Path) -> list[str]:
    backup(db, db.with_name("copy.db"))
    return []


@pytest.mark.parametrize("judge", [damage_found, backup_refused])
async def test_a_rollback_journal_left_behind(tmp_path: Path, judge: Callable[[Path], list[str]]) -> None:
    """As of a restore killed while it took the -wal in. Any opening takes it back, but for a read-only one."""
    db = tmp_path / "log.db"
    async with opened(str(db)) as log:
        await create(log)
        await log.append("t", notes(3))
    code = (
        "import sqlite3, os, signal, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode = DELETE')\nc.execute('PRAGMA cache_size = 1')\nc.execute('BEGIN IMMEDIATE')\n"
        "c.execute('UPDATE events SET body = zeroblob(20000)')\nc.execute('UPDATE traces SET task = zeroblob(9000)')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, str(db)], timeout=30)
    assert db.with_name("log.db-journal").exists()
    assert judge(db) == []
    async with opened(str(db)) as log:
        assert len(await bodies(log)) == 3
