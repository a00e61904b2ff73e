"""connect: the time to open a long trace beside a short one, and the memory of an idle watcher."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import orjson
import uvloop

from .append import message, opened, step
from .fanout import crowd
from .harness import Bench, Process, Server, check, rss_kib
from .wire import Socket

GOALS = 10  # in each trace, so that both states are of one size


def events_of(count: int) -> list[dict[str, Any]]:
    """A few goals, then messages and steps in turn."""
    goals = [{"event": "goal_added", "goal": {"description": f"Goal {number}"}} for number in range(GOALS)]
    return [*goals, *((message, step)[number % 2](number) for number in range(count - GOALS))]


async def fill(db: Path, sizes: dict[str, int]) -> None:
    """A log with a trace of each size."""
    async with opened(db, *sizes) as log:
        for trace_id, count in sizes.items():
            events = events_of(count)
            for first in range(0, count, 1000):
                await log.append(trace_id, events[first : first + 1000])


def open_ms(server: Server, trace_id: str, events: int) -> float:
    """Milliseconds from connecting to ``caught_up``."""
    start = time.perf_counter()
    with Socket(server.port, f"/api/traces/{trace_id}/watch?since_event_id=latest") as watcher:
        connected = watcher.until(b"connected")
        caught_up = watcher.until(b"caught_up")
        taken = time.perf_counter() - start
    found = orjson.loads(connected)
    check(found["current_event_id"] == events, f"{trace_id} is at {found['current_event_id']}, not {events}")
    check(len(found["goal_tree"]["goals"]) == GOALS, f"{trace_id} has other goals")
    check(orjson.loads(caught_up)["replayed"] == 0, f"{trace_id}: events were replayed")
    return taken * 1000


def opening(bench: Bench, db: Path, sizes: dict[str, int]) -> None:
    """Open the long and the short trace in turn: known to the server, and for the first time since its start."""
    cold: dict[str, list[float]] = {trace_id: [] for trace_id in sizes}
    warm: dict[str, list[float]] = {trace_id: [] for trace_id in sizes}
    for number in range(bench.pick(9, 2)):
        with Server(db) as server:
            for _ in range(3):
                open_ms(server, "other", sizes["other"])  # the server's work for its first watch is not counted
            names = ("long", "short") if number % 2 else ("short", "long")
            for trace_id in names:
                cold[trace_id].append(open_ms(server, trace_id, sizes[trace_id]))
            for _ in range(bench.pick(20, 5)):
                for trace_id in names:
                    warm[trace_id].append(open_ms(server, trace_id, sizes[trace_id]))
    label = f"opening {sizes['long']:,} events beside {sizes['short']:,}"
    for when, found in (("known to the server", warm), ("the first time since it started", cold)):
        names = ("long", "short")
        bench.report.ratio(f"{label}, {when}", found["long"], found["short"], "ms", at_most=2, names=names)


def settled_rss(pid: int) -> float:
    """Resident KiB once it no longer changes."""
    last = 0.0
    for _ in range(20):
        now = rss_kib(pid)
        if abs(now - last) < 64:
            break
        last = now
        time.sleep(0.3)
    return now


def per_watcher(pid: int, port: int, watchers: int) -> float:
    """Resident KiB of each watcher: with all of them less with a few, for which the server has loaded its code."""
    few = 20
    with crowd(port, few):
        before = settled_rss(pid)
        with crowd(port, watchers):
            return (settled_rss(pid) - before) / watchers


def memory(bench: Bench, db: Path) -> None:
    """Ours beside bare uvloop sockets, each in a fresh process."""
    watchers = bench.pick(2000, 300)
    one: list[float] = []
    other: list[float] = []
    for _ in range(bench.pick(3, 1)):
        with Server(db) as server:
            one.append(per_watcher(server.pid, server.port, watchers))
        with Process("-m", "benchmarks.bare", "fanout", "0") as bare:
            other.append(per_watcher(bare.pid, int(bare.line()), watchers))
    bench.report.absolute(f"memory of an idle watcher, {watchers:,} of them", one, "KiB", at_most=30)
    bench.report.note(f"a bare uvloop socket with a protocol: {statistics.median(other):.1f} KiB")


def run(bench: Bench) -> None:
    """Measure the times, then the memory."""
    bench.report.title("connect: from connecting to caught_up with since=latest, and memory while idle")
    # Half a snapshot interval after the last snapshot: neither the best nor the worst case of a first opening
    sizes = {"long": bench.pick(100_250, 10_250), "short": 100, "other": 120, "bench": 100}
    db = bench.folder / "log.db"
    uvloop.run(fill(db, sizes))
    opening(bench, db, sizes)
    memory(bench, db)
