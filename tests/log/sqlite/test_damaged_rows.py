"""One bad row takes no list, no snapshot and no export with it: it is shown as damaged, and the doctor says it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import orjson
import pytest

from tests.log.helpers import ask, create, end, events, goal, notes, opened, say, summary
from tests.log.sqlite.test_doctor import codes
from tracewatch.log import EventLog, TraceQuery
from tracewatch.log.sqlite.write import MOST
from tracewatch.model.canonical import MAX_TOTAL

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def after(db: Path, *statements: str) -> AsyncIterator[EventLog]:
    """A log of two traces, ``good`` and ``bad``, opened after somebody has done something to its rows."""
    async with opened(str(db)) as log:
        for trace_id in ("good", "bad"):
            await create(log, trace_id, metadata={"k": 1})
            await log.append(trace_id, [goal(id="g", status="in_progress"), say("one", message_id="x"), ask("q")])
            await log.append(trace_id, [say("two"), *notes(900)])
            await log.append(trace_id, [*notes(100), say("three", message_id="y", status="streaming")])
            await log.append(trace_id, [{"event": "message_updated", "message_id": "y", "append": "!"}])
            await log.append(trace_id, [{"event": "message_updated", "message_id": "x", "append": "!"}])
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0, statement
    async with opened(str(db)) as log:
        yield log


BAD = "trace_id = 'bad'"
KEY = f"trace_key = (SELECT trace_key FROM traces WHERE {BAD})"


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("metadata", "'{no json'", {"damaged": True}),
        ("metadata", "'[1]'", {"damaged": True}),
        ("metadata", "x'00ff'", {"damaged": True}),
        ("error", "'{no json'", {"damaged": True}),
        ("task", "x'00ff'", "\0\ufffd"),
        ("task", "CAST(x'41ff' AS TEXT)", "A\ufffd"),
        ("total_tokens", "'many'", 0),
        ("total_cost", "x'00', total_costed = 1", 0),
        ("total_cost", "9e999, total_costed = 1", MAX_TOTAL),
        ("status", "x'00'", "lost"),
        ("updated_at", "7", "7"),
        ("summary", "x'00'", "\0"),
        ("tree_tokens", "'many'", None),
        ("lease_expires_at", "'soon'", None),
    ],
)
async def test_a_trace_in_the_list(db: Path, column: str, value: str, shown: object) -> None:
    async with after(db, f"UPDATE traces SET {column} = {value} WHERE {BAD}") as log:
        listed, _ = await log.traces(TraceQuery())
        found = {one["trace_id"]: one for one in listed}
        assert found.keys() == {"good", "bad"}
        assert "damaged" not in found["good"]
        if column in found["bad"]:
            assert found["bad"][column] == shown
        if not value.startswith(("9e999", "CAST(x'41ff' AS TEXT)")) and column != "updated_at":
            assert found["bad"]["damaged"] == [column]
        orjson.dumps(found)
        assert (await summary(log, "bad")) == found["bad"]
        assert (await log.snapshot("bad")).state.last_event_id == (await log.snapshot("good")).state.last_event_id
        assert len(await events(log, "bad")) == len(await events(log, "good"))
    assert codes(db)


@pytest.mark.parametrize("value", ["CAST('{no json' AS BLOB)", "CAST('7' AS BLOB)", "x''", "'text'"])
async def test_a_question(db: Path, value: str) -> None:
    async with after(db, f"UPDATE inputs SET body = {value} WHERE {KEY}") as log:
        (good, bad), _ = await log.inputs(10)
        assert (good["request_id"], good["question"], good["trace_id"]) == ("q", "q?", "good")
        assert (bad["request_id"], bad["question"], bad["damaged"], bad["trace_id"]) == ("q", "(damaged)", True, "bad")
        (one,) = await log.inputs_of("bad")
        assert (one["request_id"], one["state"], one["damaged"]) == ("q", "open", True)
    assert "inputs" in codes(db)


@pytest.mark.parametrize("value", ["CAST('{no json' AS BLOB)", "CAST('[]' AS BLOB)", "CAST('{}' AS BLOB)", "x'00'"])
async def test_a_message(db: Path, value: str) -> None:
    async with after(db, f"UPDATE messages SET body = {value} WHERE {KEY} AND message_id = 'x'") as log:
        for messages in ((await log.messages("bad", goal_id=None, before=None, limit=9))[0],):
            assert [one["content"] for one in messages] == [None, "two", "three!"]
            assert [one.get("damaged", False) for one in messages] == [True, False, False]
        assert (await log.message("bad", "x"))[1]["description"] == "(damaged)"
        await log.append("bad", [{"event": "message_updated", "message_id": "y", "append": "?"}, say("four")])
        await log.append("bad", [{"event": "message_updated", "message_id": "x", "patch": {"tokens": 5}}])
        assert (await summary(log, "bad"))["total_tokens"] == 5
        assert (await log.message("bad", "x"))[1]["damaged"] is True
    assert "messages" in codes(db)


@pytest.mark.parametrize(
    "body",
    ["CAST('{no json' AS BLOB)", "CAST('[]' AS BLOB)", 'CAST(\'{"trace_id": "bad"}\' AS BLOB)', "x'00'", "'text'"],
)
async def test_a_snapshot(db: Path, body: str) -> None:
    """The state is made of the one before it."""
    async with after(db, f"UPDATE snapshots SET body = {body} WHERE {KEY} AND event_id = 1000") as log:
        for at in (None, 1_000, 1_003):
            bad, good = (await log.snapshot("bad", at)).state, (await log.snapshot("good", at)).state
            assert bad.goals["g"]["cumulative_stats"] == good.goals["g"]["cumulative_stats"]
            assert (bad.last_event_id, bad.total_messages) == (good.last_event_id, good.total_messages)
    async with opened(str(db)) as log:
        await log.append("bad", [say("more")])
        assert (await log.snapshot("bad")).state.total_messages == 4
    assert "snapshot" in codes(db)


async def test_every_snapshot(db: Path) -> None:
    async with after(db, f"UPDATE snapshots SET body = x'00' WHERE {KEY}") as log:
        assert (await log.snapshot("bad")).state.total_messages == 3
        await log.append("bad", [end()])
        assert (await log.snapshot("bad")).state.status == "completed"


@pytest.mark.parametrize(
    "sums",
    ["tree_cost = 9e999", "tree_cost = 1.7e308", "tree_tokens = 9223372036854775807", "tree_messages = 9e18"],
)
async def test_sums_that_have_overflowed(db: Path, sums: str) -> None:
    """Appending and deleting below them works, and what is left is right again."""
    async with opened(str(db)) as log:
        await create(log, "top")
        await create(log, "middle", parent_trace_id="top")
        for trace_id in ("a", "b"):
            await create(log, trace_id, parent_trace_id="middle")
            await log.append(trace_id, [say(tokens=5, cost=0.5)])
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute(f"UPDATE traces SET {sums} WHERE trace_id IN ('top', 'middle', 'a')")
    async with opened(str(db)) as log:
        await log.append("b", [say(tokens=1, cost=0.25), end()])
        await log.append("a", [say(tokens=1)])
        await log.append("middle", [end()])
        assert (await summary(log, "top"))["tree_totals"]["saturated"] is True
        assert await log.delete_trace("a") == ["a"]
        assert (await summary(log, "top"))["tree_totals"] == {
            "total_messages": 2,
            "total_tokens": 6,
            "total_cost": 0.75,
        }


async def test_sums_stop_before_they_overflow(db: Path) -> None:
    async with opened(str(db)) as log:
        await create(log, "top")
        for trace_id in ("a", "b", "c"):
            await create(log, trace_id, parent_trace_id="top")
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute(f"UPDATE traces SET tree_tokens = {MOST - 1}")
    async with opened(str(db)) as log:
        for trace_id in ("a", "b", "c"):
            await log.append(trace_id, [say(tokens=10**9)])
        assert (await summary(log, "top"))["tree_totals"]["saturated"] is True
    with closing(sqlite3.connect(db)) as connection:
        rows = connection.execute("SELECT DISTINCT tree_tokens, typeof(tree_tokens) FROM traces").fetchall()
    assert rows == [(MOST, "integer")]


async def test_events_of_an_old_log_that_say_null_for_infinity(log: EventLog) -> None:
    """Two costs of 1.7e308 made a sum that JSON has no number for."""
    from tracewatch.model.state import State, apply_into

    state = State("t")
    await create(log)
    await log.append("t", [goal(id="g", status="in_progress"), say("x", message_id="x", cost=1)])
    stored = await events(log)
    for change in stored[1]["affected_goals"]:
        change["self_stats"]["total_cost"] = change["cumulative_stats"]["total_cost"] = None
    totals = {"total_messages": 1, "total_tokens": 0, "total_cost": None}
    more = {"event": "message_updated", "event_id": 3, "ts": stored[1]["ts"], "trace_id": "t", "message_id": "x"}
    for event in (*stored, {**more, "patch": {}, "totals": totals, "affected_goals": []}):
        apply_into(state, event)
    assert state.trace()["tree_totals"]["saturated"] is True
    from tracewatch.model.rules import complete

    raw = {"event": "message_added", "message": {"role": "user", "content": "y", "cost": 2.0}}
    told = complete(state, raw, event_id=4, ts=stored[1]["ts"])
    apply_into(state, told)
    assert told["affected_goals"][0]["self_stats"]["total_cost"] == MAX_TOTAL
    assert state.total_cost == MAX_TOTAL
    kept = orjson.loads(orjson.dumps({**state.to_json(), "total_cost": None}))
    assert State.from_json(kept).total_cost is None, "what is not known"
    del kept["active_at"]  # no old log had it
    assert State.from_json(kept).total_cost == MAX_TOTAL


async def test_a_sub_trace_of_which_the_error_is_damaged(db: Path) -> None:
    """It is shown as that in its parent's snapshot, which stays as it is otherwise."""
    async with opened(str(db)) as log:
        await create(log, "above")
        await create(log, "below", parent_trace_id="above")
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("UPDATE traces SET error = '{no json' WHERE trace_id = 'below'")
    async with opened(str(db)) as log:
        state = (await log.snapshot("above")).state
        assert state.sub_traces["below"]["error"] == {"damaged": True}
        assert state.sub_traces["below"]["status"] == "running"
