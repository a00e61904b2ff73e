"""The way from an agent's threads into the loop of the background thread.

Rule: asyncio's own ``call_soon_threadsafe`` is not for the agent's threads. It drops each OSError of its own write, and
      so the TimeoutError that a signal handler of the agent's raises there: the agent would hang.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from .interrupts import pass_on


class Bell:
    """Calls functions in a loop, from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError without two descriptors."""
        self._loop = loop
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        loop.add_reader(self._near, self._rung)

    def call(self, function: Callable[..., object], *values: Any) -> None:
        """Call a function in the loop, soon; or never, if the loop ends before."""
        self._calls.append((function, values))
        try:
            self._far.send(b"\0")
        except OSError as error:
            pass_on(error)  # else it is full, so the loop is about to look; or closed

    def _rung(self) -> None:
        try:
            self._near.recv(4096)
        except OSError:
            pass  # somebody was here already
        self.look()

    def look(self) -> None:
        """Make the calls that wait. The loop does this from time to time, as an interrupted ``call`` may not ring."""
        while self._calls:
            function, values = self._calls.popleft()
            self._loop.call_soon(function, *values)

    def close(self) -> None:
        """Free the descriptors."""
        self._loop.remove_reader(self._near)
        self._near.close()
        self._far.close()
