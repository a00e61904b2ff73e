"""``tracewatch import``: import files of several formats, at full speed or as fast as the runs were."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..client.api import Api
from ..errors import BadRequest
from ..importers import FORMATS, ImportFault, NextFile, open_import
from ..importers.folder import why_not
from . import text
from .common import EXIT_FAILED, connect, err_console, examples, url_option
from .sending import Counts, Pace, StepSender

EXAMPLES = examples("""
    tracewatch import run.ndjson                       what `tracewatch export` wrote
    tracewatch import results.json --format tau-bench
    tracewatch import tapes/*.json --speed 20          twenty times as fast as it was
    gunzip -c run.ndjson.gz | tracewatch import -
""")


class Speed(click.ParamType[float | None]):
    """The type of ``--speed``: ``real``, ``max``, or a factor such as 10 for ten times as fast as the run was."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value in (None, "max"):
            return None
        try:
            speed = 1.0 if value == "real" else float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf"):
            self.fail(f"{value!r} is none of: real, max, a number above 0", param, ctx)
        return speed


class ImportCommand(click.Command):
    """The command, which takes names of files that look like options: a project of Claude Code's begins with a dash."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        for place, arg in enumerate(args):
            if arg[:1] == "-" and arg != "-" and arg.partition("=")[0] not in known and Path(arg).exists():
                args[place] = f"./{arg}"
        return super().parse_args(ctx, args)


@click.command("import", cls=ImportCommand, epilog=EXAMPLES)
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option(
    "--format", "form", type=click.Choice(["auto", *FORMATS]), default="auto", show_default=True, help="Format of FILE."
)
@click.option("--speed", type=Speed(), metavar="real|N|max", help="As fast as the run was, or N times. [max]")
@url_option
@click.pass_context
def command(ctx: click.Context, /, files: tuple[str, ...], form: str, speed: float | None, url: str | None) -> None:
    """Import runs from files; - is stdin. Importing a file again adds what is new in it.

    Each part that can't be read is reported (FILE:LINE: field: message) and the rest is imported. The exit code is 1
    then.
    """
    api = connect(url)
    api.health()  # without a server this fails now, before the first file is read
    total = Counts()
    with _reporting(len(files)) as report:
        for name in files:
            report.begin(name)
            counts = _import_file(api, name, form, Pace(speed), report)
            report.end(name, counts)
            total.add(counts)
    click.echo(summary(total))
    ctx.exit(EXIT_FAILED if total.faults else 0)


def summary(counts: Counts) -> str:
    """``12 traces, 4,321 events imported, 3 already there``, and the number of faults, if any."""
    words = text.count(counts.traces, "trace")
    if counts.sent:
        words += f", {text.count(counts.sent, 'item')} given to the server"
    if counts.events or counts.duplicates or not counts.sent:
        words += f", {text.count(counts.events, 'event')} imported, {text.count(counts.duplicates)} already there"
    return words + (f", {text.count(counts.faults, 'fault')}" if counts.faults else "")


def _import_file(api: Api, name: str, form: str, pace: Pace, report: Report) -> Counts:
    sender = StepSender(api, pace, lambda fault: report.fault(name, fault), report.progress, report.file)
    with _on_disk(name) as path:
        try:
            for step in open_import(path, form):
                sender.take(step)
        except (BadRequest, OSError) as error:
            sender.take(ImportFault(why_not(path, error).replace(str(path), name)))
        sender.flush()
    return sender.counts


@contextmanager
def _on_disk(name: str) -> Iterator[Path]:
    """The file. Stdin is first copied to a file, because the format is detected by the whole contents."""
    if name != "-":
        yield Path(name)
        return
    with tempfile.TemporaryDirectory(prefix="tracewatch-import-") as folder:
        path = Path(folder) / "stdin"
        with path.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        yield path


class Report:
    """The report of an import: a line or a progress bar for the files, and each fault when it is found."""

    def __init__(self, say: Callable[[str], None], progress: Progress | None, files: int) -> None:
        self._say = say
        self._progress = progress
        self._files = progress.add_task("", total=files, events=0) if progress else None
        self._events = 0
        self._of = files
        self._many = files > 1

    def begin(self, name: str) -> None:
        """Show that a file is about to be read."""
        if self._progress and self._files is not None:
            self._progress.update(self._files, description=text.cut(text.one_line(name), 40))

    def file(self, file: NextFile) -> None:
        """Show which file of a folder is about to be read."""
        if self._progress and self._files is not None:
            if file.number == 1:
                self._of += file.of - 1  # the folder counts as all its files
                self._progress.update(self._files, total=self._of)
            else:
                self._progress.advance(self._files)
            self._progress.update(self._files, description=text.cut(text.one_line(file.name), 40))

    def progress(self, events: int) -> None:
        """Count ``events`` more as sent."""
        self._events += events
        if self._progress and self._files is not None:
            self._progress.update(self._files, events=self._events)

    def end(self, name: str, counts: Counts) -> None:
        """Report a file that is done."""
        if self._progress and self._files is not None:
            self._progress.advance(self._files)
        elif self._many:
            self._say(f"{text.one_line(name)}: {summary(counts)}")

    def fault(self, name: str, fault: ImportFault) -> None:
        """Report a fault: ``FILE:LINE: field: message``."""
        if fault.file:
            folder = Path(name)
            name = str((folder if folder.is_dir() else folder.parent) / fault.file)
        where = name if fault.line is None else f"{name}:{fault.line}"
        words = ": ".join(part for part in (where, fault.field, fault.message) if part)
        if self._progress:
            self._progress.console.print(text.one_line(words), style="red", markup=False, soft_wrap=True)
        else:
            click.echo(text.one_line(words), err=True)


@contextmanager
def _reporting(files: int) -> Iterator[Report]:
    if not sys.stderr.isatty():
        yield Report(click.echo, None, files)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[events]:,} events"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err_console(), transient=True) as progress:
        yield Report(click.echo, progress, files)
