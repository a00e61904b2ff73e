"""``tracewatch doctor``: check the database and its machine, and advise on what is wrong."""

from __future__ import annotations

import os
import sys
from collections import Counter
from importlib import import_module
from itertools import groupby
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from ..errors import LogError
from ..log.sqlite.doctor import ERROR, OK, WARNING, Finding, check
from ..log.sqlite.reindex import reindex as reindexed
from ..settings import Settings
from .common import EXIT_FAILED, CliError, examples, out_console
from .database import database, db_option, progress
from .text import count, escape, json_document, terminal_width, wrap

EXAMPLES = examples("""
    tracewatch doctor
    tracewatch doctor --db /backup/tracewatch.db --full     is this backup good?
    tracewatch doctor --reindex                             the search index, made anew
    tracewatch doctor --json | jq '.findings[] | select(.severity == "error")'
    tracewatch doctor ingest                                what arrived from where, and what to set when nothing did
""")
MARKS = {OK: ("✓", "green"), WARNING: ("!", "yellow"), ERROR: ("✗", "bold red")}


class DoctorCommands(click.Group):
    """What is checked besides the database."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["ingest"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "ingest":
            return None
        found: click.Command = import_module(".doctor_ingest", __package__).command
        return found


@click.command("doctor", cls=DoctorCommands, invoke_without_command=True, epilog=EXAMPLES)
@db_option
@click.option("--full", is_flag=True, help="Compare SQLite's indexes with their tables, too. Slower.")
@click.option("--reindex", is_flag=True, help="Make the index of the search anew, and check nothing.")
@click.option("--json", "as_json", is_flag=True, help="For programs: {db, errors, warnings, findings}.")
@click.pass_context
def command(ctx: click.Context, *, db: str | None, full: bool, reindex: bool, as_json: bool) -> None:
    """Check the database, everything in it and the machine, and say what is wrong and what to do.

    The check only reads, also while a server uses the database. It folds every event again and compares the result with
    the contents of the database. Exit code: 0 without errors (there may be warnings), 1 with errors.
    """
    if ctx.invoked_subcommand is not None:
        return
    path = database(db)
    if reindex:
        _reindex(path, as_json=as_json)
        return
    words = {"file": "SQLite's own check", "events": "folding all events again"}
    try:
        with progress(words) as tell:
            watchers = Settings.from_env(os.environ, only=("max_watchers",)).max_watchers
            found = check(path, full=full, max_watchers=watchers, progress=tell)
    except LogError as error:
        raise CliError(error.message) from error
    counts = Counter(finding.severity for finding in found)
    if as_json:
        values = {"db": str(path), "errors": counts[ERROR], "warnings": counts[WARNING]}
        sys.stdout.buffer.write(json_document({**values, "findings": [finding.to_json() for finding in found]}))
    else:
        _show(out_console(), path, found, counts)
    ctx.exit(EXIT_FAILED if counts[ERROR] else 0)


def _reindex(path: Path, *, as_json: bool) -> None:
    try:
        with progress({"search": "reading all traces for the search index"}) as tell:
            texts = reindexed(path, tell)
    except LogError as error:
        raise CliError(error.message) from error
    if as_json:
        sys.stdout.buffer.write(json_document({"db": str(path), "texts": texts}))
    else:
        click.echo(f"the search index has {count(texts, 'text')}")


def _show(console: Console, path: Path, found: list[Finding], counts: Counter[str]) -> None:
    width = min(terminal_width(), 120) if console.is_terminal and sys.stdout.isatty() else 100_000
    for (severity, _), kind in groupby(sorted(found, key=_order), key=lambda one: (one.severity, one.code)):
        mark, style = MARKS[severity]
        findings = list(kind)
        for finding in findings:
            first, *more = wrap(escape(finding.message), width - 2)
            console.print(Text.assemble((f"{mark} ", style), first))
            for line in more:
                console.print(Text(f"  {line}"))
        for advice in dict.fromkeys(finding.advice for finding in findings if finding.advice):
            for number, line in enumerate(wrap(escape(advice), width - 4)):
                console.print(Text(f"  {' ' if number else '→'} {line}", "dim"))
    what = f"{count(counts[ERROR], 'error')}, {count(counts[WARNING], 'warning')}"
    console.print(Text.assemble("", f"\n{escape(str(path))}: ", (what, _color(counts))))


def _order(finding: Finding) -> tuple[int, str]:
    """The order of findings on a screen: good news first, errors last, where the user looks."""
    return (OK, WARNING, ERROR).index(finding.severity), finding.code if finding.severity != OK else ""


def _color(counts: Counter[str]) -> str:
    return MARKS[ERROR if counts[ERROR] else WARNING if counts[WARNING] else OK][1]
