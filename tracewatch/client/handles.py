"""What a trace gives out: goals, messages and tool calls, each usable with ``with`` and with ``async with``.

Rule: no method raises because of what it is given; a second end of something is ignored.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import EllipsisType
from typing import Any, ParamSpec, Self, TypeVar, cast

from ..model.canonical import MAX_GOAL_DEPTH
from ..model.contents import Keep
from ..model.fit import MESSAGE_CHARS, amount, count, shortened_text
from ..model.goals import GOAL_STATUSES
from ..model.usage import PARTS
from .blocks import OpenBlocks, RecordedBlock, current_step, open_steps, open_traces, trio_here
from .book import Change
from .conversation import WAITING_CHARS, new_sum
from .encode import clean, encode, guarded, is_brief, moment_of, name_of, number_of, settled, type_name, words
from .errors import Cancelled
from .journal import Journal, Step, setting

STREAM_S = 0.05  # text becomes an event at most this often: 20 a second
_TRACEBACK_CHARS = 8000
_CHAIN = 50  # exceptions, each the cause of the one before, or side by side in a group
_GOAL_TYPES = ("normal", "agent_call")
_OF_GOALS = frozenset(  # keys of a goal that are no arguments of their own
    {"id", "parent_id", "after_id", "status", "summary", "refused", "wanted_parent_id", "self_stats"}
    | {"cumulative_stats", "sub_trace_ids", "started_at", "ended_at"}
)
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
    if goal is not ...:
        return {"goal_id": id_of(goal)}
    if not (_open_goals.all() or journal.entered):
        return {}
    current = current_goal(journal)
    if current is not None:
        return {"goal_id": current}
    return {"goal_id": journal.entered.shared()} if journal.entered.elsewhere() else {}


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """A function for another thread: what it records belongs to the goals and the trace that are open here and now.

    Python hands nothing on to the threads of a pool, so what they record belongs to the innermost goal that is open
    where the trace was entered. ``function``: any callable, also an ``async def``. The result takes and returns the
    same, and may be called often and at the same time.

        with t.goal("Read the files"), ThreadPoolExecutor() as pool:
            texts = list(pool.map(tracewatch.carry(read), paths))
    """
    opened = opened_here()
    if inspect.iscoroutinefunction(function):

        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            with opened():
                return await function(*args, **kwargs)

        return cast("Callable[P, R]", functools.wraps(function)(awaited))

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with opened():
            return function(*args, **kwargs)

    return called


def opened_here() -> Callable[[], AbstractContextManager[None]]:
    """Take along the goals, steps and traces that are open here and now; the result opens them for a while."""
    goals, traces, steps = _open_goals.all(), open_traces.all(), open_steps.all()

    @contextmanager
    def opened() -> Iterator[None]:
        with _open_goals.instead(goals), open_traces.instead(traces), open_steps.instead(steps):
            yield

    return opened


def leave_here(block: Any) -> None:
    """Leave a goal or a trace only in so far as what is recorded here is no longer part of it."""
    _open_goals.leave(block)
    open_traces.leave(block)


def id_of(goal: Goal | str | None) -> str | None:
    """The id of a goal that is given as itself or by its id."""
    if goal is None:
        return None
    return cast(Goal, goal).id if issubclass(type(goal), Goal) else name_of(goal)


def stops(error: BaseException) -> bool:
    """Whether an exception stops a run because a user or the program wants that, and not because of a failure."""
    kinds: tuple[type[BaseException], ...] = (Cancelled, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit)
    trio = trio_here()
    if trio is not None:
        kinds = (*kinds, trio.Cancelled)
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        elif not isinstance(one, kinds):
            return False
    return True


def error_of(error: Any) -> Any:
    """An exception as ``{type, message, traceback}``; anything else as it is."""
    if not issubclass(type(error), BaseException):
        return error
    raised = cast(BaseException, error)
    brief = _is_brief(raised)
    message = guarded(lambda: str(raised), "<an exception whose str raises>") if brief else words(raised.args)
    lines = guarded(lambda: "".join(traceback.format_exception(raised) if brief else _frames(raised)), "")
    half = _TRACEBACK_CHARS // 2
    if len(lines) > 2 * half:
        lines = f"{shortened_text(lines[:-half], half)}\n{lines[-half:]}"
    return {"type": type_name(error), "message": words(message, 4000), "traceback": clean(lines)}


def _is_brief(error: BaseException) -> bool:
    """Whether an exception can be written in bounded time, with those that it comes from."""
    one: BaseException | None = error
    for _ in range(_CHAIN):
        if one is None:
            return True
        if not all(map(is_brief, one.args)) or (isinstance(one, BaseExceptionGroup) and not _are_few(one)):
            return False
        one = one.__cause__ or one.__context__
    return False


def _are_few(group: BaseExceptionGroup[Any]) -> bool:
    """Whether a group has few exceptions and no groups of groups of groups."""
    level: list[BaseException] = [group]
    for _ in range(4):
        level = [one for above in level if isinstance(above, BaseExceptionGroup) for one in above.exceptions[:_CHAIN]]
        if not level:
            return True
    return False


def _frames(error: BaseException) -> list[str]:
    return traceback.format_tb(error.__traceback__)


class Goal(RecordedBlock):
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
        extra: dict[str, Any],
    ) -> None:
        self.journal = journal
        self.id = journal.new_id("g") if id is None else name_of(id)
        self._after = id_of(after)
        # After a sibling, the parent is the sibling's.
        wanted = id_of(parent) or (None if self._after else current_goal(journal))
        self._parent = journal.book.room_below(wanted)
        self._added = False
        self.apart = False  # threads and tasks without a goal never belong to it
        own: dict[str, Any] = {"id": self.id, "description": words(description), "type": words(type, 64)}
        kept = {key: settled(value) for key, value in extra.items() if value is not None and key not in _OF_GOALS}
        self._goal = kept | own
        self._keep("type", self._goal["type"], _GOAL_TYPES)
        if wanted is not None and self._parent != wanted:
            self._goal["wanted_parent_id"] = wanted
            journal.limited("goal_depth", MAX_GOAL_DEPTH)
        if reason is not None:
            self._goal["reason"] = words(reason)
        if (step_id := current_step(journal)) is not None:
            self._goal["step_id"] = step_id

    def add(self, status: str) -> None:
        """Record the goal with this status, if it is not there yet."""
        status = self._keep("status", words(status, 64), GOAL_STATUSES)
        self.journal.record(lambda: self._adding(status))

    def _adding(self, status: str) -> Step | None:
        if self._added:
            return None
        book = self.journal.book
        parent = self._parent or (book.parent_of(self._after) if self._after else None)
        goal = {**self._goal, "status": status, "parent_id": self._parent, "after_id": self._after}
        event = {"event": "goal_added", "goal": {k: v for k, v in goal.items() if v is not None}}
        return Step(encode(event, own=True), [setting(self, _added=True), *book.adding(self.id, parent, status)])

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
        given = {"description": description, "reason": reason, "summary": summary}
        patch = {key: None if value is None else words(value) for key, value in given.items()}
        self.journal.record(lambda: self._patch(patch))

    def _become(self, status: str, summary: str | None = None) -> None:
        summary = None if summary is None else words(summary)
        if not self._added:
            self.add("in_progress")
        if status == "completed" and self.journal.book.status_of(self.id) == "pending":
            self._become("in_progress")  # the protocol has no shorter way
        self.journal.record(lambda: self._becoming(status, summary))

    def _becoming(self, status: str, summary: str | None) -> Step | None:
        changes = self.journal.book.becoming(self.id, status)
        patch = {"status": None if changes is None else status, "summary": summary}
        return self._patch(patch, changes or [])

    def _patch(self, patch: dict[str, str | None], changes: Sequence[Change] = ()) -> Step | None:
        given = {key: value for key, value in patch.items() if value is not None}
        event = {"event": "goal_updated", "goal_id": self.id, "patch": given}
        return Step(encode(event, own=True), changes) if given else None

    def _enter(self) -> None:
        if self._added:
            self._become("in_progress")
        self.add("in_progress")
        self.journal.entered.enter(self.id, apart=self.apart)
        _open_goals.enter(self)

    def _leave(self, error: BaseException | None) -> None:
        self._leave_in_child(error)
        if error is None:
            self._become_at_exit("completed", None)
        else:
            said = f"{type_name(error)}: {words(error_of(error)['message'])}"
            self._become_at_exit("abandoned", words(said, 1000))

    def _leave_in_child(self, error: BaseException | None) -> None:
        _open_goals.leave(self)
        self.journal.entered.leave(self.id)

    def _become_at_exit(self, status: str, summary: str | None) -> None:
        if self.journal.book.status_of(self.id) != "abandoned":
            self._become(status, summary)


class Message(RecordedBlock):
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
        if (step_id := current_step(journal)) is not None:
            self._message["step_id"] = step_id
        self._values = _tidy(values, journal.keep)  # they go out with the next event of the message
        self._text: list[str] = []  # streamed text that is not yet an event
        self._sum: Any = None  # what all streamed text that is an event is known by
        self._half = ""  # of a surrogate pair, at the end of the text that became an event last
        self._told_at = 0.0  # monotonic, of the last event with text
        self._added = False
        self._complete = False

    def add(self, content: Any, status: str = "complete") -> None:
        """Record the message with this content, if it is not there yet."""
        given, again = content, self._added
        content = settled(content, self._journal.keep)
        self._journal.record(lambda: self._adding(content, status))
        known = self._journal.conversation
        if type(given) is not str:
            given = content
        if again:
            return
        if status != "complete":
            self._sum = new_sum(given) if given and type(given) is str else None
        elif type(given) is str and len(given) < WAITING_CHARS:
            known.heard((self.id, self._message["role"], given))
        else:
            known.note(self.id, self._message["role"], given)

    def _adding(self, content: Any, status: str) -> Step | None:
        if self._added:
            return None
        event = {
            "event": "message_added",
            "message": {**self._values, **self._message, "content": content, "status": status},
        }
        changes = [setting(self, _added=True, _complete=status == "complete", _values={})]
        if "tool_call_id" in self._values:
            changes.append((self._journal.conversation.note_tool_call, (self.id, self._values["tool_call_id"])))
        return Step(encode(event, own=True), changes)

    def stream(self, text: str) -> None:
        """Append text to the message. It becomes an event at once or within 50 ms."""
        self._journal.check()
        try:
            text = text if type(text) is str and len(text) <= MESSAGE_CHARS else words(text, MESSAGE_CHARS)
            if not self._added:
                self.add("", "streaming")
            with self._journal.lock:
                self._journal.streams(self)
                waits = bool(self._text)
                self._text.append(text)
                if self._told_at + STREAM_S > time.monotonic():  # else it becomes an event at once
                    self._journal.hold_text(self.id, text)
        except Exception as error:
            self._journal.own_fault(error)
            return
        wait_s = self._told_at + STREAM_S - time.monotonic()
        if wait_s <= 0:
            self._journal.flush_streams()
        elif not waits:
            self._journal.flush_later(wait_s)

    def text_step(self, last: bool) -> Step:
        """The events of the waiting text; the journal calls this to put them into their place."""
        text = shortened_text(self._half + "".join(self._text), MESSAGE_CHARS)
        waits = (
            not (last or self._complete) and "\ud800" <= text[-1:] <= "\udbff"
        )  # the other half comes with the next text
        text, half = (text[:-1], text[-1]) if waits else (text, "")
        text = clean(text)
        append = {"event": "message_updated", "message_id": self.id, "append": text}
        known_by = new_sum() if self._sum is None else self._sum.copy()
        known_by.update(text.encode("utf-8", "replace"))
        change = setting(self, _text=[], _half=half, _told_at=time.monotonic(), _sum=known_by)
        return Step(encode(append, own=True) if text else [], (change,))

    def forget_text(self) -> None:
        """Forget the waiting text, which another process records."""
        self._text, self._half = [], ""

    def set(self, **values: Any) -> None:
        """Set keys of the message: ``tokens`` (a count), ``cost`` (US dollars), ``model``, ``duration_ms`` or your own.

        ``usage``: a dict as ``usage`` takes it. ``started_at``, ``ended_at``: an aware datetime, Unix seconds or text.

        They are recorded with the end of the message, or at once if it has ended.
        """
        tidy = _tidy(values, self._journal.keep)
        with self._journal.lock:
            self._journal.settle()
            self._values = {**self._values, **tidy}
        if self._added and self._complete:
            self._journal.record(lambda: self._updating({}))

    def usage(self, **parts: int) -> None:
        """Set what the model call used: counts of tokens, each of them optional.

        ``input_tokens``, ``output_tokens``: all that went in and came out. ``cache_read_tokens``,
        ``cache_write_tokens``: the parts of the input that a cache had, and that it took. ``reasoning_tokens``: a part
        of the output. The names mean what OpenTelemetry's GenAI conventions say. Without ``tokens`` the message's total
        is input and output.

            m.usage(input_tokens=1200, output_tokens=300, cache_read_tokens=1000)
        """
        self.set(usage=parts)

    def start(self) -> Self:
        """Begin the message, as its ``with`` block does, where a callback begins it and another one ends it.

        m = t.message("assistant").start()
        """
        self._enter()
        return self

    def end(self, *, error: Any = None) -> None:
        """End the message that ``start`` began. ``error``: an exception or any JSON, if it failed.

        m.end(error=exc)
        """
        if error is not None:
            self.set(error=error)
        self.complete()

    def complete(self) -> None:
        """Make the message complete. The end of its ``with`` block does this by itself."""
        if not self._added:
            self.add("", "streaming")
        self._journal.record(self._completing)

    def _completing(self) -> Step | None:
        if self._complete:
            return None
        return self._updating({"status": "complete"}, _complete=True)

    def _note(self, patch: dict[str, Any], changed: bool) -> None:
        """Take note of what the message says, now that it is complete; called once more if it was interrupted.

        ``changed``: it was complete before.
        """
        known, role = self._journal.conversation, self._message["role"]
        if "content" in patch:
            if changed:
                known.unlearn(self.id)
            known.note(self.id, role, patch["content"])
        elif self._sum is not None:
            known.note(self.id, role, self._sum.digest())

    def _updating(self, patch: dict[str, Any], **more: Any) -> Step | None:
        patch = {**self._values, **patch}
        if not patch:
            return None
        event = {"event": "message_updated", "message_id": self.id, "patch": patch}
        changes = [setting(self, _values={}, **more)]
        if more or self._complete:
            changes.append((self._note, (patch, self._complete)))
        return Step(encode(event, own=True), changes, last_of=self if more else None)

    def _enter(self) -> None:
        self.add("", "streaming")

    def _leave(self, error: BaseException | None) -> None:
        if error is not None:
            self.set(error={k: v for k, v in error_of(error).items() if k != "traceback"})
        self.complete()

    def _leave_in_child(self, error: BaseException | None) -> None:
        self._journal.flush_streams()


class ToolCall(RecordedBlock):
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
        self._started = self._ended = False

    def result(self, value: Any) -> None:
        """Set the tool's result, any JSON."""
        self._content["result"] = value

    def error(self, value: Any) -> None:
        """Set the tool's error, an exception or any JSON. An exception in the block does this by itself."""
        self._content["error"] = error_of(value)

    def start(self) -> Self:
        """Begin the call, as its ``with`` block does, where a callback begins it and another one ends it.

        calls[run_id] = t.tool_call("grep", {"pattern": "login"}).start()
        """
        if not self._started:
            self._enter()
        return self

    def end(self, result: Any = ..., *, error: Any = None) -> None:
        """End the call that ``start`` began. ``result``: any JSON. ``error``: an exception or any JSON, if it failed.

        calls.pop(run_id).end("3 matches")
        """
        if self._ended:
            return
        if result is not ...:
            self.result(result)
        if error is not None:
            self.error(error)
        self.start()
        self._leave(None)

    def set(self, **values: Any) -> None:
        """Set further keys of the message, as ``Message.set`` does."""
        self._message.set(**values)

    def _enter(self) -> None:
        self._began = time.perf_counter()
        self._message.add(dict(self._content), "running")
        self._started = True

    def _leave(self, error: BaseException | None) -> None:
        if error is not None:
            self._content["error"] = {k: v for k, v in error_of(error).items() if k != "traceback"}
        duration_ms = round((time.perf_counter() - self._began) * 1000, 3)
        self._message.set(content=self._content, duration_ms=duration_ms)
        self._message.complete()
        self._ended = True


_NUMBERS: dict[str, tuple[Callable[[Any, int], float | None], int]] = {
    "tokens": (count, 10**9),
    "parent_sequence": (count, 2**53 - 1),
    "cost": (amount, 10**9),
    "duration_ms": (amount, 2**53),
}


def _tidy(values: dict[str, Any], keep: Keep) -> dict[str, Any]:
    """A message's values, without those of a wrong type, for which the server would refuse the whole message.

    ``keep``: for what is big or binary in them.
    """
    tidy: dict[str, Any] = {}
    for key, given in values.items():
        value = error_of(given)
        if value is None or key in ("message_id", "role", "sequence", "goal_id", "step_id"):
            continue
        if key in _NUMBERS:
            value = number_of(*_NUMBERS[key], value)
        elif key == "usage":
            value = _usage(value)
        elif key in ("started_at", "ended_at"):
            value = moment_of(value)
        elif key in ("model", "agent", "description"):
            value = words(value, 4000)
        elif key == "tool_call_id":
            value = name_of(value)
        elif key == "status":
            value = words(value, 64)
            value = value if value in ("streaming", "running", "complete") else None
        else:
            value = settled(value, keep)
        if value is not None:
            tidy[key] = value
    return tidy


def _usage(given: Any) -> dict[str, Any] | None:
    """The parts of a usage that are counts, and what else it says."""
    told = settled(given)
    if type(told) is not dict:
        return None
    counted = {key: number_of(count, 10**9, value) if key in PARTS else value for key, value in told.items()}
    return {key: value for key, value in counted.items() if value is not None} or None
