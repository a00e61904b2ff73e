"""Where a client connects to: the address given, else ``TRACEWATCH_URL``, else loopback."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ..errors import InvalidField
from ..settings import Settings

# websockets writes the headers it sends, the token among them, to its logger while that one is at DEBUG
QUIET = logging.getLogger("tracewatch.client.socket")
QUIET.setLevel(logging.INFO)


def client_settings(url: str | None, spool_dir: str | None = None, token: str | None = None) -> Settings:
    """The settings of this process's environment with those given here. Raises InvalidField."""
    return Settings.from_env(os.environ, url=url, spool_dir=spool_dir, token=token)


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address, taken apart."""

    url: str  # as the user knows it, without a final slash
    secure: bool
    host: str
    port: int
    prefix: str  # path before /api, "" in most cases
    token: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What says who we are."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine, where no proxy belongs in between."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def path(self, *parts: str, **query: Any) -> str:
        """``path("api", "traces", trace_id, limit=5)``: each part quoted; parameters of None left out."""
        path = self.prefix + "/" + "/".join(quote(part, safe=":@") for part in parts)
        given = {key: value for key, value in query.items() if value is not None}
        return f"{path}?{urlencode(given)}" if given else path

    def websocket(self, path: str) -> str:
        """The ``ws://`` address of a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.secure else 'ws'}://{host}:{self.port}{path}"


def parse_target(url: str | None, token: str | None = None) -> Target:
    """The server to talk to. Raises InvalidField for what is no ``http(s)://`` address."""
    settings = client_settings(url, token=token)
    url = settings.url
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise InvalidField(f"url: {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidField(f"url: {url!r} is not a server's address such as http://127.0.0.1:8400")
    secure = parts.scheme == "https"
    return Target(url, secure, host, port or (443 if secure else 80), parts.path.rstrip("/"), settings.token)
