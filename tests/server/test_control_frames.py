"""Each control frame of the protocol's section 4: its moment and its contents."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import connect

from tests.server.wire import append, bearer, end, http, make_trace, socket, sse, stored, thought, watching
from tests.support import Serving, serving, until
from tracewatch.model.times import format_time, parse_time

pytestmark = pytest.mark.anyio


async def test_connected_says_everything_a_page_needs(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "parent", agent_type="coder", metadata={"repo": "x"})
    await log.append("parent", [{"event": "goal_added", "goal": {"description": "fix", "status": "in_progress"}}])
    await make_trace(log, "child", parent_trace_id="parent", agent_type="tester")
    await log.append("parent", [{"event": "input_requested", "question": "Deploy?", "options": ["yes", "no"]}])
    began = parse_time(format_time(time.time()))  # in whole milliseconds
    async with watching(server, "parent", since="latest") as watch:
        connected = await watch.frame()
    assert list(connected) == [
        *("event", "protocol", "epoch", "cursor", "ts", "current_event_id", "first_event_id", "trace", "trace_status"),
        *("is_running", "goal_tree", "sub_traces", "pending_inputs", "heartbeat_s"),
    ]
    assert connected["heartbeat_s"] == 15
    assert began <= parse_time(connected["ts"]) <= time.time()
    assert connected["trace_status"] == connected["trace"]["status"] == "waiting"
    assert connected["is_running"] is True
    assert connected["trace"]["metadata"] == {"repo": "x"}
    assert [goal["description"] for goal in connected["goal_tree"]["goals"]] == ["fix"]
    assert [(sub["trace_id"], sub["parent_goal_id"], sub["status"]) for sub in connected["sub_traces"]] == [
        ("child", "1", "running")
    ]
    assert [question["question"] for question in connected["pending_inputs"]] == ["Deploy?"]


async def test_events_after_caught_up_come_as_they_are_stored(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "live")
    async with watching(server, "live") as watch:
        caught_up = await watch.until("caught_up")
        assert caught_up == {"event": "caught_up", "current_event_id": 0, "cursor": f"{log.epoch}.0", "replayed": 0}
        for batch in (1, 3, 40, 700):
            await append(log, "live", batch)
        await watch.until_events(744)
        assert watch.events == await stored(log, "live")
        assert watch.names() == ["connected", "caught_up"]  # once per catch-up


async def test_heartbeats_say_where_the_log_and_the_watcher_stand(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", heartbeat_s=0.05) as server, http(server) as client:
        log = server.services.log
        await make_trace(log, "quiet")
        await append(log, "quiet", 3)
        expected = {"current_event_id": 3, "cursor": f"{log.epoch}.3"}
        async with watching(server, "quiet") as watch:
            for _ in range(3):
                beat = await watch.until("heartbeat")
                assert {key: beat[key] for key in expected} == expected
                assert beat["ts"].endswith("Z") and "event_id" not in beat
            await append(log, "quiet", 1)
            await watch.until("heartbeat", current_event_id=4, cursor=f"{log.epoch}.4")
            assert len(watch.events) == 4
        async with sse(client, "quiet") as stream:
            await stream.until("heartbeat")
            await stream.until("heartbeat")
            assert stream.control[-1]["cursor"] == f"{log.epoch}.4"
        async with watching(server, "to-come", wait="1") as watch:
            beat = await watch.until("heartbeat")  # while it waits for the trace to exist
            assert (beat["current_event_id"], beat["cursor"]) == (0, f"{log.epoch}.0")
        async with socket(server, "/api/watch") as watch:
            await watch.say({"subscribe": {"trace_id": "quiet"}})
            assert (await watch.until("heartbeat"))["trace_id"] == "quiet"


async def test_checkpoints_move_the_cursor_of_a_filtered_watch(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", heartbeat_s=0.1) as server:
        log = server.services.log
        await make_trace(log, "f")
        await append(log, "f", 2500)
        await append(log, "f", 1, name="wanted")
        async with watching(server, "f", types="wanted,other") as watch:
            caught_up = await watch.until("caught_up")
            assert (caught_up["replayed"], caught_up["cursor"]) == (1, f"{log.epoch}.2501")
            places = [f["cursor"] for f in watch.control if f["event"] == "checkpoint"]
            assert places == [f"{log.epoch}.1000", f"{log.epoch}.2000"]
            await watch.until("checkpoint", cursor=f"{log.epoch}.2501")  # with a heartbeat
            assert watch.control[-2]["event"] == "heartbeat"
            await append(log, "f", 1500)  # live now
            await append(log, "f", 1, name="other")
            await watch.until_events(2)
            live = [
                f["cursor"] for f in watch.control[watch.names().index("caught_up") + 1 :] if f["event"] == "checkpoint"
            ]
            assert len([c for c in live if 2501 < int(c.split(".")[1]) < 4002]) >= 1
        async with watching(server, "f", since=2501, types="thought") as watch:
            await watch.until("caught_up")
            assert len(watch.events) == 1500
            assert "checkpoint" not in watch.names()[: watch.names().index("caught_up")]


@pytest.mark.parametrize("ended", ["before", "while"])
async def test_until_end(server: Serving, ended: str) -> None:
    log, trace_id = server.services.log, f"until-{ended}"
    await make_trace(log, trace_id)
    await append(log, trace_id, 5)
    if ended == "before":
        await end(log, trace_id, "failed")
    async with watching(server, trace_id, until="end", since=2) as watch, watching(server, trace_id) as other:
        if ended == "while":
            await watch.until("caught_up")
            await log.append(trace_id, [thought(1), {"event": "trace_completed", "status": "failed"}, thought(2)])
        assert await watch.closed() == 1000
        bodies = await stored(log, trace_id)
        assert watch.events == bodies[2:]
        assert watch.control[-1] == {"event": "end", "status": "failed", "last_event_id": len(bodies)}
        await other.until_events(len(bodies))
        await append(log, trace_id, 1, name="late")  # a watch without until stays open for late events
        await other.until("late")
        assert (await log.snapshot(trace_id)).state.status == "failed"


async def test_an_ended_trace_goes_on(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "again")
    await end(log, "again")
    async with watching(server, "again") as watch:
        assert (await watch.frame())["trace_status"] == "completed"
        await watch.until("caught_up")
        await log.append("again", [{"event": "trace_status_changed", "status": "running"}, thought(1)])
        async with watching(server, "again", until="end", since="latest") as waiting:
            assert (await waiting.frame())["is_running"] is True
            await waiting.until("caught_up")
            await end(log, "again", "stopped")
            assert await waiting.closed() == 1000
            assert waiting.control[-1]["status"] == "stopped"
        await watch.until_events(4)
        assert watch.events == await stored(log, "again")


async def test_waiting_for_a_trace_to_exist(server: Serving, client: httpx.AsyncClient) -> None:
    async with watching(server, "later", wait="1") as watch, sse(client, "later", wait="1") as stream:
        await until(lambda: server.services.hub.watchers("later") == 2)
        assert stream.response.status_code == 200  # told at once that it is connected
        await client.post("/api/traces", json={"trace_id": "later", "task": "x"})
        await append(server.services.log, "later", 2)
        assert (await watch.frame())["event"] == "connected"
        await watch.until_events(2)
        while len(stream.events) < 2:
            await stream.next()
        assert watch.events == stream.events


async def test_no_such_trace(server: Serving, client: httpx.AsyncClient) -> None:
    for path in ("watch", "record"):
        async with socket(server, f"/api/traces/nobody/{path}") as watch:
            assert await watch.closed() == 4504
            assert watch.control[-1]["code"] == "unknown_trace"
            assert watch.control[-1]["message"]


@pytest.mark.parametrize(
    "said",
    ["not JSON", "[1]", '"text"', "1", "", "{", b"binary", '{"a":' * 300 + "1" + "}" * 300],
    ids=["words", "array", "string", "number", "empty", "half", "binary", "deep"],
)
@pytest.mark.parametrize("path", ["/api/traces/spoken/watch", "/api/traces/spoken/record", "/api/watch"])
async def test_what_is_no_message_closes_with_a_reason(server: Serving, path: str, said: str | bytes) -> None:
    await make_trace(server.services.log, "spoken")
    async with socket(server, path) as watch:
        await watch.ws.send(said)
        assert await watch.closed() == 4500
        assert watch.control[-1]["event"] == "error" and watch.control[-1]["code"] in ("bad_request", "invalid_event")


async def test_a_message_above_the_limit_closes_with_a_reason(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", max_ws_bytes=2000, max_ws_record_bytes=5000) as server:
        await make_trace(server.services.log, "t")
        for path, size in (("/api/traces/t/watch", 2001), ("/api/watch", 2001)):
            async with socket(server, path) as watch:
                await watch.ws.send('"' + "x" * (size - 2) + '"')
                assert await watch.closed() == 4500
                assert (watch.control[-1]["code"], watch.control[-1]["limit"]) == ("too_large", 2000)
        async with socket(server, "/api/watch") as watch:
            await watch.ws.send('"' + "é" * 1000 + '"')  # bytes count, not characters
            assert await watch.closed() == 4500
        async with socket(server, "/api/traces/t/record") as watch:
            await watch.ws.send('"' + "x" * 11_000 + '"')  # far above: not even collected
            assert await watch.closed() == 1009


async def test_pong(server: Serving) -> None:
    await make_trace(server.services.log, "pinged")
    before = parse_time(format_time(time.time()))  # in whole milliseconds
    for path in ("/api/traces/pinged/watch", "/api/traces/pinged/record", "/api/watch"):
        async with socket(server, path) as watch:
            for said, heard in (
                ("ping", {"event": "pong"}),
                ('{"event":"ping"}', {"event": "pong"}),
                ('{"event":"ping","id":7}', {"event": "pong", "id": 7}),
                ('{"event":"ping","id":{"a":null}}', {"event": "pong", "id": {"a": None}}),
                ('{"id":null,"event":"ping"}', {"event": "pong", "id": None}),
            ):
                await watch.ws.send(said)
                pong = await watch.until("pong")
                assert before <= parse_time(pong.pop("ts")) <= time.time()
                assert pong == heard


async def test_a_watcher_may_say_other_things(server: Serving) -> None:
    await make_trace(server.services.log, "chatty")
    async with watching(server, "chatty") as watch:
        for n in range(200):  # uvicorn stops reading after each message until somebody takes it
            await watch.say({"event": "whatever", "n": n})
        await append(server.services.log, "chatty", 1)
        await watch.until_events(1)


async def test_too_many_watchers(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", max_watchers=2) as server:
        await make_trace(server.services.log, "t")
        # Two clients, as one has only half of the watchers
        one, two = [await server.services.log.tokens.create(["read"]) for _ in range(2)]
        async with (
            http(server, headers=bearer(two)) as client,
            watching(server, "t", token=one) as first,
            sse(client, "t") as stream,
        ):
            await first.until("caught_up")
            await stream.until("caught_up")
            async with watching(server, "t", token=one) as third:
                assert await third.closed() == 4029
                assert third.control[-1]["code"] == "too_many"
            response = await client.get("/api/traces/t/events", headers={"Accept": "text/event-stream"})
            assert (response.status_code, response.json()["error"]) == (429, "too_many")
            assert int(response.headers["retry-after"]) > 0
            async with socket(server, "/api/watch", token=one) as many:
                await many.say({"subscribe": {"trace_id": "t"}})
                assert (await many.until("error"))["code"] == "too_many"
                await first.ws.close()
                await until(lambda: server.services.hub.watchers("t") == 1)
                await many.say({"subscribe": {"trace_id": "t"}})
                await many.until("caught_up")


async def test_a_large_goal_tree_comes_in_parts(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        log = server.services.log
        await make_trace(log, "big")
        for start in range(0, 300, 100):
            goals = [{"description": f"goal {start + n} " + "x" * 3000} for n in range(100)]
            await log.append("big", [{"event": "goal_added", "goal": goal} for goal in goals])
        tree = (await client.get("/api/traces/big")).json()["goal_tree"]
        assert len(orjson.dumps(tree)) > 800_000
        for since, names in (("300", ("connected",)), ("301", ("connected", "snapshot"))):
            async with watching(server, "big", since=since, nulls=1) as watch:
                await watch.until("caught_up")
            assert max(watch.sizes) <= 512 * 1024
            assert [frame["event"] for frame in watch.control if frame["event"] in names] == list(names)
            for name in names:
                at = watch.names().index(name)
                assert watch.control[at]["goal_tree"] is None
                count = watch.control[at + 1]["parts"]
                parts = watch.control[at + 1 : at + 1 + count]
                assert [(p["event"], p["part"]) for p in parts] == [("goal_tree_part", n + 1) for n in range(count)]
                assert count > 1
                whole: dict[str, Any] = {key: parts[0][key] for key in ("mission", "current_id", "as_of_event_id")}
                assert {**whole, "goals": [g for p in parts for g in p["goals"]]} == tree


async def test_a_trace_deleted_while_it_is_watched(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "gone")
    await append(log, "gone", 5)
    async with (
        watching(server, "gone") as watch,
        sse(client, "gone") as stream,
        socket(server, "/api/watch") as many,
    ):
        await many.say({"subscribe": {"trace_id": "gone"}})
        await many.until("caught_up")
        await watch.until("caught_up")
        await stream.until("caught_up")
        assert (await client.delete("/api/traces/gone")).json() == {"deleted": ["gone"]}
        assert await watch.closed() == 4504
        assert watch.control[-1]["code"] == "trace_deleted"
        await stream.rest()
        assert (stream.control[-1]["event"], stream.control[-1]["code"]) == ("error", "trace_deleted")
        error = await many.until("error")
        assert (error["trace_id"], error["code"]) == ("gone", "trace_deleted")
        async with watching(server, "gone", wait="1") as anew:
            await until(lambda: server.services.hub.watchers("gone") == 1)
            await make_trace(log, "gone")
            await append(log, "gone", 1)
            connected = await anew.frame()
            assert (connected["first_event_id"], connected["cursor"]) == (6, f"{log.epoch}.5")
            await anew.until_events(1)
            assert anew.events == await stored(log, "gone", 5)
        async with watching(server, "gone", since=2) as old:
            await old.until("caught_up")
            assert (old.control[1]["reason"], old.control[1]["resume_event_id"]) == ("trimmed", 5)


async def test_a_hint_of_a_deletion_that_is_not_true_ends_nothing(server: Serving) -> None:
    from tracewatch.log import Grown

    log = server.services.log
    await make_trace(log, "alive")
    async with watching(server, "alive") as watch:
        await watch.until("caught_up")
        server.services.hub.grown([Grown("alive", 0, "deleted", deleted=True)])
        await append(log, "alive", 3)
        await watch.until_events(3)


async def test_unknown_parameters_are_refused(server: Serving) -> None:
    await make_trace(server.services.log, "asked")
    async with watching(server, "asked", until="tomorrow") as watch:
        assert await watch.closed() == 4500
        assert watch.control[-1]["code"] == "invalid"


async def test_cut_sockets_leave_no_watchers(server: Serving) -> None:
    await make_trace(server.services.log, "cut")
    url = f"{server.ws_url}/api/traces/cut/watch"
    sockets = [await connect(url, compression=None) for _ in range(20)]
    await until(lambda: server.services.hub.watchers("cut") == 20)
    for ws in sockets:
        ws.transport.abort()
    await append(server.services.log, "cut", 50)
    await until(lambda: server.services.hub.watchers("cut") == 0)
    await asyncio.gather(*(ws.wait_closed() for ws in sockets))
