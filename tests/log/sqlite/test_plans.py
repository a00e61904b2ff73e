"""The query plans of SQLite: each query uses an index, and reads one range of a table."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tests.log.helpers import create, fetch, sqlite
from tracewatch.log import EventLog, TraceQuery
from tracewatch.log.sqlite import lists

pytestmark = pytest.mark.anyio


async def plans(log: EventLog, **query: Any) -> list[str]:
    """How SQLite answers what a query of the list asks of the tables."""
    seen: list[str] = []
    connection = sqlite(log)._readers._connections[-1]
    await connection.set_trace_callback(seen.append)
    await log.traces(TraceQuery(**query))
    await connection.set_trace_callback(None)  # type: ignore[arg-type]
    found: list[str] = []
    for sql in dict.fromkeys(seen):
        if sql.startswith("SELECT") and "traces_text_" not in sql:  # FTS shows its own as well
            found += [row[3] for row in await fetch(log, f"EXPLAIN QUERY PLAN {sql}")]
    return found


ONE: list[dict[str, Any]] = [
    *({"status": ("running",)}, {"status": ("running", "waiting")}, {"agent_type": "a"}, {"parent_trace_id": "p"}),
    *({"root_trace_id": "r"}, {"tags": ("x",)}, {"session_id": "s"}, {"user_id": "u"}, {"model": "m"}, {"error": ""}),
    *({"error": "Timeout"}, {"q": "text"}, {"q": "te"}, {"below": "t"}, {}),
]
MORE: list[dict[str, Any]] = [
    {"status": ("running", "lost"), "agent_type": "a", "root_trace_id": "r", "q": "text"},
    {"tags": ("x", "y"), "model": "m", "session_id": "s", "user_id": "u"},
    {"error": "no", "q": "t", "tags": ("x",)},
]
PLACES = {"started": "s2026-11-20T08:00:00.000Z_5", "activity": "a2026-11-20T08:00:00.000Z_5"}


# The first page of a list begins at the end of its index. json_each has the keys of the few; down is a family of runs
READ_FROM_ITS_END = (
    *("traces USING INDEX traces_by_start", "traces USING INDEX traces_by_activity"),
    *("traces USING INDEX traces_with_error", "traces USING COVERING INDEX traces_by"),
)
NO_TABLES = ("json_each", "down", "CONSTANT ROW", "(subquery", "traces_text VIRTUAL TABLE")


@pytest.mark.parametrize("query", [*ONE, *MORE], ids=str)
async def test_no_list_is_scanned_or_sorted(
    log: EventLog, query: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(log)
    await create(log, "other")
    for few, order in product((lists.FEW, 0), PLACES):  # 0: what passes a filter is always too much to be sorted
        monkeypatch.setattr(lists, "FEW", few)
        for before in (None, "5", PLACES[order]):
            plan = await plans(log, **query, order=order, before=before)
            assert plan
            scans = [line.removeprefix("SCAN ") for line in plan if line.startswith("SCAN")]
            assert not [line for line in scans if not line.startswith((*READ_FROM_ITS_END, *NO_TABLES))], plan
            assert not [line for line in plan if "events" in line or "messages" in line], plan
            assert not [line for line in plan if "TEMP B-TREE" in line], plan


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "traces_by_start (began<?)"),
        ({"order": "activity", "before": PLACES["activity"]}, "traces_by_activity (active_at<?)"),
        ({"status": ("lost",)}, "traces_by_status (status=? AND began<?)"),
        ({"parent_trace_id": "p"}, "traces_by_parent_start (parent_trace_id=? AND began<?)"),
        (
            {"parent_trace_id": "p", "order": "created", "before": "c_5"},
            "by_parent (parent_trace_id=? AND trace_key<?)",
        ),
        ({"session_id": "s"}, "traces_by_session (session_id=? AND began<?)"),
        ({"user_id": "u"}, "traces_by_user (user_id=? AND began<?)"),
        ({"tags": ("x",)}, "trace_words USING PRIMARY KEY (kind=? AND word=? AND began<?)"),
        ({"model": "m"}, "trace_words USING PRIMARY KEY (kind=? AND word=? AND began<?)"),
        ({"error": ""}, "traces_with_error (began<?)"),
    ],
    ids=str,
)
async def test_a_page_begins_where_the_one_before_ended(log: EventLog, query: dict[str, Any], index: str) -> None:
    plan = await plans(log, **{"before": PLACES["started"], **query})
    assert any(index in line for line in plan), plan


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
    assert any("SEARCH events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in line for line in plan), plan
