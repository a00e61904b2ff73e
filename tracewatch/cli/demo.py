"""``tracewatch demo``: a server of its own and a small agent that really works, to be watched while it does.

Rule: whatever ends the demo ends the server and removes what it wrote, unless a --db was named.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from ..client.api import Api
from . import text
from .common import Failed, examples
from .demo_agent import Stage, explore

EXAMPLES = examples("""
    tracewatch demo                          then, in another terminal: tracewatch tail latest
    tracewatch demo ~/code/project --speed 3
    tracewatch demo --ask                    it asks where to look: tracewatch inputs, tracewatch answer latest …
    tracewatch demo --forever --db demo.db   one run after the other, kept
""")
PORT = 8400
READY_S = 30.0
_LISTENING = "listening on "


@click.command("demo", epilog=EXAMPLES, short_help="Watch an agent at work, on a server of its own.")
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--speed", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="So many times as fast."
)
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="So many runs, one after the other.")
@click.option("--forever", is_flag=True, help="Run after run, until Ctrl-C.")
@click.option("--ask", is_flag=True, help="The agent asks where to look more closely, and waits up to a minute.")
@click.option("--db", type=click.Path(dir_okay=False), help="Keep the log in this file. [else removed at the end]")
@click.option("--port", type=click.IntRange(0, 65535), help=f"[{PORT} if it is free, else a free one]")
@click.option("--exit/--stay", "leave", default=None, help="End after the runs. [on a terminal the server stays]")
def command(
    folder: Path | None,
    speed: float,
    runs: int,
    forever: bool,
    ask: bool,
    db: str | None,
    port: int | None,
    leave: bool | None,
) -> None:
    """Start a server and an agent at work on it, offline and without a model.

    The agent explores FOLDER (by default this package) with real tools and two sub-agents, in a minute or two. It reads
    only. Tokens and costs are estimates. `tracewatch cancel latest` stops it.
    """
    folder = folder or Path(__file__).resolve().parents[1]
    leave = not sys.stdout.isatty() if leave is None else leave
    with contextlib.ExitStack() as stack:
        _unwind_on_signals(stack)
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tracewatch-demo-")))
        url = stack.enter_context(_server(db or str(temporary / "tracewatch.db"), port))
        _introduce(url, db)
        number = 0
        while forever or number < runs:
            number += 1
            _run(Stage(folder, speed=speed, run=number, asks=ask), url, temporary / "spool")
        if not leave:
            click.echo("The server goes on until Ctrl-C.")
            threading.Event().wait()


def _run(stage: Stage, url: str, spool: Path) -> None:
    click.echo(f"run {stage.run}: exploring {stage.tools.folder}")
    began = time.monotonic()
    recorded = explore(stage, url=url, spool_dir=str(spool))
    summary = Api(url).trace(recorded.trace_id)["trace"]
    took = text.duration((time.monotonic() - began) * 1000)
    totals = summary["tree_totals"]
    click.echo(
        f"run {stage.run}: {summary['status']} in {took}, {text.count(totals['total_messages'], 'message')},"
        f" about {text.count(totals['total_tokens'], 'token')} ({recorded.trace_id})"
    )


def _introduce(url: str, db: str | None) -> None:
    named = "" if url == f"http://127.0.0.1:{PORT}" and not os.environ.get("TRACEWATCH_URL") else f" --url {url}"
    kept = f"kept in {db}" if db else "removed at the end"
    click.echo(f"server: {url} (log {kept})")
    click.echo(f"watch:  tracewatch tail latest --children{named}")
    click.echo(f"        tracewatch tail latest -o tree --children{named}")
    click.echo(f"        {url}/ in a browser")


# --- the server, in a process of its own ------------------------------------------------------------------------


@contextlib.contextmanager
def _server(db: str, port: int | None) -> Iterator[str]:
    """A server's URL; the server ends with the block, and with this process however that ends."""
    chosen = port if port is not None else PORT if _free(PORT) else 0
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TRACEWATCH_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tracewatch", "serve", "--db", db, "--port", str(chosen), "--with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environ,
        text=True,
        start_new_session=True,  # Ctrl-C is for us: the agent's last events still need a server
    )
    try:
        assert process.stderr is not None
        yield _wait_until_ready(process, process.stderr)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stderr):
            if stream is not None:
                stream.close()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_until_ready(process: subprocess.Popen[str], stderr: IO[str]) -> str:
    ready, found, said = threading.Event(), [], deque[str](maxlen=10)

    def listen() -> None:
        for line in stderr:  # to its end, so that the server never waits for somebody to read what it says
            said.append(line)
            if line.startswith(_LISTENING):
                found.append(line.removeprefix(_LISTENING).strip())
                ready.set()
        ready.set()

    threading.Thread(target=listen, name="demo-server", daemon=True).start()
    ready.wait(READY_S)
    if not found:
        words = "".join(said).strip().removeprefix("tracewatch: ") or f"the server was not ready after {READY_S:g} s"
        raise Failed(words)
    return found[0]


def _unwind_on_signals(stack: contextlib.ExitStack) -> None:
    """SIGTERM and SIGHUP clean up as Ctrl-C does."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        stack.callback(signal.signal, number, signal.signal(number, leave))
