"""Messages in their present state."""

from __future__ import annotations

from typing import Any

import pytest

from tests.log.helpers import Json, all_messages, check_trace, create, goal, notes, opened, say, summary, sweep, trim
from tracewatch.errors import MessageExists, NotText, UnknownMessage, UnknownTrace
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio


def update(message_id: str, text: str | None = None, **patch: Any) -> dict[str, Any]:
    event: dict[str, Any] = {"event": "message_updated", "message_id": message_id}
    if text is not None:
        event["append"] = text
    return {**event, "patch": patch} if patch or text is None else event


async def test_streaming_over_batches_and_restarts(url: str) -> None:
    expected = ""
    for run in range(4):
        async with opened(url) as log:
            if run == 0:
                await create(log)
                await log.append("t", [say("", message_id="x", status="streaming"), say("other")])
            for n in range(3):
                await log.append("t", [update("x", f"{run}{n},"), update("x", ";")])
                expected += f"{run}{n},;"
            if run == 2:
                await log.append("t", [update("x", status="complete", tokens=7)])
            message = (await all_messages(log))[0]
            assert (message["content"], message["status"]) == (expected, "streaming" if run < 2 else "complete")
            await check_trace(log)
            assert (await summary(log))["total_tokens"] == (0 if run < 2 else 7)


async def test_a_message_that_is_long_forgotten(log: EventLog) -> None:
    """More open messages than are remembered, and ended ones: an update finds each."""
    await create(log)
    await log.append("t", [say(str(n), message_id=f"x{n}", status="running") for n in range(200)])
    await log.append("t", [say("done", message_id="done")])
    await log.append("t", [update(f"x{n}", "!", tokens=1) for n in range(0, 200, 7)])
    await log.append("t", [update("done", " again", cost=0.5)])
    found = {m["message_id"]: m for m in await all_messages(log, limit=50)}
    assert [found[f"x{n}"]["content"] for n in range(15)] == [f"{n}!" if n % 7 == 0 else str(n) for n in range(15)]
    assert found["done"]["content"] == "done again"
    row = await summary(log)
    assert (row["total_messages"], row["total_tokens"], row["total_cost"]) == (201, 29, 0.5)
    await check_trace(log)


async def test_a_refused_update_changes_nothing(log: EventLog) -> None:
    await create(log)
    await log.append("t", [say("text", message_id="x"), say({"tool_name": "ls"}, message_id="y")])
    with pytest.raises(NotText):
        await log.append("t", [update("x", " more"), update("y", "no")])
    with pytest.raises(UnknownMessage):
        await log.append("t", [update("x", " more"), say("new", message_id="n"), update("z", "no")])
    with pytest.raises(MessageExists):
        await log.append("t", [update("x", " more"), say("again", message_id="y")])
    assert [m["content"] for m in await all_messages(log)] == ["text", {"tool_name": "ls"}]
    await log.append("t", [say("new", message_id="n")])
    await check_trace(log)


async def test_pages_from_the_end_and_by_goal(log: EventLog) -> None:
    await create(log)
    await log.append("t", [goal(id="a"), goal(id="b")])
    await log.append("t", [say(str(n), goal_id="ab"[n % 2] if n % 3 else None) for n in range(30)])
    page, more = await log.messages("t", goal_id=None, before=None, limit=4)
    assert ([m["content"] for m in page], more) == (["26", "27", "28", "29"], True)
    page, more = await log.messages("t", goal_id=None, before=4, limit=4)
    assert ([m["sequence"] for m in page], more) == ([1, 2, 3], False)
    page, more = await log.messages("t", goal_id="a", before=None, limit=3)
    assert ([m["content"] for m in page], more) == (["22", "26", "28"], True)
    mine = await all_messages(log, goal_id="b", limit=3)
    assert [m["content"] for m in mine] == [str(n) for n in range(30) if n % 2 and n % 3]
    assert await log.messages("t", goal_id="nope", before=None, limit=3) == ([], False)
    assert await log.messages("t", goal_id=None, before=1, limit=3) == ([], False)
    with pytest.raises(UnknownTrace):
        await log.messages("nope", goal_id=None, before=None, limit=3)


async def test_a_new_message_updated_in_its_own_batch(log: EventLog) -> None:
    await create(log)
    await log.append("t", [say("a", message_id="x"), update("x", "b"), update("x", "c", model="m")])
    await log.append("t", [say("d"), update("m4", "e")])
    found = await all_messages(log)
    assert [(m["content"], m.get("model")) for m in found] == [("abc", "m"), ("de", None)]
    await check_trace(log)


def piece(**more: Any) -> Json:
    """A ``message_updated`` of ``m``; by default a piece of text."""
    return {"event": "message_updated", "message_id": "m", **(more or {"append": "0123456789"})}


async def test_a_text_that_streams_is_read_whole_at_every_moment(log: EventLog, other: EventLog) -> None:
    """Its row is behind most of the time; whoever reads does not notice, in whatever process, nor does who goes on."""
    await create(log)
    await log.append("t", [say("", message_id="m", status="streaming"), say("other", status="streaming")])
    text = ""
    for n in range(60):
        await (log if n % 7 else other).append("t", [piece()])
        text += "0123456789"
        for one in (log, other):
            assert (await one.message("t", "m"))[1]["content"] == text
    assert [m["content"] for m in await all_messages(log)] == [text, "other"]
    await log.append("t", [piece(patch={"tokens": 7})])
    assert (await other.message("t", "m"))[1]["tokens"] == 7
    await other.append("t", [piece(append="end", patch={"status": "complete"}), piece(patch={"tokens": 8})])
    for one in (log, other):
        assert (await one.message("t", "m"))[1]["content"] == text + "end"
        await check_trace(one)


async def test_a_snapshot_brings_up_what_is_behind(log: EventLog, other: EventLog) -> None:
    """Also where the process that reaches it has never heard of the message; then the past may go."""
    await create(log)
    await log.append("t", [say("x" * 1000, message_id="m", status="streaming"), *notes(100)])
    await log.append("t", [piece()])  # less than an eighth: it is only in its event
    await other.append("t", notes(398))  # event 500
    assert await trim(log, "t", 500)
    while await sweep(log):
        pass
    for one in (log, other):
        assert (await one.message("t", "m"))[1]["content"] == "x" * 1000 + "0123456789"
    await other.append("t", [piece()])
    for one in (log, other):
        assert (await one.message("t", "m"))[1]["content"] == "x" * 1000 + "0123456789" * 2


async def test_a_text_that_becomes_something_else(log: EventLog) -> None:
    await create(log)
    await log.append("t", [say("x" * 100, message_id="m", status="streaming")])
    for one in (piece(), piece(patch={"content": {"a": 1}}), piece(patch={"content": "short"}), piece()):
        await log.append("t", [one])
    assert (await log.message("t", "m"))[1]["content"] == "short0123456789"
    for status in ("complete", "running", "complete", "streaming"):
        await log.append("t", [piece(append="!", patch={"status": status})])
        assert (await log.message("t", "m"))[1]["status"] == status
    await check_trace(log)


async def test_a_large_content_of_one_update(url: str) -> None:
    """It is read as it is, also after more updates and a restart; and goes with its message."""
    result = {"tool_name": "cat", "result": "x" * 5000}
    async with opened(url) as log:
        await create(log)
        await log.append("t", [say({"tool_name": "cat"}, message_id="c", status="running"), say("two", message_id="y")])
        await log.append("t", [update("c", content=result, status="complete")])
        await check_trace(log)
    async with opened(url) as log:
        assert (await log.message("t", "c"))[1]["content"] == result
        assert [m["content"] for m in await all_messages(log)] == [result, "two"]
        await log.append("t", [update("c", tokens=7)])
        assert (await log.message("t", "c"))[1]["content"] == result
        await log.append("t", [update("y", content="z" * 5000), update("y", "!", tokens=1)])
        assert (await log.message("t", "y"))[1]["content"] == "z" * 5000 + "!"
        await log.append("t", [say("", message_id="s", status="streaming"), update("s", content="w" * 5000)])
        await log.append("t", [update("s", "!", status="complete")])
        assert (await log.message("t", "s"))[1]["content"] == "w" * 5000 + "!"
        await log.append("t", [say("", message_id="a", status="running"), update("a", content="v" * 5000)])
        await log.append("t", [update("a", content="u" * 5000, status="complete")])
        assert (await log.message("t", "a"))[1]["content"] == "u" * 5000
        await check_trace(log)
        await log.append("t", notes(900))
        assert await trim(log, "t", 500)
        while await sweep(log):
            pass
        assert await all_messages(log) == []
