"""Where frames go: the seam between the hub and a transport.

Rule 1: a sink never buffers without bound: ``send_…`` waits, and a caller of ``write`` looks at ``buffered`` first.
Rule 2: a sink whose reader has gone raises SinkClosed and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..model.canonical import event_name
from ..model.frames import sse_event, ws_text

FRAME_BYTES = 200  # of the objects around a frame's bytes


class SinkClosed(Exception):
    """The reader has gone. Not an error of anybody's."""


class Frame:
    """One stored event, or one change of the list: encoded once for each way of sending it, for all readers.

    ``event_id`` is 0 for a change of the list, which has no id and is sent over WebSockets only.
    """

    __slots__ = ("_sse", "_ws", "body", "epoch", "event_id")  # no cached_property: before Python 3.12 it takes a lock

    def __init__(self, epoch: str, event_id: int, body: bytes) -> None:
        self.epoch = epoch
        self.event_id = event_id
        self.body = body
        self._ws: bytes | None = None
        self._sse: bytes | None = None

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory: the event, and once more as a WebSocket frame."""
        return 2 * len(self.body) + FRAME_BYTES

    @property
    def name(self) -> str:
        """The event's name."""
        return event_name(self.body)

    @property
    def ws(self) -> bytes:
        """As a WebSocket frame."""
        if self._ws is None:
            self._ws = ws_text(self.body)
        return self._ws

    @property
    def sse(self) -> bytes:
        """As a server-sent event."""
        if self._sse is None:
            self._sse = sse_event(self.epoch, self.event_id, self.body)
        return self._sse

    @property
    def line(self) -> bytes:
        """As a line of NDJSON."""
        return self.body + b"\n"


class Sink(Protocol):
    """One reader's end of a transport."""

    direct: bool  # whether ``write`` may be used

    def write(self, data: bytes) -> None:
        """Hand over whole WebSocket frames at once (``direct`` only). Does nothing once the reader has gone."""

    def buffered(self) -> int:
        """Bytes handed over and not yet taken by the system, as far as this is known."""

    async def ready(self) -> None:
        """Wait until ``send_events`` would not wait, as far as this is known."""

    async def send_events(self, frames: Sequence[Frame]) -> None:
        """Send stored events, waiting while the reader is slow. Raises SinkClosed."""

    async def send_control(self, payload: bytes) -> None:
        """Send a control frame, waiting while the reader is slow. Raises SinkClosed."""

    def write_control(self, payload: bytes) -> None:
        """Hand over a control frame at once (``direct`` only)."""
