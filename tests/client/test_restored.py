"""A database restored from a backup under agents that go on: no agent is stuck, and lost events are reported."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.asked import answer, open_question
from tests.client.test_ask import asking, done
from tests.client.test_record import events, say, spools
from tests.support import ServerProcess, until
from tracewatch.client.api import Api
from tracewatch.client.outbox import Outbox
from tracewatch.client.spool import Shelf, SpoolDir
from tracewatch.client.trace import Trace
from tracewatch.log.sqlite.backup import backup
from tracewatch.log.sqlite.restore import restore_file

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]


class Restorable:
    """A server whose past can be taken back."""

    def __init__(self, folder: Path) -> None:
        self.db, self.copy = folder / "t.db", folder / "backup.db"
        self.server = ServerProcess(self.db, goaway_ms=50)
        self.url = self.server.url

    async def backup(self) -> None:
        await asyncio.to_thread(backup, self.db, self.copy, replace=True)

    async def down(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(restore_file, self.copy, self.db, replace=True, keep=False)

    async def restore(self) -> None:
        await self.down()
        await asyncio.to_thread(self.server.start)


async def test_a_recorder_tells_what_is_lost_and_goes_on(
    tmp_path: Path, new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    at = Restorable(tmp_path)
    with at.server:
        t = new_trace(at.url, lease_s=600)
        say(t, 1, 20)
        assert await t.aflush(60)
        await at.backup()
        say(t, 21, 50)
        assert await t.aflush(60)
        await at.down()
        say(t, 51, 60)
        await until(lambda: t._outbox.memory_bytes == 0)  # on disk
        await asyncio.to_thread(at.server.start)
        assert await t.aflush(60)
        log = await events(at.url, t.trace_id)
        assert [e.get("n", e["event"]) for e in log] == [*range(1, 21), "recorder_lost", *range(51, 61)]
        assert log[20]["count"] == 30
        assert caplog.text.count("has lost the last 30 events") == 1
        await at.restore()  # once more, to the same backup
        say(t, 61, 70)
        assert await t.aflush(60)
        log = await events(at.url, t.trace_id)
        assert [e.get("n", e["event"]) for e in log] == [*range(1, 21), "recorder_lost", *range(61, 71)]
        assert log[20]["count"] == 11  # the ten, and the first telling


async def test_a_trace_that_is_not_in_the_backup(tmp_path: Path, new_trace: New) -> None:
    at = Restorable(tmp_path)
    with at.server:
        await at.backup()
        t = new_trace(at.url, lease_s=600)
        child = t.sub_trace("child")
        with t.goal("a goal"):
            say(t, 1, 5)
            child.event("step", n=1)
            assert await t.aflush(60)
            assert await child.aflush(60)
            await at.restore()
            say(t, 6, 9)
        child.event("step", n=2)
        t.complete()
        child.complete()
        assert await t.aflush(60)
        assert await child.aflush(60)
        log = [e.get("n", e["event"]) for e in await events(at.url, t.trace_id)]
        assert log.index("recorder_lost") < log.index(6)
        assert [one for one in log if one in (6, 7, 8, 9)] == [6, 7, 8, 9]
        assert "recorder_refused" in log  # the end of a goal that is not there
        below = [e.get("n", e["event"]) for e in await events(at.url, child.trace_id)]
        assert below == ["recorder_lost", 2, "trace_completed"]
        assert (await asyncio.to_thread(Api(at.url).trace, t.trace_id))["trace"]["status"] == "completed"


async def test_a_recorder_with_nothing_to_say_tells_it_as_well(tmp_path: Path, new_trace: New) -> None:
    at = Restorable(tmp_path)
    with at.server:
        t = new_trace(at.url, lease_s=600)
        say(t, 1, 3)
        assert await t.aflush(60)
        await at.backup()
        say(t, 4, 9)
        assert await t.aflush(60)
        await at.restore()
        log: list[Any] = []
        while len(log) < 4:
            log = await events(at.url, t.trace_id)
            await asyncio.sleep(0.02)
        assert (log[3]["event"], log[3]["count"]) == ("recorder_lost", 6)


@pytest.mark.parametrize("named", [True, False])
async def test_a_question_that_is_lost_is_asked_again(tmp_path: Path, new_trace: New, named: bool) -> None:
    at = Restorable(tmp_path)
    with at.server:
        t = new_trace(at.url, lease_s=600)
        say(t, 1, 3)
        assert await t.aflush(60)
        await at.backup()
        given = {"request_id": "deploy"} if named else {}
        tasks = [asking(t, "Deploy?", options=["yes", "no"], **given) for _ in range(2 if named else 1)]
        before = await open_question(at.url, t.trace_id)
        await at.restore()
        after = await open_question(at.url, t.trace_id)
        assert after["request_id"] == before["request_id"]
        await answer(at.url, t.trace_id, "yes")
        assert [await done(task) for task in tasks] == ["yes"] * len(tasks)
        log = [e["event"] for e in await events(at.url, t.trace_id)]
        assert log.count("input_requested") == 1
        assert log.count("recorder_lost") == 1
        await at.backup()
        again = asking(t, "And now?")
        await open_question(at.url, t.trace_id)
        await answer(at.url, t.trace_id, 1)
        assert await done(again) == 1


DIES = """
import os, sys, tracewatch
t = tracewatch.trace("task", trace_id="t", url=sys.argv[1], spool_dir=sys.argv[2])
for n in range(1, 6):
    t.event("step", n=n)
assert t.flush(60)
print("stored", flush=True)
sys.stdin.readline()
for n in range(6, 9):
    t.event("step", n=n)
t.flush(1)
os._exit(1)
"""


async def test_a_spool_left_by_a_process_that_has_died(tmp_path: Path, new_trace: New, spool_dir: Path) -> None:
    at = Restorable(tmp_path)
    with at.server:
        await at.backup()
        command = [sys.executable, "-c", DIES, at.url, str(spool_dir)]
        agent = await asyncio.to_thread(
            lambda: subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TRACEWATCH_FLUSH_S": "1"}
            )
        )
        assert agent.stdout is not None
        assert await asyncio.to_thread(agent.stdout.readline) == b"stored\n"
        await at.down()
        await asyncio.to_thread(agent.communicate, b"\n")
        assert len(spools(spool_dir)) == 1
        await asyncio.to_thread(at.server.start)
        other = new_trace(at.url)
        say(other, 1, 1)
        await until(lambda: not spools(spool_dir))
        log = [e.get("n", e["event"]) for e in await events(at.url, "t")]
        assert log == ["recorder_lost", 6, 7, 8]


def test_a_spool_made_after_the_loss_knows_what_is_to_be_told(tmp_path: Path) -> None:
    directory = SpoolDir(tmp_path, 1 << 20)
    for told in (False, True):
        shelf = Shelf(directory, "u")
        outbox = Outbox({"trace_id": "t"}, shelf=shelf)
        outbox.accept([b'{"event":"step"}'] * 5)
        outbox.ack(5)
        outbox.lost(2)
        if told:
            outbox.ack(5)
        outbox.accept([b'{"event":"step","n":6}'])
        shelf.close()
        (box,) = (directory.adopt(path) for path in directory.boxes())
        assert box is not None
        spool = box.read_back(box.files()[0])
        assert spool is not None
        adopted = Outbox.adopted(spool)
        assert (adopted.producer, adopted.acked) == (outbox.producer, outbox.acked)
        bodies = [b'{"event":"recorder_lost","count":2}', b'{"event":"step","n":6}'][told:]
        first = adopted.acked + 1
        assert [adopted.take(first + n, 1, 1)[0] for n in range(len(bodies))] == bodies
        assert adopted.wire_seq(first) == outbox.wire_seq(first) == 1 + told
        spool.remove()
        box.close()
