"""Pages and lists end by bytes as well as by count, and go on behind; their long values are previews."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.log.helpers import all_messages, create, end, say
from tracewatch.errors import InvalidField
from tracewatch.log import EventLog, TraceQuery
from tracewatch.log.row import LISTED_BYTES, PAGE_BYTES

pytestmark = pytest.mark.anyio
DENSE: list[list[int]] = [[]] * 30_000  # 90 KB of JSON that take 2 MB as Python's objects


def asks(request_id: str, size: int) -> dict[str, Any]:
    return {"event": "input_requested", "request_id": request_id, "question": "q" * size}


async def test_long_values_are_previews_in_a_list(log: EventLog) -> None:
    metadata = {"format": "f", "rows": DENSE}
    await create(log, "large", "t" * 9_000, metadata=metadata)
    await log.append("large", [end("failed", summary="s" * 100_000, error={"type": "E", "traceback": "x" * 20_000})])
    await create(log, "small", "Task", metadata={"a": [1]})
    (small, large), _ = await log.traces(TraceQuery())
    assert "cut" not in small and small["metadata"] == {"a": [1]}
    assert large["cut"] == ["error", "metadata", "summary", "task"]
    assert large["task"].startswith("tt") and large["task"].endswith("t…")
    assert large["summary"].endswith("s…") and large["error"]["type"] == "E"
    assert large["error"]["traceback"].endswith("x…") and isinstance(large["metadata"], dict)
    assert len(orjson.dumps(large)) < LISTED_BYTES
    assert await log.summaries(["large"]) == [large]
    whole = (await log.snapshot("large")).state
    assert (whole.metadata, whole.task, whole.summary) == (metadata, "t" * 9_000, "s" * 100_000)
    assert whole.error["traceback"] == "x" * 20_000


async def test_the_summary_of_a_sub_trace_is_whole_where_the_log_has_it(log: EventLog) -> None:
    await create(log)
    await create(log, "sub", "x" * 9_000, parent_trace_id="t")
    await log.append("sub", [end(summary="s" * 50_000)])
    assert (await log.snapshot("t")).state.sub_traces["sub"]["summary"] == "s" * 50_000
    assert (await log.summaries(["sub"]))[0]["cut"] == ["summary", "task"]


@pytest.mark.parametrize("error", ["e" * 200_000, {"deep": [[["e" * 50_000]]]}, ["\x01" * 30_000], 5])
async def test_an_error_of_any_form_has_a_preview(log: EventLog, error: Any) -> None:
    await create(log)
    await log.append("t", [end("failed", error=error)])
    ((row,), _) = await log.traces(TraceQuery())
    assert len(orjson.dumps(row)) < LISTED_BYTES
    assert (row["error"] == error) == (error == 5) == ("cut" not in row)


async def test_a_list_ends_by_bytes_and_goes_on(log: EventLog) -> None:
    for n in range(12):
        await create(log, f"t{n}", "x" * 1_000)
    found: list[str] = []
    before: str | None = None
    for _ in range(20):
        rows, before = await log.traces(TraceQuery(limit=100, before=before, max_bytes=7_000))
        assert 0 < len(orjson.dumps(rows)) <= 7_000
        found += [row["trace_id"] for row in rows]
        if before is None:
            break
    assert found == [f"t{n}" for n in range(11, -1, -1)]
    rows, _ = await log.traces(TraceQuery(max_bytes=1))
    assert len(rows) == 1, "a page is never empty while there is more"


async def test_questions_come_in_pages_of_so_many_bytes(log: EventLog) -> None:
    for trace_id in ("a", "b"):
        await create(log, trace_id)
        for n in range(6):
            await log.append(trace_id, [asks(f"{trace_id}{n}", 220_000)])
    found: list[str] = []
    after: str | None = None
    while True:
        page, after = await log.inputs(1000, None, after)
        assert sum(len(one["question"]) for one in page) <= PAGE_BYTES
        found += [one["request_id"] for one in page]
        if after is None:
            break
    assert sorted(found) == sorted(f"{name}{n}" for name in "ab" for n in range(6))
    assert len(found) == 12
    page, after = await log.inputs(3, "b")
    rest, _ = await log.inputs(9, "b", after)
    assert [one["request_id"] for one in (page + rest)][:4] == ["b0", "b1", "b2", "b3"]
    with pytest.raises(InvalidField):
        await log.inputs(3, None, "x_y_z")


async def test_the_newest_questions_of_a_trace_are_whole(log: EventLog) -> None:
    await create(log)
    for n in range(8):
        await log.append("t", [asks(f"q{n}", 220_000)])
    found = await log.inputs_of("t")
    assert [one["request_id"] for one in found] == [f"q{n}" for n in range(8)]
    assert [one.keys() == {"request_id", "state"} for one in found] == [True] * 4 + [False] * 4
    assert len((await log.inputs_of("t", "q0"))[0]["question"]) == 220_000, "the whole is a request away"


async def test_messages_come_in_pages_of_so_many_bytes(log: EventLog) -> None:
    await create(log)
    for n in range(9):
        await log.append("t", [say(f"{n}" * 220_000)])
    page, more = await log.messages("t", goal_id=None, before=None, limit=100)
    assert (len(page), more) == (4, True)
    found = list(page)
    while more:
        page, more = await log.messages("t", goal_id=None, before=page[0]["sequence"], limit=100)
        found = page + found
    assert [one["content"][0] for one in found] == [f"{n}" for n in range(9)]
    assert len(await all_messages(log, limit=1)) == 9


async def test_a_state_of_many_large_events_is_read_piece_by_piece(log: EventLog) -> None:
    await create(log)
    for _ in range(12):
        await log.append("t", [say("x" * 200_000, tokens=1)])
    assert (await log.snapshot("t", 11)).state.total_tokens == 11
    assert (await log.snapshot("t", 12)).state.total_tokens == 12
