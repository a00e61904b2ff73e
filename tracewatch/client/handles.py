"""What a trace gives out: goals, messages and tool calls, each usable with ``with`` and with ``async with``.

Rule: no method raises because of what it is given; a second end of something is ignored.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from contextvars import ContextVar
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Self

from ..model.fit import amount, count, shortened_text
from .encode import clean, encode, name_of, words
from .errors import Cancelled

if TYPE_CHECKING:
    from .record import Trace

STREAM_S = 0.05  # text becomes an event at most this often: 20 a second
_TRACEBACK_CHARS = 8000

_open_goals: ContextVar[tuple[Goal, ...]] = ContextVar("tracewatch_open_goals", default=())


def current_goal(trace: object) -> str | None:
    """The innermost goal of the trace that is open in this thread or task."""
    return next((goal.id for goal in reversed(_open_goals.get()) if goal.trace is trace), None)


def id_of(goal: Goal | str | None) -> str | None:
    """A goal's id, from the goal or the id itself."""
    return goal.id if isinstance(goal, Goal) else None if goal is None else name_of(goal)


def stops(error: BaseException) -> bool:
    """Whether this ends a run because somebody wants it to end, rather than because something is wrong."""
    if isinstance(error, BaseExceptionGroup):
        return all(stops(one) for one in error.exceptions)
    return isinstance(error, Cancelled | KeyboardInterrupt | asyncio.CancelledError | GeneratorExit)


def error_of(error: Any) -> Any:
    """An exception as ``{type, message, traceback}``; anything else as it is."""
    if not isinstance(error, BaseException):
        return error
    try:
        message = str(error)
    except Exception:
        message = "<an exception whose str raises>"
    try:
        lines = "".join(traceback.format_exception(error))
    except Exception:
        lines = ""
    half = _TRACEBACK_CHARS // 2
    if len(lines) > 2 * half:
        lines = f"{shortened_text(lines[:-half], half)}\n{lines[-half:]}"
    return {"type": type(error).__qualname__, "message": words(message, 4000), "traceback": clean(lines)}


class Both:
    """``async with`` for what has ``with``: nothing of it waits, so both are the same."""

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.__exit__(kind, error, trace)


class Goal(Both):
    """A goal of a trace."""

    def __init__(
        self,
        trace: Trace,
        description: str,
        *,
        reason: str | None,
        parent: Goal | str | None,
        after: Goal | str | None,
        id: str | None,
        type: str,
    ) -> None:
        self.trace = trace
        self.id = trace.new_id("g") if id is None else name_of(id)
        self._after = id_of(after)
        # Behind a sibling, the parent is the sibling's.
        self._parent = id_of(parent) or (None if self._after else current_goal(trace))
        self._added = False
        self._goal = {"id": self.id, "description": words(description), "type": words(type, 64)}
        if reason is not None:
            self._goal["reason"] = words(reason)

    def add(self, status: str) -> None:
        """Record the goal with this status, if it is not there yet."""
        with self.trace.lock:
            if self._added:
                return
            self._added = True
            book = self.trace.book
            parent = self._parent or (book.parent_of(self._after) if self._after else None)
            book.add(self.id, parent, status)
            goal = {**self._goal, "status": words(status, 64), "parent_id": self._parent, "after_id": self._after}
            self.trace.emit({"event": "goal_added", "goal": {k: v for k, v in goal.items() if v is not None}})

    def start(self) -> None:
        """It is being worked on: in_progress, and the current goal."""
        self._become("in_progress")

    def complete(self, summary: str | None = None) -> None:
        """It is reached."""
        self._become("completed", summary)

    def abandon(self, summary: str | None = None) -> None:
        """It is given up."""
        self._become("abandoned", summary)

    def update(self, *, description: str | None = None, reason: str | None = None, summary: str | None = None) -> None:
        """Say it in other words."""
        self._patch({"description": description, "reason": reason, "summary": summary})

    def _become(self, status: str, summary: str | None = None) -> None:
        with self.trace.lock:
            if not self._added:
                self.add("in_progress")
            if status == "completed" and self.trace.book.status_of(self.id) == "pending":
                self._become("in_progress")  # the protocol has no shorter way
            may = self.trace.book.become(self.id, status)
            self._patch({"status": status if may else None, "summary": summary})

    def _patch(self, patch: dict[str, Any]) -> None:
        given = {key: words(value) for key, value in patch.items() if value is not None}
        if given:
            self.trace.emit({"event": "goal_updated", "goal_id": self.id, "patch": given})

    def __enter__(self) -> Self:
        if self._added:
            self.start()
        self.add("in_progress")
        _open_goals.set((*_open_goals.get(), self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        # Not by a token: a generator or task may leave in another context than it entered in.
        _open_goals.set(tuple(goal for goal in _open_goals.get() if goal is not self))
        if error is None:
            self._become_at_exit("completed", None)
        else:
            self._become_at_exit(
                "abandoned", words(f"{type(error).__name__}: {words(error_of(error)['message'])}", 1000)
            )

    def _become_at_exit(self, status: str, summary: str | None) -> None:
        if self.trace.book.status_of(self.id) != "abandoned":
            self._become(status, summary)


class Message(Both):
    """A message of a trace."""

    def __init__(self, trace: Trace, role: str, goal: Goal | str | EllipsisType | None, values: dict[str, Any]) -> None:
        self.id = trace.new_id("a")
        self._trace = trace
        self._message: dict[str, Any] = {"message_id": self.id, "role": name_of(role)}
        goal_id = current_goal(trace) if isinstance(goal, EllipsisType) else id_of(goal)
        if goal_id is not None or goal is None:
            self._message["goal_id"] = goal_id
        self._values = _tidy(values)  # to be said with the next event of the message
        self._text: list[str] = []  # streamed, not yet an event
        self._told_at = 0.0  # monotonic, of the last event with text
        self._added = False
        self._complete = False

    def add(self, content: Any, status: str = "complete") -> None:
        """Record the message with this content, if it is not there yet."""
        with self._trace.lock:
            if self._added:
                return
            self._added, self._complete = True, status == "complete"
            values, self._values = self._values, {}
            message = {**values, **self._message, "content": content, "status": status}
            self._trace.emit({"event": "message_added", "message": message})

    def stream(self, text: str) -> None:
        """More text of the message. It becomes an event at once or within 50 ms."""
        self._trace.check()
        try:
            with self._trace.lock:
                self.add("", "streaming")
                waits = bool(self._text)
                self._text.append(text if isinstance(text, str) else words(text))
                if waits:
                    return
                wait_s = self._told_at + STREAM_S - time.monotonic()
                if wait_s <= 0:
                    self._trace.stream_now(self)
                else:
                    self._trace.stream_later(self, wait_s)
        except Exception as error:
            self._trace.own_fault(error)

    def take_text(self) -> list[bytes]:
        """The events of the text that waits; for the trace, which puts them in their place."""
        text, self._text = clean("".join(self._text)), []
        self._told_at = time.monotonic()
        return encode({"event": "message_updated", "message_id": self.id, "append": text}) if text else []

    def set(self, **values: Any) -> None:
        """Tokens, cost, model and the like: said with the end of the message, at once if it has ended."""
        with self._trace.lock:
            self._values |= _tidy(values)
            if self._added and self._complete and self._values:
                self._update({})

    def complete(self) -> None:
        """There is no more of it."""
        with self._trace.lock:
            self.add("", "streaming")
            if not self._complete:
                self._complete = True
                self._update({"status": "complete"})

    def _update(self, patch: dict[str, Any]) -> None:
        values, self._values = self._values, {}
        self._trace.emit({"event": "message_updated", "message_id": self.id, "patch": {**values, **patch}})

    def __enter__(self) -> Self:
        self.add("", "streaming")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._values["error"] = {k: v for k, v in error_of(error).items() if k != "traceback"}
        self.complete()
        if self._values:
            self.set()


class ToolCall(Both):
    """A tool's call and its result: one message, running in between."""

    def __init__(self, trace: Trace, name: str, arguments: Any, tool_call_id: str | None) -> None:
        values = {} if tool_call_id is None else {"tool_call_id": name_of(tool_call_id)}
        self._message = Message(trace, "tool", ..., values)
        self.id = self._message.id
        self._trace = trace
        self._content: dict[str, Any] = {"tool_name": name_of(name)}
        if arguments is not None:
            self._content["arguments"] = arguments
        self._began = time.perf_counter()

    def result(self, value: Any) -> None:
        """What the tool gave."""
        self._content["result"] = value

    def error(self, value: Any) -> None:
        """What went wrong: an exception, or any JSON."""
        self._content["error"] = error_of(value)

    def set(self, **values: Any) -> None:
        """Tokens, cost and the like."""
        self._message.set(**values)

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._message.add(dict(self._content), "running")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._content["error"] = {k: v for k, v in error_of(error).items() if k != "traceback"}
        duration_ms = round((time.perf_counter() - self._began) * 1000, 3)
        self._message.set(content=self._content, duration_ms=duration_ms)
        self._message.complete()


def _tidy(values: dict[str, Any]) -> dict[str, Any]:
    """A message's values, without those whose type would have the whole message refused."""
    tidy: dict[str, Any] = {}
    for key, value in values.items():
        if value is None or key in ("message_id", "role", "sequence", "goal_id"):
            continue
        if key in ("tokens", "parent_sequence"):
            value = count(value) if key == "tokens" else count(value, 2**53 - 1)
        elif key in ("cost", "duration_ms"):
            value = amount(value) if key == "cost" else amount(value, 2**53)
        elif key in ("model", "agent", "description"):
            value = words(value, 4000)
        elif key == "tool_call_id":
            value = name_of(value)
        elif key == "status" and value not in ("streaming", "running", "complete"):
            continue
        if value is not None:
            tidy[key] = value
    return tidy
