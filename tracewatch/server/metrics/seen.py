"""What clients do, counted; and the access log, in which each request and each socket has its lines.

Rule 1: a line of the access log says which client, which trace, how far and why. It has no payload, no token and no
        query string. What a client has chosen (a path, a trace id) is escaped, so that it can't look like a line.
Rule 2: a label has few values: a route is its template, a method one of HTTP's, a reason one of ours.
Rule 3: counting is adding to a number. Nothing here is awaited.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...live.hub import Progress
from ...log.counts import Buckets
from ...model.times import format_time

logger = logging.getLogger("tracewatch.access")
KINDS = ("watch", "watch_many", "subscription", "record", "record_many", "recording", "sse", "ndjson")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
ANSWER_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
LONGEST = 200  # characters of a value that a client has chosen
GRANT_END = "tracewatch.grant_end"  # in a scope: the asyncio.Timeout that ends the call with its grant
_SEEN = "tracewatch.seen"  # in a connection's scope
_CURSOR = re.compile(r"latest|-?[0-9]{1,18}|[0-9a-f]{12}\.[0-9]{1,18}", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/{}-]+", re.ASCII)


@dataclass(slots=True)
class Opened:
    """One open socket, stream or subscription, and why it ends."""

    kind: str
    values: dict[str, Any]  # for the access log: the client, the trace, where it began
    reason: str = ""  # the first one that is given stays
    code: int | None = None  # of the close, where there is one
    progress: Progress = field(default_factory=Progress)

    def because(self, reason: str, code: int | None = None) -> None:
        """Note why it ends, and the code of the close if there is one."""
        if not self.reason:
            self.reason, self.code = reason, code


def because(scope: Scope, reason: str, code: int | None = None) -> None:
    """Note why the socket or stream of this scope ends, if it is observed."""
    seen: Opened | None = scope.get(_SEEN)
    if seen is not None:
        seen.because(reason, code)


class Observed:
    """What the clients of one application have done."""

    def __init__(self, routes: Iterable[BaseRoute], *, access_log: str) -> None:
        """``routes``: each with an endpoint of its own. ``access_log``: off, text or json."""
        self.requests: Counter[tuple[str, str, int]] = Counter()  # by route, method, status
        self.answer_s: dict[tuple[str, str], Buckets] = {}  # by route and method: until the answer began
        self.open = dict.fromkeys(KINDS, 0)
        self.closed: Counter[tuple[str, str]] = Counter()  # by kind and reason
        self.auth_failures: Counter[str] = Counter()  # by reason
        self._access_log = access_log
        self._routes: dict[Any, str] = {route.endpoint: route.path for route in routes if isinstance(route, Route)}

    # --- requests ---

    async def http(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to ``app``; count the answer and write it down."""
        began, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._answered(scope, status, time.perf_counter() - began)
            await send(message)

        try:
            await app(scope, receive, noting)
        finally:
            if self._access_log != "off" and not (_SEEN in scope and status == 200):  # a stream has its own two lines
                self._request(scope, status, time.perf_counter() - began)

    def _route(self, scope: Scope) -> str:
        return self._routes.get(scope.get("endpoint"), "unmatched")

    def _answered(self, scope: Scope, status: int, took_s: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = self._route(scope)
        self.requests[route, method, status] += 1
        buckets = self.answer_s.get((route, method))
        if buckets is None:
            buckets = self.answer_s[route, method] = Buckets(ANSWER_S)
        buckets.add(took_s)

    def _request(self, scope: Scope, status: int, took_s: float) -> None:
        route = self._route(scope)
        path = {"path": scope["path"]} if route == "unmatched" else {}
        values = {**_who(scope), "method": scope["method"], "route": route, **path, **_trace(scope)}
        self._write("request", **values, status=status, ms=round(took_s * 1000, 1))

    # --- sockets, streams and subscriptions ---

    @contextmanager
    def socket(self, kind: str, connection: HTTPConnection, since: str | None = None) -> Iterator[Opened]:
        """Within the block a socket or a stream is open: it is counted, and its begin and end are written down.

        ``kind``: one of ``KINDS``. ``since``: the ``since_event_id`` it asked for.
        """
        values = {**_who(connection.scope), **_trace(connection.scope), **_since(since)}
        with self._seen(Opened(kind, values)) as seen:
            connection.scope[_SEEN] = seen
            try:
                yield seen
            except asyncio.CancelledError:
                end: asyncio.Timeout | None = connection.scope.get(GRANT_END)
                seen.because("unauthorized" if end is not None and end.expired() else "cancelled")
                raise

    @contextmanager
    def subscription(self, connection: HTTPConnection, trace_id: str, since: str | None) -> Iterator[Opened]:
        """The same for one subscription on a socket."""
        values = {**_who(connection.scope), "trace_id": trace_id, **_since(since)}
        with self._seen(Opened("subscription", values)) as seen:
            yield seen

    @contextmanager
    def recording(self, connection: HTTPConnection, trace_id: str) -> Iterator[Opened]:
        """The same for one trace that is open on a record_many socket."""
        with self._seen(Opened("recording", {**_who(connection.scope), "trace_id": trace_id})) as seen:
            yield seen

    @contextmanager
    def _seen(self, seen: Opened) -> Iterator[Opened]:
        began = time.perf_counter()
        self.open[seen.kind] += 1
        self._write("opened", kind=seen.kind, **seen.values)
        try:
            yield seen
        finally:
            self.open[seen.kind] -= 1
            reason = seen.reason or "left"
            self.closed[seen.kind, reason] += 1
            came = {"cursor": seen.progress.cursor, "events": seen.progress.events} if seen.progress.cursor else {}
            values = {**seen.values, "reason": reason, **({"code": seen.code} if seen.code else {}), **came}
            self._write("closed", kind=seen.kind, **values, ms=round((time.perf_counter() - began) * 1000))

    def _write(self, what: str, **values: Any) -> None:
        if self._access_log == "off":
            return
        cut = {key: value[:LONGEST] if isinstance(value, str) else value for key, value in values.items()}
        if self._access_log == "json":
            logger.info("%s", _quoted({"ts": format_time(time.time()), "event": what, **cut}))
        else:
            logger.info("%s", " ".join((what, *(f"{key}={_plain(value)}" for key, value in cut.items()))))


def _who(scope: Scope) -> dict[str, Any]:
    client, grant = scope.get("client"), scope.get("tracewatch.grant")
    token_id = getattr(grant, "token_id", None)  # never the token
    return {"client": client[0] if client else None, **({"token": token_id} if token_id else {})}


def _trace(scope: Scope) -> dict[str, Any]:
    trace_id = scope.get("path_params", {}).get("trace_id")
    return {} if trace_id is None else {"trace_id": trace_id}


def _since(since: str | None) -> dict[str, Any]:
    """The cursor that was asked for, or ``invalid``: a client may send anything in its place."""
    return {"since": since if _CURSOR.fullmatch(since) else "invalid"} if since else {}


def _quoted(value: Any) -> str:
    return json.dumps(value).replace("\x7f", "\\u007f")  # all beyond ASCII and all control characters escaped


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else _quoted(value)
