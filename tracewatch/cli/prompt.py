"""The prompt below the events of a run: the user answers its questions in the terminal that follows it.

Rule 1: only words typed while a question is shown answer it. Earlier input is thrown away.
Rule 2: events never wait for the user: they go on above the prompt. A question that somebody else answers is withdrawn.
"""

from __future__ import annotations

import asyncio
import os
import sys
import termios
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import click

from ..client.api import Api
from ..errors import TracewatchError
from ..model.canonical import TERMINAL
from ..model.state import State
from . import text
from .common import CliError
from .questions import choices, chosen, send_answer
from .signals import in_foreground, on_terminal

_CLEAR = "\r\x1b[K"


def can_prompt() -> bool:
    """Whether stdin, stdout and stderr are all a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()


class Prompter:
    """Shows one open question at a time and sends the answer that the user types."""

    def __init__(self, api: Api, by: str | None) -> None:
        self._api = api
        self._by = by
        self._stdin = sys.stdin.fileno()
        self._current: tuple[str, dict[str, Any]] | None = None  # trace_id, question
        self._left: set[tuple[str, str]] = set()  # (trace_id, request_id) of questions not to be shown again
        self._sending: asyncio.Task[None] | None = None
        self._shown = False

    def on_terminal(self) -> AbstractContextManager[None]:
        """Within the block the prompt leaves the terminal to the shell at Ctrl-Z, and is there again after ``fg``."""

        def again() -> None:
            self.hide()
            self.show()

        return on_terminal(suspend=self.hide, look=again)

    def look(self, states: Mapping[str, State]) -> None:
        """Show an open question of these states, or withdraw the one that is no longer open."""
        if self._sending is not None:
            return
        asked = [(trace_id, one) for trace_id, state in states.items() for one in state.pending_inputs.values()]
        pending = [(trace_id, one) for trace_id, one in asked if one.get("answerable") != TERMINAL]
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
            pass  # the terminal is gone; the next read will find that
        asyncio.get_running_loop().add_reader(self._stdin, self._typed)
        self.show()

    def _take_away(self) -> None:
        self.hide()
        self._current = None
        asyncio.get_running_loop().remove_reader(self._stdin)

    def hide(self) -> None:
        """Clear the prompt, before something is printed."""
        if self._shown:
            self._shown = False
            click.echo(_CLEAR, nl=False, err=True)

    def show(self) -> None:
        """Show the prompt again, after something was printed."""
        if self._current is None or self._shown or self._sending is not None or not in_foreground():
            return
        self._shown = True
        offered = choices(self._current[1])
        room = max(text.terminal_width() - 40, 10)
        words = f"answer ({text.cut(offered, room)})" if offered else "answer"
        click.echo(f"{words}, Enter leaves it open> ", nl=False, err=True)

    def _typed(self) -> None:
        try:
            if os.tcgetpgrp(self._stdin) != os.getpgrp():
                return  # we run in the background: reading would stop the process
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
            if question.get("cut"):  # the snapshot has a preview of it
                question = await asyncio.to_thread(self._api.input, trace_id, question["request_id"])
            await asyncio.to_thread(send_answer, self._api, trace_id, question, chosen(question, typed), self._by)
        except (CliError, TracewatchError) as error:
            self._sending = None
            click.echo(error.message, err=True)
            self.show()  # the user may try again while the question is open
        else:
            self._sending = None
            self._left.add((trace_id, question["request_id"]))  # the event of the answer is on its way
            self._take_away()

    def close(self) -> None:
        """Withdraw the prompt for good."""
        if self._sending is not None:
            self._sending.cancel()
        if self._current is not None:
            self._take_away()
