"""The lines that coding agents print or write while they work, as one kind of stream: for pipes and for following."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .claude_stream import ClaudeStream, is_stream
from .claude_titles import asked
from .codex_exec import CodexExec, is_exec
from .reading import records
from .steps import Step
from .timeline import rows_of

_LOOK = 50  # lines, for the user's first words


def stream_of(row: dict[str, Any]) -> LineStream | None:
    """The stream whose first line is ``row``; None where its form is not known."""
    if is_stream(row):
        return LineStream(ClaudeStream())
    return LineStream(CodexExec()) if is_exec(row) else None


class LineStream:
    """A stream of lines that an agent prints."""

    rows = staticmethod(rows_of)  # the objects of one line of bytes, and faults

    def __init__(self, mapping: ClaudeStream | CodexExec) -> None:
        self._mapping = mapping

    def line(self, number: int, row: Any, at: str) -> None:
        """Take one line, which came at the time ``at``."""
        self._mapping.clock(at)
        self._mapping.line(number, row)

    @property
    def trace_id(self) -> str | None:
        """The trace of the run, once a line has named it."""
        return self._mapping.trace_id

    def name_task(self, task: str) -> None:
        """Say what the user asked."""
        self._mapping.task = task

    def find_task(self) -> None:
        """Look for what the user asked in the file of the session, if it lies where the agent puts it."""
        if isinstance(self._mapping, ClaudeStream) and self._mapping.session is not None:
            self._mapping.task = _first_prompt(self._mapping.session.session_id)

    def drain(self) -> list[Step]:
        """The facts since the last time."""
        return self._mapping.drain()

    def finish(self) -> None:
        """End what is still open: there are no more lines."""
        self._mapping.finish()


def claude_home() -> Path | None:
    """The folder of Claude Code's files; None for a user without a home."""
    return _home("CLAUDE_CONFIG_DIR", ".claude")


def codex_home() -> Path | None:
    """The folder of Codex's files; None for a user without a home."""
    return _home("CODEX_HOME", ".codex")


def gemini_home() -> Path | None:
    """The folder of Gemini CLI's files; None for a user without a home."""
    above = _home("GEMINI_CLI_HOME", "")
    return above and above / ".gemini"


def _home(variable: str, name: str) -> Path | None:
    given = os.environ.get(variable)
    try:
        return Path(given) if given else Path.home() / name
    except RuntimeError:
        return None


def _first_prompt(session_id: str) -> str | None:
    home = claude_home()
    if home is None or "/" in session_id or not session_id.strip("."):
        return None
    for path in (home / "projects").glob(f"*/{session_id}.jsonl"):
        for words in _prompts(path):
            return words
    return None


def _prompts(path: Path) -> Iterator[str]:
    try:
        for number, _, row in records(path):
            if number > _LOOK:
                return
            if isinstance(row, dict) and (words := asked(row)):
                yield words
    except OSError:
        return
