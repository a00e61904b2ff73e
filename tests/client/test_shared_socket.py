"""One connection for all traces of a process: what it carries, what breaks it, and what is there when it can't be."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.client.proxy import proxy
from tests.client.test_record import events, say, steps
from tests.support import DEADLINE_S, ServerProcess, Serving, serving, until
from tracewatch.client import link
from tracewatch.client.lines import Leaving
from tracewatch.client.link import UNANSWERED_BYTES, SharedSocket
from tracewatch.client.trace import Trace
from tracewatch.errors import TracewatchError
from tracewatch.model.window import LineBroken
from tracewatch.server import app
from tracewatch.server.routes import ROUTES, starlette_routes

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]


@pytest.fixture
def old_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are of the version before this socket."""
    there = [route for route in ROUTES if route.path != "/api/record"]
    monkeypatch.setattr(app, "starlette_routes", lambda: starlette_routes(there))


async def flushed(*traces: Trace) -> None:
    for one in traces:
        assert await one.aflush(DEADLINE_S)


def sockets(server: Serving) -> tuple[int, int]:
    """How many there have been: shared ones, and those of one trace."""
    seen = server.services.observed
    there, gone = seen.open, seen.closed
    return tuple(  # type: ignore[return-value]
        there[kind] + sum(many for (one, _), many in gone.items() if one == kind) for kind in ("record_many", "record")
    )


# --- one connection ---------------------------------------------------------------------------------------------


async def test_a_hundred_sub_traces_use_one_connection(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        with new_trace(between.url) as t:
            children = [t.sub_trace(f"child {n}") for n in range(100)]
            for child in children:
                with child:
                    say(child, 1, 3)
                    say(child.sub_trace("grandchild"), 1, 2)
        await flushed(t, *children)
        assert between.connections == 1
        for child in children:
            assert await steps(server.url, child.trace_id) == [1, 2, 3]
        told = [event["event"] for event in await events(server.url, t.trace_id)]
        assert told.count("sub_trace_started") == told.count("sub_trace_completed") == 100


async def test_the_next_trace_takes_the_same_connection_and_an_idle_one_is_closed(
    tmp_path: Path, new_trace: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        count = server.services.observed.open
        for n in range(3):
            with new_trace(between.url) as t:
                say(t, 1, 3)
            await flushed(t)
            await until(lambda: not count["recording"])
            assert (between.connections, count["record_many"]) == (1, 1), n
        monkeypatch.setattr(link, "IDLE_S", 0.05)
        with new_trace(between.url) as t:
            pass
        await flushed(t)
        await until(lambda: not count["record_many"])
        with new_trace(between.url) as t:
            say(t, 1, 3)
        await flushed(t)
        assert between.connections == 2


async def test_what_happens_to_one_trace_touches_no_other(
    tmp_path: Path, new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused creates, refused events and a deleted trace, all on the socket of a trace that goes on."""
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        await server.services.log.create_trace(
            {"trace_id": "taken", "task": "other", "agent_type": "a", "parent_trace_id": None, "parent_goal_id": None}
            | {"lease_s": None, "metadata": {}}
        )
        with new_trace(between.url, trace_id="good") as good:
            say(good, 1, 1)
            with new_trace(between.url, trace_id="taken") as taken:
                say(taken, 1, 1)
            with new_trace(between.url, trace_id="orphan", parent_trace_id="absent") as orphan:
                say(orphan, 1, 1)
            with new_trace(between.url, trace_id="odd") as odd:
                odd._journal.emit({"event": "goal_updated", "goal_id": "none", "patch": {"summary": "x"}})
                say(odd, 1, 1)
            lost = new_trace(between.url, trace_id="lost")
            say(lost, 1, 1)
            await flushed(lost)
            await server.services.log.delete_trace("lost")
            say(lost, 2, 2)
            lost.complete()
            say(good, 2, 2)
        await flushed(good, taken, orphan, odd, lost)
        assert sockets(server) == (1, 0)
        assert await steps(server.url, "good") == [1, 2]
        for name in ("taken", "orphan", "odd"):
            assert await steps(server.url, name) == [1]
        assert await steps(server.url, "lost") == [2]


async def test_commands_find_their_trace(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        log = server.services.log
        with new_trace(between.url) as t, t.sub_trace("a") as first, t.sub_trace("b") as second:
            await flushed(t, first, second)
            answer = asyncio.create_task(second.aask("Go?", options=["yes"], request_id="q", timeout_s=DEADLINE_S))
            await flushed(second)
            await log.cancel(first.trace_id, reason="enough")
            await until(lambda: first.cancelled)
            await until(lambda: second._outbox.next_seq > 1)
            await flushed(second)
            await log.answer(second.trace_id, "q", "yes")
            assert await answer == "yes"
            assert not t.cancelled and not second.cancelled
        assert sockets(server) == (1, 0)


async def test_a_second_recorder_of_a_trace_has_a_socket_of_its_own(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        with new_trace(between.url, trace_id="same") as one, new_trace(between.url, trace_id="same") as two:
            for n in range(20):
                say(one, n, n)
                say(two, n, n)
            await flushed(one, two)
            assert between.connections == 2
        await flushed(one, two)
        assert sorted(await steps(server.url, "same")) == sorted([*range(20), *range(20)])


async def test_a_token_of_one_trace_records_it_and_its_sub_traces(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        token = await server.services.log.tokens.create(["write"], trace_id="mine")
        other = new_trace(between.url, trace_id="other", token=token)
        say(other, 1, 1)
        with new_trace(between.url, trace_id="mine", token=token) as t, t.sub_trace("child") as child:
            say(child, 1, 5)
        await flushed(t, child)
        assert between.connections == 1
        assert other.pending == 1
        bodies = (await server.services.log.read(child.trace_id, 0, max_events=100, max_bytes=1 << 20)).bodies
        assert [orjson.loads(body)["event"] for body in bodies] == [*["step"] * 5, "trace_completed"]


# --- it breaks --------------------------------------------------------------------------------------------------


async def test_twenty_traces_on_a_line_that_breaks_again_and_again(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        with new_trace(between.url) as t:
            children = [t.sub_trace(f"child {n}") for n in range(19)]
            for n in range(1, 101):
                for one in (t, *children):
                    say(one, n, n)
                if n % 20 == 10:
                    between.cut_after = n * 400  # in the middle of something
                if n % 20 == 0:
                    between.cut()
                    await asyncio.sleep(0.05)  # the agent goes on meanwhile; nothing to wait for
        for child in children:
            child.complete()
        await flushed(t, *children)
        for one in (t, *children):
            assert await steps(server.url, one.trace_id) == list(range(1, 101))


async def test_while_a_server_is_away_one_attempt_is_made_for_all(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.refuse = True
        with new_trace(between.url) as t:
            children = [t.sub_trace(f"child {n}") for n in range(100)]
            say(t, 1, 3)
            await until(lambda: between.connections >= 3)
            attempts = between.connections
            between.refuse = False
            for child in children:
                child.complete()
        await flushed(t, *children)
        assert attempts <= 4
        assert between.connections <= attempts + 2
        assert await steps(server.url, t.trace_id) == [1, 2, 3]


async def test_a_killed_server_costs_nothing_of_twenty_traces_on_one_socket(tmp_path: Path, new_trace: New) -> None:
    server = await asyncio.to_thread(ServerProcess(tmp_path / "t.db").start)
    try:
        with new_trace(server.url) as t:
            children = [t.sub_trace(f"child {n}") for n in range(19)]
            numbers = itertools.count(1)
            for _ in range(3):
                acked = t._outbox.acked
                for n in itertools.islice(numbers, 60):
                    for one in (t, *children):
                        say(one, n, n)
                    await asyncio.sleep(0.002)
                await until(lambda before=acked: t._outbox.acked > before)  # type: ignore[misc]
                await asyncio.to_thread(server.kill)
                for n in itertools.islice(numbers, 20):
                    for one in (t, *children):
                        say(one, n, n)
                await asyncio.to_thread(server.start)
            for child in children:
                child.complete()
        for one in (t, *children):
            assert await one.aflush(60)
            assert await steps(server.url, one.trace_id) == list(range(1, 241))
            assert "recorder_lost" not in [event["event"] for event in await events(server.url, one.trace_id)]
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_server_that_leaves_is_come_back_to_by_one(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        with new_trace(between.url) as t:
            children = [t.sub_trace(f"child {n}") for n in range(10)]
            await flushed(t, *children)
            async with serving(tmp_path / "t.db") as other:
                between.to = ("127.0.0.1", int(other.url.rpartition(":")[2]))
                leaving = asyncio.create_task(server.services.hub.goaway(100, 1.0))
                await until(lambda: other.services.observed.open["recording"] == 11)
                await leaving
                for one in (t, *children):
                    say(one, 1, 3)
                for child in children:
                    child.complete()
                t.complete()
                await flushed(t, *children)
                assert between.connections == 2
                for one in (t, *children):
                    assert await steps(other.url, one.trace_id) == [1, 2, 3]


# --- an old server ----------------------------------------------------------------------------------------------


async def test_a_server_without_the_shared_socket_is_recorded_to_as_before(
    tmp_path: Path, new_trace: New, old_server: None
) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        with new_trace(between.url) as t, t.sub_trace("child") as child:
            say(t, 1, 20)
            say(child, 1, 20)
        await flushed(t, child)
        assert await steps(server.url, t.trace_id) == await steps(server.url, child.trace_id) == list(range(1, 21))
        assert sockets(server) == (0, 2)
        asked = between.connections
        with new_trace(between.url) as again:
            say(again, 1, 3)
        await flushed(again)
        assert between.connections == asked + 2  # created, recorded; the shared socket is not asked for again


async def test_a_server_that_has_it_meanwhile_is_asked_again(
    tmp_path: Path, new_trace: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ALONE_S", 0.01)
    async with AsyncExitStack() as stack:
        with monkeypatch.context() as before:
            there = [route for route in ROUTES if route.path != "/api/record"]
            before.setattr(app, "starlette_routes", lambda: starlette_routes(there))
            server = await stack.enter_async_context(serving(tmp_path / "t.db"))
        between = await stack.enter_async_context(proxy(server.url))
        with new_trace(between.url) as t:
            say(t, 1, 3)
        await flushed(t)
        assert sockets(server) == (0, 1)
        newer = await stack.enter_async_context(serving(tmp_path / "t.db"))
        between.to = ("127.0.0.1", int(newer.url.rpartition(":")[2]))
        with new_trace(between.url) as t:
            say(t, 1, 3)
        await flushed(t)
        assert sockets(newer) == (1, 0)


# --- turns, without a server ------------------------------------------------------------------------------------


class Wire:
    """A connection that notes what is sent, and gives what it is told to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gives: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.aborted = False
        self.transport = self

    async def send(self, frame: bytes, text: bool) -> None:
        value = orjson.loads(frame)
        self.sent.append(value)
        if "open" in value:
            trace_id = value["open"]["trace_id"]
            self.gives.put_nowait({"ready": {"trace_id": trace_id, "expected_seq": 1, "inputs": []}})

    async def recv(self, decode: bool) -> bytes:
        return orjson.dumps(await self.gives.get())

    def abort(self) -> None:
        self.aborted = True

    async def close(self) -> None:
        pass

    def appended(self) -> list[str]:
        return [one["append"]["trace_id"] for one in self.sent if "append" in one]


async def shared() -> tuple[SharedSocket, Wire]:
    wire = Wire()
    return SharedSocket(wire), wire  # type: ignore[arg-type]


BIG = b'{"event":"x","pad":"%b"}' % (b"x" * 500_000)


async def test_traces_take_turns_and_what_is_unanswered_is_bounded() -> None:
    socket, wire = await shared()
    busy, calm = await socket.open("busy", "p"), await socket.open("calm", "p")

    async def work(line: Any, count: int) -> None:
        for n in range(count):
            await line.send(n + 1, [BIG if line is busy else b'{"event":"x"}'])

    tasks = [asyncio.create_task(work(busy, 50))]
    await until(lambda: len(wire.appended()) * len(BIG) > UNANSWERED_BYTES - 2 * len(BIG))
    tasks.append(asyncio.create_task(work(calm, 3)))
    await asyncio.sleep(0.01)
    assert wire.appended().count("busy") == UNANSWERED_BYTES // len(BIG)
    before = len(wire.appended())
    for seq in range(1, 5):  # four answers make room for as many, and it is the other's turn every second time
        wire.gives.put_nowait({"ack": {"trace_id": "busy", "seq": seq}})
        await busy.answer()
    await until(lambda: "calm" in wire.appended()[before:])
    assert wire.appended()[before:].count("busy") <= 4
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await socket.close()


async def test_answers_to_what_was_said_before_it_was_hung_up_are_nobodys() -> None:
    socket, wire = await shared()
    line = await socket.open("t", "p")
    await line.send(1, [BIG])
    await line.close()
    opening = asyncio.create_task(socket.open("t", "q"))
    wire.gives.put_nowait({"ack": {"trace_id": "t", "seq": 1}})
    again = await opening
    wire.gives.put_nowait({"ack": {"trace_id": "t", "seq": 7}})
    answer = await again.answer()
    assert (getattr(answer, "seq", None), list(again.unanswered)) == (7, [])
    await socket.close()


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        ({"goaway": {"after_ms": 0}}, Leaving),
        ({"event": "error", "code": "unauthorized", "message": "no"}, TracewatchError),
        ({"event": "error", "code": "bad_request", "message": "no"}, LineBroken),
        ({"ready": {}}, LineBroken),
    ],
)
async def test_what_ends_the_socket_ends_all_its_lines(frame: dict[str, Any], kind: type[Exception]) -> None:
    socket, wire = await shared()
    lines = [await socket.open(name, "p") for name in ("a", "b")]
    opening = asyncio.create_task(socket.create({"trace_id": "c", "task": "x"}))
    await asyncio.sleep(0)
    wire.gives.put_nowait(frame)
    for line in lines:
        with pytest.raises(kind):
            await line.answer()
        with pytest.raises(kind):
            await line.send(1, [b"{}"])
    with pytest.raises(TracewatchError):
        await opening
    assert wire.aborted
    await socket.close()


async def test_a_socket_that_breaks_while_something_is_asked_leaves_no_error_to_asyncio() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    socket, wire = await shared()

    async def broken(frame: bytes, text: bool) -> None:
        raise ConnectionResetError

    wire.send = broken  # type: ignore[method-assign]
    with pytest.raises(TracewatchError):
        await socket.open("t", "p")
    await socket.close()
    del socket  # its failure holds the frames in which it was raised, and these the answer
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []


async def test_a_socket_that_has_gone_silent_is_dead_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SILENCE_S", 0.0)
    socket, _ = await shared()
    lines = [await socket.open(name, "p") for name in ("a", "b")]
    await asyncio.sleep(0.001)
    lines[0].suspect()
    for line in lines:
        with pytest.raises(LineBroken, match="does not answer"):
            await line.answer()
    await socket.close()


async def test_an_open_that_is_not_answered_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "OPEN_TIMEOUT_S", 0.01)
    socket, wire = await shared()
    await socket.open("fine", "p")
    monkeypatch.setattr(Wire, "recv", lambda self, decode: asyncio.Event().wait())
    wire.gives = asyncio.Queue()
    monkeypatch.setattr(wire, "gives", type("Deaf", (), {"put_nowait": lambda self, value: None})())
    with pytest.raises(TracewatchError, match="no answer"):
        await socket.open("t", "p")
    assert not socket.has("t")
    await socket.close()
