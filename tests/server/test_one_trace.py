"""A token of one trace, tried on every other trace and over every transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.server.tokens import two_runs
from tests.server.wire import append, bearer, http, make_trace, refused, socket, sse
from tests.support import Serving, serving

pytestmark = pytest.mark.anyio
CREATED = "2026-11-20T08:00:00.000Z"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    async with serving(tmp_path_factory.mktemp("one") / "log.db") as started:
        await two_runs(started.services.log, "mine", "theirs")
        await make_trace(started.services.log, "mine.sub.sub", parent_trace_id="mine.sub")
        yield started


@pytest.fixture(scope="module")
async def token(server: Serving) -> str:
    return await server.services.log.tokens.create(["admin"], trace_id="mine")


async def test_what_is_its_own_is_all_there(server: Serving, token: str) -> None:
    async with http(server, headers=bearer(token)) as client:
        for trace_id in ("mine", "mine.sub", "mine.sub.sub"):
            assert (await client.get(f"/api/traces/{trace_id}")).status_code == 200
            assert (await client.get(f"/api/traces/{trace_id}/events")).status_code == 200


async def test_lists_and_inbox_hold_its_own(server: Serving, token: str) -> None:
    async with http(server, headers=bearer(token)) as client:
        for query in (
            "",
            "?q=test",
            "?q=theirs",
            "?root_trace_id=theirs",
            "?parent_trace_id=theirs",
            "?status=waiting",
        ):
            found = (await client.get(f"/api/traces{query}")).json()["traces"]
            assert {one["trace_id"] for one in found} <= {"mine", "mine.sub", "mine.sub.sub"}, query
        assert len((await client.get("/api/traces")).json()["traces"]) == 3
        inputs = (await client.get("/api/inputs")).json()["inputs"]
        assert {one["trace_id"] for one in inputs} == {"mine", "mine.sub"}
        first = (await client.get("/api/traces?limit=1")).json()
        rest = (await client.get(f"/api/traces?page_token={first['next_page_token']}")).json()["traces"]
        assert {one["trace_id"] for one in rest} == {"mine", "mine.sub"}
        forged = (await client.get(f"/api/traces?page_token={10**9}")).json()["traces"]
        assert len(forged) == 3


async def test_the_list_that_goes_on_holds_its_own(server: Serving, token: str) -> None:
    async with socket(server, "/api/watch", token) as watch:
        await watch.say({"subscribe_traces": {}})
        first = await watch.until("traces")
        assert {one["trace_id"] for one in first["traces"]} == {"mine", "mine.sub", "mine.sub.sub"}
        for trace_id in ("theirs", "mine.sub.sub"):  # in this order: had the first been sent, it would have come first
            await append(server.services.log, trace_id, 1)
        changed = await watch.until("trace_changed")
        assert changed["trace"]["trace_id"] == "mine.sub.sub"


async def test_a_subscription_to_another_is_one_to_nothing(server: Serving, token: str) -> None:
    async with socket(server, "/api/watch", token) as watch:
        frames = []
        for trace_id in ("theirs", "absent", "theirs.sub"):
            for more in ({}, {"subtree": True}, {"wait": 1}, {"subtree": True, "cursors": {"theirs.sub": "0"}}):
                await watch.say({"subscribe": {"trace_id": trace_id, **more}})
                frame = await watch.frame()
                frames.append(orjson.dumps(frame).decode().replace(trace_id, "x"))
                assert (frame["event"], frame["code"]) == ("error", "unknown_trace")
        assert len(set(frames)) == 1
        await watch.say({"subscribe": {"trace_id": "mine", "subtree": True}})
        for trace_id in ("mine", "mine.sub", "mine.sub.sub"):
            await watch.had("caught_up", trace_id=trace_id)


async def test_a_log_that_names_another_run_as_its_sub_trace_shows_nothing_of_it(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        log = server.services.log
        await two_runs(log, "mine", "theirs")
        token = await log.tokens.create(["admin"], trace_id="mine")
        header: dict[str, Any] = {"task": "x", "agent_type": "a", "parent_goal_id": None, "created_at": CREATED}
        start = {"event": "sub_trace_started", "event_id": 1, "trace_id": "mine.made-up", "ts": CREATED}
        event = {**start, "sub_trace_id": "theirs", "parent_goal_id": None, "agent_type": "a", "task": "x"}
        above = {"parent_trace_id": "mine", "root_trace_id": "mine"}
        await log.restore({**header, **above, "trace_id": "mine.made-up", "metadata": {}}, [event])
        async with socket(server, "/api/watch", token) as watch:
            await watch.say({"subscribe": {"trace_id": "mine", "subtree": True}})
            await watch.had("caught_up", trace_id="mine.made-up")
            await watch.had("error", trace_id="theirs")
            await make_trace(log, "theirs.new", parent_trace_id="theirs")
            await make_trace(log, "mine.new", parent_trace_id="mine")
            await watch.had("caught_up", trace_id="mine.new")
            seen = {frame["trace_id"] for frame in watch.control}
            assert seen == {"mine", "mine.sub", "mine.made-up", "mine.new", "theirs"}


@pytest.mark.parametrize("path", ["/api/watch", "/api/traces/mine/watch"])
async def test_commands_on_a_socket_reach_its_own_only(server: Serving, token: str, path: str) -> None:
    async with socket(server, path, token) as watch:
        for trace_id in ("theirs", "theirs.sub", "absent"):
            await watch.say({"cancel": {"trace_id": trace_id}})
            assert (await watch.until("error"))["code"] == "unknown_trace"
            await watch.say({"answer": {"trace_id": trace_id, "request_id": "q", "value": 1}})
            assert (await watch.until("error"))["code"] == "unknown_trace"
        state = (await server.services.log.inputs_of("theirs", "q"))[0]
        assert state["state"] == "open"


async def test_commands_on_a_socket_need_their_scope(server: Serving) -> None:
    reader = await server.services.log.tokens.create(["read"])
    async with socket(server, "/api/traces/mine/watch", reader) as watch:
        await watch.say({"cancel": {"id": 1}})
        frame = await watch.until("error")
        assert (frame["code"], frame["command"], frame["id"]) == ("forbidden", "cancel", 1)
        await watch.say({"event": "ping"})
        await watch.until("pong")  # it closes nothing


async def test_creating(server: Serving) -> None:
    log = server.services.log
    token = await log.tokens.create(["write"], trace_id="fresh")
    async with http(server, headers=bearer(token)) as client:

        async def create(**spec: Any) -> Any:
            return await client.post("/api/traces", json={"task": "x", **spec})

        refused(await create(), 403, "forbidden")
        refused(await create(trace_id="other"), 403, "forbidden")
        assert "fresh" in refused(await create(trace_id="theirs"), 403, "forbidden")["message"]
        for parent in ("theirs", "absent"):
            for trace_id in ("fresh", "fresh.sub", None):
                body = refused(await create(trace_id=trace_id, parent_trace_id=parent), 404, "unknown_parent")
                assert body["message"] == f"there is no trace {parent!r} to be the parent"
        refused(await create(trace_id="fresh.sub", parent_trace_id="fresh"), 404, "unknown_parent")
        assert (await create(trace_id="fresh")).status_code == 201
        assert (await create(trace_id="fresh")).status_code == 200
        assert (await create(parent_trace_id="fresh")).status_code == 201
        assert (await create(trace_id="fresh.sub", parent_trace_id="fresh")).status_code == 201
        assert (await create(trace_id="fresh.sub.sub", parent_trace_id="fresh.sub")).status_code == 201
        # An id that is taken can't be had; nothing more is said
        body = refused(await create(trace_id="theirs", parent_trace_id="fresh"), 409, "trace_conflict")
        assert body["details"] == []
    assert not any(one["trace_id"].startswith("fresh") for one in await log.summaries(["theirs"]))
    snapshot = await log.snapshot("theirs")
    assert set(snapshot.state.sub_traces) == {"theirs.sub"}


async def test_a_recorder_of_a_sub_trace_creates_it_again(server: Serving) -> None:
    token = await server.services.log.tokens.create(["write"], trace_id="theirs.sub")
    async with http(server, headers=bearer(token)) as client:
        spec = {"trace_id": "theirs.sub", "task": "test", "parent_trace_id": "theirs"}
        assert (await client.post("/api/traces", json=spec)).status_code == 200
        other = {**spec, "parent_trace_id": "mine"}
        refused(await client.post("/api/traces", json=other), 404, "unknown_parent")


def lines(trace_id: str, *events: dict[str, Any], **header: Any) -> bytes:
    """An export's lines."""
    trace = {"trace_id": trace_id, "task": "x", "agent_type": "a", "root_trace_id": trace_id, "created_at": CREATED}
    stored = [
        {"event": "thought", "event_id": n, "trace_id": trace_id, "ts": CREATED, **event}
        for n, event in enumerate(events, 1)
    ]
    return b"\n".join(orjson.dumps(one) for one in ({"trace": {**trace, **header}}, *stored))


async def test_importing(server: Serving) -> None:
    log = server.services.log
    token = await log.tokens.create(["write", "read"], trace_id="back")
    async with http(server, headers=bearer(token)) as client:

        async def put(body: bytes) -> Any:
            return await client.post("/api/import", content=body)

        for trace_id in ("theirs", "elsewhere"):
            refused(await put(lines(trace_id)), 403, "forbidden")
        refused(await put(lines("back", parent_trace_id="theirs", root_trace_id="theirs")), 403, "forbidden")
        refused(await put(lines("back", root_trace_id="theirs")), 403, "forbidden")
        # Its log may say that another trace is a sub-trace of it: that makes it none
        named = {"sub_trace_id": "theirs", "parent_goal_id": None, "agent_type": "a", "task": "x"}
        said = {"event": "sub_trace_started", **named}
        assert (await put(lines("back", said))).status_code == 200
        taken = await put(lines("theirs", parent_trace_id="back", root_trace_id="back"))
        assert refused(taken, 409, "trace_conflict")["details"] == []
        assert (await put(lines("back.sub", parent_trace_id="back", root_trace_id="back"))).status_code == 200
        refused(await client.get("/api/traces/theirs"), 404, "unknown_trace")
    async with socket(server, "/api/watch", token) as watch:
        await watch.say({"subscribe": {"trace_id": "back", "subtree": True}})
        assert (await watch.had("error", trace_id="theirs"))["code"] == "unknown_trace"
        await watch.had("caught_up", trace_id="back.sub")
        assert b"secret" not in b"".join(watch.events)


async def test_sub_traces_to_come_are_its_own(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "grows")
    token = await log.tokens.create(["read"], trace_id="grows")
    async with socket(server, "/api/watch", token) as watch:
        await watch.say({"subscribe": {"trace_id": "grows", "subtree": True}})
        await watch.until("caught_up")
        await make_trace(log, "grows.later", parent_trace_id="grows")
        await append(log, "grows.later", 1)
        await watch.had("connected", trace_id="grows.later")
    async with http(server, headers=bearer(token)) as client, asyncio.timeout(60):
        async with sse(client, "grows.later") as stream:
            await stream.until("caught_up")


async def test_its_own_trace_may_be_waited_for(server: Serving) -> None:
    token = await server.services.log.tokens.create(["read"], trace_id="to-come")
    async with socket(server, "/api/traces/to-come/watch", token, wait=1) as watch:
        await make_trace(server.services.log, "to-come")
        await watch.until("caught_up")
