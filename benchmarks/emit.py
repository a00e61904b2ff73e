"""emit: the time that recording one event takes in the agent's own thread, with a server and without one.

The agent is a process of its own (``python -m benchmarks.emit URL SPOOL WAIT_S ROUNDS PACED RUSHED``), because a
recorder finishes its work when its process ends. The agent prints its measurements as one line of JSON.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

import tracewatch

from .append import TEXT
from .harness import Bench, Process, Server, check

Emit = Callable[[int], Any]
RATE = 500  # calls a second, paced


def paced(emit: Emit, count: int) -> list[float]:
    """Microseconds of each call, with a pause between the calls as an agent has."""
    taken = []
    start = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, start + number / RATE - time.perf_counter()))
        before = time.perf_counter_ns()
        emit(number)
        taken.append((time.perf_counter_ns() - before) / 1000)
    return taken


def rushed(emit: Emit, count: int) -> float:
    """Microseconds of each call, made right after each other."""
    before = time.perf_counter_ns()
    for number in range(count):
        emit(number)
    return (time.perf_counter_ns() - before) / 1000 / count


def raw() -> Emit:
    """The least possible work: the event's JSON goes into a queue."""
    queue: deque[bytes] = deque(maxlen=1000)
    return lambda number: queue.append(orjson.dumps({"event": "step", "number": number, "tool": "grep", "text": TEXT}))


def emitters(trace: tracewatch.Trace) -> dict[str, Emit]:
    """The two calls that agents make most."""
    return {
        "event()": lambda number: trace.event("step", number=number, tool="grep", text=TEXT),
        "message()": lambda number: trace.message("assistant", TEXT, tokens=120, cost=0.0012),
    }


def agent(url: str, spool: str, wait_s: float, rounds: int, few: int, many: int) -> dict[str, Any]:
    """Both calls, paced and back to back, ours and raw in turn: lists of microseconds by name."""
    logging.getLogger("tracewatch").setLevel(logging.ERROR)  # no warning that the server is away, as it shall be
    result: dict[str, Any] = {}
    trace = tracewatch.trace("benchmark", trace_id="emit", url=url, spool_dir=spool)
    with trace:
        for name, emit in emitters(trace).items():
            found: dict[str, list[float]] = {"paced": [], "p99": [], "raw": [], "rushed": [], "raw_rushed": []}
            for number in range(rounds + 1):
                each, bare = paced(emit, few), paced(raw(), few)
                busy, bare_busy = rushed(emit, many), rushed(raw(), many)
                trace.flush(wait_s)
                if number:  # the first of each warms up
                    found["paced"].append(statistics.median(each))
                    found["p99"].append(sorted(each)[int(len(each) * 0.99)])
                    found["raw"].append(statistics.median(bare))
                    found["rushed"].append(busy)
                    found["raw_rushed"].append(bare_busy)
            result[name] = found
    return {"calls": result, "dropped": trace.dropped, "emitted": 2 * (rounds + 1) * (few + many) + 1}


def measure(bench: Bench, where: str, url: str) -> int:
    """Run an agent and report its measurements; returns the number of events that it has recorded."""
    sizes = [bench.pick(5, 1), bench.pick(500, 200), bench.pick(5_000, 500)]
    # Without a server a flush would wait in vain, and so would the end of the process
    wait_s = "20" if where == "there" else "0.1"
    arguments = (url, str(bench.folder / f"spool-{where}"), wait_s, *map(str, sizes))
    with Process("-m", "benchmarks.emit", *arguments, env={"TRACEWATCH_FLUSH_S": wait_s}) as process:
        result = orjson.loads(process.line(120))
        check(process.wait() == 0, "the agent failed")
    check(result["dropped"] == 0, f"{result['dropped']} events were dropped")
    for name, found in result["calls"].items():
        bench.report.ratio(f"{name}, server {where}, {RATE} a second", found["paced"], found["raw"], "µs")
        bench.report.note(f"99 % took at most {max(found['p99']):,.0f} µs (the worst round)")
        bench.report.ratio(f"{name}, server {where}, back to back", found["rushed"], found["raw_rushed"], "µs")
    return int(result["emitted"])


def run(bench: Bench) -> None:
    """Measure with a server, then with an unused port."""
    bench.report.title("emit: time of one call in the agent's thread, against orjson.dumps into a deque")
    with Server(bench.folder / "log.db") as server:
        emitted = measure(bench, "there", server.url)
        stored = [orjson.loads(body)["event_id"] for body in server.bodies("emit", 0)]
        check(stored == list(range(1, emitted + 1)), f"{len(stored)} events are in the log, {emitted} were recorded")
    measure(bench, "away", server.url)


if __name__ == "__main__":
    url, spool, wait_s, rounds, few, many = sys.argv[1:]
    print(orjson.dumps(agent(url, spool, float(wait_s), int(rounds), int(few), int(many))).decode(), flush=True)
