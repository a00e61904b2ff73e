"""A database file that is deleted, moved, replaced or damaged while it is served."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.crash.checks import check_file
from tests.faults.places import check_unavailable, client_of, eventually, watcher_of
from tests.server.wire import socket
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SIDES = ("", "-wal", "-shm")


def move(db: Path, to: Path) -> None:
    """As `mv log.db* elsewhere/` does."""
    for side in SIDES:
        db.with_name(db.name + side).rename(to.with_name(to.name + side))


async def test_a_file_that_is_moved_away_and_back(tmp_path: Path) -> None:
    db, away = tmp_path / "log.db", tmp_path / "away.db"
    with ServerProcess(db, heartbeat_s=0.2) as server:
        async with client_of(server.url) as client:
            await client.create()
            assert await client.append(1)
            async with watcher_of(server.ws_url) as watch:
                move(db, away)
                assert not await client.append(2), "what goes into a file without a name is not acknowledged"
                assert client.refused[-1].json()["reason"] == "file_gone"
                await client.until_problem("file_gone")
                await client.check_all_there()
                await watch.until("heartbeat")
                move(away, db)
                await client.until_ready()
                assert await client.append(3)
                await watch.until_events(2)
                await client.check_all_there()
        server.kill()
    await check_file(db, [])


async def test_a_file_that_is_deleted(tmp_path: Path) -> None:
    """What was written before can still be read and taken out; nothing more is acknowledged, nothing made anew."""
    db = tmp_path / "log.db"
    with ServerProcess(db) as server:
        async with client_of(server.url) as client:
            await client.create()
            assert await client.append(1)
            for side in SIDES:
                db.with_name(db.name + side).unlink()
            assert not await client.append(2)
            assert "deleted or moved" in (await client.until_problem("file_gone"))["message"]
            await client.check_all_there()
            assert not db.exists()


@pytest.mark.parametrize("side", ["-wal", "-shm"])
async def test_a_side_file_that_is_deleted(tmp_path: Path, side: str) -> None:
    """The database alone would lack what was acknowledged last: said, and put in order by an ordinary stop."""
    db = tmp_path / "log.db"
    with ServerProcess(db) as server:
        async with client_of(server.url) as client:
            await client.create()
            assert await client.append(1)
            db.with_name(db.name + side).unlink()
            assert not await client.append(2)
            assert side in (await client.until_problem("file_gone"))["message"]
            acked = client.acked
        server.stop()
        server.start()
        async with client_of(server.url) as client:
            client.acked = acked
            await client.check_all_there()
            assert await client.append(3)
    await check_file(db, [])


@pytest.mark.parametrize("newer", [False, True])
async def test_a_file_that_is_replaced(tmp_path: Path, newer: bool) -> None:
    """Another file, even an older copy of this one, is another history: everybody is told to come back to it."""
    db, other = tmp_path / "log.db", tmp_path / "other.db"
    with ServerProcess(db, goaway_ms=10) as server:
        async with client_of(server.url) as client:
            await client.create()
            assert await client.append(1)
            backup(db, other)
            if newer:
                with ServerProcess(other) as elsewhere:
                    async with client_of(elsewhere.url) as there:
                        assert await there.append(50)
                    elsewhere.stop()
            assert await client.append(2)
            epoch = (await client.http.get("/healthz")).json()["epoch"]
            async with (
                watcher_of(server.ws_url) as watch,
                socket(server.ws_url, "/api/traces/t/record", producer="p") as recorder,
            ):
                assert "ready" in await recorder.frame()
                other.replace(db)
                assert not await client.append(3)
                problem = await client.until_problem("file_replaced")
                assert "-wal" in problem["message"], "the old -wal beside it would be played into it"
                for side in ("-wal", "-shm"):
                    db.with_name(db.name + side).unlink()
                assert await watch.closed() == 1012
                assert "goaway" in watch.names()
                assert await recorder.closed() == 1012

            async def another_epoch() -> bool:
                return bool((await client.http.get("/healthz")).json()["epoch"] != epoch)

            await eventually(another_epoch)
            await client.until_ready()
            async with socket(server.ws_url, "/api/traces/t/watch", since_event_id=f"{epoch}.2") as back:
                assert (await back.had("gap"))["reason"] == "reset"
                events = await back.until_events(2 if newer else 1)
                assert b'"n":1,' in events[0] and (not newer or b'"n":50,' in events[1])
            client.acked = {1: 1}
            assert await client.append(4)
            await client.check_all_there()
        assert server.stop() == 0
    await check_file(db, [])


async def test_a_file_that_is_no_log_in_its_place(tmp_path: Path) -> None:
    db = tmp_path / "log.db"
    with ServerProcess(db, goaway_ms=10) as server:
        async with client_of(server.url) as client:
            await client.create()
            assert await client.append(1)
            away = tmp_path / "away.db"
            move(db, away)
            db.write_text("Shopping list: milk, bread, and many other things.\n" * 100)

            async def said() -> bool:
                answer = (await client.http.get("/readyz")).json()
                return any("not a database" in reason for reason in answer["reasons"])

            await eventually(said)
            await client.check_all_there()
            db.unlink()
            for side in ("-wal", "-shm"):
                db.with_name(db.name + side).unlink(missing_ok=True)
            move(away, db)
            await client.until_ready()
            assert await client.append(2)
            await client.check_all_there()


def backup(db: Path, to: Path) -> None:
    source, target = sqlite3.connect(db), sqlite3.connect(to)
    source.backup(target)
    source.close()
    target.close()


async def test_a_wal_left_by_a_crash(tmp_path: Path) -> None:
    """A copy of a live database with its -wal is what a power cut leaves: all that was acknowledged is in it."""
    db, copy = tmp_path / "log.db", tmp_path / "copy.db"
    with ServerProcess(db) as server:
        async with client_of(server.url) as client:
            await client.create()
            for n in range(30):
                assert await client.append(n, 5000)
            for side in ("", "-wal"):
                shutil.copyfile(db.with_name(db.name + side), copy.with_name(copy.name + side))
            acked = client.acked
    wal = copy.with_name("copy.db-wal")
    with wal.open("ab") as torn:  # and the beginning of a transaction that never ended
        torn.write(os.urandom(3000))
    with ServerProcess(copy) as server:
        async with client_of(server.url) as client:
            client.acked = acked
            await client.check_all_there()
            assert await client.append(99)
        server.stop()
    await check_file(copy, [])


@pytest.mark.parametrize("rubbish", ["zeros", "random"])
async def test_a_corrupt_page(tmp_path: Path, rubbish: str) -> None:
    """What lies on it is refused, never served wrong or cut short; the rest goes on; repaired, all is well."""
    db = tmp_path / "log.db"
    with ServerProcess(db) as server:
        async with client_of(server.url) as client:
            for trace_id in ("t", "bad"):
                await client.create(trace_id)
                for n in range(10):
                    assert await client.append(n, 20_000, trace_id)
        server.stop()
    whole = db.read_bytes()
    pages = pages_of(db, "bad")
    with db.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * 4096)
            file.write(bytes(4096) if rubbish == "zeros" else os.urandom(4096))
    with ServerProcess(db, heartbeat_s=0.2) as server:
        async with client_of(server.url) as client:
            answer = await client.http.get("/api/traces/bad/events", params={"limit": 1000})
            check_unavailable(answer)
            assert answer.json()["reason"] == "damaged"
            assert (await client.until_problem("damaged"))["code"] == "damaged"
            assert await client.append(100), "what lies elsewhere goes on"
            await client.check_all_there()
            async with socket(server.ws_url, "/api/traces/bad/watch") as watch:
                assert await watch.closed() == 4013
                assert watch.control[-1]["event"] == "error" and watch.control[-1]["reason"] == "damaged"
            assert (await client.ready()) is not None, "until it is proven good"
            with db.open("r+b") as file:
                for page in pages:
                    file.seek((page - 1) * 4096)
                    file.write(whole[(page - 1) * 4096 : page * 4096])
            await client.until_ready()
            answer = await client.http.get("/api/traces/bad/events", params={"limit": 1000})
            assert len(answer.json()["events"]) == 10
        server.stop()
    await check_file(db, [])


def pages_of(db: Path, trace_id: str) -> list[int]:
    """The last page of the body of this trace's fifth event: zeroed, the body would end in zeros at its full length."""
    connection = sqlite3.connect(db)
    (key,) = connection.execute("SELECT trace_key FROM traces WHERE trace_id = ?", (trace_id,)).fetchone()
    (body,) = connection.execute("SELECT body FROM events WHERE trace_key = ? AND event_id = 5", (key,)).fetchone()
    connection.close()
    data = db.read_bytes()
    page = data.index(body[-400:]) // 4096 + 1
    while (following := int.from_bytes(data[(page - 1) * 4096 :][:4], "big")) and following < len(data) // 4096:
        page = following
    return [page]
