"""What stands elsewhere from now on: goals, messages and whole traces, with the sums above them."""

from __future__ import annotations

import pytest

from tests.log.helpers import all_messages, check_trace, create, goal, notes, say
from tracewatch.log import EventLog

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
