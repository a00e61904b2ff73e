"""What can't be read is not broken: rights, locks, versions and disks are named, and no restore is advised for them."""

# ruff: noqa: ASYNC240 (nothing else runs in these loops)

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.log.helpers import create, notes, opened
from tracewatch.log.sqlite import inspect
from tracewatch.log.sqlite.doctor import ERROR, Finding, check, machine
from tracewatch.log.sqlite.obstacles import obstacle, rights, why

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[3]


async def filled(db: Path) -> None:
    async with opened(str(db)) as log:
        await create(log)
        await log.append("t", notes(50))


def errors_of(db: Path, **options: Any) -> dict[str, Finding]:
    return {one.code: one for one in check(db, **options) if one.severity == ERROR}


def calls_for_restore(found: dict[str, Finding]) -> bool:
    """Whether it is advised without another look first."""
    return any("estore a backup" in one.advice and "Only if" not in one.advice for one in found.values())


def damage(db: Path) -> None:
    """Break the pages behind the first."""
    with db.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (db.stat().st_size - 4096))


async def test_what_is_broken_calls_for_a_restore(db: Path) -> None:
    await filled(db)
    damage(db)
    assert calls_for_restore(errors_of(db))


async def test_a_locked_database_is_not_broken(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(db)
    monkeypatch.setattr(inspect, "BUSY_S", 0.01)
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE meta SET value = value")
        found = errors_of(db)
    assert set(found) == {"locked"} and not calls_for_restore(found)
    assert "locked" in found["locked"].message
    assert errors_of(db) == {}


async def test_a_newer_one_is_not_broken(db: Path) -> None:
    await filled(db)
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("INSERT INTO schema_migrations (number, name) VALUES (99, '0099_later.sql')")
    found = errors_of(db)
    assert set(found) == {"schema"} and not calls_for_restore(found)
    assert "newer" in found["schema"].message and "upgrade" in found["schema"].message
    assert "pip install" in found["schema"].advice


async def test_another_programs_file_is_not_broken(db: Path) -> None:
    with closing(sqlite3.connect(db)) as other:
        other.execute("CREATE TABLE cookies (value)")
    found = errors_of(db)
    assert set(found) == {"schema"} and "right file" in found["schema"].advice
    db.write_bytes(b"%PDF-1.7 and what follows" * 1000)
    found = errors_of(db)
    assert set(found) == {"unreadable"} and "right file" in found["unreadable"].advice


async def test_what_a_strange_disk_shows_has_to_be_found_on_another(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(db)
    damage(db)
    monkeypatch.setattr(machine, "file_system", lambda *_: ("nfs4", "/srv"))
    found = errors_of(db)
    assert len(found) > 1 and not calls_for_restore(found)
    assert any("local disk" in one.advice and "restore a backup" in one.advice for one in found.values())


async def test_what_is_found_in_a_file_that_is_written_has_to_be_found_again(db: Path) -> None:
    await filled(db)
    damage(db)

    def written(what: str, done: int, total: int) -> None:
        os.utime(db, ns=(1, db.stat().st_mtime_ns + 1))  # as cp does

    found = errors_of(db, progress=written)
    assert found and not calls_for_restore(found)
    assert any("still being made" in one.advice for one in found.values())


@pytest.mark.parametrize(
    ("code", "said", "advice"),
    [
        ("SQLITE_IOERR_READ", "the disk gives an error (SQLITE_IOERR_READ)", "dmesg"),
        ("SQLITE_FULL", "the disk is full", "Make room"),
        ("SQLITE_BUSY_RECOVERY", "another program holds the database locked", "Try again"),
        ("SQLITE_PROTOCOL", "another program holds the database locked", "Try again"),
        ("SQLITE_READONLY", "read-only", "as the user of the server"),
        ("SQLITE_CANTOPEN", "can't be opened", "as the user of the server"),
        ("SQLITE_NOMEM", "it said so", "Try again"),
    ],
)
def test_errors_that_are_no_damage(tmp_path: Path, code: str, said: str, advice: str) -> None:
    error = sqlite3.OperationalError("it said so")
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, code), code
    found = obstacle(tmp_path / "log.db", error)
    assert found is not None
    assert said in found.message and advice in found.advice and "Nothing is known to be wrong" in found.advice
    assert why(tmp_path / "log.db", error) == found.message


@pytest.mark.parametrize("code", ["SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CORRUPT_INDEX"])
def test_errors_that_are(tmp_path: Path, code: str) -> None:
    error = sqlite3.DatabaseError("malformed")
    error.sqlite_errorcode = getattr(sqlite3, code)
    assert obstacle(tmp_path / "log.db", error) is None
    assert why(tmp_path / "log.db", error) == "malformed"


def test_nothing_stands_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "log.db").touch()
    assert rights(tmp_path / "log.db", write=True) is None
    assert rights(tmp_path / "to come.db", write=True) is None


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_another(*args: str) -> tuple[int, str]:
    """A command line of the user `nobody`: its exit code, and what it said."""
    closed = [folder for folder in Path(sys.executable).parents if not folder.stat().st_mode & stat.S_IXOTH]
    if closed:
        pytest.skip(f"another user can't run this Python: {closed[-1]} is closed to others")
    ran = subprocess.run(
        [sys.executable, "-m", "tracewatch", *args],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        env={**os.environ, "HOME": "/", "PYTHONPATH": str(ROOT)},
        user=65534,
        group=65534,
        extra_groups=[],
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
async def test_rights_are_named_by_every_command(place: Path) -> None:
    db, copy = place / "log.db", place / "open" / "copy.db"
    copy.parent.mkdir()
    copy.parent.chmod(0o777)
    await filled(db)
    commands = (
        ("doctor", "--db", str(db)),
        ("backup", str(copy), "--db", str(db)),
        ("prune", "--keep-days", "1", "--db", str(db)),
        ("token", "list", "--db", str(db)),
        ("serve", "--port", "0", "--db", str(db)),
        ("restore", str(db), "--db", str(copy)),
    )
    may_not_read = f"the user nobody may not read '{db}' (of root, mode 0600)"
    for args in commands:
        code, said = as_another(*args)
        assert code != 0 and may_not_read in said and "restore a backup" not in said, args
    db.chmod(0o644)  # and it takes the right to make files in the folder
    for args in commands[:5]:
        code, said = as_another(*args)
        assert code != 0 and "the user nobody may not" in said and "restore a backup" not in said, (args, said)
    place.chmod(0o700)
    code, said = as_another(*commands[0])
    assert code != 0 and f"may not enter the folder '{place}'" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
async def test_a_server_whose_wal_is_its_own_is_not_broken(place: Path) -> None:
    db = place / "log.db"
    async with opened(str(db)) as log:
        await create(log)
        await log.append("t", notes(5))
        db.chmod(0o644)  # after the -wal was made, for its owner only
        code, said = as_another("doctor", "--db", str(db))
    assert code == 1 and f"the user nobody may not read '{db}-wal' (of root, mode 0600)" in said
    assert "estore a backup" not in said
