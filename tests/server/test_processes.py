"""Several processes on one file: workers, a recorder that writes to the file itself, and processes that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.server.wire import Watch, append, http, make_trace, stored, thought, watching
from tests.support import DEADLINE_S, ServerProcess, until
from tracewatch.log import open_log

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def worker_of(watch: Watch, server: ServerProcess, workers: Sequence[int]) -> int:
    """Which worker a socket ended at: the process that holds its other end."""
    port = watch.ws.local_address[1]
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    other = f"{server.port:04X}", f"{port:04X}"
    inodes = [f[9] for f in map(str.split, lines) if (f[1].split(":")[1], f[2].split(":")[1]) == other]
    for pid in workers:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if inodes and str(fd.readlink()) == f"socket:[{inodes[0]}]":
                    return pid
            except FileNotFoundError:
                continue
    raise AssertionError("no worker holds the other end")


async def on_each_worker(
    stack: AsyncExitStack, server: ServerProcess, workers: Sequence[int], trace_id: str
) -> dict[int, Watch]:
    """Watches of a trace, one at each worker."""
    found: dict[int, Watch] = {}
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < len(workers):
            watch = await stack.enter_async_context(watching(server.ws_url, trace_id))
            await watch.until("caught_up")
            found.setdefault(worker_of(watch, server, workers), watch)
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")


@needs_proc
async def test_every_worker_shows_what_any_process_writes(tmp_path: Path) -> None:
    db = tmp_path / "log.db"
    with ServerProcess(db, workers=2) as server:
        assert server.process is not None
        workers = children(server.process.pid)
        assert len(workers) == 2
        log = await open_log(str(db))
        try:
            await make_trace(log, "t")
            async with AsyncExitStack() as stack:
                watches = await on_each_worker(stack, server, workers, "t")
                clients = [await stack.enter_async_context(http(server.url)) for _ in range(4)]

                async def over_http(client: int) -> None:
                    for n in range(30):
                        answer = await clients[client].post("/api/traces/t/events", json=[thought(n), thought(n)])
                        assert answer.status_code == 200

                async def to_the_file() -> None:
                    for n in range(60):
                        await log.append("t", [thought(n)] * 3)

                await asyncio.gather(to_the_file(), *(over_http(n) for n in range(4)))
                total = 4 * 60 + 180
                for watch in watches.values():
                    await watch.until_events(total)
                    assert watch.events == await stored(log, "t")
                    assert watch.names().count("connected") == 1
        finally:
            await log.close()
        assert server.stop() == 0
    await until(lambda: not any(map(alive, workers)))


@needs_proc
@pytest.mark.crash
async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    db = tmp_path / "log.db"
    with ServerProcess(db, workers=2) as server:
        assert server.process is not None
        pid = server.process.pid
        workers = children(pid)
        log = await open_log(str(db))
        try:
            await make_trace(log, "t")
            async with AsyncExitStack() as stack:
                watches = await on_each_worker(stack, server, workers, "t")
                await append(log, "t", 10)
                killed, kept = workers
                os.kill(killed, signal.SIGKILL)
                await until(lambda: len(children(pid)) == 2 and killed not in children(pid))
                await append(log, "t", 10)
                await watches[kept].until_events(20)
                anew = await on_each_worker(stack, server, children(pid), "t")
                await append(log, "t", 10)
                for watch in (watches[kept], *anew.values()):
                    await watch.until_events(30)
                    assert watch.events == await stored(log, "t")
        finally:
            await log.close()


@needs_proc
@pytest.mark.crash
async def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    server = ServerProcess(tmp_path / "log.db", workers=2).start()
    assert server.process is not None
    workers = children(server.process.pid)
    assert len(workers) == 2
    assert len(list(folder.glob("*/*.sock"))) == 2
    server.kill()
    await until(lambda: not any(map(alive, workers)))
    assert not list(folder.iterdir())


async def test_a_signal_ends_it_in_time_with_watchers_connected(tmp_path: Path) -> None:
    several: tuple[dict[str, Any], ...] = ({}, {"workers": 2})
    for settings in several:
        with ServerProcess(tmp_path / f"log{len(settings)}.db", **settings) as server:
            async with http(server.url) as client, AsyncExitStack() as stack:
                await client.post("/api/traces", json={"trace_id": "t", "task": "x"})
                watches = [await stack.enter_async_context(watching(server.ws_url, "t")) for _ in range(10)]
                for watch in watches:
                    await watch.until("caught_up")
                assert server.process is not None
                server.process.send_signal(signal.SIGTERM)
                for watch in watches:
                    assert await watch.closed() == 1012
                    assert watch.control[-1]["event"] == "goaway"
                assert await asyncio.to_thread(server.process.wait, 8) == 0


async def test_the_port_is_free_again_at_once(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "log.db")
    for _ in range(2):
        with server:
            async with http(server.url) as client, watching(server.ws_url, "x", wait="1"):
                assert (await client.get("/healthz")).json()["status"] == "ok"
                assert isinstance(server.process, subprocess.Popen)
                assert await asyncio.to_thread(server.stop) == 0
