"""``tracewatch show``: print one trace: its goals, open questions, sub-traces and last messages; or one message."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.text import Text

from ..client.api import Api
from ..model.error import error_line
from . import text
from .common import examples, out_console, output_option, url_option, use_color
from .lines import STATUS_STYLES, Narrator, readable
from .live_tree import fetch_view, tree_width
from .message import show_message
from .screen import Screen, local_clock
from .traces import TRACE_HELP, find_trace
from .tree import TreeView, goal_tree

EXAMPLES = examples("""
    tracewatch show latest
    tracewatch show 2f8d --at 120        as it was after event 120
    tracewatch show 2f8d -o json | jq .goal_tree
    tracewatch show 2f8d 44              the message that event 44 has added, whole
    tracewatch show 2f8d 44 --prompt     what its model was asked
    tracewatch show latest --prompt      what the model was asked last
""")
_LAST_MESSAGES = 8
LONGEST = 400  # cells of a field; a recorder may have put a whole page into it


@click.command(
    "show",
    epilog=EXAMPLES,
    help="Show one trace: its goals, open questions and last messages. Or one MESSAGE of it, named by its message_id or"
    f" by the number of its event.\n\n{TRACE_HELP}",
)
@click.argument("trace", required=False)
@click.argument("message", required=False)
@click.option("--prompt", is_flag=True, help="Show what the model was asked: by MESSAGE, else in the last call.")
@click.option(
    "--at", "at_event_id", type=click.IntRange(0), metavar="EVENT_ID", help="Show it as it was after this event."
)
@click.option("--children/--no-children", default=True, show_default=True, help="Show the goals of sub-traces too.")
@output_option("text", "json")
@url_option
def command(
    trace: str | None,
    message: str | None,
    prompt: bool,
    at_event_id: int | None,
    children: bool,
    output: str,
    url: str | None,
) -> None:
    if at_event_id is not None and (message is not None or prompt):
        raise click.UsageError("--at shows a trace as it was; a message is shown as it now stands")
    api, found = find_trace(trace, url)
    trace_id = found["trace_id"]
    if message is not None or prompt:
        show_message(api, trace_id, message, prompt=prompt, output=output)
        return
    if output == "json":
        answer = api.trace(trace_id, at_event_id)
        sys.stdout.buffer.write(text.json_document(answer))
        return
    # The event id is one of the trace's own log, so its sub-traces can only be shown as that log had them.
    view = fetch_view(api, trace_id, children=children and at_event_id is None, at_event_id=at_event_id)
    _print_head(view, at_event_id)
    console = out_console()
    console.print(goal_tree(view, width=tree_width(console)))
    if at_event_id is None:
        _print_messages(api, trace_id, view)


def _print_head(view: TreeView, at_event_id: int | None) -> None:
    trace, console = view.trace, out_console()

    def row(name: str, words: Any, style: str = "") -> None:
        line = Text(f"{name:8} ", "dim")
        line.append(text.cut(text.one_line(str(words)), LONGEST), style)
        console.print(line, soft_wrap=True)

    row("trace", trace["trace_id"] + (f" as of event {at_event_id}" if at_event_id is not None else ""), "bold")
    row("status", trace["status"], STATUS_STYLES.get(trace["status"], ""))
    row("agent", trace["agent_type"])
    if trace["parent_trace_id"]:
        row("parent", trace["parent_trace_id"])
    began, ended = (
        trace.get(own) or trace[other] for own, other in (("started_at", "created_at"), ("ended_at", "completed_at"))
    )
    row("began", f"{began[:10]} {local_clock(began)}")
    if ended:
        row("ended", f"{ended[:10]} {local_clock(ended)}")
    row("events", f"{trace['first_event_id']:,} to {trace['last_event_id']:,}")
    totals = trace.get("tree_totals") or trace
    if words := text.used(totals, totals["total_tokens"]):
        row("used", f"{words} · {text.dollars(totals['total_cost'])}")
    for key in ("summary", "error"):
        if trace[key]:
            row(key, error_line(trace[key]), "red") if key == "error" else row(key, readable(trace[key]))
    error = trace["error"]
    if isinstance(error, dict) and isinstance(error.get("traceback"), str):
        console.print(Text(text.escape(error["traceback"].rstrip()), "dim"), soft_wrap=True)
    if trace["metadata"]:
        row("metadata", readable(trace["metadata"]))
    console.print()


def _print_messages(api: Api, trace_id: str, view: TreeView) -> None:
    page = api.messages(trace_id, limit=_LAST_MESSAGES)
    if not page["messages"]:
        return
    heading = f"last {len(page['messages'])} messages" if page["has_more"] else "messages"
    console = out_console()
    console.print(Text(f"\n{heading}", "dim"))
    narrator = Narrator(trace_id)
    narrator.know(view.goals)
    screen = Screen(
        lambda words: click.echo(words, nl=False),
        color=use_color("auto", sys.stdout),
        width=text.terminal_width if sys.stdout.isatty() else None,
    )
    for message in page["messages"]:
        line = narrator.tell({"event": "message_added", "ts": view.trace["updated_at"], "message": message})
        if line is not None:
            screen.show(line, timed=False)
    screen.finish()
