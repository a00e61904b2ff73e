"""``tracewatch run``: a program whose tracers send everything to a server of ours, without a line of it changed.

Rule 1: the program comes first. Whatever goes wrong with what we add, it runs, and its exit code is ours.
Rule 2: nothing is left behind: the relay ends with this process, and so does a server that was started for it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from ..client.api import Api
from ..client.errors import ApiError, Unreachable
from ..client.target import Target, parse_target, target_of
from ..errors import InvalidField
from . import text
from .child import end_as, run_child
from .common import CliError, Failed, examples, url_option
from .own_server import OwnServer, is_free
from .relay import Relay
from .run_summary import summary
from .signals import unwind_on_signals
from .variables import child_environ
from .vendors import vendors_of

EXAMPLES = examples("""
    tracewatch run -- python my_agent.py
    tracewatch run -- node my_agent.mjs
    tracewatch run -- pytest tests/test_agent.py
    tracewatch run --open -- uv run my_agent.py          the page in a browser as well
    tracewatch run --forward -- python my_agent.py       LangSmith, Logfire or another gets it too
    tracewatch run --url https://watch.example.org -- python my_agent.py
""")
HEALTH_S = 3.0
RESTARTS = 3  # of a server of our own that was killed


@click.command(
    "run",
    epilog=EXAMPLES,
    short_help="Run a program and see its agents, with no line of it changed.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@url_option
@click.option(
    "--db",
    type=click.Path(dir_okay=False),
    help="The log of a server that is started. [TRACEWATCH_DB, else tracewatch.db]",
)
@click.option(
    "--forward", is_flag=True, help="Pass everything on to the tracing vendor that the environment names, too."
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--exit/--stay",
    "leave",
    default=None,
    help="End with the program. [on a terminal a server started for it stays until Ctrl-C]",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what went wrong.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- PROGRAM [ARGUMENTS]…")
@click.pass_context
def command(
    ctx: click.Context,
    url: str | None,
    db: str | None,
    forward: bool,
    open_page: bool,
    leave: bool | None,
    quiet: bool,
    command: Sequence[str],
) -> None:
    """Run PROGRAM with its tracers pointed at a server of ours: its agents are seen live, with no line of it changed.

    Seen are LangChain and LangGraph (Python, JavaScript), pydantic-ai, openai-agents, crewai, google-adk, strands, MCP,
    Logfire, and whatever else uses LangSmith's client or OpenTelemetry. Only the program's environment is changed. If
    no server answers, one is started, and ends with this command. The exit code is the program's.
    """
    if command[0] == "--":
        command = command[1:]
    host = Host(url, db)
    say = _Speaker(quiet)
    try:
        host.find()
        say(f"{'started a server: ' if host.own else ''}{host.url}/")
        if not host.there:
            say(f"no server answers at {host.url}: the program runs all the same", always=True)
        if open_page and host.there:
            click.launch(f"{host.url}/")
        code = _run(command, host, say, forward=forward)
        if host.own and _stays(leave, code):
            _stay(host.url)
    finally:
        host.stop()
    ctx.exit(end_as(code))


def _run(command: Sequence[str], host: Host, say: _Speaker, *, forward: bool) -> int:
    vendors = vendors_of(os.environ, Path.cwd())
    if forward:
        for note in vendors.notes:
            say(note, always=True)
        say(f"passed on to {', '.join(vendors.names)}" if vendors.names else _NO_VENDOR, always=not vendors.names)
    relay = Relay(host.target, vendors, forward=forward)
    try:
        environ = child_environ(
            os.environ,
            command,
            root=relay.root,
            base=relay.base,
            logfire_token=vendors.logfire_token or relay.secret,
            forward=forward,
        )
        code = run_child(command, environ, host.look_after)
    finally:
        left = relay.finish()
    for line, is_wrong in summary(relay, left, host.url, host.target.token):
        say(line, always=is_wrong)
    return code


_NO_VENDOR = (
    "--forward: the environment names no vendor: LANGSMITH_API_KEY with LANGSMITH_TRACING=true, "
    "OTEL_EXPORTER_OTLP_ENDPOINT, or LOGFIRE_TOKEN"
)


class _Speaker:
    """What this command says, on stderr: stdout is the program's."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, line: str, *, always: bool = False) -> None:
        if always or not self._quiet:
            with suppress(OSError):
                click.echo(f"tracewatch: {text.one_line(line)}", err=True)


def _stays(leave: bool | None, code: int) -> bool:
    if leave is not None:
        return not leave
    return code >= 0 and sys.stdin.isatty() and sys.stderr.isatty()


def _stay(url: str) -> None:
    from contextlib import ExitStack

    with ExitStack() as stack, suppress(KeyboardInterrupt, SystemExit):
        unwind_on_signals(stack)
        with suppress(OSError):
            click.echo(f"tracewatch: {url}/ stays until Ctrl-C (tracewatch serve keeps one)", err=True)
        threading.Event().wait()


class Host:
    """The server that is sent to: the one that answers, else one of our own on this machine."""

    def __init__(self, url: str | None, db: str | None) -> None:
        try:
            self.target: Target = parse_target(url)
        except InvalidField as error:
            raise CliError(error.message) from error
        self.there = False
        self._named = url is not None or bool(os.environ.get("TRACEWATCH_URL"))
        self._db = db
        self.own: OwnServer | None = None
        self._restarts = 0
        self._restarting: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The server's address, without a final slash."""
        return self.target.url.rstrip("/")

    def find(self) -> None:
        """Find a server, or start one where none answers on this machine. Raises CliError, Failed."""
        api = Api(self.target.url, token=self.target.token or None, timeout_s=HEALTH_S)
        port: int | None = self.target.port
        try:
            self.there = api.health().get("status") == "ok"
            if self.there:
                return
        except Unreachable:
            pass
        except ApiError as error:
            if error.status in (401, 403, 429, 503):
                self.there = True
                return
            if self._named:
                raise CliError(f"{self.url} is no server of tracewatch: {error.message}") from error
        finally:
            api.close()
        if not self.target.loopback or self.target.secure or self.target.prefix:
            return
        if not self._named and not is_free(self.target.port):
            port = 0
        try:
            self._start(port)
        except Failed:
            if self._named or port == 0:
                raise
            self._start(0)  # another program took the port meanwhile

    def _start(self, port: int | None) -> None:
        self.own = OwnServer(self._db, port, os.environ)
        self.target = target_of(self.own.url, self.target.token)
        self.there = True

    def look_after(self) -> None:
        """Start a server of our own again if it was killed. It returns at once."""
        if self.own is None or self.own.running or self._restarts >= RESTARTS:
            return
        if self._restarting is None or not self._restarting.is_alive():
            self._restarts += 1
            self._restarting = threading.Thread(target=self._restart, name="tracewatch-restart", daemon=True)
            self._restarting.start()

    def _restart(self) -> None:
        assert self.own is not None
        self.own.stop()
        with suppress(Failed, OSError):
            self.own = OwnServer(self._db, self.target.port, os.environ)

    def stop(self) -> None:
        """End a server of our own."""
        if self._restarting is not None:
            self._restarting.join()
        if self.own is not None:
            self.own.stop()
