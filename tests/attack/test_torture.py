"""An agent of eight threads and three forked workers through all that may happen at once, and killed at the end.

The server is killed and restarted, stopped for a while and out of disk, a proxy cuts connections, the spool's disk is
full for a moment. Each thread notes a number in a file of its own when the call has returned: all of these have to be
in the log, once and in order, after whoever comes next has delivered the spool.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.client.proxy import Proxy, proxy
from tests.client.test_record import events
from tests.support import ServerProcess, until

pytestmark = pytest.mark.anyio
THREADS, WORKERS = 8, 3

AGENT = """
import os, sys, threading, time
import tracewatch

notes, pause_s = sys.argv[1], float(sys.argv[2])

def work(t, who):
    note = os.open(f"{notes}/{who}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    n = 0
    while True:
        n += 1
        if n % 10 == 0:
            with t.goal("g"), t.message("assistant") as m:
                m.stream("a word, ")
        t.event("step", n=n, who=who)
        os.write(note, b"%d\\n" % n)
        time.sleep(pause_s)

t = tracewatch.trace("main", trace_id="main", lease_s=None)
t.__enter__()
for number in range(3):
    if not os.fork():
        with tracewatch.trace("worker", trace_id=f"worker-{number}", lease_s=None) as own:
            work(own, f"worker-{number}")
for number in range(8):
    threading.Thread(target=work, args=(t, f"thread-{number}")).start()
"""


class Disk:
    """A small disk of its own, which can be filled; without root the folder is one as others are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(path)]
        self.own = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill(self) -> None:
        if self.own:
            with (self.path / "filling").open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(1 << 20)):
                        pass
                except OSError:
                    pass  # full

    def empty(self) -> None:
        (self.path / "filling").unlink(missing_ok=True)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.own:
            subprocess.run(["umount", "-l", str(self.path)], check=False)


async def chaos(server: ServerProcess, between: Proxy, disks: list[Disk], kills: int, stop_s: float) -> None:
    """All of it, in any order."""
    dice = random.Random(kills)
    todo = [*["kill"] * kills, *["cut"] * kills, *["full"] * max(1, kills // 10), "stop"]
    dice.shuffle(todo)
    for what in todo:
        if what == "kill":
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(dice.uniform(0, 0.3))
            await asyncio.to_thread(server.start)
        elif what == "cut":
            between.cut_after = dice.choice([None, 5_000])
            between.cut()
            await asyncio.sleep(dice.uniform(0, 0.3))
            between.cut_after = None
        elif what == "full":
            for disk in disks:
                await asyncio.to_thread(disk.fill)
            await asyncio.sleep(min(stop_s, 5))
            for disk in disks:
                disk.empty()
        elif server.process is not None:
            server.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(stop_s)
            server.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(dice.uniform(0, 0.5))


def returned(notes: Path) -> dict[str, list[int]]:
    """The numbers of the calls that have returned, by thread or worker."""
    return {path.name: [int(line) for line in path.read_text().splitlines()] for path in notes.iterdir()}


async def recorded(url: str) -> dict[str, list[int]]:
    """The numbers in the log, by thread or worker."""
    found: dict[str, list[int]] = defaultdict(list)
    for trace_id in ("main", *(f"worker-{number}" for number in range(WORKERS))):
        for event in await events(url, trace_id):
            if event["event"] == "step":
                found[event["who"]].append(event["n"])
            assert not event["event"].startswith(("recorder_refused", "recorder_lost", "recorder_dropped")), event
    return found


def start(said: Path, notes: Path, pause_s: float, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """The agent, in a group of processes of its own."""
    command = [sys.executable, "-c", AGENT, str(notes), str(pause_s)]
    with said.open("wb") as file:
        return subprocess.Popen(command, env={**os.environ, **env}, start_new_session=True, stdout=file, stderr=file)


async def torture(tmp_path: Path, *, kills: int, stop_s: float, end: signal.Signals, pause_s: float) -> int:
    """The whole; returns how many calls had returned."""
    notes = tmp_path / "notes"
    notes.mkdir()
    with Disk(tmp_path / "data") as data, Disk(tmp_path / "spools") as spools:
        server = ServerProcess(data.path / "t.db")
        async with proxy(server.url) as between:
            with server:
                spool_dir = spools.path / "spool"
                env = {"TRACEWATCH_URL": between.url, "TRACEWATCH_SPOOL_DIR": str(spool_dir)}
                agent = start(tmp_path / "said", notes, pause_s, env)
                try:
                    await until(lambda: len(returned(notes)) == THREADS + WORKERS)
                    await chaos(server, between, [data, spools], kills, stop_s)
                    before = returned(notes)  # what the agent kept in memory while its disk was full is on it again
                    await until(lambda: all(len(now) > len(before[who]) + 5 for who, now in returned(notes).items()))
                    await asyncio.sleep(3 * 0.5)
                finally:
                    os.killpg(agent.pid, end)
                    agent.wait()
                assert b"Traceback" not in (tmp_path / "said").read_bytes()
                flush = [sys.executable, "-m", "tracewatch", "flush"]
                await asyncio.to_thread(subprocess.run, flush, env={**os.environ, **env}, check=True)
                wanted, got = returned(notes), await recorded(server.url)
    for who, numbers in wanted.items():
        assert got[who] == sorted(set(got[who])), who
        assert set(numbers) <= set(got[who]), (who, sorted(set(numbers) - set(got[who]))[:20])
    return sum(map(len, wanted.values()))


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
async def test_an_agent_through_all_of_it(tmp_path: Path, end: signal.Signals) -> None:
    assert await torture(tmp_path, kills=2, stop_s=1.0, end=end, pause_s=0.02) > 100


@pytest.mark.long
@pytest.mark.crash
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
async def test_an_agent_through_fifty_restarts(tmp_path: Path, end: signal.Signals) -> None:
    calls = await torture(tmp_path, kills=50, stop_s=90.0, end=end, pause_s=0.05)
    print(f"{calls} calls had returned before {end.name}; all of them are in the log")  # noqa: T201
