"""Two logs on one file with a hub each, which stand for two processes that give each other hints over a Redis.

``SLOW`` is a poll that never comes, so that every event that arrives has come by a hint of Redis.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.log.helpers import create, notes
from tests.redis_server import RedisServer
from tests.support import DEADLINE_S, until
from tracewatch.live.hints import PollHints
from tracewatch.live.hub import Hub
from tracewatch.live.redis import RedisHints
from tracewatch.live.sink import Frame
from tracewatch.live.watcher import WatchLimits, WatchRequest
from tracewatch.log import EventLog, open_log

SLOW, USUAL = 3_600_000, 20  # ms


class Heard:
    """A sink that keeps the ids of the events it is sent."""

    direct = False

    def __init__(self) -> None:
        self.ids: list[int] = []

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def buffered(self) -> int:
        return 0

    async def ready(self) -> None:
        pass

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
    redis: RedisHints
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
        await until(lambda: self.redis.health.ok)

    async def degraded(self) -> str:
        await until(lambda: self.redis.health.degraded)
        return self.redis.health.reason or ""


@asynccontextmanager
async def side(db: Path, url: str, poll_ms: int = USUAL) -> AsyncIterator[Side]:
    log = await open_log(str(db))
    hub = Hub(log, limits=WatchLimits(heartbeat_s=3600))  # a heartbeat would look into the log
    poll = await PollHints.begun(log, hub.hinted, poll_ms=poll_ms)
    one = Side(log, hub, RedisHints(log, hub, url))
    try:
        yield one
    finally:
        await one.leave()
        await one.redis.close()
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


class Relay:
    """Between a side and its Redis: single connections can be made to swallow all that is sent, both ways."""

    def __init__(self, port: int) -> None:
        self.connections = 0  # so far
        self.dead: set[int] = set()  # numbers of connections, from 0
        self.url = ""
        self._port = port

    async def _pipe(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if number not in self.dead:
                    writer.write(data)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pipe(number, reader, back), self._pipe(number, there, writer))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Relay]:
        """While it takes connections, at ``url``."""
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with listener:
            yield self
