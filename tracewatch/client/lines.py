"""The way into a log, as a delivery sees it: an ``Uplink`` creates traces, and a ``TraceLine`` records into one.

``link.py`` has the way to a server, ``direct.py`` that into a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..model.window import LineBroken
from .control import Told
from .errors import Unreachable

FILE_PIECE_BYTES = 128 * 1024  # of a file, read at a time


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to an append. ``seq``: for an ack that of the last event, for a nack that of the first."""

    seq: int
    error: str | None = None  # the code of a nack
    message: str = ""
    expected_seq: int | None = None
    details: list[dict[str, Any]] = field(default_factory=list)  # of a nack: where its faults are


class Leaving(LineBroken):
    """The server is shutting down. ``wait_s``: seconds after which to come back."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("the server is going away")
        self.wait_s = wait_s


class Cut(LineBroken):
    """The connection has ended without a word. If that goes on, what was sent over it may be the reason."""


class TooBig(Cut):
    """The server, or a proxy before it, takes no message of the size of the largest that was sent."""


def size_of(path: Path) -> int:
    """The bytes of a file. Raises OSError."""
    return path.stat().st_size


def pieces(path: Path) -> Iterator[bytes]:
    """The content of a file, a piece at a time. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        while piece := file.read(FILE_PIECE_BYTES):
            yield piece


class NotYet(Unreachable):
    """There is no connection, and the next attempt is ``wait_s`` seconds away. ``cause`` ended the last one."""

    def __init__(self, cause: Exception, wait_s: float) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.wait_s = wait_s


class Answers:
    """The answers and commands that wait for a line's reader. An error comes after them, and stays."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Verdict | Told | Exception] = asyncio.Queue()

    def put(self, answer: Verdict | Told | Exception) -> None:
        """Add one."""
        self._waiting.put_nowait(answer)

    async def next(self) -> Verdict | Told:
        """The next one. Raises the error that has ended the line, each time."""
        answer = await self._waiting.get()
        if isinstance(answer, Exception):
            self._waiting.put_nowait(answer)
            raise answer
        return answer


class TraceLine(Protocol):
    """The open line of one producer into one trace."""

    expected_seq: int  # the first seq the log does not have
    told: Told  # the commands that it had at the beginning

    async def send(self, seq: int, bodies: Sequence[bytes]) -> None:
        """Append without waiting for the answer. Raises LineBroken."""

    async def answer(self) -> Verdict | Told | None:
        """The next answer or command; None for a frame that is neither. Raises LineBroken, Leaving."""

    async def heartbeat(self) -> None:
        """Send a sign of life of the recorder. Raises LineBroken."""

    def suspect(self) -> None:
        """Check the connection, because an answer is too late. If it is dead, break it for all lines that use it."""

    async def close(self) -> None:
        """Close the line."""


class Uplink(Protocol):
    """The way to one log."""

    batch_bytes: int  # the most events in one append, as JSON; made less where a server or a proxy takes less

    async def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Create the trace, or find it, and return its summary. Raises ApiError, Unreachable."""

    async def find(self, trace_id: str) -> dict[str, Any]:
        """The summary of an existing trace. Raises ApiError, Unreachable."""

    async def question(self, trace_id: str, request_id: str) -> dict[str, Any]:
        """The state of a question: ``{request_id, state, …}``. Raises ApiError, Unreachable."""

    async def put_blob(self, trace_id: str, sha256: str, media_type: str, path: Path) -> None:
        """Send the content in a file, for events of the trace to name. Raises ApiError, Unreachable, OSError."""

    async def open(self, trace_id: str, producer: str, *, alone: bool = False) -> TraceLine:
        """Open a line; ``alone``: over a connection that no other line uses. Raises Unreachable, ApiError."""

    async def rest(self) -> None:
        """Let go of what a forked child must not inherit, and use it no more until ``go_on``."""

    def go_on(self) -> None:
        """Use it again."""

    def hurry(self) -> None:
        """Try all further calls at once, however recently they failed, because the process ends."""

    async def close(self) -> None:
        """Close all lines and connections."""
