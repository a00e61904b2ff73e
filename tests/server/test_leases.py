"""Leases with real sockets, real time and absent servers: a trace is lost in time, once, and comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.log.helpers import names
from tests.server.wire import http, make_trace, socket, thought, watching
from tests.support import DEADLINE_S, ServerProcess, Serving, serving
from tracewatch.log import open_log

pytestmark = pytest.mark.anyio


def recording(server: Serving | str, trace_id: str) -> Any:
    return socket(server, f"/api/traces/{trace_id}/record")


async def becomes(server: Serving | str, trace_id: str, status: str) -> None:
    """Wait for the event by which the trace gets this status."""
    async with asyncio.timeout(DEADLINE_S), watching(server, trace_id) as watch:
        while True:
            frame = await watch.frame()
            now = frame.get("status") if frame.get("event") == "trace_status_changed" else frame.get("trace_status")
            if now == status:
                return


async def test_a_recorder_that_dies(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", ws_ping_s=0.2) as server:
        log = server.services.log
        await make_trace(log, "t", lease_s=1)
        await make_trace(log, "sub", parent_trace_id="t")
        async with recording(server, "t") as recorder:
            await recorder.frame()
            await recorder.say({"append": {"events": [thought(1)]}})
            await recorder.frame()
            recorder.ws.transport.abort()  # as kill -9 leaves it
        await becomes(server, "t", "lost")
        await becomes(server, "sub", "lost")
        (row,) = await log.summaries(["t"])
        assert (row["status"], row["is_running"]) == ("lost", False)
        async with recording(server, "t") as recorder:
            ready = (await recorder.frame())["ready"]
            assert ready["last_event_id"] == 4, "the server has written that it is back before it says so"
            (row,) = await log.summaries(["t"])
            assert (row["status"], row["is_running"]) == ("running", True)
            # The open socket alone keeps it, longer than its lease
            async with watching(server, "t", since="latest") as watch:
                await watch.until("connected")
                await asyncio.sleep(1.5)
                await recorder.say({"append": {"events": [thought(2)]}})
                assert orjson.loads((await watch.until_events(1))[0])["n"] == 2
        assert (await names(log, "t")).count("trace_status_changed") == 2


@pytest.mark.crash
async def test_the_server_was_down_meanwhile(tmp_path: Path) -> None:
    """Both run out while nobody is there to see it: the lease, and a question's time."""
    db = tmp_path / "log.db"
    with ServerProcess(db) as server:
        async with http(server.url) as client:
            for name, lease in (("short", 1), ("long", 600)):
                await client.post("/api/traces", json={"trace_id": name, "task": "x", "lease_s": lease})
                asked = {"event": "input_requested", "request_id": "q", "question": "?", "expires_in_s": 1}
                await client.post(f"/api/traces/{name}/events", json=asked)
            server.kill()
            await asyncio.sleep(1.2)
            await asyncio.to_thread(server.start)
            await becomes(server.ws_url, "short", "lost")
            async with watching(server.ws_url, "long") as watch:
                await watch.until_events(2)
                assert orjson.loads(watch.events[1])["event"] == "input_expired"
            assert (await client.get("/api/inputs")).json()["inputs"] == []
            assert (await client.get("/api/traces/long")).json()["trace"]["status"] == "running"
            assert (await client.get("/api/traces/short/inputs/q")).json()["state"] == "expired"
            assert (await client.post("/api/traces/short/heartbeat")).status_code == 200
            assert (await client.get("/api/traces/short")).json()["trace"]["status"] == "running"


@pytest.mark.crash
async def test_several_servers_declare_it_once(tmp_path: Path) -> None:
    """Two serve commands, one of them with two workers, and a log opened here: all look at the same moments."""
    db = tmp_path / "log.db"
    own = await open_log(str(db))
    traces = [f"t{n}" for n in range(20)]
    for trace_id in traces:
        await make_trace(own, trace_id, lease_s=2)
        await make_trace(own, f"{trace_id}.sub", parent_trace_id=trace_id)
        await own.append(
            trace_id, [{"event": "input_requested", "request_id": "q", "question": "?", "expires_in_s": 2}]
        )
    with ServerProcess(db, workers=2) as one, ServerProcess(db) as two:
        for url in (one.ws_url, two.ws_url):
            for trace_id in traces:
                await becomes(url, trace_id, "lost")
                await becomes(url, f"{trace_id}.sub", "lost")
        for trace_id in traces:
            async with watching(one.ws_url, trace_id) as watch:
                while not any(b'"input_expired"' in body for body in watch.events):
                    await watch.frame()
        await asyncio.sleep(1.5)  # all of them have looked once more
    for trace_id in traces:
        found = await names(own, trace_id)
        assert sorted(found) == ["input_expired", "input_requested", "sub_trace_started", "trace_status_changed"]
        assert await names(own, f"{trace_id}.sub") == ["trace_status_changed"]
    await own.close()
