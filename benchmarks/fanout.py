"""fanout: the server's CPU for one delivery among many watchers, beside a loop that writes the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from .append import step
from .harness import Bench, Process, Server, check, cpu_s
from .wire import Socket

TRACE = "bench"
RATE = 100  # events a second
BURST_BATCH = 100  # events in one append of the burst


def crowd(port: int, watchers: int) -> Process:
    """Start ``watchers`` watchers in a process of their own and wait until they are at the head."""
    path = f"/api/traces/{TRACE}/watch?since_event_id=latest"
    process = Process("-m", "benchmarks.watchers", str(port), path, str(watchers))
    try:
        check((said := process.line(120)) == "ready", said)
    except BaseException:
        process.stop()
        raise
    return process


@dataclass
class Side:
    """A server, its watchers, and the cost of a delivery in each round."""

    pid: int
    crowd: Process
    watchers: int
    idle: float = 0.0  # CPU seconds a second with all connected and nothing to do
    steady: list[float] = field(default_factory=list)  # µs a delivery
    burst: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)  # seconds until all watchers had all events
    fell_behind: int = 0

    def measure_idle(self, seconds: float) -> None:
        """Measure the CPU of the idle servers, which is not counted as delivery."""
        before = cpu_s(self.pid)
        time.sleep(seconds)
        self.idle = (cpu_s(self.pid) - before) / seconds

    def deliver(self, events: int, send: Callable[[], None], costs: list[float]) -> None:
        """Send events and wait until each watcher has all of them."""
        before, start = cpu_s(self.pid), time.monotonic()
        self.crowd.tell(f"expect {events}")
        send()
        said = self.crowd.line(150)
        check(said.startswith("{"), said)
        taken, result = time.monotonic() - start, orjson.loads(said)
        deliveries = events * self.watchers
        check(result["delivered"] == deliveries, f"{result['delivered']} deliveries of {deliveries}")
        costs.append((cpu_s(self.pid) - before - self.idle * taken) / deliveries * 1e6)
        self.late.append(taken)
        self.fell_behind += int(result["fell_behind"])


def record(recorder: Socket, events: int, rate: float, batch: int) -> None:
    """Append at a rate, or (rate 0) as fast as the acks come; returns when all events are acknowledged."""
    start = time.monotonic()
    for number in range(0, events, batch):
        if rate:
            time.sleep(max(0.0, start + number / batch / rate - time.monotonic()))
        recorder.send(orjson.dumps({"append": {"events": [step(number + i) for i in range(batch)]}}))
    for _ in range(0, events, batch):
        recorder.until(b"ack")


class Fanout:
    """Both sides with their watchers, and the recorder of ours."""

    def __init__(self, bench: Bench, stack: ExitStack) -> None:
        self.bench = bench
        self.watchers = bench.pick(1000, 200)
        self.server = stack.enter_context(Server(bench.folder / "log.db"))
        for trace_id in (TRACE, "unwatched"):
            self.server.create_trace(trace_id)
        self.recorder = stack.enter_context(Socket(self.server.port, f"/api/traces/{TRACE}/record"))
        self.unwatched = stack.enter_context(Socket(self.server.port, "/api/traces/unwatched/record"))
        for one in (self.recorder, self.unwatched):
            one.until(b"ready")
        self.bare = stack.enter_context(Process("-m", "benchmarks.bare", "fanout", "0"))
        ports = (self.server.port, int(self.bare.line()))
        self.sides = [
            Side(process.pid, stack.enter_context(crowd(port, self.watchers)), self.watchers)
            for process, port in zip((self.server, self.bare), ports, strict=True)
        ]
        self.last_event_id = 0

    def recording_us(self, events: int) -> float:
        """CPU of recording one event of a trace without watchers, at the steady rate, in µs."""
        before, start = cpu_s(self.server.pid), time.monotonic()
        record(self.unwatched, events, RATE, 1)
        spent = cpu_s(self.server.pid) - before - self.sides[0].idle * (time.monotonic() - start)
        return spent / events * 1e6

    def round(self, events: int, rate: float, batch: int, costs: str) -> None:
        """Measure ours, then the bare server with the same bytes."""
        ours, raw = self.sides
        ours.deliver(events, lambda: record(self.recorder, events, rate, batch), getattr(ours, costs))
        bodies = self.server.bodies(TRACE, self.last_event_id)
        check(len(bodies) == events, f"the log has {len(bodies)} new events, not {events}")
        self.last_event_id += events
        path: Path = self.bench.folder / "bodies.ndjson"
        path.write_bytes(b"\n".join(bodies))
        raw.deliver(events, lambda: self._write_bare(path, rate, batch), getattr(raw, costs))

    def _write_bare(self, path: Path, rate: float, batch: int) -> None:
        self.bare.tell(f"{path} {rate} {batch}")
        check((said := self.bare.line(120)) == "done", said)


def run(bench: Bench) -> None:
    """Measure a steady rate, then bursts."""
    report = bench.report
    with ExitStack() as stack:
        fanout = Fanout(bench, stack)
        ours, raw = fanout.sides
        report.title(f"fanout: CPU per delivery to {fanout.watchers:,} watchers, against bare writes of the same bytes")
        for side in fanout.sides:
            side.measure_idle(bench.pick(3, 1))
        recording = fanout.recording_us(bench.pick(300, 100))
        fanout.round(RATE, RATE, 1, "late")  # warms up
        events, burst = bench.pick(6, 2) * RATE, bench.pick(30, 5) * BURST_BATCH
        for _ in range(bench.pick(3, 1)):
            fanout.round(events, RATE, 1, "steady")
            late = ours.late[-1] - raw.late[-1]
            report.note(f"steady round: everybody had everything {late * 1000:+.0f} ms after the bare loop's")
        steady_behind = ours.fell_behind
        for _ in range(bench.pick(3, 1)):
            fanout.round(burst, 0, BURST_BATCH, "burst")
    report.ratio(f"fanout at {RATE} events a second", ours.steady, raw.steady, "µs/delivery", at_most=2)
    less = recording / fanout.watchers
    report.note(
        f"of ours {less:.2f} µs is recording (parse, fold, commit, ack: {recording:,.0f} µs an event, measured "
        f"unwatched); idle {ours.idle * 100:.1f} % of a CPU, taken off; {steady_behind} fell behind"
    )
    report.ratio(
        f"fanout, bursts of {burst:,} events in batches of {BURST_BATCH}", ours.burst, raw.burst, "µs/delivery"
    )
    report.note(f"{ours.fell_behind - steady_behind} times a watcher fell behind and was paced from the log")
