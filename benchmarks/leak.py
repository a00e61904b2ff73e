"""leak: the memory that the server still uses after runs were recorded, watched and finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx
import orjson
import uvloop
from websockets.asyncio.client import connect

from .harness import Bench, Server, check, rss_kib

EVENTS = 20  # of one run
AT_ONCE = 20  # runs that go on together


def run_events(trace_id: str) -> Iterator[dict[str, object]]:
    """One run: a goal, messages, a question that is answered by the end, the end."""
    yield {"event": "goal_added", "goal": {"description": f"goal of {trace_id}", "status": "in_progress"}}
    for number in range(EVENTS - 3):
        text = f"{trace_id} says {number} " + "x" * 200
        yield {"event": "message_added", "message": {"role": "assistant", "content": text, "tokens": 7}}
    yield {"event": "input_requested", "question": "Go on?"}
    yield {"event": "trace_completed", "status": "completed"}


async def one_run(client: httpx.AsyncClient, ws_url: str, trace_id: str) -> None:
    """Record one run over a socket while another socket watches it to its end."""
    answer = await client.post("/api/traces", json={"trace_id": trace_id, "task": "leak", "lease_s": 30})
    check(answer.status_code == 201, f"creating {trace_id}: {answer.status_code}")
    path = f"{ws_url}/api/traces/{trace_id}"
    async with connect(f"{path}/watch?until=end", compression=None) as watcher:
        async with connect(f"{path}/record?producer=p", compression=None) as recorder:
            await recorder.recv()
            for seq, event in enumerate(run_events(trace_id), 1):
                await recorder.send(orjson.dumps({"append": {"seq": seq, "events": [event]}}).decode())
            for _ in range(EVENTS):
                check(b'"ack"' in await recorder.recv(decode=False), f"{trace_id}: an append was refused")
        seen = [frame async for frame in watcher]
    check(sum('"event_id":' in str(frame)[:80] for frame in seen) == EVENTS, f"{trace_id}: not every event was watched")


async def runs(url: str, first: int, count: int) -> None:
    """Record this many runs, several at a time."""
    room = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:

        async def limited(number: int) -> None:
            async with room:
                await one_run(client, url.replace("http", "ws", 1), f"run-{number}")

        for start in range(first, first + count, 500):
            await asyncio.gather(*(limited(n) for n in range(start, min(start + 500, first + count))))


def settled_kib(pid: int) -> float:
    """Resident memory after all caches that age by time have emptied."""
    time.sleep(12)  # the hub drops the frames of an unwatched trace within ten seconds
    return rss_kib(pid)


def run(bench: Bench) -> None:
    """Measure the memory after the first runs, and after many more."""
    first, more = bench.pick(1000, 200), bench.pick(10_000, 400)
    bench.report.title(f"leak: the server's memory after {more:,} more runs, recorded, watched and finished")
    with Server(bench.folder / "log.db") as server:
        uvloop.run(runs(server.url, 0, first))
        before = settled_kib(server.pid)
        begun = time.perf_counter()
        uvloop.run(runs(server.url, first, more))
        taken = time.perf_counter() - begun
        after = settled_kib(server.pid)
    label = f"resident memory after {first + more:,} runs beside after {first:,}"
    bench.report.ratio(label, [after / 1024], [before / 1024], "MiB", at_most=1.1, names=("after", "before"))
    bench.report.note(
        f"{more / taken:,.0f} runs a second of {EVENTS} events, {AT_ONCE} at once, client on the same cores"
    )
