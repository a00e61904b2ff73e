"""Two hundred kill -9 at random moments of append, trim, migrate, backup and restore; the doctor is the judge."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from tests.crash.checks import Ack, read_ack
from tests.crash.writer import batch
from tests.log.helpers import bodies, create, notes, opened
from tracewatch.log.sqlite.backup import backup
from tracewatch.log.sqlite.doctor import errors
from tracewatch.log.sqlite.migrate import migrate, migrations_dir

pytestmark = [pytest.mark.anyio, pytest.mark.crash, pytest.mark.timeout(400)]
ROOT = Path(__file__).resolve().parents[2]
APPENDS, MIGRATIONS, BACKUPS, RESTORES = 90, 40, 35, 35  # kills of each; two hundred together


class Lives:
    """tests/crash/lives.py, and what was acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.acks_file = folder / "acks"
        self.killed = 0
        command = [sys.executable, "-m", "tests.crash.lives"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end(self, *lives: tuple[str, Path, object], after_ms: float) -> int:
        """Let these live for so long; how many had to be killed."""
        order = {"lives": [list(map(str, life)) for life in lives], "after_ms": after_ms, "acks": str(self.acks_file)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        assert said.strip().isdigit(), f"{[life[0] for life in lives]}: {said!r}; the reason is on stderr"
        self.killed += int(said)
        return int(said)

    def acks(self) -> list[Ack]:
        """All that was acknowledged to anybody."""
        text = self.acks_file.read_text() if self.acks_file.exists() else ""
        return [read_ack(line) for line in text.splitlines()]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    """The process that forks."""
    started = Lives(tmp_path)
    yield started
    started.close()


def healthy(path: Path) -> None:
    """The doctor finds nothing wrong."""
    assert [f"{finding.code}: {finding.message}" for finding in errors(path)] == []


async def check_acks(db: Path, acks: list[Ack]) -> int:
    """Each acknowledged event is there under its id, or was trimmed; the first event kept."""
    async with opened(str(db)) as log:
        stored = [orjson.loads(body) for body in await bodies(log)]
    first = stored[0]["event_id"]
    assert [event["event_id"] for event in stored] == list(range(first, first + len(stored)))
    for producer, seq, size, at in acks:
        for n in range(size):
            if at + n >= first:
                event = stored[at + n - first]
                assert (event["by"], event["n"]) == (producer, seq + n)
    return int(first)


async def test_append_and_trim(lives: Lives, tmp_path: Path) -> None:
    """Two who append and one who trims, of one file, all killed at once or one after the other."""
    db = tmp_path / "log.db"
    first = 1  # until something was trimmed on the way
    while lives.killed < APPENDS or len(lives.acks()) <= 200 or first == 1:
        who = [("append", db, "a"), ("append", db, "b"), ("trim", db, "")]
        chosen = random.sample(who, random.choice((1, 2, 3)))
        lives.end(*chosen, after_ms=random.uniform(30, 500))
        if random.random() < 0.2 and db.exists():
            healthy(db)
            if lives.acks():
                first = await check_acks(db, lives.acks())
    healthy(db)
    await check_acks(db, lives.acks())


def old_file(path: Path, migrations: int) -> None:
    """A file as a version with only so many migrations left it."""
    folder = path.with_suffix(".migrations")
    folder.mkdir()
    for script in sorted((migrations_dir() / "sqlite").iterdir())[:migrations]:
        shutil.copy(script, folder)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, folder)


async def test_migrate(lives: Lives, tmp_path: Path) -> None:
    for number in range(500):
        if lives.killed >= MIGRATIONS:
            break
        db = tmp_path / f"{number}.db"
        if number % 3:
            old_file(db, number % 3)
        for _ in range(2):
            lives.end(("migrate", db, ""), after_ms=random.uniform(2, 60))
        async with opened(str(db)) as log:
            await create(log)
            await log.append("t", notes(2))
        healthy(db)
    assert lives.killed >= MIGRATIONS


async def filled(db: Path) -> None:
    async with opened(str(db)) as log:
        await create(log)
        for producer in "ab":
            for seq in range(1, 1001, 500):
                await log.append("t", batch(producer, seq, 500), producer=producer, seq=seq)


async def test_backup(lives: Lives, tmp_path: Path) -> None:
    """While somebody appends: what bears the backup's name is always a whole one."""
    db, copy = tmp_path / "log.db", tmp_path / "backup.db"
    await filled(db)
    backup(db, copy)
    while lives.killed < BACKUPS or not lives.acks():
        lives.end(("copy", db, copy), ("append", db, "c"), after_ms=random.uniform(20, 250))
        if lives.killed % 6 == 0:
            healthy(copy)
    healthy(copy)
    healthy(db)
    await check_acks(db, lives.acks())
    async with opened(str(copy)) as log:
        assert len(await bodies(log)) >= 2000
    assert backup(db, copy, replace=True).events > 2000


async def test_restore(lives: Lives, tmp_path: Path) -> None:
    """What bears the log's name is always a whole log: the one before with all that was acknowledged, or the backup."""
    db, copy = tmp_path / "log.db", tmp_path / "backup.db"
    await filled(db)
    backup(db, copy)
    whole = 0
    while lives.killed < RESTORES or not whole:
        lives.acks_file.unlink(missing_ok=True)
        lives.end(("append", db, f"w{lives.killed}-"), after_ms=random.uniform(60, 200))
        acks = lives.acks()
        before = epoch(db)
        lives.end(("restore", db, copy), after_ms=random.uniform(1, 80))
        healthy(db)
        if epoch(db) == before:
            await check_acks(db, acks)
        else:
            whole += 1
            async with opened(str(db)) as log:
                assert len(await bodies(log)) == 2000
    assert whole


def epoch(db: Path) -> str:
    """The log's epoch."""
    with closing(sqlite3.connect(db)) as connection:
        return str(connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])
