"""Control over HTTP, over watch sockets and down the record socket: every answer of the protocol's section 5."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.log.helpers import names
from tests.server.wire import Watch, end, http, make_trace, socket, thought, watching
from tests.support import Serving, serving
from tracewatch.log import EventLog, open_log

pytestmark = pytest.mark.anyio
Json = dict[str, Any]


async def ask(log: EventLog, trace_id: str, request_id: str = "q", **more: Any) -> None:
    """Make a trace that waits."""
    await make_trace(log, trace_id, **more.pop("spec", {}))
    await log.append(trace_id, [{"event": "input_requested", "request_id": request_id, "question": "Deploy?", **more}])


def recording(server: Serving | str, trace_id: str) -> Any:
    return socket(server, f"/api/traces/{trace_id}/record")


async def event(watch: Watch, name: str) -> Json:
    """Read on to the stored event of this name."""
    while True:
        frame = await watch.frame()
        if frame.get("event") == name and "event_id" in frame:
            return frame


# --- HTTP ------------------------------------------------------------------------------------------------------


async def test_cancel_in_each_state(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "c-running", lease_s=100)
    answer = await client.post("/api/traces/c-running/cancel", json={"reason": "enough", "by": "me"})
    assert (answer.status_code, answer.json()) == (202, {"trace_id": "c-running", "status": "cancelling"})
    assert (await client.post("/api/traces/c-running/cancel")).status_code == 202
    assert await names(log, "c-running") == ["cancel_requested"]
    await end(log, "c-running", "stopped")
    answer = await client.post("/api/traces/c-running/cancel")
    assert (answer.status_code, answer.json()["error"]) == (409, "not_running")
    await make_trace(log, "c-lost", lease_s=100)
    await log.append("c-lost", [{"event": "trace_status_changed", "status": "lost"}], by_server=True)
    answer = await client.post("/api/traces/c-lost/cancel")
    assert (answer.status_code, answer.json()) == (200, {"trace_id": "c-lost", "status": "stopped"})
    answer = await client.post("/api/traces/c-nope/cancel")
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown_trace")


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b"{", 400, None),
        (b"[]", 422, ""),
        (b'{"reason":1}', 422, "reason"),
        (b'{"by":""}', 422, "by"),
        (b'{"why":"x"}', 422, "why"),
    ],
)
async def test_a_cancel_that_is_none(
    server: Serving, client: httpx.AsyncClient, body: bytes, status: int, path: str | None
) -> None:
    if "c-bad" not in [t["trace_id"] for t in await server.services.log.summaries(["c-bad"])]:
        await make_trace(server.services.log, "c-bad")
    answer = await client.post("/api/traces/c-bad/cancel", content=body)
    assert answer.status_code == status
    if path is not None:
        assert [detail["path"] for detail in answer.json()["details"]] == [path]
    assert await names(server.services.log, "c-bad") == []


async def test_answer_in_each_state(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        log = server.services.log
        await ask(log, "a", options=["yes", "no"])

        async def give(value: Any, request_id: str = "q", trace_id: str = "a") -> tuple[int, str]:
            answer = await client.post(f"/api/traces/{trace_id}/inputs/{request_id}", json={"value": value, "by": "me"})
            return answer.status_code, answer.json().get("error") or answer.json()["status"]

        assert await give("maybe") == (422, "invalid_value")
        assert await give("yes", "nope") == (404, "unknown_request")
        assert await give("yes", "q", "nope") == (404, "unknown_trace")
        url = "/api/traces/a/inputs/q"
        assert (await client.get(url)).json()["question"] == "Deploy?"
        assert await give("yes") == (200, "answered")
        assert await give("no") == (409, "already_answered")
        stands = (await client.get(url)).json()
        assert {key: value for key, value in stands.items() if key not in ("epoch", "ts")} == {
            "trace_id": "a",
            "request_id": "q",
            "state": "answered",
            "value": "yes",
            "by": "me",
        }
        await ask(log, "closed")
        await end(log, "closed")
        assert await give(1, "q", "closed") == (409, "not_running")
        await ask(log, "expired", expires_in_s=0.2)
        async with watching(server, "expired") as watch:
            await event(watch, "input_expired")
        assert await give(1, "q", "expired") == (410, "expired")
        assert await names(log, "expired") == ["input_requested", "input_expired"]
        assert (await client.get("/api/traces/a/inputs/nope")).json()["error"] == "unknown_request"
        assert (await client.get("/api/traces/nope/inputs/q")).json()["error"] == "unknown_trace"
        bodies: list[Any] = [{}, {"value": 1, "by": 2}, {"value": 1, "other": 2}, []]
        for body in bodies:
            assert (await client.post(url, json=body)).status_code == 422


async def test_the_inbox(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        log = server.services.log
        empty = (await client.get("/api/inputs")).json()
        assert (empty["inputs"], empty["has_more"]) == ([], False)
        for name in "xyz":
            await ask(log, name, spec={"agent_type": "coder"})
        inbox = (await client.get("/api/inputs")).json()
        assert [one["trace_id"] for one in inbox["inputs"]] == ["x", "y", "z"]
        assert (inbox["inputs"][0]["agent_type"], inbox["inputs"][0]["task"]) == ("coder", "test")
        await client.post("/api/traces/x/inputs/q", json={"value": None})
        inbox = (await client.get("/api/inputs", params={"limit": 1})).json()
        assert ([one["trace_id"] for one in inbox["inputs"]], inbox["has_more"]) == (["y"], True)
        assert (await client.get("/api/inputs", params={"limit": 0})).status_code == 422


@pytest.mark.parametrize(
    ("schema", "value", "path"),
    [
        ({"type": "integer", "minimum": 3}, 2, "value"),
        ({"properties": {"a": {"type": "array", "items": {"type": "string"}}}}, {"a": [1]}, "value.a.0"),
        ({"type": "object", "required": ["a"]}, {}, "value"),
        ({"additionalProperties": False, "patternProperties": {"^x": {}}}, {"xa": 1, "y": 1}, "value"),
        ({"pattern": "(a+)+$"}, "a" * 40_000 + "b", "value"),
        ({"type": "strin"}, "x", "schema.type"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "x", "schema"),
        ({"$ref": "#/$defs/nowhere"}, "x", "schema"),
        ({"$ref": "#"}, "x", "schema"),
        ({"$schema": 5}, "x", "schema"),
    ],
)  # fmt: skip
async def test_a_value_that_does_not_match(
    server: Serving, client: httpx.AsyncClient, schema: Json, value: Any, path: str
) -> None:
    log = server.services.log
    snapshot, _ = await log.create_trace(
        {**dict.fromkeys(("trace_id", "parent_trace_id", "parent_goal_id", "lease_s")), "task": "t", "agent_type": "a"}
        | {"metadata": {}}
    )
    trace_id = snapshot.state.trace_id
    await log.append(trace_id, [{"event": "input_requested", "request_id": "q", "question": "?", "schema": schema}])
    answer = await client.post(f"/api/traces/{trace_id}/inputs/q", json={"value": value})
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_value")
    assert [detail["path"] for detail in answer.json()["details"]] == [path]
    assert len(answer.content) < 3000
    assert await names(log, trace_id) == ["input_requested"]


async def test_values_that_match(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "match")
    deep: Json = {
        "$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}},
        "$ref": "#/$defs/n",
    }
    pairs: list[tuple[Json, Any]] = [
        ({"options": ["yes", 1, None]}, None),
        ({"options": [1]}, 1.0),
        ({"options": []}, "anything"),
        ({"schema": deep}, {"next": {"next": {}}}),
        ({"schema": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"}}, "x"),
        ({"schema": {"pattern": "(?=x)"}}, "not checked here"),
        ({"schema": None, "options": None}, {"any": ["thing"]}),
    ]
    for n, (question, value) in enumerate(pairs):
        await log.append("match", [{"event": "input_requested", "request_id": str(n), "question": "?", **question}])
        answer = await client.post(f"/api/traces/match/inputs/{n}", json={"value": value})
        assert answer.status_code == 200, (question, answer.text)
    await log.append("match", [{"event": "input_requested", "request_id": "b", "question": "?", "options": [1, "1"]}])
    assert (await client.post("/api/traces/match/inputs/b", json={"value": True})).status_code == 422


async def test_a_schema_that_costs_too_much_is_given_up(server: Serving, client: httpx.AsyncClient) -> None:
    """Two references at each of forty levels: 2⁴⁰ checks, if anybody made them."""
    defs: Json = {f"n{i}": {"allOf": [{"$ref": f"#/$defs/n{i + 1}"}] * 2} for i in range(40)}
    schema = {"$defs": {**defs, "n40": {"type": "string"}}, "$ref": "#/$defs/n0"}
    await ask(server.services.log, "costly", schema=schema)
    answer = await client.post("/api/traces/costly/inputs/q", json={"value": "x"})
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_value")
    assert "too much work" in answer.json()["message"]


# --- over the sockets of watchers ------------------------------------------------------------------------------


async def test_over_the_watch_socket(server: Serving) -> None:
    log = server.services.log
    await ask(log, "w", options=["yes"])
    async with watching(server, "w") as watch:
        await watch.until("caught_up")
        await watch.say({"answer": {"request_id": "q", "value": "no", "id": 1}})
        refused = await watch.until("error")
        assert (refused["code"], refused["command"], refused["id"]) == ("invalid_value", "answer", 1)
        await watch.say({"answer": {"request_id": "q", "value": "yes", "by": "me", "id": 2}})
        frame = await watch.until("answer")
        assert frame == {"event": "answer", "request_id": "q", "id": 2, "trace_id": "w", "status": "answered"}
        await watch.say({"cancel": {"reason": "enough"}})
        assert await watch.until("cancel") == {"event": "cancel", "trace_id": "w", "status": "cancelling"}
        await watch.until_events(3)
        await end(log, "w")
        await watch.say({"cancel": {}})
        assert (await watch.until("error"))["code"] == "not_running"
        for bad in ({"cancel": 1}, {"answer": {"value": 1}}, {"answer": {"request_id": "q"}}, {"cancel": {"x": 1}}):
            await watch.say(bad)
            assert (await watch.until("error"))["code"] == "invalid", bad
        await watch.ws.send("ping")
        await watch.until("pong")
    assert await names(log, "w") == ["input_requested", "input_provided", "cancel_requested", "trace_completed"]


async def test_over_the_socket_of_many(server: Serving) -> None:
    log = server.services.log
    await ask(log, "m1")
    await make_trace(log, "m2")
    async with socket(server, "/api/watch") as watch:
        await watch.say({"answer": {"trace_id": "m1", "request_id": "q", "value": None}})
        assert (await watch.until("answer"))["trace_id"] == "m1"
        await watch.say({"cancel": {"trace_id": "m2", "id": "x"}})
        assert await watch.until("cancel") == {"event": "cancel", "trace_id": "m2", "id": "x", "status": "cancelling"}
        await watch.say({"cancel": {"id": "x"}})
        assert (await watch.until("error"))["id"] == "x"
        await watch.say({"cancel": {"trace_id": "nope"}})
        assert (await watch.until("error"))["code"] == "unknown_trace"
        await watch.say({"subscribe": {"trace_id": "m1"}})
        await watch.until("caught_up")


async def test_leaving_stops_nothing(server: Serving) -> None:
    await ask(server.services.log, "left")
    async with watching(server, "left") as watch:
        await watch.until("caught_up")
    assert await names(server.services.log, "left") == ["input_requested"]


# --- down the record socket ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["same", "other"])
async def test_commands_reach_the_recorder(tmp_path: Path, where: str) -> None:
    """Within 100 ms on a machine that is not busy; here the median of several, for this one may be."""
    async with serving(tmp_path / "log.db") as one, serving(tmp_path / "log.db") as two:
        target = one if where == "same" else two
        took: list[float] = []
        async with http(target) as client:
            for n in range(5):
                await ask(one.services.log, f"t{n}", spec={"lease_s": 30})
                async with recording(one, f"t{n}") as recorder:
                    assert "ready" in await recorder.frame()
                    started = time.monotonic()
                    answer = asyncio.create_task(client.post(f"/api/traces/t{n}/cancel", json={"reason": "r"}))
                    assert (await event(recorder, "cancel_requested"))["reason"] == "r"
                    took.append(time.monotonic() - started)
                    assert (await answer).status_code == 202
                    await client.post(f"/api/traces/t{n}/inputs/q", json={"value": {"a": 1}})
                    assert (await event(recorder, "input_provided"))["value"] == {"a": 1}
        assert sorted(took)[2] < 1.0, took


async def test_commands_given_while_the_recorder_was_away(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await ask(log, "away", "one", spec={"lease_s": 30})
    await log.append("away", [{"event": "input_requested", "request_id": "two", "question": "Sure?"}])
    async with recording(server, "away") as recorder:
        ready = (await recorder.frame())["ready"]
    assert [(one["request_id"], one["state"]) for one in ready["inputs"]] == [("one", "open"), ("two", "open")]
    await client.post("/api/traces/away/inputs/one", json={"value": [1], "by": "me"})
    await client.post("/api/traces/away/cancel", json={"reason": "r", "by": "me"})
    async with recording(server, "away") as recorder:
        ready = (await recorder.frame())["ready"]
        assert ready["cancel_requested"] == {"reason": "r", "by": "me"}
        answered, asked = ready["inputs"]
        assert answered == {"request_id": "one", "state": "answered", "value": [1], "by": "me"}
        assert (asked["request_id"], asked["state"], asked["question"]) == ("two", "open", "Sure?")
        await client.post("/api/traces/away/inputs/two", json={"value": 2})
        assert (await event(recorder, "input_provided"))["request_id"] == "two"


async def test_ready_is_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", max_frame_bytes=64 * 1024) as server:
        log = server.services.log
        await make_trace(log, "big")
        for n in range(8):
            await log.append("big", [{"event": "input_requested", "request_id": str(n), "question": "?"}])
            await log.answer("big", str(n), "x" * 20_000)
        async with recording(server, "big") as recorder:
            inputs = (await recorder.frame())["ready"]["inputs"]
        assert [one["request_id"] for one in inputs] == [str(n) for n in range(8)]
        assert ["value" in one for one in inputs] == [False] * 5 + [True] * 3
        assert recorder.sizes[0] < 70_000


async def test_a_recorder_that_attaches_is_not_gone(tmp_path: Path) -> None:
    """Its lease had run out: from the moment it is back a cancel is for it to obey."""
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        log = server.services.log
        await make_trace(log, "back", lease_s=30)
        await log.append("back", [{"event": "trace_status_changed", "status": "lost"}], by_server=True)
        async with recording(server, "back") as recorder:
            await recorder.frame()
            assert (await client.post("/api/traces/back/cancel")).json()["status"] == "cancelling"
            await event(recorder, "cancel_requested")


async def test_a_recorder_that_writes_to_the_file_itself(tmp_path: Path) -> None:
    """It has no socket: it reads its commands from the log, which both processes have."""
    own = await open_log(str(tmp_path / "log.db"))
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        await ask(own, "file", spec={"lease_s": 30})
        await own.append("file", [thought(1)], producer="p", seq=1)
        assert (await client.post("/api/traces/file/inputs/q", json={"value": 1})).status_code == 200
        assert (await client.post("/api/traces/file/cancel")).status_code == 202
        assert (await own.inputs_of("file"))[0]["value"] == 1
        assert (await own.snapshot("file")).state.cancel_requested is not None
        async with watching(server, "file") as watch:
            await watch.until_events(4)
            await own.append("file", [{"event": "trace_completed", "status": "stopped"}])
            await watch.until_events(5)
    await own.close()
