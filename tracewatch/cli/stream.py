"""A trace's events on stdout: followed live, or those of a trace and its sub-traces merged into one stream.

Rule 1: stdout carries events only. News of the connection goes to stderr, once for each outage.
Rule 2: the cursor file is never ahead of the output.
Rule 3: merged events of one trace keep their order; between traces the time at which they happened decides.
"""

from __future__ import annotations

import heapq
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, BinaryIO

import click
import orjson

from ..client.api import Api
from ..client.obstacle import DOCS
from ..client.watch import ConnectionStatus, Watch, watch
from ..errors import WatchGap
from . import text
from .common import CliError
from .position import CursorFile, Position
from .prompt import Prompter
from .times import OwnTimes
from .traces import all_events, subtree
from .writer import EventWriter

FLUSH_S = 0.05  # time between two flushes while catching up; live events are flushed one by one


class Output:
    """stdout, and the cursor file that follows it."""

    def __init__(self, stream: BinaryIO, cursor_file: CursorFile | None) -> None:
        self._stream = stream
        self._cursor_file = cursor_file
        self._flushed_s = 0.0
        self.cursor: str | None = None  # of the last event written
        self.sub_traces: dict[str, int] = {}

    def settle(self) -> None:
        """Flush the output, then write its cursor to the cursor file."""
        self._stream.flush()
        self._flushed_s = time.monotonic()
        if self._cursor_file is not None and self.cursor is not None:
            self._cursor_file.write(self.cursor, self.sub_traces)

    def settle_sometimes(self) -> None:
        """As ``settle``, at most once in ``FLUSH_S``."""
        if time.monotonic() - self._flushed_s > FLUSH_S:
            self.settle()


@dataclass
class Tail:
    """One run of the command that follows a trace."""

    url: str
    trace_id: str
    start: Position
    writer: EventWriter
    output: Output
    follow: bool
    children: bool
    retry_max_s: float | None
    end_when_lost: bool
    until_waiting: bool = False
    prompter: Prompter | None = None
    watching: Watch | None = None
    _told_lost: bool = False
    _waits: bool = False  # a question is open

    async def run(self) -> str:
        """Print events until the trace ends; returns its status.

        Without ``follow`` printing stops at the end of the log. With ``until_waiting`` it also stops as soon as a
        question is open in the trace or in a sub-trace that is followed; the result is ``waiting`` then.
        """
        self.output.sub_traces = dict(self.start.sub_traces)
        with nullcontext() if self.prompter is None else self.prompter.on_terminal():
            return await self._run()

    async def _run(self) -> str:
        async with watch(
            self.trace_id,
            since=self.start.since,
            url=self.url,
            until="end" if self.follow else None,
            children=self.children,
            skip_trimmed=True,
            max_retry_s=self.retry_max_s,
            on_status=self._on_status,
        ) as self.watching:
            try:
                async for event in self.watching:
                    self._take(event, self.watching)
            except WatchGap as gap:
                raise CliError(_gap(gap, self.start)) from gap
            finally:
                if self.prompter is not None:
                    self.prompter.close()
                self.writer.finish()
                self.output.settle()
            return "waiting" if self._waits else self.watching.state.status

    def _take(self, event: dict[str, Any], watching: Watch) -> None:
        trace_id = event["trace_id"]
        self._introduce(trace_id, watching)
        if self.prompter is not None:
            self.prompter.hide()
        if event["event_id"] > self.start.sub_traces.get(trace_id, 0):
            self.writer.take(event, watching.last_bytes)
        if trace_id != self.trace_id:
            self.output.sub_traces[trace_id] = event["event_id"]
        self.output.cursor = watching.cursor
        if watching.status == "live":
            self.output.settle()
            self._look(watching)
        else:
            self.output.settle_sometimes()

    def _introduce(self, trace_id: str, watching: Watch) -> None:
        """Tell the writer the parents of a sub-trace, from its snapshot.

        Its events may come before its parent's event that announces it.
        """
        if self.writer.knows_agent(trace_id):
            return
        state = watching.states[trace_id]
        above = state.parent_trace_id or self.trace_id
        if above in watching.states:
            self._introduce(above, watching)
        self.writer.know_agents(above, [{"trace_id": trace_id, "agent_type": state.agent_type}])
        self.writer.know_times({"trace_id": trace_id, "metadata": state.metadata})

    def _on_status(self, news: ConnectionStatus) -> None:
        assert self.watching is not None
        self.output.settle()
        if news.kind == "lost":
            last = f" (last event {news.last_event_id})" if news.last_event_id else ""
            named = f": {news.error}" if news.error and DOCS in news.error else ""
            self._say(f"connection lost, retrying{last}{named}")
        elif news.kind == "over_http":
            self._say(f"{news.error}. Going on over HTTP")
        elif news.kind == "reconnected":
            self._say(f"reconnected, {text.count(news.replayed or 0, 'event')} replayed")
        elif news.kind == "gap" and news.error == "trimmed":
            self._say(_trimmed(news))
        if news.kind in ("caught_up", "reconnected"):
            if not self.follow:
                self.watching.close()
            self._look(self.watching)

    def _look(self, watching: Watch) -> None:
        """All events so far are printed: end here, report a lost recorder or ask a question, whichever applies."""
        if self.until_waiting and any(state.status == "waiting" for state in watching.states.values()):
            self._waits = True
            watching.close()
        self._look_whether_lost(watching)
        if self.prompter is not None:
            self.prompter.look(watching.states)
            self.prompter.show()

    def _look_whether_lost(self, watching: Watch) -> None:
        lost = watching.state.status == "lost"
        if lost and self.follow and self.end_when_lost:
            watching.close()
        elif lost and self.follow and not self._told_lost and sys.stderr.isatty():
            self._say("its recorder is gone (lost); waiting for it to come back, Ctrl-C to leave")
        self._told_lost = lost

    def _say(self, words: str) -> None:
        if self.prompter is not None:
            self.prompter.hide()
        self.writer.pause()
        self.output.settle()
        click.echo(words, err=True)


def print_merged(api: Api, trace: dict[str, Any], start: Position, writer: EventWriter, output: Output) -> str:
    """Print the events that a trace and its sub-traces have now, in order of time; returns the trace's status."""

    def parsed(found: dict[str, Any], since: str | None) -> Iterator[tuple[str, dict[str, Any], bytes]]:
        times = OwnTimes()
        writer.know_times(found)
        for body in all_events(api, found, since):
            event = orjson.loads(body)
            yield times.of(event), event, body

    streams = [parsed(found, start.since if depth == 0 else None) for found, depth in subtree(api, trace["trace_id"])]
    for _, event, body in heapq.merge(*streams, key=itemgetter(0)):
        writer.take(event, body)
        output.settle_sometimes()
    writer.finish()
    output.settle()
    return str(trace["status"])


def _trimmed(news: ConnectionStatus) -> str:
    first, last = (news.last_event_id or 0) + 1, news.resume_event_id
    return f"events {first} to {last} are no longer kept"


def _gap(gap: WatchGap, start: Position) -> str:
    reason = {
        "trimmed": "they are no longer kept",
        "reset": "the log is another one now (restored or made anew)",
        "ahead": "the log does not reach that far",
    }.get(str(gap.facts.get("reason")), str(gap.facts.get("reason")))
    return (
        f"can't go on after {start.since or 'the last event'}: {reason}. "
        f"What there is begins after event {gap.facts.get('resume_event_id')}: "
        f"--after {gap.facts.get('resume_event_id')} (and remove the --cursor-file)"
    )
