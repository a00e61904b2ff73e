"""A database that another program holds locked, however long and in whatever way it hangs."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.places import client_of, held_by_another_program, watcher_of
from tests.support import DEADLINE_S, ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_lock_that_is_held_long(tmp_path: Path) -> None:
    db = tmp_path / "log.db"
    with ServerProcess(db, heartbeat_s=0.2, lock_wait_s=1, max_waiting_bytes=100_000) as server:
        async with client_of(server.url) as client:
            await client.create()
            assert await client.append(1)
            async with watcher_of(server.ws_url) as watch:
                with held_by_another_program(db):
                    assert (await client.until_problem("locked"))["code"] == "locked", "known though nobody appends"
                    began = time.monotonic()
                    small = [client.append(n) for n in range(10)]
                    large = [client.append(n, 30_000) for n in range(10)]
                    assert not any(await asyncio.gather(*small, *large))
                    assert time.monotonic() - began < 10, "each is answered when its own time is over"
                    reasons = {answer.json()["reason"] for answer in client.refused}
                    assert reasons == {"locked", "too_many_waiting"}
                    for _ in range(3):
                        await watch.until("heartbeat")
                    await client.check_all_there()
                    assert (await client.http.get("/api/traces")).json()["traces"][0]["trace_id"] == "t"
                await client.until_ready()
                assert await client.append(100)
                await watch.until_events(2)
                await client.check_all_there()


async def test_a_server_that_hangs_with_the_lock(tmp_path: Path) -> None:
    """Stopped in the middle of writing; the other one on the same file tells so, and goes on when it wakes."""
    db = tmp_path / "log.db"
    with ServerProcess(db) as hanging, ServerProcess(db, lock_wait_s=1) as server:
        async with client_of(hanging.url) as theirs, client_of(server.url) as client:
            await client.create()
            await client.create("other")
            assert hanging.process is not None
            problem = None
            for attempt in range(300):  # until it is caught while it has the lock
                writing = [asyncio.create_task(theirs.append(n, 100_000, "other")) for n in range(20)]
                await asyncio.sleep(0.01 * (attempt % 7))  # where it stands then is luck
                hanging.process.send_signal(signal.SIGSTOP)
                if not is_locked(db) or await client.append(attempt):
                    hanging.process.send_signal(signal.SIGCONT)
                    await asyncio.gather(*writing)
                    continue
                problem = await client.ready()
                assert client.refused[-1].json()["reason"] == "locked"
                assert problem is not None and problem["code"] == "locked"
                break
            assert problem is not None, "it was never caught with the lock"
            hanging.process.send_signal(signal.SIGCONT)
            await asyncio.gather(*writing, return_exceptions=True)  # it may take us for gone, having slept so long
            await client.until_ready()
            assert await client.append(1000)
            await client.check_all_there()


def is_locked(db: Path) -> bool:
    """Whether somebody is in the middle of writing."""
    with closing(sqlite3.connect(db, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


async def test_locked_at_the_start(tmp_path: Path) -> None:
    """A log that is up to date is served at once, to be read; one that is not waits for its turn and says so."""
    db = tmp_path / "log.db"
    with ServerProcess(db) as server:
        async with client_of(server.url) as client:
            await client.create()
            assert await client.append(1)
            acked = client.acked
    with held_by_another_program(db), ServerProcess(db, lock_wait_s=0.5) as server:
        async with client_of(server.url) as client:
            client.acked = acked
            await client.check_all_there()
            await client.until_problem("locked")
            assert not await client.append(2)


def test_a_new_log_waits_for_the_lock(tmp_path: Path) -> None:
    db = tmp_path / "log.db"
    holder = sqlite3.connect(db, isolation_level=None)
    holder.execute("PRAGMA journal_mode = WAL")
    holder.execute("BEGIN IMMEDIATE")
    process = subprocess.Popen(
        [sys.executable, "-m", "tracewatch", "serve", "--port", "0", "--db", str(db)], stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        assert b"held locked by another program" in process.stderr.readline()
        holder.execute("ROLLBACK")
        assert b"listening on" in process.stderr.readline()
    finally:
        holder.close()
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        process.stderr.close()
