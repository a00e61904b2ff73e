"""Processes that write to the file themselves, killed at random moments and at every statement."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.crash.checks import Ack, check_file, read_ack
from tests.log.helpers import bodies, check_trace, create, names, notes, opened
from tests.support import DEADLINE_S
from tracewatch.errors import UnknownTrace

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
ROOT = Path(__file__).resolve().parents[2]


class Writer:
    """A running tests/crash/writer.py and what it has been acknowledged."""

    def __init__(self, db: Path, name: str) -> None:
        self.acks: list[Ack] = []
        self._more = threading.Condition()
        command = [sys.executable, "-m", "tests.crash.writer", str(db), name]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._more:
                self.acks.append(read_ack(line))
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def wait(self, count: int) -> None:
        """Until so many answers have come."""
        end = time.monotonic() + DEADLINE_S
        with self._more:
            while len(self.acks) < count:
                assert self._process.poll() is None, "the writer died by itself"
                assert self._more.wait(end - time.monotonic()), f"only {len(self.acks)} answers"

    def kill(self) -> list[Ack]:
        """kill -9; all it has said."""
        self._process.kill()
        self._process.wait(DEADLINE_S)
        self._thread.join(DEADLINE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self.acks


async def test_a_writer_killed_twenty_times(tmp_path: Path) -> None:
    db, acks, count = tmp_path / "log.db", list[Ack](), 0
    for run in range(20):
        writer = Writer(db, "w")
        try:
            await asyncio.to_thread(writer.wait, random.choice([1, 2, 10, 40, 90]))
        finally:
            acks += writer.kill()
        if run % 4 == 3:
            after = await check_file(db, acks)
            assert after > count
            count = after
    assert count > 500, "a snapshot was kept on the way"


async def test_two_writers_killed_in_turn(tmp_path: Path) -> None:
    db, acks = tmp_path / "log.db", list[Ack]()
    writers = [Writer(db, "a"), Writer(db, "b")]
    try:
        for turn in range(8):
            dying, living = writers[turn % 2], writers[1 - turn % 2]
            await asyncio.to_thread(dying.wait, random.randint(1, 40))
            acks += dying.kill()
            await asyncio.to_thread(living.wait, len(living.acks) + 5)  # a dead neighbour does not stop it
            writers[turn % 2] = Writer(db, "ab"[turn % 2])
        for writer in writers:
            await asyncio.to_thread(writer.wait, 1)
    finally:
        for writer in writers:
            acks += writer.kill()
    assert await check_file(db, acks) > 0


async def steps(folder: Path, mode: str) -> tuple[list[Path], list[int]]:
    """The files that tests/crash/steps.py leaves, and the numbers its children wrote."""
    command = [sys.executable, "-m", "tests.crash.steps", str(folder), mode]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    files = sorted(await asyncio.to_thread(lambda: [*folder.glob("*.db")]), key=lambda path: int(path.stem))
    return files, [int(line) for line in done.stdout.split()]


async def test_killed_at_every_statement_of_the_start(tmp_path: Path) -> None:
    files, _ = await steps(tmp_path, "open")
    assert len(files) > 25, "the migration alone has as many statements"
    epochs = set()
    for path in files:
        async with opened(str(path)) as log:
            await create(log)
            await log.append("t", notes(2))
            await check_trace(log)
            epochs.add(log.epoch)
        await check_file(path, [])
    assert len(epochs) == len(files)


async def test_killed_at_every_statement_of_an_append(tmp_path: Path) -> None:
    """Each group is there whole or not at all, in every table."""
    files, acknowledged = await steps(tmp_path, "append")
    seen = set()
    for path in files:
        count = await check_file(path, [("a", 1, 10, 1)])
        assert count in (10, 21, 1022), "whole groups only"
        if int(path.stem) in acknowledged:
            assert count >= 21
        seen.add(count)
        async with opened(str(path)) as log:
            if count == 10:
                with pytest.raises(UnknownTrace):
                    await log.snapshot("c")
            else:
                await check_trace(log, "c")
                assert len(await bodies(log, "c")) == (4 if count == 1022 else 0)
                assert ("sub_trace_completed" in await names(log)) == (count == 1022)
    assert seen == {10, 21, 1022}
