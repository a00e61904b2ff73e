"""``tracewatch prune``: delete old traces and events from a database file, whether a server uses it or not."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import InvalidField
from ..log import Outdated, Policy, open_log
from ..settings import Settings
from . import text
from .common import CliError, examples
from .database import database, db_option

EXAMPLES = examples("""
    tracewatch prune --keep-days 30 --dry-run       what would go, trace by trace
    tracewatch prune --keep-days 30 --db /var/lib/tracewatch/tracewatch.db
    tracewatch prune --keep-events 10000 --json
    tracewatch prune --vacuum                       once, for a file that was made before it could shrink
""")


@click.command("prune", epilog=EXAMPLES)
@db_option
@click.option(
    "--keep-days",
    metavar="N",
    help="Delete ended traces after N days without an event, and older events of the others. [TRACEWATCH_KEEP_DAYS]",
)
@click.option(
    "--keep-events", metavar="N", help="Keep at least the newest N events of each trace. [TRACEWATCH_KEEP_EVENTS]"
)
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be deleted, and change nothing.")
@click.option("--vacuum", is_flag=True, help="Rewrite the whole file. Stop the server first: appends have to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    db: str | None, keep_days: str | None, keep_events: str | None, dry_run: bool, vacuum: bool, as_json: bool
) -> None:
    """Delete old traces and events from a database file, and give the space back.

    A server that uses the file may go on running: it notices, and tells its watchers. A trace is trimmed 500 events
    at a time, and keeps its goals, totals and open questions.
    """
    try:
        chosen = Settings.from_env(
            os.environ, only=("db", "keep_days", "keep_events"), db=db, keep_days=keep_days, keep_events=keep_events
        )
    except InvalidField as error:
        raise CliError(error.message) from error
    path = database(chosen.db)
    if not path.is_file():
        raise CliError(f"there is no file {chosen.db}; --db names the database")
    if dry_run and vacuum:
        raise CliError("--dry-run and --vacuum exclude each other")
    if not (chosen.keep_days or chosen.keep_events or vacuum):
        raise CliError("nothing to go by: give --keep-days, --keep-events or both")
    answer = asyncio.run(_prune(path, chosen, dry_run=dry_run, vacuum=vacuum))
    if as_json:
        sys.stdout.buffer.write(text.json_document(answer))
    else:
        _print(answer)


async def _prune(path: Path, chosen: Settings, *, dry_run: bool, vacuum: bool) -> dict[str, Any]:
    days, count = chosen.keep_days, chosen.keep_events
    before = _size(path)
    log = await open_log(chosen.db)
    try:
        pruned = await log.prune(Policy(keep_days=days, keep_events=count, rewrite=vacuum), dry_run=dry_run)
    finally:
        await log.close()
    return {
        "dry_run": dry_run,
        "traces": [_entry(one) for one in pruned.gone],
        "totals": {
            "deleted_traces": sum(one.deleted for one in pruned.gone),
            "trimmed_traces": sum(not one.deleted for one in pruned.gone),
            "events": sum(one.events for one in pruned.gone),
            "bytes": sum(one.bytes for one in pruned.gone),
            "content_bytes": sum(one.content_bytes for one in pruned.gone),
        },
        "file": {"bytes_before": before, "bytes": _size(path), "gives_space_back": pruned.gives_back},
    }


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())


def _entry(going: Outdated) -> dict[str, Any]:
    return {
        "trace_id": going.trace_id,
        "task": going.task,
        "status": going.status,
        "deleted": going.deleted,
        "events": going.events,
        "bytes": going.bytes,
        "content_bytes": going.content_bytes,
        "first_event_id": None if going.deleted else going.upto + 1,
    }


def _what(going: dict[str, Any]) -> str:
    contents = f" and {text.size(going['content_bytes'])} beside them" if going["content_bytes"] else ""
    return f"{text.count(going['events'], 'event')}, {text.size(going['bytes'])}{contents}"


def _print(answer: dict[str, Any]) -> None:
    rows = [
        (
            text.one_line(trace["trace_id"]),
            "all of it" if trace["deleted"] else f"to {trace['first_event_id'] - 1:,}",
            _what(trace),
            text.cut(text.one_line(trace["task"]), 60),
        )
        for trace in answer["traces"]
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        click.echo("  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])).rstrip())
    totals, file = answer["totals"], answer["file"]
    words = (
        f"{text.count(totals['deleted_traces'], 'trace')} deleted, {totals['trimmed_traces']:,} trimmed: "
        f"{_what(totals)}"
    )
    if answer["dry_run"]:
        click.echo(f"would go: {words}; nothing was changed")
    else:
        click.echo(f"{words}; the file had {text.size(file['bytes_before'])} and has {text.size(file['bytes'])}")
    if not file["gives_space_back"]:
        click.echo(
            "an older file, which can't give space back: stop the server and run `tracewatch prune --vacuum` once",
            err=True,
        )
