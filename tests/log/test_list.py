"""Lists of traces: filters, pages, search; always by index."""

from __future__ import annotations

from typing import Any

import pytest

from tests.log.helpers import Clock, create, end, fetch, goal, notes, say, sqlite
from tracewatch.log import EventLog, TraceQuery

pytestmark = pytest.mark.anyio


async def ids(log: EventLog, **query: Any) -> list[str]:
    """Every id a query finds, page by page."""
    found: list[str] = []
    before: int | None = None
    while True:
        rows, before = await log.traces(TraceQuery(**{"limit": 3, **query}, before=before))
        found += [row["trace_id"] for row in rows]
        if before is None:
            return found
        assert len(rows) == query.get("limit", 3)


@pytest.fixture
async def many(log: EventLog) -> EventLog:
    """Ten traces: t0 … t7, of which t1 … t3 are below t0, t4 below t3."""
    for n in range(8):
        parent = {1: "t0", 2: "t0", 3: "t0", 4: "t3"}.get(n)
        await create(log, f"t{n}", f"Task number {n}", agent_type=["coder", "tester"][n % 2], parent_trace_id=parent)
        if n % 3 == 0:
            await log.append(f"t{n}", [end("failed" if n == 6 else "completed")])
    return log


async def test_newest_first_in_pages(many: EventLog) -> None:
    assert await ids(many) == [f"t{n}" for n in range(7, -1, -1)]
    rows, before = await many.traces(TraceQuery(limit=8))
    assert (len(rows), before) == (8, None)
    _, before = await many.traces(TraceQuery(limit=4))
    await create(many, "new")
    rows, _ = await many.traces(TraceQuery(limit=4, before=before))
    assert [row["trace_id"] for row in rows] == ["t3", "t2", "t1", "t0"], "a new trace moves no page"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"status": ("completed",)}, "t3 t0"),
        ({"status": ("completed", "failed")}, "t6 t3 t0"),
        ({"status": ("lost",)}, ""),
        ({"agent_type": "tester"}, "t7 t5 t3 t1"),
        ({"parent_trace_id": "t0"}, "t3 t2 t1"),
        ({"root_trace_id": "t0"}, "t4 t3 t2 t1 t0"),
        ({"root_trace_id": "t0", "status": ("running",), "agent_type": "coder"}, "t4 t2"),
        ({"q": "number 5"}, "t5"),
        ({"q": "TASK", "status": ("failed",)}, "t6"),
        ({"q": "teste", "parent_trace_id": "t0"}, "t3 t1"),
        ({"q": "t4"}, "t4"),
        ({"q": ""}, "t7 t6 t5 t4 t3 t2 t1 t0"),
        ({"q": "7", "limit": 1}, "t7"),
    ],
)
async def test_filters(many: EventLog, query: dict[str, Any], expected: str) -> None:
    assert " ".join(await ids(many, **query)) == expected


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        *(("%", "pct"), ("100%", "pct"), ("_", "under"), ("a_b", "under"), ("\\", "back"), ("c:\\d", "back")),
        *(
            ('"', "quote"),
            ('"hi"', "quote"),
            ('"""', ""),
            ("'", "apo"),
            ("it's", "apo"),
            ("*", "star"),
            ("st*r", "star"),
        ),
        *(("ÄÖ", "uml"), ("ÄÖÜ", "uml"), ("äöü", "uml"), ("日本", "cjk"), ("日本語", "cjk"), ("😀", "emoji")),
        *(
            ("NOT", "words"),
            ("x AND y", "words"),
            ("task:", "words"),
            ("und", "under"),
            ("(", "paren"),
            ("x (y", "paren"),
        ),
        *(("\0", "*"), ("a\0_b", "under"), ("   ", ""), ("-", "dash"), ("a--b", "dash"), ("x" * 5000, "")),
    ],
)
async def test_search_takes_any_text_as_text(log: EventLog, q: str, expected: str) -> None:
    tasks = {"pct": "100% done", "under": "a_b under", "back": "c:\\d", "quote": 'says "hi"', "apo": "it's"}
    tasks |= {
        "star": "a st*r",
        "uml": "ÄÖÜ",
        "cjk": "日本語 text",
        "emoji": "fine 😀 yes",
        "words": "NOT x AND y task:",
    }
    tasks |= {"paren": "x (y", "dash": "a--b"}
    for trace_id, task in tasks.items():
        await create(log, trace_id, task, agent_type="z")
    assert await ids(log, q=q) == ([*reversed(tasks)] if expected == "*" else expected.split())


async def test_a_summary_follows_the_log(log: EventLog, clock: Clock) -> None:
    await create(log, lease_s=5)
    await log.append("t", [goal(id="g", status="in_progress"), say(tokens=3, cost=0.25), *notes(1)])
    await log.append("t", [{"event": "input_requested", "question": "?"}])
    (row,), _ = await log.traces(TraceQuery())
    assert (row["status"], row["is_running"], row["current_goal_id"], row["last_event_id"]) == ("waiting", True, "g", 4)
    assert (row["total_messages"], row["total_tokens"], row["total_cost"]) == (1, 3, 0.25)
    clock.now += 6
    (row,), _ = await log.traces(TraceQuery())
    assert (row["status"], row["is_running"]) == ("waiting", False), (
        "its lease has run out, though nobody marked it yet"
    )
    await log.append("t", [end("failed", summary="S", error={"why": [1]})])
    (row,) = await log.summaries(["t", "nope", "t"])
    assert (row["status"], row["summary"], row["error"]) == ("failed", "S", {"why": [1]})
    assert row["completed_at"] == row["updated_at"] > row["created_at"]


FILTERS: list[dict[str, Any]] = [
    *({"status": ("running",)}, {"status": ("running", "waiting")}, {"agent_type": "a"}, {"parent_trace_id": "p"}),
    *({"root_trace_id": "r"}, {"q": "text"}, {"q": "te"}, {"before": 5}, {"before": 5, "status": ("lost",)}),
    {"status": ("running",), "agent_type": "a", "root_trace_id": "r", "q": "text", "before": 9},
]


async def plans(log: EventLog, **query: Any) -> list[str]:
    """How SQLite answers a query of the list."""
    seen: list[str] = []
    connection = sqlite(log)._readers._connections[-1]
    await connection.set_trace_callback(seen.append)
    await log.traces(TraceQuery(**query))
    await connection.set_trace_callback(None)  # type: ignore[arg-type]
    sql = next(statement for statement in seen if statement.startswith("SELECT trace_key"))  # FTS shows its own as well
    return [row[3] for row in await fetch(log, f"EXPLAIN QUERY PLAN {sql}")]


@pytest.mark.parametrize("query", FILTERS, ids=str)
async def test_listing_goes_by_an_index(log: EventLog, query: dict[str, Any]) -> None:
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
