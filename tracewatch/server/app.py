"""``create_app()``: all wiring, and nothing but wiring."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from ..errors import TracewatchError
from ..live.hints import PollHints, load_redis
from ..live.hub import Hub
from ..live.watcher import WatchLimits
from ..log import EventLog, open_log
from ..settings import Settings
from .application import Application
from .auth.limiter import Limiter
from .auth.origin import OriginMiddleware, is_loopback, own_names
from .auth.tokens import Gate
from .http import Services, on_disconnect, on_error
from .metrics.exposition import own_numbers
from .metrics.seen import Observed
from .metrics.workers import Place, Siblings
from .process import look_at_descriptors
from .retention import retain
from .routes import routes
from .stalls import StallGuard

if TYPE_CHECKING:
    from ..live.redis import RedisHints

EXPIRY_CHECK_S = 1.0  # a lease or a question that has run out is noticed this much later at the most


def create_app(settings: Settings | None = None, place: Place | None = None) -> Application:
    """The ASGI application. Without ``settings`` they come from the environment. The log is opened at startup.

    ``place``: which of several worker processes this is.

    To mount it: ``host.mount("/tracewatch", app)`` and ``app.lifespan`` in the host's lifespan.

    Raises LogError as ``load_redis``.
    """
    chosen = settings or Settings.from_env(os.environ)
    redis_hints = load_redis(chosen.redis) if chosen.redis else None

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        observed = Observed(app.routes, access_log=chosen.access_log)
        siblings = Siblings(place or Place(), lambda: own_numbers(app.state.services))
        try:
            async with _serve(chosen, redis_hints, observed, siblings) as app.state.services:
                try:
                    await siblings.begin()
                    yield
                finally:
                    await siblings.close()
        finally:
            if hasattr(app.state, "services"):  # not where the log could not be opened
                del app.state.services

    return Application(
        secure=bool(chosen.ssl_certfile),
        routes=routes(),
        lifespan=lifespan,
        middleware=[_access(chosen)],
        exception_handlers={
            **dict.fromkeys((TracewatchError, HTTPException, Exception), on_error),
            ClientDisconnect: on_disconnect,
        },
    )


@asynccontextmanager
async def _serve(
    chosen: Settings,
    redis_hints: Callable[[EventLog, Hub], RedisHints] | None,
    observed: Observed,
    siblings: Siblings,
) -> AsyncIterator[Services]:
    """The log, opened, and all that stands on it."""
    log = await open_log(
        chosen.db,
        max_event_bytes=chosen.max_event_bytes,
        max_batch_events=chosen.max_batch_events,
        max_waiting_bytes=chosen.max_waiting_bytes,
        lock_wait_s=chosen.lock_wait_s,
    )
    hub = Hub(
        log,
        limits=WatchLimits(
            page_events=chosen.page_events,
            page_bytes=min(chosen.page_bytes, chosen.watcher_bytes // 2),
            frame_bytes=chosen.max_frame_bytes,
            heartbeat_s=chosen.heartbeat_s,
        ),
        max_watchers=chosen.max_watchers,
        watcher_bytes=chosen.watcher_bytes,
        frames_in_flight_bytes=chosen.frames_in_flight_bytes,
    )
    poll = PollHints(log, hub.grown, poll_ms=chosen.poll_ms)
    redis = redis_hints(log, hub) if redis_hints is not None else None
    stalls = StallGuard(stall_s=chosen.write_stall_s)
    gate = _gate(log, chosen, observed)
    works = (_expire(log), retain(log, chosen), stalls.run(), _send_away(log, hub, chosen.goaway_ms))
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield Services(log, hub, chosen, stalls, poll, observed, siblings, gate, redis)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Mounted into another application, this is the first that watchers hear of it
        await hub.goaway(chosen.goaway_ms, chosen.shutdown_s / 2)
        await gate.close()
        if redis is not None:
            await redis.close()
        await poll.close()
        await hub.close()
        await log.close()


def _gate(log: EventLog, settings: Settings, observed: Observed) -> Gate:
    def refused(code: str) -> None:
        observed.auth_failures[code] += 1

    limiter = Limiter(failures=settings.auth_failures, retry_s=settings.auth_retry_s)
    return Gate(log, always=needs_token(settings), limiter=limiter, check_s=settings.token_check_s, on_refused=refused)


def _access(settings: Settings) -> Middleware:
    names = own_names(settings.host, settings.allowed_hosts)
    return Middleware(OriginMiddleware, names, remote=not is_loopback(settings.host))


def needs_token(settings: Settings) -> bool:
    """Whether a token is needed even if none was ever made: others than those on this machine may reach the server."""
    return not is_loopback(settings.host) or bool(settings.allowed_hosts or settings.proxy)


async def _expire(log: EventLog) -> None:
    """Mark what has run out, beginning with what did while no server was there; see whether descriptors have."""
    while True:
        look_at_descriptors(log.health)
        for expire in (log.expire_leases, log.expire_inputs):
            try:
                await expire()
            except TracewatchError:
                pass  # the log has said so; asked again in a moment, and what has run out stays so
        await asyncio.sleep(EXPIRY_CHECK_S)


async def _send_away(log: EventLog, hub: Hub, after_ms: int) -> None:
    """Once another file stands in the log's place, tell all clients to come back: they get 503 until a restart."""
    await log.replaced.wait()
    hub.send_away(after_ms)
