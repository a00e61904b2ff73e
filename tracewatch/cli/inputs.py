"""``tracewatch inputs``: list the open questions of all runs, oldest first."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click
import orjson
from rich.text import Text

from ..client.api import Api
from . import text
from .common import connect, examples, json_writer, out_console, output_option, url_option
from .questions import choices

_MOST = 1000  # questions, as many as a page has at most
EXAMPLES = examples("""
    tracewatch inputs
    tracewatch inputs -o ndjson | jq -r .question
    tracewatch answer 2f8d yes               answer the one that 2f8d has asked
""")


@click.command("inputs", epilog=EXAMPLES, short_help="List the open questions of all runs.")
@output_option("text", "json", "ndjson")
@url_option
def command(output: str, url: str | None) -> None:
    """List the questions of all traces that wait for an answer, oldest first."""
    api = connect(url)
    found = _all_pages(api)
    if output == "json":
        sys.stdout.buffer.write(text.json_document(found["inputs"]))
    elif output == "ndjson":
        write = json_writer()
        for one in found["inputs"]:
            write(orjson.dumps(one) + b"\n")
    else:
        _print(found["inputs"], api)
    if found.get("has_more"):
        click.echo("there are more: answer some of these first", err=True)


def _all_pages(api: Api) -> dict[str, Any]:
    """As ``Api.inputs``: as many as it gives at once, even where their size has cut them into several pages."""
    found = api.inputs()
    while found.get("next_page_token") and len(found["inputs"]) < _MOST:
        page = api.inputs(page_token=found["next_page_token"])
        found = {**page, "inputs": found["inputs"] + page["inputs"]}
    return found


def _print(inputs: list[dict[str, Any]], api: Api) -> None:
    if not inputs:
        click.echo(f"{api.url} has no open question", err=True)
        return
    console = out_console()
    for one in inputs:
        head = Text("? ", "magenta").append(text.one_line(one["trace_id"]), "bold")
        head.append(f"  {text.one_line(one['request_id'])}  {_times(one, api.now())}", "dim")
        console.print(head, soft_wrap=True)
        console.print(Text("  " + text.one_line(one["question"])), soft_wrap=True)
        if offered := choices(one):
            console.print(Text(f"  {offered}", "dim"), soft_wrap=True)


def _times(one: Mapping[str, Any], now_s: float) -> str:
    said = f"asked {text.age(now_s - datetime.fromisoformat(one['requested_at']).timestamp())} ago"
    if one.get("expires_at"):
        left = datetime.fromisoformat(one["expires_at"]).timestamp() - now_s
        said += f", expires in {text.age(left)}" if left > 0 else ", expires now"
    return said
