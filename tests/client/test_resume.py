"""Agents that die while they wait for an answer and start again: they find their question, and its answer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.asked import answer, open_question, polled, status
from tests.client.proxy import proxy
from tests.client.test_ask import asking, done
from tests.client.test_record import events, spools
from tests.support import DEADLINE_S, ServerProcess, serving, until
from tracewatch import Cancelled
from tracewatch.client import trace as trace_module
from tracewatch.client.api import Api
from tracewatch.client.trace import Trace

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]

ASKS = """
import sys, tracewatch
how, url, spool_dir = sys.argv[1:4]
if how == "trace":
    t = tracewatch.trace("task", trace_id="t", url=url, spool_dir=spool_dir)
else:
    t = tracewatch.resume("t", url=url, spool_dir=spool_dir)
with t:
    answer = t.ask("Deploy?", options=["yes", "no"], NAMED timeout_s=60)
    t.event("deployed", answer=answer)
print(answer)
"""


class Agents:
    """Agents in processes of their own."""

    def __init__(self, spool_dir: Path) -> None:
        self._spool_dir = spool_dir
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, how: str, url: str, named: bool = False) -> subprocess.Popen[bytes]:
        code = ASKS.replace("NAMED", 'request_id="deploy",' if named else "")
        command = [sys.executable, "-c", code, how, url, str(self._spool_dir)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "TRACEWATCH_FLUSH_S": "20"}
        )
        self.processes.append(process)
        return process

    def kill(self) -> None:
        """kill -9 of all."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait(DEADLINE_S)

    async def said(self, process: subprocess.Popen[bytes]) -> str:
        """What it printed, once it has ended."""
        out, _ = await asyncio.to_thread(process.communicate, timeout=DEADLINE_S * 2)
        return out.decode().strip()


@pytest.fixture
def agents(spool_dir: Path) -> Iterator[Agents]:
    made = Agents(spool_dir)
    yield made
    made.kill()
    for process in made.processes:
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def resumed(new_trace: New, spool_dir: Path) -> Callable[..., Trace]:
    """``tracewatch.resume`` for a test, with the test's own background thread."""

    def again(trace_id: str, url: str, **options: Any) -> Trace:
        return trace_module.resume(trace_id, url=url, spool_dir=str(spool_dir), **options)

    return again


async def names(url: str, trace_id: str = "t") -> list[str]:
    return [event["event"] for event in await events(url, trace_id)]


@pytest.mark.crash
@pytest.mark.parametrize("how", ["trace", "resume"])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("order", ["killed, answered, started", "killed, started, answered", "answered while cut off"])
async def test_an_agent_killed_while_it_waits(
    tmp_path: Path, agents: Agents, how: str, named: bool, order: str
) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as line:
        agents.start("trace", line.url, named)
        asked = await open_question(server.url, "t")
        if order == "answered while cut off":
            line.swallow_answers = True  # the answer is given and does not reach the agent
            await answer(server.url, "t", "yes")
        await asyncio.to_thread(agents.kill)
        line.swallow_answers = False
        if order == "killed, answered, started":
            await answer(server.url, "t", "yes")
        second = agents.start(how, line.url, named)
        if order == "killed, started, answered":
            assert (await open_question(server.url, "t"))["request_id"] == asked["request_id"]
            await answer(server.url, "t", "yes")
        assert await agents.said(second) == "yes"
        said = await names(server.url)
        assert (said.count("input_requested"), said.count("input_provided"), said.count("deployed")) == (1, 1, 1)
        assert await status(server.url, "t") == "completed"


@pytest.mark.crash
async def test_agent_and_server_both_die(tmp_path: Path, agents: Agents) -> None:
    with ServerProcess(tmp_path / "t.db") as server:
        agents.start("trace", server.url)
        await open_question(server.url, "t")
        server.kill()
        await asyncio.to_thread(agents.kill)
        await asyncio.to_thread(server.start)
        await answer(server.url, "t", "no")
        server.kill()
        second = agents.start("resume", server.url)  # before the server is there
        await asyncio.to_thread(server.start)
        assert await agents.said(second) == "no"
        assert (await names(server.url)).count("input_requested") == 1


@pytest.mark.crash
async def test_a_question_still_in_the_spool_of_an_agent_that_died(
    tmp_path: Path, agents: Agents, spool_dir: Path
) -> None:
    server = ServerProcess(tmp_path / "t.db")
    # The trace is there, so that the second agent does not have to wait for it; the question is not.
    with server:
        await asyncio.to_thread(Api(server.url).create_trace, {"trace_id": "t", "task": "task", "lease_s": 30})
    agents.start("resume", server.url, named=True)
    await until(lambda: spools(spool_dir))
    await asyncio.to_thread(agents.kill)
    second = agents.start("resume", server.url, named=True)
    with server:
        await answer(server.url, "t", "yes")
        assert await agents.said(second) == "yes"
        await polled(lambda: not spools(spool_dir))
        assert "recorder_refused" not in await names(server.url)


async def test_a_resumed_trace_is_running_and_numbers_its_events_anew(
    tmp_path: Path, new_trace: New, resumed: New
) -> None:
    async with serving(tmp_path / "t.db") as server:
        with pytest.raises(ValueError, match="oops"):
            with new_trace(server.url, trace_id="t") as first, first.goal("Work"):
                raise ValueError("oops")
        assert await first.aflush()
        assert await status(server.url, "t") == "failed"
        with resumed("t", server.url) as t:
            assert await t.aflush()
            assert await status(server.url, "t") == "running"
            t.message("user", "again")
            with t.goal("More work"):
                pass
        assert await t.aflush()
        assert await status(server.url, "t") == "completed"
        assert t._outbox.producer != first._outbox.producer
        said = await names(server.url)
        assert said.count("trace_status_changed") == 1 and "recorder_refused" not in said


async def test_what_a_resumed_agent_records_is_there_once_whatever_the_line_does(tmp_path: Path, resumed: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as line:
        await asyncio.to_thread(Api(server.url).create_trace, {"trace_id": "t", "task": "x"})
        t = resumed("t", line.url)
        for n in range(2000):
            t.event("step", n=n)
            if n % 400 == 200:
                line.cut()
                await asyncio.sleep(0)
        assert await t.aflush(DEADLINE_S)
        log = await events(server.url, "t")
        assert [e["n"] for e in log if e["event"] == "step"] == list(range(2000))
        assert log[0]["event"] == "trace_status_changed"


async def test_a_trace_that_was_stopped_stays_so_and_the_agent_finds_itself_cancelled(
    tmp_path: Path, new_trace: New, resumed: New
) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url, trace_id="t") as first:
            first.stop()
        assert await first.aflush()
        with pytest.raises(Cancelled):
            with resumed("t", server.url) as t, t.cancel_scope():
                await asyncio.wait_for(asyncio.sleep(60), DEADLINE_S)
        assert await t.aflush()
        assert await status(server.url, "t") == "stopped"
        assert "recorder_resumed" in await names(server.url)


async def test_a_cancel_that_came_while_the_agent_was_away(tmp_path: Path, new_trace: New, resumed: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        first = new_trace(server.url, trace_id="t")
        first.event("step")
        assert await first.aflush()
        await asyncio.to_thread(Api(server.url).cancel, "t", "enough")
        t = resumed("t", server.url)
        with pytest.raises(Cancelled, match="enough"):
            with t:
                await t.aask("Go on?")
        assert await t.aflush()
        assert await status(server.url, "t") == "stopped"


@pytest.mark.crash
async def test_an_agent_killed_between_the_cancel_and_its_acknowledgement(tmp_path: Path, agents: Agents) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as line:
        agents.start("trace", line.url)
        await open_question(server.url, "t")
        line.swallow_answers = True  # it must not hear of it before it dies
        cancelled = await asyncio.to_thread(Api(server.url).cancel, "t", "enough", "ann")
        assert cancelled["status"] == "cancelling"
        await asyncio.to_thread(agents.kill)
        assert await status(server.url, "t") == "waiting"
        line.swallow_answers = False
        second = agents.start("resume", line.url)
        assert await agents.said(second) == "" and second.returncode == 130
        trace = (await asyncio.to_thread(Api(server.url).trace, "t"))["trace"]
        assert (trace["status"], trace["summary"]) == ("stopped", "cancelled by ann: enough")
        assert "deployed" not in await names(server.url)


async def test_a_lost_trace_with_a_question_waits_again(tmp_path: Path, resumed: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        api = Api(server.url)
        await asyncio.to_thread(api.create_trace, {"trace_id": "t", "task": "x", "lease_s": 0.5})
        question = {"event": "input_requested", "request_id": "deploy", "question": "Deploy?"}
        await asyncio.to_thread(api.append, "t", [question])
        await polled(lambda: api.trace("t")["trace"]["status"] == "lost")
        t = resumed("t", server.url)
        task = asking(t, "Deploy?", request_id="deploy")
        await polled(lambda: api.trace("t")["trace"]["status"] == "waiting")
        await answer(server.url, "t", "yes")
        assert await done(task) == "yes"
        await polled(lambda: api.trace("t")["trace"]["status"] == "running")


async def test_what_was_closed_by_an_end_is_asked_again(tmp_path: Path, new_trace: New, resumed: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        first = new_trace(server.url, trace_id="t")
        task = asking(first, "Deploy?", request_id="deploy")
        await open_question(server.url, "t")
        first.fail("crashed")
        assert await first.aflush()
        first._outbox.control.refused("deploy", "x", "the end of the test's first agent")
        await asyncio.wait([task])
        task.exception()
        t = resumed("t", server.url)
        again = asking(t, "Deploy?", request_id="deploy")
        assert await answer(server.url, "t", "yes") == "deploy.2"
        assert await done(again) == "yes"


async def test_a_trace_that_is_nowhere_begins_with_being_resumed(tmp_path: Path, resumed: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        with resumed("nowhere", server.url) as t:
            t.event("step", n=1)
        assert await t.aflush(DEADLINE_S)
        assert await status(server.url, "nowhere") == "completed"


async def test_a_file_is_resumed_like_a_server(tmp_path: Path, new_trace: New, resumed: New) -> None:
    url = f"sqlite:///{tmp_path / 't.db'}"
    first = new_trace(url, trace_id="t")
    first.event("step", n=1)
    assert await first.aflush()
    t = resumed("t", url)
    task = asking(t, "Deploy?")
    async with serving(tmp_path / "t.db") as server:
        await answer(server.url, "t", "yes")
        assert await done(task) == "yes"
        assert await names(server.url) == [
            *("step", "trace_status_changed", "input_requested", "input_provided"),
        ]
