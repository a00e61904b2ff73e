"""The goal tree on stdout: redrawn on a terminal while the trace goes on, elsewhere printed once at the end."""

from __future__ import annotations

import asyncio
import sys

import click
from rich.console import Console
from rich.live import Live

from ..client.api import Api
from ..client.watch import ConnectionStatus, Watch, watch
from ..model.state import State
from . import text
from .common import out_console
from .traces import subtree
from .tree import TreeView, goal_tree

REDRAW_S = 0.1


def print_tree(api: Api, trace_id: str, *, children: bool, color: str) -> str:
    """Print the tree as it is now; returns the trace's status."""
    view = fetch_view(api, trace_id, children=children)
    console = out_console(color=color)
    console.print(goal_tree(view, width=tree_width(console)))
    return str(view.trace["status"])


def tree_width(console: Console) -> int | None:
    """The width that a tree has to fit into, in cells; None where stdout is no terminal."""
    return console.width if sys.stdout.isatty() else None


def fetch_view(api: Api, trace_id: str, *, children: bool, at_event_id: int | None = None) -> TreeView:
    """A trace as the server shows it now, or after ``at_event_id``; with its sub-traces' goals if ``children``."""
    below: dict[str, TreeView] = {}
    if children:
        for trace, depth in subtree(api, trace_id):
            if depth:
                below[trace["trace_id"]] = TreeView.of(api.trace(trace["trace_id"]), below)
    return TreeView.of(api.trace(trace_id, at_event_id), below)


async def follow_tree(
    api: Api,
    trace_id: str,
    *,
    children: bool,
    color: str,
    retry_max_s: float | None,
    end_when_lost: bool,
    until_waiting: bool,
) -> str:
    """Show the tree until the trace ends; returns its status.

    ``end_when_lost`` and ``until_waiting`` also end it when the trace is ``lost`` or ``waiting``.
    ``retry_max_s``: seconds to try to reconnect; None tries for ever.
    """
    ends = {status for status, wanted in (("lost", end_when_lost), ("waiting", until_waiting)) if wanted}
    console = out_console(color=color)
    watching: Watch
    changed = asyncio.Event()

    def on_status(news: ConnectionStatus) -> None:
        changed.set()
        if news.kind == "lost":
            last = f" (last event {news.last_event_id})" if news.last_event_id else ""
            click.echo(f"connection lost, retrying{last}", err=True)
        elif news.kind == "reconnected":
            click.echo(f"reconnected, {text.count(news.replayed or 0, 'event')} replayed", err=True)
        if news.kind in ("caught_up", "reconnected") and watching.state.status in ends:
            watching.close()

    async with watch(
        trace_id,
        # The snapshot has the trace's own tree. Sub-traces are found by its events, so with them all are read.
        since=None if children else "latest",
        url=api.url,
        children=children,
        skip_trimmed=True,
        max_retry_s=retry_max_s,
        on_status=on_status,
    ) as watching:
        if not sys.stdout.isatty():
            async for _ in watching:
                if watching.state.status in ends and watching.status == "live":
                    break
        else:
            await _redraw(watching, console, changed, ends)
        if not sys.stdout.isatty():
            console.print(goal_tree(_view(watching)))
        return watching.state.status


async def _redraw(watching: Watch, console: Console, changed: asyncio.Event, ends: set[str]) -> None:
    async def draw(live: Live) -> None:
        while True:
            await changed.wait()
            changed.clear()
            live.update(goal_tree(_view(watching), width=console.width), refresh=True)
            await asyncio.sleep(REDRAW_S)

    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        drawing = asyncio.create_task(draw(live))
        try:
            async for _ in watching:
                changed.set()
                if watching.state.status in ends and watching.status == "live":
                    break
        finally:
            drawing.cancel()
            live.vertical_overflow = "visible"
            live.update(goal_tree(_view(watching), width=console.width), refresh=True)


def _view(watching: Watch) -> TreeView:
    below: dict[str, TreeView] = {}
    for trace_id, state in watching.states.items():
        if trace_id != watching.trace_id:
            below[trace_id] = _view_of(state, below)
    return _view_of(watching.state, below)


def _view_of(state: State, below: dict[str, TreeView]) -> TreeView:
    goals = state.goal_tree()["goals"]
    return TreeView(state.trace(), goals, list(state.sub_traces.values()), list(state.pending_inputs.values()), below)
