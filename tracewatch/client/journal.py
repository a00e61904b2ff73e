"""The journal of one trace: goals, messages and questions write their events into it, in the order of their calls.

Rule 1: no argument makes anything here raise into the agent, and nothing waits for the network or the disk.
Rule 2: streamed text becomes an event at intervals, and in any case before the next event of the trace.
Rule 3: an exception of the agent's may come between any two lines: a signal handler raises (timeouts by SIGALRM,
        Ctrl-C). So events and what changes with them are one ``Step``. Until it is put into ``_step``, nothing has
        happened; from then on it happens whole, if need be in the next call of any thread. A signal handler may also
        record: a step that was planned before its call and not yet put there is planned anew.
Rule 4: no code of the agent's runs while the lock is held, and no warning is logged then, as logging runs the agent's
        handlers.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .blocks import here
from .book import Change, GoalBook
from .cancel import check_scopes
from .control import Control
from .conversation import Conversation
from .encode import encode
from .interrupts import of_agent
from .outbox import Outbox

_log = logging.getLogger("tracewatch")


def setting(owner: object, **values: Any) -> Change:
    """The change that sets attributes of an object."""
    return vars(owner).update, (values,)


@dataclass(slots=True)
class Step:
    """Events, and what changes with them: all of it happens, or nothing.

    ``last_of``: the message of which no text comes after these events.
    """

    bodies: list[bytes]
    changes: Sequence[Change] = ()
    last_of: TextStream | None = None
    seq: int = 0  # of its first event; the journal sets it


Plan = Callable[[], Step | None]  # of what is there now; None: there is nothing to do


class Background(Protocol):
    """The background thread, as far as a journal needs it: ``client/sender.py``."""

    def poke(self, outbox: Outbox) -> None:
        """Wake the thread: there are events to deliver."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function in the background thread after some seconds, or at the latest when the process ends."""


class TextStream(Protocol):
    """A message that still streams."""

    def text_step(self, last: bool) -> Step:
        """The events of the waiting text. ``last``: no more of it will come."""

    def forget_text(self) -> None:
        """Forget the waiting text, which another process records."""


class Journal:
    """The events of one recorder for one trace.

    ``no_room`` is the warning for dropped events, with the values that it mentions.
    """

    def __init__(self, outbox: Outbox, background: Background, no_room: tuple[object, ...]) -> None:
        self.outbox = outbox
        self.book = GoalBook()
        self.entered = EnteredGoals(self.book)
        self.conversation = Conversation()
        self.begun = False  # whether the background thread knows of the trace
        self.over = False  # whether an end of the trace was recorded
        self._background = background
        self._no_room = no_room
        self._numbers = itertools.count(1)
        self._streams: dict[TextStream, None] = {}  # messages with text that is not yet an event
        self._step: Step | None = None  # it happens now
        self._version = 0  # of all that plans are made of
        self._failed = False  # whether an error of the recorder's own was logged
        self._limits: set[str] = set()  # that were met
        outbox.after_fork = self._after_fork

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
        """The lock under which a step is planned and made."""
        return self.outbox.lock

    def check(self) -> None:
        """Check for a cancel, before a call of the recorder. Raises Cancelled in a ``cancel_scope`` of the trace."""
        check_scopes(self.control)

    def begin(self) -> None:
        """Have the trace created, and its events delivered. The lock must not be held."""
        try:
            self.begun = True
            if self.outbox.unreported:
                said = "trace %s: events are dropped: %s is away and there is no more room in %s"
                self.outbox.warn_once("dropped", said, self.trace_id, *self._no_room)
            self._background.poke(self.outbox)
            if self.outbox.unsaid:
                self.outbox.say()
        except Exception as error:
            self.own_fault(error)

    def keep(self, data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any] | None:
        """Keep big or binary content for an event that is going to name it. The lock must not be held."""
        try:
            return self.outbox.keep(data, media_type, preview, **more)
        except Exception as error:
            self.own_fault(error)
            return None  # it is cut, as it can't be kept

    def emit(self, event: dict[str, Any], *changes: Change, own: bool = False) -> None:
        """Record one event in the form of the protocol's section 2, after all text streamed before it.

        ``own``: all its values are ``settled`` already.
        """
        try:
            step = Step(encode(event, own=own), changes)
        except Exception as error:
            self.own_fault(error)
        else:
            self.record(lambda: step)

    def record(self, plan: Plan) -> None:
        """Make the step that ``plan`` returns: it is called with the lock held, and perhaps more than once."""
        try:
            self.put(plan)
        except Exception as error:
            self.own_fault(error)
        self.begin()

    def end(self, event: dict[str, Any]) -> None:
        """Record the event that ends the trace."""
        self.emit(event, setting(self, over=True), setting(self.outbox, ended=True))

    def limited(self, limit: str, most: int) -> None:
        """Say, once for each ``limit`` of the protocol, that something stands elsewhere because of it."""
        if limit not in self._limits:
            self._limits.add(limit)
            self.emit({"event": "recorder_limited", "limit": limit, "most": most})

    def new_id(self, kind: str) -> str:
        """A new id for a goal or message, which no other recorder of the trace makes. ``kind``: its first letter."""
        return f"{kind}{self.outbox.producer[:6]}-{next(self._numbers)}"

    # --- steps ---

    def put(self, plan: Plan) -> None:
        """Make the step that ``plan`` returns, without waking the background thread."""
        outbox = self.outbox
        with outbox.lock:
            while True:
                self._version += 1
                version = self._version if self._step is None else self.settle()
                step = plan()
                if step is None:
                    return
                if self._streams or step.last_of is not None:
                    step = self._after_text(step)
                step.seq = outbox.next_seq
                if self._version == version:  # and no call from here to the next line, so nothing comes in between
                    self._step = step
                    break
            self._insist(step)

    def _insist(self, step: Step) -> None:
        try:
            self._make(step)
        except BaseException:
            self.settle()  # an exception of a signal handler's, which goes its way when the step is made
            raise

    def settle(self) -> int:
        """Complete an interrupted step, and have steps that are planned now planned anew. The lock must be held.

        For whoever reads or changes what plans are made of. Returns the new version of that.
        """
        step = self._step
        if step is not None:
            try:
                self._make(step)
            except Exception as error:
                if not of_agent(error) and self._step is step:
                    self._step = None  # a defect of ours costs this step, and not all that follow
                raise
        self._version += 1
        return self._version

    def _make(self, step: Step) -> None:
        if step.bodies:
            self.outbox.accept(step.bodies, step.seq)
        for change, values in step.changes:
            if self._step is step:  # else a signal handler that records has made it, and more
                change(*values)
        if self._step is step:
            self._step = None

    # --- streamed text ---

    def streams(self, message: TextStream) -> None:
        """Take note that a message has text, which becomes an event before the next one. The lock must be held."""
        self.settle()
        self._streams[message] = None

    def hold_text(self, message_id: str, text: str) -> None:
        """Keep text in the spool that is an event later: the process may die before. The lock must be held."""
        self.outbox.hold_text(message_id, text)

    def flush_later(self, seconds: float) -> None:
        """Make events of all waiting text after some seconds."""
        self._background.later(seconds, self.flush_streams)

    def flush_streams(self) -> None:
        """Make events of all waiting text, now."""
        self.record(lambda: Step([]))

    def _after_text(self, step: Step) -> Step:
        """The step with the waiting text before it."""
        bodies: list[bytes] = []
        changes: list[Change] = []
        last_of = step.last_of
        for message in self._streams if last_of is None else {**self._streams, last_of: None}:
            text = message.text_step(message is last_of)
            bodies += text.bodies
            changes += text.changes
        return Step(bodies + step.bodies, [*changes, setting(self, _streams={}), *step.changes])

    def _after_fork(self) -> None:
        """In a forked child: what was not yet an event is the parent's to record."""
        for message in self._streams:
            message.forget_text()
        self._streams, self._step = {}, None

    def own_fault(self, error: Exception) -> None:
        """Log an error of the recorder's own, once, and keep it from the agent. Raises it if it is the agent's own."""
        if of_agent(error):
            raise error
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

    def enter(self, goal_id: str, *, apart: bool = False) -> None:
        """A block is entered, here; ``apart``: as if it were elsewhere, so that no thread without a goal is in it."""
        self._open[goal_id] = not apart and here() == self.home

    def __bool__(self) -> bool:
        """Whether any block is open."""
        return bool(self._open)

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
