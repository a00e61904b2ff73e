"""Hints over a real Redis: they carry, and whatever happens to it nothing is lost, doubled or left half-working.

Two logs on one file with a hub each stand for two processes. ``SLOW`` is a poll that never comes: what arrives then has
come through Redis. The faults run with the usual poll, and with events being appended all the time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from tests.log.helpers import create, notes
from tests.redis_server import MISSING, RedisServer, in_wheel, on_path
from tests.support import DEADLINE_S, serving, until
from tracewatch.errors import InvalidField, LogError
from tracewatch.live import redis as hints
from tracewatch.live.bell import PollBell
from tracewatch.live.hub import Hub
from tracewatch.live.redis import PENDING, Health, RedisBell, connector
from tracewatch.live.sink import Frame
from tracewatch.live.watcher import WatchRequest
from tracewatch.log import EventLog, Grown, open_log
from tracewatch.settings import Settings

pytestmark = pytest.mark.anyio
SLOW, USUAL = 3_600_000, 20  # ms
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def binary() -> str:
    found = on_path() or in_wheel()
    if found is None:
        assert not os.environ.get("CI"), MISSING
        pytest.skip(MISSING)
    return found


@pytest.fixture
def server(binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that is not running yet."""
    made = RedisServer(binary, tmp_path)
    yield made
    made.kill()


class Heard:
    """A sink that keeps the ids of the events it is sent."""

    direct = False

    def __init__(self) -> None:
        self.ids: list[int] = []

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def buffered(self) -> int:
        raise NotImplementedError

    def write_control(self, payload: bytes) -> None:
        raise NotImplementedError

    async def send_events(self, frames: Sequence[Frame]) -> None:
        self.ids += [frame.event_id for frame in frames]

    async def send_control(self, payload: bytes) -> None:
        pass


@dataclass(eq=False)
class Side:
    """What a process has."""

    log: EventLog
    hub: Hub
    bell: RedisBell
    watches: list[asyncio.Task[str]] = field(default_factory=list)

    def watch(self, trace_id: str = "t") -> Heard:
        """A watcher of a trace."""
        heard = Heard()
        request = WatchRequest(trace_id, wait=True)
        self.watches.append(asyncio.create_task(self.hub.watch(request, heard)))
        return heard

    async def leave(self) -> None:
        """All watchers go."""
        for task in self.watches:
            task.cancel()
        await asyncio.gather(*self.watches, return_exceptions=True)
        self.watches.clear()

    async def healthy(self) -> None:
        await until(lambda: self.bell.health.ok)

    async def degraded(self) -> str:
        await until(lambda: self.bell.health.degraded)
        return self.bell.health.reason or ""


@asynccontextmanager
async def side(db: Path, url: str, poll_ms: int = USUAL) -> AsyncIterator[Side]:
    log = await open_log(str(db))
    hub = Hub(log)
    poll = PollBell(log, hub.grown, poll_ms=poll_ms)
    one = Side(log, hub, RedisBell(log, hub, url))
    try:
        yield one
    finally:
        await one.leave()
        await one.bell.close()
        await poll.close()
        await hub.close()
        await log.close()


@asynccontextmanager
async def two(db: Path, urls: str | tuple[str, str], poll_ms: int = USUAL) -> AsyncIterator[tuple[Side, Side]]:
    """Two processes on one file."""
    first, second = (urls, urls) if isinstance(urls, str) else urls
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(side(db, first, poll_ms)),
            await stack.enter_async_context(side(db, second, poll_ms)),
        )


async def channels(server: RedisServer) -> list[str]:
    """What anybody is subscribed to."""
    return sorted(channel.decode() for channel in await command(server, "PUBSUB", "CHANNELS"))


async def command(server: RedisServer, *words: Any) -> Any:
    async with Redis(port=server.port) as client:
        execute: Callable[..., Awaitable[Any]] = client.execute_command
        return await execute(*words)


async def subscribed(server: RedisServer, *names: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await channels(server) != sorted(names):  # noqa: ASYNC110 (another process is asked)
            await asyncio.sleep(0.01)


class Lines:
    """What tracewatch.redis has logged at warning or above."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "tracewatch.redis")
        self._caplog = caplog

    def __call__(self, level: int = logging.WARNING) -> list[str]:
        ours = [record for record in self._caplog.records if record.name == "tracewatch.redis"]
        assert not any(record.exc_info for record in ours)
        return [record.getMessage() for record in ours if record.levelno >= level]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


# --- what Redis is for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("find", [on_path, in_wheel])
async def test_hints_carry_both_ways_without_a_poll(find: Callable[[], str | None], tmp_path: Path) -> None:
    binary = find()
    if binary is None:
        pytest.skip(f"{find.__name__}: no redis-server there")
    with RedisServer(binary, tmp_path) as server:
        async with two(tmp_path / "log.db", server.url, SLOW) as (a, b):
            await create(a.log)
            await a.healthy()
            await b.healthy()
            at_a, at_b = a.watch(), b.watch()
            await subscribed(server, f"tracewatch:{a.log.epoch}:t")
            for number in range(10):
                await (a, b)[number % 2].log.append("t", notes(3))
                await until(lambda: len(at_a.ids) == len(at_b.ids) == 3 * number + 3)  # noqa: B023
            assert at_a.ids == at_b.ids == list(range(1, 31))


async def test_a_watch_that_waits_for_its_trace_is_woken(server: RedisServer, tmp_path: Path) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url, SLOW) as (a, b):
            heard = b.watch("later")
            await a.healthy()
            await subscribed(server, f"tracewatch:{a.log.epoch}:later")
            await create(a.log, "later")
            await a.log.append("later", notes(2))
            await until(lambda: heard.ids == [1, 2])


async def test_subscribed_only_while_somebody_watches(server: RedisServer, tmp_path: Path) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b):
            prefix = f"tracewatch:{a.log.epoch}:"
            await a.healthy()
            await b.healthy()
            await subscribed(server)  # the proof's channel is gone as well
            for trace_id in ("t", "u"):
                await create(a.log, trace_id)
            a.watch("t")
            b.watch("t")
            b.watch("u")
            await subscribed(server, prefix + "t", prefix + "u")
            await b.leave()
            await subscribed(server, prefix + "t")
            await a.leave()
            await subscribed(server)


async def test_what_was_watched_is_subscribed_again_after_a_restart(server: RedisServer, tmp_path: Path) -> None:
    """More than fit one command; without a poll, so that only a subscription can bring the event."""
    with server:
        async with two(tmp_path / "log.db", server.url, SLOW) as (a, b):
            await create(a.log)
            names = [f"w{number}" for number in range(hints.SUBSCRIBE + 1)]
            for name in names:
                b.watch(name)
            heard = b.watch()
            server.kill()
            await a.degraded()
            await b.degraded()
            server.start()
            await a.healthy()
            await b.healthy()
            await subscribed(server, *(f"tracewatch:{a.log.epoch}:{name}" for name in [*names, "t"]))
            await a.log.append("t", notes(1))
            await until(lambda: heard.ids == [1])


async def test_own_hints_are_no_news(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b):
            rung: dict[Side, list[int]] = {a: [], b: []}
            for one in (a, b):
                monkeypatch.setattr(one.hub, "hint", lambda _, last, one=one: rung[one].append(last))
            await create(a.log)
            a.watch()
            b.watch()
            await a.healthy()
            await b.healthy()
            await subscribed(server, f"tracewatch:{a.log.epoch}:t")
            await a.log.append("t", notes(1))
            await until(lambda: rung[b] == [1])
            await b.log.append("t", notes(1))
            await until(lambda: rung[a] == [2])  # what comes back of its own came before this


# --- hints are only hints ---------------------------------------------------------------------------------------


async def test_nonsense_late_and_repeated_hints_change_nothing(server: RedisServer, tmp_path: Path) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b):
            await create(a.log)
            await b.healthy()
            heard = b.watch()
            channel = f"tracewatch:{a.log.epoch}:t"
            await subscribed(server, channel)
            await a.log.append("t", notes(5))
            ids: list[Any] = [None, True, "6", 1.5, [], -1, 0, 1, 5, 5, 3, 6, 2**63]
            said = [b"", b"\xff", b"{", b"[]", b"null", b"7", *(orjson.dumps({"last_event_id": one}) for one in ids)]
            said.append(b'{"last_event_id":1' + b"0" * 40 + b"}")
            said.append(b'{"last_event_id":1000000,"status":"completed","deleted":true,"bodies":["x"]}')
            for payload in said:
                assert await command(server, "PUBLISH", channel, payload) == 1
            await a.log.append("t", notes(5))
            await until(lambda: len(heard.ids) >= 10)
            assert heard.ids == list(range(1, 11))
            assert b.bell.health == Health(True, False, None)
            assert not b.watches[0].done()


async def test_what_redis_does_not_take_is_dropped(server: RedisServer, tmp_path: Path) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, _):
            await a.healthy()
            server.hang()
            try:
                for number in range(PENDING + 500):
                    a.bell._committed([Grown(f"t{number}", 1, "running")])
                    a.bell._committed([Grown("t0", number, "running")])
                assert len(a.bell._pending) == PENDING
                assert a.bell._pending["t0"] == PENDING + 499  # one for each trace, the newest
                await a.degraded()
                assert not a.bell._pending
                a.bell._committed([Grown("t", 1, "running")])
                assert not a.bell._pending  # nothing is kept for later
            finally:
                server.wake()
            await a.healthy()


# --- faults -----------------------------------------------------------------------------------------------------


class Traffic:
    """Appends at both sides all the time; each has a watcher, and both get everything once."""

    def __init__(self, a: Side, b: Side) -> None:
        self.sides = (a, b)
        self.heard = (a.watch(), b.watch())
        self.appended = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            for one in self.sides:
                self.appended = (await one.log.append("t", notes(1))).last_event_id
                await asyncio.sleep(0.01)

    async def goes_on(self) -> None:
        """Events that are appended from now on arrive at both."""
        assert not self._task.done(), self._task
        goal = self.appended + 10
        await until(lambda: min(len(heard.ids) for heard in self.heard) >= goal)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        last = (await self.sides[0].log.read("t", 0, max_events=1, max_bytes=1)).last_event_id
        await until(lambda: all(len(heard.ids) >= last for heard in self.heard))
        for heard in self.heard:
            assert heard.ids == list(range(1, last + 1))


@asynccontextmanager
async def traffic(a: Side, b: Side) -> AsyncIterator[Traffic]:
    await create(a.log)
    running = Traffic(a, b)
    await running.goes_on()
    yield running
    await running.goes_on()
    await running.end()


async def test_absent_at_start(server: RedisServer, tmp_path: Path, lines: Lines) -> None:
    async with two(tmp_path / "log.db", server.url) as (a, b), traffic(a, b) as going:
        await until(lambda: len(lines()) == 2)
        assert a.bell.health == Health(False, True, "it can't be reached: Connection refused")
        text = f"Redis at 127.0.0.1:{server.port}: it can't be reached: Connection refused"
        assert all(line == f"{text}. Watching goes on by the poll; trying again" for line in lines())
        await going.goes_on()
        server.start()
        await a.healthy()
        await b.healthy()
        assert len(lines()) == 4  # one each way for each process
        assert all("is back after" in line for line in lines()[2:])


async def test_killed_and_restarted(server: RedisServer, tmp_path: Path, lines: Lines) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b), traffic(a, b) as going:
            await a.healthy()
            await b.healthy()
            for times in (1, 2):
                server.kill()
                assert await a.degraded()
                assert await b.degraded()
                await going.goes_on()
                assert len(lines()) == 4 * times - 2
                server.start()
                await a.healthy()
                await b.healthy()
                assert len(lines()) == 4 * times
            assert "the connection was lost" in lines()[0]


async def test_hung(server: RedisServer, tmp_path: Path, lines: Lines) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b), traffic(a, b) as going:
            await a.healthy()
            await b.healthy()
            server.hang()
            try:
                assert await a.degraded() == "it does not answer"
                assert await b.degraded() == "it does not answer"
                await going.goes_on()
            finally:
                server.wake()
            await a.healthy()
            await b.healthy()
            assert len(lines()) == 4


async def test_hung_before_the_start_and_closed_meanwhile(server: RedisServer, tmp_path: Path) -> None:
    """Closing does not wait for a Redis that says nothing."""
    with server:
        server.hang()
        async with two(tmp_path / "log.db", server.url) as (a, b), traffic(a, b):
            assert a.bell.health.degraded
        server.wake()


async def test_flushed(server: RedisServer, tmp_path: Path, lines: Lines) -> None:
    """Nothing is kept in Redis, so there is nothing to lose."""
    with server:
        async with two(tmp_path / "log.db", server.url, SLOW) as (a, b):
            await a.healthy()
            await b.healthy()
            watches = traffic(a, b)
            assert await command(server, "DBSIZE") == 0
            async with watches as going:
                await command(server, "FLUSHALL")
                await going.goes_on()  # without a poll
            assert await command(server, "DBSIZE") == 0
            assert lines() == []


@pytest.mark.parametrize("password", ["", ":s3cret-wrong@"])
async def test_wrong_credentials(
    binary: str, tmp_path: Path, lines: Lines, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    """At one side only: it says so, the other is well, and both see everything. Recovery once they are right."""
    with RedisServer(binary, tmp_path, "--requirepass", "right") as server:
        right, wrong = (server.url.replace("//", f"//{given}") for given in (":right@", password))
        async with two(tmp_path / "log.db", (right, wrong)) as (a, b), traffic(a, b) as going:
            await a.healthy()
            await until(lambda: lines())
            await going.goes_on()
            assert (b.bell.health.reason or "").startswith("it refuses the credentials: ")
            assert a.bell.health.ok
            assert len(lines()) == 1
            async with Redis(port=server.port, password="right") as client:
                await client.config_set("requirepass", password.strip(":@"))
            await b.healthy()
            assert len(lines()) == 2
        assert "s3cret" not in caplog.text
        assert "right@" not in caplog.text


@pytest.mark.parametrize("missing", ["-publish", "-subscribe", "resetchannels"])
async def test_rights_that_do_not_suffice_are_found_before_a_hint_is_lost(
    server: RedisServer, tmp_path: Path, lines: Lines, missing: str
) -> None:
    with server:
        await command(server, "ACL", "SETUSER", "tw", "on", ">pw", "~*", "&*", "+@all", missing)
        url = server.url.replace("//", "//tw:pw@")
        async with two(tmp_path / "log.db", (server.url, url)) as (a, b), traffic(a, b) as going:
            await until(lambda: lines())
            await going.goes_on()
            assert "permission" in await b.degraded()
            assert a.bell.health.ok
            await command(server, "ACL", "SETUSER", "tw", "&*", "+@all")
            await b.healthy()
            assert len(lines()) == 2


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_one_of_the_two_connections_dies(server: RedisServer, tmp_path: Path, lines: Lines, kind: str) -> None:
    """The one that hears or the one that publishes: the side notices, and comes back as a whole."""
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b), traffic(a, b) as going:
            await a.healthy()
            await b.healthy()
            await subscribed(server, f"tracewatch:{a.log.epoch}:t")
            await command(server, "CLIENT", "KILL", "TYPE", kind)
            await until(lambda: len(lines()) == 4)
            await a.healthy()
            await b.healthy()
            await going.goes_on()
            assert [("lost" in line, "back" in line) for line in lines()].count((True, False)) == 2
            assert await command(server, "PUBSUB", "NUMSUB", f"tracewatch:{a.log.epoch}:t") == [
                f"tracewatch:{a.log.epoch}:t".encode(),
                2,
            ]


async def test_two_redis_that_know_nothing_of_each_other(binary: str, tmp_path: Path) -> None:
    """A mistake no process can see from its own end; it costs the time to the next poll."""
    with RedisServer(binary, tmp_path) as one, RedisServer(binary, tmp_path) as other:
        async with two(tmp_path / "log.db", (one.url, other.url)) as (a, b):
            await a.healthy()
            await b.healthy()
            async with traffic(a, b):
                pass


async def test_not_a_redis_at_all(tmp_path: Path, lines: Lines) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with two(tmp_path / "log.db", url) as (a, b), traffic(a, b):
            await until(lambda: len(lines()) == 2)
            assert a.bell.health.degraded


# --- wiring -----------------------------------------------------------------------------------------------------


async def test_the_server_has_it(server: RedisServer, tmp_path: Path) -> None:
    with server:
        db = tmp_path / "log.db"
        async with serving(db, redis=server.url) as a, serving(db, redis=server.url) as b, serving(db) as without:
            assert without.services.redis is None
            for one in (a, b):
                bell = one.services.redis
                assert bell is not None
                await until(lambda: bell.health.ok)  # noqa: B023


@pytest.mark.parametrize("url", ["redis://h:s3cret", "redis://:s3cret@h:port", "redis://h:1/x?socket_timeout=s3cret"])
def test_an_address_that_can_not_be_used_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(LogError, match="--redis: not an address") as caught:
        connector(url)
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("url", ["http://h", "redis://", "h:6379", "reds://:s3cret@h"])
def test_a_setting_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidField, match="TRACEWATCH_REDIS: must be an address that begins with redis://") as caught:
        Settings.from_env({"TRACEWATCH_REDIS": url})
    assert "s3cret" not in str(caught.value.body())


def test_without_the_extra_serve_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "import tracewatch\nfrom tracewatch.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    argv = ["serve", "--db", str(tmp_path / "log.db"), "--port", "0", "--redis", "redis://127.0.0.1:1"]
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert "pip install 'tracewatch[redis]'" in done.stderr
