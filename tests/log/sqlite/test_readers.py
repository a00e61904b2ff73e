"""How much is read for whom: a search in slices, a read that ends, and one client's share of the readers."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextvars import copy_context

import pytest

from tests.log.helpers import create, sqlite
from tests.support import until
from tracewatch.errors import TooMuchWork
from tracewatch.log import EventLog, TraceQuery
from tracewatch.log import reader as readers
from tracewatch.log.patience import CLIENT, Patience, TooLong
from tracewatch.log.sqlite import storage as engine
from tracewatch.log.sqlite.connections import patient

pytestmark = pytest.mark.anyio
ENDLESS = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"


async def searched(log: EventLog, q: str, limit: int) -> list[str]:
    found: list[str] = []
    before: str | None = None
    while True:
        rows, before = await log.traces(TraceQuery(q=q, limit=limit, before=before))
        found += [row["trace_id"] for row in rows]
        if before is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_a_search_in_slices_finds_each_once(log: EventLog, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(engine, "SEARCHED_KEYS", 2)
    monkeypatch.setattr(engine, "SLICE_S", 0.0)  # slices never become larger
    for n in range(11):
        await create(log, f"t{n}", "needle here" if n % 3 == 0 else "hay")
    assert await searched(log, "needle", limit) == ["t9", "t6", "t3", "t0"]
    assert await searched(log, "ne", limit) == ["t9", "t6", "t3", "t0"]
    assert await searched(log, "nothing", limit) == []


async def test_a_long_text_is_found_as_a_whole(log: EventLog) -> None:
    text = "The quick brown fox jumps over the lazy dog, " * 10
    for n, task in enumerate((text, text[:-3] + "!", "before " + text.upper() + " behind", text[:100])):
        await create(log, f"t{n}", task)
    assert await searched(log, text, 10) == ["t2", "t0"]
    assert await searched(log, text[:33], 10) == ["t3", "t2", "t1", "t0"]


async def test_a_read_without_end_ends(log: EventLog) -> None:
    storage = sqlite(log)
    with pytest.raises(TooLong):
        await storage._read(patient(lambda db: db.execute(ENDLESS).fetchone(), Patience(0.02)))
    with pytest.raises(TooLong):
        await storage.list_traces(TraceQuery(), Patience(0.0))
    assert await storage._read(lambda db: db.execute("SELECT 1").fetchone()) == (1,), "the next read is not stopped"


async def test_what_takes_too_long_says_what_to_ask_for(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(log)
    monkeypatch.setattr(readers, "Patience", lambda: Patience(0.0))
    with pytest.raises(TooMuchWork, match="longer or rarer text"):
        await log.traces(TraceQuery(q="x"))
    with pytest.raises(TooMuchWork, match="a state is kept"):
        await log.snapshot("t", 0)
    with pytest.raises(TooMuchWork, match="fewer with limit"):
        await log.messages("t", goal_id=None, before=None, limit=1)
    assert (await log.snapshot("t")).state.trace_id == "t", "what every watcher needs has no deadline"
    assert not log.health.troubles


async def test_one_client_has_half_of_the_readers(log: EventLog) -> None:
    storage = sqlite(log)
    reading, leave = 0, threading.Event()

    def hold(db: sqlite3.Connection) -> None:
        nonlocal reading
        reading += 1
        assert leave.wait(60)

    def start(client: str) -> asyncio.Task[None]:
        context = copy_context()
        context.run(CLIENT.set, client)
        return asyncio.create_task(storage._read(hold), context=context)

    half = len(storage._readers._connections) // 2
    try:
        tasks = [start("greedy") for _ in range(3 * half)]
        await until(lambda: reading == half)
        assert (await storage._read(lambda db: db.execute("SELECT 1").fetchone())) == (1,)
        tasks += [start("other") for _ in range(half)]
        await until(lambda: reading == 2 * half)
    finally:
        leave.set()
        await asyncio.gather(*tasks)
    assert reading == 4 * half
    assert not storage._readers._clients
