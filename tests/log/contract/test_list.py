"""Lists of traces: filters, pages and search, always by an index."""

from __future__ import annotations

from typing import Any

import pytest

from tests.log.helpers import Clock, create, end, goal, notes, say
from tracewatch.errors import BadRequest, InvalidField
from tracewatch.log import EventLog, TraceQuery
from tracewatch.log.sqlite import lists

pytestmark = pytest.mark.anyio


async def ids(log: EventLog, **query: Any) -> list[str]:
    """Every id a query finds, page by page."""
    found: list[str] = []
    before: str | None = None
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


@pytest.fixture
async def told(log: EventLog) -> EventLog:
    """Six traces of two sessions; ``old`` was imported last and is of last year."""
    when = {"a": "2026-03-01T09:00:00.000Z", "b": "2026-03-02T09:00:00.000Z", "old": "2025-01-01T09:00:00.000Z"}
    specs: dict[str, dict[str, Any]] = {
        "a": {"tags": ["x", "y"], "session_id": "s1", "user_id": "ann"},
        "b": {"tags": ["x"], "session_id": "s1", "user_id": "bob"},
        "c": {"tags": ["y", 'q"%'], "session_id": "s2"},
        "d": {"user_id": "ann"},
        "e": {"tags": ["x", "y"]},
        "old": {"tags": ["x"], "session_id": "s1"},
    }
    for name, spec in specs.items():
        await create(log, name, f"Task of {name}", **spec)
        if name in when:
            await log.append(name, [{**say(model=f"m-{name}"), "occurred_at": when[name]}])
    await log.append("d", [say(model="m-a"), end("failed", error={"type": "TimeoutError", "message": "10 s passed"})])
    await log.append("e", [end("failed", error="plain TIMEOUT text")])
    return log


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "e d c b a old"),
        ({"tags": ("x",)}, "e b a old"),
        ({"tags": ("x", "y")}, "e a"),
        ({"tags": ('q"%',)}, "c"),
        ({"tags": ("z",)}, ""),
        ({"session_id": "s1"}, "b a old"),
        ({"user_id": "ann"}, "d a"),
        ({"user_id": "ann", "tags": ("x",)}, "a"),
        ({"model": "m-a"}, "d a"),
        ({"model": "m"}, ""),
        ({"error": ""}, "e d"),
        ({"error": "timeouterror: 10"}, "d"),
        ({"error": "Timeout"}, "e d"),
        ({"error": "never"}, ""),
        ({"error": "timeout", "status": ("failed", "lost"), "user_id": "ann"}, "d"),
        ({"status": ("running", "failed"), "tags": ("y",)}, "e c a"),
        ({"q": "task of", "session_id": "s1", "tags": ("x",)}, "b a old"),
    ],
    ids=str,
)
@pytest.mark.parametrize("few", [1000, 0], ids=["few", "many"])
async def test_runs_that_belong_together(
    told: EventLog, query: dict[str, Any], expected: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "FEW", few)
    assert " ".join(await ids(told, **query, limit=2)) == expected
    by_activity = await ids(told, **query, limit=2, order="activity")
    assert sorted(by_activity) == sorted(expected.split())
    rows, _ = await told.traces(TraceQuery(**query, order="activity"))
    assert [row["trace_id"] for row in rows] == by_activity
    assert [row["active_at"] for row in rows] == sorted([row["active_at"] for row in rows], reverse=True)


async def test_what_is_set_later_is_found(told: EventLog) -> None:
    await told.append("d", [{"event": "trace_updated", "tags": ["late"], "session_id": "s9"}])
    await told.append("a", [{"event": "trace_updated", "tags": ["y"], "started_at": "2024-01-01T00:00:00Z"}])
    assert await ids(told, tags=("late",)) == await ids(told, session_id="s9") == ["d"]
    assert await ids(told, tags=("x",)) == ["e", "b", "old"]
    assert await ids(told, tags=("y",)) == ["e", "c", "a"]
    assert (await ids(told))[-2:] == ["old", "a"]
    await told.delete_trace("a")
    assert await ids(told, tags=("y",)) == ["e", "c"]


@pytest.mark.parametrize("query", [{}, {"tags": ("t",)}, {"status": ("running", "failed")}, {"q": "task"}], ids=str)
async def test_pages_neither_skip_nor_double_while_runs_come(log: EventLog, query: dict[str, Any]) -> None:
    for n in range(12):
        await create(log, f"t{n:02}", "A task", tags=["t"])
        if n % 3 == 0:  # imported: of a year before, some of the same moment
            await log.append(f"t{n:02}", [{**say(), "occurred_at": f"2025-01-0{1 + n % 2}T09:00:00.000Z"}])
    there = await ids(log, **query)
    found: list[str] = []
    before: str | None = None
    for n in range(20):
        rows, before = await log.traces(TraceQuery(**query, limit=2, before=before))
        found += [row["trace_id"] for row in rows]
        if before is None:
            break
        await create(log, f"new{n}", "A task", tags=["t"])
        # A run whose first event comes long after it was made stays where it is
        await log.append(f"t{(n * 5 + 1) % 12:02}", [say(), *([end("failed")] if n == 3 else [])])
    assert found == there


async def test_tokens_of_pages(told: EventLog) -> None:
    everything = await ids(told)
    _, before = await told.traces(TraceQuery(limit=2))
    assert before is not None
    with pytest.raises(InvalidField, match="is of a list by started, not by activity"):
        await told.traces(TraceQuery(order="activity", before=before))
    for bad in ("x", "-1", "s2026_", "s2026-01-01T00:00:00.000Z_x", "1" * 19, "é_1"):
        with pytest.raises(BadRequest, match="is not one this server gave"):
            await told.traces(TraceQuery(before=bad))
    # Tokens of the version before are the keys of traces
    rows, _ = await told.traces(TraceQuery(before="3"))  # c
    assert [row["trace_id"] for row in rows] == everything[everything.index("c") + 1 :]
    rows, _ = await told.traces(TraceQuery(before="999999"))
    assert [row["trace_id"] for row in rows][-1] == "old"


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
