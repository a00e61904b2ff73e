"""What stands between a client and its server, told by what it answers: a proxy's mistake, a login page, a redirect.

Rule: the words name what came, what is likely wrong, and the chapter of the docs. They are one line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import orjson
from websockets.exceptions import InvalidStatus

DOCS = "docs/operating.md, chapter “Behind a proxy”"
_TITLE = re.compile(rb"<title[^>]*>([^<]{1,200})", re.IGNORECASE)
_NO_ROUTE = re.compile(r"Not Found: GET (\S+)")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def obstacle(url: str, path: str, status: int, headers: Mapping[str, str], body: bytes, *, upgrade: bool) -> str | None:
    """What an answer to ``path`` below ``url`` says of a proxy between; None for a refusal of the server's own.

    ``headers``: found by name, in whatever case. ``upgrade``: a WebSocket was asked for.

    >>> obstacle("http://h", "/api/traces", 200, {}, b"<title>Sign in</title>", upgrade=False)
    'http://h answers with a page of HTML (“Sign in”), ...'
    """
    headers = {name.lower(): value for name, value in headers.items()}
    said = _said(url, path, status, headers, body, upgrade)
    return said if said is None or DOCS in said else f"{said} ({DOCS})"


def words_of(url: str, path: str, error: Exception) -> str | None:
    """The same for an opening of a WebSocket that has failed."""
    if not isinstance(error, InvalidStatus):
        return None
    answer = error.response
    headers = dict(answer.headers.raw_items())  # of several with one name, the last
    return obstacle(url, path, answer.status_code, headers, bytes(answer.body or b""), upgrade=True)


def _said(url: str, path: str, status: int, headers: Mapping[str, str], body: bytes, upgrade: bool) -> str | None:
    if status in _REDIRECTS:
        to = headers.get("location") or "nowhere"
        return f"{url} redirects to {_one_line(to)}, which is not followed with a token: give the address it leads to"
    code, message = _refusal(body)
    if code is None and status == 413:
        return f"a proxy before {url} takes no request of this size (413)"
    if code is None and (headers.get("content-type", "").startswith("text/html") or body.lstrip()[:1] == b"<"):
        title = _TITLE.search(body)
        named = f" (“{_one_line(title[1].decode('utf-8', 'replace'))}”)" if title else ""
        if status >= 500:
            named += f", status {status}"
            return f"{url} answers with a page of HTML{named}: a proxy does not reach the server behind it"
        return f"{url} answers with a page of HTML{named}, as a login page is: a proxy does not lead to tracewatch"
    if code == "upgrade_required":
        return f"a proxy before {url} does not let WebSockets through: {message}" if upgrade else None
    if code == "not_found":
        seen = _NO_ROUTE.match(message)
        if seen is None:  # the server says itself what a proxy has done to the path
            return message if "proxy" in message else None
        asked, got = (part.rstrip("/") for part in (urlsplit(path).path, urlsplit(seen[1]).path))
        if asked.endswith(got) or (not got.endswith("/watch") and not got.endswith("/record")):
            return f"a proxy before {url} does not let WebSockets through (no Upgrade)" if upgrade else None
        return f"a proxy before {url} changes the path: {asked} came as {got}"
    if code == "forbidden" and "not known by the name" in message:
        name = urlsplit(url).netloc
        given = re.search(r"by the name '([^']*)'", message)
        if given and given[1] != name:
            sends = f"changes Host to {given[1]!r}" if given[1] else "sends no Host"
            return f"a proxy before {url} {sends}: {message}"
        return message
    if headers.get("content-encoding", "identity") != "identity":
        how = _one_line(headers["content-encoding"])
        return f"a proxy before {url} compresses answers ({how}), though none was asked for"
    if code is None and upgrade and status not in (408, 429) and status < 500:
        return f"WebSockets do not get through to {url}: a proxy answers with HTTP {status}"
    return None


def _refusal(body: bytes) -> tuple[str | None, str]:
    """The code and the message of a refusal by a server of ours."""
    try:
        answer = orjson.loads(body)
        if {"error", "message", "details"} <= answer.keys():
            return str(answer["error"]), _one_line(str(answer["message"]))
    except (orjson.JSONDecodeError, AttributeError):
        pass  # of something else
    return None, ""


def _one_line(text: str) -> str:
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:300]
