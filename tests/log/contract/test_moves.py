"""What stands elsewhere from now on: goals, messages and whole traces, with the sums above them."""

from __future__ import annotations

import pytest

from tests.log.helpers import (
    Json,
    all_messages,
    bodies,
    check_trace,
    create,
    end,
    events,
    goal,
    names,
    notes,
    say,
    summary,
)
from tracewatch.errors import Invalid, NoSuchMessage, SubTraceDepth, UnknownParent, UnknownParentGoal, UnknownParentStep
from tracewatch.log import Appended, EventLog, TraceQuery
from tracewatch.model.events import validate_header, validate_trace

pytestmark = pytest.mark.anyio


def update(message_id: str, **patch: object) -> dict[str, object]:
    return {"event": "message_updated", "message_id": message_id, "patch": patch}


async def test_a_message_is_found_by_its_new_goal(log: EventLog, other: EventLog) -> None:
    await create(log)
    await log.append("t", [goal(id="g"), goal(id="h", parent_id="g"), goal(id="i")])
    await log.append("t", [say(message_id="a", goal_id="h", tokens=3), say("", message_id="b", status="streaming")])
    await log.append("t", notes(600))
    await other.append("t", [update("a", goal_id="i"), update("b", goal_id="h")])
    await log.append("t", [say(message_id="c", goal_id="g"), update("c", goal_id="h"), update("c", goal_id="i")])
    found = {name: [one["message_id"] for one in await all_messages(log, goal_id=name)] for name in "ghi"}
    assert found == {"g": [], "h": ["b"], "i": ["a", "c"]}
    state = await check_trace(log)
    assert [state.goals[name]["cumulative_stats"]["message_count"] for name in "ghi"] == [0, 0, 2]
    await log.append("t", [{"event": "goal_updated", "goal_id": "i", "patch": {"parent_id": "h"}}])
    state = await check_trace(log)
    assert [state.goals[name]["cumulative_stats"]["total_tokens"] for name in "ghi"] == [3, 3, 3]
    assert [one["id"] for one in state.goal_tree()["goals"]] == ["g", "h", "i"]
    await log.append("t", notes(600))
    assert (await check_trace(other)).goals["i"]["parent_id"] == "h"


# --- whole traces --------------------------------------------------------------------------------------------------


def parent(trace_id: str, **more: object) -> Json:
    return {"event": "trace_parent_changed", "parent_trace_id": trace_id, **more}


async def tokens_of(log: EventLog, *trace_ids: str) -> list[int]:
    """What each has used with its sub-traces, by its row; a snapshot says the same."""
    found = []
    for trace_id in trace_ids:
        row, shown = await summary(log, trace_id), (await log.snapshot(trace_id)).state.trace()
        assert row["tree_totals"] == shown["tree_totals"], trace_id
        found.append(row["tree_totals"]["total_tokens"])
    return found


async def forest(log: EventLog) -> None:
    """``a`` over ``a.1``, and ``x`` over ``x.1``, each with as many tokens as its letter's place in two digits."""
    for trace_id, above, tokens in (("a", None, 1), ("a.1", "a", 10), ("x", None, 100), ("x.1", "x", 1000)):
        await create(log, trace_id, parent_trace_id=above)
        await log.append(trace_id, [goal(id="g"), say(message_id="m", tokens=tokens)])


async def test_a_trace_gets_a_parent(log: EventLog, other: EventLog) -> None:
    await forest(log)
    await log.append("a", [{"event": "step_added", "step": {"id": "s", "name": "s", "goal_id": "g"}}])
    last = (await log.append("x", [parent("a", parent_step_id="s", root_trace_id="nonsense")])).last_event_id
    assert await tokens_of(log, "a", "a.1", "x", "x.1") == [1111, 10, 1100, 1000]
    (said,) = [one for one in await events(log, "x") if one["event"] == "trace_parent_changed"]
    assert (said["parent_goal_id"], said["root_trace_id"], said["event_id"]) == ("g", "a", last)
    sub = (await log.snapshot("a")).state.sub_traces["x"]
    assert (sub["parent_goal_id"], sub["parent_step_id"], sub["stats"]["total_tokens"]) == ("g", "s", 1100)
    for trace_id in ("x", "x.1"):
        assert (await summary(other, trace_id))["root_trace_id"] == "a"
        assert (await log.snapshot(trace_id)).state.root_trace_id == "a"
    assert await log.append("x", [parent("a", parent_step_id="s")]) == Appended(None, last, 1), "it stands there"
    await other.append("x.1", [say(tokens=2000)])
    await log.append("x", [say(tokens=300), end()])
    assert await tokens_of(other, "a", "x", "x.1") == [3411, 3400, 3000]
    assert (await names(log, "a"))[-1] == "sub_trace_completed"
    for trace_id in ("a", "a.1", "x", "x.1"):
        await check_trace(log, trace_id)
        await check_trace(other, trace_id)


async def test_a_trace_that_has_ended_gets_another_parent(log: EventLog, other: EventLog) -> None:
    await forest(log)
    await log.append("a.1", [end("failed", error="no")])
    assert await tokens_of(log, "a", "x") == [11, 1100]
    await other.append("a.1", [parent("x.1", parent_message_id="m")])
    assert await tokens_of(log, "a", "x", "x.1", "a.1") == [1, 1110, 1010, 10]
    assert (await log.snapshot("a")).state.sub_traces == {}
    (there,) = (await log.snapshot("x.1", (await summary(log, "x.1"))["last_event_id"])).state.sub_traces.values()
    assert (there["status"], there["error"], there["stats"]["total_tokens"]) == ("failed", "no", 10)
    assert there["parent_message_id"] == "m"
    assert (await names(log, "a"))[-1] == "sub_trace_left"
    assert (await names(log, "x.1"))[-2:] == ["sub_trace_started", "sub_trace_completed"]
    assert (await summary(log, "a.1"))["root_trace_id"] == "x"
    await log.append("a.1", [parent("x.1", parent_goal_id="g")])  # elsewhere in the same trace
    subs = (await check_trace(log, "x.1")).sub_traces
    assert (subs["a.1"]["parent_goal_id"], "parent_message_id" in subs["a.1"]) == ("g", False)
    assert await tokens_of(log, "a", "x", "x.1", "a.1") == [1, 1110, 1010, 10]
    assert sorted(await log.delete_trace("x")) == ["a.1", "x", "x.1"]
    assert await tokens_of(log, "a") == [1]


async def test_what_can_not_be_is_refused_and_leaves_nothing(log: EventLog) -> None:
    await forest(log)
    before = [await bodies(log, trace_id) for trace_id in ("a", "a.1", "x", "x.1")]
    for raw, error in (
        (parent("a.1"), Invalid),  # below itself
        (parent("a"), Invalid),
        (parent("nobody"), UnknownParent),
        (parent("x", parent_goal_id="nope"), UnknownParentGoal),
        (parent("x", parent_step_id="nope"), UnknownParentStep),
        (parent("x", parent_message_id="nope"), NoSuchMessage),
        (parent("x", parent_message_id="m", parent_step_id="s"), Invalid),
    ):
        with pytest.raises(error):
            await log.append("a", [raw])
    with pytest.raises(Invalid, match="alone"):
        await log.append("a", [parent("x"), *notes(1)])
    above: str | None = None
    for n in range(100):
        await create(log, f"d{n}", parent_trace_id=above)
        above = f"d{n}"
    with pytest.raises(SubTraceDepth) as caught:
        await log.append("a", [parent("d99")])
    assert caught.value.facts["parent_trace_id"] == "d97"
    assert [await bodies(log, trace_id) for trace_id in ("a", "a.1", "x", "x.1")] == before
    assert await tokens_of(log, "a", "x") == [11, 1100]


async def test_a_token_of_one_trace_sees_no_more_by_it(log: EventLog, other: EventLog) -> None:
    """It covers what was recorded below its trace when it came, wherever that stands now."""
    await forest(log)
    await create(log, "b")
    covered = {"a": {"a", "a.1"}, "x": {"x", "x.1"}, "x.1": {"x.1"}, "b": {"b"}}

    async def check(asked: EventLog) -> None:
        everything = sorted(set().union(*covered.values()))
        for root, ours in covered.items():
            found, _ = await asked.traces(TraceQuery(limit=50, below=root))
            assert {one["trace_id"] for one in found} == ours, root
            assert {one["trace_id"] for one in await asked.summaries(everything, root)} == ours
            for trace_id, (_, line) in (await asked.lines(everything)).items():
                assert (root in line) == (trace_id in ours), (root, trace_id)
                assert await asked.storage.is_below(root, trace_id) == (trace_id in ours), (root, trace_id)

    await log.append("x", [{"event": "input_requested", "question": "?"}])
    await check(log)
    await log.append("x", [parent("a")])  # by one who may see both
    await check(other)
    assert (await log.inputs(9, "a"))[0] == [] and len((await log.inputs(9, "x"))[0]) == 1
    with pytest.raises(UnknownParent):
        await log.create_trace(validate_trace({"trace_id": "n", "task": "T", "parent_trace_id": "x"}), below="a")
    await log.append("a.1", [parent("b")])
    await check(log)
    for trace_id, to, below in (
        ("a", "b", "a"),
        ("a.1", "b", "a"),
        ("a.1", "x", "a"),
        ("x.1", "a", "x"),
        ("x.1", "b", "x"),
    ):
        with pytest.raises(UnknownParent):
            await log.append(trace_id, [parent(to)], below=below)
    await log.append("x.1", [parent("x", parent_goal_id="g")], below="x")
    await create(log, "a.2", parent_trace_id="a")
    await log.append("a.1", [parent("a.2")], below="a")
    covered["a"].add("a.2")
    await check(other)
    # What was its parent is deleted, and somebody makes a trace of that name
    await log.append("a.1", [parent("b")])
    await log.delete_trace("a")  # and x, which stands below it
    await create(log, "evil")
    await log.create_trace(validate_trace({"trace_id": "a", "task": "T", "parent_trace_id": "evil"}), below="evil")
    found, _ = await log.traces(TraceQuery(limit=50, below="evil"))
    assert {one["trace_id"] for one in found} == {"evil", "a"}
    assert not await log.storage.is_below("evil", "a.1") and await log.storage.is_below("a.1", "a.1")


async def test_a_trace_without_its_parent_gets_one(log: EventLog) -> None:
    """One that was restored before its parent is below nothing; then it is put somewhere, and the parent comes."""
    await forest(log)
    header, stored = validate_header(await summary(log, "a.1")), await events(log, "a.1")
    await log.delete_trace("a")
    await log.restore(header, stored)
    await log.append("a.1", [parent("x")])
    assert await tokens_of(log, "x", "a.1") == [1110, 10]
    await create(log, "a")
    assert await tokens_of(log, "a", "x") == [0, 1110]
    assert not await log.storage.is_below("a", "a.1")
    header, stored = validate_header(await summary(log, "a.1")), await events(log, "a.1")
    await log.delete_trace("a.1")
    await log.restore(header, stored)
    assert await tokens_of(log, "a", "x") == [0, 1110]
    assert (await check_trace(log, "a.1")).parent_trace_id == "x"
