"""soak: half an hour of recorders and watchers that come and go while old events are trimmed; does memory or time grow?

Rule: every watcher checks its frames: the next id after its cursor, or a ``gap`` with the cursor to go on from.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from .harness import Bench, Server, check, descriptors, rss_kib

LANES = 10  # traces that go on at once
RATE = 500  # events a second, of all lanes together
WATCHERS = 200
KEEP_EVENTS = 2000  # of a trace
TRACE_S = (60.0, 120.0)  # how long a trace goes on
STAY_S = (5.0, 60.0)  # how long a watcher stays
SAMPLE_S = 10.0
PAYLOAD = "x" * 200


@dataclass
class Sample:
    """The figures of one window of SAMPLE_S seconds."""

    rss_kib: float
    descriptors: int
    disk_kib: float
    delays_ms: list[float]


@dataclass
class Soak:
    """The recorders and watchers, and their counts."""

    url: str
    current: dict[int, str] = field(default_factory=dict)  # lane → its trace
    appended: int = 0
    delivered: int = 0
    visits: int = 0
    gaps: int = 0
    delays_ms: list[float] = field(default_factory=list)
    over: bool = False
    under_way: asyncio.Event = field(default_factory=asyncio.Event)  # each lane has a trace

    @property
    def ws_url(self) -> str:
        """The base of the URLs of sockets."""
        return self.url.replace("http", "ws", 1)

    async def lane(self, client: httpx.AsyncClient, number: int) -> None:
        """Record one trace after the other, and delete the one before the last."""
        finished: list[str] = []
        for count in range(1_000_000):
            if self.over:
                return
            trace_id = f"lane-{number}-{count}"
            answer = await client.post("/api/traces", json={"trace_id": trace_id, "task": "soak", "lease_s": 30})
            check(answer.status_code == 201, f"creating {trace_id}: {answer.status_code} {answer.text[:200]}")
            self.current[number] = trace_id
            if len(self.current) == LANES:
                self.under_way.set()
            await self._record(trace_id, time.monotonic() + random.uniform(*TRACE_S))
            finished.append(trace_id)
            if len(finished) > 2:
                await client.delete(f"/api/traces/{finished.pop(0)}")

    async def _record(self, trace_id: str, until: float) -> None:
        async with connect(f"{self.ws_url}/api/traces/{trace_id}/record?producer=soak", compression=None) as socket:
            await socket.recv()
            acks = asyncio.create_task(_drain(socket))
            step, seq, due = LANES / RATE, 0, time.monotonic()
            while not self.over and time.monotonic() < until:
                seq += 1
                due += step
                event = {"event": "step", "sent": time.monotonic(), "text": PAYLOAD}
                await socket.send(orjson.dumps({"append": {"seq": seq, "events": [event]}}).decode())
                self.appended += 1
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            end = {"event": "trace_completed", "status": "completed"}
            await socket.send(orjson.dumps({"append": {"seq": seq + 1, "events": [end]}}).decode())
            await asyncio.sleep(0.2)
            acks.cancel()
            await asyncio.gather(acks, return_exceptions=True)

    async def watcher(self) -> None:
        """Watch for a while, leave with or without a close, and come back to the same trace or to another one."""
        trace_id, cursor = "", 0
        while not self.over:
            if not trace_id or random.random() < 0.5:
                trace_id, cursor = random.choice(list(self.current.values())), 0
            since = str(cursor) if cursor else random.choice(("0", "-50", "latest"))
            with suppress(ConnectionClosed, OSError):
                cursor = await self._visit(trace_id, since, random.uniform(*STAY_S))
                if cursor < 0:
                    trace_id = ""
            self.visits += 1

    async def _visit(self, trace_id: str, since: str, stay_s: float) -> int:
        """Watch until the time is over or the trace is deleted. Returns the cursor, or -1."""
        url = f"{self.ws_url}/api/traces/{trace_id}/watch?until=end&since_event_id={since}"
        async with connect(url, compression=None, max_size=None) as socket:
            leaving = asyncio.get_running_loop().call_later(stay_s, socket.transport.abort)
            cursor = live_from = -1
            try:
                async for text in socket:
                    frame = orjson.loads(text)
                    event_id = frame.get("event_id")
                    if event_id is not None:
                        check(event_id == cursor + 1, f"{trace_id}: event {event_id} after cursor {cursor}")
                        cursor = event_id
                        self.delivered += 1
                        if live_from >= 0 and frame["event"] == "step":
                            self.delays_ms.append((time.monotonic() - frame["sent"]) * 1000)
                    elif frame["event"] == "connected":
                        cursor = int(frame["cursor"].rpartition(".")[2])
                    elif frame["event"] == "gap":
                        self.gaps += 1
                        cursor = frame["resume_event_id"]
                    elif frame["event"] == "caught_up":
                        live_from = cursor
                    elif frame["event"] == "fell_behind":
                        live_from = -1
                    elif frame["event"] in ("end", "error"):
                        return -1
            finally:
                leaving.cancel()
            return cursor if cursor > 0 else -1

    async def run(self, pid: int, db: Path, seconds: float) -> list[Sample]:
        """Run all recorders and watchers for this long. Returns a sample of each window."""
        samples: list[Sample] = []
        async with httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False) as client:
            lanes = [asyncio.create_task(self.lane(client, number)) for number in range(LANES)]
            await asyncio.wait({asyncio.create_task(self.under_way.wait()), *lanes}, return_when="FIRST_COMPLETED")
            crowd = [asyncio.create_task(self.watcher()) for _ in range(WATCHERS)]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                await asyncio.sleep(min(SAMPLE_S, seconds / 6))
                for task in (*lanes, *crowd):
                    if task.done():
                        task.result()  # raises the task's error
                delays, self.delays_ms = self.delays_ms, []
                disk = sum(path.stat().st_size for path in db.parent.glob(f"{db.name}*")) / 1024
                samples.append(Sample(rss_kib(pid), descriptors(pid), disk, sorted(delays)))
            self.over = True
            for task in crowd:
                task.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)
            await asyncio.gather(*lanes)
        return samples


async def _drain(socket: ClientConnection) -> None:
    async for text in socket:
        check(b'"ack"' in (text if isinstance(text, bytes) else text.encode()), f"an append was refused: {text!r}")


def percentile(values: list[float], share: float) -> float:
    """Of sorted values; 0 if there are none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def run(bench: Bench) -> None:
    """Compare the last third with the second one: a figure that does not grow has a ratio near 1."""
    seconds = bench.pick(1800, 60)
    report = bench.report
    report.title(
        f"soak: {seconds / 60:g} minutes, {RATE} events a second into {LANES} traces, {WATCHERS} watchers that come "
        f"and go, {KEEP_EVENTS:,} events kept of each trace"
    )
    db = bench.folder / "log.db"
    with Server(db, keep_events=KEEP_EVENTS, heartbeat_s=15, ws_ping_s=20) as server:
        soak = Soak(server.url)
        samples = uvloop.run(soak.run(server.pid, db, seconds))
    third = len(samples) // 3
    before, after = samples[third : 2 * third], samples[2 * third :]

    def compare(label: str, unit: str, values: list[list[float]], at_most: float) -> None:
        ours, base = (statistics.median(part) for part in values)
        report.ratio(label, [ours], [base], unit, at_most=at_most, names=("last third", "second third"))

    compare("resident memory", "MiB", [[s.rss_kib / 1024 for s in part] for part in (after, before)], 1.1)
    compare("file descriptors", "", [[float(s.descriptors) for s in part] for part in (after, before)], 1.1)
    compare("files of the log", "MiB", [[s.disk_kib / 1024 for s in part] for part in (after, before)], 1.25)
    for share in (0.5, 0.99):
        delays = [[percentile(s.delays_ms, share) for s in part] for part in (after, before)]
        compare(f"delay from append to watcher, p{share * 100:g}", "ms", delays, 1.5)
    worst = max(s.delays_ms[-1] for s in samples if s.delays_ms)
    report.note(
        f"{soak.appended:,} events appended, {soak.delivered:,} delivered and checked in {soak.visits:,} visits, "
        f"{soak.gaps:,} gaps told; worst delay {worst:,.0f} ms (clients on the same cores)"
    )
