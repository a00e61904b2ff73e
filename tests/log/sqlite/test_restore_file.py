"""A backup becomes the log: it gets a new epoch, the old file is kept, and no process has the database open."""

# ruff: noqa: ASYNC221, ASYNC240 (nothing else runs in these loops)

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.log.helpers import check_trace, create, events, names, notes, opened, say
from tests.support import DEADLINE_S
from tracewatch.errors import InvalidField, LogError, NewerDatabase, TracewatchError
from tracewatch.log import EventLog
from tracewatch.log.sqlite.backup import backup
from tracewatch.log.sqlite.restore import KeptTokens, Restored, restore_file
from tracewatch.log.tokens import token_id_of

pytestmark = pytest.mark.anyio


def command(copy: Path, db: Path) -> list[str]:
    """Another process that restores."""
    code = (
        "import sys\nfrom tracewatch.log.sqlite.restore import *\nrestore_file(*map(Path, sys.argv[1:]), replace=True)"
    )
    return [sys.executable, "-c", code, str(copy), str(db)]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
async def copy(log: EventLog, db: Path, tmp_path: Path) -> Path:
    """A backup with ten events; the log has fifteen, is closed, and its last five are in its -wal only."""
    await create(log)
    await log.append("t", notes(10), producer="p", seq=1)
    (tmp_path / "backups").mkdir()
    path = backup(db, tmp_path / "backups" / "b.db").path
    await log.append("t", [*notes(4), say("after the backup")], producer="p", seq=11)
    for name in ("log.db", "log.db-wal"):  # as kill -9 leaves them
        shutil.copy(tmp_path / name, tmp_path / f"{name}.dead")
    await log.close()
    for name in ("log.db", "log.db-wal"):
        shutil.copyfile(tmp_path / f"{name}.dead", tmp_path / name)
        (tmp_path / f"{name}.dead").unlink()
    (tmp_path / "log.db-shm").unlink(missing_ok=True)
    return path


async def restored(db: Path, copy: Path, old_epoch: str, keep: bool = True) -> Restored:
    done = restore_file(copy, db, replace=True, keep=keep)
    await check_restored(done, db, copy, old_epoch)
    return done


async def check_restored(done: Restored, db: Path, copy: Path, old_epoch: str) -> None:
    assert files(db.parent) == {"backups", "log.db"} | ({done.kept.name} if done.kept else set())
    assert files(copy.parent) == {"b.db"}
    async with opened(str(db)) as now:
        assert now.epoch == done.log.epoch != old_epoch
        assert len(await events(now)) == 10
        assert await now.last_seq("t", "p") == 10
        await now.append("t", notes(1), producer="p", seq=11)
        await check_trace(now)


async def test_the_old_one_is_kept_with_what_was_in_its_wal(log: EventLog, db: Path, copy: Path) -> None:
    db.chmod(0o640)
    done = await restored(db, copy, log.epoch)
    assert done.kept is not None
    assert done.kept.name.startswith("log.db.before-restore-")
    assert db.stat().st_mode & 0o777 == 0o640
    async with opened(str(done.kept)) as old:
        assert old.epoch == log.epoch
        assert len(await events(old)) == 15
        assert (await names(old))[-1] == "message_added"
        await check_trace(old)
    again = restore_file(done.kept, db, replace=True)  # a way back: another history all the same
    assert again.log.epoch not in (log.epoch, done.log.epoch)
    assert again.kept is not None and again.kept != done.kept
    async with opened(str(db)) as now:
        assert len(await events(now)) == 15


async def test_not_kept(log: EventLog, db: Path, copy: Path) -> None:
    assert (await restored(db, copy, log.epoch, keep=False)).kept is None


async def test_where_there_is_none(log: EventLog, copy: Path, tmp_path: Path) -> None:
    """Also not beside a -wal whose database is gone: it would be replayed into the new one."""
    folder = tmp_path / "new"
    folder.mkdir()
    (tmp_path / "log.db-wal").rename(folder / "new.db-wal")
    done = restore_file(copy, folder / "new.db")
    assert done.kept is not None
    assert files(folder) == {"new.db", f"{done.kept.name}-wal"}
    assert (folder / "new.db").stat().st_mode & 0o777 == 0o600
    async with opened(str(folder / "new.db")) as now:
        assert now.epoch == done.log.epoch != log.epoch
        assert len(await events(now)) == 10


async def test_through_a_link(log: EventLog, db: Path, copy: Path, tmp_path: Path) -> None:
    link = tmp_path / "backups" / "link.db"
    link.symlink_to(db)
    restore_file(copy, link, replace=True, keep=False)
    assert link.is_symlink()
    async with opened(str(db)) as now:
        assert now.epoch != log.epoch


async def test_a_newer_one_and_an_empty_one(log: EventLog, db: Path, copy: Path) -> None:
    """The way back after an upgrade."""
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("INSERT INTO schema_migrations (number, name) VALUES (999, '0999_later.sql')")
    await restored(db, copy, log.epoch, keep=False)
    db.write_bytes(b"")
    await restored(db, copy, log.epoch, keep=False)


async def test_a_damaged_one_is_kept_with_its_wal(log: EventLog, db: Path, copy: Path) -> None:
    with db.open("r+b") as file:
        file.write(b"not a database any more")
    with db.with_name("log.db-wal").open("r+b") as file:  # it would heal the first page
        file.write(bytes(32))
    wal = db.with_name("log.db-wal").read_bytes()
    done = restore_file(copy, db, replace=True)
    assert done.kept is not None
    assert files(db.parent) == {"backups", "log.db", done.kept.name, f"{done.kept.name}-wal"}
    assert done.kept.with_name(f"{done.kept.name}-wal").read_bytes() == wal
    async with opened(str(db)) as now:
        assert len(await events(now)) == 10
        await check_trace(now)


# --- refused ---


def refused(copy: Path, db: Path, *words: str, error: type[TracewatchError] = LogError, replace: bool = True) -> None:
    before = {path: path.read_bytes() for path in db.parent.iterdir() if path.is_file()}
    with pytest.raises(error) as caught:
        restore_file(copy, db, replace=replace)
    assert all(word in caught.value.message for word in words), caught.value.message
    after = {path: path.read_bytes() for path in db.parent.iterdir() if path.is_file()}
    assert {path: data for path, data in after.items() if not path.name.endswith("-shm")} == {
        path: data for path, data in before.items() if not path.name.endswith("-shm")
    }


async def test_unless_told_to(db: Path, copy: Path) -> None:
    refused(copy, db, "there is a log", "--force", error=InvalidField, replace=False)


async def test_places(db: Path, copy: Path, tmp_path: Path) -> None:
    refused(copy, copy, "the log itself", error=InvalidField)
    with pytest.raises(InvalidField, match="no folder"):
        restore_file(copy, tmp_path / "no" / "log.db")
    with pytest.raises(InvalidField, match="a folder"):
        restore_file(copy, tmp_path / "backups")
    theirs = tmp_path / "theirs.db"
    with closing(sqlite3.connect(theirs)) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    refused(copy, theirs, "not replaced", "another program")


async def test_backups(db: Path, copy: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none.db", db, "there is no log")
    theirs = tmp_path / "theirs.db"
    with closing(sqlite3.connect(theirs)) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    refused(theirs, db, "theirs.db", "another program")
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("INSERT INTO schema_migrations (number, name) VALUES (999, '0999_later.sql')")
    refused(copy, db, "newer tracewatch", error=NewerDatabase)
    with copy.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096 * 5))
    refused(copy, db, "b.db")
    copy.write_bytes(b"SQLite format 3\0" + bytes(5000))
    refused(copy, db, "b.db", "not a database")


async def test_while_it_is_open(copy: Path, db: Path) -> None:
    """In this process, too: and it goes on as if nobody had asked."""
    async with opened(str(db)) as log:
        for _ in range(2):
            done = subprocess.run(command(copy, db), capture_output=True, text=True, timeout=DEADLINE_S)
            assert "LogInUse" in done.stderr, done.stderr
            await log.append("t", notes(3))
        assert not [path for path in db.parent.iterdir() if "restore" in path.name or "unfinished" in path.name]
        await check_trace(log)
    assert subprocess.run(command(copy, db), timeout=DEADLINE_S).returncode == 0


OPEN_LATE = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0.01)
print("open", flush=True)
while True:
    try:
        print(c.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        break
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_BUSY":
            print(error.sqlite_errorname)
            break
        print("busy", flush=True)
"""


async def test_who_opens_it_in_that_moment(
    log: EventLog, db: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the old file open when the new one takes its place: it can't write a -wal beside the new one."""
    late: list[subprocess.Popen[str]] = []
    rename = Path.replace

    def held(path: Path, target: Path) -> Path:
        late.append(subprocess.Popen([sys.executable, "-c", OPEN_LATE, str(db)], stdout=subprocess.PIPE, text=True))
        assert late[0].stdout is not None
        assert [late[0].stdout.readline() for _ in range(3)] == ["open\n", "busy\n", "busy\n"]
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", held)
    done = restore_file(copy, db, replace=True, keep=True)
    said = late[0].communicate(timeout=DEADLINE_S)[0].split()
    assert said[-1] == "SQLITE_READONLY_DBMOVED"
    assert set(said[:-1]) <= {"busy"}
    await check_restored(done, db, copy, log.epoch)


async def test_two_at_once(db: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one finds the log in use, and leaves it alone."""
    rename = Path.replace

    def held(path: Path, target: Path) -> Path:
        done = subprocess.run(command(copy, db), capture_output=True, text=True, timeout=DEADLINE_S)
        assert "LogInUse" in done.stderr
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", held)
    kept = restore_file(copy, db, replace=True).kept
    assert kept is not None
    assert files(db.parent) == {"backups", "log.db", kept.name}


# --- who may come in ---


async def revoked(db: Path, *tokens: str) -> list[bool | None]:
    """Whether each token is revoked; None for one that is not there."""
    async with opened(str(db)) as log:
        made = {one.token_id: one.revoked_at is not None for one in await log.tokens.made()}
    return [made.get(token_id_of(token) or "") for token in tokens]


async def test_tokens_are_not_history(log: EventLog, db: Path, tmp_path: Path) -> None:
    stays, goes, gone = [await log.tokens.create(["read"], label=name) for name in ("stays", "goes", "gone")]
    await log.tokens.revoke(token_id_of(gone) or "")
    copy = backup(db, tmp_path / "b.db").path
    await log.tokens.revoke(token_id_of(goes) or "")
    new, short = await log.tokens.create(["admin"]), await log.tokens.create(["read"])
    await log.tokens.revoke(token_id_of(short) or "")
    await log.close()
    done = restore_file(copy, db, replace=True)
    assert done.tokens == KeptTokens(revoked=1, added=2, back=[])
    assert await revoked(db, stays, goes, gone, new, short) == [False, True, True, False, True]
    done = restore_file(copy, tmp_path / "elsewhere.db")
    assert sorted(done.tokens.back) == sorted([(token_id_of(stays), "stays"), (token_id_of(goes), "goes")])
    assert await revoked(tmp_path / "elsewhere.db", stays, goes, gone, new) == [False, False, True, None]


async def test_a_backup_older_than_tokens_does_not_open_the_door(log: EventLog, db: Path, tmp_path: Path) -> None:
    await create(log)
    copy = backup(db, tmp_path / "b.db").path
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("DROP TABLE tokens")
        connection.execute("DROP TABLE events")
        events = "trace_key, event_id, end_offset, body, PRIMARY KEY (trace_key, event_id)"
        connection.execute(f"CREATE TABLE events ({events}) WITHOUT ROWID")
        connection.execute("ALTER TABLE messages DROP COLUMN as_of")
        later = ("by_start", "by_activity", "by_session", "by_user", "with_error", "by_parent_start", "by_cover")
        for index in (*later, "by_status", "by_agent_type", "by_root"):
            connection.execute(f"DROP INDEX traces_{index}")
        connection.execute("ALTER TABLE traces DROP COLUMN began")
        for index in ("status", "agent_type"):
            connection.execute(f"CREATE INDEX traces_by_{index} ON traces ({index}, trace_key)")
        connection.execute("CREATE INDEX traces_by_root ON traces (root_trace_id, trace_key)")
        connection.execute("DROP TRIGGER traces_text_update")
        for table in ("trace_words", "trimmed", "blobs", "blob_pieces", "trace_blobs"):
            connection.execute(f"DROP TABLE {table}")
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(traces)")]
        for name in columns[columns.index("apart") :]:
            connection.execute(f"ALTER TABLE traces DROP COLUMN {name}")
        connection.execute("DELETE FROM schema_migrations WHERE number >= 4")
    token = await log.tokens.create(["admin"])
    await log.close()
    assert restore_file(copy, db, replace=True).tokens.added == 1
    assert await revoked(db, token) == [False]
