"""Servers that are killed between a question and its answer, an answer and its delivery, a cancel and its
acknowledgement, and in the middle of a storm of commands. An acknowledged command is in the log, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.log.helpers import check_trace, events, opened
from tests.server.wire import Watch, http, socket
from tests.support import DEADLINE_S, ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
Json = dict[str, Any]
ASK = {"event": "input_requested", "request_id": "q", "question": "Deploy?", "options": ["yes", "no"]}


@contextlib.asynccontextmanager
async def waiting_trace(db: Path) -> AsyncIterator[tuple[ServerProcess, httpx.AsyncClient]]:
    """A server, and a trace ``t`` whose recorder has asked ``q`` and gone."""
    with ServerProcess(db) as server:
        async with http(server.url) as client:
            await client.post("/api/traces", json={"trace_id": "t", "task": "x", "lease_s": 600})
            assert (await client.post("/api/traces/t/events", json=ASK)).status_code == 200
            yield server, client


async def restart(server: ServerProcess) -> None:
    server.kill()
    await asyncio.to_thread(server.start)


async def ready(recorder: Watch) -> Json:
    value: Json = (await recorder.frame())["ready"]
    return value


async def event(recorder: Watch, name: str) -> Json:
    while True:
        frame = await recorder.frame()
        if frame.get("event") == name:
            return frame


def recording(server: ServerProcess) -> Any:
    return socket(server.ws_url, "/api/traces/t/record")


async def test_between_question_and_answer(tmp_path: Path) -> None:
    async with waiting_trace(tmp_path / "log.db") as (server, client):
        await restart(server)
        inbox = (await client.get("/api/inputs")).json()["inputs"]
        assert [(one["trace_id"], one["request_id"], one["options"]) for one in inbox] == [("t", "q", ["yes", "no"])]
        assert (await client.get("/api/traces/t")).json()["trace"]["status"] == "waiting"
        async with recording(server) as recorder:
            assert [one["state"] for one in (await ready(recorder))["inputs"]] == ["open"]
            assert (await client.post("/api/traces/t/inputs/q", json={"value": "yes"})).status_code == 200
            assert (await event(recorder, "input_provided"))["value"] == "yes"


async def test_between_answer_and_delivery(tmp_path: Path) -> None:
    async with waiting_trace(tmp_path / "log.db") as (server, client):
        assert (await client.post("/api/traces/t/inputs/q", json={"value": "yes", "by": "me"})).status_code == 200
        await restart(server)
        async with recording(server) as recorder:
            inputs = (await ready(recorder))["inputs"]
            assert inputs == [{"request_id": "q", "state": "answered", "value": "yes", "by": "me"}]
        again = await client.post("/api/traces/t/inputs/q", json={"value": "no"})
        assert again.json()["error"] == "already_answered"


async def test_the_server_that_took_the_command_dies(tmp_path: Path) -> None:
    """The recorder is attached to another one, which hears of it from the file."""
    async with waiting_trace(tmp_path / "log.db") as (server, client):
        with ServerProcess(tmp_path / "log.db") as other:
            async with recording(other) as recorder:
                await ready(recorder)
                assert (await client.post("/api/traces/t/inputs/q", json={"value": "no"})).status_code == 200
                assert (await client.post("/api/traces/t/cancel", json={"reason": "r"})).status_code == 202
                server.kill()
                assert (await event(recorder, "input_provided"))["value"] == "no"
                assert (await event(recorder, "cancel_requested"))["reason"] == "r"


async def test_between_cancel_and_acknowledgement(tmp_path: Path) -> None:
    async with waiting_trace(tmp_path / "log.db") as (server, client):
        assert (await client.post("/api/traces/t/cancel", json={"reason": "r", "by": "me"})).status_code == 202
        await restart(server)
        assert (await client.post("/api/traces/t/cancel")).json()["status"] == "cancelling"
        async with recording(server) as recorder:
            assert (await ready(recorder))["cancel_requested"] == {"reason": "r", "by": "me"}
            await recorder.say({"append": {"events": [{"event": "trace_completed", "status": "stopped"}]}})
            assert "ack" in await recorder.frame()
        await restart(server)
        trace = (await client.get("/api/traces/t")).json()["trace"]
        assert trace["status"] == "stopped"
        assert (await client.get("/api/traces/t/inputs/q")).json()["state"] == "closed"
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as log:
        assert [one["event"] for one in await events(log)] == [
            *("input_requested", "cancel_requested"),
            "trace_completed",
        ]


async def insist(client: httpx.AsyncClient, path: str, body: Json, stop: asyncio.Event) -> tuple[int, str] | None:
    """Post until it is answered, as somebody would who does not know whether it arrived."""
    while not stop.is_set():
        try:
            answer = await client.post(path, json=body)
        except httpx.TransportError:
            await asyncio.sleep(0.02)  # it is down: nothing to wait on but time
            continue
        return answer.status_code, answer.json().get("error", "ok")
    return None


async def test_in_a_storm_of_commands(tmp_path: Path) -> None:
    """Two servers, killed in turn, while many answer the same questions and cancel the same traces."""
    db, count, rounds = tmp_path / "log.db", 6, 4
    dice = random.Random(4)
    async with opened(f"sqlite:///{db}") as log:
        with ServerProcess(db) as one, ServerProcess(db) as two:
            async with http(one.url) as first, http(two.url) as second:
                for turn in range(rounds):
                    ids = [f"t{turn}.{n}" for n in range(count)]
                    for trace_id in ids:
                        await second.post("/api/traces", json={"trace_id": trace_id, "task": "x"})
                        await second.post(f"/api/traces/{trace_id}/events", json=ASK)
                    answers = await storm(ids, (first, second), one if turn % 2 else two, dice.uniform(0, 0.05))
                    for trace_id in ids:
                        await check(log, trace_id, answers[trace_id])


async def storm(
    ids: list[str], clients: tuple[httpx.AsyncClient, ...], victim: ServerProcess, after_s: float
) -> dict[str, list[tuple[int, str] | None]]:
    stop = asyncio.Event()
    work: dict[str, list[asyncio.Task[Any]]] = {trace_id: [] for trace_id in ids}
    for trace_id in ids:
        for n, client in enumerate(clients * 2):
            body = {"value": ["yes", "no"][n % 2], "by": str(n)}
            answer = insist(client, f"/api/traces/{trace_id}/inputs/q", body, stop)
            cancel = insist(client, f"/api/traces/{trace_id}/cancel", {}, stop)
            work[trace_id] += [asyncio.create_task(answer), asyncio.create_task(cancel)]
    await asyncio.sleep(after_s)
    await restart(victim)
    async with asyncio.timeout(DEADLINE_S):
        done = {trace_id: [await task for task in tasks] for trace_id, tasks in work.items()}
    stop.set()
    return done


async def check(log: Any, trace_id: str, outcomes: list[tuple[int, str] | None]) -> None:
    stored = await events(log, trace_id)
    assert sorted(one["event"] for one in stored) == ["cancel_requested", "input_provided", "input_requested"]
    winners = [n for n, outcome in enumerate(outcomes[::2]) if outcome == (200, "ok")]
    by = next(one["by"] for one in stored if one["event"] == "input_provided")
    assert winners in ([], [int(by)]), "nobody but the first was told so; it, too, may not have heard"
    assert {outcome for outcome in outcomes[::2] if outcome != (200, "ok")} <= {(409, "already_answered")}
    assert set(outcomes[1::2]) == {(202, "ok")}
    await check_trace(log, trace_id)
