"""The command line: one file per command.

Rule 1: stdout carries the result of a command and nothing else. Remarks and errors go to stderr.
Rule 2: text that an agent wrote passes through ``text.escape`` before it reaches a terminal.
Rule 3: errors become exit codes here and nowhere else: 2 usage, 69 unreachable, 130 interrupted, 1 the rest.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import click

from .. import __version__
from ..client.errors import ApiError, Unreachable
from ..errors import BadRequest, Invalid, NotFound, TracewatchError
from .common import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_UNREACHABLE, EXIT_USAGE

COMMANDS = {  # by module, in the order of the help; a module is loaded when its command is used
    "serve": "serve",
    "demo": "demo",
    "run": "run_program",
    "tail": "tail",
    "ls": "ls",
    "search": "search",
    "show": "show",
    "inputs": "inputs",
    "answer": "answer",
    "cancel": "cancel",
    "token": "token",
    "install": "install",
    "uninstall": "uninstall",
    "flush": "flush",
    "watch-sessions": "watch_sessions",
    "record": "record",
    "import": "importing",
    "export": "export",
    "blob": "blob",
    "backup": "backup",
    "restore": "restore",
    "doctor": "doctor",
    "prune": "prune",
}


class _BrokenPipe(Exception):
    """The reader of our output has exited. This is no OSError, because click handles those itself."""


class Commands(click.Group):
    """The commands, each loaded from its module when it is first used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f".{COMMANDS[cmd_name]}", __name__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], COMMANDS, 1) if args else []
        if near and near[0] != args[0]:
            ctx.fail(f"no such command: {args[0]}. Did you mean {near[0]}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError as error:
            raise _BrokenPipe from error
        except KeyboardInterrupt as error:
            if sys.stderr.isatty():
                click.echo(err=True)  # end the line that the terminal began with ^C
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: tracewatch demo",
)
@click.version_option(__version__, prog_name="tracewatch")
def cli() -> None:
    """Record AI agents' runs and watch them live: nothing missed, nothing repeated.

    TRACEWATCH_URL names the server to talk to (by default http://127.0.0.1:8400), TRACEWATCH_TOKEN is what it asks for.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (by default the process's own) and exit with its code."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a locale without ✓ must not end a tail
            stream.reconfigure(errors="replace")
    sys.exit(run(args))


def _open_what_is_closed() -> None:
    """Give a standard stream that the shell has closed (``>&-``) a place to write to: nowhere.

    Otherwise the next file that is opened, such as the database, would take its number, and what is printed.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def run(args: Sequence[str] | None) -> int:
    """Run a command line and return its exit code."""
    try:
        code = cli.main(args, prog_name="tracewatch", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except _BrokenPipe:
        _drop_output()
        return 0
    except Unreachable as error:
        _complain(error.message, "start one with: tracewatch serve   (--url or TRACEWATCH_URL names another)")
        return EXIT_UNREACHABLE
    except TracewatchError as error:
        _complain(error.message)
        return _code_of(error)
    except OSError as error:  # a full disk behind stdout, a file that can't be read
        _complain(str(error))
        _drop_output()
        return EXIT_FAILED


def _drop_output() -> None:
    """Discard buffered output that can't be written, so that the interpreter does not report it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _code_of(error: TracewatchError) -> int:
    """The exit code of an error: 2 if the request was at fault, 1 otherwise."""
    if isinstance(error, ApiError):
        return EXIT_USAGE if 400 <= error.status < 500 else EXIT_FAILED
    return EXIT_USAGE if isinstance(error, (BadRequest, Invalid, NotFound)) else EXIT_FAILED


def _complain(message: str, hint: str | None = None) -> None:
    from .text import escape

    with suppress(OSError):  # the terminal may have gone
        click.echo(f"tracewatch: {escape(message)}", err=True)
        if hint:
            click.echo(hint, err=True)
