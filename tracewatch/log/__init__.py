"""The log: ``open_log(url)`` gives an ``EventLog``, and these are the values that its methods take and give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import LogError
from .blobs import Blob
from .counts import LogLook
from .finder import SearchQuery
from .log import EventLog
from .prices import Prices, read_prices
from .retention import Outdated, Policy, Pruned
from .views import Appended, Grown, Listener, Page, Snapshot, TraceQuery

__all__ = [
    "Appended",
    "Blob",
    "EventLog",
    "Grown",
    "Listener",
    "LogLook",
    "Outdated",
    "Page",
    "Policy",
    "Prices",
    "Pruned",
    "SearchQuery",
    "Snapshot",
    "TraceQuery",
    "log_path",
    "open_log",
    "read_prices",
]


def log_path(url: str) -> Path:
    """The file of ``sqlite:///path.db``, or of a bare path. Raises LogError for anything else."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "sqlite":
        raise LogError(f"{scheme}:// is not a log this tracewatch can open; use sqlite:///path.db or a path")
    path = rest.removeprefix("/") if separator else url
    if not path:
        raise LogError("the path of the log is empty; use sqlite:///path.db")
    return Path(path)


async def open_log(url: str, **options: Any) -> EventLog:
    """Open the log at ``sqlite:///path.db`` (or a bare path), creating it if it is not there. Raises LogError.

    ``options``: see ``open_sqlite``.
    """
    from .sqlite.opening import open_sqlite

    return await open_sqlite(log_path(url), **options)
