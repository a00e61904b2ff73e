"""What all handlers work with: the application's services, what requests carry, and how answers and errors look.

Rule: handlers raise. ``error_response`` is the only place that makes an answer of an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import BadRequest, InvalidField, TooLarge, TooSlow, TracewatchError, Unavailable
from ..ingest.hooked import HookedSessions
from ..ingest.ingester import Ingester
from ..live.hints import PollHints
from ..live.hub import Hub
from ..log import EventLog
from ..model.canonical import STATUSES, parse_json
from ..model.times import format_time
from ..settings import Settings
from .answers import Checker
from .auth.tokens import Gate
from .metrics.seen import Observed
from .metrics.workers import Siblings
from .proxies import Mistakes
from .stalls import StallGuard

if TYPE_CHECKING:
    from ..live.redis import RedisHints

MAX_ID = 2**53  # the largest whole number that JSON's numbers hold exactly
MAX_LIMIT = 1000  # of the parameter ``limit``
MAX_SEARCHED = 1000  # characters of the parameter ``q``
CLIENT_NAME = "tracewatch.client"  # in the scope: what counts as one client, a token or an address
JSON, NDJSON, SSE = "application/json", "application/x-ndjson", "text/event-stream"
Default = TypeVar("Default", int, None)


# --- services --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Coming:
    """The bodies of requests that are being received now."""

    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Services:
    """What one application has: its log, its hub, its settings, and what guards and counts its clients."""

    log: EventLog
    hub: Hub
    settings: Settings
    stalls: StallGuard
    poll: PollHints
    observed: Observed
    siblings: Siblings
    gate: Gate
    checker: Checker
    ingester: Ingester
    hooks: HookedSessions
    redis: RedisHints | None = None  # None without the setting ``redis``
    coming: Coming = field(default_factory=Coming)
    mistakes: Mistakes = field(default_factory=Mistakes)


def services(connection: HTTPConnection) -> Services:
    """The services of the application that this request or socket came to."""
    found: Services = connection.app.state.services
    return found


# --- what requests carry ---------------------------------------------------------------------------------------


async def read_body(request: Request, limit: int, *, compressed: bool = False) -> bytes:
    """The request's body. ``compressed``: it may be, and is given as it came (``decoding.read_decoded``).

    Raises TooLarge as soon as it is above ``limit`` bytes. Raises TooSlow if no byte comes for ``request_stall_s``.
    Raises Unavailable while all bodies being received are together above ``max_waiting_bytes``.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"the body has {int(declared):,} bytes; the limit is {limit:,}", limit=limit)
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity" and not compressed:  # a little of it may be gigabytes
        raise BadRequest("Content-Encoding: a body is taken as it is, not compressed")
    body = bytearray()
    served = services(request)
    loop, stall_s = asyncio.get_running_loop(), served.settings.request_stall_s
    try:
        async with asyncio.timeout(stall_s) as patience:
            async for chunk in request.stream():
                body += chunk
                served.coming.bytes += len(chunk)
                if len(body) < served.coming.bytes > served.settings.max_waiting_bytes:
                    raise Unavailable("too much is being sent to this server at once; try again later", retry_after_s=1)
                if len(body) > limit:
                    raise TooLarge(f"the body is above the limit of {limit:,} bytes", limit=limit)
                patience.reschedule(loop.time() + stall_s)
    except TimeoutError as error:
        raise TooSlow(f"of the body {len(body):,} bytes came, then none for {stall_s:g} s") from error
    finally:
        served.coming.bytes -= len(body)
    return bytes(body)


async def read_json(request: Request, limit: int) -> Any:
    """The request's body as JSON, ``{}`` if it is empty. Raises BadRequest, and what ``read_body`` raises."""
    body = await read_body(request, limit)
    return parse_json(body) if body.strip() else {}


def int_param(connection: HTTPConnection, name: str, *, low: int, high: int, default: Default) -> int | Default:
    """A whole number from the query. Raises BadRequest for anything else, InvalidField out of range."""
    text = connection.query_params.get(name)
    return default if text is None else whole_number(name, text, low, high)


def limit_param(connection: HTTPConnection, default: int) -> int:
    """The parameter ``limit``: how many items to answer with. Raises what ``int_param`` raises."""
    return limit_of(connection.query_params, default)


def limit_of(params: Mapping[str, str], default: int) -> int:
    """The same of parameters."""
    text = params.get("limit")
    return default if text is None else whole_number("limit", text, 1, MAX_LIMIT)


def whole_number(name: str, text: str, low: int, high: int) -> int:
    """The number that ``text`` is. Raises BadRequest for anything else, InvalidField out of range."""
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise BadRequest(f"{name}: {text[:40]!r} is not a whole number", path=name)
    if len(text) > 19 or not low <= int(text) <= high:
        raise InvalidField(
            f"{name}: {text[:40]} is not from {low} to {high}",
            details=[{"path": name, "message": f"from {low} to {high}"}],
        )
    return int(text)


def checked_statuses(names: Iterable[Any]) -> tuple[str, ...]:
    """The names, each of which must be the status of a trace. Raises InvalidField."""
    found = tuple(names)
    for name in found:
        if name not in STATUSES:
            raise InvalidField(f"status: {str(name)[:40]!r} is none of {', '.join(STATUSES)}")
    return found


def searched(text: str | None, name: str = "q") -> str | None:
    """The parameter ``name``: the text to look for, None for none. Raises InvalidField."""
    if text is not None and len(text) > MAX_SEARCHED:
        message = f"at most {MAX_SEARCHED:,} characters"
        raise InvalidField(f"{name}: {message}", details=[{"path": name, "message": message}])
    return text or None


def listed(text: str) -> list[str]:
    """The names in a parameter that has them with commas between them."""
    return [name for name in text.split(",") if name]


# --- answers ---------------------------------------------------------------------------------------------------


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer. Bytes are JSON already."""
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    return Response(body, status, headers, media_type=JSON)


def read_now(served: Services) -> dict[str, Any]:
    """What every answer that holds state names: the log's epoch, and the server's time at which it was read."""
    return {"epoch": served.log.epoch, "ts": format_time(time.time())}


def state_response(served: Services, values: dict[str, Any]) -> Response:
    """An answer that holds state."""
    return json_response({**values, **read_now(served)})


def error_response(error: TracewatchError) -> Response:
    """The answer that an error is."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="tracewatch"'
    if error.status == 426:
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    if error.status in (429, 503):
        headers["Retry-After"] = str(error.facts.get("retry_after_s", 1))
    if error.status == 408:
        headers["Connection"] = "close"  # the rest of the body would be in the way of the next request
    return json_response(error.body(), error.status, headers)


async def refuse(error: TracewatchError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error, or refuse a WebSocket's handshake."""
    if scope["type"] == "http":
        await error_response(error)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": error.close_code, "reason": error.code})


async def on_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for any exception: an answer in the protocol's shape, with nothing internal in it."""
    if isinstance(error, HTTPException):  # no such path, or no such method
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        body = {"error": code, "message": f"{error.detail}: {request.method} {request.url.path}", "details": []}
        return json_response(body, error.status_code, dict(error.headers or {}))
    if isinstance(error, TracewatchError):
        return error_response(error)
    return error_response(TracewatchError("an internal error; the server's log has the details"))


async def on_disconnect(request: Request, error: Exception) -> Response:
    """Starlette's handler for a client that has gone in the middle of its body: no error, and no answer is sent."""
    return Response(status_code=400)
