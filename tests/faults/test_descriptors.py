"""All file descriptors are in use: the log goes on, the server reports it, and recovers when some are free again."""

from __future__ import annotations

import asyncio
import resource
import socket
from pathlib import Path

import pytest

from tests.faults.places import client_of, watcher_of
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_descriptors_used_up(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log.db", heartbeat_s=0.2) as server:
        assert server.process is not None
        pid = server.process.pid
        async with client_of(server.url) as client:
            await client.create()
            assert await client.append(1)
            async with watcher_of(server.ws_url) as watch:
                soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(pid) + 40, hard))
                crowd = []
                try:
                    for _ in range(100):
                        crowd.append(await asyncio.to_thread(socket.create_connection, ("127.0.0.1", server.port), 5))
                    problem = await client.until_problem("no_descriptors")
                    assert "LimitNOFILE" in problem["message"]
                    for n in range(2, 40):
                        assert await client.append(n, 50_000), "the log has open what it needs"
                    await client.check_all_there()
                    await watch.until_events(39)
                    await watch.until("heartbeat")
                    before = cpu_s(pid)
                    for _ in range(10):
                        await watch.until("heartbeat")
                    assert cpu_s(pid) - before < 1.0, "two seconds in which it does not spin"
                finally:
                    for one in crowd:
                        one.close()
                await client.until_ready()
                async with client_of(server.url) as newcomer:
                    assert await newcomer.append(100)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def open_files(pid: int) -> int:
    """How many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_s(pid: int) -> float:
    """Seconds of processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
