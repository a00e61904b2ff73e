"""What all WebSocket endpoints share: accepting, reading messages safely, answering pings, closing with a reason.

Rule 1: An endpoint always reads. A socket's input stops at a message that nobody takes, and pongs stop with it.
Rule 2: An ``error`` frame goes before every close in 4000–4999.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..errors import BadRequest, TooLarge, TracewatchError
from ..live.sink import Sink, SinkClosed
from ..model.canonical import parse_json
from ..model.frames import CLOSE_GOING_AWAY, CLOSE_NORMAL, control
from ..model.preview import size_of
from ..model.times import format_time
from .metrics.seen import because
from .socket import REST_S, SMALL_TALK, WebSocketProtocol

SUBPROTOCOL = "tracewatch.v1"
CLOSE_INTERNAL = 1011  # RFC 6455 section 7.4.1: an unexpected condition; clients reconnect


async def accept(websocket: WebSocket, limit: int | None = None) -> None:
    """Accept, with our subprotocol where the client offers it: a browser that offers some insists on one of them.

    ``limit``: bytes of the largest message that the endpoint takes. One far above it is not collected at all.
    """
    socket = websocket.scope.get("tracewatch.socket")
    if limit is not None and isinstance(socket, WebSocketProtocol):
        socket.max_message_bytes = 2 * limit  # those a little above get an error that says so
    offered = websocket.scope.get("subprotocols", ())
    await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)


MOST_ECHO = 1024  # bytes of a ping's id, which its pong has as well
MESSAGES_AT_ONCE = 32  # of one client, before others have their turn


async def messages(
    websocket: WebSocket, sink: Sink, limit: int, *, work: frozenset[str] = frozenset()
) -> AsyncIterator[tuple[dict[str, Any], int]]:
    """The client's messages, as JSON objects and the size of each, until it has gone; pings are answered here.

    A client that sends many messages that are not ``work`` (have none of its keys) is read from more slowly, 16 in
    20 ms: pings and subscriptions by the million are no use to anybody.

    Raises BadRequest for what is no JSON object, TooLarge above ``limit`` bytes.
    """
    talk = 0
    for count in itertools.count():
        if count % MESSAGES_AT_ONCE == MESSAGES_AT_ONCE - 1:
            await asyncio.sleep(0)  # ``receive`` does not wait for what is there already
        if talk == SMALL_TALK:
            talk = 0
            await asyncio.sleep(REST_S)
        message = await websocket.receive()
        if message["type"] != "websocket.receive":
            because(websocket.scope, "left", message.get("code"))
            return
        text = message.get("text")
        if text is None:
            raise BadRequest("binary messages are not part of the protocol; send JSON as text")
        if len(text) > limit or (len(text) * 4 > limit and len(text.encode("utf-8", "surrogatepass")) > limit):
            raise TooLarge(f"the message is above the limit of {limit:,} bytes", limit=limit)
        talk += 1
        if text == "ping":
            await sink.send_control(control("pong", ts=format_time(time.time())))
            continue
        value = parse_json(text)
        if not isinstance(value, dict):
            raise BadRequest("a message is a JSON object")
        if value.get("event") == "ping":
            echo = {"id": value["id"]} if "id" in value else {}
            if size_of(echo) > MOST_ECHO:
                raise TooLarge(f"the id of a ping is above the limit of {MOST_ECHO:,} bytes", limit=MOST_ECHO)
            await sink.send_control(control("pong", ts=format_time(time.time()), **echo))
            continue
        if not work.isdisjoint(value):
            talk -= 1
        yield value, len(text)


REASONS = {CLOSE_NORMAL: "end", CLOSE_GOING_AWAY: "goaway", CLOSE_INTERNAL: "internal"}


async def close(websocket: WebSocket, code: int, reason: str = "") -> None:
    """Close; nothing happens if the client has gone already."""
    because(websocket.scope, reason or REASONS[code], code)
    try:
        await websocket.send({"type": "websocket.close", "code": code, "reason": reason})
    except (RuntimeError, OSError, WebSocketDisconnect):
        pass  # closed already, by either side


async def close_with_outcome(websocket: WebSocket, outcome: str) -> None:
    """Close after a watch has come to its end."""
    await close(websocket, CLOSE_GOING_AWAY if outcome == "goaway" else CLOSE_NORMAL)


async def close_with_error(websocket: WebSocket, sink: Sink, error: TracewatchError, **tags: Any) -> None:
    """Say what is wrong, then close with the error's code."""
    because(websocket.scope, error.code, error.close_code)
    try:
        await sink.send_control(error_frame(error, **tags))
    except SinkClosed:
        return
    await close(websocket, error.close_code, error.code)


def error_frame(error: TracewatchError, **tags: Any) -> bytes:
    """The ``error`` frame of an error."""
    body = error.body()
    return orjson.dumps({"event": "error", **tags, "code": body.pop("error"), **body})
