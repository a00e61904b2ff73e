"""lists: the time of a page of 50 runs among 100,000: the first, and the 500th, without a filter and with each of them.

The rows are written by SQL, as a log has them whose runs were recorded: a year of runs, one every five minutes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tracewatch.log import EventLog, TraceQuery, open_log
from tracewatch.model.events import validate_trace

from .harness import Bench, check

PAGE = 50
FAR = 500  # pages
FIRST = {"trace_id": "run-0", "task": "Task number 0", "agent_type": "coder", "started_at": "2025-01-01T00:00:00Z"}
# Of each run: every third is of the tag "third", every 1,000th of "seldom"; ten models, a thousand sessions
VALUES = {
    "trace_id": "'run-' || n",
    "root_trace_id": "'run-' || n",
    "task": "'Task number ' || n || CASE n % 1000 WHEN 7 THEN ' with a needle' ELSE '' END",
    "status": "CASE n % 10 WHEN 0 THEN 'failed' ELSE 'completed' END",
    "error": 'CASE n % 10 WHEN 0 THEN \'{"type":"TimeoutError","message":"no answer"}\' END',
    "started_at": "strftime('%Y-%m-%dT%H:%M:%fZ', '2025-01-01', '+' || (n * 5) || ' minutes')",
    "active_at": "strftime('%Y-%m-%dT%H:%M:%fZ', '2025-01-01', '+' || (n * 5 + n % 7) || ' minutes')",
    "session_id": "'session-' || (n % 1000)",
    "user_id": "'user-' || (n % 100)",
    "change_seq": "n",
}
WORDS = (("tag", "'third'", "n % 3 = 0"), ("tag", "'seldom'", "n % 1000 = 0"), ("model", "'model-' || (n % 10)", "1"))
QUERIES: dict[str, dict[str, Any]] = {
    "no filter": {},
    "by activity": {"order": "activity"},
    "a status": {"status": ("completed",)},
    "two statuses": {"status": ("completed", "failed")},
    "a tag": {"tags": ("third",)},
    "a tag, by activity": {"tags": ("third",), "order": "activity"},
    "a text that many have": {"q": "task number"},
    "a tag and a status": {"tags": ("third",), "status": ("completed",)},
    "a seldom tag": {"tags": ("seldom",)},
    "a seldom tag, by activity": {"tags": ("seldom",), "order": "activity"},
    "two tags": {"tags": ("third", "seldom")},
    "a session": {"session_id": "session-7"},
    "a user": {"user_id": "user-7"},
    "a model": {"model": "model-7"},
    "any error": {"error": ""},
    "an error's text": {"error": "timeouterror"},
    "a text that few have": {"q": "a needle"},
    "a text that nobody has": {"q": "a needle in vain"},
}


def fill(path: Path, runs: int) -> None:
    """Put in as many runs, copies of the one that is there."""
    with closing(sqlite3.connect(path)) as db:
        columns = [name for _, name, *_ in db.execute("PRAGMA table_info(traces)") if name != "trace_key"]
        values = ", ".join(VALUES.get(name, name) for name in columns)
        numbers = f"WITH RECURSIVE k (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < {runs - 1})"
        db.execute(
            f"INSERT INTO traces ({', '.join(columns)}) {numbers} SELECT {values} FROM k, traces"
            " WHERE traces.trace_id = 'run-0'"
        )
        for kind, word, which in WORDS:
            db.execute(
                "INSERT INTO trace_words SELECT ?, word, began, trace_key FROM (SELECT began, trace_key,"
                f" {word} AS word, n FROM (SELECT *, trace_key - 1 AS n FROM traces) WHERE {which})",
                (kind,),
            )
        db.commit()


async def pages_ms(log: EventLog, queries: Sequence[TraceQuery], rounds: int) -> list[list[float]]:
    """Milliseconds of a page of each query, in turn, once for each round."""
    found: list[list[float]] = [[] for _ in queries]
    for _ in range(rounds):
        for query, times in zip(queries, found, strict=True):
            began = time.perf_counter()
            await log.traces(query)
            times.append((time.perf_counter() - began) * 1000)
    return found


async def far(log: EventLog, query: dict[str, Any]) -> str | None:
    """The token of page FAR; None where there are not as many. Checks that no run comes twice."""
    before: str | None = None
    seen: set[str] = set()
    while len(seen) < PAGE * (FAR - 1):
        limit = min(1000, PAGE * (FAR - 1) - len(seen))
        rows, before = await log.traces(TraceQuery(**query, limit=limit, before=before))
        ids = {row["trace_id"] for row in rows}
        check(len(ids) == len(rows) and not ids & seen, "a run came twice")
        seen |= ids
        if before is None:
            return None
    return before


async def measure(bench: Bench) -> None:
    """Measure every query."""
    report, rounds, runs = bench.report, bench.pick(21, 5), bench.pick(100_000, 30_000)
    path = bench.folder / "log.db"
    log = await open_log(str(path))
    await log.create_trace(validate_trace(FIRST))
    await log.close()
    fill(path, runs)
    log = await open_log(str(path))
    try:
        for name, query in QUERIES.items():
            token = await far(log, query)
            queries = [TraceQuery(**query, limit=PAGE, before=before) for before in (None, token)]
            first, later = await pages_ms(log, queries, rounds)
            label = f"lists, {name}, of {runs:,} runs"
            if token is None:
                report.absolute(f"{label}: the first page", first, "ms", at_most=100)
                continue
            report.ratio(f"{label}: page {FAR}", later, first, "ms", at_most=4, names=(f"page {FAR}", "first"))
    finally:
        await log.close()


def run(bench: Bench) -> None:
    """Measure pages of lists."""
    bench.report.title(f"lists: a page of {PAGE} runs, in process")
    asyncio.run(measure(bench))
