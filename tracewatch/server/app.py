"""``create_app()``: the ASGI application, served by itself or mounted into another one, and all its wiring.

Rule 1: every answer has the headers that keep browsers from doing more with it than it is meant for.
Rule 2: an application whose lifespan was not run says so at the first request, to the client and in the log.
Rule 3: no answer names the path below which the application is reached: a proxy may have cut it off the request.
Rule 4: components take plain arguments. Settings are read here, and by handlers, which find them in ``Services``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from ..errors import LogError, TracewatchError, Unavailable, UpgradeRequired
from ..ingest.hooked import HookedSessions
from ..ingest.ingester import Ingester
from ..ingest.store import LogStore
from ..live.hints import PollHints, load_redis
from ..live.hub import Hub
from ..live.watcher import WatchLimits
from ..log import EventLog, Policy, Prices, open_log, read_prices
from ..settings import Settings
from .answers import Checker
from .auth.limiter import Limiter
from .auth.origin import OriginMiddleware, is_loopback, own_names
from .auth.tokens import Gate
from .hooks import release_held
from .http import Services, on_disconnect, on_error, refuse
from .metrics.exposition import own_numbers
from .metrics.seen import Observed, because
from .metrics.workers import Place, Siblings
from .process import look_at_descriptors
from .proxies import DOCS, Mistake, looks_like_a_page, path_mistake
from .routes import starlette_routes
from .stalls import StallGuard
from .uvicorn import socket_of, transport_of

if TYPE_CHECKING:
    from ..live.redis import RedisHints
    from .grpc import GrpcDoor

logger = logging.getLogger("tracewatch.server")
EXPIRY_CHECK_S = 1.0  # a lease or a question that has run out is marked at most this much later
KEEP_FREE_SHARE = 0.1  # of the file may stay free: what is let go in one minute is filled again in the next
INDEX_BUSY, INDEX_IDLE = 20, 0.5  # times as long as a piece took, the indexer waits: while others append, and else
INDEX_GATHER_S = 0.3  # what is appended meanwhile is read together
INDEX_LOOK_S = 2.0
WAL_BYTES = 16 * 1024 * 1024  # of the WAL; it has some 4 MiB while no reader holds it up
NOT_STARTED = (
    "tracewatch is mounted but was not started: a mounted application's lifespan is its host's to run. "
    "With app = create_app(), give the host lifespan=app.lifespan, or run `async with app.lifespan():` in its own"
)
HEADERS = {  # of every answer that does not say otherwise, as pages do
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
HSTS = {"Strict-Transport-Security": "max-age=31536000"}


class Application(Starlette):
    """tracewatch as an ASGI application. ``create_app`` makes it.

    Any ASGI server can serve it: its lifespan opens the log, and closes it at the end. uvicorn serves it best, as its
    watchers are then written to directly; ``tracewatch serve`` runs uvicorn as it should be run.

    To mount it into a Starlette or FastAPI application, give that one its lifespan:

        tracewatch = create_app()
        host = FastAPI(lifespan=tracewatch.lifespan)
        host.mount("/tracewatch", tracewatch)
    """

    def __init__(self, *, secure: bool = False, root_path: str = "", **parts: Any) -> None:
        """``secure``: the connections have TLS of our own, so that browsers are told to insist on it.

        ``root_path``: a path that a proxy may have left before ours, such as ``/watch``.
        ``parts``: the arguments of Starlette's class.
        """
        super().__init__(**parts)
        self.router.redirect_slashes = False  # it would name the whole address, which only the proxy knows
        self.router.default = self._no_route
        self._root_path = root_path
        self._headers = HEADERS | HSTS if secure else HEADERS

    @asynccontextmanager
    async def lifespan(self, host: Any = None) -> AsyncIterator[None]:
        """Run the application within the block: for a host, which does not run the lifespan of what it mounts.

            @asynccontextmanager
            async def lifespan(host):
                async with tracewatch.lifespan():
                    yield

        The log is opened at the begin of the block. At its end watchers are told to come back later, and the log is
        closed. An application served by itself needs none of this. ``host`` is not used: it is there so that the method
        fits ``FastAPI(lifespan=app.lifespan)``.

        Raises RuntimeError if it runs already, LogError if the log can't be opened; its message says why.
        """
        if self.started:
            raise RuntimeError("this tracewatch application runs already; make another one with create_app()")
        async with self.router.lifespan_context(self):
            yield

    @property
    def started(self) -> bool:
        """Whether the lifespan is running, so that requests can be served."""
        return hasattr(self.state, "services")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
        elif not self.started:
            logger.error(NOT_STARTED)
            await refuse(Unavailable(NOT_STARTED), scope, receive, self._with_headers(send))
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        served: Services = self.state.services
        if scope["path"].startswith(("http://", "https://")):  # a whole URL, as clients send it to a proxy
            scope["path"] = urlsplit(scope["path"]).path or "/"
        below = scope.get("root_path", "") + self._root_path
        if scope["path"] == below or scope["path"].startswith(f"{below}/"):
            scope["root_path"] = below
        # Here ``send`` and ``receive`` are still the server's own bound methods; further in they are wrapped
        transport = transport_of(scope, send, receive)
        scope["tracewatch.transport"] = transport
        if scope["type"] == "websocket":
            scope["tracewatch.socket"] = socket_of(scope, send)
        if transport is not None:
            served.stalls.enter(transport, partial(because, scope, "stalled"))
        try:
            if scope["type"] == "http":
                await served.observed.http(super().__call__, scope, receive, self._with_headers(send))
            else:
                await super().__call__(scope, receive, send)
        finally:
            if transport is not None:
                served.stalls.leave(transport)
            # The server's protocol holds the scope, and what is ours in the scope holds the protocol: kilobytes for
            # each connection, which would wait for the garbage collector
            for key in [key for key in scope if key.startswith("tracewatch.")]:
                del scope[key]

    async def _no_route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a path that is none of ours: a redirect where only a slash is missing or too many, else a 404."""
        path, elsewhere = scope["path"].removeprefix(scope.get("root_path", "")), None
        if scope["type"] == "http" and path == "":
            elsewhere = f"./{quote(scope['path'].rpartition('/')[2])}/"
        elif scope["type"] == "http" and path.rstrip("/"):
            bare: str = scope["path"].rstrip("/")
            if bare != scope["path"] and any(
                route.matches({**scope, "path": bare})[0] is not Match.NONE for route in self.routes
            ):
                elsewhere = "../" * (len(scope["path"]) - len(bare)) + quote(bare.rpartition("/")[2], safe=":@")
        if elsewhere is None:
            await self._not_found(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        headers = {"Location": f"{elsewhere}?{query}" if query else elsewhere}
        await Response(status_code=307, headers=headers)(scope, receive, send)

    async def _not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a path that is none of ours with what a proxy may have done to it, where that can be told."""
        kind, path, below = scope["type"], scope["path"], scope.get("root_path", "")
        mistakes, headers = self.state.services.mistakes, Headers(scope=scope)
        if kind == "http" and self._is_ours("websocket", path):
            if not {"upgrade", "sec-websocket-key"}.intersection(headers):
                raise UpgradeRequired("this is a WebSocket's address, asked for by plain HTTP")
            told = ", ".join(f"{name}: {headers.get(name) or 'none'}" for name in ("Upgrade", "Connection"))
            words = mistakes.say(Mistake.UPGRADE, scope, path=path, upgrade=told)
            raise UpgradeRequired(f"{words}. See {DOCS}")
        found = path_mistake(path.removeprefix(below), lambda rest: self._is_ours(kind, below + rest))
        if found is None and looks_like_a_page(path, headers):
            found = Mistake.LEFT, path.rstrip("/")
        if found is None:
            await self.router.not_found(scope, receive, send)
            return
        words = mistakes.say(found[0], scope, path=path, prefix=found[1])
        if kind == "http":
            raise HTTPException(404, f"Not Found ({words}; see {DOCS})")
        await self.router.not_found(scope, receive, send)

    def _is_ours(self, kind: str, path: str) -> bool:
        asked = {"type": kind, "path": path, "root_path": "", "method": "GET"}
        return any(route.matches(asked)[0] is not Match.NONE for route in self.routes)

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                message = {**message, "headers": headers.raw}
            await send(message)

        return sending


def create_app(settings: Settings | None = None, place: Place | None = None) -> Application:
    """The ASGI application: the whole server, but for the port and the process.

        # server.py, for `uvicorn server:app`
        from tracewatch.server import create_app
        from tracewatch.settings import Settings

        app = create_app(Settings(db="runs.db", keep_days=30))

    Nothing is opened yet: the log is opened when the application's lifespan begins. To mount it, see ``Application``.

    ``settings``: the options; None: ``TRACEWATCH_DB`` and all others from the environment (docs/operating.md). Those of
    the port and the process (``port``, ``workers`` …) have no effect here, but ``host``, ``allowed_hosts``, ``proxy``
    say by which names the application may be reached, and whether a token is needed even while none was ever made.
    ``place``: which of several worker processes this one is; only ``tracewatch serve`` gives it.

    Raises InvalidField for a variable of the environment that can't be used, and LogError if the setting ``redis``
    can't be, or an extra that a setting needs (``tracewatch[redis]``, ``tracewatch[grpc]``) is not installed.
    """
    chosen = settings or Settings.from_env(os.environ)
    redis_hints = load_redis(chosen.redis) if chosen.redis else None
    door_of = _load_grpc() if chosen.grpc_port else None

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        observed = Observed(app.routes, access_log=chosen.access_log)
        siblings = Siblings(place or Place(), lambda: own_numbers(app.state.services))
        try:
            async with _services(chosen, redis_hints, observed, siblings) as app.state.services:
                door = None if door_of is None else door_of(app, chosen)
                try:
                    await siblings.begin()
                    if door is not None:
                        await door.open()
                    yield
                finally:
                    if door is not None:
                        await door.close()
                    await siblings.close()
        finally:
            if hasattr(app.state, "services"):  # not if the log could not be opened
                del app.state.services

    return Application(
        secure=bool(chosen.ssl_certfile),
        root_path=chosen.root_path,
        routes=starlette_routes(),
        lifespan=lifespan,
        middleware=[_origin(chosen)],
        exception_handlers={
            **dict.fromkeys((TracewatchError, HTTPException, Exception), on_error),
            ClientDisconnect: on_disconnect,
        },
    )


def _load_grpc() -> type[GrpcDoor]:
    """What opens the port for gRPC. Raises LogError if the extra is not installed."""
    try:
        from .grpc import GrpcDoor
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "grpc":
            raise
        raise LogError("--grpc-port needs a package that is not here: pip install 'tracewatch[grpc]'") from error
    return GrpcDoor


# --- wiring ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _services(
    chosen: Settings,
    redis_hints: Callable[[EventLog, Hub], RedisHints] | None,
    observed: Observed,
    siblings: Siblings,
) -> AsyncIterator[Services]:
    """The log, opened, and all that works on it."""
    log = await open_log(
        chosen.db,
        max_event_bytes=chosen.max_event_bytes,
        max_batch_events=chosen.max_batch_events,
        max_waiting_bytes=chosen.max_waiting_bytes,
        max_trace_blob_bytes=chosen.max_trace_blob_bytes,
        lock_wait_s=chosen.lock_wait_s,
        prices=Prices(read_prices(chosen.prices)),
    )
    hub = _hub(log, chosen)
    poll = await PollHints.begun(log, hub.hinted, poll_ms=chosen.poll_ms)
    redis = redis_hints(log, hub) if redis_hints is not None else None
    stalls = StallGuard(stall_s=chosen.write_stall_s)
    gate, checker = _gate(log, chosen, observed), Checker()
    ingester = Ingester(LogStore(log), lease_s=chosen.ingest_lease_s)
    hooks = HookedSessions(log, ingester.counts, lease_s=chosen.ingest_lease_s)
    await release_held(log)
    if log.finder.index is not None:
        await log.finder.index.step()  # so that there is an index from the first request on
    works = (_expire(log), _retain(log, chosen), _index(log), stalls.run(), _send_away(log, hub, chosen.goaway_ms))
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield Services(log, hub, chosen, stalls, poll, observed, siblings, gate, checker, ingester, hooks, redis)
    finally:
        await hooks.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Mounted into another application, this is the first that watchers hear of it
        await hub.goaway(chosen.goaway_ms, chosen.shutdown_s / 2)
        await gate.close()
        checker.close()
        if redis is not None:
            await redis.close()
        await poll.close()
        await hub.close()
        await log.close()


def _hub(log: EventLog, chosen: Settings) -> Hub:
    return Hub(
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


def _gate(log: EventLog, settings: Settings, observed: Observed) -> Gate:
    def refused(code: str) -> None:
        observed.auth_failures[code] += 1

    limiter = Limiter(failures=settings.auth_failures, retry_s=settings.auth_retry_s)
    return Gate(log, always=needs_token(settings), limiter=limiter, check_s=settings.token_check_s, on_refused=refused)


def _origin(settings: Settings) -> Middleware:
    names = own_names(settings.host, settings.allowed_hosts)
    return Middleware(OriginMiddleware, names, remote=not is_loopback(settings.host))


def needs_token(settings: Settings) -> bool:
    """Whether a token is needed even while none was ever made: clients on other machines may reach the server."""
    return not is_loopback(settings.host) or bool(settings.allowed_hosts or settings.proxy)


# --- what goes on for as long as the application runs ----------------------------------------------------------


async def _expire(log: EventLog) -> None:
    """Mark leases and questions that have run out, at first those that did while no server was there.

    Also looks whether this process still has file descriptors.
    """
    while True:
        look_at_descriptors(log.health)
        for expire in (log.expire_leases, log.expire_inputs):
            try:
                await expire()
            except TracewatchError:
                pass  # the log has written it down; what has run out is marked at the next look
        await asyncio.sleep(EXPIRY_CHECK_S)


async def _retain(log: EventLog, chosen: Settings) -> None:
    """Let go of what ``keep_days`` and ``keep_events`` no longer keep, and of what was deleted, every ``retention_s``.

    Of all processes on a log one at a time does this. If that one dies, another follows within a minute.
    """
    policy = Policy(
        keep_days=chosen.keep_days,
        keep_events=chosen.keep_events,
        keep_free_share=KEEP_FREE_SHARE,
        wal_bytes=WAL_BYTES,
    )
    while True:
        try:
            await log.tend(policy, chosen.retention_s)
        except TracewatchError:
            pass  # the log can't be written now, which /readyz says; it is tried again at the next look
        await asyncio.sleep(chosen.retention_s)


async def _index(log: EventLog) -> None:
    """Read the log for search, after what is appended. Of all processes on a log one does this.

    While much is appended it takes a small share of the time: search is behind then, and says so.
    """
    index, grown = log.finder.index, asyncio.Event()
    if index is None:
        return
    stop = log.listen(lambda told: grown.set())
    try:
        while not log.replaced.is_set():
            grown.clear()
            began = time.monotonic()
            more = await index.step()
            took = time.monotonic() - began
            if more:
                await asyncio.sleep(took * (INDEX_BUSY if grown.is_set() else INDEX_IDLE))
            else:
                with suppress(TimeoutError):  # what others append is seen at the next look
                    await asyncio.wait_for(grown.wait(), INDEX_LOOK_S)
                await asyncio.sleep(INDEX_GATHER_S)
    finally:
        stop()


async def _send_away(log: EventLog, hub: Hub, after_ms: int) -> None:
    """Once another file stands in the log's place, tell all clients to come back: they get 503 until a restart."""
    await log.replaced.wait()
    hub.send_away(after_ms)
