"""What the commands share: exit codes, the server's address, the way to fail, tables and times of now."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

import click
from rich.console import Console

from ..client.api import Api

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 3
EXIT_WAITING = 4
EXIT_LOST = 5
EXIT_UNREACHABLE = 69  # sysexits.h: EX_UNAVAILABLE
EXIT_INTERRUPTED = 130

EXIT_BY_STATUS = {"completed": 0, "failed": EXIT_FAILED, "stopped": EXIT_STOPPED, "lost": EXIT_LOST}
STATUSES = ("running", "waiting", "completed", "failed", "stopped", "lost")

F = TypeVar("F", bound=Callable[..., Any])


class CliError(click.ClickException):
    """Something the user can mend: one line that says what, exit 2."""

    exit_code = EXIT_USAGE

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"tracewatch: {self.format_message()}", err=True)


class Failed(CliError):
    """Something that went wrong through no fault of the user's: exit 1."""

    exit_code = EXIT_FAILED


def url_option(command: F) -> F:
    """``--url``: the server to ask."""
    return click.option(
        "--url", metavar="URL", help="The server. [TRACEWATCH_URL, else http://127.0.0.1:8400]", show_default=False
    )(command)


def login_name() -> str | None:
    """Whoever is logged in, for ``by``; None where that can't be found out."""
    try:
        return getpass.getuser()[:256] or None
    except (OSError, KeyError):  # no such user, as in some containers
        return None


def by_option(command: F) -> F:
    """``--by``: who says so."""
    return click.option(
        "--by", metavar="NAME", default=login_name, show_default=False, help="Who you are. [your login name]"
    )(command)


def output_option(*formats: str) -> Callable[[F], F]:
    """``-o``: one of ``formats``, the first being the default."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="The form of the output.",
    )


def examples(text: str) -> str:
    """An epilog with examples, which click leaves as they are."""
    lines = "\n".join(f"  {line.strip()}" if line.strip() else "" for line in text.strip().splitlines())
    return f"\b\nExamples:\n{lines}"


def connect(url: str | None) -> Api:
    """The server's REST calls. Refuses an address that is none."""
    named = url or os.environ.get("TRACEWATCH_URL") or ""
    if named.startswith("sqlite:"):
        raise CliError(f"{named} is a file to record into; this command needs a server: tracewatch serve --db …")
    return Api(url)


def out_console(*, color: str = "auto") -> Console:
    """rich on stdout; where that is no terminal nothing is cut or wrapped."""
    colored = use_color(color, sys.stdout)
    if sys.stdout.isatty():
        return Console(no_color=not colored, highlight=False, force_terminal=True if colored else None)
    return Console(
        no_color=not colored,
        highlight=False,
        width=100_000,
        force_terminal=colored,
        color_system="standard" if colored else None,
    )


def use_color(color: str, stream: IO[str]) -> bool:
    """Whether to color ``stream``: as told, else on a terminal unless ``NO_COLOR`` is set (no-color.org)."""
    if color != "auto":
        return color == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def now() -> float:
    """Unix time in seconds. The one clock of the commands."""
    return time.time()
