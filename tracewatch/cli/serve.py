"""``tracewatch serve``: the server, with a flag for each of its settings."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import click

from ..errors import InvalidField, LogLocked, NeedsToken
from ..settings import OPTIONS, Option, Settings
from .common import CliError, examples

EXAMPLES = examples("""
    tracewatch serve
    tracewatch serve --db /var/lib/tracewatch/tracewatch.db --port 8400 --workers 2
    tracewatch serve --keep-days 30 --keep-events 100000
    tracewatch serve --host 0.0.0.0 --ssl-certfile cert.pem --ssl-keyfile key.pem
    TRACEWATCH_PORT=8500 tracewatch serve --heartbeat-s 5
""")
_MAIN = ("db", "host", "port", "workers", "keep_days", "keep_events", "redis", "allowed_hosts", "proxy")
_TLS = ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password")


class ServeCommand(click.Command):
    """A command whose help has the everyday options first and the limits in a section of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        everyday: list[tuple[str, str]] = []
        limits: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                is_limit = param.name in {option.name for option in OPTIONS} and param.name not in _MAIN + _TLS
                (limits if is_limit else everyday).append(record)
        with formatter.section("Options"):
            formatter.write_dl(everyday)
        with formatter.section("Limits and times (sizes: bytes or 256KiB, 4MiB; _S seconds, _MS milliseconds)"):
            formatter.write_dl(limits)


def _flag(option: Option) -> click.Option:
    shown = option.help.replace("`", "")
    return click.Option(
        [option.flag],
        metavar="|".join(option.choices) or option.kind.upper(),
        help=f"{shown}. [{option.env}, else {option.shown or option.default}]",
    )


def _leave_with_stdin() -> None:
    """End the process as SIGTERM would when stdin ends: whoever started it is gone, however it went."""

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin: a thread that holds its lock breaks the interpreter's exit
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _serve(with_parent: bool, **given: Any) -> None:
    try:
        settings = Settings.from_env(os.environ, **given)
    except InvalidField as error:
        raise CliError(error.message) from error
    from ..server.run import check_tokens, serve  # the server is loaded only to serve, not for every --help

    if with_parent:
        _leave_with_stdin()
    try:
        check_tokens(settings)
    except NeedsToken as error:
        raise CliError(error.message) from error
    asyncio.run(_look_at_log(settings.db))
    serve(settings, on_ready=lambda url: click.echo(f"listening on {url}", err=True))


async def _look_at_log(db: str) -> None:
    """Open the log and close it: a file that can't be used is said in one line, before anything listens.

    One that another program holds locked is waited for.
    """
    from ..log import open_log

    told = False
    while True:
        try:
            log = await open_log(db, lock_wait_s=1.0)
        except LogLocked as error:
            if not told:
                click.echo(f"waiting: {error.message}", err=True)
            told = True
        else:
            await log.close()
            return


def _command(run: Callable[..., None]) -> click.Command:
    options: list[click.Parameter] = [_flag(option) for option in OPTIONS if not option.client]
    options.append(click.Option(["--with-parent"], is_flag=True, hidden=True))
    return ServeCommand(
        "serve",
        callback=run,
        params=options,
        epilog=EXAMPLES,
        help="Run the server until Ctrl-C or SIGTERM.\n\nBy default only this machine can reach it, and whoever can "
        "may do all. As soon as a token was created, and always when others can reach it, a token is required.",
    )


command = _command(_serve)
