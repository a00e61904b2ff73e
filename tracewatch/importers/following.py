"""Files of coding agents that grow: what is new in them is told, in pieces, while the agents work.

Rule 1: only whole lines are told. A last line without its line break waits for it, or until nothing has come for a
        while and it is JSON by itself.
Rule 2: a file is read in pieces, so that one of a gigabyte takes no more memory than a small one. Lines of several
        files of a session that are new at the same time are told in the order of their times.
Rule 3: a file that has become shorter, or another one, is told from its beginning: what the log has is nothing new.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from ..model.times import parse_time
from .claude_code import AgentFile, link, own_session, session_files, take_meta
from .claude_session import ClaudeSession
from .codex import CodexThread
from .codex_rollouts import head
from .gemini_cli import GeminiChat, cwd_of, parent_of
from .reading import BadJson, time_of
from .steps import Step
from .timeline import LineCutter, LineMapping, rows_of

PIECE_BYTES = 1 << 20  # of a file at a time
_PIECES = 64
GEMINI_RESTS_S = 30.0  # a chat that says nothing for so long after a text waits for its user
QUIET_S = 2.0  # a last line without a line break, or a sub-agent's file without its .meta.json, waits so long


class GrowingFile:
    """The end of one file that grows. ``clock`` is one that is never set."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.replaced = False  # the file is another than before, and is told anew
        self._path = path
        self._clock = clock
        self._lines = LineCutter()
        self._offset = 0  # of the first byte that was not read
        self._inode: int | None = None
        self._size = 0
        self._grown_at = 0.0

    def read(self) -> list[tuple[int, Any]]:
        """The number and the object, or ImportFault, of new whole lines; [] if there are none."""
        lines: list[tuple[int, bytes | BadJson]] = []
        try:
            with self._path.open("rb") as file:
                self._look(file.fileno())
                file.seek(self._offset)
                for _ in range(_PIECES):  # of one line, where it is longer than a piece
                    data = file.read(PIECE_BYTES)
                    self._offset += len(data)
                    lines = self._lines.cut(data)
                    if lines or not data:
                        break
        except OSError:
            return []
        if not lines and not self.behind and self._clock() - self._grown_at >= QUIET_S and _is_json(self._lines.rest()):
            rest = self._lines.take_rest()
            lines = [rest] if rest is not None else []
        return [(number, row) for number, line in lines for row in rows_of(line, number)]

    @property
    def behind(self) -> bool:
        """Whether the file has bytes that were not read."""
        return self._size > self._offset

    def _look(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if status.st_size < self._offset or (self._inode is not None and status.st_ino != self._inode):
            self._offset, self._lines = 0, LineCutter()
            self.replaced = True
        if status.st_size != self._size:
            self._size, self._grown_at = status.st_size, self._clock()
        self._inode = status.st_ino


def _is_json(data: bytes) -> bool:
    if not data.rstrip().endswith(b"}"):
        return False
    try:
        return isinstance(orjson.loads(data), dict)
    except orjson.JSONDecodeError:
        return False


class Followed(Protocol):
    """A run that is followed in its files."""

    @property
    def trace_id(self) -> str:
        """The trace of the run; "" before its first line."""

    @property
    def cwd(self) -> str | None:
        """The folder that the agent works in."""

    def read(self) -> list[Step]:
        """The facts of what is new; [] if nothing is."""

    @property
    def turn_over(self) -> bool:
        """Whether the run waits for its user."""

    @property
    def behind(self) -> bool:
        """Whether there is more to read at once."""

    def rest(self) -> list[Step]:
        """Say that the run waits for its user, or that it does not."""

    def finish(self) -> list[Step]:
        """End what is still open: the run is over."""


@dataclass
class _Source:
    """One file of a session."""

    tail: GrowingFile
    agent: AgentFile | None = None
    seen_at: float = 0.0
    ready: bool = False


@dataclass
class FollowedClaude:
    """A session of Claude Code, with its sub-agents' files as they appear."""

    path: Path
    clock: Callable[[], float] = time.monotonic
    _session: ClaudeSession | None = None
    _sources: dict[Path, _Source] = field(default_factory=dict)
    _rested: str | None = None

    @property
    def trace_id(self) -> str:
        """The session's trace; "" before its first line."""
        return self._session.trace_id if self._session is not None else ""

    @property
    def cwd(self) -> str | None:
        """The folder that the agent works in."""
        return None if self._session is None else self._session.constant.get("cwd")

    @property
    def turn_over(self) -> bool:
        """Whether the session waits for its user."""
        return self._session is not None and self._session.turn_is_over

    @property
    def behind(self) -> bool:
        """Whether there is more to read at once."""
        return any(source.tail.behind for source in self._sources.values())

    def read(self) -> list[Step]:
        """The facts of what is new; [] if nothing is."""
        self._find()
        new: list[tuple[float, int, Any, AgentFile]] = []
        for source in self._sources.values():
            if not source.ready and not self._is_ready(source):
                continue
            rows = source.tail.read()
            if source.tail.replaced:
                source.tail.replaced = False
                self._session = None
            if rows:
                assert source.agent is not None
                last = float("-inf")
                for number, row in rows:
                    at = time_of(row.get("timestamp")) if isinstance(row, dict) else None
                    last = parse_time(at) if at else last
                    new.append((last, number, row, source.agent))
        if not new:
            return []
        if self._session is None:
            self._session = ClaudeSession(own_session(self.path))
            self._session.sidechains = True
        new.sort(key=lambda entry: entry[0])
        for _, number, row, agent in new:
            if isinstance(row, dict):
                link(row, self._session.links)
            if agent.agent_id is not None and agent.agent_id not in self._session.expected:
                self._session.expected.add(agent.agent_id)
                take_meta(self._session, agent)
            self._session.line(number, row, agent_id=agent.agent_id, file=agent.name)
        return self._session.drain()

    def _find(self) -> None:
        for file in session_files(self.path):
            if file.path not in self._sources:
                source = self._sources[file.path] = _Source(GrowingFile(file.path, self.clock), file, self.clock())
                source.ready = file.agent_id is None

    def _is_ready(self, source: _Source) -> bool:
        """Whether a sub-agent's file may be told: it is this session's, and what links it is there."""
        assert source.agent is not None
        if source.agent.path.parent == self.path.parent and not self._is_own(source.agent.path):
            return False
        linked = source.agent.path.with_suffix(".meta.json").exists() or source.agent.run_id is not None
        known = self._session is not None and source.agent.agent_id in self._session.links
        source.ready = linked or known or self.clock() - source.seen_at >= QUIET_S
        return source.ready

    def _is_own(self, path: Path) -> bool:
        return own_session(path) == own_session(self.path)

    def rest(self) -> list[Step]:
        """Say that the session waits for its user, once a turn."""
        session = self._session
        if session is None or not session.turn_is_over or self._rested == session.main.last_key:
            return []
        self._rested = session.main.last_key
        session.turn_over(session.main.last_key, session.main.at)
        return session.drain()

    def finish(self) -> list[Step]:
        """End what is still open."""
        if self._session is None:
            return []
        self._session.finish()
        return self._session.drain()


class FollowedFile:
    """A run that is told in one file: a thread of Codex or a chat of Gemini CLI. Sub-agents' are followed likewise."""

    def __init__(self, path: Path, begin: Callable[[Path], FileMapping], *, clock: Callable[[], float], rests_s: float):
        """Follow ``path``. ``begin`` makes its mapping; ``rests_s``: the file is quiet so long where a turn is over."""
        self._path = path
        self._begin = begin
        self._clock = clock
        self._rests_s = rests_s
        self._tail = GrowingFile(path, clock)
        self._mapping: FileMapping | None = None
        self._told_at = 0.0
        self._rested: str | None = None

    @property
    def trace_id(self) -> str:
        """The run's trace; "" before there is something to tell of it."""
        return self._mapping.trace_id if self._mapping is not None else ""

    @property
    def cwd(self) -> str | None:
        """The folder that the agent works in."""
        return None if self._mapping is None else self._mapping.cwd

    @property
    def turn_over(self) -> bool:
        """Whether the run waits for its user."""
        quiet_s = self._clock() - self._told_at
        return self._mapping is not None and self._mapping.turn_over and quiet_s >= self._rests_s

    @property
    def behind(self) -> bool:
        """Whether there is more to read at once."""
        return self._tail.behind

    def read(self) -> list[Step]:
        """The facts of what is new; [] if nothing is."""
        rows = self._tail.read()
        if self._tail.replaced:
            self._tail.replaced, self._mapping = False, None
        if not rows:
            return []
        if self._mapping is None:
            self._mapping = self._begin(self._path)
        self._told_at = self._clock()
        for number, row in rows:
            self._mapping.line(number, row)
        return self._mapping.drain()

    def rest(self) -> list[Step]:
        """Say that the run waits for its user, once a turn. A sub-agent, which has no user, has ended."""
        mapping = self._mapping
        if mapping is None or not self.turn_over or self._rested == mapping.last_key:
            return []
        self._rested = mapping.last_key
        if mapping.parent_id is None:
            mapping.wait_for_user()
        else:
            mapping.finish()
        return mapping.drain()

    def finish(self) -> list[Step]:
        """End what is still open."""
        if self._mapping is None:
            return []
        self._mapping.finish()
        return self._mapping.drain()


class FileMapping(LineMapping, Protocol):
    """The mapping of a run that is told in one file."""

    parent_id: str | None  # of the run that it is a sub-agent's of
    turn_over: bool
    last_key: str

    @property
    def trace_id(self) -> str:
        """The run's trace; "" before there is something to tell of it."""

    @property
    def cwd(self) -> str | None:
        """The folder that the agent works in."""

    def wait_for_user(self) -> None:
        """Say that the run waits for its user."""

    def finish(self) -> None:
        """End what is still open: there are no more lines."""


def follow(path: Path, kind: str, clock: Callable[[], float] = time.monotonic) -> Followed:
    """Follow the session in the file ``path``. ``kind``: claude, codex or gemini."""
    if kind == "claude":
        return FollowedClaude(path, clock)
    begin = _begin_codex if kind == "codex" else _begin_gemini
    return FollowedFile(path, begin, clock=clock, rests_s=0.0 if kind == "codex" else GEMINI_RESTS_S)


def _begin_codex(path: Path) -> FileMapping:
    return CodexThread(head(path)[0], path.name)


def _begin_gemini(path: Path) -> FileMapping:
    chat = GeminiChat(parent_of(path), path.name)
    chat.cwd = cwd_of(path)
    return chat
