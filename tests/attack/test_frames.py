"""A frame is never above 512 KiB, whatever a trace holds; what is cut is a preview, and the whole is a request away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.server.wire import append, http, make_trace, refused, socket, sse, watching
from tests.support import Serving, serving, until
from tracewatch.client.api import Api
from tracewatch.client.watch import watch
from tracewatch.log.row import LISTED_BYTES
from tracewatch.server import rest
from tracewatch.server.answers import QUICK_CHECKS, Checker

pytestmark = pytest.mark.anyio
FRAME = 512 * 1024


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "log.db") as server:
        yield server


async def large_trace(server: Serving, trace_id: str = "t") -> dict[str, Any]:
    """A trace of which nearly everything is large: 6 MB of state. Its last question has a schema of 200 KB."""
    log = server.services.log
    metadata = {"format": "f", "rows": ["x" * 60] * 3_000}
    await make_trace(log, trace_id, metadata=metadata)
    for n in range(6):
        goal = {"id": f"g{n}", "description": "d" * 200_000}
        await log.append(trace_id, [{"event": "goal_added", "goal": goal}])
        patch = {"summary": "s" * 200_000, "reason": "r" * 50_000}
        await log.append(trace_id, [{"event": "goal_updated", "goal_id": f"g{n}", "patch": patch}])
        asked = {
            "request_id": f"q{n}",
            "question": "?",
            "schema": {"type": "string", "enum": ["y", "n" * (120_000 if n else 200_000)]},
        }
        await log.append(trace_id, [{"event": "input_requested", **asked}])
    for n in range(4):
        await make_trace(log, f"{trace_id}-{n}", parent_trace_id=trace_id, metadata=metadata)
        done = {"event": "trace_completed", "status": "completed", "summary": "s" * 200_000}
        await log.append(f"{trace_id}-{n}", [done])
    return metadata


async def test_every_frame_of_a_large_trace_fits(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        metadata = await large_trace(server)
        sizes: list[int] = []
        async with socket(server, "/api/watch") as many:
            await many.say({"subscribe_traces": {}})
            listed = {trace["trace_id"]: trace for trace in (await many.until("traces"))["traces"]}
            assert set(listed) == {"t", "t-0", "t-1", "t-2", "t-3"}
            assert listed["t"]["cut"] == ["metadata"] and "summary" in listed["t-0"]["cut"]
            await append(server.services.log, "t", 1)
            assert len(orjson.dumps((await many.until("trace_changed"))["trace"])) < LISTED_BYTES
            await many.say({"subscribe": {"trace_id": "t", "subtree": True}})
            for _ in range(5):
                await many.until("caught_up")
            assert {"connected", "snapshot_part", "goal_tree_part"} <= set(many.order)
            sizes += many.sizes
        async with socket(server, "/api/traces/t/record") as recorder:
            inputs = (await recorder.frame())["ready"]["inputs"]
            assert [one["request_id"] for one in inputs] == [f"q{n}" for n in range(6)]
            assert "schema" in inputs[-1] and "schema" not in inputs[0]
            sizes += recorder.sizes
        async with socket(server, "/api/record") as recorder:
            await recorder.say({"create": {"trace_id": "new", "task": "x", "metadata": metadata}})
            assert (await recorder.frame())["created"]["trace"]["trace_id"] == "new"
            sizes += recorder.sizes
        async with http(server) as client, sse(client, "t-0") as stream:
            while (event := await stream.next())[1] != "end":
                assert len(event[2]) <= FRAME
            whole = (await client.get("/api/traces/t")).json()
        assert 100_000 < max(sizes) <= FRAME
        assert whole["trace"]["metadata"] == metadata and len(whole["goal_tree"]["goals"][5]["summary"]) == 200_000


async def test_a_client_puts_a_large_snapshot_together_and_asks_for_the_whole(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        await large_trace(server)
        watching_it = watch("t", url=server.url, since="latest", until=None)

        async def first_event() -> dict[str, Any]:
            async for event in watching_it:
                return event
            raise AssertionError("there was none")

        task = asyncio.create_task(first_event())
        await until(lambda: watching_it.state is not None and len(watching_it.state.goals) == 6)
        await append(server.services.log, "t", 1)
        assert (await task)["event"] == "thought"
        state = watching_it.state
        await watching_it.aclose()
        assert state is not None
        assert list(state.sub_traces) == [f"t-{n}" for n in range(4)]
        assert list(state.pending_inputs) == [f"q{n}" for n in range(6)]
        assert state.pending_inputs["q0"]["cut"] == ["schema"] and state.goals["g0"]["cut"] == [
            "description",
            "reason",
            "summary",
        ]
        asked = await asyncio.to_thread(Api(server.url).input, "t", "q0")
        assert asked["schema"]["enum"] == ["y", "n" * 200_000] and asked["state"] == "open"


async def test_a_list_longer_than_a_frame_says_where_it_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", max_frame_bytes=20_000) as server, http(server) as client:
        for n in range(40):
            await make_trace(server.services.log, f"t{n}", metadata={"a": "x" * 600})
        async with socket(server, "/api/watch") as many:
            await many.say({"subscribe_traces": {"limit": 40}})
            first = await many.until("traces")
            assert max(many.sizes) <= 20_000
        page = (await client.get("/api/traces", params={"limit": 40, "page_token": first["next_page_token"]})).json()
        found = [trace["trace_id"] for trace in first["traces"] + page["traces"]]
        assert found == [f"t{n}" for n in range(39, -1, -1)]


async def test_answers_to_what_a_client_sends_fit_too(server: Serving) -> None:
    await make_trace(server.services.log, "t")
    long = "x" * 1_000_000
    patch = {f"wrong {n}": n for n in range(20_000)}
    async with socket(server, "/api/traces/t/record") as recorder:
        await recorder.frame()
        await recorder.say({"append": {"events": [{"event": "goal_updated", "goal_id": "g", "patch": patch}]}})
        nack = (await recorder.frame())["nack"]
        assert nack["error"] == "invalid_event" and "19,999 more" in nack["message"] and len(nack["details"]) == 20
        await recorder.say({"event": "ping", "id": long})
        assert await recorder.closed() == 4500
        assert max(recorder.sizes) <= FRAME
    async with socket(server, "/api/record") as recorder:
        await recorder.say({"append": {"trace_id": long, "events": []}})
        assert await recorder.closed() == 4500
        assert max(recorder.sizes) <= FRAME


async def test_a_state_of_many_goals_is_encoded_off_the_loop(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "ENCODED_AT_ONCE", 3)
    await make_trace(server.services.log, "t")
    await server.services.log.append("t", [{"event": "goal_added", "goal": {"description": "d"}} for _ in range(5)])
    async with http(server) as client:
        answer = (await client.get("/api/traces/t")).json()
        assert len(answer["goal_tree"]["goals"]) == 5 and answer["cursor"].endswith(".5")
        assert len((await client.get("/api/traces/t", params={"at_event_id": 4})).json()["goal_tree"]["goals"]) == 4


async def test_a_text_to_search_for_has_a_limit(server: Serving) -> None:
    async with http(server) as client:
        assert (await client.get("/api/traces", params={"q": "x" * 1_000})).status_code == 200
        refused(await client.get("/api/traces", params={"q": "x" * 1_001}), 422, "invalid")
    async with socket(server, "/api/watch") as many:
        await many.say({"subscribe_traces": {"q": "x" * 20_000}})
        assert (await many.until("error"))["code"] == "invalid"


async def test_a_client_has_half_of_the_watchers(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", max_watchers=6) as server:
        log = server.services.log
        await make_trace(log, "t")
        for n in range(5):
            await make_trace(log, f"t-{n}", parent_trace_id="t")
        async with socket(server, "/api/watch") as greedy:
            await greedy.say({"subscribe": {"trace_id": "t", "subtree": True}})
            assert (await greedy.until("error"))["code"] == "watcher_share"
            await until(lambda: len(server.services.hub._watchers) == 3)
            async with watching(server, "t") as another:
                assert (await another.until("error"))["code"] == "watcher_share"
                assert await another.closed() == 4029
            token = await log.tokens.create(["read"])
            async with watching(server, "t", token=token) as other:
                await other.until("caught_up")
        await until(lambda: not server.services.hub._clients)
        async with watching(server, "t", token=token) as again:
            await again.until("caught_up")


async def test_a_check_that_takes_long_leaves_the_loop_its_turns() -> None:
    parts = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(11)}
    question = {"schema": {"$ref": "#/$defs/a0", "$defs": {**parts, "a11": {}}}}
    assert QUICK_CHECKS < 2**11
    checker = Checker()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    try:
        await checker.check({"schema": {"type": "string"}}, "quick")
        assert turns == 0, "a usual check is done at once"
        await checker.check(question, 1)
        assert turns > 1
    finally:
        task.cancel()
        checker.close()
