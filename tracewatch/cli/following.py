"""Following a trace: events from the watch client to a sink, with a cursor file that is never ahead of the output.

Rule: stdout carries events only. What happens to the connection is said on stderr, once per outage.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any, BinaryIO

import click

from ..client.watch import ConnectionStatus, Watch, watch
from ..errors import WatchGap
from . import text
from .common import CliError
from .position import CursorFile, Start
from .prompt import Prompter
from .sink import EventWriter

FLUSH_S = 0.05  # while catching up the output is flushed this often; live after every event


class Output:
    """stdout, and the cursor file that follows it."""

    def __init__(self, stream: BinaryIO, cursor_file: CursorFile | None) -> None:
        self._stream = stream
        self._cursor_file = cursor_file
        self._flushed_s = 0.0
        self.cursor: str | None = None  # of the last event written
        self.sub_traces: dict[str, int] = {}

    def settle(self) -> None:
        """Flush, then remember what has been flushed."""
        self._stream.flush()
        self._flushed_s = time.monotonic()
        if self._cursor_file is not None and self.cursor is not None:
            self._cursor_file.write(self.cursor, self.sub_traces)

    def settle_sometimes(self) -> None:
        """As ``settle``, but not too often."""
        if time.monotonic() - self._flushed_s > FLUSH_S:
            self.settle()


@dataclass
class Tail:
    """One run of the command that follows a trace."""

    url: str
    trace_id: str
    start: Start
    sink: EventWriter
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
        """Print until the trace ends (without ``follow``: until all there is is printed); returns its status.

        With ``until_waiting`` also until a question is open, in it or a sub-trace that is followed: ``waiting``.
        """
        self.output.sub_traces = dict(self.start.sub_traces)
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
                self.sink.finish()
                self.output.settle()
            return "waiting" if self._waits else self.watching.state.status

    def _take(self, event: dict[str, Any], watching: Watch) -> None:
        trace_id = event["trace_id"]
        self._introduce(trace_id, watching)
        if self.prompter is not None:
            self.prompter.hide()
        if event["event_id"] > self.start.sub_traces.get(trace_id, 0):
            self.sink.take(event, watching.last_bytes)
        if trace_id != self.trace_id:
            self.output.sub_traces[trace_id] = event["event_id"]
        self.output.cursor = watching.cursor
        if watching.status == "live":
            self.output.settle()
            self._look(watching)
        else:
            self.output.settle_sometimes()

    def _introduce(self, trace_id: str, watching: Watch) -> None:
        """A sub-trace's events may come before the one that says it was started; its snapshot has said whose it is."""
        if self.sink.knows_agent(trace_id):
            return
        state = watching.states[trace_id]
        above = state.parent_trace_id or self.trace_id
        if above in watching.states:
            self._introduce(above, watching)
        self.sink.know_agents(above, [{"trace_id": trace_id, "agent_type": state.agent_type}])

    def _on_status(self, news: ConnectionStatus) -> None:
        assert self.watching is not None
        self.output.settle()
        if news.kind == "lost":
            last = f" (last event {news.last_event_id})" if news.last_event_id else ""
            self._say(f"connection lost, retrying{last}")
        elif news.kind == "reconnected":
            self._say(f"reconnected, {text.count(news.replayed or 0, 'event')} replayed")
        elif news.kind == "gap" and news.error == "trimmed":
            self._say(_trimmed(news))
        if news.kind in ("caught_up", "reconnected"):
            if not self.follow:
                self.watching.close()
            self._look(self.watching)

    def _look(self, watching: Watch) -> None:
        """What there is is printed: does it end here, is there something to say or to ask?"""
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
        self.sink.pause()
        self.output.settle()
        click.echo(words, err=True)


def _trimmed(news: ConnectionStatus) -> str:
    first, last = (news.last_event_id or 0) + 1, news.resume_event_id
    return f"events {first} to {last} are no longer kept"


def _gap(gap: WatchGap, start: Start) -> str:
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
