"""Recording an agent's run: ``with tracewatch.trace("Fix the login bug") as t: …``.

Rule 1: nothing here raises into the agent, waits for the network or the disk, or changes what the agent does. The
        exceptions: an address in ``trace(url=…)`` or the environment that is none is refused at once; and what the
        agent asks for, a ``cancel_scope`` and ``ask`` (controlled.py).
Rule 2: an exception of the agent's passes through every ``with`` and is told of on its way.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import re
import secrets
import time
from types import EllipsisType
from typing import Any, Self

import orjson

from ..model import fit
from ..model.canonical import ENDED
from ..settings import Settings
from .asking import Asker
from .cancel import cancelled_error
from .control import Control
from .controlled import Controlled
from .encode import dumps, encode, name_of, words
from .errors import Cancelled
from .goal_book import GoalBook
from .handles import Goal, Message, ToolCall, current_goal, error_of, id_of, stops
from .outbox import Outbox
from .sender import SENDERS, Sender
from .target import client_settings

__all__ = ["Goal", "Message", "ToolCall", "Trace", "resume", "trace"]

_NOT_AN_ID = re.compile(r"[^A-Za-z0-9._:@-]")
_log = logging.getLogger("tracewatch")


class Trace(Controlled):
    """One run of one agent, being recorded. Every method may be called from any thread."""

    def __init__(
        self,
        spec: dict[str, Any],
        sender: Sender,
        settings: Settings,
        after: tuple[Outbox, int] | None = None,
        *,
        fresh: bool = False,  # nobody else can have said anything in it
    ) -> None:
        self.trace_id: str = spec["trace_id"]
        self.url = settings.url
        self._sender = sender
        self._settings = settings
        self._outbox = Outbox(spec, after=after, control=Control(primed=fresh))
        self._asker = Asker(self._outbox.control)
        self._numbers = itertools.count(1)
        self._book = GoalBook()
        self._streams: dict[Message, None] = {}  # with text that is not yet an event
        self._begun = False  # the background thread knows of it
        self._over = False  # an end was recorded
        self._failed = False  # an error of the recorder's own was told of

    # --- what happened ---

    def goal(
        self,
        description: str,
        *,
        reason: str | None = None,
        parent: Goal | str | None = None,
        after: Goal | str | None = None,
        id: str | None = None,
        type: str = "normal",
    ) -> Goal:
        """A goal to work on in a ``with`` block: in_progress within, completed behind it, abandoned by an exception.

        ``parent``: by default the innermost goal open here. ``after``: the sibling to stand behind. ``type``: normal
        or agent_call.
        """
        self.check()
        return Goal(self, description, reason=reason, parent=parent, after=after, id=id, type=type)

    def add_goal(
        self,
        description: str,
        *,
        status: str = "pending",
        parent: Goal | str | None = None,
        after: Goal | str | None = None,
        id: str | None = None,
        reason: str | None = None,
        type: str = "normal",
    ) -> Goal:
        """A goal added at once, for plans: ``start()``, ``complete()`` or ``abandon()`` it when the time comes."""
        self.check()
        goal = Goal(self, description, reason=reason, parent=parent, after=after, id=id, type=type)
        goal.add(status)
        return goal

    def message(
        self,
        role: str,
        content: Any = None,
        *,
        goal: Goal | str | EllipsisType | None = ...,
        tokens: int | None = None,
        cost: float | None = None,
        model: str | None = None,
        **extra: Any,
    ) -> Message:
        """A message. With ``content`` (any JSON) it is recorded at once, complete. Without, it begins with the ``with``
        block or the first ``stream(text)``. ``goal``: by default the innermost goal open here, None: none of them.
        """
        self.check()
        message = Message(self, role, goal, {**extra, "tokens": tokens, "cost": cost, "model": model})
        if content is not None:
            message.add(content)
        return message

    def tool_call(self, name: str, arguments: Any = None, *, tool_call_id: str | None = None) -> ToolCall:
        """A tool at work in a ``with`` block; say ``.result(value)`` or ``.error(value)`` in it."""
        self.check()
        return ToolCall(self, name, arguments, tool_call_id)

    def event(self, name: str, /, **payload: Any) -> None:
        """Any other event: ``t.event("thought", text="hm")``."""
        self.check()
        self.emit({**payload, "event": words(name, 64)})

    def status(self, status: str, reason: str | None = None) -> None:
        """The trace's status changes: running, waiting, or one that ends it."""
        event: dict[str, Any] = {"event": "trace_status_changed", "status": words(status, 64)}
        self.emit(event | ({} if reason is None else {"reason": words(reason)}))
        self._over = self._outbox.ended = status in ENDED

    def complete(self, summary: str | None = None) -> None:
        """The run has done what it was for."""
        self._end("completed", summary)

    def fail(self, error: Any, summary: str | None = None) -> None:
        """The run has failed. ``error``: an exception, or any JSON."""
        self._end("failed", summary, error=error_of(error))

    def stop(self, summary: str | None = None) -> None:
        """The run was stopped before its end."""
        self._end("stopped", summary)

    def _end(self, status: str, summary: str | None, **more: Any) -> None:
        said = {} if summary is None else {"summary": words(summary)}
        self.emit({"event": "trace_completed", "status": status, **said, **more})
        self._over = self._outbox.ended = True
        self._begin()

    def sub_trace(
        self,
        task: str,
        *,
        agent_type: str = "agent",
        trace_id: str | None = None,
        goal: Goal | str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Trace:
        """A sub-agent's run: a trace of its own, shown below ``goal`` (by default the innermost goal open here)."""
        self.check()
        goal_id = id_of(goal) or current_goal(self)
        spec = _spec(task, agent_type, trace_id, self.trace_id, goal_id, metadata, self._outbox.spec.get("lease_s"))
        self.flush_streams()
        after = (self._outbox, self._outbox.next_seq - 1)
        child = Trace(spec, self._sender, self._settings, after, fresh=trace_id is None)
        self._outbox.control.link(child._outbox.control)
        child._begin()
        return child

    # --- getting it there ---

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything recorded so far is in the log; False if it is not after ``timeout_s``."""
        self.flush_streams()
        seq = self._outbox.next_seq - 1
        return self._outbox.wait_acked(seq, timeout_s)

    async def aflush(self, timeout_s: float = 5.0) -> bool:
        """As ``flush``, without holding up the event loop."""
        return await asyncio.to_thread(self.flush, timeout_s)

    @property
    def pending(self) -> int:
        """Events recorded and not yet in the log."""
        return self._outbox.pending

    @property
    def dropped(self) -> int:
        """Events there was no room for, in memory and on disk."""
        return self._outbox.dropped

    # --- for the handles ---

    def emit(self, event: dict[str, Any]) -> None:
        """Record one event as the protocol's section 2 has it, behind all text streamed before it."""
        try:
            bodies = encode(event)
            with self._outbox.lock:
                self._flush_streams()
                self._accept(bodies)
            self._begin()
        except Exception as error:
            self.own_fault(error)

    def new_id(self, kind: str) -> str:
        """An id for a goal or message that no other recorder of the trace chooses."""
        return f"{kind}{self._outbox.producer[:6]}-{next(self._numbers)}"

    @property
    def book(self) -> GoalBook:
        """What this recorder knows of the goals."""
        return self._book

    @property
    def lock(self) -> Any:
        """Holds the order of events together with what they are made of."""
        return self._outbox.lock

    def stream_later(self, message: Message, seconds: float) -> None:
        """The message has text: make it an event after ``seconds``, or before the next event."""
        self._streams[message] = None
        self._sender.later(seconds, self.flush_streams)

    def stream_now(self, message: Message) -> None:
        """The message has text: make it an event, behind that of other messages."""
        self._flush_streams()
        self._accept(message.take_text())
        self._sender.poke(self._outbox)

    def flush_streams(self) -> None:
        """Make events of the text that waits."""
        try:
            with self._outbox.lock:
                self._flush_streams()
            self._sender.poke(self._outbox)
        except Exception as error:
            self.own_fault(error)

    def own_fault(self, error: Exception) -> None:
        """An error of the recorder's own: told of once, and kept from the agent."""
        if not self._failed:
            self._failed = True
            _log.warning("trace %s: an event could not be recorded: %r", self.trace_id, error, exc_info=error)

    def _flush_streams(self) -> None:
        if self._streams:
            waiting, self._streams = self._streams, {}
            for message in waiting:
                self._accept(message.take_text())

    def _accept(self, bodies: list[bytes]) -> None:
        if bodies and not self._outbox.accept(bodies):
            said = "trace %s: events are dropped: %s is away and there is no more room in %s"
            self._outbox.warn_once("dropped", said, self.trace_id, self.url, self._settings.spool_dir)

    def _begin(self) -> None:
        try:
            self._begun = True
            self._sender.poke(self._outbox)
        except Exception as error:
            self.own_fault(error)

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self._over:
            return
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            control = self._outbox.control
            # An agent that has seen the cancel and leaves has done what it was asked to; one that has not is complete.
            if control.cancel is not None and control.seen:
                self.stop(words(str(cancelled_error(control)), 1000))
            else:
                self.complete()
        elif stops(error):
            self.stop(words(str(error) if isinstance(error, Cancelled) else repr(error), 1000))
        else:
            self.fail(error)


def trace(
    task: str,
    *,
    agent_type: str = "agent",
    trace_id: str | None = None,
    parent_trace_id: str | None = None,
    parent_goal_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    url: str | None = None,
    lease_s: float | None = 30,
    spool_dir: str | None = None,
    token: str | None = None,
) -> Trace:
    """Record a run: ``with trace("Fix the login bug", agent_type="coder") as t: …``, or ``async with``.

    Entering creates the trace; leaving ends it as completed, as failed with the exception, or as stopped where it was
    cancelled. ``trace_id``: chosen if none is given. ``url``: a server, or ``sqlite:///file.db``; None for
    ``TRACEWATCH_URL``, else loopback. ``lease_s``: without a sign of life for so long the trace is lost; None: never.
    ``token``: None for ``TRACEWATCH_TOKEN``.
    Raises InvalidField if there is no such address; nothing afterwards.
    """
    settings = client_settings(url, spool_dir, token)
    spec = _spec(task, agent_type, trace_id, parent_trace_id, parent_goal_id, metadata, lease_s)
    return Trace(spec, SENDERS.get(settings), settings, fresh=trace_id is None)


def resume(
    trace_id: str,
    *,
    url: str | None = None,
    lease_s: float | None = 30,
    spool_dir: str | None = None,
    token: str | None = None,
) -> Trace:
    """Go on recording a run that another process began: ``with tracewatch.resume(trace_id) as t: …``.

    The trace is running again, whatever it had become; only one that was stopped stays so, and the agent finds itself
    cancelled. A question that was open is still open: ``t.ask`` the same to get it, or the answer given meanwhile.
    ``lease_s``: how often to show a sign of life; the lease itself is the one the trace was created with.
    Raises InvalidField if there is no such address; nothing afterwards.
    """
    settings = client_settings(url, spool_dir, token)
    spec = {"trace_id": _trace_id(trace_id) or new_trace_id(), "resume": True}
    seconds = min(fit.amount(lease_s, math.inf) or 0, 86_400)
    resumed = Trace(spec | ({"lease_s": seconds} if seconds else {}), SENDERS.get(settings), settings)
    resumed._accept(encode({"event": "trace_status_changed", "status": "running", "reason": "resumed"}))
    return resumed


def new_trace_id() -> str:
    """Time-ordered: the milliseconds, then 40 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(5)}"


def _spec(
    task: Any,
    agent_type: Any,
    trace_id: Any,
    parent_trace_id: Any,
    parent_goal_id: Any,
    metadata: Any,
    lease_s: Any,
) -> dict[str, Any]:
    """The body of ``POST /api/traces``, such that the server will take it."""
    spec: dict[str, Any] = {
        "trace_id": _trace_id(trace_id) or new_trace_id(),
        "task": fit.task(words(task)),
        "agent_type": name_of(agent_type),
        "parent_trace_id": _trace_id(parent_trace_id),
        "parent_goal_id": parent_goal_id if parent_goal_id is None else name_of(parent_goal_id),
        "lease_s": min(fit.amount(lease_s, math.inf) or 0, 86_400) or None,
        "metadata": None,
    }
    if metadata:
        given = orjson.loads(dumps(metadata))
        kept, rest = fit.split_metadata(given if isinstance(given, dict) else {"metadata": given}, fit.EVENT_BYTES)
        spec["metadata"] = kept | ({"shortened": fit.marker(fit.json_bytes(rest))} if rest else {})
    return {key: value for key, value in spec.items() if value is not None}


def _trace_id(given: Any) -> str | None:
    if given is None or given == "":
        return None
    trace_id = _NOT_AN_ID.sub("_", words(given))[:128]
    if trace_id != given:
        _log.warning("%r is no trace_id (1-128 of A-Z a-z 0-9 . _ : @ -): %s is used", given, trace_id)
    return trace_id
