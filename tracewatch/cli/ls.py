"""``tracewatch ls``: list traces, newest first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import click
import orjson
from rich.text import Text

from ..client.api import Api
from ..model.error import error_line
from . import text
from .common import STATUSES, connect, examples, json_writer, out_console, output_option, url_option
from .lines import STATUS_GLYPHS, STATUS_STYLES
from .times import has_no_times
from .traces import began_and_ended, every_trace, find_trace, subtree

EXAMPLES = examples("""
    tracewatch ls
    tracewatch ls 'status:failed took>20s cost>1 age<7d "session cookie"'
    tracewatch ls --status failed --agent coder -q login
    tracewatch ls --tag nightly --error TimeoutError
    tracewatch ls --session s-17 --order activity
    tracewatch ls --children                  sub-traces below their parents
    tracewatch ls --parent 2f8d               those of one trace
    tracewatch ls -o ndjson | jq -r .trace_id
""")

ORDERS = ("started", "activity")
ANY_ERROR = "*"
# What the options are to the server
FILTERS = {
    "status": "status",
    "agent": "agent_type",
    "query": "q",
    "tags": "tag",
    "session": "session_id",
    "user": "user_id",
    "model": "model",
    "error": "error",
}


@click.command("ls", epilog=EXAMPLES)
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@click.option("--status", type=click.Choice(STATUSES), help="Only traces of this status.")
@click.option("--agent", metavar="TYPE", help="Only traces of this agent type.")
@click.option("-q", "query", metavar="TEXT", help="Only traces with TEXT in their task, id or agent type.")
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only traces with this tag; several: with all of them."
)
@click.option("--session", metavar="ID", help="Only traces of this session.")
@click.option("--user", metavar="ID", help="Only traces of this user.")
@click.option("--model", metavar="NAME", help="Only traces with a message of this model.")
@click.option(
    "--error",
    is_flag=False,
    flag_value=ANY_ERROR,
    metavar="[TEXT]",
    help="Only traces with an error, or with one that says TEXT (its type or its message).",
)
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    default=ORDERS[0],
    show_default=True,
    help="By when they began, or by when something happened last; the newest first.",
)
@click.option("--children", is_flag=True, help="Also list sub-traces, below their parents.")
@click.option("--parent", metavar="TRACE", help="List the sub-traces of TRACE instead.")
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True, help="The most traces to list.")
@output_option("text", "json", "ndjson")
@url_option
def command(
    *,
    words: tuple[str, ...],
    children: bool,
    parent: str | None,
    order: str,
    limit: int,
    output: str,
    url: str | None,
    **given: Any,
) -> None:
    """List traces, newest first. Sub-traces are left out unless asked for.

    FILTER: status:failed,lost agent:cod tag:nightly session:s-17 user:ada model:sonnet error:Timeout id:2f8d took>20s
    cost>1 tokens>10k messages>5 age<2h since:2026-11-01 until:2026-11-02 and words, prefixes* and "phrases" that are
    found in what was recorded. A - before one turns it around.
    """
    filters = {FILTERS[name]: value for name, value in given.items() if value}
    if words:
        filters["filter"] = " ".join(words)
    if parent is not None:
        api, above = find_trace(parent, url)
        filters["parent_trace_id"] = above["trace_id"]
    else:
        api = connect(url)
    found = _found(
        api, {**filters, "order": None if order == ORDERS[0] else order}, limit, roots=not (parent or children)
    )
    rows = _with_children(api, found) if children and not filters else ((t, 0) for t in found)
    rows = islice(rows, limit)
    if output == "ndjson":
        write = json_writer()
        for trace, _ in rows:
            write(orjson.dumps(trace) + b"\n")
    elif output == "json":
        listed = [trace for trace, _ in rows]
        sys.stdout.buffer.write(text.json_document(listed))
    else:
        _print_table(list(rows), api)


def _found(api: Api, filters: dict[str, Any], limit: int, *, roots: bool) -> Iterator[dict[str, Any]]:
    page = min(max(limit, 50), 1000) if roots else min(limit, 1000)
    for trace in every_trace(api, limit=page, **filters):
        if not roots or trace["parent_trace_id"] is None:
            yield trace


def _with_children(api: Api, traces: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    for trace in traces:
        if trace["parent_trace_id"] is None:
            yield from subtree(api, trace["trace_id"])


def _print_table(rows: list[tuple[dict[str, Any], int]], api: Api) -> None:
    if not rows:
        click.echo(f"{api.url} has no trace to list; make one with: tracewatch demo", err=True)
        return
    console = out_console()
    narrow = console.is_terminal and console.width < 100
    heads = ["", "trace", "agent", "age", "took", "msgs", "tokens", "cost", "task"]
    if narrow:
        heads = [head for head in heads if head not in ("took", "msgs")]
    now_s = api.now()
    body = (_row(trace, depth, now_s, narrow=narrow) for trace, depth in rows)
    table = [[Text(head, "dim") for head in heads], *body]
    widths = [max(row[column].cell_len for row in table) for column in range(len(heads) - 1)]
    if console.is_terminal:  # long ids, agents and tasks are cut to fit; `show` has them in full
        widths[1], widths[2] = min(widths[1], 14 if narrow else 26), min(widths[2], 12)
        widths.append(max(console.width - sum(widths) - 2 * len(widths), 10))
    for row in table:
        line = Text(end="")
        for column, cell in enumerate(row):
            if column < len(widths):
                cell.truncate(widths[column], overflow="ellipsis")
            if column < len(row) - 1:
                room = " " * (widths[column] - cell.cell_len)
                line.append_text(cell.append(room) if column < 3 else Text(room).append_text(cell)).append("  ")
            else:
                line.append_text(cell)
        console.print(line, soft_wrap=True)


def _row(trace: dict[str, Any], depth: int, now_s: float, *, narrow: bool) -> list[Text]:
    style = STATUS_STYLES.get(trace["status"], "dim")
    began, ended = began_and_ended(trace)
    took = (now_s if ended is None else ended) - began
    totals = trace["tree_totals"]
    cells = [
        Text(STATUS_GLYPHS.get(trace["status"], "?"), style),
        Text(("  " * (depth - 1) + "↳ " if depth else "") + text.one_line(trace["trace_id"])),
        Text(text.one_line(trace["agent_type"]), "cyan"),
        Text(text.age(now_s - began)),
    ]
    if not narrow:
        lost = ended is None and trace["status"] not in ("running", "waiting")  # the time of its end is unknown
        over = lost or has_no_times(trace)
        cells += [Text("–" if over else text.duration(took * 1000)), Text(text.count(totals["total_messages"]))]
    tokens = "" if narrow else text.used(totals, None)
    known = text.count(totals["total_tokens"]) if totals["total_tokens"] else "–"
    cells += [Text(tokens or known), Text(text.dollars(totals["total_cost"]))]
    last = Text(text.one_line(trace["task"]))
    for tag in trace.get("tags", ()):
        last.append(f"  #{text.one_line(str(tag))}", "dim")
    if error := error_line(trace["error"]):
        last.append(f"  ✗ {text.cut(text.one_line(error), 200)}", "red")
    return [*cells, last]
