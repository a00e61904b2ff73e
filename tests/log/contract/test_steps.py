"""Steps: in snapshots, in a log that was trimmed, in an export, and in the parent of a sub-trace."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.log.helpers import Json, check_trace, check_trimmed, create, events, notes, say, summary, swept, trim
from tracewatch.errors import Invalid, NoSuchMessage, UnknownMessage, UnknownParentStep
from tracewatch.log import EventLog
from tracewatch.model.base import make_base
from tracewatch.model.events import validate_header
from tracewatch.model.frames import snapshot_frames, snapshot_values
from tracewatch.model.state import State

pytestmark = pytest.mark.anyio


def step(name: str, **more: Any) -> Json:
    return {"event": "step_added", "step": {"id": name, "name": "node", **more}}


def done(step_id: str, **more: Any) -> Json:
    return {"event": "step_updated", "step_id": step_id, "patch": {"status": "completed", **more}}


async def test_thousands_of_steps(log: EventLog, other: EventLog) -> None:
    await create(log)
    for start in range(0, 3000, 500):
        names = [f"s{n}x" for n in range(start, start + 500)]
        await log.append("t", [step(name, step_id="s0x" if name != "s0x" else None) for name in names])
        await log.append("t", [done(name, output="ok") for name in names[::2]])
    state = await check_trace(log)
    assert (len(state.steps), state.steps["s8x"]["status"], state.steps["s9x"]["status"]) == (
        3000,
        "completed",
        "running",
    )
    await other.append("t", [done("s9x")])
    assert (await log.snapshot("t")).state.steps["s9x"]["status"] == "completed"
    assert (await check_trace(other)).steps.keys() == state.steps.keys()


async def test_a_step_in_a_message_that_is_not_in_memory(log: EventLog) -> None:
    await create(log)
    await log.append("t", [say(message_id="a"), *notes(600)])
    for n in range(100):
        await log.append("t", [say(message_id=f"b{n}")])
    await log.append("t", [step("s", message_id="a")])
    with pytest.raises(UnknownMessage):
        await log.append("t", [step("u", message_id="nobody")])
    assert (await check_trace(log)).steps["s"]["message_id"] == "a"


async def test_a_sub_trace_stands_in_a_step_or_a_message_of_its_parent(log: EventLog) -> None:
    await create(log)
    await log.append("t", [{"event": "goal_added", "goal": {"id": "g", "description": "G"}}, step("s", goal_id="g")])
    await log.append("t", [say(message_id="a", goal_id="g"), *notes(600)])
    await create(log, "c", parent_trace_id="t", parent_step_id="s")
    await create(log, "d", parent_trace_id="t", parent_message_id="a")
    subs = (await check_trace(log)).sub_traces
    assert (subs["c"]["parent_step_id"], subs["c"]["parent_goal_id"]) == ("s", "g")
    assert (subs["d"]["parent_message_id"], subs["d"]["parent_goal_id"]) == ("a", "g")
    assert (await summary(log, "c"))["parent_goal_id"] == "g"
    await create(log, "c", parent_trace_id="t", parent_step_id="s")  # the same again
    with pytest.raises(UnknownParentStep):
        await create(log, "e", parent_trace_id="t", parent_step_id="nobody")
    with pytest.raises(NoSuchMessage):
        await create(log, "e", parent_trace_id="t", parent_message_id="nobody")
    for wrong in ({"parent_step_id": "s", "parent_message_id": "a", "parent_trace_id": "t"}, {"parent_step_id": "s"}):
        with pytest.raises(Invalid):
            await create(log, "e", **wrong)


async def test_steps_outlive_the_events_that_added_them(log: EventLog) -> None:
    await create(log)
    await log.append("t", [step("a", input="x"), step("b", step_id="a"), *notes(498), *notes(100)])
    assert await trim(log, "t", 500)
    await swept(log)
    assert await check_trimmed(log) == 501
    await log.append("t", [done("b")])
    base = await log.snapshot("t", 500)
    kept = make_base(snapshot_values(base.state, lease_alive=True))
    header = validate_header(orjson.loads(orjson.dumps({**await summary(log), "base": kept})))
    stored, state = await events(log), (await log.snapshot("t")).state
    await log.delete_trace("t")
    await log.restore(header, stored)
    assert (await log.snapshot("t")).state.steps == state.steps
    assert await check_trimmed(log) == 501


async def test_a_snapshot_with_many_steps_comes_in_parts(log: EventLog) -> None:
    await create(log)
    for start in range(0, 1500, 500):
        await log.append("t", [step(f"x{n}", input="i" * 900) for n in range(start, start + 500)])
    state = (await log.snapshot("t")).state
    frame = {"event": "connected", **snapshot_values(state, lease_alive=True)}
    frames = [orjson.loads(one) for one in snapshot_frames(frame, 128 * 1024)]
    assert all(len(orjson.dumps(one)) <= 128 * 1024 for one in frames)
    found = [one for frame in frames for one in frame.get("steps", ())]
    assert found == list(state.steps.values())
    assert State.from_snapshot({**frame, "steps": found}).steps == state.steps
