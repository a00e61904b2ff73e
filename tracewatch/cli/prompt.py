"""Answering at the terminal where a run is followed: a prompt that stands below what is printed.

Rule 1: only what is typed while a question is shown answers it: what was typed before is thrown away.
Rule 2: nothing waits for the user: events go on above the prompt, and a question that others have answered goes away.
"""

from __future__ import annotations

import asyncio
import os
import sys
import termios
from collections.abc import Mapping
from typing import Any

import click

from ..client.api import Api
from ..errors import TracewatchError
from ..model.state import State
from . import text
from .answer import give
from .answering import choices, chosen
from .common import CliError

_CLEAR = "\r\x1b[K"


def can_prompt() -> bool:
    """Whether somebody sits there."""
    return sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()


class Prompter:
    """Shows one open question at a time and sends what is typed."""

    def __init__(self, api: Api, by: str | None) -> None:
        self._api = api
        self._by = by
        self._stdin = sys.stdin.fileno()
        self._current: tuple[str, dict[str, Any]] | None = None  # trace_id, question
        self._left: set[tuple[str, str]] = set()  # that the user does not want to answer here
        self._sending: asyncio.Task[None] | None = None
        self._shown = False

    def look(self, states: Mapping[str, State]) -> None:
        """The watched traces stand like this: show a question, or take it away."""
        if self._sending is not None:
            return
        pending = [(trace_id, one) for trace_id, state in states.items() for one in state.pending_inputs.values()]
        known = [(trace_id, one["request_id"]) for trace_id, one in pending]
        if self._current is not None:
            if (self._current[0], self._current[1]["request_id"]) in known:
                return
            self._take_away()
        for (trace_id, question), name in zip(pending, known, strict=True):
            if name not in self._left:
                self._offer(trace_id, question)
                return

    def _offer(self, trace_id: str, question: dict[str, Any]) -> None:
        self._current = (trace_id, question)
        try:
            termios.tcflush(self._stdin, termios.TCIFLUSH)
        except termios.error:
            pass  # the terminal has gone; reading will say so
        asyncio.get_running_loop().add_reader(self._stdin, self._typed)
        self.show()

    def _take_away(self) -> None:
        self.hide()
        self._current = None
        asyncio.get_running_loop().remove_reader(self._stdin)

    def hide(self) -> None:
        """Something is about to be printed."""
        if self._shown:
            self._shown = False
            click.echo(_CLEAR, nl=False, err=True)

    def show(self) -> None:
        """It has been printed."""
        if self._current is None or self._shown or self._sending is not None:
            return
        self._shown = True
        offered = choices(self._current[1])
        room = max(text.terminal_width() - 40, 10)
        words = f"answer ({text.cut(offered, room)})" if offered else "answer"
        click.echo(f"{words}, Enter leaves it open> ", nl=False, err=True)

    def _typed(self) -> None:
        try:
            if os.tcgetpgrp(self._stdin) != os.getpgrp():
                return  # in the background: reading would stop us
            data = os.read(self._stdin, 65536)
        except OSError:
            data = b""
        if self._current is None:
            return
        self._shown = False  # the terminal has gone to the next line
        (trace_id, question), typed = self._current, data.decode(errors="replace").strip()
        if typed:
            self._sending = asyncio.create_task(self._send(trace_id, question, typed))
            return
        if not data:
            click.echo(err=True)
        click.echo(f"left open: tracewatch answer {trace_id} {text.one_line(question['request_id'])} …", err=True)
        self._left.add((trace_id, question["request_id"]))
        self._take_away()

    async def _send(self, trace_id: str, question: dict[str, Any], typed: str) -> None:
        try:
            await asyncio.to_thread(give, self._api, trace_id, question, chosen(question, typed), self._by)
        except (CliError, TracewatchError) as error:
            self._sending = None
            click.echo(error.message, err=True)
            self.show()  # another try, if it is still open
        else:
            self._sending = None
            self._left.add((trace_id, question["request_id"]))  # the event that says so is about to come
            self._take_away()

    def close(self) -> None:
        """No more questions."""
        if self._sending is not None:
            self._sending.cancel()
        if self._current is not None:
            self._take_away()
