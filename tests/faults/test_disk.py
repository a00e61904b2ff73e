"""A disk that is full, gives errors or is read-only: appends are refused with the reason, everything else goes on, and
the server recovers when the disk does."""

from __future__ import annotations

import resource
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.crash.checks import check_file
from tests.faults.places import client_of, not_here, remount, small_disk, watcher_of
from tests.server.wire import socket, thought
from tests.support import DEADLINE_S, ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path, 8 * 1024) as disk:
        db = disk / "log.db"
        with ServerProcess(db, heartbeat_s=0.2) as server:
            async with client_of(server.url) as client, AsyncExitStack() as later:
                await client.create()
                watch = await later.enter_async_context(watcher_of(server.ws_url))
                n = 0
                while await client.append(n, 20_000):
                    n += 1
                    assert n < 1000, "the disk does not get full"
                assert n > 50
                problem = await client.until_problem("disk_full")
                assert "the disk is full" in problem["message"] and problem["since"].endswith("Z")
                for more in range(20):
                    await client.append(n + more, 50_000)
                assert (await client.http.get("/api/traces/t")).status_code == 200, "reading goes on"
                (await client.http.get("/healthz")).raise_for_status()
                for _ in range(10):  # longer than it takes to look again; a small append may find a place by now
                    await watch.until("heartbeat")
                    assert (await client.ready() or {})["code"] == "disk_full", "it stays so while there is no room"
                # Room: the disk grows, as an operator would free some
                remount(disk, "size=32m")
                await client.until_ready()
                for n in range(1000, 1020):
                    assert await client.append(n, 20_000)
                await client.check_all_there()
                await watch.until_events(len(client.acked))
            server.stop()
        await check_file(db, [])


async def test_a_disk_that_gives_errors(tmp_path: Path) -> None:
    """A limit on the size of files, set from outside on the running server: every write fails, as on a dying disk."""
    with ServerProcess(tmp_path / "log.db", heartbeat_s=0.2) as server:
        assert server.process is not None
        pid = server.process.pid
        async with client_of(server.url) as client:
            await client.create(lease_s=60)
            for n in range(20):
                assert await client.append(n)
            async with (
                watcher_of(server.ws_url) as watch,
                socket(server.ws_url, "/api/traces/t/record", producer="p") as recorder,
            ):
                assert "ready" in await recorder.frame()
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
                assert not await client.append(20)
                assert client.refused[-1].json()["reason"] == "io_error"
                assert (await client.until_problem("io_error"))["message"] == client.refused[-1].json()["message"]
                await recorder.say({"append": {"seq": 1, "events": [thought(1)]}})
                nack = (await recorder.frame())["nack"]
                assert (nack["seq"], nack["error"], nack["reason"]) == (1, "unavailable", "io_error")
                async with socket(server.ws_url, "/api/traces/t/record") as another:
                    frame = await another.frame()
                    assert (frame["event"], frame["code"]) == ("error", "unavailable")
                    assert await another.closed() == 4013
                await client.check_all_there()
                await watch.until("heartbeat")
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
                await client.until_ready()  # though nobody appends
                await recorder.say({"append": {"seq": 1, "events": [thought(1)]}})
                assert (await recorder.frame())["ack"]["seq"] == 1
                assert await client.append(21)
                await client.check_all_there()
                await watch.until_events(22)
        server.stop()
    await check_file(tmp_path / "log.db", [])


async def test_a_file_that_becomes_read_only(tmp_path: Path) -> None:
    db = tmp_path / "log.db"

    def immutable(how: str) -> int:
        files = [str(path) for path in tmp_path.glob("log.db*") if not path.name.endswith("-shm")]
        return subprocess.run(["chattr", f"{how}i", *files], check=False, capture_output=True).returncode

    with ServerProcess(db) as server:
        async with client_of(server.url) as client:
            await client.create()
            assert await client.append(1)
            if immutable("+"):
                not_here("a file can't be made immutable here (chattr +i, as root on a file system that has it)")
            try:
                assert not await client.append(2)
                assert await client.ready() is not None
                await client.check_all_there()
            finally:
                immutable("-")
            await client.until_ready()
            assert await client.append(3)
            await client.check_all_there()


def test_read_only_at_the_start_is_said_in_one_line(tmp_path: Path) -> None:
    with small_disk(tmp_path, 4 * 1024) as disk:
        with ServerProcess(disk / "log.db") as server:
            server.stop()
        remount(disk, "ro")
        for db in (disk / "log.db", disk / "new.db"):
            command = [sys.executable, "-m", "tracewatch", "serve", "--port", "0", "--db", str(db)]
            done = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)
            assert done.returncode == 1, done.stderr
            assert done.stderr.count(b"\n") == 1 and db.name.encode() in done.stderr, done.stderr
            assert b"read-only" in done.stderr or b"unable to open" in done.stderr
