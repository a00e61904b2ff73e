"""Values that can't be summed: refused at the door, and a database that has one already is listed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.server.wire import http, make_trace, page_bodies, post, refused
from tests.server.wire import page as page_of
from tests.support import serving
from tracewatch.model.canonical import MAX_TOTAL

pytestmark = pytest.mark.anyio
HIGH: list[dict[str, Any]] = [
    {"total_messages": 1, "total_tokens": 1, "total_cost": 1.7e308},
    {"total_messages": 1, "total_tokens": 2**53 - 1, "total_cost": 1.0},
    {"total_messages": 2**53 - 1, "total_tokens": 1, "total_cost": 1.0},
]


@pytest.mark.parametrize("stats", HIGH, ids=["cost", "tokens", "messages"])
async def test_an_import_with_a_sum_that_is_too_high(tmp_path: Path, stats: dict[str, Any]) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        log = server.services.log
        await make_trace(log, "top")
        await make_trace(log, "below", parent_trace_id="top")
        await post(client, "below", {"event": "trace_completed", "status": "completed"})
        events = [orjson.loads(body) for body in page_bodies(await page_of(client, "top"))]
        assert events[-1]["event"] == "sub_trace_completed"
        events[-1]["stats"] = stats
        header = (await client.get("/api/traces/top")).json()["trace"]
        header |= {"trace_id": "copy", "root_trace_id": "copy"}
        lines = [{"trace": header}, *({**event, "trace_id": "copy"} for event in events)]
        content = b"\n".join(map(orjson.dumps, lines))
        answer = await client.post("/api/import", content=content, headers={"Content-Type": "application/x-ndjson"})
        assert "stats.total_" in refused(answer, 422, "invalid_event")["message"]


@pytest.mark.parametrize(
    "sql", ["tree_cost = 9e999, tree_costed = 1", "tree_tokens = 9223372036854775807", "tree_messages = 4e15"]
)
async def test_a_sum_that_has_overflowed_already(tmp_path: Path, sql: str) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        await make_trace(server.services.log, "good")
        await make_trace(server.services.log, "bad")
        with closing(sqlite3.connect(tmp_path / "log.db")) as other:
            other.execute(f"UPDATE traces SET {sql} WHERE trace_id = 'bad'")
            other.commit()
        answer = await client.get("/api/traces")
        found = {trace["trace_id"]: trace["tree_totals"] for trace in answer.json()["traces"]}
        assert found["good"] == {"total_messages": 0, "total_tokens": 0, "total_cost": None}
        key = sql.partition(" ")[0].replace("tree", "total")
        assert found["bad"] == {**found["good"], key: MAX_TOTAL, "saturated": True}
        assert (await client.get("/api/traces/bad")).json()["trace"]["trace_id"] == "bad"
