"""``tracewatch export``: a trace as NDJSON that `tracewatch import` puts back byte for byte.

Rule: the header holds what never changes about a trace and nothing else, so that export, import and export again
      give the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from ..client.api import Api
from .common import CliError, examples, url_option
from .resolve import TRACE_HELP, all_events, find_trace, subtree

EXAMPLES = examples("""
    tracewatch export latest -O run.ndjson
    tracewatch export 2f8d | gzip > run.ndjson.gz
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
)


@click.command("export", epilog=EXAMPLES, help=f"Write a trace and its sub-traces as NDJSON.\n\n{TRACE_HELP}")
@click.argument("trace", required=False)
@click.option(
    "-O",
    "--output-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="A file. [else stdout]",
)
@click.option("--children/--no-children", default=True, show_default=True, help="Sub-traces, behind their parents.")
@url_option
def command(trace: str | None, output_file: Path | None, children: bool, url: str | None) -> None:
    api, found = find_trace(trace, url)
    lines = export_lines(api, found["trace_id"], children=children)
    if output_file is None or str(output_file) == "-":
        for line in lines:
            sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
        return
    part = output_file.with_name(f"{output_file.name}.part")
    try:
        with part.open("wb") as file:
            file.writelines(line + b"\n" for line in lines)
        part.replace(output_file)
    except OSError as error:
        raise CliError(f"{output_file}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def export_lines(api: Api, trace_id: str, *, children: bool) -> Iterator[bytes]:
    """``{"trace": …}`` and the stored events of a trace, then the same of each sub-trace, depth first."""
    for trace, _ in subtree(api, trace_id):
        yield orjson.dumps({"trace": header(trace)})
        yield from all_events(api, trace)
        if not children:
            return


def header(trace: dict[str, Any]) -> dict[str, Any]:
    """What of a trace's summary is needed to put it back."""
    return {key: trace[key] for key in HEADER}
