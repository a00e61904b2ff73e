"""Hints over Redis: a commit of another process is heard of at once rather than at the next poll.

Rule 1: Redis works beside the poll and never instead of it: the poll keeps its pace. So there is nothing to fall back
        to, and a fault of Redis, at either end, costs no more than the time to the next poll.
Rule 2: a hint says "this trace may have grown to this event" and nothing else. It may be lost, late, repeated or
        nonsense, so it is never believed: its receiver asks the log.
Rule 3: publishing is noting an id. It never waits, and hints that Redis is too slow to take are dropped.
Rule 4: the two connections (one publishes, one hears) live and die together. They count as healthy only after a message
        that was sent on the one has arrived on the other, so no state is half working.

The channel of a trace is ``tracewatch:<epoch>:<trace_id>``, subscribed while somebody watches the trace here. The list
of traces has none: it is sent ten times a second at the most, and the poll is faster than that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import orjson
from redis.asyncio.connection import AbstractConnection, ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..errors import LogError
from ..log import EventLog, Grown
from .hub import Hub

logger = logging.getLogger("tracewatch.redis")

TICK_S = 0.2  # an idle connection is pinged this often
SILENT_TICKS = 3  # so many without an answer are well; with the next one, within 0.8 s, it is dead
CONNECT_S = 3.0  # for connecting, signing in and the first message there and back
RETRY_S = 0.1  # about this long before the first new attempt; doubled with each one that fails
RETRY_MAX_S = 2.0
PENDING = 1024  # traces whose hint waits to be published; more are dropped
BATCH = 128  # hints sent before their answers are awaited
SUBSCRIBE = 500  # channels in one command

RedisCommand = tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class HintHealth:
    """Whether hints travel. Watching goes on when they do not: ``degraded`` is slower, not wrong."""

    ok: bool
    degraded: bool
    reason: str | None  # for a person; without addresses and credentials


class RedisLink:
    """One connection to Redis that knows how long nothing has been heard on it."""

    def __init__(self, connection: AbstractConnection) -> None:
        self.silent_ticks = 0  # since the last answer
        self._connection = connection

    async def connect(self) -> None:
        """Connect and sign in."""
        connect: Callable[[], Awaitable[None]] = self._connection.connect
        await connect()

    async def send(self, commands: Sequence[RedisCommand]) -> None:
        """Send commands at once; the answers are for ``read``."""
        await self._connection.send_packed_command(self._connection.pack_commands(commands))

    async def read(self) -> Any:
        """The next answer or message. Raises RedisError for one that is an error."""
        reply = await self._connection.read_response()
        self.silent_ticks = 0
        return reply

    async def close(self) -> None:
        """Close without waiting for the other side, which may be what is dead."""
        with suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)


def connector(url: str) -> Callable[[], AbstractConnection]:
    """What makes connections to ``url``. Raises LogError if it is no address of a Redis."""
    # Protocol 2: in version 3 messages and answers share a stream in ways that differ between versions of the client
    ours: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_S,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
    }
    try:
        make: Callable[[], AbstractConnection] = ConnectionPool(**{**parse_url(url), **ours}).make_connection
        make()
    except (ValueError, TypeError, AttributeError, RedisError) as error:
        raise LogError("--redis: not an address that can be used; it looks like redis://host:6379/0") from error
    return make


def address(url: str) -> str:
    """Where ``url`` leads, without the credentials in it."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


class RedisHints:
    """Publishes a hint after each commit of this process, and rings the hub with those of others."""

    def __init__(self, log: EventLog, hub: Hub, url: str) -> None:
        """Start. Raises LogError if ``url`` can't be used; a Redis that can't be reached is no error but ``health``."""
        self._connect = connector(url)
        self._address = address(url)
        self._hub = hub
        self._prefix = f"tracewatch:{log.epoch}:"
        self._by = secrets.token_hex(6)  # marks our own hints, which are no news here
        self._reason: str | None = "not connected yet"
        self._down_since: float | None = None  # None also before the first attempt has come to an end
        self.hints = 0  # heard from other processes
        self._pending: dict[str, int] = {}  # trace_id: the newest event_id, not yet published
        self._work = asyncio.Event()  # set while something is pending
        self._wanted: set[str] = set()  # traces somebody watches here
        self._changed: set[str] = set()  # traces that were begun or ceased to be watched
        self._interest = asyncio.Event()  # set while something is changed
        self._unwatch = hub.on_watched(self._watched)
        self._unlisten = log.listen(self._committed)
        self._task = asyncio.create_task(self._run(), name="tracewatch-redis")

    @property
    def health(self) -> HintHealth:
        """Whether hints travel now."""
        return HintHealth(self._reason is None, self._reason is not None, self._reason)

    async def close(self) -> None:
        """Disconnect."""
        self._unlisten()
        self._unwatch()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- called by the log and the hub, never awaiting ---

    def _committed(self, grown: Sequence[Grown]) -> None:
        if self._reason is not None:
            return  # nothing is owed later: by then the poll has told it
        for one in grown:
            if not one.deleted and (len(self._pending) < PENDING or one.trace_id in self._pending):
                self._pending[one.trace_id] = one.last_event_id
        self._work.set()

    def _watched(self, trace_id: str, watched: bool) -> None:
        (self._wanted.add if watched else self._wanted.discard)(trace_id)
        self._changed.add(trace_id)
        self._interest.set()

    # --- the life of the connections ---

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with self._links() as (publisher, subscriber):
                    failures = 0
                    self._up()
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._publish(publisher))
                        group.create_task(self._subscribe(subscriber))
                        group.create_task(self._hear(subscriber))
                        group.create_task(_notice_silence(publisher, subscriber))
            except Exception as error:  # also a defect: it must not end the server, nor pass for health
                self._down(_first(error))
            await asyncio.sleep(min(RETRY_MAX_S, RETRY_S * 2**failures) * random.uniform(0.5, 1))
            failures = min(failures + 1, 10)

    @asynccontextmanager
    async def _links(self) -> AsyncIterator[tuple[RedisLink, RedisLink]]:
        publisher, subscriber = RedisLink(self._connect()), RedisLink(self._connect())
        try:
            async with asyncio.timeout(CONNECT_S):
                await publisher.connect()
                await subscriber.connect()
                await self._prove(publisher, subscriber)
            yield publisher, subscriber
        finally:
            await publisher.close()
            await subscriber.close()

    async def _prove(self, publisher: RedisLink, subscriber: RedisLink) -> None:
        """Send a message from one to the other: rights, and that both are connected to the same Redis."""
        channel, token = f"{self._prefix}/", secrets.token_bytes(8)  # no trace_id has a slash
        await subscriber.send([("SUBSCRIBE", channel)])
        await subscriber.read()
        await publisher.send([("PUBLISH", channel, token)])
        await publisher.read()
        while (await subscriber.read())[2] != token:
            pass  # another process is proving the same
        await subscriber.send([("UNSUBSCRIBE", channel)])

    def _up(self) -> None:
        self._reason = None
        if self._down_since is None:
            logger.info("Redis at %s is connected", self._address)
        else:  # as loud as what it ends
            logger.warning("Redis at %s is back after %.1f s", self._address, time.monotonic() - self._down_since)
        self._down_since = None

    def _down(self, error: BaseException) -> None:
        self._reason = _reason(error, was_up=self._reason is None)
        self._pending.clear()
        if self._down_since is None:
            self._down_since = time.monotonic()
            known = isinstance(error, RedisError | OSError)
            text = "Redis at %s: %s. Watching goes on by the poll; trying again"
            logger.warning(text, self._address, self._reason, exc_info=None if known else error)

    # --- what runs while connected ---

    async def _publish(self, link: RedisLink) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._work.wait()
            batch = [(trace_id, self._pending.pop(trace_id)) for trace_id in tuple(islice(self._pending, BATCH))]
            if not self._pending:
                self._work.clear()
            commands: list[RedisCommand] = [
                ("PUBLISH", self._prefix + trace_id, orjson.dumps({"last_event_id": last, "by": self._by}))
                for trace_id, last in batch
            ]
            commands = commands or [("PING",)]
            await link.send(commands)
            for _ in commands:
                await link.read()

    async def _subscribe(self, link: RedisLink) -> None:
        subscribed: set[str] = set()
        self._changed = set(self._wanted)
        while True:
            changed, self._changed = self._changed, set()
            self._interest.clear()
            begun = (changed & self._wanted) - subscribed
            ceased = (changed & subscribed) - self._wanted
            subscribed = (subscribed | begun) - ceased if changed else subscribed
            commands = [*self._commands("SUBSCRIBE", begun), *self._commands("UNSUBSCRIBE", ceased), ("PING",)]
            await link.send(commands)
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._interest.wait()

    def _commands(self, name: str, trace_ids: set[str]) -> list[RedisCommand]:
        channels = [self._prefix + trace_id for trace_id in trace_ids]
        return [(name, *channels[at : at + SUBSCRIBE]) for at in range(0, len(channels), SUBSCRIBE)]

    async def _hear(self, link: RedisLink) -> None:
        while True:
            reply = await link.read()
            if isinstance(reply, list) and reply[0] == b"message":
                self._heard(reply[1], reply[2])
                await asyncio.sleep(0)  # a flood that lies in the buffer must not hold up the loop

    def _heard(self, channel: bytes, payload: bytes) -> None:
        try:
            hint = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return  # anybody can publish anything
        if isinstance(hint, dict) and type(last := hint.get("last_event_id")) is int and hint.get("by") != self._by:
            self.hints += 1
            self._hub.hint(channel.decode(errors="replace").removeprefix(self._prefix), last)


async def _notice_silence(*links: RedisLink) -> None:
    """Raise once a link has not answered its pings. Counted, so that a loop that was held up itself blames nobody."""
    while True:
        await asyncio.sleep(TICK_S)
        for link in links:
            link.silent_ticks += 1
            if link.silent_ticks > SILENT_TICKS:
                raise TimeoutError


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _reason(error: BaseException, *, was_up: bool) -> str:
    """What is wrong, for a person."""
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return f"it refuses the credentials: {str(error)[:200]}"
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return "it does not answer"
    if isinstance(error, BusyLoadingError):
        return "it is loading its data"
    if isinstance(error, RedisConnectionError | OSError):
        cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        number = (cause.errno if isinstance(cause, OSError) else None) or 0
        why = f": {os.strerror(number)}" if number > 0 else ""
        return "the connection was lost" if was_up else f"it can't be reached{why}"
    if isinstance(error, RedisError):
        return f"it answers with an error: {str(error)[:200]}"
    return "an internal error"
