"""Who may talk to the server: today anybody on this machine, and nobody else's web page.

Rule: every request and every WebSocket handshake passes here first. ``Host`` must name this machine (a page that has
        its
own name resolved to 127.0.0.1 sends its own), ``Origin``, which browsers always send across sites, must be the very
same host.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import Forbidden
from .services import json_response


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refusal(headers: dict[bytes, bytes]) -> Forbidden | None:
    """Why a request with these headers is refused, or None."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name = urlsplit(f"//{host}").hostname if host else None
    if name is None or not is_loopback(name):
        return Forbidden(f"this server answers to localhost only, not to {host[:100]!r}")
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin.decode("latin-1").lower()).netloc != host:
        return Forbidden("a page of another site may not use this server")
    return None


class AccessMiddleware:
    """The outermost layer: checks where requests come from, and notes the transport for direct writing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            refused = refusal(dict(scope["headers"]))
        except ValueError:  # a Host or Origin that is no address at all
            refused = Forbidden("the Host or Origin header can't be read")
        if refused is not None:
            scope["app"].state.services.observed.auth_failures[refused.code] += 1
        if refused is None:
            # Here ``send`` is still the server's own bound method; further in it is wrapped
            scope["tracewatch.protocol"] = getattr(send, "__self__", None)
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await json_response(refused.body(), refused.status)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": refused.close_code, "reason": refused.code})
