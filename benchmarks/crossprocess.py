"""crossprocess: from a recorder of one server to a watcher of another one on the same file, by the poll and with Redis.

The comparison is a watcher of the recorder's own server, which waits for the same commit.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import orjson

from tests.redis_server import MISSING, RedisServer, in_wheel, on_path

from .append import step
from .harness import Bench, Server, check, cpu_s
from .wire import STEP, Socket

TRACE = "bench"
PAUSE_S = 0.04  # at most, between events: two polls long, so that no phase of the poll is preferred
KINDS = ("same server", "other server, poll", "other server, Redis")


@dataclass
class Pair:
    """Two servers on one file, a recorder at the first and a watcher at each."""

    servers: tuple[Server, Server]
    recorder: Socket
    watchers: tuple[Socket, Socket]
    last: int = 0  # event_id
    idle: list[float] = field(default_factory=list)  # CPU of the second server with nothing to do, in percent

    def latencies(self, count: int) -> tuple[list[float], list[float]]:
        """Milliseconds from sending an event to its arrival, at the recorder's server and at the other one.

        The watchers are measured one after the other, so that neither waits while the other's event is read.
        """
        found: tuple[list[float], list[float]] = ([], [])
        for number in range(2 * count):
            time.sleep(random.uniform(0, PAUSE_S))
            start = time.perf_counter()
            self.recorder.send(orjson.dumps({"append": {"events": [step(number)]}}))
            timed = self.watchers[number % 2].until(b"step")
            found[number % 2].append((time.perf_counter() - start) * 1000)
            self.last += 1
            check(timed.startswith(STEP % self.last), f"{timed[:60]!r} came for event {self.last}")
            check(self.watchers[1 - number % 2].until(b"step") == timed, "the two watchers were sent different bytes")
            self.recorder.until(b"ack")
        return found

    def measure_idle(self, seconds: float) -> None:
        """CPU of the second server with an idle watcher, in percent."""
        before = cpu_s(self.servers[1].pid)
        time.sleep(seconds)
        self.idle.append((cpu_s(self.servers[1].pid) - before) / seconds * 100)


@contextmanager
def pair(bench: Bench, name: str, **settings: str) -> Iterator[Pair]:
    """Two servers on one file with a recorder and watchers."""
    with ExitStack() as stack:
        db = bench.folder / f"{name}.db"
        one, other = (stack.enter_context(Server(db, **settings)) for _ in range(2))
        one.create_trace(TRACE)
        recorder = stack.enter_context(Socket(one.port, f"/api/traces/{TRACE}/record"))
        recorder.until(b"ready")
        first, second = (
            stack.enter_context(Socket(server.port, f"/api/traces/{TRACE}/watch")) for server in (one, other)
        )
        for watcher in (first, second):
            watcher.until(b"caught_up")
        yield Pair((one, other), recorder, (first, second))


def run(bench: Bench) -> None:
    """Measure without Redis and with it, in turn."""
    report = bench.report
    report.title("crossprocess: recorder to watcher of another process, against the watcher of its own")
    binary = on_path() or in_wheel()
    with ExitStack() as stack:
        plain = stack.enter_context(pair(bench, "poll"))
        pairs = [plain]
        if binary is not None:
            redis = stack.enter_context(RedisServer(binary, bench.folder))
            pairs.append(stack.enter_context(pair(bench, "redis", redis=redis.url)))
        found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS[: 1 + len(pairs)]}
        for number in range(1 + bench.pick(5, 1)):
            for one, kind in zip(pairs, KINDS[1:], strict=False):
                same, other = one.latencies(bench.pick(200, 30))
                one.measure_idle(bench.pick(3, 1))
                if number:  # the first of each warms up
                    found[kind].append(other)
                    if one is plain:
                        found[KINDS[0]].append(same)
    for kind in KINDS[1 : 1 + len(pairs)]:
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            other, same = ([at(share, each) for each in found[name]] for name in (kind, KINDS[0]))
            report.ratio(f"{kind}, {label}", other, same, "ms", names=("ours", KINDS[0]))
        everything = sorted(one for each in found[kind] for one in each)
        report.note(f"all {len(everything):,} events: at most {everything[-1]:.1f} ms")
    for one, kind in zip(pairs, KINDS[1:], strict=False):
        report.note(f"{kind}: a server with nothing to do takes {statistics.median(one.idle):.1f} % of a CPU")
    if binary is None:
        report.note(f"no figures with Redis: {MISSING}")


def at(share: float, values: list[float]) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
