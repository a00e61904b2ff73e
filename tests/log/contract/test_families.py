"""Families of traces: created, ended, deleted and created again, by two processes and many at once."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.log.helpers import Clock, check_trace, create, end, events, opened, say
from tests.support import run_checked
from tracewatch.errors import TracewatchError, UnknownTrace
from tracewatch.log import EventLog, TraceQuery

IDS = "abcde"
PARENTS = {"a": None, "b": "a", "c": "b", "d": "a", "e": "c"}
EXAMPLES = 40 if os.environ.get("CI") else 6
steps = st.tuples(
    st.sampled_from(["create", "create", "say", "say", "say", "correct", "end", "end again", "delete", "expire"]),
    st.sampled_from(IDS),
    st.integers(0, 100),
)
groups = st.lists(st.tuples(st.booleans(), st.lists(steps, min_size=1, max_size=8)), min_size=1, max_size=8)


async def take(log: EventLog, step: tuple[str, str, int]) -> None:
    what, trace_id, number = step
    if what == "create":
        await create(log, trace_id, parent_trace_id=PARENTS[trace_id], lease_s=10 if trace_id in "bc" else None)
    elif what == "say":
        await log.append(trace_id, [say(tokens=number, cost=number / 10, message_id=f"x{number}")])
    elif what == "correct":
        update = {
            "event": "message_updated",
            "message_id": f"x{number}",
            "append": "!",
            "patch": {"tokens": 1, "cost": 0.0},
        }
        await log.append(trace_id, [say(tokens=5), update])
    elif what == "end":
        await log.append(trace_id, [say(tokens=number), end("failed" if number % 2 else "completed")])
    elif what == "end again":
        await log.append(trace_id, [{"event": "trace_status_changed", "status": "running"}])
        await log.append(trace_id, [say(tokens=number), end("stopped")])
    elif what == "delete":
        await log.delete_trace(trace_id)
    else:
        await log.expire_leases()


async def live(history: list[tuple[bool, list[tuple[str, str, int]]]]) -> None:
    clock = Clock()
    last: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with opened(f"{folder}/log.db", clock=clock) as one, opened(f"{folder}/log.db", clock=clock) as two:
            for trace_id in IDS:
                await create(one, trace_id, parent_trace_id=PARENTS[trace_id])
            for first, group in history:
                clock.now += 6
                answers = await asyncio.gather(*(take(one if first else two, s) for s in group), return_exceptions=True)
                for answer in answers:
                    if answer is not None and not (isinstance(answer, TracewatchError) and answer.status < 500):
                        raise answer
                for log in (one, two):
                    await check_family(log, last)


async def check_family(log: EventLog, last: dict[str, int]) -> None:
    """Every trace agrees with its own log and its parent's, and no id is ever given again."""
    rows: dict[str, Any] = {row["trace_id"]: row for row in (await log.traces(TraceQuery()))[0]}
    for trace_id, row in rows.items():
        state = await check_trace(log, trace_id)
        assert row["last_event_id"] >= last.get(trace_id, 0)
        last[trace_id] = row["last_event_id"]
        parent = rows.get(row["parent_trace_id"])
        if row["parent_trace_id"] is not None:
            assert parent is not None, "a trace is deleted with its sub-traces"
            told = [e for e in await events(log, parent["trace_id"]) if e.get("sub_trace_id") == trace_id]
            assert told[0]["event"] == "sub_trace_started"
            if state.ended:
                assert (told[-1]["event"], told[-1]["status"]) == ("sub_trace_completed", state.status)
    for trace_id in set(IDS) - set(rows):
        try:
            await log.snapshot(trace_id)
        except UnknownTrace:
            continue
        raise AssertionError(f"{trace_id} is in no list")


@pytest.mark.slow
@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(groups)
def test_families_agree(history: list[tuple[bool, list[tuple[str, str, int]]]]) -> None:
    run_checked(live(history))
