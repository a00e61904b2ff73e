"""Where requests may come from: they must name this server by a name it has, and come from no page of another site.

Rule 1: every request and every handshake is checked here first. ``Host`` must be a name of this server: a page whose
        own name was made to resolve to our address (DNS rebinding) sends that name. An IP address is allowed, as no
        page's name can be one. ``Origin``, which browsers always send across sites, must be the same host.
        ``X-Forwarded-Host`` is never looked at.
        The health checks and the metrics are answered whatever ``Host`` says, as balancers send none, or an address;
        and the viewer's files whatever ``Origin`` says, so that its page can tell what is wrong. They hold no secret.
Rule 2: a handshake is refused before it is done, so that a script of a foreign page is not told why.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from ...errors import Forbidden
from ..http import Services, refuse
from ..proxies import DOCS, Mistake, host_words, origin_words

ANY_HOST = frozenset({"/healthz", "/readyz", "/metrics"})
ANY_ORIGIN = "/static/"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def own_names(host: str, allowed_hosts: str) -> frozenset[str]:
    """The names of a server that listens on ``host``, besides those of loopback; ``allowed_hosts`` has more of them."""
    names = {name for name in allowed_hosts.split(",") if name}
    if not is_loopback(host):
        names |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


def refusal(
    headers: dict[bytes, bytes], names: frozenset[str] = frozenset(), *, remote: bool = False
) -> tuple[Mistake, str] | None:
    """Why a request with these headers is refused, or None: what may be wrong, and a sentence.

    ``names``: of the server. ``remote``: the server listens beyond loopback, so that any IP address may be its own.
    Raises ValueError for a Host or Origin that can't be read.
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name = (urlsplit(f"//{host}").hostname or "").rstrip(".") if host else ""
    if not (is_loopback(name) or name in names or (remote and _is_address(name))):
        name = f"this server is not known by the name {host[:100]!r} (the setting allowed_hosts has more names)"
        return Mistake.HOST, name
    origin = headers.get(b"origin")
    if origin is not None:
        parts = urlsplit(origin.decode("latin-1").lower())
        default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
        if not default or parts.netloc.removesuffix(default) != host.removesuffix(default):
            return Mistake.ORIGIN, "a page of another site may not use this server"
    return None


class OriginMiddleware:
    """The ASGI middleware that refuses requests and handshakes by where they come from."""

    def __init__(self, app: ASGIApp, names: frozenset[str] = frozenset(), remote: bool = False) -> None:
        self._app = app
        self._names = names
        self._remote = remote

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers, served = dict(scope["headers"]), scope["app"].state.services
        fault = self._fault(scope, headers)
        if fault is None:
            if b"x-forwarded-for" in headers and (scope.get("client") or ("", 0))[1] != 0:
                served.mistakes.say(Mistake.UNNAMED, scope)  # else uvicorn had put the client there, without a port
            await self._app(scope, receive, send)
            return
        error = Forbidden(_told(fault, scope, headers, served))
        served.observed.auth_failures[error.code] += 1
        await refuse(error, scope, receive, send)

    def _fault(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[Mistake, str] | None:
        reads = scope.get("method") in ("GET", "HEAD")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if reads and path in ANY_HOST:
            return None
        if reads and path.startswith(ANY_ORIGIN):
            headers = {name: value for name, value in headers.items() if name != b"origin"}
        try:
            return refusal(headers, self._names, remote=self._remote)
        except ValueError:
            return Mistake.HOST, "the Host or Origin header can't be read"


def _told(fault: tuple[Mistake, str], scope: Scope, headers: dict[bytes, bytes], served: Services) -> str:
    mistake, words = fault
    served.mistakes.say(mistake, scope, host=host_words(headers), what=origin_words(headers))
    return f"{words}. Behind a proxy: {DOCS}"
