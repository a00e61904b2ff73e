"""Runs after their end: late subscribers, new runs under the same id, memory. And many runs at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.server.wire import append, end, http, make_trace, socket, stored, thought, watching
from tests.support import ServerProcess, Serving, serving, until
from tracewatch.log.cache import Cached, StateCache
from tracewatch.model.state import State

pytestmark = pytest.mark.anyio


async def test_a_late_subscriber_gets_the_history_and_the_end(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        await make_trace(server.services.log, "over")
        await append(server.services.log, "over", 1200)
        await end(server.services.log, "over", "failed")
    async with serving(tmp_path / "log.db") as server:
        bodies = await stored(server.services.log, "over")
        async with watching(server, "over", until="end") as watch:
            connected = await watch.frame()
            assert (connected["trace_status"], connected["is_running"]) == ("failed", False)
            ended = await watch.until("end")
            assert (ended["status"], ended["last_event_id"]) == ("failed", 1201)
            assert await watch.closed() == 1000
        assert watch.events == bodies


async def test_a_run_that_goes_on_under_the_same_id(server: Serving) -> None:
    log = server.services.log
    async with watching(server, "again", wait=1) as patient, http(server) as client:
        for turn in range(3):
            answer = await client.post("/api/traces", json={"trace_id": "again", "task": "x"})
            assert answer.status_code == (200 if turn else 201)
            if turn:
                await log.append("again", [{"event": "trace_status_changed", "status": "running"}])
            async with watching(server, "again", until="end", since="latest") as watch:
                assert (await watch.frame())["trace_status"] == "running"
                await append(log, "again", 5)
                await end(log, "again")
                assert await watch.closed() == 1000
                assert len(watch.events) == 6
        bodies = await stored(log, "again")
        await patient.until_events(len(bodies))
        assert patient.events == bodies


async def test_a_re_run_after_it_was_deleted(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "anew")
    await append(log, "anew", 3)
    async with watching(server, "anew") as old:
        await old.until("caught_up")
        await log.delete_trace("anew")
        assert await old.closed() == 4504
    async with watching(server, "anew", wait=1, until="end") as watch:
        await make_trace(log, "anew")
        await append(log, "anew", 2)
        await end(log, "anew")
        assert await watch.closed() == 1000
    assert [orjson.loads(body)["event_id"] for body in watch.events] == [4, 5, 6]


def entry(trace_id: str, status: str = "running") -> Cached:
    return Cached(1, State(trace_id, status=status))


def test_the_states_of_ended_traces_go_first() -> None:
    cache = StateCache(size=3, ended_size=2)
    cache.put(entry("running"))
    for n in range(100):
        cache.put(entry(f"r{n}"))
        cache.put(entry(f"r{n}", "completed"))
    assert len(cache) == 3
    assert cache.find("running") is not None
    assert cache.find("r99") is not None
    assert cache.find("r97") is None
    cache.put(entry("r99"))  # it goes on
    for n in range(100):
        cache.put(entry(f"e{n}", "stopped"))
    assert cache.find("r99") is not None
    cache.drop(["r99", "running", "e99"])
    assert len(cache) == 1


def kept(server: Serving) -> dict[str, int]:
    """How much a server remembers in each place where it could remember a run; and its tasks."""
    log, hub = server.services.log, server.services.hub
    found = {name: len(getattr(hub, name)) for name in ("_heads", "_watchers", "_growth_listeners")}
    return {**found, "states": len(log.reader._cache), "tasks": len(asyncio.all_tasks())}


async def one_run(server: Serving | str, trace_id: str, events: int = 10) -> None:
    """Recorded over a socket, watched to its end by another."""
    async with watching(server, trace_id, until="end") as watch:
        async with socket(server, f"/api/traces/{trace_id}/record", producer="p") as recorder:
            await recorder.frame()
            for seq in range(1, events):
                await recorder.say({"append": {"seq": seq, "events": [thought(seq)]}})
            await recorder.say(
                {"append": {"seq": events, "events": [{"event": "trace_completed", "status": "completed"}]}}
            )
            acks = [await recorder.frame() for _ in range(events)]
            assert acks[-1]["ack"]["last_event_id"] == events
        assert await watch.closed() == 1000
    assert len(watch.events) == events


async def test_finished_runs_leave_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:

        async def several(first: int, count: int) -> None:
            for n in range(first, first + count):
                await make_trace(server.services.log, f"t{n}", lease_s=30)
                await one_run(server, f"t{n}")

        await several(0, 60)  # more than the cache keeps of ended ones
        before = kept(server)
        assert before["states"] == 50
        await several(60, 60)
        await until(lambda: kept(server)["tasks"] <= before["tasks"])
        assert kept(server) == {**before, "tasks": kept(server)["tasks"]}
        assert before["_heads"] == before["_watchers"] == before["_growth_listeners"] == 0


def rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.slow
async def test_memory_is_back_where_it_was(tmp_path: Path) -> None:
    """Scaled down; `python -m benchmarks leak` has the full figure."""
    with ServerProcess(tmp_path / "log.db") as server:
        assert server.process is not None

        async def several(first: int, count: int) -> None:
            async with http(server.url) as client:
                for start in range(first, first + count, 20):
                    ids = [f"t{n}" for n in range(start, start + 20)]
                    for trace_id in ids:
                        await client.post("/api/traces", json={"trace_id": trace_id, "task": "x", "lease_s": 30})
                    await asyncio.gather(*(one_run(server.ws_url, trace_id) for trace_id in ids))

        await several(0, 300)
        before = rss_kib(server.process.pid)
        await several(300, 400)
        assert rss_kib(server.process.pid) <= before * 1.1


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_thousand_recorders_at_once(tmp_path: Path) -> None:
    """All attached at the same time; each gets its acks in order and its own cancel, and nobody's events are lost."""
    count, events = 1000, 4
    with ServerProcess(tmp_path / "log.db") as server:
        async with http(server.url) as client:
            for n in range(count):
                await client.post("/api/traces", json={"trace_id": f"t{n}", "task": "x", "lease_s": 60})
            attached, everybody = 0, asyncio.Event()
            few = asyncio.Semaphore(20)  # httpx looks through all that wait for a connection each time one is free

            async def recorder(trace_id: str) -> None:
                nonlocal attached
                async with socket(server.ws_url, f"/api/traces/{trace_id}/record", producer="p") as mine:
                    assert "ready" in await mine.frame(60)
                    attached += 1
                    if attached == count:
                        everybody.set()
                    await everybody.wait()
                    for seq in range(1, events + 1):
                        await mine.say({"append": {"seq": seq, "events": [thought(seq)]}})
                    acks = [(await mine.frame(60))["ack"]["last_event_id"] for _ in range(events)]
                    assert acks == list(range(1, events + 1))
                    async with few:
                        answer = await client.post(f"/api/traces/{trace_id}/cancel", timeout=60)
                    assert answer.status_code == 202
                    assert (await mine.frame(60))["event"] == "cancel_requested"

            async with asyncio.timeout(200):
                await asyncio.gather(*(recorder(f"t{n}") for n in range(count)))
            listed: list[dict[str, Any]] = []
            more: dict[str, str] = {}
            while not listed or more:  # a page ends by its bytes as well
                page = (await client.get("/api/traces", params={"limit": 1000, **more})).json()
                listed += page["traces"]
                more = {"page_token": page["next_page_token"]} if page.get("next_page_token") else {}
            assert {trace["last_event_id"] for trace in listed} == {events + 1}
            assert len(listed) == count
