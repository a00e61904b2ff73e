"""What a delivery needs of the way into a log: an ``Uplink`` to create a trace, and a ``TraceLine`` to record into it.

``link.py`` leads to a server, ``direct.py`` into a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..model.window import LineBroken
from .control import Told
from .errors import Unreachable


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came back for an append. ``seq``: an ack's is that of the last event, a nack's that of the first."""

    seq: int
    error: str | None = None  # a nack's code
    message: str = ""
    expected_seq: int | None = None


class Leaving(LineBroken):
    """The server is going away. ``wait_s``: come back after so many seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("the server is going away")
        self.wait_s = wait_s


class NotYet(Unreachable):
    """There is no connection, and the next attempt is ``wait_s`` seconds away. ``cause`` ended the last one."""

    def __init__(self, cause: Exception, wait_s: float) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.wait_s = wait_s


class TraceLine(Protocol):
    """One producer's open line into one trace."""

    expected_seq: int  # the first seq the log does not have
    told: Told  # what it said at the beginning

    async def send(self, seq: int, bodies: Sequence[bytes]) -> None:
        """Append without waiting for the answer. Raises LineBroken."""

    async def answer(self) -> Verdict | Told | None:
        """The next answer or command; None for a frame that is neither. Raises LineBroken, Leaving."""

    async def heartbeat(self) -> None:
        """Say that the recorder lives. Raises LineBroken."""

    def suspect(self) -> None:
        """Nothing was answered for too long: if the connection is to blame, have it broken for all that use it."""

    async def close(self) -> None:
        """Hang up."""


class Uplink(Protocol):
    """The way to one log."""

    async def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Create the trace, or find it there; its summary. Raises ApiError, Unreachable."""

    async def find(self, trace_id: str) -> dict[str, Any]:
        """The summary of a trace that is there. Raises ApiError, Unreachable."""

    async def question(self, trace_id: str, request_id: str) -> dict[str, Any]:
        """How a question stands: ``{request_id, state, …}``. Raises ApiError, Unreachable."""

    async def open(self, trace_id: str, producer: str) -> TraceLine:
        """Open a line. Raises Unreachable, ApiError."""

    def hurry(self) -> None:
        """The process ends: what is asked for next is tried at once, however recently it failed."""

    async def close(self) -> None:
        """Let go of everything."""
