"""The journal of one trace: goals, messages and questions write their events into it, in the order of their calls.

Rule 1: no argument makes anything here raise into the agent, and nothing waits for the network or the disk.
Rule 2: streamed text becomes an event at intervals, and in any case before the next event of the trace.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any, Protocol

from .blocks import here
from .book import GoalBook
from .cancel import check_scopes
from .control import Control
from .encode import encode
from .outbox import Outbox

_log = logging.getLogger("tracewatch")


class Background(Protocol):
    """The background thread, as far as a journal needs it: ``client/sender.py``."""

    def poke(self, outbox: Outbox) -> None:
        """Wake the thread: there are events to deliver."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function in the background thread after some seconds, or never if the process ends before."""


class TextStream(Protocol):
    """A message that still streams."""

    def take_text(self) -> list[bytes]:
        """Take the events of the waiting text."""


class Journal:
    """The events of one recorder for one trace.

    ``no_room`` is the warning for dropped events, with the values that it mentions.
    """

    def __init__(self, outbox: Outbox, background: Background, no_room: tuple[object, ...]) -> None:
        self.outbox = outbox
        self.book = GoalBook()
        self.entered = EnteredGoals(self.book)
        self.begun = False  # whether the background thread knows of the trace
        self.over = False  # whether an end of the trace was recorded
        self._background = background
        self._no_room = no_room
        self._numbers = itertools.count(1)
        self._streams: dict[TextStream, None] = {}  # messages with text that is not yet an event
        self._failed = False  # whether an error of the recorder's own was logged
        self._limits: set[str] = set()  # that were met

    @property
    def trace_id(self) -> str:
        """The trace's id."""
        return self.outbox.trace_id

    @property
    def control(self) -> Control:
        """The commands for the trace."""
        return self.outbox.control

    @property
    def lock(self) -> Any:
        """The lock under which an event is made and put into its place."""
        return self.outbox.lock

    def check(self) -> None:
        """Check for a cancel, before a call of the recorder. Raises Cancelled in a ``cancel_scope`` of the trace."""
        check_scopes(self.control)

    def begin(self) -> None:
        """Have the trace created, and its events delivered."""
        try:
            self.begun = True
            self._background.poke(self.outbox)
        except Exception as error:
            self.own_fault(error)

    def emit(self, event: dict[str, Any], *, own: bool = False) -> None:
        """Record one event in the form of the protocol's section 2, after all text streamed before it."""
        try:
            bodies = encode(event, own=own)
            with self.lock:
                self._flush_streams()
                self.accept(bodies)
            self.begin()
        except Exception as error:
            self.own_fault(error)

    def end(self, event: dict[str, Any]) -> None:
        """Record the event that ends the trace."""
        self.emit(event)
        self.over = self.outbox.ended = True
        self.begin()

    def accept(self, bodies: list[bytes]) -> None:
        """Put events into the outbox. Without room they are dropped, with a warning."""
        if bodies and not self.outbox.accept(bodies):
            said = "trace %s: events are dropped: %s is away and there is no more room in %s"
            self.outbox.warn_once("dropped", said, self.trace_id, *self._no_room)

    def limited(self, limit: str, most: int) -> None:
        """Say, once for each ``limit`` of the protocol, that something stands elsewhere because of it."""
        if limit not in self._limits:
            self._limits.add(limit)
            self.emit({"event": "recorder_limited", "limit": limit, "most": most})

    def new_id(self, kind: str) -> str:
        """A new id for a goal or message, which no other recorder of the trace makes. ``kind``: its first letter."""
        return f"{kind}{self.outbox.producer[:6]}-{next(self._numbers)}"

    # --- streamed text ---

    def stream_later(self, message: TextStream, seconds: float) -> None:
        """Make an event of the message's text after ``seconds``, or before the next event."""
        self._streams[message] = None
        self._background.later(seconds, self.flush_streams)

    def stream_now(self, message: TextStream) -> None:
        """Make an event of the message's text now, after that of other messages."""
        self._flush_streams()
        self.accept(message.take_text())
        self._background.poke(self.outbox)

    def flush_streams(self) -> None:
        """Make events of all waiting text."""
        try:
            with self.lock:
                self._flush_streams()
            self._background.poke(self.outbox)
        except Exception as error:
            self.own_fault(error)

    def _flush_streams(self) -> None:
        if self._streams:
            waiting, self._streams = self._streams, {}
            for message in waiting:
                self.accept(message.take_text())

    def own_fault(self, error: Exception) -> None:
        """Log an error of the recorder's own, once, and keep it from the agent."""
        if not self._failed:
            self._failed = True
            _log.warning("trace %s: an event could not be recorded: %r", self.trace_id, error, exc_info=error)


class EnteredGoals:
    """The goals whose ``with`` blocks are open in any thread or task: for threads that have no goal of their own.

    Such a thread belongs to the innermost goal that is open where the trace was entered, and never to another thread's.
    Python hands no context on to a thread, so its own context can't say that.
    """

    def __init__(self, book: GoalBook) -> None:
        self.home = here()  # where the trace was entered, or made
        self.started: str | None = None  # by ``start``, without a block: a goal of all threads
        self._book = book
        # goal_id: whether it was entered at home; outermost first. Each use is one step, so no lock is needed, which a
        # forked child would inherit in the taken state.
        self._open: dict[str, bool] = {}

    def enter(self, goal_id: str) -> None:
        """A block is entered, here."""
        self._open[goal_id] = here() == self.home

    def leave(self, goal_id: str) -> None:
        """A block is left, wherever that is."""
        self._open.pop(goal_id, None)

    def innermost(self) -> str | None:
        """The innermost goal that is open at home."""
        return next((goal_id for goal_id, at_home in reversed(self._open.copy().items()) if at_home), None)

    def elsewhere(self) -> bool:
        """Whether goals are being worked on in blocks: one of them may be the trace's current goal."""
        return any(self._book.status_of(goal_id) == "in_progress" for goal_id in self._open.copy())

    def shared(self) -> str | None:
        """The goal that is being worked on without a block."""
        goal_id = self.started
        while goal_id is not None and self._book.status_of(goal_id) != "in_progress":
            goal_id = self._book.parent_of(goal_id)
        return goal_id if goal_id not in self._open else None
