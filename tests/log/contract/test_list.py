"""Lists of traces: filters, pages and search, always by an index."""

from __future__ import annotations

from typing import Any

import pytest

from tests.log.helpers import Clock, create, end, goal, notes, say
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
