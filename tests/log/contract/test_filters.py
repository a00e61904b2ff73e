"""Lists by a filter: what the engine finds is what passes, in the same order and in pages."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.log.helpers import create, say
from tracewatch.errors import Unavailable
from tracewatch.log import EventLog, TraceQuery
from tracewatch.model.filter import parse_filter

pytestmark = pytest.mark.anyio
FILTERS = (
    "status:failed", "-status:failed", "status:open,failed", "tag:red", "tag:red,blue", "-tag:red", "tag:red tag:blue",
    "session:s1", "session:s1,s2", "-session:s1", "user:u1", "agent:COD", "-agent:cod",
    "model:sonnet", "model:gpt,sonnet",
    "-model:sonnet", "error:*", "error:timeout", "-error:*", "id:R1", "task:number",
    "task:\"number 3\"", "took>20s", "took<=20s",
    "-took>20s", "cost>0.5", "cost=0", "-cost>0.5", "tokens>=100", "messages<2", "events>3", "since:2026-03-05",
    "until:2026-03-05", "-since:2026-03-05", "age>1d", "age<1d", "status:failed tag:red session:s1", "took=1e5",
    "status:failed since:2026-03-05 until:2026-03-09 -tag:blue",
)  # fmt: skip


async def listed(log: EventLog, text: str, **options: Any) -> list[str]:
    """All pages of a filter."""
    asked, names, before = parse_filter(text), list[str](), None
    while True:
        query = TraceQuery(conditions=asked.conditions, sought=asked.terms, before=before, limit=7, **options)
        traces, before = await log.traces(query)
        names += [trace["trace_id"] for trace in traces]
        if before is None:
            return names


async def test_a_filter_finds_what_passes_it(log: EventLog) -> None:
    chance = random.Random(5)
    for number in range(60):
        day, minute = 1 + number % 12, number % 50
        started = f"2026-03-{day:02d}T08:{minute:02d}:00.000Z"
        spec: dict[str, Any] = {
            "task": f"Task number {number}",
            "agent_type": chance.choice(["coder", "tester"]),
            "tags": chance.sample(["red", "blue", "green"], chance.randrange(4)),
            "session_id": chance.choice([None, "s1", "s2"]),
            "user_id": chance.choice([None, "u1"]),
            "started_at": started,
        }
        await create(log, f"r{number}", **spec)
        model = chance.choice(["claude-sonnet-4-5", "gpt-5"])
        used = {"model": model, "usage": {"input_tokens": chance.randrange(200)}, "cost": chance.random()}
        for _ in range(chance.randrange(3)):
            await log.append(f"r{number}", [{**say("x", **used), "occurred_at": started}])
        status = chance.choice(["", "completed", "failed"])
        if status:
            seconds = chance.randrange(60)
            end: dict[str, Any] = {
                "event": "trace_completed",
                "status": status,
                "occurred_at": f"{started[:17]}{seconds:02d}.000Z",
            }
            if status == "failed":
                end["error"] = {"type": chance.choice(["TimeoutError", "KeyError"]), "message": "x"}
            await log.append(f"r{number}", [end])
    every, _ = await log.traces(TraceQuery(limit=100))
    began = {one["trace_id"]: min(one["started_at"], one["created_at"]) for one in every}
    for order in ("started", "activity"):
        for text in FILTERS:
            query = TraceQuery(conditions=parse_filter(text).conditions)
            passing = {one["trace_id"] for one in every if query.fits(one)}
            found = await listed(log, text, order=order)
            assert set(found) == passing, (order, text)
            assert len(found) == len(passing), (order, text)
            if order == "started":
                assert sorted(found, key=lambda name: began[name], reverse=True) == found, text


async def test_text_of_a_filter_is_found_by_the_index(log: EventLog) -> None:
    for number in range(30):
        await create(log, f"r{number}", tags=["even"] if number % 2 == 0 else [])
        await log.append(f"r{number}", [say(f"needle {number}"), say("odd hay" if number % 3 else "straw")])
    index = log.finder.index
    if index is None:
        with pytest.raises(Unavailable):
            await listed(log, "needle")
        return
    while await index.step():
        pass
    every = [f"r{number}" for number in reversed(range(30))]
    assert await listed(log, "needle") == every
    assert await listed(log, "needle tag:even") == [name for name in every if int(name[1:]) % 2 == 0]
    assert await listed(log, '"needle 7"') == ["r7"]
    hay = [name for name in every if int(name[1:]) % 3]
    assert await listed(log, "needle -straw") == hay
    assert await listed(log, "-straw tag:even") == [
        name for name in every if int(name[1:]) % 3 and int(name[1:]) % 2 == 0
    ]
    assert await listed(log, "needle hay") == [], "both have to be in one text"
    assert await listed(log, "nothing") == []


async def test_text_that_many_have(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracewatch.log.finder.MOST_KEYS", 3)
    await test_text_of_a_filter_is_found_by_the_index(log)
