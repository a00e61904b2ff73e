"""A restore that is killed at any step leaves the whole old log or the whole new one, and can be run again."""

# ruff: noqa: ASYNC220 (nothing else runs in these loops)

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.checks import check_file
from tests.crash.writer import batch
from tests.log.helpers import create, opened
from tests.support import DEADLINE_S
from tracewatch.log.sqlite.backup import backup
from tracewatch.log.sqlite.identity import identifiers
from tracewatch.log.sqlite.inspect import open_read_only
from tracewatch.log.sqlite.restore import restore_file

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
ROOT = Path(__file__).resolve().parents[2]
BEFORE, AFTER = 4, 12  # events in the backup, events in the log
STEPS = 100


@pytest.fixture
async def made(tmp_path: Path) -> tuple[Path, Path, set[str]]:
    """A backup, a folder with a log as kill -9 leaves it (what came after the backup only in its -wal), its epochs."""
    (tmp_path / "dead").mkdir()
    db = tmp_path / "live.db"
    async with opened(str(db)) as log:
        await create(log)
        await log.append("t", batch("a", 1, BEFORE), producer="a", seq=1)
        copy = backup(db, tmp_path / "backup.db").path
        await log.append("t", batch("a", BEFORE + 1, AFTER - BEFORE), producer="a", seq=BEFORE + 1)
        for side in ("", "-wal"):
            shutil.copy(f"{db}{side}", tmp_path / "dead" / f"log.db{side}")
        return copy, tmp_path / "dead", {log.epoch}


async def whole(db: Path, old: set[str]) -> bool:
    """The log is the old one with all its events, or the new one; whether it is the new one.

    ``old``: the epochs of the old one. The folders here are copies, which get an epoch of their own when opened.
    """
    for path in db.parent.iterdir():  # a kept name of the same file is no database of its own yet
        assert path.name.startswith("log.db")
    with closing(open_read_only(db)) as connection:
        epoch = identifiers(connection)["epoch"]
    count = await check_file(db, [("a", 1, 1, 1)])
    assert (count, epoch in old) in ((AFTER, True), (BEFORE, False))
    if count == AFTER:
        async with opened(str(db)) as log:
            old.add(log.epoch)
    return count == BEFORE


async def test_killed_at_every_step(made: tuple[Path, Path, set[str]], tmp_path: Path) -> None:
    copy, dead, old = made
    folders = [Path(shutil.copytree(dead, tmp_path / str(n))) for n in range(1, STEPS + 1)]
    command = [sys.executable, "-m", "tests.crash.restoring", str(copy), *map(str, folders)]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    through = {int(line) for line in done.stdout.split()}
    assert 20 < min(through) < STEPS, "enough steps, and not more of them than folders"
    was_new = []
    for number, folder in enumerate(folders, 1):
        if number > min(through):
            break
        was_new.append(await whole(folder / "log.db", old))
        assert was_new[-1] or number not in through
        if number % 4 == 0:
            restore_file(copy, folder / "log.db", replace=True)
            assert await whole(folder / "log.db", old)
    assert was_new == sorted(was_new), "there is one moment at which it changes"
    assert {False, True} == set(was_new)


async def test_killed_at_random(made: tuple[Path, Path, set[str]], tmp_path: Path) -> None:
    """The command line, between system calls of SQLite's, too."""
    copy, dead, old = made
    folder = Path(shutil.copytree(dead, tmp_path / "f"))
    for _ in range(6):
        command = [sys.executable, "-m", "tracewatch", "restore", str(copy), "--force", "--db", str(folder / "log.db")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            try:
                await asyncio.to_thread(process.wait, random.uniform(0.2, 0.6))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait, DEADLINE_S)
        if await whole(folder / "log.db", old):
            shutil.rmtree(folder)
            shutil.copytree(dead, folder)
