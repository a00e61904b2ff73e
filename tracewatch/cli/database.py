"""What the commands share that work on the database file itself, and not through a server."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ..errors import LogError
from ..log import log_path
from ..log.sqlite.backup import Copied
from ..log.sqlite.inspect import Progress as Tell
from ..settings import Settings
from .common import CliError
from .text import count

F = TypeVar("F", bound=Callable[..., Any])


def db_option(command: F) -> F:
    """``--db``: the database file."""
    return click.option(
        "--db", metavar="FILE", help="The database file. [TRACEWATCH_DB, else tracewatch.db]", show_default=False
    )(command)


def database(db: str | None) -> Path:
    """The database file that ``--db`` or the environment names."""
    try:
        return log_path(db or Settings.from_env(os.environ).db)
    except LogError as error:
        raise CliError(error.message) from error


def contents(copied: Copied) -> str:
    """``1 trace, 20 events, 147.5 kB``."""
    return f"{count(copied.traces, 'trace')}, {count(copied.events, 'event')}, {size(copied.size_bytes)}"


def size(number_of_bytes: int) -> str:
    """``1.2 MB``."""
    number, units = float(number_of_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while number >= 999.95 and len(units) > 1:
        number /= 1000
        del units[0]
    return f"{number_of_bytes:,} bytes" if units[0] == "bytes" else f"{number:.1f} {units[0]}"


@contextmanager
def progress(words: dict[str, str]) -> Iterator[Tell]:
    """A bar on stderr, if that is a terminal; it is gone at the end. ``words``: what is being done, for a person.

    SIGTERM ends the command as Ctrl-C does, so that nothing is left behind.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if main else None
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True, highlight=False)
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            task = bars.add_task("", total=None)

            def tell(what: str, done: int, total: int) -> None:
                bars.update(task, description=words.get(what, what), completed=done, total=total or None)

            yield tell
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
