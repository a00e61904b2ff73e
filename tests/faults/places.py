"""Real faults for tests: a small disk of its own, a program that holds a lock, a file that takes no more.

Rule: a fault is made with the system's own means and never mocked. Where the system does not permit it, the test is
      skipped with the reason; in CI it fails, so that no test is left out unnoticed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.server.wire import Watch, socket
from tests.support import DEADLINE_S

Json = dict[str, Any]


def not_here(reason: str) -> None:
    """Skip, or fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"in CI this has to be possible: {reason}")
    pytest.skip(reason)


@contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[Path]:
    """A tmpfs of its own, seen by every process of this test."""
    place = folder / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k,mode=0777", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, check=False, text=True)
    if done.returncode:
        not_here(f"a tmpfs can't be mounted here (run as root, or under `unshare -rm`): {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, option: str) -> None:
    """Change a small disk: ``size=32m`` makes room, ``ro`` makes it read-only."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


_HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA busy_timeout = 10000")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE meta SET value = value")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_program(db: Path) -> Iterator[subprocess.Popen[bytes]]:
    """While this lasts another process is in the middle of a transaction that writes."""
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(db)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        yield holder
    finally:
        holder.kill()
        holder.wait(DEADLINE_S)
        holder.stdin.close()
        holder.stdout.close()


class Client:
    """One who uses a server as everybody does, and remembers what was acknowledged."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.acked: dict[int, int] = {}  # event_id: n
        self.refused: list[httpx.Response] = []

    async def create(self, trace_id: str = "t", **more: Any) -> None:
        """Create a trace."""
        (await self.http.post("/api/traces", json={"trace_id": trace_id, "task": "x", **more})).raise_for_status()

    async def append(self, n: int, size: int = 10, trace_id: str = "t") -> bool:
        """Append one event; whether it was acknowledged. What else there is must be a proper 503."""
        event = {"event": "thought", "n": n, "pad": "x" * size, "tail": f"{trace_id}-{n}"}
        answer = await self.http.post(f"/api/traces/{trace_id}/events", json=event, timeout=DEADLINE_S)
        if answer.status_code == 200:
            if trace_id == "t":
                assert answer.json()["last_event_id"] not in self.acked, "an id twice"
                self.acked[answer.json()["last_event_id"]] = n
            return True
        check_unavailable(answer)
        self.refused.append(answer)
        return False

    async def ready(self) -> Json | None:
        """None if it is, else the first problem."""
        answer = await self.http.get("/readyz")
        assert (answer.status_code == 200) == answer.json()["ready"]
        if answer.status_code == 503:
            assert answer.headers["retry-after"].isdigit()
            problem: Json = answer.json()["problems"][0]
            return problem
        return None

    async def until_ready(self) -> None:
        """Wait until it says that it is."""
        await eventually(self.ready, None)

    async def until_problem(self, code: str) -> Json:
        """Wait until it says that this is wrong."""

        async def found() -> Json | None:
            problem = await self.ready()
            return problem if problem is not None and problem["code"] == code else None

        problem: Json = await eventually(found)
        return problem

    async def check_all_there(self) -> None:
        """Every acknowledged event is there under its id, and the ids are 1, 2, 3 …"""
        lines = (await self.http.get("/api/traces/t/events", headers={"Accept": "application/x-ndjson"})).text
        events = [orjson.loads(line) for line in lines.splitlines()]
        assert [event["event_id"] for event in events] == list(range(1, len(events) + 1))
        stored = {event["event_id"]: event["n"] for event in events if "n" in event}
        assert self.acked.items() <= stored.items()


def check_unavailable(answer: httpx.Response) -> None:
    """A refusal that a recorder understands and a person can read."""
    assert answer.status_code == 503, answer.text
    body = answer.json()
    assert body["error"] == "unavailable"
    assert int(answer.headers["retry-after"]) == body["retry_after_s"] >= 1
    assert body["message"].startswith("the log can't be "), body
    assert "Traceback" not in body["message"] and "/" not in body["message"]


_NOTHING: Any = object()


async def eventually(ask: Any, value: Any = _NOTHING) -> Any:
    """Ask until the answer is ``value``, or true."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = await ask()
            if (answer == value) if value is not _NOTHING else answer:
                return answer
            await asyncio.sleep(0.05)


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    """A client of a server."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=DEADLINE_S) as http:
        yield Client(http)


@asynccontextmanager
async def watcher_of(ws_url: str, trace_id: str = "t", **params: Any) -> AsyncIterator[Watch]:
    """A watcher that has caught up."""
    async with socket(ws_url, f"/api/traces/{trace_id}/watch", **params) as watch:
        await watch.had("caught_up")
        yield watch
