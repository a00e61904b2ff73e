"""The promises of any engine under concurrent work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.log.helpers import Heard, bodies, check_trace, create, end, goal, names, notes, say, soon, summary
from tracewatch.errors import TracewatchError
from tracewatch.log import EventLog, Policy
from tracewatch.model.events import validate_header, validate_trace

pytestmark = pytest.mark.anyio
AT = "2026-01-01T00:00:00.000Z"


async def refused(log: EventLog) -> list[Any]:
    """One of each thing that is refused, all at once."""
    header = {"trace_id": "new", "task": "t", "root_trace_id": "new", "created_at": AT}
    spec = {"task": "another"}
    wrong = {"event": "note", "event_id": 5, "trace_id": "new", "ts": AT}
    return await asyncio.gather(
        log.append("t", [say("first"), {"event": "goal_updated", "goal_id": "nope", "patch": {}}]),
        log.append("t", [say("gap")], producer="p", seq=7),
        log.append("t", [say("late")], expected_last_event_id=0),
        log.append("ended", [{"event": "message_updated", "message_id": "m77", "append": "x"}]),
        log.create_trace(validate_trace({**spec, "trace_id": "sub", "parent_trace_id": "t", "parent_goal_id": "x"})),
        log.create_trace(validate_trace({**spec, "trace_id": "t"})),
        log.restore(validate_header(header), [wrong]),
        log.cancel("ended"),
        log.answer("t", "nobody asked", 1),
        log.delete_trace("nope"),
        log.tokens.revoke("0" * 12),
        return_exceptions=True,
    )


async def test_a_refusal_writes_nothing(log: EventLog, other: EventLog) -> None:
    await create(log, "t")
    await create(log, "ended", parent_trace_id="t")
    await log.append("ended", [end()])
    before = {trace_id: await bodies(log, trace_id) for trace_id in ("t", "ended")}
    heard = Heard(log)
    _, seen = await other.changes()
    answers = await refused(log)
    assert [type(answer) for answer in answers if not isinstance(answer, TracewatchError)] == []
    assert {trace_id: await bodies(other, trace_id) for trace_id in ("t", "ended")} == before
    assert heard.commits == []
    assert (await other.changes(seen))[0] == []
    assert [row["trace_id"] for row in await other.summaries(["t", "new", "sub"])] == ["t"]
    good, *_ = await asyncio.gather(log.append("t", [say("good")]), refused(log))
    assert good.first_event_id == len(before["t"]) + 1
    await check_trace(other)


async def test_siblings_end_in_two_processes(log: EventLog, other: EventLog) -> None:
    """Each end stands in the parent's log, and moves the sums of all above: nobody waits for the other for ever."""
    await create(log, "root")
    await create(log, "mid", parent_trace_id="root")
    ids = [f"s{n}" for n in range(12)]
    for trace_id in ids:
        await create(log, trace_id, parent_trace_id="mid")
    both = (log, other)
    ending = [
        both[n % 2].append(trace_id, [say("x", tokens=n), end()]) for n, trace_id in enumerate([*ids, *reversed(ids)])
    ]
    working = [one.append(trace_id, [say("y", tokens=1)]) for one in both for trace_id in ("root", "mid")]
    await soon(asyncio.gather(*ending, *working))
    for one in both:
        for trace_id in ("root", "mid", *ids):
            await check_trace(one, trace_id)
    total = sum(range(2 * len(ids))) + 4
    assert (await summary(log, "root"))["tree_totals"]["total_tokens"] == total
    told = await names(other, "mid")
    assert told.count("sub_trace_completed") == len(ids)


async def test_hints_that_were_lost_are_found(log: EventLog, other: EventLog) -> None:
    """Nobody listened, and many commits later one question finds all that has changed, each trace once."""
    _, seen = await other.changes()
    for n in range(5):
        await create(log, f"t{n}")
        await log.append(f"t{n}", notes(n + 1))
    await log.delete_trace("t4")
    await log.append("t0", [goal()])
    grown, seen = await other.changes(seen)
    found = {one.trace_id: (one.last_event_id, one.deleted) for one in grown}
    assert found == {"t0": (2, False), "t1": (2, False), "t2": (3, False), "t3": (4, False), "t4": (5, True)}
    assert len(grown) == 5
    assert await other.changes(seen) == ([], seen)


async def test_one_prunes_at_a_time(log: EventLog, other: EventLog, clock: Any) -> None:
    await create(log)
    for _ in range(3):
        await log.append("t", notes(400))
    policy = Policy(keep_events=100)
    assert sorted(await asyncio.gather(*(one.tend(policy, 60) for one in (log, other) * 3))) == [False] * 5 + [True]
    assert (await summary(other))["first_event_id"] == 1001
    clock.now += 61
    assert await other.tend(policy, 60)


async def test_an_append_that_is_sent_again_is_stored_once(log: EventLog, other: EventLog) -> None:
    """Whatever process it is sent to, and at the same moment."""
    await create(log)
    batch = notes(3)
    answers = await asyncio.gather(*(one.append("t", batch, producer="p", seq=1) for one in (log, other) * 4))
    assert sorted(answer.duplicates for answer in answers) == [0, *[3] * 7]
    assert len(await bodies(log)) == 3
