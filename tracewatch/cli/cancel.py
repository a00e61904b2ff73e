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
    status = api.cancel(trace_id, reason, by)["status"]
    click.echo(f"{trace_id} {status}")
    if status == "cancelling" and wait:
        ended = run_to_the_end(_until_ended(api, trace_id, reason, by))
        click.echo(f"{trace_id} {ended}")
        if (code := EXIT_BY_STATUS.get(ended, 0)) not in (0, EXIT_STOPPED):
            raise click.exceptions.Exit(code)


async def _until_ended(api: Api, trace_id: str, reason: str | None, by: str | None) -> str:
    watching: Watch

    def look(_: ConnectionStatus | None = None) -> None:
        if watching.state.status == "lost":  # no recorder will act on the cancel: another one stops the trace at once
            with suppress(ApiError):  # the trace has ended meanwhile
                api.cancel(trace_id, reason, by)

    async with watch(trace_id, since="latest", url=api.url, skip_trimmed=True, on_status=look) as watching:
        async for _ in watching:
            look()
        return watching.state.status
