"""search: queries over 1,000,000 messages, making their index, and what filling it costs appends.

The messages are written by SQL: words by Zipf's law out of 50,000, in 2,000 runs of 500 messages each. The queries are
words of all kinds: common, seldom, two, phrases, prefixes, without another word, in one run.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import orjson

from tracewatch.log import EventLog, SearchQuery, open_log
from tracewatch.log.search import SearchIndex
from tracewatch.log.sqlite.keys import event_key
from tracewatch.log.sqlite.search import index_path
from tracewatch.model.events import validate_trace
from tracewatch.model.filter import parse_filter

from .harness import Bench, check

VOCABULARY = 50_000
PER_RUN = 500
BATCH = 20
FIRST = {"trace_id": "run-0", "task": "Fix it", "started_at": "2026-01-01T00:00:00Z"}
BUSY, IDLE = 20, 0.5  # as the server paces it (server/app.py)


def vocabulary() -> tuple[list[str], list[float]]:
    """Words, and how often each is."""
    chance = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = sorted({"".join(chance.choices(letters, k=chance.randrange(2, 11))) for _ in range(VOCABULARY)})
    chance.shuffle(words)
    return words, [1 / (rank + 10) for rank in range(len(words))]


def fill(path: Path, runs: int, words: list[str], weights: list[float]) -> None:
    """Put in runs of messages, as the log would have them: the rows that search reads."""
    chance = random.Random(2)
    with closing(sqlite3.connect(path)) as db:
        columns = [name for _, name, *_ in db.execute("PRAGMA table_info(traces)") if name != "trace_key"]
        first = dict(zip(columns, db.execute(f"SELECT {', '.join(columns)} FROM traces").fetchone(), strict=True))
        insert = f"INSERT INTO traces ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        for run in range(1, runs):
            name, at = f"run-{run}", f"2026-01-01T00:00:00.{run % 1000:03d}Z"
            started = f"2026-{1 + run // 28 % 12:02d}-{1 + run % 28:02d}{at[10:]}"
            row = {**first, "trace_id": name, "root_trace_id": name, "started_at": started, "last_event_id": PER_RUN}
            key = (
                db.execute(insert, list({**row, "change_seq": run + 1, "status": "completed"}.values())).lastrowid or 0
            )
            size, rows = 0, []
            said = iter(chance.choices(words, weights, k=PER_RUN * 60))
            for event_id in range(1, PER_RUN + 1):
                text = " ".join(word for _, word in zip(range(chance.randrange(5, 100)), said, strict=False))
                message = {"message_id": f"m{event_id}", "role": "assistant", "content": text, "sequence": event_id}
                body = {"event": "message_added", "event_id": event_id, "trace_id": name, "ts": started}
                message |= {"status": "complete", "goal_id": None, "description": ""}
                raw = orjson.dumps({**body, "message": message, "affected_goals": []})
                size += len(raw)
                rows.append((event_key(key, event_id), size, raw))
            db.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
            if run % 50 == 0:
                db.commit()
        db.execute("UPDATE change_counter SET change_seq = ?", (runs + 1,))
        db.commit()


def queries(words: list[str]) -> list[str]:
    """Texts to look for, of all kinds in turn."""
    chance = random.Random(3)
    common, middle, seldom = words[:50], words[50:2000], words[2000:]
    kinds = (
        lambda: chance.choice(common),
        lambda: chance.choice(middle),
        lambda: chance.choice(seldom),
        lambda: f"{chance.choice(common)} {chance.choice(middle)}",
        lambda: f"{chance.choice(common)} {chance.choice(common)} {chance.choice(common)}",
        lambda: f'"{chance.choice(common)} {chance.choice(common)}"',
        lambda: f'"{chance.choice(middle)} {chance.choice(middle)}"',
        lambda: f"{chance.choice(middle)[:4]}*",
        lambda: f"{chance.choice(common)} -{chance.choice(common)}",
        lambda: f"{chance.choice(seldom)} {chance.choice(seldom)}",
    )
    return [kinds[number % len(kinds)]() for number in range(300)]


async def look(log: EventLog, texts: list[str], **options: Any) -> list[float]:
    """Milliseconds of the first page of each."""
    times: list[float] = []
    for text in texts:
        query = SearchQuery(parse_filter(text).terms, **options)
        began = time.perf_counter()
        await log.search(query)
        times.append((time.perf_counter() - began) * 1000)
    return sorted(times)


async def measure(bench: Bench) -> None:
    """Fill, index and ask."""
    report, path, runs = bench.report, bench.folder / "log.db", bench.pick(2_000, 100)
    words, weights = vocabulary()
    log = await open_log(str(path))
    await log.create_trace(validate_trace(FIRST))
    await log.close()
    fill(path, runs, words, weights)
    log = await open_log(str(path))
    try:
        index, began = log.finder.index, time.process_time()
        assert index is not None
        while await index.step():
            pass
        took, messages = time.process_time() - began, (runs - 1) * PER_RUN
        check((await index.progress()).state == "current", "not all was read")
        size = index_path(path).stat().st_size / path.stat().st_size
        report.note(
            f"{messages:,} messages read: {took / messages * 1e6:,.0f} µs of CPU each; {size:.2f} of the log's size"
        )
        for label, options in (("", {}), (", in one run", {"within": "run-7"})):
            times = await look(log, queries(words), **options)
            p95, middle = times[int(len(times) * 0.95)], times[len(times) // 2]
            report.note(f"median {middle:.2f} ms, slowest {times[-1]:.0f} ms")
            report.absolute(f"search, {messages:,} messages{label}: p95 of 300 queries", [p95], "ms", at_most=100)
    finally:
        await log.close()


async def _follow(log: EventLog, index: SearchIndex) -> None:
    """As the server fills it."""
    grown = asyncio.Event()
    log.listen(lambda told: grown.set())
    while True:
        grown.clear()
        began = time.monotonic()
        more = await index.step()
        await asyncio.sleep((time.monotonic() - began) * (BUSY if grown.is_set() else IDLE) if more else 0.3)


async def _append(path: Path, events: int, *, follow: bool) -> float:
    """Events a second, by four appenders of batches."""
    log = await open_log(str(path))
    assert log.finder.index is not None
    follower = asyncio.create_task(_follow(log, log.finder.index)) if follow else None
    words, weights = vocabulary()
    chance = random.Random(4)
    texts = [" ".join(chance.choices(words, weights, k=50)) for _ in range(500)]

    async def appender(name: str) -> None:
        await log.create_trace(validate_trace({"trace_id": name, "task": "Fix it"}))
        for start in range(0, events // 4, BATCH):
            said = ({"role": "assistant", "content": texts[(start + n) % len(texts)]} for n in range(BATCH))
            await log.append(name, [{"event": "message_added", "message": one} for one in said])

    try:
        began = time.perf_counter()
        await asyncio.gather(*(appender(f"run-{number}") for number in range(4)))
        return events / (time.perf_counter() - began)
    finally:
        if follower is not None:
            follower.cancel()
            with suppress(asyncio.CancelledError):
                await follower
        await log.close()


async def cost(bench: Bench) -> None:
    """What filling the index costs appends, in turns."""
    with_it: list[float] = []
    without: list[float] = []
    for number in range(bench.pick(7, 3)):
        for times, follow in ((without, False), (with_it, True)):
            path = bench.folder / f"append-{number}-{follow}.db"
            times.append(await _append(path, bench.pick(40_000, 8_000), follow=follow))
    names = ("with search", "without")
    bench.report.ratio("search: appends while it is filled", with_it, without, "/s", at_least=0.95, names=names)


def run(bench: Bench) -> None:
    """Measure search."""
    bench.report.title("search: queries, the making of the index, and what it costs appends; in process")
    asyncio.run(cost(bench))
    asyncio.run(measure(bench))
