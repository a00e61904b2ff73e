"""What a call has taken is not lost, however the process ends: killed, terminated, replaced, or a pool's worker.

Each event stands in the spool when its call returns. The next recorder, a server of this machine and ``tracewatch
flush`` each deliver what is there, and every event is in the log once.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client.test_record import New, events, spools, steps
from tests.support import DEADLINE_S, ServerProcess, free_port, serving, until
from tracewatch.client.spool import SpoolDir

pytestmark = pytest.mark.anyio

AGENT = """
import os, signal, sys, time
import tracewatch
how = sys.argv[1]
t = tracewatch.trace("run", trace_id="t", lease_s=None)
t.__enter__()
for n in range(1, 401):
    t.event("step", n=n)
with t.goal("g", id="g"):
    child = t.sub_trace("child", trace_id="child")
    child.event("step", n=1)
    m = t.message("assistant")
    for word in ("It ", "is ", "the ", "cookie."):
        m.stream(word)
    if how == "exit":
        os._exit(0)
    elif how == "exec":
        os.execv("/bin/true", ["true"])
    else:
        os.kill(os.getpid(), getattr(signal, how))
"""
ENDS = ["SIGKILL", "SIGTERM", "exit", "exec"]


def run(code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *args]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=DEADLINE_S)


def environment(url: str, spool_dir: Path) -> dict[str, str]:
    return {"TRACEWATCH_URL": url, "TRACEWATCH_SPOOL_DIR": str(spool_dir), "TRACEWATCH_FLUSH_S": "5"}


@contextmanager
def serve(db: Path, port: int, spool_dir: Path, *args: str) -> Iterator[str]:
    """``tracewatch serve``, which delivers what is in the spool of its user."""
    command = [sys.executable, "-m", "tracewatch", "serve", "--db", str(db), "--port", str(port), *args]
    env = {**os.environ, "TRACEWATCH_SPOOL_DIR": str(spool_dir)}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "listening on" in (line := process.stderr.readline()), line
            yield f"http://127.0.0.1:{port}"
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()


async def whole(url: str) -> None:
    """The run is in the log, each event once, with the text that was streamed."""
    assert await steps(url, "t") == list(range(1, 401))
    assert await steps(url, "child") == [1]
    said = "".join(event.get("append", "") for event in await events(url, "t") if event["event"] == "message_updated")
    assert said == "It is the cookie."
    assert [event["event"] for event in await events(url, "t")].count("sub_trace_started") == 1


@pytest.mark.crash
@pytest.mark.parametrize("how", ENDS)
async def test_an_agent_that_ends_while_the_server_is_there(how: str, tmp_path: Path, new_trace: New) -> None:
    spool_dir = tmp_path / "spool"
    async with serving(tmp_path / "t.db") as server:
        ended = await asyncio.to_thread(run, AGENT, how, **environment(server.url, spool_dir))
        assert ended.stderr == ""
        with new_trace(server.url) as other:
            assert await other.aflush(DEADLINE_S)
            await until(lambda: not spools(spool_dir))
        await whole(server.url)


@pytest.mark.crash
@pytest.mark.parametrize("by", ["recorder", "server", "flush"])
async def test_an_agent_that_is_killed_while_the_server_is_away(
    by: str, tmp_path: Path, new_trace: New, spool_dir: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = environment(url.replace("127.0.0.1", "localhost"), spool_dir)
    for how in ("SIGKILL", "SIGTERM") if by == "server" else ("SIGKILL",):
        assert (await asyncio.to_thread(run, AGENT, how, **env)).stderr == ""
    if by == "server":
        with serve(tmp_path / "t.db", port, spool_dir):
            await until(lambda: not spools(spool_dir))
            assert sorted(await steps(url, "t")) == sorted([*range(1, 401)] * 2)  # two agents, each of its events once
        return
    with ServerProcess(tmp_path / "t.db", port):
        if by == "recorder":
            with new_trace(url) as other:
                other.event("step", n=1)
                await until(lambda: not spools(spool_dir))
        else:
            code, answer = await flush("--json", **env)
            assert (code, answer["delivered"]["traces"]) == (0, 2)
            assert answer["left"] == [] and not spools(spool_dir)
            assert SpoolDir(spool_dir, 1).boxes() == []
        await whole(url)


async def flush(*args: str, **env: str) -> tuple[int, Any]:
    command = "from tracewatch.cli import main; main()"
    ran = await asyncio.to_thread(run, f"import sys; sys.argv[0] = 'tracewatch'; {command}", "flush", *args, **env)
    return ran.returncode, json.loads(ran.stdout) if "--json" in args else ran.stdout + ran.stderr


@pytest.mark.crash
async def test_a_server_takes_only_what_is_meant_for_it(tmp_path: Path, spool_dir: Path) -> None:
    port, elsewhere = free_port(), free_port()
    db = tmp_path / "t.db"
    step = "import os, sys, tracewatch\ntracewatch.trace('r', trace_id=sys.argv[1]).event('step', n=1)\nos._exit(0)"
    for trace_id, url in (
        ("mine", f"http://localhost:{port}"),
        ("by_name", "https://watch.example.org/runs"),
        ("by_file", f"sqlite:///{db}"),
        ("other_port", f"http://127.0.0.1:{elsewhere}"),
        ("other_machine", f"http://10.255.255.1:{port}"),
        ("other_file", f"sqlite:///{tmp_path}/other.db"),
    ):
        assert (await asyncio.to_thread(run, step, trace_id, **environment(url, spool_dir))).stderr == ""
    with ServerProcess(db, port):
        pass  # the file is there
    token = [sys.executable, "-m", "tracewatch", "token", "create", "--scope", "read", "--db", str(db)]
    made = await asyncio.to_thread(subprocess.run, token, check=True, capture_output=True, text=True)
    secret = made.stdout.strip()
    with serve(db, port, spool_dir, "--allowed-hosts", "watch.example.org"):
        await until(lambda: len(spools(spool_dir)) == 3)
        env = environment(f"http://127.0.0.1:{port}", spool_dir) | {"TRACEWATCH_TOKEN": secret}
        listed = await asyncio.to_thread(run, "from tracewatch.cli import main; main(['ls', '-o', 'json'])", **env)
        assert sorted(one["trace_id"] for one in json.loads(listed.stdout)) == [
            "by_file", "by_name", "mine"]  # fmt: skip
    code, said = await flush("--dry-run", **environment(f"http://127.0.0.1:{elsewhere}", spool_dir))
    assert code == 0 and "1 trace" in said and f"tracewatch flush --url sqlite:///{tmp_path}/other.db" in said


@pytest.mark.crash
def test_a_folder_that_others_may_write_to_is_nothing_for_a_server(tmp_path: Path, spool_dir: Path) -> None:
    """Whoever can put a file there could record without a token."""
    env = environment("http://127.0.0.1:1", spool_dir)
    run(AGENT, "SIGKILL", **env)
    assert SpoolDir(spool_dir, 1, private=True).boxes()
    spool_dir.chmod(0o777)
    assert SpoolDir(spool_dir, 1, private=True).boxes() == []
    assert SpoolDir(spool_dir, 1).boxes()


@pytest.mark.crash
async def test_a_file_as_target(tmp_path: Path, spool_dir: Path) -> None:
    """The events of a killed recorder into a file are delivered by ``flush`` without a server."""
    url = f"sqlite:///{tmp_path}/t.db"
    env = environment(url, spool_dir)
    await asyncio.to_thread(run, AGENT, "SIGKILL", **env)
    assert (await flush(**env))[0] == 0
    async with serving(tmp_path / "t.db") as server:
        await whole(server.url)
    assert "nothing waits for" in (await flush(**env))[1]


async def test_flush_says_what_it_can_not_do(tmp_path: Path, spool_dir: Path) -> None:
    env = environment("http://127.0.0.1:1", spool_dir)
    assert await flush(**env) == (0, f"nothing waits for http://127.0.0.1:1 in {spool_dir}\n")
    await asyncio.to_thread(run, AGENT, "SIGKILL", **env)
    code, said = await flush(**env)
    assert code == 69 and said.startswith("tracewatch: ") and "Traceback" not in said
    assert len(spools(spool_dir)) == 2
    code, said = await flush("--help")
    assert code == 0 and "tracewatch flush --dry-run" in said


POOL = """
import multiprocessing, sys
import tracewatch

def job(i):
    with tracewatch.trace(f"job {i}", trace_id=f"job-{i}") as t:
        for n in range(20):
            t.event("step", n=n)
        t.message("assistant", f"answer {i}")
    return i

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(pool.map(job, range(6)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_the_workers_of_a_pool(method: str, tmp_path: Path, spool_dir: Path) -> None:
    """A pool ends its workers with SIGTERM as soon as their results are there: the end of each ``with`` waits."""
    (tmp_path / "pool.py").write_text(POOL)
    async with serving(tmp_path / "t.db") as server:
        env = {**os.environ, **environment(server.url, spool_dir), "TRACEWATCH_LINGER_S": str(DEADLINE_S)}
        command = [sys.executable, str(tmp_path / "pool.py"), method]
        ran = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, timeout=DEADLINE_S)
        assert (ran.returncode, ran.stderr) == (0, b"")
        for i in range(6):
            assert [event["event"] for event in await events(server.url, f"job-{i}")] == [
                *["step"] * 20, "message_added", "trace_completed"]  # fmt: skip
        assert spools(spool_dir) == []


@pytest.mark.parametrize("block", ["with", "async with"])
async def test_the_end_of_the_outermost_block_gives_the_server_a_moment(
    block: str, tmp_path: Path, spool_dir: Path
) -> None:
    code = """
import asyncio, os, signal, tracewatch
t = tracewatch.trace("run", trace_id="t")
def record():
    t.event("step", n=1)
    with t.sub_trace("child", trace_id="child") as child:
        child.event("step", n=1)
"""
    if block == "with":
        code += "with t: record()\n"
    else:
        code += "async def main():\n    async with t: record()\nasyncio.run(main())\n"
    async with serving(tmp_path / "t.db") as server:
        env = environment(server.url, spool_dir) | {"TRACEWATCH_LINGER_S": str(DEADLINE_S)}
        ended = await asyncio.to_thread(run, code + "os.kill(os.getpid(), signal.SIGKILL)", **env)
        assert ended.stderr == ""
        for trace_id in ("t", "child"):
            assert "trace_completed" in [event["event"] for event in await events(server.url, trace_id)]


async def test_a_server_that_is_away_is_not_waited_for(tmp_path: Path, spool_dir: Path) -> None:
    """The wait ends with the first attempt that fails, and the runs after that do not wait at all."""
    code = """
import tracewatch
for n in range(100):
    with tracewatch.trace("run") as t: t.event("step", n=n)
"""
    env = environment("http://127.0.0.1:1", spool_dir) | {"TRACEWATCH_LINGER_S": "3600", "TRACEWATCH_FLUSH_S": "0.1"}
    ended = await asyncio.to_thread(run, code, **env)
    assert ended.stderr.startswith("200 events of 100 traces did not reach http://127.0.0.1:1: 200 are kept in")


async def test_text_streamed_without_a_block_is_there_after_a_normal_exit(tmp_path: Path, spool_dir: Path) -> None:
    code = """
import tracewatch
m = tracewatch.trace("run", trace_id="t").message("assistant")
for word in ("It ", "is ", "the ", "cookie."): m.stream(word)
"""
    async with serving(tmp_path / "t.db") as server:
        assert (await asyncio.to_thread(run, code, **environment(server.url, spool_dir))).stderr == ""
        log = await events(server.url, "t")
        assert "".join(event.get("append", "") for event in log) == "It is the cookie."


@pytest.mark.slow
async def test_runs_that_end_while_the_server_is_away_cost_no_descriptor(tmp_path: Path, spool_dir: Path) -> None:
    """1,100 of them, with 256 descriptors; the exit says where they are, and flush brings them."""
    code = """
import resource, tracewatch
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
for n in range(1100):
    with tracewatch.trace("run", trace_id=f"t{n}") as t: t.event("step", n=n)
print(t.dropped)
"""
    port = free_port()
    env = environment(f"http://127.0.0.1:{port}", spool_dir) | {"TRACEWATCH_FLUSH_S": "0.1"}
    ended = await asyncio.to_thread(run, code, **env)
    assert (ended.stdout, ended.stderr.count("\n")) == ("0\n", 1)
    assert "2200 are kept in" in ended.stderr
    with ServerProcess(tmp_path / "t.db", port) as server:
        code_, answer = await flush("--json", **env)
        assert (code_, answer["delivered"]["traces"], answer["delivered"]["events"]) == (0, 1100, 2200)
        for n in (0, 500, 1099):
            assert await steps(server.url, f"t{n}") == [n]
