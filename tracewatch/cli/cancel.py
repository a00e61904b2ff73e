"""``tracewatch cancel``: ask a run to stop; with ``--wait``, wait until it has."""

from __future__ import annotations

from contextlib import suppress

import click

from ..client.api import Api
from ..client.errors import ApiError
from ..client.watch import ConnectionStatus, Watch, watch
from .common import EXIT_BY_STATUS, EXIT_STOPPED, by_option, examples, url_option
from .signals import run_to_the_end
from .traces import TRACE_HELP, find_trace

EXAMPLES = examples("""
    tracewatch cancel latest --reason "wrong branch"
    tracewatch cancel 2f8d --wait            go on when it has ended
""")


@click.command(
    "cancel",
    epilog=EXAMPLES,
    short_help="Ask a run to stop.",
    help="Ask a run to stop. Its agent decides when and how. A run whose recorder is gone is stopped at once."
    f"\n\n{TRACE_HELP}",
)
@click.argument("trace")
@click.option("--reason", metavar="TEXT", help="The reason, which the agent and all watchers get.")
@click.option("--wait", is_flag=True, help="Wait until the run has ended. Exit code: 0 stopped or completed, 1 failed.")
@by_option
@url_option
def command(trace: str, reason: str | None, wait: bool, by: str | None, url: str | None) -> None:
    api, found = find_trace(trace, url)
    trace_id = found["trace_id"]
    if not wait:
        click.echo(f"{trace_id} {api.cancel(trace_id, reason, by)['status']}")
        return
    ended = run_to_the_end(_cancelled(api, trace_id, reason, by))
    if (code := EXIT_BY_STATUS.get(ended, 0)) not in (0, EXIT_STOPPED):
        raise click.exceptions.Exit(code)


async def _cancelled(api: Api, trace_id: str, reason: str | None, by: str | None) -> str:
    """Ask for it once the watch stands: so the end is seen also of a run that takes its server along (the demo's).

    The status that the run ended with.
    """
    watching: Watch
    status = ""

    def look(_: ConnectionStatus | None = None) -> None:
        nonlocal status
        if not status:
            status = api.cancel(trace_id, reason, by)["status"]
            click.echo(f"{trace_id} {status}")
        elif watching.state.status == "lost":  # no recorder will act on it: another cancel stops the trace at once
            with suppress(ApiError):  # the trace has ended meanwhile
                api.cancel(trace_id, reason, by)

    async with watch(trace_id, since="latest", url=api.url, skip_trimmed=True, on_status=look) as watching:
        async for _ in watching:
            if status != "cancelling":
                return status
            look()
    if status == "cancelling":
        click.echo(f"{trace_id} {watching.state.status}")
    return watching.state.status
