"""A server with fifty good watchers, one recorder and a hostile client: the watchers' events, and the server's cost.

Rule: the good watchers are ordinary clients in this process, so the server is to blame for any event that they miss.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
from websockets.asyncio.client import connect

from benchmarks.harness import descriptors, rss_kib

ROOT = Path(__file__).resolve().parents[2]
WATCHERS = 50
RATE = 50  # events a second
DEADLINE_S = 60.0
SETTLE_S = 20.0


@dataclass
class Watcher:
    """A good watcher."""

    event_ids: list[int] = field(default_factory=list)
    delays_ms: list[float] = field(default_factory=list)

    async def run(self, url: str, last_event_id: int) -> None:
        """Watch until the event of this id has come; the ids must be without hole and repeat."""
        async with connect(url, compression=None, max_size=None, max_queue=None, open_timeout=DEADLINE_S) as socket:
            while not self.event_ids or self.event_ids[-1] < last_event_id:
                frame = orjson.loads(await socket.recv(decode=False))
                if "event_id" in frame:
                    self.event_ids.append(frame["event_id"])
                    self.delays_ms.append((time.monotonic() - frame["sent"]) * 1000)


@dataclass(frozen=True)
class Outcome:
    """What was seen from outside."""

    watchers: list[Watcher]
    rss_before_kib: float
    rss_most_kib: float
    descriptors_before: int
    descriptors_after: int

    @property
    def delays_ms(self) -> list[float]:
        """Of all events at all watchers, sorted."""
        return sorted(delay for watcher in self.watchers for delay in watcher.delays_ms)


async def _create(client: httpx.AsyncClient, trace_id: str, events: int) -> None:
    answer = await client.post("/api/traces", json={"trace_id": trace_id, "task": "siege"})
    assert answer.status_code in (200, 201), answer.text
    batch = [{"event": "filler", "text": "x" * 2000} for _ in range(500)]
    for _ in range(0, events, 500):
        assert (await client.post(f"/api/traces/{trace_id}/events", json=batch)).status_code == 200


async def _record(port: int, good: str, prey: str, events: int) -> None:
    """Append to both at a steady rate; a refusal of what goes to the good one fails."""
    base = f"ws://127.0.0.1:{port}/api/traces"
    async with connect(f"{base}/{good}/record", compression=None, open_timeout=DEADLINE_S) as socket:
        async with connect(f"{base}/{prey}/record", compression=None, max_queue=None, open_timeout=DEADLINE_S) as other:
            await socket.recv()
            start = time.monotonic()
            for number in range(events):
                await asyncio.sleep(max(0.0, start + number / RATE - time.monotonic()))
                await other.send(orjson.dumps({"append": {"events": [{"event": "noise", "n": number}]}}).decode())
                event = {"event": "step", "sent": time.monotonic()}
                await socket.send(orjson.dumps({"append": {"events": [event]}}).decode())
                answer = str(await asyncio.wait_for(socket.recv(), DEADLINE_S))
                assert '"ack"' in answer, answer


async def _begin(abuse: Sequence[str], port: int, prey: str) -> asyncio.subprocess.Process:
    """Somebody who misbehaves, in a process of its own and behind all others in the queue for the processor.

    It stands for another machine: what it costs itself is not the watchers' concern, and it gets what they leave.
    """
    name, *numbers = abuse
    command = (sys.executable, "-m", "tests.hostile.clients", name, str(port), prey, *numbers)
    return await asyncio.create_subprocess_exec("nice", "-n", "19", *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE)


async def _most(pid: int, most: list[float], over: asyncio.Event) -> None:
    while not over.is_set():
        most[0] = max(most[0], rss_kib(pid))
        await asyncio.sleep(0.1)


async def siege(
    port: int, pid: int, abuse: Sequence[str], *, events: int, history: int = 2000, good: str = "good"
) -> Outcome:
    """Record ``events`` events for 50 watchers while ``abuse`` goes on, then wait until the server is itself again.

    ``abuse``: its name and numbers for tests/hostile/clients.py, or nothing. ``history``: events in the trace abused.
    """
    prey = f"prey-of-{good}"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S, trust_env=False) as client:
        await _create(client, good, 0)
        await _create(client, prey, history)
        await _create(client, prey + "-idle", 0)
        before_kib, before_fds = rss_kib(pid), descriptors(pid)
        over = asyncio.Event()
        most = [before_kib]
        watchers = [Watcher() for _ in range(WATCHERS)]
        url = f"ws://127.0.0.1:{port}/api/traces/{good}/watch"
        watching = [asyncio.create_task(one.run(url, events)) for one in watchers]
        measuring = asyncio.create_task(_most(pid, most, over))
        abusing = await _begin(abuse, port, prey) if abuse else None
        try:
            await asyncio.wait_for(_record(port, good, prey, events), events / RATE + DEADLINE_S)
            await asyncio.wait_for(asyncio.gather(*watching), DEADLINE_S)
            assert abusing is None or abusing.returncode is None, "the abuse stopped by itself"
        finally:
            over.set()
            for task in watching:
                task.cancel()
            if abusing is not None:
                await asyncio.wait_for(abusing.communicate(b""), DEADLINE_S)  # which ends its stdin
            await asyncio.gather(measuring, *watching, return_exceptions=True)
        after = await _settled(pid, before_fds)
        assert (await client.get("/readyz")).status_code == 200
    return Outcome(watchers, before_kib, most[0], before_fds, after)


async def _settled(pid: int, before: int) -> int:
    """The descriptors once the hostile connections have gone, or at the deadline."""
    for _ in range(int(SETTLE_S / 0.1)):
        if descriptors(pid) <= before + 2:
            break
        await asyncio.sleep(0.1)
    return descriptors(pid)
