"""shape: what an event costs in a trace of an odd shape: very many goals, a long text, much for a recorder to remember.

Numbers of their own, in process and without a server: microseconds of the calls, and bytes in the file.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import tracewatch
from tracewatch.log import EventLog

from .append import TRACE, opened
from .harness import Bench, check


def goal(goal_id: str, parent_id: str | None = None) -> dict[str, Any]:
    """A ``goal_added``."""
    above = {} if parent_id is None else {"parent_id": parent_id}
    return {"event": "goal_added", "goal": {"id": goal_id, "description": "Find the cause", **above}}


async def each(log: EventLog, events: Iterable[dict[str, Any]]) -> float:
    """The median of the processor time of appending one event, in microseconds."""
    taken = []
    for event in events:
        before = time.process_time_ns()
        await log.append(TRACE, [event])
        taken.append((time.process_time_ns() - before) / 1000)
    return statistics.median(taken)


async def many_goals(bench: Bench, count: int) -> None:
    """``count`` goals below one; the snapshots that are kept of them, and the end of each of some."""
    path = bench.folder / f"goals-{count}.db"
    async with opened(path, TRACE) as log:
        await log.append(TRACE, [goal("top")])
        for start in range(0, count, 500):
            await log.append(TRACE, [goal(f"g{number}", "top") for number in range(start, start + 500)])
        done = [{"event": "goal_updated", "goal_id": f"g{n}", "patch": {"status": "completed"}} for n in range(300)]
        taken = await each(log, done)
    with closing(sqlite3.connect(path)) as connection:
        (kept,) = connection.execute("SELECT SUM(length(body)) FROM snapshots").fetchone()
        (logged,) = connection.execute("SELECT SUM(length(body)) FROM events").fetchone()
    bench.report.note(
        f"completing one of {count:,} goals: {taken:,.0f} µs; all snapshots {kept / logged:.2f} of the log"
    )


async def long_text(bench: Bench, characters: int) -> None:
    """One character at the end of a text, complete."""
    async with opened(bench.folder / f"text-{characters}.db", TRACE) as log:
        text = "A line\n" + "x" * 100_000
        message = {"message_id": "m", "role": "assistant", "content": text}
        await log.append(TRACE, [{"event": "message_added", "message": message}])
        update = {"event": "message_updated", "message_id": "m"}
        for _ in range(characters // 100_000 - 1):
            await log.append(TRACE, [{**update, "append": "x" * 100_000}])
        taken = await each(log, [{**update, "append": "y"} for _ in range(200)])
        check((await log.message(TRACE, "m"))[1]["content"].endswith("y" * 200), "characters are missing")
    bench.report.note(f"a character at the end of a text of {characters:,}: {taken:,.0f} µs")


def recorder(bench: Bench, goals: int, messages: int) -> None:
    """The calls of an agent in one trace, while its server is away."""

    def median(calls: Iterable[Callable[[], Any]]) -> str:
        taken = []
        for call in calls:
            before = time.perf_counter_ns()
            call()
            taken.append((time.perf_counter_ns() - before) / 1000)
        return f"{statistics.median(taken):,.1f} µs"

    spool = str(bench.folder / "spool")
    with tracewatch.trace("benchmark", url="http://127.0.0.1:9", spool_dir=spool) as trace, trace.goal("top"):
        plan = [trace.add_goal(f"step {number}") for number in range(goals)]
        bench.report.note(f"goal.complete(), {goals:,} goals: {median(step.complete for step in plan)}")
        calls = (lambda: trace.message("assistant", "It reads the cookie too early") for _ in range(messages))
        bench.report.note(f"t.message(), {messages:,} messages: {median(calls)}")


def run(bench: Bench) -> None:
    """Each shape in a small and in a large size: the figures are to be the same."""
    bench.report.title("shape: processor time of one event in a trace of an odd shape")
    for count in (1_000, bench.pick(50_000, 5_000)):
        asyncio.run(many_goals(bench, count))
    for characters in (200_000, bench.pick(4_000_000, 1_000_000)):
        asyncio.run(long_text(bench, characters))
    recorder(bench, bench.pick(10_000, 1_000), bench.pick(100_000, 2_000))
