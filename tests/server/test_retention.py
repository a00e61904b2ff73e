"""Retention in one server and in several on one file: every reader sees it, and watchers get a gap."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.log.helpers import sqlite
from tests.server.wire import append, end, http, ids, make_trace, ndjson, page, refused, socket, sse, stored, watching
from tests.support import Serving, serving
from tracewatch.log import EventLog
from tracewatch.log.sqlite import housekeeping

pytestmark = pytest.mark.anyio
LONG_AGO = "2020-01-02T03:04:05.000Z"
SOON: dict[str, Any] = {"retention_s": 0.05}


async def old_trace(log: EventLog, trace_id: str) -> None:
    """One that ended years ago."""
    header: dict[str, Any] = {
        "trace_id": trace_id,
        "task": "x",
        "agent_type": "a",
        "root_trace_id": trace_id,
        "created_at": LONG_AGO,
    }
    header |= {"parent_trace_id": None, "parent_goal_id": None, "metadata": {}}
    done = {"event": "trace_completed", "event_id": 1, "trace_id": trace_id, "ts": LONG_AGO, "status": "completed"}
    await log.restore(header, [done])


async def trimmed(server: Serving, trace_id: str, first: int) -> None:
    """Wait until a log begins with ``first``."""
    async with http(server) as client:
        while (await page(client, trace_id, since="latest")).json()["first_event_id"] != first:
            pass


async def test_keep_events_in_the_background(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", keep_events=600, **SOON) as server, http(server) as client:
        log = server.services.log
        await make_trace(log, "t")
        await append(log, "t", 400)
        async with watching(server, "t") as head, socket(server, "/api/watch") as many:
            await many.say({"subscribe_traces": {}})
            await many.until("traces")
            await head.until("caught_up")
            await append(log, "t", 1800)
            await head.until_events(2200)
            await trimmed(server, "t", 1501)
            while (await many.until("trace_changed"))["trace"]["first_event_id"] != 1501:
                pass
            assert ids(head.events) == list(range(1, 2201))
            assert "gap" not in head.names()
        assert refused(await page(client, "t", since="7"), 410, "trimmed")["resume_event_id"] == 1500
        assert refused(await ndjson(client, "t", since="7"), 410, "trimmed")["first_event_id"] == 1501
        at = await client.get("/api/traces/t", params={"at_event_id": 1499})
        assert refused(at, 410, "trimmed")["resume_event_id"] == 1500
        assert (await client.get("/api/traces/t", params={"at_event_id": 1500})).status_code == 200
        assert len(await stored(log, "t", 1500)) == 700


async def test_keep_days_ends_watchers_in_every_process(tmp_path: Path) -> None:
    db = tmp_path / "log.db"
    async with serving(db, **SOON) as other:  # it keeps everything, and takes its turns
        await old_trace(other.services.log, "old")
        await make_trace(other.services.log, "new")
        async with (
            watching(other, "old") as watch,
            socket(other, "/api/watch") as many,
            http(other) as client,
            client.stream("GET", "/api/traces/old/events", headers={"Accept": "text/event-stream"}) as stream,
        ):
            await many.say({"subscribe_traces": {}})
            await many.until("traces")
            await many.say({"subscribe": {"trace_id": "old"}})
            await many.until("caught_up")
            await watch.until("caught_up")
            assert (await stream.aread()).endswith(b'"last_event_id":1}\n\n')
            async with serving(db, keep_days=30, **SOON):
                assert (await watch.until("error"))["code"] == "trace_deleted"
                assert await watch.closed() == 4504
                assert (await many.had("error"))["trace_id"] == (await many.had("trace_deleted"))["trace_id"] == "old"
            assert refused(await client.get("/api/traces/old"), 404, "unknown_trace")
            listed = (await client.get("/api/traces")).json()["traces"]
            assert [trace["trace_id"] for trace in listed] == ["new"]


async def test_what_was_deleted_by_hand_leaves_the_file(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", **SOON) as server, http(server) as client:
        log = server.services.log
        await make_trace(log, "t")
        await append(log, "t", 1200, size=500)
        await client.delete("/api/traces/t")
        storage = sqlite(log)
        while (
            await storage._read(lambda db: housekeeping.has_leftovers(db, 0))
            or (await storage._read(housekeeping.pages))[0] > 100
        ):
            pass


async def test_a_filtered_watch_that_was_away_for_longer_than_events_are_kept(tmp_path: Path) -> None:
    """It has a gap only where an event that it wants is gone, whatever it comes back over."""
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        log, epoch = server.services.log, server.services.log.epoch
        await make_trace(log, "t")
        await append(log, "t", 1, name="rare")
        await append(log, "t", 1400)
        assert await log.retention.trim("t", 1000)
        await append(log, "t", 1, name="rare")  # 1402
        rare, after = "rare", f"{epoch}.1"  # the cursor of who has received nothing since the first

        async with watching(server, "t", since=after, types=rare) as watch:
            assert (await watch.frame())["cursor"] == f"{epoch}.1000"
            await watch.until("caught_up")
            assert ("gap" not in watch.names(), ids(watch.events)) == (True, [1402])
        async with socket(server, "/api/watch") as many:
            await many.say({"subscribe": {"trace_id": "t", "since_event_id": after, "types": [rare]}})
            await many.until("caught_up")
            assert ("gap" not in many.names(), ids(many.events)) == (True, [1402])
        async with sse(client, "t", headers={"Last-Event-ID": after}, types=rare) as stream:
            await stream.until("caught_up")
            assert ("gap" not in [one["event"] for one in stream.control], ids(stream.events)) == (True, [1402])
        lines = await ndjson(client, "t", since=after, types=rare)
        assert (lines.status_code, ids(lines.content.splitlines())) == (200, [1402])
        first = await page(client, "t", since=after, types=rare)
        assert (first.status_code, first.json()["next_since_event_id"]) == (200, 1402)
        assert [event["event_id"] for event in first.json()["events"]] == [1402]

        for since, types in ((f"{epoch}.0", rare), (after, "rare,thought"), (after, None)):  # those have missed some
            more = {} if types is None else {"types": types}
            refused(await page(client, "t", since=since, **more), 410, "trimmed")
            refused(await ndjson(client, "t", since=since, **more), 410, "trimmed")
            async with watching(server, "t", since=since, **more) as watch:
                assert (await watch.until("gap"))["reason"] == "trimmed"
            async with sse(client, "t", since=since, **more) as stream:
                assert (await stream.until("gap"))["reason"] == "trimmed"


async def test_a_filtered_watch_whose_past_is_trimmed_while_it_reads(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", page_events=10, watcher_bytes=16_384, send_buffer=8192) as server:
        log = server.services.log
        await make_trace(log, "t")
        await append(log, "t", 1, name="rare")
        for _ in range(3):
            await append(log, "t", 500)
        await append(log, "t", 1, name="rare")  # 1502
        read, gate = log.read, asyncio.Event()

        async def held(trace_id: str, after: int, **how: Any) -> Any:
            if after >= 100:
                await gate.wait()
            return await read(trace_id, after, **how)

        log.read = held  # type: ignore[method-assign]
        async with watching(server, "t", types="rare") as watch:
            await watch.until_events(1)
            assert await log.retention.trim("t", 1000)
            gate.set()
            await watch.until("caught_up")
            assert ("gap" not in watch.names(), ids(watch.events)) == (True, [1, 1502])


async def test_an_event_source_with_a_filter_stops_at_the_end(server: Serving, client: httpx.AsyncClient) -> None:
    """Checkpoints move its cursor, so that it neither asks for what it did not want nor comes back for ever."""
    log = server.services.log
    await make_trace(log, "ends")
    await append(log, "ends", 1, name="rare")
    await append(log, "ends", 2500)
    await end(log, "ends")
    last, seen = None, []
    async with sse(client, "ends", types="rare") as stream:
        while True:
            try:
                event_id, name, _ = await stream.next()
            except StopAsyncIteration:
                break
            last = event_id or last
            seen.append(name)
    assert seen.count("rare") == 1 and seen[-2:] == ["checkpoint", "end"]
    assert last == f"{log.epoch}.2502"
    again = await client.get(
        "/api/traces/ends/events?types=rare", headers={"Accept": "text/event-stream", "Last-Event-ID": last}
    )
    assert again.status_code == 204
