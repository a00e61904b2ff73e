"""``tracewatch export``: write a trace as NDJSON, from which `tracewatch import` restores it byte for byte.

Rule 1: a header holds only fields that an import restores unchanged. So export, import and export again give the same
        bytes.
Rule 2: with ``--html`` the same lines stand in one page with the viewer, which makes no request of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click
import orjson

from ..client.api import Api
from ..client.errors import ApiError
from ..model.base import make_base
from ..model.blobs import ANY_TYPE, MARK, MEDIA_TYPE
from ..model.content_lines import content_lines
from ..model.contents import references_in
from ..server.page import NOT_BUILT, OFFLINE, web_dir
from .common import CliError, examples, json_writer, url_option, write_whole
from .traces import TRACE_HELP, all_events, find_trace, subtree

PAGE_BYTES = 16 * 1024**2  # of all contents in a page that is one file
EXAMPLES = examples("""
    tracewatch export latest -O run.ndjson
    tracewatch export 2f8d | gzip > run.ndjson.gz
    tracewatch export latest --html -O run.html    a page that opens offline, in any browser
    tracewatch export 2f8d --no-children | tracewatch import - --url http://127.0.0.1:8500
""")

HEADER = (
    "trace_id",
    "task",
    "agent_type",
    "parent_trace_id",
    "parent_goal_id",
    "root_trace_id",
    "created_at",
    "metadata",
    "first_event_id",
    "last_event_id",
)
NAMED = ("session_id", "user_id", "tags", "links")  # in a header where there is something to say


@click.command("export", epilog=EXAMPLES, help=f"Write a trace and its sub-traces as NDJSON.\n\n{TRACE_HELP}")
@click.argument("trace", required=False)
@click.option(
    "-O",
    "--output-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="A file. [else stdout]",
)
@click.option("--children/--no-children", default=True, show_default=True, help="Sub-traces, each after its parent.")
@click.option("--html", is_flag=True, help="Write one HTML file with the viewer in it, which opens offline.")
@url_option
def command(trace: str | None, output_file: Path | None, children: bool, html: bool, url: str | None) -> None:
    api, found = find_trace(trace, url)
    parts = (export_page if html else export_lines)(api, found["trace_id"], children=children)
    if output_file is None or str(output_file) == "-":
        write = json_writer()
        for part in parts:
            write(part)
        sys.stdout.buffer.flush()
        return
    output_file = output_file.resolve()  # of a link the file it leads to is written
    write_whole(output_file, parts)


def export_lines(api: Api, trace_id: str, *, children: bool) -> Iterator[bytes]:
    """The lines of an export: ``{"trace": …}`` and the stored events of a trace, then those of each sub-trace."""
    for trace, _ in subtree(api, trace_id):
        events = all_events(api, trace)
        first = next(events, None)
        told: set[str] = set()
        head = orjson.dumps({"trace": header(api, trace, first)})
        yield head + b"\n"
        if MARK in head:  # the state that a trimmed log begins with
            yield from (one + b"\n" for one in _contents(api, trace["trace_id"], head, told))
        for line in chain([] if first is None else [first], events):
            if MARK in line:
                yield from (one + b"\n" for one in _contents(api, trace["trace_id"], line, told))
            yield line + b"\n"
        if not children:
            return


def _contents(api: Api, trace_id: str, line: bytes, told: set[str], room: list[int] | None = None) -> Iterator[bytes]:
    """The lines of the contents that an event names and that were not told before, as far as there is room."""
    for ref in references_in(orjson.loads(line)):
        if ref["blob"] in told or (room is not None and ref["bytes"] > room[0]):
            continue
        told.add(ref["blob"])
        if room is not None:
            room[0] -= ref["bytes"]
        media_type = ref["media_type"] if MEDIA_TYPE.fullmatch(ref["media_type"]) else ANY_TYPE
        try:
            yield from content_lines(ref["blob"], ref["bytes"], media_type, api.blob(trace_id, ref["blob"]))
        except ApiError as error:
            if error.status != 404:
                raise
            click.echo(f"trace {trace_id}: {error.message}; an import will refuse what names it", err=True)


def export_page(api: Api, trace_id: str, *, children: bool) -> Iterator[bytes]:
    """The viewer as one HTML file that contains the lines of ``export_lines`` and each trace's snapshot."""
    try:
        template = (web_dir() / OFFLINE).read_bytes()
    except OSError as error:
        raise CliError(NOT_BUILT.strip()) from error
    before, _, after = template.partition(b"<!-- traces -->")
    yield before
    room = [PAGE_BYTES]
    for trace, _ in subtree(api, trace_id):
        names = ("trace", "goal_tree", "sub_traces", "pending_inputs", "steps")
        answer = api.trace(trace["trace_id"])
        snapshot = {name: answer[name] for name in names if name in answer}
        events = all_events(api, trace)
        first = next(events, None)
        head = orjson.dumps({"trace": header(api, trace, first), "snapshot": snapshot})
        yield _harmless(head)
        told: set[str] = set()
        if MARK in head:
            for one in _contents(api, trace["trace_id"], head, told, room):
                yield _harmless(one)
        for line in chain([] if first is None else [first], events):
            if MARK in line:
                for one in _contents(api, trace["trace_id"], line, told, room):
                    yield _harmless(one)
            yield _harmless(line)
        if not children:
            break
    yield after


def _harmless(line: bytes) -> bytes:
    """JSON without ``<``, so that it can't end the HTML element around it. A ``<`` occurs in strings only."""
    return line.replace(b"<", b"\\u003c") + b"\n"


def header(api: Api, trace: dict[str, Any], first: bytes | None) -> dict[str, Any]:
    """The fields of a summary that restoring needs; for a trimmed trace also the state that its log begins with.

    ``first``: the first event, which says when the trace began unless that was given.
    """
    kept = {key: trace[key] for key in HEADER} | {key: trace[key] for key in NAMED if trace.get(key)}
    event = {"ts": trace["created_at"]} if first is None else orjson.loads(first)
    if trace["first_event_id"] == 1 and trace.get("started_at") not in (None, event.get("occurred_at") or event["ts"]):
        kept["started_at"] = trace["started_at"]
    if trace["first_event_id"] > 1:
        kept["base"] = make_base(api.trace(trace["trace_id"], at_event_id=trace["first_event_id"] - 1))
    return kept
