"""``tracewatch show``: print one trace: its goals, open questions, sub-traces and last messages; or one message."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
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
from .screen import Screen
from .times import has_no_times, seconds_between, shown
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
STORED_LATE_S = 5.0  # what was stored so long after it happened was stored later
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
    for link in trace.get("links", ()):
        there = f" message {link['message_id']}" if link.get("message_id") else ""
        row("link", f"{link['kind']}: {link['trace_id']}{there}")
    for name, words in _times(trace, on_terminal=console.is_terminal):
        row(name, words)
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


def _times(trace: Mapping[str, Any], *, on_terminal: bool) -> Iterator[tuple[str, str]]:
    """When it was, and when that was stored, if that was later."""

    def said(at: str) -> str:
        return shown(at, on_terminal=on_terminal)

    if has_no_times(trace):
        yield "times", f"none are known; stored {said(trace['created_at'])}"
        return
    began, ended = (
        trace.get(own) or trace[other] for own, other in (("started_at", "created_at"), ("ended_at", "completed_at"))
    )
    yield "began", said(began)
    if ended:
        yield "ended", f"{said(ended)}, after {text.duration(1000 * seconds_between(began, ended))}"
    stored = trace["updated_at"]
    later_s = seconds_between(trace.get("active_at") or stored, stored)
    if later_s > STORED_LATE_S and trace["status"] != "lost":  # of its loss nobody knew before
        yield "stored", f"{said(stored)}, delivered {text.duration(1000 * later_s)} later"


def _print_messages(api: Api, trace_id: str, view: TreeView) -> None:
    page = api.messages(trace_id, limit=_LAST_MESSAGES)
    if not page["messages"]:
        return
    heading = f"last {len(page['messages'])} messages" if page["has_more"] else "messages"
    console = out_console()
    console.print(Text(f"\n{heading}", "dim"))
    narrator = Narrator(trace_id, timeless=has_no_times(view.trace))
    narrator.know(view.goals)
    screen = Screen(
        lambda words: click.echo(words, nl=False),
        color=use_color("auto", sys.stdout),
        width=text.terminal_width if sys.stdout.isatty() else None,
    )
    for message in page["messages"]:
        at = message.get("started_at") or view.trace["updated_at"]
        number = message.get("sequence", 0)
        line = narrator.tell({"event": "message_added", "event_id": number, "ts": at, "message": message})
        if line is not None:
            screen.show(line)
    screen.finish()
