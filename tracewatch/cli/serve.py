"""``tracewatch serve``: run the server, with a flag for each of its settings."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidField, LogLocked, NeedsToken
from ..settings import OPTIONS, Option, Settings
from .common import CliError, examples

if TYPE_CHECKING:
    from ..client.sender import Sender

EXAMPLES = examples("""
    tracewatch serve
    tracewatch serve --db /var/lib/tracewatch/tracewatch.db --port 8400 --workers 2
    tracewatch serve --keep-days 30 --keep-events 100000
    tracewatch serve --host 0.0.0.0 --ssl-certfile cert.pem --ssl-keyfile key.pem
    tracewatch serve --sessions                         follow Claude Code's and Codex's sessions on this machine
    TRACEWATCH_PORT=8500 tracewatch serve --heartbeat-s 5
""")
_MAIN = ("db", "host", "port", "workers", "keep_days", "keep_events", "redis", "allowed_hosts", "proxy", "root_path")
_TLS = ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password")


class ServeCommand(click.Command):
    """The command, with a help that lists everyday options first and limits in a section of their own."""

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
    """Send this process SIGTERM when stdin ends: then the process that started it is gone."""

    def wait() -> None:
        while os.read(0, 4096):  # sys.stdin has a lock; a thread that holds it breaks the interpreter's exit
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _serve(with_parent: bool, sessions: bool, **given: Any) -> None:
    try:
        settings = Settings.from_env(os.environ, **given)
    except InvalidField as error:
        raise CliError(error.message) from error
    from ..server.run import check_tokens, serve  # here, so that --help does not load the server
    from .spools import deliver_to_server
    from .watch_sessions import serve_sessions

    if with_parent:
        _leave_with_stdin()
    try:
        check_tokens(settings)
    except NeedsToken as error:
        raise CliError(error.message) from error
    asyncio.run(_look_at_log(settings.db))
    delivering: list[Sender | None] = []
    stop = threading.Event()

    def ready(url: str) -> None:
        click.echo(f"listening on {url}", err=True)
        delivering.append(deliver_to_server(settings, url))
        if sessions:
            serve_sessions(url, stop)

    try:
        serve(settings, on_ready=ready)
    finally:
        stop.set()
        for sender in filter(None, delivering):
            sender.shutdown()
            sender.let_go()


async def _look_at_log(db: str) -> None:
    """Open the log and close it, so that an unusable file ends the command with one line, before anything listens.

    While another program holds the file locked, the command waits.
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
    words = "Follow Claude Code's and Codex's sessions on this machine (see: tracewatch watch-sessions)."
    options.append(click.Option(["--sessions"], is_flag=True, help=words))
    return ServeCommand(
        "serve",
        callback=run,
        params=options,
        epilog=EXAMPLES,
        help="Run the server until Ctrl-C or SIGTERM.\n\nBy default only this machine can reach it, and every user of "
        "this machine may do everything. A token is required as soon as one was created, and always when other "
        "machines can reach the server (see: tracewatch token).\n\nWhat your recorders on this machine have left in "
        "the spool for this server is delivered (see: tracewatch flush).",
    )


command = _command(_serve)
