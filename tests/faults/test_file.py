"""A database file that is deleted, moved, replaced or damaged while a server uses it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.crash.checks import check_file
from tests.faults.places import Client, check_unavailable, client_of, eventually, watcher_of
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
    """Another file, even a copy of this one, is another history: nothing of either is told until a restart."""
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
                socket(server.ws_url, "/api/watch") as many,
                socket(server.ws_url, "/api/traces/t/record", producer="p") as recorder,
            ):
                assert "ready" in await recorder.frame()
                other.replace(db)
                assert not await client.append(3)
                for leaving in (watch, many, recorder):
                    assert await leaving.closed() == 1012
                assert "goaway" in watch.names() and "goaway" in many.names()
            await check_replaced(client, server)
            assert server.stop() == 0
            server.start()
        async with client_of(server.url) as client:
            assert (await client.http.get("/healthz")).json()["epoch"] != epoch
            async with socket(server.ws_url, "/api/traces/t/watch", since_event_id=f"{epoch}.2") as back:
                assert (await back.had("gap"))["reason"] == "reset"
                events = await back.until_events(2 if newer else 1)
                assert b'"n":1,' in events[0] and (not newer or b'"n":50,' in events[1])
            client.acked = {1: 1}
            assert await client.append(4)
            await client.check_all_there()
        assert server.stop() == 0
    await check_file(db, [])


async def check_replaced(client: Client, server: ServerProcess) -> None:
    """Every way in says that the file was replaced, and what to do."""
    problem = await client.until_problem("file_replaced")
    assert "Restart tracewatch" in problem["message"]
    assert not await client.append(9)
    refused = [client.refused[-1]]
    for path in ("/api/traces", "/api/traces/t", "/api/traces/t/events", "/api/traces/t/messages", "/api/inputs"):
        refused.append(await client.http.get(path))
    refused.append(await client.http.post("/api/traces", json={"task": "x"}))
    for answer in refused:
        check_unavailable(answer)
        assert answer.json()["reason"] == "file_replaced"
    for path in ("/api/traces/t/watch", "/api/traces/t/record"):
        async with socket(server.ws_url, path) as refused_socket:
            assert await refused_socket.closed() == 4013
            assert refused_socket.control[-1]["reason"] == "file_replaced"
    async with socket(server.ws_url, "/api/watch") as many:
        await many.say({"subscribe": {"trace_id": "t"}})
        assert (await many.had("error"))["reason"] == "file_replaced"
    assert "tracewatch_log_up 0.0" in (await client.http.get("/metrics")).text


async def test_the_wal_of_a_file_that_was_replaced(tmp_path: Path) -> None:
    """SQLite would play it into the new file. What is in it goes into the old one, which is then whole by itself."""
    db, away, other = tmp_path / "log.db", tmp_path / "away.db", tmp_path / "other.db"
    with ServerProcess(other) as server:
        async with client_of(server.url) as client:
            await client.create()
            for n in range(5):
                assert await client.append(n)
        server.stop()
    with ServerProcess(db) as server:
        async with client_of(server.url) as client:
            await client.create()
            for n in range(100, 300):
                assert await client.append(n, 1000)
            old = client.acked
            db.rename(away)
            other.rename(db)
            await client.until_problem("file_replaced")
        server.stop()
        assert not db.with_name("log.db-wal").exists() and not db.with_name("log.db-shm").exists()
        server.start()
        async with client_of(server.url) as client:
            client.acked = {n + 1: n for n in range(5)}
            await client.check_all_there()
            assert await client.append(5)
    await check_file(db, [])
    with ServerProcess(away) as server:
        async with client_of(server.url) as client:
            client.acked = old
            await client.check_all_there()


async def test_a_file_that_is_no_log_in_its_place(tmp_path: Path) -> None:
    """It is not touched. The old file, put back, is served after a restart."""
    db, away, no_log = tmp_path / "log.db", tmp_path / "away.db", tmp_path / "no log"
    text = "Shopping list: milk, bread, and many other things.\n" * 100
    with ServerProcess(db, goaway_ms=10) as server:
        async with client_of(server.url) as client:
            await client.create()
            assert await client.append(1)
            epoch = (await client.http.get("/healthz")).json()["epoch"]
            move(db, away)
            db.write_text(text)
            await client.until_problem("file_replaced")
            db.rename(no_log)
            move(away, db)
            assert not await client.append(2), "this process has seen another file"
            server.stop()
            server.start()
            acked = client.acked
        async with client_of(server.url) as client:
            client.acked = acked
            assert (await client.http.get("/healthz")).json()["epoch"] == epoch
            assert await client.append(2)
            await client.check_all_there()
    assert no_log.read_text() == text
    await check_file(db, [])


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

            async def all_there() -> bool:  # a reader's cache may hold a bad page for one more answer
                answer = await client.http.get("/api/traces/bad/events", params={"limit": 1000})
                return answer.status_code == 200 and len(answer.json()["events"]) == 10

            await eventually(all_there)
        server.stop()
    await check_file(db, [])


def pages_of(db: Path, trace_id: str) -> list[int]:
    """The last page of the body of this trace's fifth event: zeroed, the body would end in zeros at its full length."""
    connection = sqlite3.connect(db)
    (key,) = connection.execute("SELECT trace_key FROM traces WHERE trace_id = ?", (trace_id,)).fetchone()
    (body,) = connection.execute("SELECT body FROM events WHERE event_key = (? << 32) + 5", (key,)).fetchone()
    connection.close()
    data = db.read_bytes()
    page = data.index(body[-400:]) // 4096 + 1
    while (following := int.from_bytes(data[(page - 1) * 4096 :][:4], "big")) and following < len(data) // 4096:
        page = following
    return [page]
