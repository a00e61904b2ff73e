"""Recording into a real server: every event is in the log once and in order, whatever the connection does."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.client.proxy import proxy
from tests.client.test_api import Canned
from tests.support import ServerProcess, serving, until
from tracewatch.client import outbox
from tracewatch.client.api import Api
from tracewatch.client.spool import SpoolDir
from tracewatch.client.trace import Trace, trace

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]


async def events(url: str, trace_id: str) -> list[dict[str, Any]]:
    """The log of a trace."""
    lines = await asyncio.to_thread(lambda: list(Api(url).events(trace_id, "-1000000")))
    return [orjson.loads(line) for line in lines]


async def steps(url: str, trace_id: str, name: str = "step") -> list[int]:
    """The numbers of its events of this name."""
    return [event["n"] for event in await events(url, trace_id) if event["event"] == name]


def say(t: Trace, first: int, last: int) -> None:
    for n in range(first, last + 1):
        t.event("step", n=n)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the recorder has warned of."""
    return [r.message for r in caplog.records if r.name == "tracewatch" and r.levelno >= logging.WARNING]


def spools(spool_dir: Path) -> list[Path]:
    return SpoolDir(spool_dir, 1).files()


async def test_a_run_is_in_the_log(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url, agent_type="coder", metadata={"a": 1}) as t:
            with t.goal("Find the cause") as goal:
                with t.tool_call("grep", {"pattern": "login"}) as call:
                    call.result("3 matches")
                with t.message("assistant", tokens=5) as m:
                    m.stream("It is ")
                    m.stream("the cookie.")
                child = t.sub_trace("Write a test", agent_type="tester")
                with child:
                    child.message("user", "hello", tokens=2)
        assert await t.aflush()
        assert await child.aflush()
        said = [event["event"] for event in await events(server.url, t.trace_id)]
        assert said.index("sub_trace_started") < said.index("goal_updated")  # where the agent began it
        answer = await asyncio.to_thread(Api(server.url).trace, t.trace_id)
        assert answer["trace"]["status"] == "completed"
        assert (answer["trace"]["agent_type"], answer["trace"]["metadata"]) == ("coder", {"a": 1})
        assert answer["trace"]["tree_totals"]["total_tokens"] == 7
        (sub,) = answer["sub_traces"]
        assert (sub["trace_id"], sub["parent_goal_id"], sub["status"]) == (child.trace_id, goal.id, "completed")
        assert (t.pending, t.dropped) == (0, 0)


async def test_late_events_go_the_same_way(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        with t:
            pass
        assert await t.aflush()
        await until(lambda: not t._sender._deliveries)
        t.event("step", n=1)
        assert await t.aflush()
        assert await steps(server.url, t.trace_id) == [1]


async def test_text_and_results_of_any_size(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url) as t:
            message = t.message("user", "long " * 200_000)
            with t.tool_call("cat") as call:
                call.result("y" * 5_000_000)
        assert await t.aflush(60)
        api = Api(server.url)
        first, tool = (await asyncio.to_thread(api.messages, t.trace_id))["messages"]
        assert first["message_id"] == message.id
        for ref, text in ((first["content"], "long " * 200_000), (tool["content"]["result"], "y" * 5_000_000)):
            assert b"".join(await asyncio.to_thread(list, api.blob(t.trace_id, ref["blob"]))).decode() == text
        assert not [e for e in await events(server.url, t.trace_id) if e["event"] == "recorder_refused"]


async def test_fifty_threads_and_twenty_tasks(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url) as t:

            def work(number: int) -> None:
                with t.goal(f"goal {number}"):
                    for n in range(20):
                        t.event("step", n=n, worker=number)

            async def task(number: int) -> None:
                async with t.goal(f"task {number}"):
                    for n in range(20):
                        t.event("step", n=n, worker=number)
                        await asyncio.sleep(0)

            threads = [threading.Thread(target=work, args=(n,)) for n in range(50)]
            for thread in threads:
                thread.start()
            await asyncio.gather(*(task(n) for n in range(50, 70)))
            for thread in threads:
                await asyncio.to_thread(thread.join, 20)
        assert await t.aflush(60)
        seen: dict[int, list[int]] = {}
        for event in await events(server.url, t.trace_id):
            if event["event"] == "step":
                seen.setdefault(event["worker"], []).append(event["n"])
        assert seen == {worker: list(range(20)) for worker in range(70)}


async def test_two_recorders_on_one_trace(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        both = [new_trace(server.url, trace_id="shared") for _ in range(2)]
        for n in range(1, 301):
            for t in both:
                t.event("step", n=n, by=t._outbox.producer)
                t.message("user", "hi")
                t.add_goal("g", status="in_progress")
        assert all([await t.aflush(60) for t in both])
        log = await events(server.url, "shared")
        for t in both:
            assert [e["n"] for e in log if e.get("by") == t._outbox.producer] == list(range(1, 301))
        assert len(log) == 1800


async def test_a_trace_that_exists_with_other_fields_is_recorded_into(
    tmp_path: Path, new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "t.db") as server:
        await asyncio.to_thread(Api(server.url).create_trace, {"trace_id": "x", "task": "another"})
        t = new_trace(server.url, trace_id="x")
        say(t, 1, 3)
        assert await t.aflush()
        assert await steps(server.url, "x") == [1, 2, 3]
        assert told(caplog) == ["trace x exists with other fields: it is recorded into as it is"]


@pytest.mark.slow
async def test_a_sub_trace_of_nothing_there_is_recorded_on_its_own(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url, parent_trace_id="gone", parent_goal_id="g")
        say(t, 1, 3)
        assert await t.aflush(60)
        assert await steps(server.url, t.trace_id) == [1, 2, 3]


# --- what the server refuses -----------------------------------------------------------------------------------


async def test_a_refused_event_costs_itself_and_one_warning(
    tmp_path: Path, new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        for n in range(1, 2001):
            t.event("step", n=n)
            if n % 400 == 7:
                t._journal.emit({"event": "Not A Name"})
                t._journal.emit({"event": "goal_updated", "goal_id": "none", "patch": {"summary": "x"}})
        assert await t.aflush(60)
        log = await events(server.url, t.trace_id)
        assert [e["n"] for e in log if e["event"] == "step"] == list(range(1, 2001))
        refused = [e for e in log if e["event"] == "recorder_refused"]
        assert [e["original_event"] for e in refused] == ["goal_updated"] * 5
        assert {e["error"] for e in refused} == {"unknown_goal"}
        assert [e["original_event"] for e in log if e["event"] == "not_a_name"] == ["Not A Name"] * 5
        assert len(told(caplog)) == 2


# --- what lines do ---------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_lost_answers_and_cut_lines(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as line:
        t = new_trace(line.url)
        n = 0
        for round_ in range(6):
            say(t, n + 1, n + 700)
            n += 700
            await until(lambda: t.pending == 0)
            line.swallow_answers = True
            say(t, n + 1, n + 300)
            n += 300
            if round_ % 2:
                line.cut_after = 5000
                await until(lambda: line.cut_after is None)
            else:
                await until(lambda: server.services)  # whatever has arrived by now has
                await asyncio.sleep(0.02 * round_)
            assert t.pending
            line.cut()
            line.swallow_answers = False
        assert await t.aflush(60)
        assert await steps(server.url, t.trace_id) == list(range(1, n + 1))
        assert line.connections > 6


@pytest.mark.crash
async def test_a_server_killed_in_the_middle_again_and_again(tmp_path: Path, new_trace: New) -> None:
    server = ServerProcess(tmp_path / "t.db")
    t = new_trace(server.url)
    n = 0
    for _ in range(3):
        await asyncio.to_thread(server.start)
        say(t, n + 1, n + 2000)
        n += 2000
        enough = n - 1500
        await until(lambda: t._outbox.acked > enough)  # noqa: B023
        say(t, n + 1, n + 2000)
        n += 2000
        server.kill()
    with server:
        assert await t.aflush(60)
        assert await steps(server.url, t.trace_id) == list(range(1, n + 1))


@pytest.mark.slow
async def test_a_server_that_says_goodbye(tmp_path: Path, new_trace: New) -> None:
    server = ServerProcess(tmp_path / "t.db", goaway_ms=100)
    with server:
        t = new_trace(server.url)
        say(t, 1, 100)
        assert await t.aflush(60)
        assert await asyncio.to_thread(server.stop) == 0
        say(t, 101, 200)
    with server:
        assert await t.aflush(60)
        assert await steps(server.url, t.trace_id) == list(range(1, 201))


async def test_a_trace_deleted_under_its_recorder_goes_on(
    tmp_path: Path, new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        say(t, 1, 50)
        assert await t.aflush()
        await asyncio.to_thread(Api(server.url).delete, t.trace_id)
        say(t, 51, 90)
        assert await t.aflush(60)
        log = await events(server.url, t.trace_id)
        assert (log[0]["event"], log[0]["event_id"], log[0]["count"]) == ("recorder_lost", 51, 50)
        assert [(e["event_id"], e["n"]) for e in log[1:]] == [(n + 1, n) for n in range(51, 91)]
        assert "has lost the last 50 events" in caplog.text
        say(t, 91, 99)
        assert await t.aflush(60)
        assert (await steps(server.url, t.trace_id))[-1] == 99


@pytest.mark.parametrize("how", ["absent", "silent", "500", "garbage"])
async def test_a_server_that_is_none_holds_up_nothing(
    how: str, new_trace: New, spool_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    canned = Canned()
    canned.answers = [(500, b'{"error":"error","message":"m"}') if how == "500" else (200, b"hello")] * 1000
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}" if how == "silent" else canned.url
        if how == "absent":
            canned.close()
        with new_trace(url) as t:
            say(t, 1, 100)
            with t.goal("g"), t.message("assistant") as m:
                m.stream("x")
            t.sub_trace("child").event("step", n=1)
        assert not t.flush(0.05)
        await until(lambda: t._outbox.memory_bytes == 0)  # on disk
        assert t.pending == 106
        assert len(spools(spool_dir)) == 2
        if how != "absent":
            canned.close()


@pytest.mark.slow
async def test_a_spool_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    server = ServerProcess(tmp_path / "t.db")
    t = new_trace(server.url, spool_dir=str(tmp_path / "file" / "spool"))
    say(t, 1, 500)
    say(t, 501, 1000)
    assert (t.pending, t.dropped) == (1000, 0)
    assert len(told(caplog)) == 1
    with server:
        assert await t.aflush(60)
        assert await steps(server.url, t.trace_id) == list(range(1, 1001))


@pytest.mark.slow
async def test_what_there_was_no_room_for_is_counted_and_told_of(
    tmp_path: Path, new_trace: New, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "MEMORY_BYTES", 20_000)
    monkeypatch.setenv("TRACEWATCH_SPOOL_BYTES", "30000")
    server = ServerProcess(tmp_path / "t.db")
    t = new_trace(server.url)
    n = 0
    while not t.dropped:
        n += 1
        t.event("step", n=n)
    say(t, n + 1, n + 9)
    assert t.dropped == 10
    with server:
        assert await t.aflush(60)
        t.event("step", n=n + 10)
        assert await t.aflush(60)
        log = await events(server.url, t.trace_id)
        assert [e["n"] for e in log if e["event"] == "step"] == [*range(1, n), n + 10]
        assert [e["count"] for e in log if e["event"] == "recorder_dropped"] == [10]
    assert len(told(caplog)) == 1


async def test_more_than_memory_should_hold_goes_over_the_disk(
    tmp_path: Path, new_trace: New, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MEMORY_BYTES", 10_000)
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as line:
        t = new_trace(line.url)
        say(t, 1, 10)
        assert await t.aflush()
        line.swallow_answers = True
        say(t, 11, 1500)
        assert spools(spool_dir) and t._outbox.memory_bytes <= 10_000
        line.swallow_answers = False
        line.cut()
        say(t, 1501, 1600)
        assert await t.aflush(60)
        assert await steps(server.url, t.trace_id) == list(range(1, 1601))
        await until(lambda: not spools(spool_dir))


def test_the_public_name_is_this_one() -> None:
    import tracewatch

    assert tracewatch.trace is trace
    assert tracewatch.Trace is Trace
    assert set(tracewatch.__all__) <= set(dir(tracewatch))
    for name in tracewatch.__all__:
        assert getattr(tracewatch, name) is not None
    with pytest.raises(AttributeError):
        _ = tracewatch.no_such_name


async def test_a_background_thread_that_fails_is_replaced(
    tmp_path: Path, new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url)
        say(t, 1, 10)
        assert await t.aflush()
        sender = t._sender

        def fail(now: float) -> None:
            del sender.__dict__["_care"]
            raise RuntimeError("a fault of ours")

        sender.__dict__["_care"] = fail
        await until(lambda: sender._loop is not None and sender._loop.is_closed())
        say(t, 11, 20)
        assert await t.aflush(60)
        assert await steps(server.url, t.trace_id) == list(range(1, 21))
