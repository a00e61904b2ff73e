"""Parts of the commands that work on the database file instead of asking a server: ``--db`` and a progress bar."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ..errors import LogError
from ..log import log_path
from ..log.sqlite.backup import Copied
from ..log.sqlite.inspect import Progress as Tell
from ..settings import Settings
from .common import CliError, err_console
from .signals import as_interrupt
from .text import count, size

F = TypeVar("F", bound=Callable[..., Any])


def db_option(command: F) -> F:
    """``--db``: the database file."""
    return click.option(
        "--db", metavar="FILE", help="The database file. [TRACEWATCH_DB, else tracewatch.db]", show_default=False
    )(command)


def database(db: str | None) -> Path:
    """The database file that ``--db`` or the environment names. Raises CliError where that is no file's name."""
    try:
        return log_path(db or Settings.from_env(os.environ, only=("db",)).db)
    except LogError as error:
        raise CliError(error.message) from error


def contents(copied: Copied) -> str:
    """``1 trace, 20 events, 147.5 kB``."""
    return f"{count(copied.traces, 'trace')}, {count(copied.events, 'event')}, {size(copied.size_bytes)}"


@contextmanager
def progress(words: dict[str, str]) -> Iterator[Tell]:
    """A progress bar on stderr if that is a terminal; it disappears at the end.

    ``words`` describe each step for the user, by its name. SIGTERM ends the block as Ctrl-C does, so that no
    half-written file stays behind.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = err_console()
    bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with as_interrupt(signal.SIGTERM), bars:
        task = bars.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bars.update(task, description=words.get(what, what), completed=done, total=total or None)

        yield tell
