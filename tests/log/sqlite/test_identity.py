"""The identity of a log's file: each history has one epoch, and a replaced file is served no more."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.log.helpers import bodies, create, notes, opened
from tests.support import until
from tracewatch.errors import Unavailable
from tracewatch.log import EventLog, TraceQuery
from tracewatch.log.sqlite.backup import backup
from tracewatch.log.sqlite.restore import restore_file
from tracewatch.log.tokens import token_id_of

pytestmark = pytest.mark.anyio


async def epoch_of(db: Path) -> str:
    async with opened(str(db)) as log:
        return log.epoch


async def test_a_history_has_one_epoch(tmp_path: Path) -> None:
    """It stays with the file wherever that is moved; a log of the version before keeps the one it has."""
    db = tmp_path / "log.db"
    epoch = await epoch_of(db)
    assert await epoch_of(db) == epoch
    assert await epoch_of(db.rename(tmp_path / "moved.db")) == epoch
    with closing(sqlite3.connect(tmp_path / "moved.db", isolation_level=None)) as connection:
        connection.execute("DELETE FROM meta WHERE key = 'inode'")
    assert await epoch_of(tmp_path / "moved.db") == epoch
    (tmp_path / "link.db").symlink_to(tmp_path / "moved.db")
    assert await epoch_of(tmp_path / "link.db") == epoch


def copied(db: Path, to: Path) -> None:
    shutil.copy(db, to)


def backed_up(db: Path, to: Path) -> None:
    backup(db, to)


def backed_up_into_the_old_file(db: Path, to: Path) -> None:
    """The number (inode) of the file is the one that the log had: only the backup itself can say what it is."""
    backup(db, to)
    shutil.copyfile(to, db)
    db.rename(to)


@pytest.mark.parametrize("make", [copied, backed_up, backed_up_into_the_old_file])
async def test_a_copy_is_another_history(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    epoch = await epoch_of(tmp_path / "log.db")
    make(tmp_path / "log.db", tmp_path / "copy.db")
    again = await epoch_of(tmp_path / "copy.db")
    assert again != epoch
    assert await epoch_of(tmp_path / "copy.db") == again


async def test_processes_that_open_a_copy_at_once_agree(tmp_path: Path) -> None:
    epoch = await epoch_of(tmp_path / "log.db")
    copied(tmp_path / "log.db", tmp_path / "copy.db")
    epochs = await asyncio.gather(*(epoch_of(tmp_path / "copy.db") for _ in range(5)))
    assert len({epoch, *epochs}) == 2


async def test_what_restore_tells_is_the_epoch(tmp_path: Path) -> None:
    await epoch_of(tmp_path / "log.db")
    copy = backup(tmp_path / "log.db", tmp_path / "b.db").path
    assert restore_file(copy, tmp_path / "log.db", replace=True).log.epoch == await epoch_of(tmp_path / "log.db")


def replaced_by_a_copy(db: Path) -> Callable[[], Path]:
    """Put a copy in the place of a log's file, which the result puts back."""
    away = db.rename(db.with_name("away.db"))
    copied(away, db)
    return lambda: away.replace(db)


async def test_a_log_whose_file_was_replaced(log: EventLog, db: Path) -> None:
    """Nothing is read or written any more, not even when the old file is back; tokens are still asked."""
    await create(log)
    await log.append("t", notes(5))
    token = await log.tokens.create({"read"})
    put_back = replaced_by_a_copy(db)
    await until(lambda: log.replaced.is_set() and not db.with_name("log.db-wal").exists())
    put_back()
    for asked in (
        log.append("t", notes(1)),
        log.read("t", 0, max_events=1, max_bytes=1),
        log.snapshot("t"),
        log.traces(TraceQuery()),
        log.look(),
    ):
        with pytest.raises(Unavailable) as refused:
            await asked
        assert refused.value.facts["reason"] == "file_replaced"
        assert "Restart tracewatch" in refused.value.message
    assert [trouble.code for trouble in log.health.troubles] == ["file_replaced"]
    found = await log.tokens.find(token_id_of(token) or "")
    assert found is not None and found.fits(token)
    async with opened(str(db)) as again:
        assert len(await bodies(again, "t")) == 5
