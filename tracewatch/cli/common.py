"""Parts that most commands share: exit codes, errors, options, the connection to the server, the console."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, TypeVar

import click
from rich.console import Console

from ..client.api import Api
from ..settings import CLIENT_OPTIONS, Settings
from .text import escape_json

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 3
EXIT_WAITING = 4
EXIT_LOST = 5
EXIT_UNREACHABLE = 69  # sysexits.h: EX_UNAVAILABLE
EXIT_INTERRUPTED = 130

EXIT_BY_STATUS = {"completed": 0, "failed": EXIT_FAILED, "stopped": EXIT_STOPPED, "lost": EXIT_LOST}
STATUSES = ("running", "waiting", "idle", "completed", "failed", "stopped", "lost")

F = TypeVar("F", bound=Callable[..., Any])


class CliError(click.ClickException):
    """A mistake that the user can mend. One line says what is wrong; the exit code is 2."""

    exit_code = EXIT_USAGE

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"tracewatch: {self.format_message()}", err=True)


class Failed(CliError):
    """A failure that is not the user's mistake. The exit code is 1."""

    exit_code = EXIT_FAILED


def spool_folder() -> Path | None:
    """The folder of this user's spool, as it is set; None for a user without a place for it."""
    given = Settings.from_env(os.environ, only=CLIENT_OPTIONS, unusable=lambda error: None).spool_dir
    return Path(given) if given else None


def url_option(command: F) -> F:
    """``--url``: the address of the server."""
    return click.option(
        "--url", metavar="URL", help="The server. [TRACEWATCH_URL, else http://127.0.0.1:8400]", show_default=False
    )(command)


def login_name() -> str | None:
    """The login name of the user, for ``by``; None where it is not known."""
    try:
        return getpass.getuser()[:256] or None
    except (OSError, KeyError):  # the user id has no name, as in some containers
        return None


def by_option(command: F) -> F:
    """``--by``: the name that the command is recorded under."""
    return click.option(
        "--by", metavar="NAME", default=login_name, show_default=False, help="Who you are. [your login name]"
    )(command)


def output_option(*formats: str) -> Callable[[F], F]:
    """``-o``: one of ``formats``; the first one is the default."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="The form of the output.",
    )


def examples(text: str) -> str:
    """An epilog with examples, one a line, which click does not wrap."""
    lines = "\n".join(f"  {line.strip()}" if line.strip() else "" for line in text.strip().splitlines())
    return f"\b\nExamples:\n{lines}"


def connect(url: str | None) -> Api:
    """The REST calls of the server at ``url`` (default: TRACEWATCH_URL). Raises CliError for a ``sqlite:`` address."""
    named = url or os.environ.get("TRACEWATCH_URL") or ""
    if named.startswith("sqlite:"):
        raise CliError(f"{named} is a file to record into; this command needs a server: tracewatch serve --db …")
    return Api(url, one_history=True)


class _Console(Console):
    """A console whose reader may leave: that ends the command as it does anywhere else."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def out_console(*, color: str = "auto") -> Console:
    """A rich console on stdout. Where stdout is no terminal, it cuts and wraps nothing.

    Without color it writes no escape sequence at all, as rich would for bold and dim.
    """
    colored = use_color(color, sys.stdout)
    if sys.stdout.isatty():
        if not colored:
            return _Console(color_system=None, highlight=False)
        return _Console(highlight=False, force_terminal=True, no_color=False)
    return _Console(
        highlight=False,
        width=100_000,
        force_terminal=colored,
        color_system="standard" if colored else None,
        no_color=False if colored else None,
    )


def err_console() -> Console:
    """A rich console on stderr, for progress. Without color it writes no color, bold or dim."""
    return _Console(stderr=True, highlight=False, color_system="auto" if use_color("auto", sys.stderr) else None)


def json_writer() -> Callable[[bytes], object]:
    """Writes JSON to stdout: as it is, or on a terminal with all that is not plainly visible as escapes."""
    write = sys.stdout.buffer.write
    return (lambda data: write(escape_json(data))) if sys.stdout.isatty() else write


def use_color(color: str, stream: IO[str]) -> bool:
    """Whether to color ``stream``. ``color``: always, never, or auto: on a terminal without NO_COLOR (no-color.org)."""
    if color != "auto":
        return color == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def now() -> float:
    """Unix time in seconds by this machine, for what is in its files. A server has a clock of its own: ``Api.now``."""
    return time.time()


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file whole or not at all: what stands there before stays until all parts are written. Raises CliError."""
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            file.writelines(parts)
        unfinished.replace(path)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
