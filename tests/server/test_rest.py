"""REST: every call, and every refusal with its status and shape (protocol, sections 3, 4 and 6)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.server.wire import append, end, http, make_trace, post, refused, socket, stored, thought
from tests.support import Serving, serving
from tracewatch.client.api import Api
from tracewatch.model.times import format_time, parse_time

pytestmark = pytest.mark.anyio


async def test_create(server: Serving, client: httpx.AsyncClient) -> None:
    spec = {"trace_id": "made", "task": "Fix it", "agent_type": "coder", "metadata": {"a": [1]}, "lease_s": 30}
    first = await client.post("/api/traces", json=spec)
    assert first.status_code == 201
    trace = first.json()["trace"]
    assert first.json()["trace_id"] == trace["trace_id"] == trace["root_trace_id"] == "made"
    assert list(trace) == [
        *("trace_id", "task", "agent_type", "parent_trace_id", "parent_goal_id", "root_trace_id", "status"),
        *("is_running", "current_goal_id", "first_event_id", "last_event_id", "total_messages", "total_tokens"),
        *(
            "total_cost",
            "tree_totals",
            "created_at",
            "updated_at",
            "completed_at",
            "started_at",
            "ended_at",
            "active_at",
        ),
        *("summary", "error", "session_id", "user_id", "tags", "models", "metadata"),
    ]
    again = await client.post("/api/traces", json=spec)
    assert (again.status_code, again.json()["trace"]) == (200, trace)
    body = refused(await client.post("/api/traces", json={**spec, "task": "Other"}), 409, "trace_conflict")
    assert [detail["path"] for detail in body["details"]] == ["task"]
    made = (await client.post("/api/traces", json={"task": "x"})).json()["trace_id"]
    assert (await client.get(f"/api/traces/{made}")).status_code == 200
    body = refused(await client.post("/api/traces", json={"task": "x", "parent_trace_id": "no"}), 404, "unknown_parent")
    with_goal = {"task": "x", "parent_trace_id": "made", "parent_goal_id": "9"}
    refused(await client.post("/api/traces", json=with_goal), 404, "unknown_goal")


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b"", 422, "task"),
        (b"[]", 422, ""),
        (b"7", 422, ""),
        (b"{}", 422, "task"),
        (b'{"task":""}', 422, "task"),
        (b'{"task":7}', 422, "task"),
        (b'{"task":"x","trace_id":"a b"}', 422, "trace_id"),
        (b'{"task":"x","trace_id":""}', 422, "trace_id"),
        (b'{"task":"x","lease_s":-1}', 422, "lease_s"),
        (b'{"task":"x","metadata":[]}', 422, "metadata"),
        (b'{"task":"x","metadata":{"a":"' + b"x" * 300_000 + b'"}}', 413, None),
        (b'{"task":"' + b"x" * 10_001 + b'"}', 422, "task"),
    ],
)
async def test_what_is_no_trace(
    server: Serving, client: httpx.AsyncClient, body: bytes, status: int, path: Any
) -> None:
    code = {400: "bad_request", 413: "too_large", 422: "invalid"}[status]
    answer = refused(await client.post("/api/traces", content=body), status, code)
    if path is not None:
        assert answer["details"][0]["path"] == path


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"event":"a"}'),
        ("application/json", b'[{"event":"a"}]'),
        ("application/json; charset=utf-8", b'\n [{"event":"a"}\n]\n'),
        ("application/x-ndjson", b'{"event":"a"}'),
        ("application/x-ndjson", b'\n{"event":"a"}\r\n\n'),
        ("text/plain", b'{"event":"a"}\n'),
        ("text/plain", b'{\n"event":"a"}\n'),
        ("application/x-www-form-urlencoded", b'[{"event":"a"}]'),  # what curl -d says
        ("", b'{"event":"a"}\n'),
    ],
)
async def test_forms_of_a_body(server: Serving, client: httpx.AsyncClient, content_type: str, body: bytes) -> None:
    await make_trace(server.services.log, "forms")
    before = (await server.services.log.snapshot("forms")).state.last_event_id
    response = await post(client, "forms", body, **({"Content_Type": content_type} if content_type else {}))
    assert (response.status_code, response.json()) == (
        200,
        {"first_event_id": before + 1, "last_event_id": before + 1, "duplicates": 0},
    )
    two = await post(client, "forms", b'{"event":"a"}\n{"event":"b"}', Content_Type="application/x-ndjson")
    assert two.json()["last_event_id"] == before + 3


async def test_refused_appends_store_nothing(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "strict")
    goal = {"event": "goal_added", "goal": {"description": "x"}}
    for body, status, code, path in (
        (b"", 400, "bad_request", None),
        (b"{", 400, "bad_request", None),
        (b'{"event":NaN}', 400, "bad_request", None),
        (b'{"event":"a"}\n{', 400, "bad_request", None),
        ([], 422, "invalid_event", None),
        (7, 422, "invalid_event", "event"),
        ([thought(1), 7], 422, "invalid_event", "1.event"),
        ([{"event": "Bad"}], 422, "invalid_event", "event"),
        ([goal, {"event": "goal_added", "goal": {"description": 7}}], 422, "invalid_event", "1.goal.description"),
        ([{"event": "message_added", "message": {"role": "user"}}], 422, "invalid_event", "message.content"),
        ([{"event": "cancel_requested", "by": "x"}], 422, "reserved_event", "event"),
        (
            [goal, {"event": "goal_updated", "goal_id": "77", "patch": {"status": "completed"}}],
            422,
            "unknown_goal",
            None,
        ),
        ([{"event": "message_updated", "message_id": "m9", "append": "x"}], 422, "unknown_message", None),
        ([thought(1)] * 1001, 413, "too_large", None),
        ([thought(1), thought(1, 263_000)], 413, "too_large", None),
        (b"[" + b" " * (4 << 20) + b"]", 413, "too_large", None),
        (b'{"event":"a","v":' + b"[" * 300 + b"]" * 300 + b"}", 422, "invalid_event", None),
    ):
        answer = refused(await post(client, "strict", body), status, code)
        if path is not None:
            assert answer["details"][0]["path"] == path, answer
    assert await stored(log, "strict") == []
    refused(await post(client, "nobody", [thought(1)]), 404, "unknown_trace")


async def test_a_batch_names_the_event_at_fault(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "fault")
    bad = {"event": "goal_updated", "goal_id": "77", "patch": {"status": "completed"}}
    assert refused(await post(client, "fault", [thought(1), thought(2), bad]), 422, "unknown_goal")["index"] == 2


async def test_producers(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "prod")

    async def send(seq: str, count: int, producer: str = "p") -> httpx.Response:
        return await post(client, "prod", [thought(n) for n in range(count)], Producer_Id=producer, Producer_Seq=seq)

    assert (await send("1", 3)).json() == {"first_event_id": 1, "last_event_id": 3, "duplicates": 0}
    assert (await send("1", 3)).json() == {"first_event_id": None, "last_event_id": 3, "duplicates": 3}
    assert (await send("2", 4)).json() == {"first_event_id": 4, "last_event_id": 5, "duplicates": 2}
    assert (await send("1", 1, "other")).json() == {"first_event_id": 6, "last_event_id": 6, "duplicates": 0}
    assert refused(await send("7", 1), 409, "sequence_gap")["expected_seq"] == 6
    faults = {"0": 422, "-1": 422, "9" * 20: 422, "x": 400, "1.0": 400, "٣": 400, "": 400}
    for seq, status in faults.items():
        headers = {b"Producer-Id": b"p", b"Producer-Seq": seq.encode()}
        body = orjson.dumps([thought(1)])
        answer = await client.post("/api/traces/prod/events", content=body, headers=headers)
        refused(answer, status, "bad_request" if status == 400 else "invalid")
    refused(await post(client, "prod", [thought(1)], Producer_Id="p"), 422, "invalid")
    refused(await post(client, "prod", [thought(1)], Producer_Seq="1"), 422, "invalid")
    refused(await send("1", 1, "a b"), 422, "invalid")
    refused(await send("1", 1, "x" * 129), 422, "invalid")


async def test_conditional_appends(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "cond")
    assert (await post(client, "cond", [thought(1)], Expected_Last_Event_Id="0")).status_code == 200
    body = refused(
        await post(client, "cond", [thought(1)], Expected_Last_Event_Id="0"), 412, "unexpected_last_event_id"
    )
    assert body["last_event_id"] == 1
    refused(await post(client, "cond", [thought(1)], Expected_Last_Event_Id="x"), 400, "bad_request")
    answers = await asyncio.gather(*(post(client, "cond", [thought(1)], Expected_Last_Event_Id="1") for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7


async def test_a_trace_now_and_as_it_was(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "was")
    await log.append("was", [{"event": "goal_added", "goal": {"description": "a"}}])
    await append(log, "was", 3)
    await end(log, "was")
    now = (await client.get("/api/traces/was")).json()
    assert set(now) >= {"trace", "goal_tree", "sub_traces", "pending_inputs", "watchers"}
    assert (now["trace"]["status"], now["goal_tree"]["as_of_event_id"], now["watchers"]) == ("completed", 5, 0)
    then = (await client.get("/api/traces/was?at_event_id=1")).json()
    assert (then["trace"]["status"], then["goal_tree"]["as_of_event_id"]) == ("running", 1)
    assert (await client.get("/api/traces/was?at_event_id=0")).json()["goal_tree"]["goals"] == []
    body = refused(await client.get("/api/traces/was?at_event_id=6"), 410, "ahead")
    assert body["current_event_id"] == 5
    for bad, status, code in (("x", 400, "bad_request"), ("-1", 422, "invalid"), ("1e3", 400, "bad_request")):
        refused(await client.get(f"/api/traces/was?at_event_id={bad}"), status, code)
    refused(await client.get("/api/traces/nobody"), 404, "unknown_trace")
    refused(await client.get("/api/traces/%00%ff"), 404, "unknown_trace")


async def test_what_holds_state_names_its_history_and_the_servers_clock(
    server: Serving, client: httpx.AsyncClient
) -> None:
    log = server.services.log
    await make_trace(log, "held")
    await log.append("held", [{"event": "message_added", "message": {"role": "user", "content": "hi"}}])
    await log.append("held", [{"event": "input_requested", "question": "?"}])
    paths = ("", "/held", "/held/messages", "/held/messages/m1", "/held/inputs/r2")
    for path in (*(f"/api/traces{path}" for path in paths), "/api/traces?q=x", "/api/inputs", "/healthz"):
        before = parse_time(format_time(time.time()))  # in whole milliseconds
        answer = (await client.get(path)).json()
        assert answer["epoch"] == log.epoch, path
        assert before <= parse_time(answer["ts"]) <= time.time(), path


async def test_messages(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "said")
    for n in range(5):
        await log.append("said", [{"event": "message_added", "message": {"role": "user", "content": f"m{n}"}}])
    await log.append("said", [{"event": "message_updated", "message_id": "m2", "append": "!"}])
    answer = (await client.get("/api/traces/said/messages?limit=2")).json()
    assert ([m["content"] for m in answer["messages"]], answer["has_more"]) == (["m3", "m4"], True)
    answer = (await client.get("/api/traces/said/messages?before=4&limit=10")).json()
    assert ([m["content"] for m in answer["messages"]], answer["has_more"]) == (["m0", "m1!", "m2"], False)
    refused(await client.get("/api/traces/said/messages?limit=0"), 422, "invalid")
    await log.append(
        "said", [{"event": "message_added", "message": {"message_id": "a/b?", "role": "user", "content": 1}}]
    )
    for message_id, event_id, content in (("m2", 2, "m1!"), ("m5", 5, "m4"), ("a%2Fb%3F", 7, 1)):
        answer = (await client.get(f"/api/traces/said/messages/{message_id}")).json()
        assert (answer["event_id"], answer["message"]["content"]) == (event_id, content)
    asked = {"role": "assistant", "content": "m5", "message_id": "a", "request": {"input": [{"message_id": "m5"}, 7]}}
    await log.append("said", [{"event": "message_added", "message": asked}])
    answer = (await client.get("/api/traces/said/messages/a?prompt=1")).json()
    prompt = {"input": [{"role": "user", "content": "m4"}, 7], "exact": None, "lost": []}
    assert answer.keys() == {"trace_id", "event_id", "message", "prompt", "epoch", "ts"}
    assert (answer["event_id"], answer["prompt"], answer["message"]["message_id"]) == (8, prompt, "a")
    assert (await client.get("/api/traces/said/messages/m2?prompt=1")).json()["prompt"] is None
    assert "prompt" not in (await client.get("/api/traces/said/messages/a?prompt=0")).json()
    refused(await client.get("/api/traces/said/messages/a?prompt=2"), 422, "invalid")
    refused(await client.get("/api/traces/said/messages/m9?prompt=1"), 404, "unknown_message")
    refused(await client.get("/api/traces/said/messages/m9"), 404, "unknown_message")
    refused(await client.get("/api/traces/nobody/messages/m2"), 404, "unknown_trace")
    refused(await client.get("/api/traces/nobody/messages"), 404, "unknown_trace")


async def test_list(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        log = server.services.log
        for n in range(25):
            await make_trace(log, f"t{n:02}", agent_type="even" if n % 2 == 0 else "odd")
        await make_trace(log, "child", parent_trace_id="t03")
        await make_trace(log, "grandchild", parent_trace_id="child")
        await end(log, "t05", "failed")

        async def listed(query: str) -> list[str]:
            answer = (await client.get(f"/api/traces?{query}")).json()
            return [trace["trace_id"] for trace in answer["traces"]]

        found, token = [], ""
        while token is not None:
            answer = (await client.get(f"/api/traces?limit=10&page_token={token}")).json()
            found += [trace["trace_id"] for trace in answer["traces"]]
            token = answer["next_page_token"]
        assert found == ["grandchild", "child", *(f"t{n:02}" for n in reversed(range(25)))]
        assert await listed("status=failed") == ["t05"]
        assert await listed("status=failed,completed") == ["t05"]
        assert len(await listed("agent_type=even")) == 13
        assert await listed("parent_trace_id=t03") == ["child"]
        assert await listed("root_trace_id=t03") == ["grandchild", "child", "t03"]
        assert await listed("q=T05") == ["t05"]
        assert await listed("q=%25") == [] and await listed('q="') == []
        for bad, status, code in (
            ("status=dead", 422, "invalid"),
            ("limit=0", 422, "invalid"),
            ("limit=1001", 422, "invalid"),
            ("limit=x", 400, "bad_request"),
            ("page_token=x", 400, "bad_request"),
            ("page_token=-1", 400, "bad_request"),
            ("page_token=a2026-01-01T00:00:00.000Z_1", 422, "invalid"),
            ("order=newest", 422, "invalid"),
            ("tags=x", 422, "invalid"),
            ("agent_type=a&agent_type=b", 422, "invalid"),
            (f"tag={'x' * 257}", 422, "invalid"),
            ("&".join(f"tag={n}" for n in range(65)), 422, "invalid"),
            (f"error={'x' * 1001}", 422, "invalid"),
        ):
            refused(await client.get(f"/api/traces?{bad}"), status, code)


async def test_list_of_what_belongs_together(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "together-1", tags=["nightly", "eu west"], session_id="s-7", user_id="ann")
    await make_trace(log, "together-2", tags=["nightly"], session_id="s-7")
    message = {"role": "assistant", "content": "x", "model": "m/7"}
    await log.append("together-1", [{"event": "message_added", "message": message}])
    error = {"type": "TimeoutError", "message": "10 s passed"}
    await log.append("together-2", [{"event": "trace_completed", "status": "failed", "error": error}])

    async def listed(query: str) -> str:
        answer = await client.get(f"/api/traces?{query}")
        assert answer.status_code == 200, answer.text
        return " ".join(trace["trace_id"] for trace in answer.json()["traces"] if trace["trace_id"][:8] == "together")

    assert await listed("tag=nightly") == "together-2 together-1"
    assert await listed("tag=nightly&tag=eu+west") == "together-1"
    assert await listed("session_id=s-7&user_id=ann&model=m%2F7") == "together-1"
    assert await listed("error=*") == await listed("error=timeout") == "together-2"
    assert await listed("error=nothing") == await listed("session_id=s-7&model=m") == ""
    assert await listed("status=failed&status=running,lost") == "together-2 together-1"
    assert await listed("order=activity&session_id=s-7") == "together-2 together-1"
    assert await listed("tag=&session_id=&error=&session_id=s-7".replace("session_id=&", "")) == "together-2 together-1"
    refusal = (await client.get("/api/traces?tga=nightly")).json()
    assert refusal["message"].startswith("tga: is not known here; known are agent_type, error, filter, limit")
    assert refusal["details"][0]["path"] == "tga"
    api = Api(server.url)
    found = await asyncio.to_thread(api.traces, tag=["nightly", "eu west"], user_id="ann", order="activity")
    assert [trace["trace_id"] for trace in found["traces"]] == ["together-1"]
    found = await asyncio.to_thread(api.traces, tag="nightly", error="*", limit=1)
    assert [trace["trace_id"] for trace in found["traces"]] == ["together-2"]


async def test_delete_takes_sub_traces_along(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    for name, parent in (("d", None), ("d-a", "d"), ("d-b", "d-a")):
        await make_trace(log, name, parent_trace_id=parent)
    assert sorted((await client.delete("/api/traces/d")).json()["deleted"]) == ["d", "d-a", "d-b"]
    for name in ("d", "d-a", "d-b"):
        refused(await client.get(f"/api/traces/{name}"), 404, "unknown_trace")
    refused(await client.delete("/api/traces/d"), 404, "unknown_trace")


async def test_heartbeat(server: Serving, client: httpx.AsyncClient) -> None:
    await make_trace(server.services.log, "beat", lease_s=60)
    assert (await client.post("/api/traces/beat/heartbeat")).status_code == 200
    refused(await client.post("/api/traces/nobody/heartbeat"), 404, "unknown_trace")


async def test_import_round_trip(tmp_path: Path, server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "trip", agent_type="coder", metadata={"k": 1})
    await log.append("trip", [{"event": "goal_added", "goal": {"description": "é", "status": "in_progress"}}])
    await append(log, "trip", 20, size=50)
    await log.append("trip", [{"event": "message_added", "message": {"role": "user", "content": "x", "tokens": 5}}])
    await end(log, "trip")
    there = (await client.get("/api/traces/trip")).json()
    lines = [orjson.dumps({"trace": there["trace"]}), *(await stored(log, "trip"))]
    async with serving(tmp_path / "copy.db") as copy, http(copy) as other:
        half = await other.post("/api/import", content=b"\n".join(lines[:10]))
        assert half.status_code == 200, half.text
        assert (half.json()["last_event_id"], half.json()["duplicates"]) == (9, 0)
        whole = await other.post("/api/import", content=b"\n".join(lines) + b"\n")
        assert (whole.json()["first_event_id"], whole.json()["duplicates"]) == (10, 9)
        assert await stored(copy.services.log, "trip") == lines[1:]
        back = (await other.get("/api/traces/trip")).json()
        for key in ("trace", "goal_tree"):
            assert back[key] == there[key]
        changed = [lines[0], lines[1].replace("é".encode(), b"e"), *lines[2:]]
        refused(await other.post("/api/import", content=b"\n".join(changed)), 409, "trace_conflict")
        hole = [lines[0].replace(b'"trip"', b'"hole"'), *(line.replace(b'"trip"', b'"hole"') for line in lines[2:])]
        refused(await other.post("/api/import", content=b"\n".join(hole)), 422, "invalid_event")
        for bad, status in ((b"", 400), (b"{}", 400), (lines[1], 400), (b"{", 400), (b'{"trace":7}', 422)):
            assert (await other.post("/api/import", content=bad)).status_code == status, bad


async def test_nobody_looks_for_nan_in_what_was_json(
    server: Serving, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON has no NaN, and nearly every message holds a null: the look went through all of its values in Python."""

    def looked(value: object) -> bool:
        raise AssertionError(f"looked through {value!r}")

    await make_trace(server.services.log, "no-nan")
    monkeypatch.setattr("tracewatch.model.canonical._holds_nan", looked)
    event = {"event": "message_added", "message": {"role": "user", "content": [None, 0.5], "goal_id": None}}
    response = await client.post("/api/traces/no-nan/events", json=[event])
    assert response.status_code == 200, response.text
    async with socket(server, "/api/traces/no-nan/record") as watch:
        await watch.frame()
        await watch.say({"append": {"events": [event]}})
        assert "ack" in await watch.frame()
