"""Questions of an agent: the first answer arrives, once and checked, whatever happens in between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from tests.client.asked import answer, open_question, polled, status
from tests.client.proxy import proxy
from tests.client.test_record import events
from tests.support import DEADLINE_S, ServerProcess, free_port, serving, until
from tracewatch import Cancelled, Expired
from tracewatch.client.api import Api
from tracewatch.client.control import Told
from tracewatch.client.errors import ApiError
from tracewatch.client.trace import Trace
from tracewatch.errors import InvalidValue, NotRunning
from tracewatch.log import open_log

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]


class Plan(BaseModel):
    """An answer with a form."""

    branch: str
    days: int

    @field_validator("branch")
    @classmethod
    def _known(cls, value: str) -> str:
        if value == "nowhere":
            raise ValueError("no such branch")
        return value


def asking(t: Trace, *args: Any, **options: Any) -> asyncio.Task[Any]:
    """``t.ask`` in a thread, as code without a loop has it; one that fails must not keep the test from ending."""
    options.setdefault("timeout_s", DEADLINE_S)
    return asyncio.create_task(asyncio.to_thread(t.ask, *args, **options))


async def done(task: asyncio.Task[Any]) -> Any:
    return await asyncio.wait_for(task, DEADLINE_S)


# --- the plain way ---


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_the_answer_is_returned_and_the_trace_waits_meanwhile(tmp_path: Path, new_trace: New, how: str) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url) as t:
            with t.goal("Deploy") as goal:
                given: dict[str, Any] = {"options": ["yes", "no"], "expires_in_s": 3600}
                question = "Deploy to production?"
                task = (
                    asking(t, question, **given)
                    if how == "sync"
                    else asyncio.create_task(t.aask(question, goal=goal, **given))
                )
                asked = await open_question(server.url, t.trace_id)
                assert (asked["question"], asked["options"]) == (question, ["yes", "no"])
                assert asked["goal_id"] == goal.id and asked["expires_at"] > asked["requested_at"]
                assert await status(server.url, t.trace_id) == "waiting"
                assert not task.done()
                assert await answer(server.url, t.trace_id, "yes", by="ann") == asked["request_id"]
                assert await done(task) == "yes"
        assert await t.aflush()
        said = [e["event"] for e in await events(server.url, t.trace_id)]
        assert said == [
            *("goal_added", "input_requested", "input_provided", "goal_updated", "trace_completed"),
        ]


async def test_any_json_is_an_answer(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        value: Any
        for value in (None, False, 0, "", [], {"a": [1]}):
            task = asking(t, "What?")
            await answer(server.url, t.trace_id, value)
            assert await done(task) == value


async def test_a_structured_answer_is_a_model(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        task = asking(t, "Where and how long?", schema=Plan)
        with pytest.raises(ApiError) as refused:
            await answer(server.url, t.trace_id, {"branch": "main"})
        assert (refused.value.status, refused.value.code) == (422, "invalid_value")
        await answer(server.url, t.trace_id, {"branch": "main", "days": 2})
        assert await done(task) == Plan(branch="main", days=2)
        task = asking(t, "Once more?", schema=Plan)
        await answer(server.url, t.trace_id, {"branch": "nowhere", "days": 2})
        with pytest.raises(InvalidValue, match="no such branch"):
            await done(task)
        task = asking(t, "How many?", schema={"type": "integer"})
        await answer(server.url, t.trace_id, 3)
        assert await done(task) == 3


async def test_two_answerers_at_once(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        task = asking(t, "Who?")
        request_id = (await open_question(server.url, t.trace_id))["request_id"]
        ready = threading.Barrier(3)

        def give(name: str) -> str:
            ready.wait(DEADLINE_S)
            try:
                Api(server.url).answer(t.trace_id, request_id, name, by=name)
            except ApiError as error:
                return error.code
            return name

        said = await asyncio.gather(*(asyncio.to_thread(give, f"n{n}") for n in range(3)))
        winners = [one for one in said if one != "already_answered"]
        assert len(winners) == 1
        assert await done(task) == winners[0]


async def test_nobody_answers(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        with pytest.raises(Expired):
            await done(asking(t, "Anybody?", expires_in_s=0.2))
        with pytest.raises(Expired):
            await asyncio.wait_for(t.aask("Anybody?", expires_in_s=0.2), DEADLINE_S)
        assert [e["request_id"][-2:] for e in await events(server.url, t.trace_id)].count(".2") == 2


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_cancelled_while_it_waits(tmp_path: Path, new_trace: New, how: str) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        task = asking(t, "Go on?") if how == "sync" else asyncio.create_task(t.aask("Go on?"))
        await open_question(server.url, t.trace_id)
        await asyncio.to_thread(Api(server.url).cancel, t.trace_id, "no")
        with pytest.raises(Cancelled, match="no"):
            await done(task)
        t.stop()
        assert await t.aflush()
        assert (await asyncio.to_thread(Api(server.url).inputs))["inputs"] == []


async def test_waiting_no_longer_leaves_the_question_open(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        with pytest.raises(TimeoutError):
            await done(asking(t, "Quick?", request_id="quick", timeout_s=0.05))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(t.aask("Quick?", request_id="quick", timeout_s=0.05), DEADLINE_S)
        await answer(server.url, t.trace_id, "late")
        assert await done(asking(t, "Quick?", request_id="quick")) == "late"


async def test_a_task_that_is_cancelled_waits_no_longer(new_trace: New) -> None:
    t = new_trace("http://127.0.0.1:1")
    task = asyncio.create_task(t.aask("?"))
    await until(lambda: t._outbox.control.waiting)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert t._outbox.control.waiting == {} and t._outbox.control._listeners == {}


# --- the same question ---


async def test_the_same_id_is_the_same_question(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        tasks = [asking(t, "Deploy?", request_id="deploy") for _ in range(3)]
        assert await answer(server.url, t.trace_id, "yes") == "deploy"
        assert [await done(task) for task in tasks] == ["yes"] * 3
        assert await done(asking(t, "Deploy?", request_id="deploy")) == "yes"
        assert [e["event"] for e in await events(server.url, t.trace_id)] == ["input_requested", "input_provided"]


async def test_the_same_text_again_is_another_question(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        ids = []
        for n in range(3):
            task = asking(t, "Next batch?")
            ids.append(await answer(server.url, t.trace_id, n))
            assert await done(task) == n
        assert ids == [ids[0], f"{ids[0]}.2", f"{ids[0]}.3"]


async def test_two_recorders_of_a_trace_share_a_named_question(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        both = [new_trace(server.url, trace_id="shared") for _ in range(2)]
        for t in both:
            t.event("step")
            assert await t.aflush()
        tasks = [asking(t, "Deploy?", request_id="deploy") for t in both]  # neither can know of the other's
        await answer(server.url, "shared", "yes")
        assert [await done(task) for task in tasks] == ["yes", "yes"]
        said = [e["event"] for e in await events(server.url, "shared")]
        assert said.count("input_requested") == 1 and "recorder_refused" not in said


async def test_an_answer_that_was_told_of_without_its_value_is_asked_for(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        first = new_trace(server.url, trace_id="t")
        task = asking(first, "Deploy?", request_id="deploy")
        await answer(server.url, "t", "yes")
        await done(task)
        t = new_trace(server.url, trace_id="t")
        t.event("step")
        assert await t.aflush()
        t._outbox.control.inputs.clear()
        t._outbox.control.told(Told(inputs=[{"request_id": "deploy", "state": "answered"}]))
        assert await done(asking(t, "Deploy?", request_id="deploy")) == "yes"


async def test_a_question_the_server_refuses_is_an_error_and_not_a_wait_for_ever(
    tmp_path: Path, new_trace: New
) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        with pytest.raises(ApiError) as refused:
            await done(asking(t, "What?", request_id="r77"))
        assert refused.value.code == "invalid_event"
        with pytest.raises(ApiError):
            await done(asking(t, "What?", expires_in_s=0))


async def test_a_trace_that_has_ended_asks_nobody(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url, lease_s=1) as t:
            task = asking(t, "Anybody?")
            await open_question(server.url, t.trace_id)
            end = [{"event": "trace_completed", "status": "failed"}]
            await asyncio.to_thread(Api(server.url).append, t.trace_id, end)
            with pytest.raises(NotRunning):
                await done(task)
        with pytest.raises(NotRunning):
            t.ask("Anybody?")


# --- what goes wrong in between ---


async def test_asked_while_no_server_is_there(tmp_path: Path, new_trace: New) -> None:
    server = ServerProcess(tmp_path / "t.db")
    t = new_trace(server.url)
    task = asking(t, "Anybody?")
    await until(lambda: t.pending == 1)
    with server:
        await answer(server.url, t.trace_id, "here")
        assert await done(task) == "here"


@pytest.mark.crash
async def test_the_server_dies_between_question_and_answer_and_before_the_delivery(
    tmp_path: Path, new_trace: New
) -> None:
    with ServerProcess(tmp_path / "t.db") as server:
        async with proxy(server.url) as line:
            t = new_trace(line.url)
            task = asking(t, "Deploy?", options=["yes", "no"])
            await open_question(server.url, t.trace_id)
            server.kill()
            await asyncio.to_thread(server.start)
            line.refuse = True  # so that the answer can't be delivered yet
            line.cut()
            await answer(server.url, t.trace_id, "yes")
            server.kill()
            await asyncio.to_thread(server.start)
            assert not task.done()
            line.refuse = False
            assert await done(task) == "yes"
            said = [e["event"] for e in await events(server.url, t.trace_id)]
            assert (said.count("input_requested"), said.count("input_provided")) == (1, 1)


async def test_a_command_that_goes_astray_is_only_late(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url, lease_s=0.6)
        task = asking(t, "Deploy?")
        request_id = (await open_question(server.url, t.trace_id))["request_id"]
        control = t._outbox.control
        control.told = lambda *_, **__: None  # type: ignore[method-assign]
        await answer(server.url, t.trace_id, "yes")
        await asyncio.to_thread(Api(server.url).append, t.trace_id, [{"event": "x"}])
        del control.told
        assert control.inputs[request_id]["state"] != "answered"
        assert await done(task) == "yes"


async def test_whoever_waits_keeps_the_lease(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        waits, idles = new_trace(server.url, lease_s=1), new_trace(server.url, lease_s=1)
        task = asking(waits, "Anybody?")
        idles.event("step")
        await open_question(server.url, waits.trace_id)
        # A trace with the same lease that nobody renews: when it is lost twice over, the others have been renewed
        api = Api(server.url)
        for name in ("first", "second"):
            await asyncio.to_thread(api.create_trace, {"trace_id": name, "task": "x", "lease_s": 1})
            await polled(lambda name=name: api.trace(name)["trace"]["status"] == "lost")  # type: ignore[misc]
        assert await status(server.url, waits.trace_id) == "waiting"
        assert await status(server.url, idles.trace_id) == "running"
        assert not [e for e in await events(server.url, waits.trace_id) if e["event"] == "trace_status_changed"]
        await answer(server.url, waits.trace_id, "yes")
        await done(task)


async def test_many_wait_at_once_and_none_keeps_the_processor_busy(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        tasks = [asyncio.create_task(t.aask(f"Number {n}?", request_id=f"q{n}")) for n in range(50)]
        await polled(lambda: len(Api(server.url).inputs()["inputs"]) == 50)
        for n in range(50):
            await asyncio.to_thread(Api(server.url).answer, t.trace_id, f"q{n}", n)
        assert [await done(task) for task in tasks] == list(range(50))


# --- into a file ---


async def test_a_recorder_that_writes_into_a_file_asks_too(tmp_path: Path, new_trace: New) -> None:
    path = tmp_path / "t.db"
    t = new_trace(f"sqlite:///{path}")
    task = asking(t, "Deploy?")
    async with serving(path) as server:  # comes later, on the same file
        await answer(server.url, t.trace_id, "yes")
        assert await done(task) == "yes"


async def test_in_a_file_without_a_server_questions_expire_all_the_same(tmp_path: Path, new_trace: New) -> None:
    t = new_trace(f"sqlite:///{tmp_path / 't.db'}")
    with pytest.raises(Expired):
        await done(asking(t, "Anybody?", expires_in_s=0.2))
    log = await open_log(str(tmp_path / "t.db"))
    try:
        assert [one["state"] for one in await log.inputs_of(t.trace_id)] == ["expired"]
    finally:
        await log.close()


async def test_without_a_server_waiting_can_be_limited(new_trace: New) -> None:
    t = new_trace(f"http://127.0.0.1:{free_port()}", trace_id="t")
    with pytest.raises(TimeoutError):
        t.ask("Anybody?", timeout_s=0.05)
    with pytest.raises(TimeoutError):
        await t.aask("Anybody?", timeout_s=0.05)
