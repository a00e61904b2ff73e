"""Retention in one server and in several on one file: every reader sees it, and watchers get a gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.log.helpers import sqlite
from tests.server.wire import append, http, ids, make_trace, ndjson, page, refused, socket, stored, watching
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
        while await storage._read(housekeeping.has_leftovers) or (await storage._read(housekeeping.pages))[0] > 100:
            pass
