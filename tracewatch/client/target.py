"""The target of a client's connections: the given address, else ``TRACEWATCH_URL``, else loopback."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ..errors import InvalidField
from ..settings import CLIENT_OPTIONS, Settings

# websockets writes the headers it sends, the token among them, to its logger while that one is at DEBUG
QUIET = logging.getLogger("tracewatch.client.socket")
QUIET.setLevel(logging.INFO)

_log = logging.getLogger("tracewatch")
_told: set[str] = set()  # of variables that can't be used


def recorder_settings(url: str | None, spool_dir: str | None = None, token: str | None = None) -> Settings:
    """The settings of the environment, overridden by the given ones.

    For an unusable variable its default is taken, with one warning. Raises InvalidField for an unusable argument.
    """
    return Settings.from_env(
        os.environ, only=CLIENT_OPTIONS, unusable=_tell_once, url=url, spool_dir=spool_dir, token=token
    )


def _tell_once(error: InvalidField) -> None:
    if error.message not in _told:
        _told.add(error.message)
        _log.warning("%s; the default is used", error.message)


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a server's address."""

    url: str  # as the user knows it, without a final slash
    secure: bool
    host: str
    port: int
    prefix: str  # path before /api, "" in most cases
    token: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The headers with our token, if there is one."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def loopback(self) -> bool:
        """Whether the server is on this machine, which is reached without a proxy."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def authority(self) -> str:
        """The ``Host`` of a request: the host and the port."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def path(self, *parts: str, **query: Any) -> str:
        """A path with quoted parts, such as ``path("api", "traces", trace_id, limit=5)``; None values are left out.

        A list gives its parameter once for each item.
        """
        path = self.prefix + "/" + "/".join(quote(part, safe=":@") for part in parts)
        given = {key: value for key, value in query.items() if value is not None and value != []}
        return f"{path}?{urlencode(given, doseq=True)}" if given else path

    def websocket(self, path: str) -> str:
        """The ``ws://`` address of a path."""
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{path}"


def parse_target(url: str | None, token: str | None = None) -> Target:
    """The target for an address. Raises InvalidField if it is no ``http(s)://`` address."""
    settings = Settings.from_env(os.environ, only=("url", "token"), url=url, token=token)
    return target_of(settings.url, settings.token)


def target_of(url: str, token: str) -> Target:
    """The target for an address, without a look at the environment. Raises as ``parse_target``."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise InvalidField(f"url: {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidField(f"url: {url!r} is not a server's address such as http://127.0.0.1:8400")
    secure = parts.scheme == "https"
    return Target(url, secure, host, port or (443 if secure else 80), parts.path.rstrip("/"), token)


def same_log(one: str, other: str) -> bool:
    """Whether two addresses name the same log: ``localhost`` and ``127.0.0.1`` do, on the same port."""
    return one == other or _plainly(one) == _plainly(other)


def _plainly(url: str) -> object:
    if url.startswith("sqlite:///"):
        return os.path.realpath(url.removeprefix("sqlite:///"))
    try:
        target = target_of(url, "")
    except InvalidField:
        return url
    return target.secure, "" if target.loopback else target.host, target.port, target.prefix
