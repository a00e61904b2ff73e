"""Ends of processes: an exit leaves all events sent or on disk, a kill -9 those on disk, a fork makes two recorders."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.test_record import spools, steps
from tests.support import ServerProcess, free_port, serving, until
from tracewatch.client.api import Api
from tracewatch.client.trace import Trace

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]

BEGIN = """
import os, sys, threading, time
import tracewatch
url, spool_dir = sys.argv[1:3]
t = tracewatch.trace("run", trace_id="t", url=url, spool_dir=spool_dir)
"""


async def run(code: str, *args: Any, **env: str) -> tuple[int, str]:
    """Run a program that records; its exit code and what it said."""
    command = [sys.executable, "-W", "error", "-c", BEGIN + code, *map(str, args)]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, said.decode()


def started(code: str, url: str, spool_dir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, url, str(spool_dir)])


async def test_an_exit_sends_what_is_left(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        code = "with t:\n    for n in range(1, 5001): t.event('step', n=n)\n"
        assert await run(code, server.url, tmp_path / "spool") == (0, "")
        assert await steps(server.url, "t") == list(range(1, 5001))


async def test_an_exit_by_an_exception_tells_of_it(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        code = "with t, t.goal('g'):\n    raise ValueError('broken')\n"
        exit_code, said = await run(code, server.url, tmp_path / "spool")
        assert (exit_code, said.splitlines()[-1]) == (1, "ValueError: broken")
        answer = await asyncio.to_thread(Api(server.url).trace, "t")
        assert (answer["trace"]["status"], answer["trace"]["error"]["type"]) == ("failed", "ValueError")


@pytest.mark.parametrize("where", ["server", "file"])
@pytest.mark.slow
async def test_threads_that_go_on_after_the_main_one(tmp_path: Path, where: str) -> None:
    async with serving(tmp_path / "t.db") as server:
        url = server.url if where == "server" else f"sqlite:///{tmp_path}/t.db"
        code = """
t.event("step", n=1)
def work():
    threading.main_thread().join()
    t.event("step", n=2)
threading.Thread(target=work).start()
"""
        exit_code, _ = await run(code, url, tmp_path / "spool")
        assert exit_code == 0
        if where == "server":
            assert await steps(server.url, "t") == [1, 2]
        else:  # the file is closed by then: the next recorder brings it
            assert await run("t.event('step', n=3); t.flush(); time.sleep(0.5)", url, tmp_path / "spool") == (0, "")
            assert sorted(await steps(server.url, "t")) == [1, 2, 3]


@pytest.mark.slow
async def test_an_exit_without_a_server_leaves_a_spool_that_the_next_recorder_delivers(
    tmp_path: Path, new_trace: New, spool_dir: Path
) -> None:
    server = ServerProcess(tmp_path / "t.db")
    code = """
with t:
    with t.goal("g", id="g"):
        for n in range(1, 1001): t.event("step", n=n)
        with t.sub_trace("child", trace_id="child") as child:
            child.event("step", n=7)
"""
    exit_code, said = await run(code, server.url, spool_dir)
    assert exit_code == 0
    (line,) = said.splitlines()
    assert line.startswith(f"1005 events of 2 traces did not reach {server.url}: 1005 are kept in {spool_dir}")
    assert len(spools(spool_dir)) == 2
    with server:
        t = new_trace(server.url)
        t.event("another", n=1)
        assert await t.aflush(60)
        await until(lambda: not spools(spool_dir))
        assert await steps(server.url, "t") == list(range(1, 1001))
        (sub,) = (await asyncio.to_thread(Api(server.url).trace, "t"))["sub_traces"]
        assert (sub["trace_id"], sub["parent_goal_id"], sub["status"]) == ("child", "g", "completed")


@pytest.mark.crash
async def test_a_recorder_killed_while_the_server_is_away(tmp_path: Path, new_trace: New, spool_dir: Path) -> None:
    server = ServerProcess(tmp_path / "t.db")
    code = BEGIN + "n = 0\nwhile True:\n    n += 1\n    t.event('step', n=n)\n    time.sleep(0.0001)\n"
    for kill in range(1, 4):
        process = started(code, server.url, spool_dir)
        await until(lambda kill=kill: len(spools(spool_dir)) == kill)  # type: ignore[misc]
        newest = max(spools(spool_dir))
        await until(lambda newest=newest: newest.stat().st_size > 200_000)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    on_disk = [len(path.read_bytes().split(b"\n")) - 2 for path in sorted(spools(spool_dir))]
    with server:
        t = new_trace(server.url)
        t.event("another")
        await until(lambda: not spools(spool_dir))
        numbers = await steps(server.url, "t")
    assert sorted(numbers) == sorted(n for count in on_disk for n in range(1, count + 1))


@pytest.mark.crash
async def test_a_recorder_killed_in_the_middle_of_delivering_a_spool(tmp_path: Path, spool_dir: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    await run("for n in range(1, 20001): t.event('step', n=n)", url, spool_dir, TRACEWATCH_FLUSH_S="0.1")
    server = ServerProcess(tmp_path / "t.db", port)
    code = BEGIN.replace('"t"', '"other"') + "t.event('x'); time.sleep(60)"
    with server:
        killed = 0
        while spools(spool_dir):
            process = started(code, url, spool_dir)

            def arrived(seen: int = killed) -> bool:
                try:
                    return not spools(spool_dir) or Api(url).trace("t")["trace"]["last_event_id"] > 3000 * seen
                except Exception:
                    return False

            await asyncio.to_thread(lambda arrived=arrived: asyncio.run(until(arrived)))  # type: ignore[misc]
            process.kill()
            process.wait(60)
            killed += 1
        assert await steps(url, "t") == list(range(1, 20001))
    assert killed >= 2


@pytest.mark.slow
async def test_a_fork_is_two_recorders(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        code = """
for n in range(1, 101): t.event("step", n=n)
goal = t.add_goal("before")
child = os.fork()
name = "parent" if child else "child"
t.add_goal("after")
for n in range(1, 101): t.event(name, n=n)
t.message("user", name)
assert t.flush(60), t.pending
if child:
    os.waitpid(child, 0)
else:
    os._exit(0)
"""
        assert await run(code, server.url, tmp_path / "spool") == (0, "")
        for name in ("step", "parent", "child"):
            assert await steps(server.url, "t", name) == list(range(1, 101))
        assert await steps(server.url, "t", "recorder_refused") == []


@pytest.mark.slow
async def test_a_child_of_multiprocessing_sends_at_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        code = """
import multiprocessing
t.event("step", n=1)
def work():
    for n in range(2, 301): t.event("step", n=n)
process = multiprocessing.get_context("fork").Process(target=work)
process.start()
process.join()
sys.exit(process.exitcode)
"""
        assert await run(code, server.url, tmp_path / "spool") == (0, "")
        assert sorted(await steps(server.url, "t")) == list(range(1, 301))


async def test_import_and_use_load_no_server_code(tmp_path: Path) -> None:
    code = "t.event('x'); print('loaded', sorted({'starlette', 'uvicorn', 'click', 'aiosqlite'} & set(sys.modules)))"
    _, said = await run(code, f"http://127.0.0.1:{free_port()}", tmp_path, TRACEWATCH_FLUSH_S="0.01")
    # Beside what the recorder logs of a server that is away, sooner or later
    assert "loaded []" in said.splitlines()
