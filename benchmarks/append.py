"""append: the log in process against ``executemany`` of the same bytes in transactions of the same sizes.

The raw side writes what our log has written before, commit by commit: the same bodies, transactions, table and pragmas.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop

from tracewatch.log import EventLog, Grown, open_log
from tracewatch.model.events import validate_trace

from .harness import Bench, Server, check
from .wire import Socket

TRACE = "bench"
TEXT = "It reads the session cookie before the store has been opened, so that the first request of a login fails. " * 2
GOAL = {"event": "goal_added", "goal": {"description": "Find the cause", "status": "in_progress"}}
USED = {"input_tokens": 1500, "output_tokens": 200, "cache_read_tokens": 1200}
Commits = list[list[bytes]]  # the bodies of each transaction


def step(number: int) -> dict[str, Any]:
    """A plain event, without an effect on the state."""
    return {"event": "step", "number": number, "tool": "grep", "arguments": {"pattern": "login"}, "text": TEXT}


def message(number: int) -> dict[str, Any]:
    """A message, which changes the totals and a goal's stats."""
    said = {"role": "assistant", "content": f"{number}: {TEXT}", "status": "complete", "tokens": 120, "cost": 0.0012}
    return {"event": "message_added", "message": said}


def given(number: int) -> dict[str, Any]:
    """A model call with its usage and its cost."""
    event = message(number)
    event["message"] |= {"model": "claude-sonnet-4-5", "usage": USED, "tokens": 1700, "cost": 0.00426}
    return event


def priced(number: int) -> dict[str, Any]:
    """The same call without a cost, which the log works out."""
    event = given(number)
    del event["message"]["cost"]
    return event


@dataclass(frozen=True)
class Load:
    """The load of one measurement: the number, size and kind of its appends."""

    label: str
    kind: Any  # ``step`` or ``message``
    events: int
    batch: int
    appenders: int
    at_least: float | None = None

    def batches(self) -> list[list[dict[str, Any]]]:
        """The batches that the appenders append."""
        events = [self.kind(number) for number in range(self.events)]
        return [events[i : i + self.batch] for i in range(0, self.events, self.batch)]


@asynccontextmanager
async def opened(db: Path, *trace_ids: str) -> AsyncIterator[EventLog]:
    """A log with these traces. It is closed even after an interrupt, because its threads would go on."""
    log = await open_log(str(db))
    try:
        for trace_id in trace_ids:
            await log.create_trace(validate_trace({"task": "benchmark", "trace_id": trace_id}))
        yield log
    finally:
        await log.close()


async def ours(path: Path, load: Load, first: dict[str, Any] = GOAL) -> tuple[float, Commits]:
    """Append through the log, after ``first``. Returns events per second, and the bodies of each commit."""
    async with opened(path, TRACE) as log:
        await log.append(TRACE, [first])
        commits: list[Sequence[Grown]] = []
        log.listen(commits.append)
        queue = iter(load.batches())

        async def appender() -> None:
            for batch in queue:
                await log.append(TRACE, batch)

        with settled():
            start = time.perf_counter()
            await asyncio.gather(*[appender() for _ in range(load.appenders)])
            taken = time.perf_counter() - start
        written = [[body for one in grown for body in one.bodies] for grown in commits]
        await verify(log, written, load.events)
        return load.events / taken, written


async def verify(log: EventLog, written: Commits, events: int) -> None:
    """Check that the log holds the events of its commits, without a hole."""
    told = [body for bodies in written for body in bodies]
    check(len(told) == events, f"{len(told)} events told of {events}")
    held: list[bytes] = []
    while len(held) < events:
        page = await log.read(TRACE, 1 + len(held), max_events=1000, max_bytes=1 << 22)
        check(bool(page.bodies), f"the log ends after {1 + len(held)} events")
        held.extend(page.bodies)
    check(held == told, "the log holds other bytes than were told")
    ids = [orjson.loads(body)["event_id"] for body in held]
    check(ids == list(range(2, events + 2)), "the ids have holes")


def raw(path: Path, schema: str, commits: Commits) -> float:
    """``executemany`` of the same bodies in the same transactions. Returns events per second."""
    transactions, event_id, offset = [], 0, 0
    for bodies in commits:
        rows = []
        for body in bodies:
            event_id, offset = event_id + 1, offset + len(body)
            rows.append(((1 << 32) + event_id, offset, body))
        transactions.append(rows)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -16384"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(schema)
        with settled():
            start = time.perf_counter()
            for rows in transactions:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
                connection.execute("COMMIT")
            taken = time.perf_counter() - start
        check(connection.execute("SELECT COUNT(*) FROM events").fetchone() == (event_id,), "rows are missing")
        return event_id / taken
    finally:
        connection.close()


@contextmanager
def settled() -> Iterator[None]:
    """Within the block the garbage collector leaves out the benchmark's own objects."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def schema_of(path: Path, table: str) -> str:
    """The statement that creates a table."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return str(found[0])


def compare(bench: Bench, load: Load, rounds: int) -> None:
    """Measure ours and raw in turn."""
    one, other, sizes = [], [], list[int]()
    for number in range(rounds + 1):
        path = bench.folder / f"{load.kind.__name__}-{load.batch}-{number}.db"
        rate, commits = uvloop.run(ours(path, load))
        raw_rate = raw(path.with_suffix(".raw"), schema_of(path, "events"), commits)
        for used in bench.folder.glob(f"{path.stem}.*"):
            used.unlink()
        if number:  # the first of each warms up
            one.append(rate)
            other.append(raw_rate)
            sizes.extend(len(bodies) for bodies in commits)
    bench.report.ratio(load.label, one, other, "events/s", at_least=load.at_least)
    bench.report.note(f"{sum(sizes) / len(sizes):,.0f} events a transaction on average")


def compare_priced(bench: Bench, events: int, rounds: int) -> None:
    """Measure calls that are priced, and calls with a given cost, in turn."""
    rates: dict[Any, list[float]] = {priced: [], given: []}
    for number in range(rounds + 1):
        for kind, found in rates.items():
            path = bench.folder / f"{kind.__name__}-{number}.db"
            rate, _ = uvloop.run(ours(path, Load("", kind, events, 100, 8), first=kind(0)))
            for used in bench.folder.glob(f"{path.stem}.*"):
                used.unlink()
            if number:
                found.append(rate)
    label = "message_added, priced, against the same with a given cost"
    bench.report.ratio(label, rates[priced], rates[given], "events/s", at_least=0.9)


# --- over sockets, for information -----------------------------------------------------------------------------------


def over_record_socket(server: Server, batches: Sequence[Sequence[dict[str, Any]]], in_flight: int = 32) -> float:
    """Send all batches over one record socket, some in flight. Returns events per second."""
    server.create_trace("ws")
    messages = [orjson.dumps({"append": {"seq": None, "events": batch}}) for batch in batches]
    count = sum(map(len, batches))
    with Socket(server.port, "/api/traces/ws/record") as recorder:
        recorder.until(b"ready")
        start = time.perf_counter()
        last = b""
        for number, one in enumerate(messages):
            recorder.send(one)
            if number >= in_flight:
                last = recorder.until(b"ack")
        for _ in range(min(in_flight, len(messages))):
            last = recorder.until(b"ack")
        taken = time.perf_counter() - start
    check(orjson.loads(last)["ack"]["last_event_id"] == count, f"acknowledged: {last!r}, sent {count}")
    return count / taken


def over_http(server: Server, batches: Sequence[Sequence[dict[str, Any]]], connections: int = 4) -> float:
    """Send all batches as POSTs over a few kept connections. Returns events per second."""
    server.create_trace("http")
    bodies = iter([orjson.dumps(batch) for batch in batches])
    count = sum(map(len, batches))
    start = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        last = max(pool.map(lambda _: _post(server.port, bodies), range(connections)))
    taken = time.perf_counter() - start
    check(last == count, f"the log ends at {last}, sent {count}")
    return count / taken


def _post(port: int, bodies: Iterator[bytes]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    last = 0
    for body in bodies:
        connection.request("POST", "/api/traces/http/events", body, {"Content-Type": "application/json"})
        last = orjson.loads(connection.getresponse().read())["last_event_id"]
    connection.close()
    return last


def run(bench: Bench) -> None:
    """Batches by several appenders, single events by one, then the same over sockets."""
    bench.report.title("append: events a second into the log, against executemany of the same bytes")
    rounds = bench.pick(5, 1)
    many, few = bench.pick(40_000, 4_000), bench.pick(500, 100)
    for kind in (step, message):
        label = f"{'custom events' if kind is step else 'message_added'}, 8 appenders × 100"
        compare(bench, Load(label, kind, many, 100, 8, at_least=0.5), rounds)
    compare_priced(bench, many, rounds)
    compare(bench, Load("custom events one by one, 1 appender", step, few, 1, 1), rounds)
    compare(bench, Load("custom events one by one, 32 appenders", step, few * 8, 1, 32), rounds)
    batches = Load("", step, many, 100, 1).batches()
    with Server(bench.folder / "server.db") as server:
        socket_rate, http_rate = over_record_socket(server, batches), over_http(server, batches)
    bench.report.note(
        f"for information, custom events × 100: record socket {socket_rate:,.0f} events/s, "
        f"HTTP over 4 connections {http_rate:,.0f} events/s (client and server share the machine)"
    )
