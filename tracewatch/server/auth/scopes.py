"""The scopes that routes need, and the guard before each handler. Which route needs which is said in routes.py.

Rule: a WebSocket is refused after its handshake, by an error frame and a close code. Why a handshake was refused, a
      browser's script can't see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from ...errors import Forbidden, TracewatchError, Unauthorized
from ...log.patience import CLIENT
from ...model.frames import sse_control
from ..endpoint import accept, close, error_frame
from ..http import CLIENT_NAME, SSE, services
from ..metrics.seen import GRANT_END
from ..stalls import free
from .limiter import network_of
from .tokens import Gate, Grant

GOODBYE_S = 1.0  # to tell a client that its token has ended
BEARER = "bearer."


@dataclass(frozen=True, slots=True)
class Need:
    """What a route needs: a token with one of these scopes. Without any scope it is open to everybody."""

    scopes: tuple[str, ...]
    every_trace: bool = False  # a token of one trace is not enough


PUBLIC = Need(())
READ, WRITE, CONTROL, ADMIN = Need(("read",)), Need(("write",)), Need(("control",)), Need(("admin",))
READ_OR_WRITE = Need(("read", "write"))
INGEST = Need(("write",), every_trace=True)
METRICS = Need(("read",), every_trace=True)


def client_name(connection: HTTPConnection, grant: Grant) -> str:
    """What counts as one client where clients share something: a token, or without one an address."""
    client = connection.scope.get("client")
    return f"token {grant.token_id}" if grant.token_id is not None else network_of(client[0] if client else "here")


def presented_token(connection: HTTPConnection) -> str | None:
    """The token in ``Authorization: Bearer …`` or, on a WebSocket, in the subprotocol ``bearer.…``.

    Tracers of others say it in their own ways: LangSmith as ``x-api-key``, Logfire as an ``Authorization`` of one word.
    """
    scheme, _, token = connection.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if scheme and not token:
        return scheme
    if key := connection.headers.get("x-api-key", "").strip():
        return key
    for offered in connection.scope.get("subprotocols", ()):
        if offered.startswith(BEARER):
            return str(offered[len(BEARER) :])
    return None


class Guard:
    """The ASGI application before a handler: checks the token, and ends a stream or a socket with its grant."""

    def __init__(self, app: ASGIApp, needs: Mapping[str, Need]) -> None:
        """``needs``: by method; that of a WebSocket is ``WS``."""
        self._app = app
        self._needs = needs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_socket = scope["type"] == "websocket"
        need = self._needs["WS" if is_socket else "GET" if scope["method"] == "HEAD" else scope["method"]]
        if not need.scopes:
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
        scope[CLIENT_NAME] = client_name(connection, grant)
        if is_socket:
            await self._until_end(gate, grant, scope, receive, send)
        elif scope["method"] == "GET":  # the answer may be a stream
            CLIENT.set(scope[CLIENT_NAME])
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
            # The handler has ended, so that nothing else is written to this socket
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await send({"type": "websocket.send", "text": error_frame(_ended(grant)).decode()})
                    await close(WebSocket(scope, receive, send), Unauthorized.close_code, Unauthorized.code)
            except (TimeoutError, OSError, RuntimeError):
                transport = scope["tracewatch.transport"]
                if transport is not None:
                    free(transport)  # the client does not read: what waits for it is thrown away

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
            if begun[0].startswith(SSE.encode()):
                with suppress(TimeoutError, OSError):
                    async with asyncio.timeout(GOODBYE_S):
                        body = sse_control(error_frame(_ended(grant)))
                        await send({"type": "http.response.body", "body": body, "more_body": False})
            # NDJSON has no control frames: the response is left unfinished, so that it does not look whole


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
    with suppress(OSError, RuntimeError, WebSocketDisconnect):  # the client may have gone already
        await accept(websocket)
        await websocket.send({"type": "websocket.send", "text": error_frame(error).decode()})
        await close(websocket, error.close_code, error.code)
