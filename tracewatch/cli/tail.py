"""``tracewatch tail``: print a trace's events as they come, from any position in its log."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from ..client.api import Api
from . import text
from .common import (
    EXIT_BY_STATUS,
    EXIT_WAITING,
    STATUSES,
    CliError,
    examples,
    json_writer,
    login_name,
    url_option,
    use_color,
)
from .live_tree import TreeTail, print_tree
from .position import DEFAULT_EVENTS, CursorFile, Position, choose_start
from .prompt import Prompter, can_prompt
from .screen import Screen
from .signals import run_to_the_end
from .stream import Output, Tail, print_merged
from .traces import find_trace
from .writer import EventWriter, Filter

EXAMPLES = examples("""
    tracewatch tail                                 choose from a list, then follow
    tracewatch tail latest                          the newest run, its last events and what comes
    tracewatch tail 2f8d -n all -o tree             its goals, live
    tracewatch tail 2f8d --errors --no-follow       what went wrong so far
    tracewatch tail 2f8d --since 5m --grep login
    tracewatch tail 2f8d -o ndjson | jq .event
    tracewatch tail 2f8d --exit-status && deploy    wait for it to succeed
    tracewatch tail 2f8d --until-waiting; echo $?   4: it has a question (see: tracewatch answer)
    tracewatch tail 2f8d -o ndjson --cursor-file c  go on exactly where the last one stopped
""")


def _types(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.strip() for given in value for name in given.split(",") if name.strip())


def _pattern(ctx: click.Context, param: click.Parameter, value: str | None) -> re.Pattern[str] | None:
    try:
        return None if value is None else re.compile(value)
    except re.error as error:
        raise click.BadParameter(f"{value!r} is not a regular expression: {error}") from error


@click.command("tail", epilog=EXAMPLES)
@click.argument("trace", required=False)
@click.option("-f", "--follow/--no-follow", "follow", default=True, help="Follow until the trace ends. [default: yes]")
@click.option(
    "-n",
    "count",
    metavar="N|all",
    help=f"Begin N events before the end. [{DEFAULT_EVENTS}; all with a filter, --children or a new --cursor-file]",
)
@click.option("--since", metavar="TIME", help="Begin 5m ago (90s, 1h30m, 2d …) or at an RFC 3339 time.")
@click.option("--after", metavar="CURSOR", help="Begin after this cursor (<epoch>.<event_id>) or event_id.")
@click.option(
    "--cursor-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Begin after the cursor in this file, and keep it up to date: several runs print each event once.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["text", "json", "ndjson", "tree"]),
    default="text",
    show_default=True,
    help="text: a line for each event; json: indented; ndjson: the stored bytes; tree: the goals, live on a terminal.",
)
@click.option("--types", multiple=True, callback=_types, metavar="A,B", help="Only events of these names.")
@click.option("--grep", callback=_pattern, metavar="REGEX", help="Only events whose text matches, as it is shown.")
@click.option("--errors", is_flag=True, help="Only failures: of tools, of sub-traces, of the trace.")
@click.option("--children", is_flag=True, help="Also the events of its sub-traces.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="auto respects NO_COLOR.")
@click.option(
    "--exit-status", is_flag=True, help="Exit code by how the trace ended: 0 completed, 1 failed, 3 stopped, 5 lost."
)
@click.option("--until-waiting", is_flag=True, help="End with exit code 4 as soon as a question waits for its answer.")
@click.option("--no-prompt", is_flag=True, help="Do not ask for answers on a terminal.")
@click.option(
    "--retry-max", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after this long without a server."
)
@url_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Print a trace's events, and follow it until it ends.

    TRACE is an id, the beginning of one, a URL, or `latest`. Without TRACE you choose from a list.

    A lost connection is made again, for ever or as long as --retry-max says. No event is missed or repeated.
    """
    api, trace = find_trace(given["trace"], given["url"])
    status = _tree(api, trace, given) if given["form"] == "tree" else _events(api, trace, given)
    if given["until_waiting"] and status == "waiting":
        ctx.exit(EXIT_WAITING)
    ctx.exit(EXIT_BY_STATUS.get(status, 0) if given["exit_status"] else 0)


def _tree(api: Api, trace: dict[str, Any], given: dict[str, Any]) -> str:
    useless = [
        flag
        for flag, key in (
            *(("-n", "count"), ("--since", "since"), ("--after", "after"), ("--cursor-file", "cursor_file")),
            *(("--types", "types"), ("--grep", "grep"), ("--errors", "errors")),
        )
        if given[key] and not (key == "count" and given[key] == "all")
    ]
    if useless:
        raise CliError(f"{', '.join(useless)}: the tree shows the whole trace as it stands")
    shown = {"children": given["children"], "color": given["color"]}
    if not given["follow"]:
        return print_tree(api, trace["trace_id"], **shown)
    ends = {"lost": given["exit_status"], "waiting": given["until_waiting"]}
    ending = frozenset(status for status, wanted in ends.items() if wanted)
    return run_to_the_end(TreeTail(api, trace["trace_id"], **shown, retry_max_s=given["retry_max"], ends=ending).run())


def _events(api: Api, trace: dict[str, Any], given: dict[str, Any]) -> str:
    cursor_file = CursorFile(given["cursor_file"]) if given["cursor_file"] else None
    narrowing = Filter(given["types"], given["grep"], given["errors"])
    start = choose_start(
        count=given["count"],
        since=given["since"],
        after=given["after"],
        cursor_file=cursor_file,
        filtered=narrowing.narrowing,
        children=given["children"],
        now_s=api.now(),
    )
    writer = _writer(given, trace, Filter(given["types"], given["grep"], given["errors"], start.from_s))
    if start.since is not None:
        found = api.trace(trace["trace_id"])
        writer.narrator(trace["trace_id"]).know(
            found["goal_tree"]["goals"],
            api.messages(trace["trace_id"], limit=100)["messages"],
            found.get("steps", ()),
        )
        writer.know_agents(trace["trace_id"], found["sub_traces"])
    output = Output(sys.stdout.buffer, cursor_file)
    if given["children"] and not given["follow"]:
        if cursor_file is not None:
            raise CliError("--cursor-file with --children needs following: leave --no-follow out")
        return print_merged(api, trace, start, writer, output)
    _introduce(trace, start, given)
    tail = Tail(
        url=api.url,
        trace_id=trace["trace_id"],
        start=start,
        writer=writer,
        output=output,
        follow=given["follow"],
        children=given["children"],
        retry_max_s=given["retry_max"],
        end_when_lost=given["exit_status"],
        until_waiting=given["until_waiting"],
        prompter=Prompter(api, login_name()) if _prompts(given) else None,
    )
    return run_to_the_end(tail.run())


def _prompts(given: dict[str, Any]) -> bool:
    here = given["form"] == "text" and given["follow"]
    return here and not given["no_prompt"] and not given["until_waiting"] and can_prompt()


def _writer(given: dict[str, Any], trace: dict[str, Any], filter_: Filter) -> EventWriter:
    out = sys.stdout.buffer
    encoding = sys.stdout.encoding or "utf-8"
    screen = Screen(
        lambda words: out.write(words.encode(encoding, "replace")),
        color=use_color(given["color"], sys.stdout),
        width=text.terminal_width if sys.stdout.isatty() else None,
        by_agent=given["children"],
        sought=given["grep"],
    )
    writer = EventWriter(given["form"], filter_, json_writer(), screen, trace["trace_id"])
    writer.know_times(trace)
    return writer


def _introduce(trace: dict[str, Any], start: Position, given: dict[str, Any]) -> None:
    """Say on a terminal which trace this is: the user gave perhaps only `latest` or a prefix."""
    if given["form"] != "text" or not (sys.stdout.isatty() and sys.stderr.isatty()):
        return
    assert trace["status"] in STATUSES
    parts = [text.one_line(trace["task"]), text.one_line(trace["agent_type"]), trace["status"]]
    events = text.count(trace["last_event_id"], "event")
    if start.since is not None and start.since[:1] == "-":
        shown = int(start.since[1:])
        events += f" (the last {shown})" if shown < trace["last_event_id"] else ""
    elif start.since is not None:
        events += f" (those after {start.since})" if start.since != "latest" else " (only new ones)"
    parts.append(events)
    width = text.terminal_width()
    words = text.cut(" · ".join([trace["trace_id"], *parts]), width)
    click.echo(click.style(words, dim=True) if use_color(given["color"], sys.stderr) else words, err=True)
