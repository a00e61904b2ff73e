"""The goal tree on stdout: redrawn on a terminal while the trace goes on, elsewhere printed once at the end.

Rule 1: on a terminal the tree has a screen of its own, as a pager has, and always fits into it: the goal that is worked
        on is in sight. At the end the whole tree is printed where the command was typed.
Rule 2: whoever stops us, by Ctrl-Z, by Ctrl-C or by a signal, gets back the screen and the cursor.
Rule 3: the tree is state, not history. Where the log becomes another one, the tree becomes that one's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from rich.tree import Tree

from ..client.api import Api
from ..client.obstacle import DOCS
from ..client.watch import ConnectionStatus, Watch, watch
from ..errors import WatchGap
from ..model.state import State
from . import text
from .common import out_console
from .signals import in_foreground, on_terminal
from .traces import subtree
from .tree import CURRENT, TreeView, goal_tree

REDRAW_S = 0.1
AWAY_S = 0.5  # until it is looked again whether the terminal is ours
_DIM = Style(dim=True)


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


@dataclass
class TreeTail:
    """One run of the command that shows the tree of a trace until it ends."""

    api: Api
    trace_id: str
    children: bool
    color: str
    retry_max_s: float | None  # seconds to try to reconnect; None: for ever
    ends: frozenset[str]  # statuses that end it, besides those that end the trace
    _watching: Watch | None = None
    _news: str = ""  # of the connection
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _drawn: bool = False  # on a screen of its own

    async def run(self) -> str:
        """Show the tree until the trace ends; returns its status."""
        console = out_console(color=self.color)
        try:
            if sys.stdout.isatty() and not console.is_dumb_terminal:
                with self._drawing(console):
                    return await self._follow()
            return await self._follow()
        finally:
            if self._watching is not None and self._watching.current_event_id is not None:
                console.print(goal_tree(_view(self._watching), width=tree_width(console)))

    async def _follow(self) -> str:
        while True:
            try:
                return await self._watch()
            except WatchGap as gap:
                if gap.facts.get("reason") not in ("reset", "ahead"):
                    raise
                self._tell("the log is another one now (restored or made anew); this is its tree")

    async def _watch(self) -> str:
        async with watch(
            self.trace_id,
            # The snapshot has the trace's own tree. Sub-traces are found by its events, so with them all are read.
            since=None if self.children else "latest",
            url=self.api.url,
            children=self.children,
            skip_trimmed=True,
            max_retry_s=self.retry_max_s,
            on_status=self._on_status,
        ) as self._watching:
            async for _ in self._watching:
                self._changed.set()
                if self._watching.state.status in self.ends and self._watching.status == "live":
                    break
            return self._watching.state.status

    def _on_status(self, news: ConnectionStatus) -> None:
        assert self._watching is not None
        if news.kind == "lost":
            last = f" (last event {news.last_event_id})" if news.last_event_id else ""
            named = f": {news.error}" if news.error and DOCS in news.error else ""
            self._tell(f"connection lost, retrying{last}{named}")
        elif news.kind == "over_http":
            self._tell(f"{news.error}. Going on over HTTP")
        elif news.kind == "reconnected":
            self._tell(f"reconnected, {text.count(news.replayed or 0, 'event')} replayed")
        if news.kind in ("caught_up", "reconnected") and self._watching.state.status in self.ends:
            self._watching.close()
        self._changed.set()

    def _tell(self, words: str) -> None:
        """News of the connection: below the tree, where that is drawn on the same terminal; else on stderr."""
        self._news = words
        if not (self._drawn and sys.stderr.isatty()):
            click.echo(words, err=True)

    @contextmanager
    def _drawing(self, console: Console) -> Iterator[None]:
        live = Live(console=console, auto_refresh=False, screen=True, redirect_stdout=False, redirect_stderr=False)
        drawing = asyncio.create_task(self._draw(live))
        self._drawn = True
        try:
            with on_terminal(suspend=live.stop, look=self._changed.set):
                yield
        finally:
            self._drawn = False
            drawing.cancel()
            live.stop()

    async def _draw(self, live: Live) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not in_foreground():
                self._changed.set()  # nobody tells when a shell brings back what goes on in the background
                await asyncio.sleep(AWAY_S)
                continue
            if self._watching is not None:
                live.start()
                tree = goal_tree(_view(self._watching), width=live.console.width)
                live.update(InSight(tree, self._news), refresh=True)
            await asyncio.sleep(REDRAW_S)


@dataclass(frozen=True)
class InSight:
    """As many rows of a tree as there is room for: the heading, and those around what is worked on."""

    tree: Tree
    news: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = (options.height or console.height) - bool(self.news)
        rows = console.render_lines(self.tree, options.update(height=None), pad=False)
        if len(rows) > room:
            rows = rows[:1] + _around(rows, max(room - 1, 1))
        for row in rows:
            yield from row
            yield Segment.line()
        if self.news:
            yield Text(text.cut(self.news, options.max_width), "dim")


def _around(rows: list[list[Segment]], room: int) -> list[list[Segment]]:
    """``room`` of the rows behind the first, with the last one that is marked; a word for those left out."""
    marked = [at for at, row in enumerate(rows) if any(part.style and CURRENT in part.style.meta for part in row)]
    focus = marked[-1] if marked else 1
    begin = max(1, min(focus - room * 2 // 3, len(rows) - room))
    end = begin + room
    shown = rows[begin:end]
    if begin > 1 and focus > begin:
        shown[0] = [Segment(f"  ⋮ {begin} above", _DIM)]
    if end < len(rows) and focus < end - 1:
        shown[-1] = [Segment(f"  ⋮ {len(rows) - end + 1} below", _DIM)]
    return shown


def _view(watching: Watch) -> TreeView:
    below: dict[str, TreeView] = {}
    for trace_id, state in watching.states.items():
        if trace_id != watching.trace_id:
            below[trace_id] = _view_of(state, below)
    return _view_of(watching.state, below)


def _view_of(state: State, below: dict[str, TreeView]) -> TreeView:
    goals = state.goal_tree()["goals"]
    steps = list(state.steps.values())
    return TreeView(
        state.trace(), goals, list(state.sub_traces.values()), list(state.pending_inputs.values()), below, steps
    )
