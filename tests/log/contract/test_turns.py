"""Turns: one of all processes at a time, and who comes next learns whether somebody else was there."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.log.helpers import opened
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio
HOLDER = """
import asyncio, sys
from tracewatch.log import open_log
async def main():
    log = await open_log(sys.argv[1])
    async with log.turn("name"):
        print("mine", flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""


async def test_one_at_a_time(log: EventLog, other: EventLog) -> None:
    inside: list[EventLog] = []

    async def work(one: EventLog) -> None:
        async with one.turn("name"):
            inside.append(one)
            await asyncio.sleep(0.002)
            assert inside == [one]
            inside.remove(one)

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(one) for one in (log, other) * 10))


async def test_it_says_whether_others_had_one_since(log: EventLog, other: EventLog) -> None:
    said = []
    for one, name in ((log, "a"), (log, "a"), (log, "b"), (other, "a"), (other, "a"), (log, "a"), (log, "b")):
        async with one.turn(name) as nobody_else:
            said.append(nobody_else)
    assert said == [False, True, False, False, True, False, True]


async def test_names_of_their_own_do_not_wait(log: EventLog, other: EventLog) -> None:
    async with log.turn("a"), asyncio.timeout(60), other.turn("b"):
        pass


async def test_a_turn_that_fails_is_over(log: EventLog, other: EventLog) -> None:
    with pytest.raises(KeyError):
        async with log.turn("a"):
            raise KeyError
    async with asyncio.timeout(60), other.turn("a") as nobody_else:
        assert not nobody_else


@pytest.mark.crash
async def test_a_process_that_is_killed_has_no_turn(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    async with opened(url) as log:
        holder = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLDER, url, stdout=PIPE)
        try:
            assert holder.stdout is not None
            assert await holder.stdout.readline() == b"mine\n"
            turn = log.turn("name")
            waiting = asyncio.create_task(turn.__aenter__())
            await asyncio.sleep(0.05)
            assert not waiting.done()
            holder.kill()
            async with asyncio.timeout(60):
                assert await waiting is False
            await turn.__aexit__(None, None, None)
        finally:
            with contextlib.suppress(ProcessLookupError):
                holder.kill()
            await holder.communicate()
