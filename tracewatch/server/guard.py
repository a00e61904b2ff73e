"""What each call needs, and the guard that stands before each endpoint.

Rule 1: every route is in ``NEEDS``; an application with one that is not does not start.
Rule 2: on a WebSocket a refusal comes after the handshake, as a frame and a close code: a browser's script can't see
        why a handshake was refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.protocols.utils import ClientDisconnected

from ..errors import Forbidden, TracewatchError, Unauthorized
from ..model.frames import sse_control
from .gate import Gate, Grant
from .observed import GRANT_END
from .services import services
from .sockets import accept, close, error_frame
from .stalls import free, transport_of

GOODBYE_S = 1.0  # for telling somebody that their token has ended
BEARER = "bearer."


@dataclass(frozen=True, slots=True)
class Need:
    """What a call needs: one of these scopes, or nothing at all (for pages, and for who checks on the server)."""

    scopes: tuple[str, ...] = ()
    every_trace: bool = False  # not to be had with a token of one trace


PUBLIC, READ, WRITE, CONTROL, ADMIN = Need(), Need(("read",)), Need(("write",)), Need(("control",)), Need(("admin",))
_ONE = "/api/traces/{trace_id}"
NEEDS: Mapping[str, Mapping[str, Need]] = {  # by path and method; WS: a WebSocket
    "/api/traces": {"GET": READ, "POST": WRITE},
    "/api/import": {"POST": WRITE},
    _ONE: {"GET": READ, "DELETE": ADMIN},
    f"{_ONE}/events": {"GET": READ, "POST": WRITE},
    f"{_ONE}/messages": {"GET": READ},
    f"{_ONE}/messages/{{message_id:path}}": {"GET": READ},
    f"{_ONE}/heartbeat": {"POST": WRITE},
    f"{_ONE}/cancel": {"POST": CONTROL},
    # A recorder is told the answers to its questions anyway, down its socket
    f"{_ONE}/inputs/{{request_id:path}}": {"GET": Need(("read", "write")), "POST": CONTROL},
    "/api/inputs": {"GET": READ},
    f"{_ONE}/record": {"WS": WRITE},
    f"{_ONE}/watch": {"WS": READ},
    "/api/watch": {"WS": READ},
    "/metrics": {"GET": Need(("read",), every_trace=True)},
    "/healthz": {"GET": PUBLIC},
    "/readyz": {"GET": PUBLIC},
    "/openapi.json": {"GET": PUBLIC},
    "/static/{name}": {"GET": PUBLIC},
    "/traces/{trace_id}": {"GET": PUBLIC},
    "/": {"GET": PUBLIC},
}


def guarded(routes: Iterable[Route | WebSocketRoute]) -> list[Route | WebSocketRoute]:
    """The routes, each behind its guard. Raises LookupError for one that ``NEEDS`` does not know."""
    done = []
    for route in routes:
        methods = (route.methods or set()) - {"HEAD"} if isinstance(route, Route) else {"WS"}
        needs = NEEDS.get(route.path, {})
        if missing := methods - needs.keys():
            raise LookupError(f"{route.path} {', '.join(missing)}: say in NEEDS which scope it needs")
        route.app = Guard(route.app, needs)
        done.append(route)
    return done


def presented_token(connection: HTTPConnection) -> str | None:
    """The token in ``Authorization: Bearer …`` or, on a WebSocket, in the subprotocol ``bearer.…``."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    for offered in connection.scope.get("subprotocols", ()):
        if offered.startswith(BEARER):
            return str(offered[len(BEARER) :])
    return None


class Guard:
    """Lets a request or a socket through to its endpoint, and ends it with its grant."""

    def __init__(self, app: ASGIApp, needs: Mapping[str, Need]) -> None:
        self._app = app
        self._needs = needs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_socket = scope["type"] == "websocket"
        need = self._needs["WS" if is_socket else "GET" if scope["method"] == "HEAD" else scope["method"]]
        if need is PUBLIC:
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        gate = services(connection).gate
        try:
            grant = scope["tracewatch.grant"] = await _admitted(connection, gate, need)
        except TracewatchError as error:
            gate.on_refused(error.code)
            if not is_socket:
                raise
            await _refuse_socket(WebSocket(scope, receive, send), error)
            return
        if is_socket:
            await self._until_end(gate, grant, scope, receive, send)
        elif scope["method"] == "GET":  # it may be a stream
            await self._stream(gate, grant, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _until_end(self, gate: Gate, grant: Grant, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(None) as end:
                scope[GRANT_END] = end
                with gate.using(grant, end):
                    await self._app(scope, receive, send)
        except TimeoutError:
            if not end.expired():
                raise
            gate.on_refused(Unauthorized.code)
            # The endpoint has ended: nobody else writes to this socket any more
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await send({"type": "websocket.send", "text": error_frame(_ended(grant)).decode()})
                    await close(WebSocket(scope, receive, send), Unauthorized.close_code, Unauthorized.code)
            except (TimeoutError, OSError, RuntimeError, ClientDisconnected):
                transport = transport_of(send, receive)
                if transport is not None:
                    free(transport)  # it does not read: it must not keep what is no longer its to have

    async def _stream(self, gate: Gate, grant: Grant, scope: Scope, receive: Receive, send: Send) -> None:
        begun: list[bytes] = []  # the media type, once the response has one

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.append(dict(message["headers"]).get(b"content-type", b""))
            await send(message)

        try:
            async with asyncio.timeout(None) as end:
                scope[GRANT_END] = end
                with gate.using(grant, end):
                    await self._app(scope, receive, noting)
        except TimeoutError:
            if not end.expired():
                raise
            gate.on_refused(Unauthorized.code)
            if not begun:
                raise _ended(grant) from None
            if begun[0].startswith(b"text/event-stream"):
                with suppress(TimeoutError, OSError, ClientDisconnected):
                    async with asyncio.timeout(GOODBYE_S):
                        body = sse_control(error_frame(_ended(grant)))
                        await send({"type": "http.response.body", "body": body, "more_body": False})
            # Lines have no control frames: left unfinished, so that they do not look whole


async def _admitted(connection: HTTPConnection, gate: Gate, need: Need) -> Grant:
    client = connection.scope.get("client")
    headers: dict[bytes, bytes] = dict(connection.scope["headers"])
    grant = await gate.admit(presented_token(connection), client[0] if client else None, headers)
    grant.require(*need.scopes)
    if need.every_trace and grant.trace_id is not None:
        raise Forbidden(f"this token is for trace {grant.trace_id!r} and its sub-traces only")
    params: dict[str, Any] = connection.scope["path_params"]
    if "trace_id" in params:
        await gate.check_trace(grant, params["trace_id"])
    return grant


def _ended(grant: Grant) -> Unauthorized:
    if grant.token_id is None:
        return Unauthorized("this server asks for a token since one was created")
    return Unauthorized("this token was revoked or has expired")


async def _refuse_socket(websocket: WebSocket, error: TracewatchError) -> None:
    with suppress(OSError, RuntimeError, ClientDisconnected):  # it may have gone already
        await accept(websocket)
        await websocket.send({"type": "websocket.send", "text": error_frame(error).decode()})
        await close(websocket, error.close_code, error.code)
