"""Clocks: the server's is what counts, and neither a clock that is set nor a sleep hides that a connection is dead."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.client.proxy import proxy
from tests.support import serving, until
from tracewatch.client import clock
from tracewatch.client.api import Api
from tracewatch.client.clock import ServerClock, Silence
from tracewatch.client.watch import ConnectionStatus, watch, watch_sync
from tracewatch.model.times import format_time


class Clocks:
    """This machine's clocks, which a test can move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 1000.0
        self.set_by = 0.0
        real = time.time
        monkeypatch.setattr(clock, "passed_s", lambda: self.passed)
        monkeypatch.setattr(time, "time", lambda: real() + self.set_by)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_ages_go_by_the_server(clocks: Clocks) -> None:
    server = ServerClock()
    assert abs(server.now() - time.time()) < 60  # it has told nothing yet
    server.hear("2026-11-30T12:00:00.500Z")
    began = server.now()
    assert format_time(began) == "2026-11-30T12:00:00.500Z"
    clocks.set_by = -86_400.0  # whatever somebody sets
    clocks.passed += 90
    assert server.now() == began + 90
    nothings: list[object] = [None, 7, "soon", "2026-11-30", {}]
    for nothing in nothings:
        server.hear(nothing)
    assert server.now() == began + 90
    server.hear("2026-11-30T11:00:00.000Z")  # the server's was set back
    assert format_time(server.now()) == "2026-11-30T11:00:00.000Z"


def test_a_connection_is_dead_after_its_silence_and_one_more_look(clocks: Clocks) -> None:
    silence = Silence()
    assert (Silence.look_s(37.5), Silence.look_s(5.0)) == (3.0, 1.0)
    clocks.passed += 37
    assert not silence.is_dead(37.5)
    clocks.passed += 1
    assert not silence.is_dead(37.5)  # what has come meanwhile is looked for first
    assert silence.is_dead(37.5)
    silence.heard()
    assert not silence.is_dead(37.5)
    clocks.passed += 3600  # asleep
    clocks.set_by = -7200  # and woken up with a wrong clock
    assert not silence.is_dead(37.5)
    assert silence.is_dead(37.5)


@pytest.mark.anyio
@pytest.mark.parametrize("make", [watch, watch_sync])
@pytest.mark.parametrize("set_by", [-3600.0, 0.0, 3600.0])
async def test_a_connection_that_died_in_sleep_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, set_by: float
) -> None:
    monkeypatch.setattr(Silence, "LONGEST_LOOK_S", 0.05)
    real, asleep = clock.passed_s, 0.0
    monkeypatch.setattr(clock, "passed_s", lambda: real() + asleep)
    told: list[ConnectionStatus] = []
    async with serving(tmp_path / "t.db", heartbeat_s=600, ws_ping_s=600) as server, proxy(server.url) as line:
        api = Api(server.url)
        await asyncio.to_thread(api.create_trace, {"trace_id": "t", "task": "x"})
        await asyncio.to_thread(api.append, "t", [{"event": "thought"}])
        made = make("t", url=line.url, on_status=told.append)
        reading = asyncio.create_task(asyncio.to_thread(lambda: list(made)) if make is watch_sync else _all(made))
        await until(lambda: made.status == "live")
        line.swallow_answers = True  # as behind a router that has forgotten the connection
        asleep += 3600
        if set_by:
            wall = time.time
            monkeypatch.setattr(time, "time", lambda: wall() + set_by)
        await until(lambda: made.status == "reconnecting")
        line.swallow_answers = False
        await asyncio.to_thread(api.append, "t", [{"event": "trace_completed", "status": "completed"}])
        assert [event["event_id"] for event in await asyncio.wait_for(reading, 60)] == [1, 2]
    assert [news.kind for news in told] == ["connected", "caught_up", "lost", "reconnected"]


async def _all(made: Any) -> list[Any]:
    return [event async for event in made]


@pytest.mark.anyio
@pytest.mark.parametrize("set_by", [-600.0, 600.0])
async def test_a_client_whose_clock_is_wrong_knows_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_by: float
) -> None:
    async with serving(tmp_path / "t.db") as server:
        api = Api(server.url)
        await asyncio.to_thread(api.create_trace, {"trace_id": "t", "task": "x"})
        wall, began = time.time, time.monotonic()
        read, right = Api(server.url), wall()
        async with watch("t", url=server.url, until=None) as made:
            reading = asyncio.create_task(_all(made))
            await asyncio.to_thread(read.trace, "t")
            await until(lambda: made.status == "live")
            monkeypatch.setattr(time, "time", lambda: wall() + set_by)
            for told in (read.now(), made.now()):
                assert abs(told - right) <= time.monotonic() - began + 1
            made.close()
            assert await reading == []
