"""States: each is the fold of the events at any event, whatever is cached, dropped, or written by other processes."""

from __future__ import annotations

import os
import tempfile
from contextlib import AsyncExitStack
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.log.helpers import Clock, Json, check_trace, create, events, goal, notes, opened, say
from tests.model.test_fold_properties import MOVES, Run
from tests.support import run_checked
from tracewatch.errors import Gap, UnknownTrace
from tracewatch.log import EventLog
from tracewatch.model.state import State


@pytest.mark.anyio
async def test_opening_a_long_trace_folds_no_more_than_a_page(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a process that knows an old state of it."""
    folded = 0

    def counting(state: State, event: Json) -> None:
        nonlocal folded
        folded += 1
        apply_into(state, event)

    from tracewatch.model.state import apply_into

    async with opened(url) as one, opened(url) as two:
        await create(one)
        await one.append("t", [say("known to both")])
        await two.append("t", [say("known to both")])
        for _ in range(6):
            await one.append("t", notes(500))
        monkeypatch.setattr("tracewatch.model.state.apply_into", counting)
        assert (await two.snapshot("t")).state.total_messages == 2
        assert folded <= 500
        await two.append("t", [say("two's own")])
        async with opened(url) as three:
            folded = 0
            assert (await three.snapshot("t")).state.total_messages == 3
            assert folded <= 500


@pytest.mark.anyio
async def test_states_the_log_does_not_hold(log: EventLog) -> None:
    await create(log)
    await log.append("t", notes(3))
    with pytest.raises(Gap) as caught:
        await log.snapshot("t", 4)
    assert (caught.value.code, caught.value.facts["current_event_id"]) == ("ahead", 3)
    with pytest.raises(Gap) as caught:
        await log.snapshot("t", -1)
    assert caught.value.code == "trimmed"
    with pytest.raises(UnknownTrace):
        await log.snapshot("nope")


@pytest.mark.anyio
async def test_a_snapshot_stays_as_it_was(log: EventLog) -> None:
    await create(log)
    await log.append("t", [goal(id="g", status="in_progress"), say("x", message_id="x", status="streaming")])
    before = (await log.snapshot("t")).state
    kept = before.to_json()
    kept = {**kept, "goals": dict(kept["goals"])}
    await log.append(
        "t", [say("y"), goal(parent_id="g"), {"event": "message_updated", "message_id": "x", "append": "!"}]
    )
    assert before.to_json() == kept


def without_times(event: Json) -> Json:
    """An event without what depends on when it was appended."""
    return {key: value for key, value in event.items() if key not in ("ts", "expires_at")}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Json], Run]:
    """Events as recorders send them, and what the pure model makes of them."""
    run, raws = Run(), list[Json]()
    for move in draw(st.lists(st.sampled_from(MOVES), min_size=draw(st.sampled_from([1, 12, 25])), max_size=35)):
        raw = move(draw, run.states[-1])
        count = len(run.stored)
        run.append(raw)
        if len(run.stored) > count:
            raws.append(raw)
    return raws, run


async def _append_in_pieces(data: st.DataObject, raws: list[Json], run: Run) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            logs = [await stack.enter_async_context(opened(f"{folder}/log.db", clock=clock)) for _ in range(2)]
            await create(logs[0], "t", "T")
            done = 0
            while done < len(raws):
                size = data.draw(st.integers(1, 6))
                log = logs[data.draw(st.integers(0, 2)) % 2]
                if data.draw(st.integers(0, 5)) == 0:  # a process that has forgotten everything
                    log = await stack.enter_async_context(opened(f"{folder}/log.db", clock=clock))
                clock.now += 1
                await log.append("t", raws[done : done + size], by_server=True)
                done += size
            for log in logs:
                found = await events(log)
                assert [without_times(e) for e in found] == [without_times(e) for e in run.stored]
                await check_trace(log)
            for at, expected in enumerate(run.states):
                state = (await logs[0].snapshot("t", at)).state
                assert comparable(state) == comparable(expected)


def comparable(state: State) -> Any:
    """A state without its times and without what a log keeps elsewhere."""
    kept = state.to_json()
    for key in ("created_at", "updated_at", "completed_at", "root_trace_id", "started_at", "ended_at", "active_at"):
        kept.pop(key)
    for kind in ("goals", "sub_traces", "steps"):
        kept[kind] = {key: {**one, "started_at": None, "ended_at": None} for key, one in kept.get(kind, {}).items()}
    kept["pending_inputs"] = {
        key: {**asked, "requested_at": None, "expires_at": None} for key, asked in kept["pending_inputs"].items()
    }
    return kept


@pytest.mark.slow
@pytest.mark.slow
@settings(max_examples=60 if os.environ.get("CI") else 15)
@given(histories(), st.data())
def test_any_history_in_any_pieces(history: tuple[list[Json], Run], data: st.DataObject) -> None:
    """The log gives what the pure model gives, though it forgets messages, keeps states and is written by several."""
    with (
        mock.patch("tracewatch.log.project.SNAPSHOT_EVERY", 4),
    ):
        run_checked(_append_in_pieces(data, *history))
