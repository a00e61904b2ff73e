"""What every endpoint works with, and how errors and bodies look on the wire.

Rule: one place maps errors to HTTP (``error_response``); endpoints raise.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from ..errors import BadRequest, InvalidField, TooLarge, TooSlow, TracewatchError, Unavailable
from ..live.bell import PollBell
from ..live.hub import Hub
from ..log import EventLog
from ..model.events import parse_json
from ..settings import Settings
from .auth.tokens import Gate
from .metrics.seen import Observed
from .metrics.workers import Siblings
from .stalls import StallGuard

if TYPE_CHECKING:
    from ..live.redis import RedisBell

MAX_ID = 2**53  # what JSON numbers hold exactly


@dataclass(slots=True)
class Coming:
    """The bodies of requests that are being received."""

    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Services:
    """One server's log and hub, and who may use them."""

    log: EventLog
    hub: Hub
    settings: Settings
    stalls: StallGuard
    poll: PollBell
    observed: Observed
    siblings: Siblings
    gate: Gate
    redis: RedisBell | None = None  # hints between processes, if asked for
    coming: Coming = field(default_factory=Coming)


def services(connection: HTTPConnection) -> Services:
    """The services of the application that serves this request or socket."""
    found: Services = connection.app.state.services
    return found


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; bytes are taken as JSON already written."""
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    return Response(body, status, headers, media_type="application/json")


async def error_response(request: Request, error: Exception) -> Response:
    """The protocol's error shape for any exception. Nothing internal is in it."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        body = {"error": code, "message": f"{error.detail}: {request.method} {request.url.path}", "details": []}
        return json_response(body, error.status_code, dict(error.headers or {}))
    if not isinstance(error, TracewatchError):
        error = TracewatchError("an internal error; the server's log has the details")
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="tracewatch"'
    if error.status in (429, 503):
        headers["Retry-After"] = str(error.facts.get("retry_after_s", 1))
    if error.status == 408:
        headers["Connection"] = "close"  # the rest of the body would be in the way of the next request
    return json_response(error.body(), error.status, headers)


async def left(request: Request, error: Exception) -> Response:
    """Who leaves in the middle of a body gets no answer, and it is nobody's error."""
    return Response(status_code=400)


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body.

    Raises TooLarge as soon as it is above ``limit`` bytes, TooSlow when it stops coming, Unavailable while all bodies
    together are more than may wait for the log.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"the body has {int(declared):,} bytes; the limit is {limit:,}", limit=limit)
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
    """The request's body as JSON; an empty one is ``{}``."""
    body = await read_body(request, limit)
    return parse_json(body) if body.strip() else {}


def int_param(connection: HTTPConnection, name: str, *, low: int, high: int, default: int | None = None) -> int | None:
    """A whole number from the query. Raises BadRequest for what is none, InvalidField out of range."""
    text = connection.query_params.get(name)
    return default if text is None else whole_number(name, text, low, high)


def whole_number(name: str, text: str, low: int, high: int) -> int:
    """The number that ``text`` is. Raises BadRequest for what is none, InvalidField out of range."""
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise BadRequest(f"{name}: {text[:40]!r} is not a whole number", path=name)
    if len(text) > 19 or not low <= int(text) <= high:
        raise InvalidField(
            f"{name}: {text[:40]} is not from {low} to {high}",
            details=[{"path": name, "message": f"from {low} to {high}"}],
        )
    return int(text)
