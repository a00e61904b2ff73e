"""``tracewatch backup``, ``restore`` and ``doctor``, and the gap that clients of the old history get afterwards."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import connect

from tests.cli.conftest import Ran
from tests.support import DEADLINE_S, ServerProcess, serving
from tracewatch.client.api import Api

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]


async def tw(*args: str | Path) -> Ran:
    """A command line in a process of its own."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tracewatch", *map(str, args)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return Ran(process.returncode or 0, out, err.decode())


async def filled(url: str, count: int) -> str:
    """Append to a trace; its newest cursor."""
    api = Api(url)
    await asyncio.to_thread(api.create_trace, {"trace_id": "t", "task": "x"})
    await asyncio.to_thread(api.append, "t", [{"event": "step"}] * count)
    async with connect(f"{url.replace('http', 'ws')}/api/traces/t/watch?since_event_id=latest") as socket:
        cursor: str = orjson.loads(await socket.recv())["cursor"]
    return cursor


async def test_from_a_server_and_back_and_every_old_cursor_is_told(tmp_path: Path) -> None:
    db, copy = tmp_path / "log.db", tmp_path / "b.db"
    async with serving(db) as server:
        await filled(server.url, 3)
        ran = await tw("backup", copy, "--db", db)
        assert (ran.code, ran.err) == (0, "")
        assert ran.text.startswith(f"{copy}: 1 trace, 3 events, ")
        old = await filled(server.url, 4)
        ran = await tw("restore", copy, "--db", db, "--force")
        assert (ran.code, ran.text) == (1, "")
        assert "is open in another process: stop the server" in ran.err
    ran = await tw("restore", copy, "--db", f"sqlite:///{db}")
    assert (ran.code, ran.text) == (2, "")
    assert "there is a log at" in ran.err
    ran = await tw("restore", copy, "--db", db, "--force")
    assert ran.code == 0
    first, second = ran.text.splitlines()
    assert first.startswith(f"{db}: 1 trace, 3 events, ")
    assert second.startswith(f"the database that was there is kept as {db}.before-restore-")
    async with serving(db) as server:
        await check_told(server.url, old)
        assert (await filled(server.url, 1)).split(".")[0] in first


async def check_told(url: str, cursor: str) -> None:
    """A cursor of the other history, over every transport."""
    path = f"/api/traces/t/watch?since_event_id={cursor}"
    async with connect(url.replace("http", "ws") + path) as socket:
        frames = [orjson.loads(await socket.recv()) for _ in range(6)]
        assert [f["event"] for f in frames] == ["connected", "gap", "snapshot", "step", "step", "step"]
        assert (frames[1]["reason"], frames[1]["resume_event_id"]) == ("reset", 0)
    async with connect(url.replace("http", "ws") + "/api/watch") as socket:
        await socket.send(orjson.dumps({"subscribe": {"trace_id": "t", "since_event_id": cursor}}).decode())
        frames = [orjson.loads(await socket.recv()) for _ in range(2)]
        assert frames[1]["reason"] == "reset"
    async with httpx.AsyncClient(base_url=url) as client:
        for accept in ("application/json", "application/x-ndjson"):
            answer = await client.get(f"/api/traces/t/events?since_event_id={cursor}", headers={"accept": accept})
            assert (answer.status_code, answer.json()["error"]) == (410, "reset")
        headers = {"accept": "text/event-stream", "last-event-id": cursor}
        async with client.stream("GET", "/api/traces/t/events", headers=headers) as stream:
            names = [line async for line in first_of(stream, 3)]
            assert names == ["event: connected", "event: gap", "event: snapshot"]


async def first_of(stream: httpx.Response, count: int) -> Any:
    async for line in stream.aiter_lines():
        if line.startswith("event: "):
            yield line
            count -= 1
            if not count:
                return


async def test_what_it_says_when_it_can_not(tmp_path: Path) -> None:
    ran = await tw("backup", tmp_path / "b.db", "--db", tmp_path / "none.db")
    assert (ran.code, ran.text) == (1, "")
    assert ran.err == f"tracewatch: there is no log at '{tmp_path}/none.db'\n"
    (tmp_path / "b.db").touch()
    ran = await tw("backup", tmp_path / "b.db", "--db", tmp_path / "none.db")
    assert ran.code == 2
    assert "--force writes over it" in ran.err
    assert (await tw("backup")).code == 2
    assert (await tw("backup", tmp_path / "c.db", "--db", "postgres://x")).code == 2
    assert (await tw("restore", tmp_path / "b.db", "--discard")).code == 2
    assert not (tmp_path / "c.db").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_it_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    db, folder = tmp_path / "log.db", tmp_path / "backups"
    folder.mkdir()
    with ServerProcess(db) as server:
        await filled(server.url, 1000)
        code = (
            "import sys, time\nfrom tracewatch.log.sqlite import backup\nfrom tracewatch.cli import main\n"
            "def room(*args):\n    print('now', flush=True)\n    time.sleep(60)\n"
            "backup._check_room = room\nmain(sys.argv[1:])"
        )
        process = await asyncio.to_thread(
            lambda: subprocess.Popen(
                [sys.executable, "-c", code, "backup", str(folder / "b.db"), "--db", str(db)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
        )
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"now\n"
        assert len(list(folder.iterdir())) == 1
        process.send_signal(number)
        assert await asyncio.to_thread(process.wait, DEADLINE_S) == 130
        process.stdout.close()
        assert list(folder.iterdir()) == []
        assert (await tw("backup", folder / "b.db", "--db", db)).code == 0


async def test_doctor(tmp_path: Path) -> None:
    db = tmp_path / "log.db"
    async with serving(db) as server:
        await filled(server.url, 3)
        ran = await tw("doctor", "--db", db)
        assert (ran.code, ran.err) == (0, "")
        assert "1 trace with 3 events: whole" in ran.text
        assert f"{db}: 0 errors, " in ran.text.splitlines()[-1]
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("UPDATE traces SET status = 'failed', summary = ?", ("\x1b[31mred",))
    ran = await tw("doctor", "--db", db)
    assert ran.code == 1
    assert "✗ trace 't': its status is 'failed', its events say 'running'" in ran.text
    assert "\x1b" not in ran.text
    ran = await tw("doctor", "--db", db, "--json", "--full")
    assert ran.code == 1
    said = orjson.loads(ran.out)
    assert (said["db"], said["errors"]) == (str(db), 2)
    assert {one["code"] for one in said["findings"] if one["severity"] == "error"} == {"trace_row"}
    ran = await tw("doctor", "--db", tmp_path / "none.db")
    assert (ran.code, ran.text) == (2, "")
    assert "there is no log" in ran.err
