"""``tracewatch cancel``: ask a run to stop, and wait for it if that is wanted."""

from __future__ import annotations

from contextlib import suppress

import click

from ..client.api import Api
from ..client.errors import ApiError
from ..client.watch import ConnectionStatus, Watch, watch
from .common import EXIT_BY_STATUS, EXIT_STOPPED, by_option, examples, url_option
from .resolve import TRACE_HELP, find_trace
from .running import run_to_the_end

EXAMPLES = examples("""
    tracewatch cancel latest --reason "wrong branch"
    tracewatch cancel 2f8d --wait            go on when it has ended
""")


@click.command(
    "cancel",
    epilog=EXAMPLES,
    short_help="Ask a run to stop.",
    help="Ask a run to stop. What it does then is up to its agent; one whose recorder is gone is stopped at once."
    f"\n\n{TRACE_HELP}",
)
@click.argument("trace")
@click.option("--reason", metavar="TEXT", help="Why: the agent and everybody who watches are told.")
@click.option("--wait", is_flag=True, help="Until it has ended; exit as it ended: 0 stopped or completed, 1 failed.")
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
        if watching.state.status == "lost":  # it will not stop by itself any more
            with suppress(ApiError):  # it has ended meanwhile
                api.cancel(trace_id, reason, by)

    async with watch(trace_id, since="latest", url=api.url, skip_trimmed=True, on_status=look) as watching:
        async for _ in watching:
            look()
        return watching.state.status
