"""``tracewatch demo``: start a server and a small agent that does real work on it, for the user to watch.

Rule: however the demo ends, its server ends with it and its files are removed, except a database named by --db.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click

from ..client.api import Api
from . import text
from .common import examples
from .demo_agent import DemoRun, explore
from .own_server import OwnServer, is_free, without_settings
from .signals import unwind_on_signals

EXAMPLES = examples("""
    tracewatch demo                          then, in another terminal: tracewatch tail latest
    tracewatch demo ~/code/project --speed 3
    tracewatch demo --ask                    it asks where to look: tracewatch inputs, tracewatch answer latest …
    tracewatch demo --forever --db demo.db   one run after the other, kept
    tracewatch demo --url http://localhost:8400   on a server that runs already
""")
PORT = 8400


@click.command("demo", epilog=EXAMPLES, short_help="Watch an agent at work, on a server of its own.")
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--speed", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="2 is twice as fast."
)
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="Number of runs, one after another.")
@click.option("--forever", is_flag=True, help="Start run after run until Ctrl-C.")
@click.option("--ask", is_flag=True, help="Let the agent ask which folder to look at; it waits up to a minute.")
@click.option("--db", type=click.Path(dir_okay=False), help="Keep the log in this file. [else removed at the end]")
@click.option("--port", type=click.IntRange(0, 65535), help=f"Port of the server. [{PORT} if free, else any free port]")
@click.option("--url", help="Record on this server, and start none.")
@click.option("--exit/--stay", "leave", default=None, help="End after the runs. [on a terminal the server stays]")
def command(
    folder: Path | None,
    speed: float,
    runs: int,
    forever: bool,
    ask: bool,
    db: str | None,
    port: int | None,
    url: str | None,
    leave: bool | None,
) -> None:
    """Start a server, and an agent that works while you watch. It needs no model and no network.

    The agent explores FOLDER (by default this package) with real tools and two sub-agents. That takes a minute or two,
    and changes no file. Tokens and costs are estimates. `tracewatch cancel latest` stops the agent.
    """
    if url and (db or port is not None or leave is False):
        raise click.UsageError("--url names a server that runs already: --db, --port and --stay are for one of its own")
    folder = folder or Path(__file__).resolve().parents[1]
    leave = not sys.stdout.isatty() or url is not None if leave is None else leave
    with contextlib.ExitStack() as stack:
        unwind_on_signals(stack)
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tracewatch-demo-")))
        if url:
            Api(url).traces(limit=1)  # an error says at once what is wrong with it
            click.echo(f"server: {url}")
        else:
            url = stack.enter_context(_server(db or str(temporary / "tracewatch.db"), port))
            _introduce(url, db)
        number = 0
        while forever or number < runs:
            number += 1
            _run(DemoRun(folder, speed=speed, number=number, asks=ask), url, temporary / "spool")
        if not leave:
            click.echo("The server goes on until Ctrl-C.")
            threading.Event().wait()


def _run(demo: DemoRun, url: str, spool: Path) -> None:
    click.echo(f"run {demo.number}: exploring {demo.tools.folder}")
    began = time.monotonic()
    recorded = explore(demo, url=url, spool_dir=str(spool))
    summary = Api(url).trace(recorded.trace_id)["trace"]
    took = text.duration((time.monotonic() - began) * 1000)
    totals = summary["tree_totals"]
    click.echo(
        f"run {demo.number}: {summary['status']} in {took}, {text.count(totals['total_messages'], 'message')},"
        f" about {text.count(totals['total_tokens'], 'token')} ({recorded.trace_id})"
    )


def _introduce(url: str, db: str | None) -> None:
    named = "" if url == f"http://127.0.0.1:{PORT}" and not os.environ.get("TRACEWATCH_URL") else f" --url {url}"
    kept = f"kept in {db}" if db else "removed at the end"
    us = _typed()
    click.echo(f"server: {url} (log {kept})")
    click.echo(f"watch:  {us} tail latest --children{named}")
    click.echo(f"        {us} tail latest -o tree --children{named}")
    click.echo(f"        {url}/ in a browser")


@contextlib.contextmanager
def _server(db: str, port: int | None) -> Iterator[str]:
    """Run a server for the block and give its URL. However this process ends, the server ends too."""
    chosen = port if port is not None else PORT if is_free(PORT) else 0
    server = OwnServer(db, chosen, without_settings())
    try:
        yield server.url
    finally:
        server.stop()


def _typed() -> str:
    """What one types to run tracewatch in the terminal as it is: its name, or where that is not found its path."""
    there = Path(sys.executable).with_name("tracewatch")
    found = shutil.which("tracewatch")
    if found and Path(found).resolve() == there.resolve():
        return "tracewatch"
    if not there.exists():
        return f"{shlex.quote(sys.executable)} -m tracewatch"
    with contextlib.suppress(ValueError):
        there = there.relative_to(Path.cwd())
    return shlex.quote(str(there))
