"""What a proxy in front of the server does wrong, told from its requests, and said in the log.

Rule 1: each kind of mistake is said once for a peer in ``AGAIN_S``, as a proxy makes it at every request.
Rule 2: a line has what is wrong, and the chapter of the docs. Of what came it has the path and the Host, and nothing
        else that a client may have put in.
Rule 3: nobody is refused here. Who refuses adds the same words to the answer.
"""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum

from starlette.types import Scope

logger = logging.getLogger("tracewatch.proxy")
DOCS = "docs/operating.md, chapter “Behind a proxy”"
AGAIN_S = 600.0
REMEMBERED = 1000  # pairs of kind and peer; the one said first is forgotten first
LONGEST = 200  # characters of what came


class Mistake(Enum):
    """What can be wrong. The value says it, with places for what came."""

    HOST = (
        "a request came {host}, and not with a name of this server: a proxy must pass on the Host that the browser"
        " sent, and the server must know that name (--allowed-hosts)"
    )
    ORIGIN = (
        "a page was refused, because its request came {host} and an Origin of another {what}: if that page is this"
        " server's own, a proxy changes Host on the way, or cuts its port off"
    )
    UPGRADE = (
        "a WebSocket was asked for at {path} without an upgrade ({upgrade}): a proxy must pass on the headers Upgrade"
        " and Connection"
    )
    LEFT = (
        "a request came for {path}: a proxy leaves {prefix} on the path. Have it cut that off, or say it"
        " (--root-path {prefix})"
    )
    CUT = "a request came for {path}, where /api{path} would have been right: a proxy cuts too much off the path"
    DOUBLED = "a request came for {path}: a proxy puts a slash too many into the path"
    UNNAMED = (
        "requests come with X-Forwarded-For from an address that --proxy does not name: all the clients of that proxy"
        " count as one address, and need a token"
    )


class Mistakes:
    """What was said of which peer. ``clock`` is in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: OrderedDict[tuple[Mistake, str], float] = OrderedDict()

    def say(self, mistake: Mistake, scope: Scope, **came: str) -> str:
        """Write a mistake to the log, unless that was done lately. Returns the words, for the answer."""
        words = mistake.value.format(**{name: value[:LONGEST] for name, value in came.items()})
        peer, now = _peer(scope), self._clock()
        if now - self._said.get((mistake, peer), -AGAIN_S) >= AGAIN_S:
            self._said[mistake, peer] = now
            self._said.move_to_end((mistake, peer))
            if len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
            logger.warning("from %s: %s (%s)", peer, words, DOCS)
        return words


def _peer(scope: Scope) -> str:
    """The address at the other end of the connection; uvicorn puts the proxy's client into the scope."""
    transport = scope.get("tracewatch.transport")
    name = None if transport is None else transport.get_extra_info("peername")
    client = name if isinstance(name, tuple) and name else scope.get("client")
    return str(client[0]) if client else "a local socket"


def origin_words(headers: dict[bytes, bytes]) -> str:
    """In what a request's Origin differs from its Host."""
    names = (headers.get(b"origin", b"").rpartition(b"//")[2], headers.get(b"host", b""))
    return "port" if len({re.sub(rb":[0-9]*$", b"", name) for name in names}) == 1 else "name"


def host_words(headers: dict[bytes, bytes]) -> str:
    """How a request's Host is told of."""
    return f"with the Host {headers[b'host'].decode('latin-1')[:100]!r}" if headers.get(b"host") else "without a Host"


def path_mistake(path: str, is_ours: Callable[[str], bool]) -> tuple[Mistake, str] | None:
    """What may have been done to a path that is none of ours, and the prefix that was left on. ``is_ours`` tells paths.

    >>> path_mistake("/watch/api/traces", lambda path: path == "/api/traces")
    (<Mistake.LEFT: ...>, '/watch')
    """
    if "//" in path and is_ours("/" + "/".join(part for part in path.split("/") if part)):
        return Mistake.DOUBLED, ""
    if not path.startswith("/api/") and is_ours("/api" + path):
        return Mistake.CUT, ""
    parts = path.split("/")
    for count in range(2, min(len(parts), 8)):
        rest = "/" + "/".join(parts[count:])
        if rest.startswith(("/api/", "/static/", "/traces/")) and is_ours(rest):
            return Mistake.LEFT, "/".join(parts[:count]).rstrip("/")
    return None


def looks_like_a_page(path: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser, or a proxy, asks for a folder such as ``/watch/``, where the viewer may be meant to be."""
    asks = headers.get("sec-fetch-mode") == "navigate" or "x-forwarded-for" in headers
    return asks and path.endswith("/") and 2 <= path.count("/") <= 4 and "//" not in path
