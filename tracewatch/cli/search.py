"""``tracewatch search``: find text in everything that was recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby, islice
from typing import Any

import click
import orjson
from rich.console import Console
from rich.text import Text

from ..client.api import Api
from . import text
from .common import EXIT_FAILED, connect, examples, json_writer, out_console, output_option, url_option
from .lines import STATUS_GLYPHS, STATUS_STYLES
from .times import clock_of, day_of, is_today
from .traces import find_trace

PAGE = 100  # hits, read at once
EXAMPLES = examples("""
    tracewatch search TimeoutError
    tracewatch search '"session cookie" status:failed age<7d'
    tracewatch search 'log* -debug' --in 2f8d        in one trace and its sub-traces
    tracewatch search deploy --json | jq -r '.hits[].trace_id'
""")


@click.command("search", epilog=EXAMPLES, short_help="Find text in everything that was recorded.")
@click.argument("words", nargs=-1, required=True, metavar="TEXT...")
@click.option("--in", "within", metavar="TRACE", help="Only in TRACE and its sub-traces.")
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True, help="The most hits to show.")
@click.option("--per-trace", type=click.IntRange(1, 200), default=5, show_default=True, help="The most of one trace.")
@click.option("--json", "as_json", is_flag=True, help="As -o json: {hits, traces, index}.")
@output_option("text", "json", "ndjson")
@url_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    words: tuple[str, ...],
    within: str | None,
    limit: int,
    per_trace: int,
    as_json: bool,
    output: str,
    url: str | None,
) -> None:
    """Find TEXT in messages, tools, errors, tasks, goals and tags, the newest runs first.

    All words have to be found in one message. "Several words" are a phrase, log* is a beginning, -word must not be
    there. Fields of the filter language (status:failed agent:coder age<2h) say in which runs to look.

    Exit code: 1 if nothing is found.
    """
    if within is None:
        api, trace_id = connect(url), None
    else:
        api, above = find_trace(within, url)
        trace_id = above["trace_id"]
    pages = _pages(api, " ".join(words), trace_id=trace_id, limit=min(limit, PAGE), per_trace=per_trace)
    found = _collected(pages, limit)
    if as_json or output == "json":
        sys.stdout.buffer.write(text.json_document(found))
    elif output == "ndjson":
        write = json_writer()
        for hit in found["hits"]:
            write(orjson.dumps(hit) + b"\n")
    else:
        _print(out_console(), found)
    _remark(found["index"])
    if not found["hits"]:
        if output == "text" and not as_json:
            click.echo(f"nothing is found at {api.url}", err=True)
        ctx.exit(EXIT_FAILED)


def _pages(api: Api, q: str, **query: Any) -> Iterator[dict[str, Any]]:
    token: str | None = None
    while True:
        page = api.search(q, page_token=token, **query)
        yield page
        token = page["next_page_token"]
        if not token:
            return


def _collected(pages: Iterator[dict[str, Any]], limit: int) -> dict[str, Any]:
    hits: list[dict[str, Any]] = []
    traces: dict[str, dict[str, Any]] = {}
    index: dict[str, Any] = {}
    for page in pages:
        hits += page["hits"]
        traces.update({trace["trace_id"]: trace for trace in page["traces"]})
        index = page["index"]
        if len(hits) >= limit:
            break
    hits = list(islice(hits, limit))
    named = {hit["trace_id"] for hit in hits}
    return {"hits": hits, "traces": [trace for name, trace in traces.items() if name in named], "index": index}


def _remark(index: dict[str, Any]) -> None:
    state, behind = index["state"], text.count(index["behind"], "run")
    if state != "current":
        words = "is still being made" if state == "building" else "is behind" if state == "behind" else "does not work"
        why = f": {text.escape(index['trouble'])}" if index.get("trouble") else ""
        click.echo(f"the search index {words} ({behind} to read){why}", err=True)


def _print(console: Console, found: dict[str, Any]) -> None:
    traces = {trace["trace_id"]: trace for trace in found["traces"]}
    for number, (trace_id, hits) in enumerate(groupby(found["hits"], key=lambda hit: hit["trace_id"])):
        if number:
            console.print()
        trace = traces[trace_id]
        head = Text(f"{STATUS_GLYPHS.get(trace['status'], '?')} ", STATUS_STYLES.get(trace["status"], "dim"))
        head.append(text.one_line(trace["task"]), "bold").append(f"  {trace_id}", "dim")
        console.print(head, soft_wrap=True)
        for hit in hits:
            console.print(_line(hit), soft_wrap=True)


def _line(hit: dict[str, Any]) -> Text:
    place = f"#{hit['event_id']}" if hit["event_id"] else ""
    what = hit.get("label") or hit["kind"]
    day = day_of(hit["ts"])[0] if hit["ts"] else ""
    at = "" if not day else clock_of(hit["ts"], milliseconds=False) if is_today(day) else day
    line = Text(f"  {place:>6} {at}  ", "dim")
    line.append(text.one_line(what), "cyan").append("  ")
    for number, part in enumerate(hit["snippet"]):
        line.append(text.escape(" ".join(part.split("\n"))), "bold yellow" if number % 2 else "")
    return line
