"""Finding traces: the one that the user means, all of them, and the sub-traces of one.

Rule 1: a trace is named by its id, a unique prefix of it, a URL or ``latest``, or chosen from a list.
Rule 2: an exact id wins over a prefix. A prefix of several ids is refused, and the message names them.
Rule 3: among the traces with a prefix one without a parent wins: the ids of sub-traces often begin with their parent's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import click

from ..client.api import Api
from ..client.errors import ApiError
from ..model.frames import format_cursor
from . import text
from .common import CliError, connect
from .lines import STATUS_GLYPHS

_PATH = re.compile(r"(?P<prefix>.*?)(?:/api)?/traces/(?P<trace_id>[^/]+)(?:/(?:events|watch|messages|record))?/?")
_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}", re.ASCII)
_LOOKED_AT = 20_000  # search results that are read for a prefix; beyond them a whole id is needed
_OFFERED = 15  # traces in the list to choose from

TRACE_HELP = "TRACE is an id, the beginning of one, a URL (http://host/traces/ID), or `latest`."


def began_and_ended(trace: Mapping[str, Any]) -> tuple[float, float | None]:
    """When the run was, as Unix times in seconds; the end is None while it has none.

    An older server does not say it: then it is when the run was recorded.
    """
    began, ended = trace.get("started_at") or trace["created_at"], trace.get("ended_at") or trace["completed_at"]
    return datetime.fromisoformat(began).timestamp(), datetime.fromisoformat(ended).timestamp() if ended else None


def parse_url(given: str) -> tuple[str, str]:
    """``(server, trace_id)`` of the URL of a trace's page or of its API. Raises CliError."""
    parts = urlsplit(given)
    match = _PATH.fullmatch(parts.path)
    if match is None or not parts.netloc:
        raise CliError(f"{given} is not the URL of a trace such as http://127.0.0.1:8400/traces/ID")
    return f"{parts.scheme}://{parts.netloc}{match['prefix']}", unquote(match["trace_id"])


def find_trace(given: str | None, url: str | None, *, interactive: bool | None = None) -> tuple[Api, dict[str, Any]]:
    """The server and the summary of the trace that the user means.

    Without ``given`` the user chooses from a list if ``interactive`` (by default: on a terminal). Raises CliError if no
    trace or several fit, and Unreachable without a server.
    """
    if given is not None and given.startswith(("http://", "https://")):
        url, given = parse_url(given)
    api = connect(url)
    if given is None:
        if interactive is None:
            interactive = sys.stdin.isatty() and sys.stderr.isatty()
        if not interactive:
            raise CliError("which trace? Give an id, the beginning of one, a URL or `latest` (see: tracewatch ls)")
        return api, _choose(api)
    if given == "latest":
        return api, _latest(api)
    if not _ID.fullmatch(given):
        raise CliError(f"{text.one_line(given)!r} can't be a trace's id (letters, digits and . _ : @ -, at most 128)")
    return api, _exact(api, given) or _by_prefix(api, given)


def every_trace(api: Api, **query: Any) -> Iterator[dict[str, Any]]:
    """The summaries of all traces that fit ``query``, newest first, read page by page."""
    token: str | None = None
    while True:
        page = api.traces(page_token=token, **query)
        yield from page["traces"]
        token = page["next_page_token"]
        if not token:
            return


def _latest(api: Api) -> dict[str, Any]:
    """The newest trace without a parent."""
    for trace in every_trace(api, limit=50):
        if trace["parent_trace_id"] is None:
            return trace
    raise CliError(f"{api.url} has no trace yet; make one with: tracewatch demo")


def _exact(api: Api, trace_id: str) -> dict[str, Any] | None:
    try:
        trace: dict[str, Any] = api.trace(trace_id)["trace"]
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    return trace


def _by_prefix(api: Api, prefix: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for number, trace in enumerate(every_trace(api, q=prefix, limit=1000)):
        if trace["trace_id"].startswith(prefix):
            found.append(trace)
        if number >= _LOOKED_AT:
            break
    if not found:
        raise CliError(f"no trace at {api.url} has the id {prefix} or begins with it (see: tracewatch ls --children)")
    roots = [trace for trace in found if trace["parent_trace_id"] is None]
    if len(roots) == 1:
        return roots[0]
    if len(found) > 1:
        listed = "\n".join(
            f"  {trace['trace_id']}  {text.cut(text.one_line(trace['task']), 60)}" for trace in found[:5]
        )
        more = f"\n  … and {len(found) - 5} more" if len(found) > 5 else ""
        raise CliError(f"{prefix} is the beginning of {len(found)} ids:\n{listed}{more}")
    return found[0]


def _choose(api: Api) -> dict[str, Any]:
    traces = []
    for trace in every_trace(api, limit=50):
        if trace["parent_trace_id"] is None:
            traces.append(trace)
        if len(traces) == _OFFERED:
            break
    if not traces:
        raise CliError(f"{api.url} has no trace yet; make one with: tracewatch demo")
    room = max(text.terminal_width() - 40, 30)
    for number, trace in enumerate(traces, 1):
        made = text.age(api.now() - began_and_ended(trace)[0])
        task = text.cut(text.one_line(trace["task"]), room)
        glyph = STATUS_GLYPHS.get(trace["status"], "?")
        click.echo(f"{number:3} {glyph} {trace['status']:9} {made:>4} ago  {task}", err=True)
    chosen: int = click.prompt("which one", type=click.IntRange(1, len(traces)), default=1, err=True)
    return traces[chosen - 1]


# --- a trace, its sub-traces and their events ---


def subtree(api: Api, trace_id: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The summaries of a trace and all its sub-traces with their depth; depth first, in the order of their start."""
    waiting = [(trace_id, 0)]
    while waiting:
        this, depth = waiting.pop()
        try:
            found = api.trace(this)
        except ApiError as error:
            if error.status == 404 and depth:
                continue  # a deleted sub-trace: its parent's log still names it
            raise
        yield found["trace"], depth
        started = sorted(found["sub_traces"], key=lambda sub: int(sub["started_event_id"]))
        waiting.extend((sub["trace_id"], depth + 1) for sub in reversed(started))


def all_events(api: Api, trace: dict[str, Any], since: str | None = None) -> Iterator[bytes]:
    """The stored bytes of each event of a trace after ``since``, or of all that the log still holds."""
    if since is None:
        first = trace["first_event_id"] - 1
        since = str(first) if api.epoch is None else format_cursor(api.epoch, first)  # never of another history
    return api.events(trace["trace_id"], since)
