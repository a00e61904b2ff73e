"""A cancel reaches the agent through every trouble of the connection, and ends the code that the agent allows it to."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.client.proxy import proxy
from tests.client.test_record import events
from tests.support import DEADLINE_S, ServerProcess, serving, until
from tracewatch import Cancelled
from tracewatch.client.api import Api
from tracewatch.client.errors import ApiError
from tracewatch.client.trace import Trace
from tracewatch.client.watch import watch
from tracewatch.log import open_log

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]
Test = Callable[..., Coroutine[Any, Any, None]]


def in_own_task(test: Test) -> Test:
    """Tests share a task, and until Python 3.12 a TaskGroup that fails may leave a cancel request counted on it,
    which then keeps ``asyncio.timeout`` from telling its own cancellation."""

    @functools.wraps(test)
    async def alone(*args: Any, **kwargs: Any) -> None:
        await asyncio.create_task(test(*args, **kwargs))

    return alone


async def status_of(url: str, t: Trace) -> str:
    """The trace's status once all that was recorded is there."""
    assert await t.aflush()
    return str((await asyncio.to_thread(Api(url).trace, t.trace_id))["trace"]["status"])


async def cancel(url: str, t: Trace, **said: Any) -> str:
    return str((await asyncio.to_thread(lambda: Api(url).cancel(t.trace_id, **said)))["status"])


async def soon(t: Trace) -> None:
    """The cancel has come."""
    await asyncio.wait_for(t.cancelled.wait(), DEADLINE_S)


@in_own_task
async def test_a_cancel_reaches_the_agent_and_its_end_is_the_acknowledgement(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url) as t:
            assert await t.aflush()
            assert not t.cancelled
            t.raise_if_cancelled()
            assert await cancel(server.url, t, reason="wrong branch", by="ann") == "cancelling"
            await soon(t)
            assert t.cancelled and (t.cancelled.reason, t.cancelled.by) == ("wrong branch", "ann")
            assert await status_of(server.url, t) == "running"
            with pytest.raises(Cancelled, match="cancelled by ann: wrong branch"):
                t.raise_if_cancelled()
        assert await status_of(server.url, t) == "stopped"
        trace = (await asyncio.to_thread(Api(server.url).trace, t.trace_id))["trace"]
        assert trace["summary"] == "cancelled by ann: wrong branch"
        with pytest.raises(ApiError) as refused:
            await cancel(server.url, t)
        assert (refused.value.status, refused.value.code) == (409, "not_running")


@in_own_task
async def test_a_cancelled_that_passes_ends_the_trace_as_stopped(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        with pytest.raises(Cancelled):
            with t, t.goal("work") as goal:
                assert await t.aflush()
                await cancel(server.url, t)
                await soon(t)
                try:
                    t.raise_if_cancelled()
                except Exception:
                    pytest.fail("an agent's except Exception took the cancel")
        assert await status_of(server.url, t) == "stopped"
        found = await asyncio.to_thread(Api(server.url).trace, t.trace_id)
        assert [(g["id"], g["status"]) for g in found["goal_tree"]["goals"]] == [(goal.id, "abandoned")]


@in_own_task
async def test_an_agent_that_never_looks_is_complete(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url) as t:
            assert await t.aflush()
            await cancel(server.url, t)
            await until(lambda: t._outbox.control.cancel)
        assert await status_of(server.url, t) == "completed"


# --- whenever it is said ---


@in_own_task
async def test_a_cancel_before_the_recorder_came(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        await asyncio.to_thread(Api(server.url).create_trace, {"trace_id": "t", "task": "task"})
        t = new_trace(server.url, trace_id="t")
        assert await cancel(server.url, t, reason="early") == "cancelling"
        with t:
            await soon(t)
            assert t.cancelled.reason == "early"
        assert await status_of(server.url, t) == "stopped"


@in_own_task
async def test_a_cancel_while_the_line_is_down(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as line:
        with new_trace(line.url) as t:
            assert await t.aflush()
            line.refuse = True
            line.cut()
            assert await cancel(server.url, t, reason="away") == "cancelling"
            line.refuse = False
            await soon(t)
            assert t.cancelled.reason == "away"
        assert await status_of(server.url, t) == "stopped"


@in_own_task
async def test_a_cancel_that_ended_the_trace_while_its_recorder_was_thought_gone(
    tmp_path: Path, new_trace: New
) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as line:
        t = new_trace(line.url, lease_s=1)
        t.event("step", n=1)
        assert await t.aflush()
        line.refuse = True
        line.cut()
        async with asyncio.timeout(DEADLINE_S), watch(t.trace_id, url=server.url) as watching:
            async for event in watching:
                if event.get("status") == "lost":
                    break
        assert await cancel(server.url, t) == "stopped"
        line.refuse = False
        await soon(t)
        with t:
            pass
        assert await status_of(server.url, t) == "stopped"


@in_own_task
async def test_a_cancel_survives_the_server(tmp_path: Path, new_trace: New) -> None:
    with ServerProcess(tmp_path / "t.db") as server:
        async with proxy(server.url) as line:
            t = new_trace(line.url)
            t.event("step", n=1)
            assert await t.aflush()
            line.refuse = True
            line.cut()
            assert await cancel(server.url, t, reason="kept") == "cancelling"
            server.kill()
            await asyncio.to_thread(server.start)
            line.refuse = False
            await soon(t)
            assert t.cancelled.reason == "kept"
            with t:
                pass
            assert await status_of(server.url, t) == "stopped"


@in_own_task
async def test_a_cancel_for_a_recorder_that_writes_into_a_file(tmp_path: Path, new_trace: New) -> None:
    path = tmp_path / "t.db"
    with new_trace(f"sqlite:///{path}") as t:
        assert await t.aflush()
        log = await open_log(str(path))
        try:
            t.event("step", n=1)  # its own events hide nobody's command
            assert await log.cancel(t.trace_id, reason="from outside") == "cancelling"
            t.event("step", n=2)
            await soon(t)
            assert t.cancelled.reason == "from outside"
            with pytest.raises(Cancelled):
                t.raise_if_cancelled()
        finally:
            await log.close()


@in_own_task
async def test_every_recorder_of_a_trace_and_those_of_its_sub_traces_are_told(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        both = [new_trace(server.url, trace_id="shared") for _ in range(2)]
        children = [t.sub_trace("child") for t in both]
        grandchild = children[0].sub_trace("grandchild")
        for t in (*both, *children, grandchild):
            assert await t.aflush()
        await cancel(server.url, both[0], by="ann")
        for t in (*both, *children, grandchild):
            await soon(t)
            assert t.cancelled.by == "ann"
        assert both[0].sub_trace("late").cancelled


# --- scopes ---


@in_own_task
async def test_a_scope_ends_what_a_task_awaits(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        steps = []
        with pytest.raises(Cancelled, match="enough"):
            async with t:
                assert await t.aflush()
                async with t.cancel_scope():
                    steps.append("in")
                    try:
                        await cancel(server.url, t, reason="enough")  # which may be told before this returns
                        await asyncio.sleep(60)
                    finally:
                        steps.append("cleaned up")
        assert steps == ["in", "cleaned up"]
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0
        assert await status_of(server.url, t) == "stopped"


@in_own_task
async def test_a_scope_around_a_group_of_tasks(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        with pytest.raises(Cancelled):
            with t, t.cancel_scope():
                assert await t.aflush()
                async with asyncio.TaskGroup() as group:
                    for _ in range(3):
                        group.create_task(asyncio.sleep(60))
                    await cancel(server.url, t)
        assert await status_of(server.url, t) == "stopped"


@in_own_task
async def test_cancelled_in_a_group_of_tasks_ends_the_trace_as_stopped(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)

        async def work() -> None:
            await t.cancelled.wait()
            t.raise_if_cancelled()

        with pytest.raises(BaseExceptionGroup):
            async with t:
                assert await t.aflush()
                async with asyncio.TaskGroup() as group:
                    group.create_task(work())
                    await cancel(server.url, t)
        assert await status_of(server.url, t) == "stopped"


@in_own_task
async def test_somebody_elses_cancellation_stays_one(tmp_path: Path, new_trace: New) -> None:
    t = new_trace("http://127.0.0.1:1")

    async def work() -> None:
        async with t.cancel_scope():
            entered.set()
            await asyncio.sleep(60)

    entered = asyncio.Event()
    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    t._outbox.control.cancelled_by({})
    with pytest.raises(asyncio.CancelledError):
        await task


@in_own_task
async def test_a_timeout_within_a_scope_and_a_scope_within_a_timeout(new_trace: New) -> None:
    t = new_trace("http://127.0.0.1:1")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), t.cancel_scope():
            await asyncio.sleep(60)
    with pytest.raises(Cancelled):
        async with t.cancel_scope(), asyncio.timeout(60):
            t._outbox.control.cancelled_by({"reason": "now"})
            await asyncio.sleep(60)
    with pytest.raises(Cancelled, match="now"):
        async with t.cancel_scope():
            pytest.fail("entered a scope of a cancelled trace")


def test_in_sync_code_the_next_call_raises_and_what_finally_records_is_recorded(new_trace: New) -> None:
    t = new_trace("http://127.0.0.1:1")
    with pytest.raises(Cancelled):
        with t.cancel_scope():
            t.event("before")
            t._outbox.control.cancelled_by({})
            try:
                t.tool_call("rm")
                pytest.fail("a tool of a cancelled run was called")
            finally:
                t.event("cleaned_up")
    t.event("outside")  # no scope, no exception
    said = [body[10:30].split(b'"')[0] for body in t._outbox.take(1, 10, 10_000)]
    assert said == [b"before", b"cleaned_up", b"outside"]


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.goal("g"),
        lambda t: t.add_goal("g"),
        lambda t: t.message("user", "hi"),
        lambda t: t.tool_call("x"),
        lambda t: t.event("x"),
        lambda t: t.sub_trace("x"),
        lambda t: t.raise_if_cancelled(),
        lambda t: t.ask("?"),
    ],
)
def test_every_call_that_begins_something_raises_in_a_scope(new_trace: New, call: Callable[[Trace], Any]) -> None:
    t = new_trace("http://127.0.0.1:1")
    with pytest.raises(Cancelled), t.cancel_scope():
        t._outbox.control.cancelled_by({})
        call(t)
    assert t.pending == 0


def test_a_scope_is_that_of_its_thread_and_its_trace(new_trace: New) -> None:
    t, other = new_trace("http://127.0.0.1:1"), new_trace("http://127.0.0.1:1")
    faults: list[BaseException] = []

    def elsewhere() -> None:
        try:
            t.event("x")
        except BaseException as error:
            faults.append(error)

    with pytest.raises(Cancelled):
        with t.cancel_scope():
            t._outbox.control.cancelled_by({})
            other.event("x")
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join(DEADLINE_S)
            assert faults == []
            t.event("x")


@in_own_task
async def test_a_tool_that_blocks_the_thread_sees_the_flag_when_it_looks(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        looked: list[bool] = []

        def agent() -> None:
            with t:
                with t.tool_call("slow"):
                    working.set()
                    looked.append(t.cancelled.wait_sync(DEADLINE_S))  # what a sleep would be in a run without cancel
                    looked.append(bool(t.cancelled))

        working = threading.Event()
        thread = threading.Thread(target=agent)
        thread.start()
        await asyncio.to_thread(working.wait, DEADLINE_S)
        assert await t.aflush()
        await cancel(server.url, t)
        await asyncio.to_thread(thread.join, DEADLINE_S)
        assert looked == [True, True]
        assert await status_of(server.url, t) == "stopped"
        tool = [e for e in await events(server.url, t.trace_id) if e["event"] == "message_updated"][-1]
        assert tool["patch"]["status"] == "complete"


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("t.raise_if_cancelled()", 130, "tracewatch: cancelled by ann: enough\n"),
        ("raise BaseExceptionGroup('tasks', [seen(), seen()])", 130, "tracewatch: cancelled by ann: enough\n"),
        ("seen(); raise KeyError('own')", 1, "KeyError: 'own'\n"),
        ("raise BaseExceptionGroup('tasks', [seen(), KeyError('own')])", 1, "KeyError: 'own'\n"),
        ("asyncio.run(waits())", 130, "tracewatch: cancelled by ann: enough\n"),
        ("asyncio.run(in_a_group())", 130, "tracewatch: cancelled by ann: enough\n"),
        ("run = threading.Thread(target=t.raise_if_cancelled, name='work'); run.start(); run.join()", 0, "work: canc"),
        ("console.runcode('t.raise_if_cancelled()')", 0, "tracewatch: cancelled by ann: enough\n"),
        ("sys.orig_argv.clear(); t.raise_if_cancelled()", 1, "tracewatch: cancelled by ann: enough\n"),
    ],
)
def test_a_cancel_that_nobody_catches_is_a_line_and_130(code: str, status: int, said: str, tmp_path: Path) -> None:
    script = f"""
import asyncio, code, sys, threading
import tracewatch
async def waits():
    async with t.cancel_scope():
        await asyncio.sleep(60)
async def in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(waits())
        group.create_task(waits())
def seen():
    try:
        t.raise_if_cancelled()
    except tracewatch.Cancelled as error:
        return error
with tracewatch.trace("x") as t:
    t._outbox.control.cancelled_by({{"reason": "enough", "by": "ann"}})
    console = code.InteractiveInterpreter({{"t": t}})
    {code}
"""
    env = {**os.environ, "TRACEWATCH_URL": f"sqlite:///{tmp_path}/t.db", "TRACEWATCH_SPOOL_DIR": str(tmp_path / "s")}
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, said in ended.stderr) == (status, True)
    assert ("Traceback" in ended.stderr) == ("KeyError" in said)


def test_waiting_for_a_cancel_that_does_not_come(new_trace: New) -> None:
    assert new_trace("http://127.0.0.1:1").cancelled.wait_sync(0.01) is False


# --- callbacks ---


@in_own_task
async def test_callbacks_are_called_once_and_their_faults_are_their_own(
    new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    t = new_trace("http://127.0.0.1:1")
    called: list[str] = []
    done = threading.Event()

    def broken() -> None:
        called.append("broken")
        raise ValueError("mine")

    forget = t.on_cancel(lambda: called.append("taken back"))
    forget()
    t.on_cancel(broken)
    t.on_cancel(lambda: called.append(threading.current_thread().name))
    t.on_cancel(done.set)
    for _ in range(2):
        t._outbox.control.cancelled_by({})
    assert await asyncio.to_thread(done.wait, DEADLINE_S)
    assert called == ["broken", "tracewatch cancel"]
    assert [r.levelno for r in caplog.records if "on_cancel" in r.message] == [logging.ERROR]
    t.on_cancel(lambda: called.append(threading.current_thread().name))
    assert called[-1] == threading.current_thread().name


@in_own_task
async def test_a_callback_may_take_its_time_and_the_recorder_goes_on(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        flushed: list[bool] = []
        t.on_cancel(lambda: flushed.append(t.flush(DEADLINE_S)))
        assert await t.aflush()
        await cancel(server.url, t)
        t.event("step", n=1)
        await until(lambda: flushed)
        assert flushed == [True]
