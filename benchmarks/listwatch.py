"""listwatch: the server's cost of the live list, as SQL reads a second and CPU, with one watcher and with many.

Every viewer tab watches the list. One trace grows at a steady rate, and each watcher must get its last state.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import orjson

from .append import step
from .harness import SERVE, Bench, Server, check, cpu_s
from .wire import Socket

TRACE = "bench"
RATE = 17  # events a second: not a divisor of the list's ten
WATCHERS = 200
OTHERS = 300  # other traces, which do not change
# Counts the reads of the read-only connections, and prints the number for each line on stdin
COUNTED = (
    "import sqlite3, sys, threading\nreads = 0\nreal = sqlite3.connect\n"
    "def connect(*args, **more):\n    made = real(*args, **more)\n    reader = False\n"
    "    def noted(sql):\n        global reads\n        nonlocal reader\n"
    "        reader = reader or sql.startswith('PRAGMA query_only')\n"
    "        reads += reader and sql.lstrip().startswith(('SELECT', 'WITH'))\n"
    "    made.set_trace_callback(noted)\n    return made\n"
    "sqlite3.connect = connect\n"
    "def answer():\n    for _ in sys.stdin:\n        print(reads, flush=True)\n"
    "threading.Thread(target=answer, daemon=True).start()\n" + SERVE
)


class Scene:
    """A server, a recorder, and the watchers of the list so far."""

    def __init__(self, bench: Bench, stack: ExitStack) -> None:
        self.stack = stack
        self.server = stack.enter_context(Server(bench.folder / "log.db", COUNTED))
        for number in range(OTHERS):
            self.server.create_trace(f"other-{number}")
        self.server.create_trace(TRACE)
        self.recorder = stack.enter_context(Socket(self.server.port, f"/api/traces/{TRACE}/record"))
        self.recorder.until(b"ready")
        self.watchers: list[Socket] = []
        self.sent = 0

    def watch(self, watchers: int) -> None:
        """Connect further watchers until there are ``watchers``."""
        while len(self.watchers) < watchers:
            socket = self.stack.enter_context(Socket(self.server.port, "/api/watch"))
            socket.send(b'{"subscribe_traces":{}}')
            check(len(orjson.loads(socket.until(b"traces"))["traces"]) == 100, "the list is not the first 100")
            self.watchers.append(socket)

    def reads(self) -> int:
        """The number of SQL reads of the server so far."""
        self.server.tell("")
        return int(self.server.line())

    def measure(self, seconds: int) -> tuple[float, float]:
        """``(reads a second, CPUs)`` while the trace grows. Checks that each watcher gets the trace's last state."""
        reads, cpu, start = self.reads(), cpu_s(self.server.pid), time.monotonic()
        for number in range(RATE * seconds):
            time.sleep(max(0.0, start + number / RATE - time.monotonic()))
            self.recorder.send(orjson.dumps({"append": {"events": [step(self.sent)]}}))
            self.sent += 1
        for _ in range(RATE * seconds):
            self.recorder.until(b"ack")
        took = time.monotonic() - start
        found = (self.reads() - reads) / took, (cpu_s(self.server.pid) - cpu) / took
        for watcher in self.watchers:
            last = 0
            while last < self.sent:
                trace = orjson.loads(watcher.until(b"trace_changed"))["trace"]
                if trace["trace_id"] == TRACE:
                    check(trace["last_event_id"] > last, "a state came twice, or an older one after a newer one")
                    last = trace["last_event_id"]
        return found


def run(bench: Bench) -> None:
    """Measure without a watcher, with one and with many."""
    report, rounds = bench.report, bench.pick(3, 1)
    report.title(f"listwatch: SQL reads and CPU while one trace grows by {RATE} events a second")
    found: dict[int, list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        scene = Scene(bench, stack)
        for watchers in (0, 1, bench.pick(WATCHERS, 50)):
            scene.watch(watchers)
            scene.measure(1)  # warms up
            found[watchers] = [scene.measure(bench.pick(5, 2)) for _ in range(rounds)]
    nobody, one, many = found.values()
    for what, place, unit in (("SQL reads", 0, "a second"), ("CPU", 1, "CPUs")):
        label = f"listwatch, {what}, {len(scene.watchers)} watchers against one"
        report.ratio(label, [x[place] for x in many], [x[place] for x in one], unit, names=("many", "one"))
        report.note(f"nobody watching: {sum(x[place] for x in nobody) / rounds:.3g} {unit}")
    report.absolute("listwatch, SQL reads a second", [x[0] for x in many], "reads/s", at_most=50)
