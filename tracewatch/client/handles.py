"""What a trace gives out: goals, messages and tool calls, each usable with ``with`` and with ``async with``.

Rule: no method raises because of what it is given; a second end of something is ignored.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import traceback
from collections.abc import Callable
from types import EllipsisType
from typing import Any, ParamSpec, Self, TypeVar, cast

from ..model.canonical import MAX_GOAL_DEPTH
from ..model.fit import amount, count, shortened_text
from ..model.goals import GOAL_STATUSES
from .blocks import OpenBlocks, SyncOrAsync
from .encode import clean, encode, name_of, settled, words
from .errors import Cancelled
from .journal import Journal

STREAM_S = 0.05  # text becomes an event at most this often: 20 a second
_TRACEBACK_CHARS = 8000
_GOAL_TYPES = ("normal", "agent_call")
P = ParamSpec("P")
R = TypeVar("R")

_open_goals: OpenBlocks[Goal] = OpenBlocks("tracewatch_open_goals")


def current_goal(journal: Journal) -> str | None:
    """The id of the trace's innermost goal that is open in this thread or task, else where the trace was entered."""
    here = (goal.id for goal in reversed(_open_goals.all()) if goal.journal is journal)
    return next(here, None) or journal.entered.innermost()


def belongs_to(goal: Goal | str | EllipsisType | None, journal: Journal) -> dict[str, str | None]:
    """The ``goal_id`` of an event: that of ``goal``; for ``...`` that of the current goal.

    Without a current goal the log may choose, but not while another thread is in a goal: that would be its choice.
    """
    if not isinstance(goal, EllipsisType):
        return {"goal_id": id_of(goal)}
    current = current_goal(journal)
    if current is not None:
        return {"goal_id": current}
    return {"goal_id": journal.entered.shared()} if journal.entered.elsewhere() else {}


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """A function for another thread: what it records belongs to the goals that are open here and now.

    Python hands nothing on to the threads of a pool, so what they record belongs to the innermost goal that is open
    where the trace was entered. ``function``: any callable, also an ``async def``. The result takes and returns the
    same, and may be called often and at the same time.

        with t.goal("Read the files"), ThreadPoolExecutor() as pool:
            texts = list(pool.map(tracewatch.carry(read), paths))
    """
    goals = _open_goals.all()
    if inspect.iscoroutinefunction(function):

        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            with _open_goals.instead(goals):
                return await function(*args, **kwargs)

        return cast("Callable[P, R]", functools.wraps(function)(awaited))

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with _open_goals.instead(goals):
            return function(*args, **kwargs)

    return called


def id_of(goal: Goal | str | None) -> str | None:
    """The id of a goal that is given as itself or by its id."""
    return goal.id if isinstance(goal, Goal) else None if goal is None else name_of(goal)


def stops(error: BaseException) -> bool:
    """Whether an exception stops a run because a user or the program wants that, and not because of a failure."""
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


class Goal(SyncOrAsync):
    """A goal of a trace, as ``t.goal`` and ``t.add_goal`` return it. ``id`` is its id.

    step = t.add_goal("Write the test")
    with step:
        ...
    """

    def __init__(
        self,
        journal: Journal,
        description: str,
        *,
        reason: str | None,
        parent: Goal | str | None,
        after: Goal | str | None,
        id: str | None,
        type: str,
    ) -> None:
        self.journal = journal
        self.id = journal.new_id("g") if id is None else name_of(id)
        self._after = id_of(after)
        # After a sibling, the parent is the sibling's.
        wanted = id_of(parent) or (None if self._after else current_goal(journal))
        self._parent = journal.book.room_below(wanted)
        self._added = False
        self._goal: dict[str, Any] = {"id": self.id, "description": words(description), "type": words(type, 64)}
        self._keep("type", self._goal["type"], _GOAL_TYPES)
        if wanted is not None and self._parent != wanted:
            self._goal["wanted_parent_id"] = wanted
            journal.limited("goal_depth", MAX_GOAL_DEPTH)
        if reason is not None:
            self._goal["reason"] = words(reason)

    def add(self, status: str) -> None:
        """Record the goal with this status, if it is not there yet."""
        status = self._keep("status", words(status, 64), GOAL_STATUSES)  # before the lock is held
        with self.journal.lock:
            if self._added:
                return
            self._added = True
            book = self.journal.book
            parent = self._parent or (book.parent_of(self._after) if self._after else None)
            book.add(self.id, parent, status)
            goal = {**self._goal, "status": status, "parent_id": self._parent, "after_id": self._after}
            self.journal.emit({"event": "goal_added", "goal": {k: v for k, v in goal.items() if v is not None}})

    def _keep(self, key: str, given: str, known: tuple[str, ...]) -> str:
        """The given value, or the first of the known: then the log has the given one under ``refused``."""
        if given in known:
            return given
        self._goal["refused"] = {**self._goal.get("refused", {}), key: given}
        self._goal[key] = known[0]
        return known[0]

    def start(self) -> None:
        """Make the goal in_progress and the current goal of the trace."""
        self.journal.entered.started = self.id
        self._become("in_progress")

    def complete(self, summary: str | None = None) -> None:
        """Make the goal completed. ``summary``: its result in words."""
        self._become("completed", summary)

    def abandon(self, summary: str | None = None) -> None:
        """Make the goal abandoned. ``summary``: the reason in words."""
        self._become("abandoned", summary)

    def update(self, *, description: str | None = None, reason: str | None = None, summary: str | None = None) -> None:
        """Change the goal's texts; those that are None stay as they are."""
        self._patch({"description": description, "reason": reason, "summary": summary})

    def _become(self, status: str, summary: str | None = None) -> None:
        summary = None if summary is None else words(summary)  # before the lock is held
        with self.journal.lock:
            if not self._added:
                self.add("in_progress")
            if status == "completed" and self.journal.book.status_of(self.id) == "pending":
                self._become("in_progress")  # the protocol has no shorter way
            may = self.journal.book.become(self.id, status)
            self._patch({"status": status if may else None, "summary": summary})

    def _patch(self, patch: dict[str, Any]) -> None:
        given = {key: words(value) for key, value in patch.items() if value is not None}
        if given:
            self.journal.emit({"event": "goal_updated", "goal_id": self.id, "patch": given})

    def __enter__(self) -> Self:
        if self._added:
            self._become("in_progress")
        self.add("in_progress")
        self.journal.entered.enter(self.id)
        _open_goals.enter(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        _open_goals.leave(self)
        self.journal.entered.leave(self.id)
        if error is None:
            self._become_at_exit("completed", None)
        else:
            self._become_at_exit(
                "abandoned", words(f"{type(error).__name__}: {words(error_of(error)['message'])}", 1000)
            )

    def _become_at_exit(self, status: str, summary: str | None) -> None:
        if self.journal.book.status_of(self.id) != "abandoned":
            self._become(status, summary)


class Message(SyncOrAsync):
    """A message of a trace, as ``t.message`` returns it. ``id`` is its message_id.

    with t.message("assistant") as m:
        m.stream("It is ")
        m.set(tokens=12, cost=0.001)
    """

    def __init__(
        self, journal: Journal, role: str, goal: Goal | str | EllipsisType | None, values: dict[str, Any]
    ) -> None:
        self.id = journal.new_id("a")
        self._journal = journal
        self._message: dict[str, Any] = {"message_id": self.id, "role": name_of(role)}
        self._message |= belongs_to(goal, journal)
        self._values = _tidy(values)  # they go out with the next event of the message
        self._text: list[str] = []  # streamed text that is not yet an event
        self._half = ""  # of a surrogate pair, at the end of the text that became an event last
        self._told_at = 0.0  # monotonic, of the last event with text
        self._added = False
        self._complete = False

    def add(self, content: Any, status: str = "complete") -> None:
        """Record the message with this content, if it is not there yet."""
        content = settled(content)  # before the lock is held
        with self._journal.lock:
            if self._added:
                return
            self._added, self._complete = True, status == "complete"
            values, self._values = self._values, {}
            message = {**values, **self._message, "content": content, "status": status}
            self._journal.emit({"event": "message_added", "message": message}, own=True)

    def stream(self, text: str) -> None:
        """Append text to the message. It becomes an event at once or within 50 ms."""
        self._journal.check()
        try:
            with self._journal.lock:
                self.add("", "streaming")
                waits = bool(self._text)
                self._text.append(text if isinstance(text, str) else words(text))
                if waits:
                    return
                wait_s = self._told_at + STREAM_S - time.monotonic()
                if wait_s <= 0:
                    self._journal.stream_now(self)
                else:
                    self._journal.stream_later(self, wait_s)
        except Exception as error:
            self._journal.own_fault(error)

    def take_text(self) -> list[bytes]:
        """Take the events of the waiting text; the trace calls this to put them into their place."""
        text, self._text = self._half + "".join(self._text), []
        waits = not self._complete and "\ud800" <= text[-1:] <= "\udbff"  # the other half comes with the next text
        text, self._half = (text[:-1], text[-1]) if waits else (text, "")
        text = clean(text)
        self._told_at = time.monotonic()
        return encode({"event": "message_updated", "message_id": self.id, "append": text}) if text else []

    def set(self, **values: Any) -> None:
        """Set keys of the message: ``tokens`` (a count), ``cost`` (US dollars), ``model``, ``duration_ms`` or your own.

        They are recorded with the end of the message, or at once if it has ended.
        """
        tidy = _tidy(values)
        with self._journal.lock:
            self._values |= tidy
            if self._added and self._complete and self._values:
                self._update({})

    def complete(self) -> None:
        """Make the message complete. The end of its ``with`` block does this by itself."""
        with self._journal.lock:
            self.add("", "streaming")
            if not self._complete:
                self._complete = True
                if self._half:
                    self._journal.stream_now(self)
                self._update({"status": "complete"})

    def _update(self, patch: dict[str, Any]) -> None:
        values, self._values = self._values, {}
        event = {"event": "message_updated", "message_id": self.id, "patch": {**values, **patch}}
        self._journal.emit(event, own=True)

    def __enter__(self) -> Self:
        self.add("", "streaming")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._values["error"] = {k: v for k, v in error_of(error).items() if k != "traceback"}
        self.complete()
        if self._values:
            self.set()


class ToolCall(SyncOrAsync):
    """A tool's call and its result in one message, which is running in between, as ``t.tool_call`` returns it.

    with t.tool_call("grep", {"pattern": "login"}) as call:
        call.result("3 matches")
    """

    def __init__(self, journal: Journal, name: str, arguments: Any, tool_call_id: str | None) -> None:
        values = {} if tool_call_id is None else {"tool_call_id": name_of(tool_call_id)}
        self._message = Message(journal, "tool", ..., values)
        self.id = self._message.id
        self._journal = journal
        self._content: dict[str, Any] = {"tool_name": name_of(name)}
        if arguments is not None:
            self._content["arguments"] = arguments
        self._began = time.perf_counter()

    def result(self, value: Any) -> None:
        """Set the tool's result, any JSON."""
        self._content["result"] = value

    def error(self, value: Any) -> None:
        """Set the tool's error, an exception or any JSON. An exception in the block does this by itself."""
        self._content["error"] = error_of(value)

    def set(self, **values: Any) -> None:
        """Set further keys of the message, as ``Message.set`` does."""
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
    """A message's values, without those of a wrong type, for which the server would refuse the whole message."""
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
            tidy[key] = settled(value)
    return tidy
