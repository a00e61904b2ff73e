"""The query plans of SQLite: each query uses an index, and reads one range of a table."""

from __future__ import annotations

from typing import Any

import pytest

from tests.log.helpers import create, fetch, sqlite
from tracewatch.log import EventLog, TraceQuery

pytestmark = pytest.mark.anyio


async def plans(log: EventLog, **query: Any) -> list[str]:
    """How SQLite answers a query of the list."""
    seen: list[str] = []
    connection = sqlite(log)._readers._connections[-1]
    await connection.set_trace_callback(seen.append)
    await log.traces(TraceQuery(**query))
    await connection.set_trace_callback(None)  # type: ignore[arg-type]
    sql = next(statement for statement in seen if statement.startswith("SELECT trace_key"))  # FTS shows its own as well
    return [row[3] for row in await fetch(log, f"EXPLAIN QUERY PLAN {sql}")]


FILTERS: list[dict[str, Any]] = [
    *({"status": ("running",)}, {"status": ("running", "waiting")}, {"agent_type": "a"}, {"parent_trace_id": "p"}),
    *({"root_trace_id": "r"}, {"q": "text"}, {"q": "te"}, {"before": 5}, {"before": 5, "status": ("lost",)}),
    {"status": ("running",), "agent_type": "a", "root_trace_id": "r", "q": "text", "before": 9},
]


@pytest.mark.parametrize("query", FILTERS, ids=str)
async def test_listing_goes_by_an_index(log: EventLog, query: dict[str, Any]) -> None:
    await create(log)  # nothing is searched in an empty log
    plan = await plans(log, **query)
    assert plan
    assert not [line for line in plan if line.startswith("SCAN") and "VIRTUAL TABLE" not in line], plan
    assert not [line for line in plan if "events" in line or "messages" in line], plan
    if len(query.get("status", ())) < 2:  # two statuses are two ranges of the index, merged by sorting
        assert not [line for line in plan if "TEMP B-TREE FOR ORDER" in line], plan


async def test_without_a_filter_the_newest_are_read_from_the_end(log: EventLog) -> None:
    assert await plans(log) == ["SCAN traces"]  # by its key, backwards, until the page is full: no sorting


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT trace_id, last_event_id, status FROM traces WHERE change_seq > 5 ORDER BY change_seq",
        "SELECT 1 FROM traces WHERE lease_expires_at <= 5 AND status IN ('running', 'waiting') LIMIT 1",
        "SELECT m.body FROM messages AS m WHERE m.trace_key = 1 AND m.sequence < 9 AND m.goal_id = 'g'"
        " ORDER BY m.sequence DESC LIMIT 3",
        "SELECT trace_key FROM traces WHERE parent_trace_id = 'x'",
        "SELECT body FROM snapshots WHERE trace_key = 1 AND event_id BETWEEN 1 AND 9 ORDER BY event_id DESC LIMIT 1",
    ],
)
async def test_what_is_asked_often_goes_by_an_index(log: EventLog, sql: str) -> None:
    plan = [row[3] for row in await fetch(log, f"EXPLAIN QUERY PLAN {sql}")]
    assert len(plan) == 1, plan
    assert plan[0].startswith("SEARCH"), plan


async def test_a_page_is_one_range_of_the_clustered_table(log: EventLog) -> None:
    """What ``read`` costs does not depend on how long the log is."""
    seen: list[str] = []
    connection = sqlite(log)._readers._connections[-1]
    await connection.set_trace_callback(seen.append)
    await create(log)
    for _ in range(3):
        await log.read("t", 0, max_events=1, max_bytes=1)
    sql = next(statement for statement in seen if "end_offset" in statement)
    plan = [row[3] for row in await fetch(log, f"EXPLAIN QUERY PLAN {sql}")]
    assert not [line for line in plan if line.startswith("SCAN") or "TEMP B-TREE" in line]
    assert any(
        "SEARCH events USING PRIMARY KEY (trace_key=? AND event_id>? AND event_id<?)" in line for line in plan
    ), plan
