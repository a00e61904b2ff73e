"""The settings: each option with its name, type, default, limits and help.

Rule 1: an option is a field of ``Settings`` and stands nowhere else. The environment variables, the flags of
        ``tracewatch serve`` and the table in the documents derive from the fields.
Rule 2: only the wiring (server, cli, client) sees ``Settings``; components take plain keyword arguments.
Rule 3: an unusable value is refused by the option's name before anything starts, and no default takes its place. Only
        a recorder is given defaults instead, as it must not break its agent.
Rule 4: a program reads only the variables that are meant for it. Others may hold anything.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracewatch.errors import InvalidField

PREFIX = "TRACEWATCH_"

_UNITS = {"b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_SIZE = re.compile(r"([0-9]+) ?(b|kib|mib|gib)?", re.IGNORECASE | re.ASCII)
_SCHEMES = ("http://", "https://", "sqlite:///")
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
_SPOOL = "tracewatch/spool"
_SERVICE_SCHEMES = ("tcp://", "udp://", "sctp://")
_SERVICE_HINT = (
    ". Kubernetes sets it so for a Service of this name: put enableServiceLinks: false into the pod's spec, rename the "
    "Service, or set the variable itself"
)
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII)
_ROOT_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?", re.ASCII)
_TEXTS = {  # kinds whose values are text, and the form of such a value
    "text": "not empty",
    "secret": "printable, without blanks",
    "url": f"an address that begins with {', '.join(_SCHEMES)}",
    "redis": f"an address that begins with {', '.join(_REDIS_SCHEMES)}",
    "hosts": "host names with commas between them, such as watch.example.org",
    "networks": "IP addresses or networks with commas between them, such as 10.0.0.7, 192.168.1.0/24",
    "path": "a path such as /watch, of letters, digits and . _ ~ -",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: a field of ``Settings`` with its default, its limits and its help.

    ``kind`` is text, choice, secret, url, redis, hosts, networks, path, count, seconds, milliseconds or bytes.
    ``low`` and ``high`` are the smallest and the largest value, in the unit of the kind.
    """

    name: str
    kind: str
    default: str | int | float
    help: str
    low: float = 1
    high: float = math.inf
    client: bool = False  # read by recorders and watchers instead of the server
    choices: tuple[str, ...] = ()  # the values of an option of the kind choice
    shown: str = ""  # the default in the table of the documents, where it is no constant

    @property
    def env(self) -> str:
        """The environment variable: ``TRACEWATCH_<NAME>``."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The command line flag: ``--max-event-bytes``."""
        return "--" + self.name.replace("_", "-")

    @property
    def expected(self) -> str:
        """The expected form of a value, for a person: "a whole number from 0 to 65535"."""
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        if self.kind in _TEXTS:
            return _TEXTS[self.kind]
        what = {
            "count": "a whole number",
            "milliseconds": "a whole number of milliseconds",
            "seconds": "a number of seconds",
            "bytes": "a number of bytes, plain or like 256KiB, 4MiB, 1GiB,",
        }[self.kind]
        return (
            f"{what} of at least {self.low:g}"
            if self.high == math.inf
            else f"{what} from {self.low:g} to {self.high:g}"
        )

    def parse(self, value: object, source: str = "") -> str | int | float:
        """The value in this option's type and unit; ``value`` is text or has that type already.

        Raises InvalidField, whose message names ``source`` (by default the option), the value and the expected form.
        """
        if isinstance(value, str) and self.kind != "text":
            value = value.strip()  # a file that a variable was set from ends with a newline
        if self.kind == "choice":
            parsed: str | int | float | None = value if isinstance(value, str) and value in self.choices else None
        else:
            parsed = _text(self.kind, value) if self.kind in _TEXTS else _number(self.kind, value)
        if parsed is None or (not isinstance(parsed, str) and not self.low <= parsed <= self.high):
            source = source or self.name
            shown = "" if self.kind in ("redis", "secret") else str(value)  # these may contain a password
            fault = f"{shown!r} is not {self.expected}" if shown else f"must be {self.expected}"
            if shown.startswith(_SERVICE_SCHEMES):
                fault += _SERVICE_HINT
            raise InvalidField(f"{source}: {fault}", details=[{"path": source, "message": fault}])
        return parsed


def _text(kind: str, value: object) -> str | None:
    text = str(value) if isinstance(value, str | Path) else ""
    if kind == "url":
        return text.rstrip("/") if text.startswith(_SCHEMES) and text not in _SCHEMES else None
    if kind == "redis":
        return text if text.startswith(_REDIS_SCHEMES) and text not in _REDIS_SCHEMES else None
    if kind == "path":
        return text.rstrip("/") if _ROOT_PATH.fullmatch(text) else None
    if kind == "secret":
        return text if text.isascii() and text.isprintable() and " " not in text and text else None
    if kind in ("hosts", "networks"):
        parts = [part.strip().lower().rstrip(".") for part in text.split(",") if part.strip()]
        usable = all(map(_is_network if kind == "networks" else _HOST.fullmatch, parts))
        return ",".join(parts) if parts and usable else None
    return text or None


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _number(kind: str, value: object) -> int | float | None:
    if isinstance(value, str):
        if kind == "bytes":
            size = _SIZE.fullmatch(value)
            return int(size[1]) * _UNITS[(size[2] or "b").lower()] if size else None
        try:
            value = float(value) if kind == "seconds" else int(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind == "seconds":
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, int) else None


def default_spool_dir(environ: Mapping[str, str]) -> str:
    """The default spool folder: ``$XDG_STATE_HOME/tracewatch/spool``, or the same under ``~/.local/state``.

    A relative XDG path is ignored, as its specification asks. "" where the user has no home folder, as in containers
    that run as a user id without a name.
    """
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        home = environ.get("HOME")
        try:
            state = (Path(home) if home else Path.home()) / ".local" / "state"
        except (RuntimeError, KeyError):
            return ""
    return str(state / _SPOOL)


def _option(kind: str, default: str | int | float, help: str, **more: Any) -> Any:
    shown = kind not in ("secret", "redis")  # these may contain a password
    return dataclasses.field(
        default=default, repr=shown, metadata={"kind": kind, "default": default, "help": help, **more}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All options with their values, for ``tracewatch.server.create_app`` and the recorder.

    An option whose name ends in ``_bytes``, ``_s`` or ``_ms`` has that unit: bytes, seconds or milliseconds. The
    constructor takes values as they are and checks nothing; ``from_env`` reads the environment and checks.
    Example: ``Settings(db="/var/lib/tracewatch/runs.db", keep_days=30)``.
    """

    db: str = _option("text", "tracewatch.db", "The database file, with its `-wal` and `-shm` files beside it")
    host: str = _option("text", "127.0.0.1", "Address to listen on; beyond loopback a token is required")
    port: int = _option("count", 8400, "Port to listen on; 0 takes a free one", low=0, high=65535)
    workers: int = _option("count", 1, "Processes that serve the one database")
    allowed_hosts: str = _option(
        "hosts", "", "Further host names of this server, `watch.example.org,…`; a token is then required", shown="none"
    )
    proxy: str = _option(
        "networks",
        "",
        "Reverse proxies, as addresses or networks, whose `X-Forwarded-For` is believed; a token is then required",
        shown="none",
    )
    root_path: str = _option(
        "path",
        "",
        "The path below which a reverse proxy serves it, `/watch`, if the proxy leaves that path on the requests",
        shown="none",
    )
    ssl_certfile: str = _option("text", "", "TLS: the certificate with its chain, PEM", shown="none")
    ssl_keyfile: str = _option("text", "", "TLS: its private key, if that is in another file", shown="none")
    ssl_keyfile_password: str = _option("secret", "", "TLS: the password of the private key", shown="none")
    auth_failures: int = _option("count", 30, "Wrong tokens that an address (IPv6: a /64) may send before it must wait")
    auth_retry_s: float = _option("seconds", 60.0, "Time between two tries of an address that must wait", low=0.01)
    token_check_s: float = _option(
        "seconds", 2.0, "The sockets of a revoked or expired token are closed within this time", low=0.01, high=4
    )
    grpc_port: int = _option(
        "count",
        0,
        "Port for OpenTelemetry over gRPC, usually 4317; needs `pip install 'tracewatch[grpc]'`",
        low=0,
        high=65535,
        shown="off",
    )
    max_ingest_bytes: int = _option(
        "bytes", 32 * 1024**2, "A request of OpenTelemetry or another tracer, uncompressed", high=1024**3
    )
    ingest_lease_s: float = _option(
        "seconds", 120.0, "What a foreign tracer began is lost when its process has said nothing for so long", low=1
    )
    heartbeat_s: float = _option("seconds", 15.0, "Time between two heartbeats to a watcher", low=0.01)
    ws_ping_s: float = _option("seconds", 20.0, "Time between two WebSocket pings, and to wait for an answer", low=0.01)
    poll_ms: int = _option("milliseconds", 20, "Time between two looks for events of other processes in the log")
    redis: str = _option(
        "redis",
        "",
        "A Redis over which processes announce new events to each other at once: `redis://host:6379`",
        shown="none",
    )
    log_level: str = _option(
        "choice",
        "info",
        "Lowest level in the log on stderr: `debug`, `info`, `warning` or `error`. `debug` may quote payloads",
        choices=("debug", "info", "warning", "error"),
    )
    access_log: str = _option(
        "choice",
        "off",
        "A line on stderr for each request, and for each socket opened and closed: `json`, `text` or `off`",
        choices=("json", "text", "off"),
    )
    keep_days: int = _option(
        "count",
        0,
        "Ended traces are deleted after so many idle days, older events of others trimmed",
        low=0,
        shown="off",
    )
    keep_events: int = _option(
        "count", 0, "At least so many of each trace's newest events are kept", low=0, shown="off"
    )
    retention_s: float = _option("seconds", 60.0, "Time between two searches for old traces and events", low=0.01)
    prices: str = _option(
        "text", "", "A file with prices of models, which go before those of the library `genai-prices`", shown="none"
    )
    max_event_bytes: int = _option("bytes", 256 * 1024, "The largest event accepted", low=1024)
    max_batch_events: int = _option("count", 1000, "The most events in one append")
    max_batch_bytes: int = _option("bytes", 4 * 1024**2, "The largest append", low=1024)
    max_ws_record_bytes: int = _option("bytes", 4 * 1024**2, "The largest inbound message on a record socket", low=1024)
    max_ws_bytes: int = _option("bytes", 64 * 1024, "The largest inbound message on any other socket", low=1024)
    max_trace_blob_bytes: int = _option(
        "bytes", 1024**3, "The most big and binary content of one trace, each up to 32 MiB", low=1024
    )
    max_waiting_bytes: int = _option(
        "bytes", 64 * 1024**2, "Appends that may wait to be written; further ones are refused with 503", low=1024
    )
    lock_wait_s: float = _option(
        "seconds", 10.0, "An append waits this long for another program's lock on the database", low=0
    )
    request_stall_s: float = _option(
        "seconds", 10.0, "A TLS handshake, request head or body without progress for this long is cut off", low=0.01
    )
    max_connections: int = _option("count", 12_000, "Connections per process, watchers and all others")
    max_accepts_per_second: int = _option(
        "count", 400, "Connections accepted per second and process while more are waiting"
    )
    max_watchers: int = _option("count", 10_000, "Watchers per process")
    max_subscriptions: int = _option("count", 100, "Subscriptions per socket of `/api/watch`")
    watcher_bytes: int = _option("bytes", 256 * 1024, "The most memory that a slow watcher costs", low=1024)
    frames_in_flight_bytes: int = _option(
        "bytes", 256 * 1024**2, "Bytes on their way to all watchers of a process together", low=1024**2
    )
    write_stall_s: float = _option(
        "seconds", 10.0, "A reader that takes nothing for this long while data waits is disconnected", low=0.01
    )
    page_events: int = _option("count", 500, "Events in one page of a backfill")
    page_bytes: int = _option("bytes", 512 * 1024, "Bytes in one page of a backfill", low=1024)
    shutdown_s: float = _option("seconds", 5.0, "The longest time that a shutdown takes, whatever is connected", low=0)
    goaway_ms: int = _option(
        "milliseconds", 2000, "Clients come back at a random time within this after a `goaway`", low=0
    )
    max_frame_bytes: int = _option(
        "bytes", 512 * 1024, "The largest frame sent, unless one event alone is larger", low=1024
    )

    url: str = _option(
        "url",
        "http://127.0.0.1:8400",
        "The server, or `sqlite:///file.db` to record without one",
        client=True,
    )
    token: str = _option(
        "secret",
        "",
        "The token, for a server that asks for one: see `tracewatch token create`",
        client=True,
        shown="none",
    )
    spool_dir: str = _option(
        "text",
        "",
        "The folder in which a recorder keeps events until the server has them",
        client=True,
        shown=f"`$XDG_STATE_HOME/{_SPOOL}`, else `~/.local/state/{_SPOOL}`",
    )
    spool_bytes: int = _option("bytes", 1024**3, "The largest size of a spool on disk", low=1024, client=True)
    flush_s: float = _option(
        "seconds", 5.0, "The longest wait of `flush()` and at the agent's exit", low=0, client=True
    )
    linger_s: float = _option(
        "seconds",
        2.0,
        "The longest wait for the server at the end of the outermost `with tracewatch.trace(…)`",
        low=0,
        client=True,
    )

    quiet: int = _option(
        "count",
        0,
        "1: a recorder on a terminal does not print where its run can be watched",
        low=0,
        high=1,
        client=True,
    )

    def __post_init__(self) -> None:
        if not self.spool_dir:
            object.__setattr__(self, "spool_dir", default_spool_dir(os.environ))

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str],
        *,
        only: Collection[str] = (),
        unusable: Callable[[InvalidField], object] | None = None,
        **overrides: object,
    ) -> Settings:
        """The settings by the defaults, the ``TRACEWATCH_*`` variables of ``environ`` and the ``overrides``.

        A later source wins over an earlier one. An empty variable counts as unset, and so does an override of None
        (a flag that was not given). An override is text or a value of the option's type.
        ``only``: the options whose variables are read; () is all. ``unusable``: gets the error of each unusable
        variable, whose default is then taken; without it the error is raised.
        Raises InvalidField for an unusable value, TypeError for an override that is no option.
        Example: ``Settings.from_env(os.environ, port=8500, keep_days="30")``.
        """
        if unknown := overrides.keys() - {option.name for option in OPTIONS}:
            raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
        values: dict[str, Any] = {"spool_dir": default_spool_dir(environ)}
        for option in OPTIONS:
            given = overrides.get(option.name)
            if given is not None:
                values[option.name] = option.parse(given, option.name)
            elif (not only or option.name in only) and environ.get(option.env, "").strip():
                try:
                    values[option.name] = option.parse(environ[option.env], option.env)
                except InvalidField as error:
                    if unusable is None:
                        raise
                    unusable(error)
        return cls(**values)


OPTIONS: tuple[Option, ...] = tuple(Option(name=f.name, **f.metadata) for f in dataclasses.fields(Settings))
CLIENT_OPTIONS = tuple(option.name for option in OPTIONS if option.client)


def format_bytes(count: int) -> str:
    """A size in the largest unit that gives a whole number: ``262144`` is ``256 KiB``."""
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count and count % size == 0:
            return f"{count // size} {unit}"
    return f"{count} bytes"


def markdown_table() -> str:
    """The table of all options in Markdown, as README.md and docs/operating.md have it; no newline at its end."""
    rows = ["| variable | default | for | what |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{option.env}` | {_shown(option)} | {'client' if option.client else 'server'} | {option.help} |"
        for option in OPTIONS
    ]
    return "\n".join(rows)


def _shown(option: Option) -> str:
    if option.shown:
        return option.shown
    if option.kind == "bytes":
        return format_bytes(int(option.default))
    unit = {"seconds": " s", "milliseconds": " ms"}.get(option.kind)
    return f"{option.default:g}{unit}" if unit else f"`{option.default}`"
