"""``tracewatch flush``: deliver now what recorders have left in the spool."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..client.api import Api
from ..client.errors import ApiError
from ..client.sender import Sender
from ..client.target import same_log
from ..errors import InvalidField
from ..settings import CLIENT_OPTIONS, Settings
from . import text
from .common import EXIT_FAILED, CliError, examples, url_option
from .spools import Left, look

EXAMPLES = examples("""
    tracewatch flush --dry-run                      what waits, and for which server
    tracewatch flush                                deliver what waits for TRACEWATCH_URL
    tracewatch flush --url https://watch.example.org
    tracewatch flush --url sqlite:///runs.db        into a file, without a server
""")
STEP_S = 0.1
PATIENCE_S = 15.0  # without a connection and without progress for so long: the server is away


@click.command("flush", epilog=EXAMPLES)
@url_option
@click.option("--spool-dir", metavar="FOLDER", help="The folder of the spool. [TRACEWATCH_SPOOL_DIR]")
@click.option("-n", "--dry-run", is_flag=True, help="Show what waits, and deliver nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.pass_context
def command(ctx: click.Context, url: str | None, spool_dir: str | None, dry_run: bool, as_json: bool) -> None:
    """Deliver what recorders that have ended, or were killed, have left in the spool.

    The next recorder does this by itself, and so does a server on the same machine. Each event is stored once, whoever
    delivers it. What a running agent has recorded is left to the agent. Only what was recorded for the server of --url
    is sent to it. Exit code: 0 when nothing is left for it, 1 when something is, 69 when the server can't be reached.
    """
    try:
        chosen = Settings.from_env(os.environ, only=CLIENT_OPTIONS, url=url, spool_dir=spool_dir)
    except InvalidField as error:
        raise CliError(error.message) from error
    if not chosen.spool_dir:
        raise CliError("this user has no home folder, so there is no spool; --spool-dir names one")
    target = str(Path(chosen.url.removeprefix("sqlite:///")).absolute()) if chosen.url.startswith("sqlite:///") else ""
    sender = Sender(
        f"sqlite:///{target}" if target else chosen.url,
        chosen.spool_dir,
        chosen.spool_bytes,
        2.0,
        token=chosen.token,
        look_s=STEP_S,
    )
    found = look(sender.directory)
    waits = any(one.traces > one.in_use for one in _of(found, sender.url))
    delivered, took_s = (0, 0), 0.0
    if waits and not dry_run:
        if not sender.direct:
            _reachable(chosen)
        began = time.monotonic()
        delivered = _deliver(sender, sum(one.traces - one.in_use for one in _of(found, sender.url)))
        took_s = time.monotonic() - began
        found = look(sender.directory)
    answer = {
        "url": sender.url,
        "spool_dir": chosen.spool_dir,
        "dry_run": dry_run,
        "delivered": {"traces": delivered[0], "events": delivered[1], "seconds": round(took_s, 3)},
        "left": [vars(one) for one in found],
    }
    if as_json:
        sys.stdout.buffer.write(text.json_document(answer))
    else:
        _print(answer, found)
    ctx.exit(EXIT_FAILED if not dry_run and any(one.traces > one.in_use for one in _of(found, sender.url)) else 0)


def _of(found: list[Left], url: str) -> list[Left]:
    return [one for one in found if same_log(one.url, url)]


def _reachable(chosen: Settings) -> None:
    """Raise Unreachable if there is no server, before anything is begun."""
    api = Api(chosen.url, token=chosen.token or None)
    try:
        api.health()
    except ApiError:
        pass  # there is one, and what it refuses is said trace by trace
    finally:
        api.close()


def _deliver(sender: Sender, traces: int) -> tuple[int, int]:
    """Deliver all that can be delivered now; returns how many traces and events that were."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} of {task.total} traces"))
    console = Console(stderr=True, highlight=False)
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            task = bars.add_task("delivering", total=traces)
            sender.start()
            seen, seen_at = sender.backlog.done, time.monotonic()
            while sender.at_work and sender.backlog.resting < max(sender.waiting, 1):
                time.sleep(STEP_S)
                if sender.backlog.done != seen or sender.connected:
                    seen, seen_at = sender.backlog.done, time.monotonic()
                elif time.monotonic() - seen_at > PATIENCE_S:
                    break
                bars.update(task, completed=seen[0])
    finally:
        sender.shutdown()
        sender.let_go()
    return sender.backlog.done


def _print(answer: dict[str, Any], found: list[Left]) -> None:
    done, mine = answer["delivered"], _of(found, answer["url"])
    waits = [one for one in mine if one.traces > one.in_use]
    where = text.one_line(answer["url"])
    if done["traces"]:
        what = f"{text.count(done['events'], 'event')} of {text.count(done['traces'], 'trace')}"
        click.echo(f"delivered {what} to {where} in {done['seconds']:.1f} s")
    elif not waits:
        click.echo(f"nothing waits for {where} in {text.one_line(answer['spool_dir'])}")
    for one in waits:
        said = "would be delivered" if answer["dry_run"] else "left: the server did not take them"
        click.echo(
            f"{_amount(one, one.traces - one.in_use)} for {text.one_line(one.url)} {said}", err=not answer["dry_run"]
        )
    for one in mine:
        if one.in_use:
            who = "their agent is running, or another process delivers them"
            click.echo(f"{text.count(one.in_use, 'trace')} left alone: {who}", err=True)
    for one in found:
        if one not in mine and one.traces > one.in_use:
            hint = f"tracewatch flush --url {text.one_line(one.url)}"
            click.echo(f"{_amount(one, one.traces - one.in_use)} for another log wait: {hint}", err=True)


def _amount(one: Left, traces: int) -> str:
    return f"{text.count(traces, 'trace')} ({text.size(one.size_bytes)})"
