"""trim: the time of an append while hundreds of thousands of events are trimmed, beside the same appends without that.

Another trace gets appends at an even pace all the time. Both halves belong to one run: in the first one nothing else
happens; in the second one this process or another one trims a large trace, sweeps its rows, and shrinks the file.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tracewatch.log import EventLog, Policy

from .append import message, opened, step
from .harness import Bench, Process

EVERY_S = 0.01  # time between two appends
LARGE, SMALL = "large", "small"


async def fill(log: EventLog, count: int) -> None:
    """Fill a trace with ``count`` events, every fourth of them a message."""
    for start in range(0, count, 500):
        await log.append(LARGE, [(step if n % 4 else message)(n) for n in range(start, start + 500)])


async def appending(log: EventLog, until: asyncio.Event) -> list[float]:
    """Append a small batch every ``EVERY_S``, and note the milliseconds that each one took."""
    took: list[float] = []
    number = 0
    while not until.is_set():
        began = time.perf_counter()
        await log.append(SMALL, [step(number)])
        took.append((time.perf_counter() - began) * 1000)
        number += 1
        await asyncio.sleep(EVERY_S)
    return took


async def quiet(log: EventLog, seconds: float) -> list[float]:
    """Measure appends while nothing else happens."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    return await appending(log, over)


async def trimming(log: EventLog, keep: int, db: Path | None) -> tuple[list[float], float]:
    """Measure appends, and the trimming, while all but ``keep`` events go, here or (``db``) in another process."""
    over = asyncio.Event()
    appends = asyncio.create_task(appending(log, over))
    began = time.perf_counter()
    if db is None:
        await log.prune(Policy(keep_events=keep))
    else:
        pruning = Process("-m", "tracewatch", "prune", "--db", str(db), "--keep-events", str(keep))
        try:
            await asyncio.to_thread(pruning.wait, 600)
        finally:
            pruning.stop()
    took_s = time.perf_counter() - began
    over.set()
    return await appends, took_s


def figures(took: list[float]) -> tuple[float, float, float]:
    """Median, 99th percentile and maximum."""
    ranked = sorted(took)
    return ranked[len(ranked) // 2], ranked[int(len(ranked) * 0.99)], ranked[-1]


async def rounds(bench: Bench, events: int, *, other: bool) -> None:
    report = bench.report
    db = bench.folder / f"trim-{other}.db"
    async with opened(db, LARGE, SMALL) as log:
        await fill(log, events)
        before = db.stat().st_size
        calm = await quiet(log, bench.pick(10, 3))
        busy, took_s = await trimming(log, 1000, db if other else None)
    who = "another process" if other else "this process"
    label = f"append while {events:,} events are trimmed by {who}"
    names = ("trimming", "without")
    for what, ours, raw in zip(("median", "p99", "max"), figures(busy), figures(calm), strict=True):
        report.ratio(f"{label}: {what}", [ours], [raw], "ms", names=names)
    added = max(0.0, figures(busy)[2] - figures(calm)[2])  # a busy machine makes both of them wait
    report.absolute(f"{label}: added to the longest", [added], "ms", at_most=50)
    report.note(f"{len(busy):,} appends meanwhile; trimmed, swept and shrunk in {took_s:.1f} s")
    report.note(f"the file: {before / 1e6:.0f} MB before, {db.stat().st_size / 1e6:.0f} MB after")


def run(bench: Bench) -> None:
    """Report the cost of trimming for an append."""
    bench.report.title("trim: append latency while the past goes")
    events = bench.pick(200_000, 20_000)
    for other in (False, True):
        asyncio.run(rounds(bench, events, other=other))
