"""Recording an agent's run: ``with tracewatch.trace("Fix the login bug") as t: …``.

Rule 1: nothing here raises into the agent, waits for the network or the disk, or changes what the agent does. The
        exceptions: an address in ``trace(url=…)`` that is none is refused at once; what the agent asks for, a
        ``cancel_scope`` and ``ask``; and the outermost ``with``, which at its end gives the server a moment.
Rule 2: an exception of the agent's passes through every ``with`` and is told of on its way.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from types import EllipsisType
from typing import Any
from urllib.parse import quote, urlsplit

from ..model import fit
from ..model.canonical import ENDED, MAX_SUB_TRACE_DEPTH
from ..model.mend import event_name
from ..settings import Settings
from .attachment import attachment
from .blocks import RecordedBlock, current_step, here, open_traces, trio_here
from .call import ModelCall
from .cancel import Cancellation, CancelScope, cancelled_error
from .control import Control
from .encode import clean, encode, guarded, name_of, number_of, seconds_of, settled, text_of, words
from .errors import Cancelled
from .fields import changes_of, new_trace_id, spec_of, trace_id_of
from .handles import Goal, Message, ToolCall, current_goal, error_of, id_of, stops
from .journal import Journal, Step, setting
from .outbox import Outbox
from .questions import Questions
from .sender import SENDERS, Sender
from .steps import RunStep, Turn
from .target import recorder_settings
from .terminal import TerminalQuestion

__all__ = ["Goal", "Message", "ModelCall", "ToolCall", "Trace", "current", "resume", "trace"]


class Trace(RecordedBlock):
    """The recording of one run of one agent. ``tracewatch.trace``, ``resume`` and ``sub_trace`` return it.

    A trace is used with ``with`` or ``async with``: entering creates the trace, leaving ends it. Every method may be
    called from any thread and any task, and returns at once. No argument makes a method raise: values that JSON can't
    hold become text, and too large ones are shortened with a marker. The docstring of a method that waits or raises
    says so.

        with tracewatch.trace("Fix the login bug") as t:
            t.message("user", "It fails since Monday")
    """

    def __init__(
        self,
        spec: dict[str, Any],
        sender: Sender,
        settings: Settings,
        after: tuple[Outbox, int] | None = None,
        *,
        fresh: bool = False,  # nobody else can have said anything in it
        above: Trace | None = None,  # of a sub-trace: the trace that it stands below
    ) -> None:
        self.trace_id: str = spec["trace_id"]
        self.url = settings.url
        self._sender = sender
        self._settings = settings
        self._outbox = Outbox(spec, shelf=sender.shelf, after=after, control=Control(primed=fresh))
        self._journal = Journal(self._outbox, sender, (self.url, settings.spool_dir or "memory"))
        self._questions = Questions(self._journal)
        self._above = above
        self.summary: str | None = None  # that the end of its block gives it, if it completes the trace
        self._told = False  # where its page is
        self._level: int = 1 if above is None else above._level + 1

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
        **extra: Any,
    ) -> Goal:
        """A goal for a ``with`` block: it is in_progress within, completed at its end, or abandoned by an exception.

        ``parent``: a goal or its id; by default the innermost goal that is open here. ``after``: the sibling before it.
        ``id``: 1-256 characters; without one the recorder makes one. ``type``: normal or agent_call. ``extra``: keys of
        your own, any JSON, which are small: each state of the trace holds them.

            with t.goal("Find the cause"):
                ...
        """
        self._journal.check()
        given: dict[str, Any] = {"reason": reason, "parent": parent, "after": after, "id": id, "type": type}
        return Goal(self._journal, description, **given, extra=extra)

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
        **extra: Any,
    ) -> Goal:
        """Add a goal at once, as part of a plan, and ``start()``, ``complete()`` or ``abandon()`` it later.

        ``status``: pending, in_progress, completed or abandoned. The other arguments are those of ``goal``.

            plan = [t.add_goal(step) for step in ("Read", "Write", "Test")]
        """
        self._journal.check()
        given: dict[str, Any] = {"reason": reason, "parent": parent, "after": after, "id": id, "type": type}
        goal = Goal(self._journal, description, **given, extra=extra)
        status = words(status, 64)
        goal.add(status)
        if status == "in_progress":
            self._journal.entered.started = goal.id
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
        usage: dict[str, int] | None = None,
        started_at: datetime | float | str | None = None,
        ended_at: datetime | float | str | None = None,
        **extra: Any,
    ) -> Message:
        """A message. With ``content`` (any JSON) it is recorded at once, complete. Without, it begins with the ``with``
        block or the first ``stream(text)``.

        ``goal``: a goal or its id; by default the innermost goal open here, None: none of them. ``tokens``: a count.
        ``cost``: US dollars. ``usage``: the parts of the tokens, as ``Message.usage`` takes them. ``started_at``,
        ``ended_at``: an aware datetime, Unix seconds or RFC 3339 text, for what did not happen just now. ``extra``:
        other keys of the protocol's message (``agent``, ``duration_ms``, …) or your own.

            t.message("user", "Release 1.4, please")
            with t.message("assistant", model="m-1") as m:
                m.stream("It is ")
        """
        self._journal.check()
        own: dict[str, Any] = {"tokens": tokens, "cost": cost, "model": model, "usage": usage}
        own |= {"started_at": started_at, "ended_at": ended_at}
        message = Message(self._journal, role, goal, {**extra, **own})
        if content is not None:
            message.add(content)
        return message

    def llm(
        self,
        model: str,
        messages: Any = None,
        *,
        system: Any = None,
        params: dict[str, Any] | None = None,
        tools: list[Any] | None = None,
        goal: Goal | str | EllipsisType | None = ...,
        **extra: Any,
    ) -> ModelCall:
        """A call of a model for a ``with`` block: the message that is its answer, and what it was asked.

        ``messages``: what the model is sent, as its API takes it: OpenAI's chat messages or Responses items,
        Anthropic's messages, Gemini's contents, or a text. ``system``: a system prompt that is given apart from them;
        it stands first in the stored input. ``params``: temperature and the like. ``tools``: the tools offered, as the
        API takes them. ``goal`` and ``extra`` are those of ``message``.

        In the block ``stream(text)`` or ``answer(content)`` gives the answer, ``usage(input_tokens=…, …)`` what it
        used. A message that the trace does not have yet is recorded before the call; what it has is named and not
        stored again, so a long conversation may be given whole each time. All of ``messages`` is read in each call,
        which takes some milliseconds for each megabyte.

            with t.llm("claude-sonnet-4-5", messages=history, params={"max_tokens": 1000}, tools=tools) as m:
                for text in stream:
                    m.stream(text)
                m.usage(input_tokens=1200, output_tokens=300)
        """
        self._journal.check()
        return ModelCall(self._journal, model, goal, (messages, system, params, tools), extra)

    def tool_call(self, name: str, arguments: Any = None, *, tool_call_id: str | None = None) -> ToolCall:
        """A tool's call for a ``with`` block, in which ``.result(value)`` or ``.error(value)`` gives its outcome.

        ``arguments``: any JSON. ``tool_call_id``: the model's own id of the call, 1-256 characters.

            with t.tool_call("grep", {"pattern": "login"}) as call:
                call.result("3 matches")
        """
        self._journal.check()
        return ToolCall(self._journal, name, arguments, tool_call_id)

    def step(
        self,
        name: str,
        *,
        kind: str = "span",
        goal: Goal | str | EllipsisType | None = ...,
        input: Any = None,
    ) -> RunStep:
        """A step for a ``with`` block: what is neither goal nor message, such as a node of a graph or a retry.

        What is recorded within the block, in this thread or task, stands in it. An exception fails the step. ``name``,
        ``kind``: 1-256 characters. ``goal``: a goal or its id; by default the innermost goal open here. ``input``: any
        JSON, of which the beginning is shown; ``step.output(value)`` sets what came out.

            with t.step("plan", kind="node", input={"n": 1}) as step:
                step.output("done")
        """
        self._journal.check()
        return RunStep(self._journal, name, kind, goal, input)

    def turn(self, name: str = "turn") -> Turn:
        """A turn of a session with a user, for a ``with`` block: within it the trace is running, behind it idle.

        Idle is neither completed nor waiting for an answer: it is the user's move. ``name``: 1-256 characters.

            while (asked := input("> ")):
                with t.turn():
                    t.message("user", asked)
        """
        self._journal.check()
        return Turn(self._journal, name, "turn", ..., None)

    def event(self, name: str, /, **payload: Any) -> None:
        """Record an event of another kind, which is stored and shown as it is.

        ``name``: 1-64 of ``a-z 0-9 _ .``, beginning with a letter; another one is made so, and kept as
        ``original_event``. ``payload``: any JSON, or exceptions, which become ``{type, message, traceback}``.

            t.event("thought", text="hm")
        """
        self._journal.check()
        given = words(name, 1000)
        own = event_name(given)
        said = {clean(key): settled(error_of(value), self._journal.keep) for key, value in payload.items()}
        renamed = {} if own == given else {"original_event": given}
        self._journal.emit({**said, "event": own} | renamed, own=True)

    def attach(
        self,
        content: bytes | str | os.PathLike[str],
        media_type: str | None = None,
        *,
        name: str | None = None,
        goal: Goal | str | EllipsisType | None = ...,
        **extra: Any,
    ) -> dict[str, Any]:
        """Attach bytes, or a file, to the run: a message of role ``attachment``, whose content is stored once.

        ``content``: the bytes, or the path of a file, which is read now. ``media_type``: such as ``image/png``; by
        default by the name of the file or by how the bytes begin. ``name``: to save it under, by default the file's.
        ``goal`` and ``extra`` are as for ``message``. Returns the reference, which may stand in other messages as well.
        Above 32 MiB, and where it can't be read, there are words instead.

            t.attach("report.pdf")
            t.message("user", ["What is this?", t.attach(png, "image/png")])
        """
        self._journal.check()
        made = attachment(content, media_type, name, self._journal.keep)
        message = Message(self._journal, "attachment", goal, {"description": made.description, **extra})
        message.add(made.content)
        return made.content if isinstance(made.content, dict) else {"text": made.content}

    def set(
        self,
        *,
        task: str | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        session_id: str | EllipsisType | None = ...,
        user_id: str | EllipsisType | None = ...,
        started_at: datetime | float | str | None = None,
    ) -> None:
        """Change what the trace is called and belongs to, at any time: the event ``trace_updated``.

        ``task``: 1-10,000 characters. ``tags``: all of them, at most 64 of 1-128 characters; ``[]`` takes them away.
        ``metadata``: keys that are added to those that are there. ``session_id``, ``user_id``: 1-256 characters; None
        takes it away. ``started_at``: when the run began, an aware datetime, Unix seconds or RFC 3339 text, where that
        is not the time of its first event. What is not given stays as it is.

            t.set(tags=["nightly", "gpu"], metadata={"commit": "4f2a"})
        """
        self._journal.check()
        changes = changes_of(task, tags, metadata, session_id, user_id, started_at)
        if changes:
            self._journal.emit({"event": "trace_updated", **changes})

    def link(self, to: Trace | str, kind: str, *, message: Message | ToolCall | str | None = None) -> None:
        """Say what this run has to do with another one, which need not be there yet.

        ``to``: a trace or its id. ``kind``: 1-256 characters, such as handoff, retry_of, fork_of or mcp. ``message``:
        the message of the other trace that is meant, or its id.

            t.link(previous_trace_id, "retry_of")
        """
        self._journal.check()
        other = trace_id_of(guarded(lambda: getattr(to, "trace_id", to), to)) or "?"
        link = {"trace_id": other, "kind": name_of(kind)}
        if message is not None:
            link["message_id"] = name_of(guarded(lambda: getattr(message, "id", message), message))
        if other != "?":
            self._journal.emit({"event": "trace_updated", "links": [link]})

    def status(self, status: str, reason: str | None = None) -> None:
        """Change the trace's status: to running, waiting or idle, or to completed, failed or stopped, which end it.

        t.status("waiting", "for the build")
        """
        status, said = words(status, 64), {} if reason is None else {"reason": words(reason)}
        ended = status in ENDED
        changes = setting(self._journal, over=ended), setting(self._outbox, ended=ended)
        self._journal.emit({"event": "trace_status_changed", "status": status, **said}, *changes)

    def complete(self, summary: str | None = None) -> None:
        """End the trace as completed. The end of its ``with`` block does this by itself.

        t.complete("The cookie is fixed.")
        """
        self._end("completed", summary)

    def fail(self, error: Any, summary: str | None = None) -> None:
        """End the trace as failed. ``error``: an exception, or any JSON. An exception in its block does this by itself.

        t.fail("no access to the repository")
        """
        self._end("failed", summary, error=error_of(error))

    def stop(self, summary: str | None = None) -> None:
        """End the trace as stopped: its run ends early because a user wanted that. A cancel does this by itself."""
        self._end("stopped", summary)

    def _end(self, status: str, summary: str | None, **more: Any) -> None:
        said = {} if summary is None else {"summary": words(summary)}
        self._journal.end({"event": "trace_completed", "status": status, **said, **more})

    def sub_trace(
        self,
        task: str,
        *,
        agent_type: str = "agent",
        trace_id: str | None = None,
        goal: Goal | str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Trace:
        """The trace of a sub-agent's run, shown below ``goal`` (by default the innermost goal that is open here).

        It is cancelled along with this trace, and recorded over the same connection. The other arguments are those of
        ``tracewatch.trace``.

            with t.sub_trace("Write a test", agent_type="tester") as child:
                ...
        """
        self._journal.check()
        goal_id = id_of(goal) or current_goal(self._journal)
        above = self
        if self._above is not None and self._level >= MAX_SUB_TRACE_DEPTH:
            above, goal_id = self._above, self._outbox.spec.get("parent_goal_id")
        spec = spec_of(task, agent_type, trace_id, above.trace_id, goal_id, metadata, self._outbox.spec.get("lease_s"))
        if above is self and (step_id := current_step(self._journal)) is not None:
            spec["parent_step_id"] = step_id
        above._journal.flush_streams()
        after = (above._outbox, above._outbox.next_seq - 1)
        child = Trace(spec, self._sender, self._settings, after, fresh=trace_id is None, above=above)
        self._outbox.control.link(child._outbox.control)
        if above is not self:
            spec["metadata"] = {**spec.get("metadata", {}), "wanted_parent_trace_id": self.trace_id}
            child._journal.limited("sub_trace_depth", MAX_SUB_TRACE_DEPTH)
        child._journal.begin()
        return child

    # --- getting it there ---

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything recorded so far is in the log, for at most ``timeout_s`` seconds.

        Returns whether it is. Events that are not there yet go on being sent in the background.

            if not t.flush(10):
                print(t.pending, "events are still on their way")
        """
        self._journal.flush_streams()
        seq = self._outbox.next_seq - 1
        return self._outbox.wait_acked(seq, None if timeout_s is None else seconds_of(timeout_s, 5.0))

    async def aflush(self, timeout_s: float = 5.0) -> bool:
        """As ``flush``, without holding up the event loop: asyncio's or trio's."""
        trio = trio_here()
        if trio is not None:
            return bool(await trio.to_thread.run_sync(self.flush, timeout_s, abandon_on_cancel=True))
        return await asyncio.to_thread(self.flush, timeout_s)

    @property
    def pending(self) -> int:
        """The number of recorded events that are not yet in the log."""
        return self._outbox.pending

    @property
    def dropped(self) -> int:
        """The number of events that were dropped because there was no room for them, neither in memory nor on disk."""
        return self._outbox.dropped

    @property
    def page_url(self) -> str | None:
        """The address of the run's page in the viewer; None for a run that is recorded into a file.

        print(f"see {t.page_url}")
        """
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https"):
            return None
        host = parts.netloc.rpartition("@")[2]  # without a password
        return f"{parts.scheme}://{host}{parts.path.rstrip('/')}/traces/{quote(self.trace_id, safe=':@')}"

    def _tell_page(self) -> None:
        """Print the page's address, once for a run, where a person sees it."""
        if self._told or self._above is not None or self._settings.quiet:
            return
        self._told = True

        def tell() -> None:
            if self.page_url is not None and sys.stderr.isatty():
                sys.stderr.write(f"watch: {self.page_url}\n")

        guarded(tell, None)  # stderr may be the agent's own code, or none

    # --- cancelled ---

    @property
    def cancelled(self) -> Cancellation:
        """Whether the run was cancelled: ``if t.cancelled:``, or ``await t.cancelled.wait()``."""
        if not self._journal.begun:
            self._journal.begin()
        return Cancellation(self._outbox.control)

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled if the run was cancelled."""
        if self.cancelled:
            raise cancelled_error(self._outbox.control)

    def cancel_scope(self) -> CancelScope:
        """A block, ``with`` or ``async with``, in which a cancel of the run raises ``Cancelled``.

        A task gets it at its next ``await``, as with ``asyncio.timeout``; other code when it next records something or
        calls ``raise_if_cancelled``. If the agent does not catch it, its trace ends as stopped.

            async with t.cancel_scope():
                await work()
        """
        self._journal.begin()
        return CancelScope(self._outbox.control)

    def on_cancel(self, callback: Callable[[], Any]) -> Callable[[], None]:
        """Call ``callback()`` once when the run is cancelled, in a thread of its own.

        Where no thread can start it is called in the recorder's, and so should be quick.
        If it was cancelled already, the callback is called here and now. An exception of the callback is logged.
        Returns a function that removes the callback.

            forget = t.on_cancel(process.terminate)
        """
        self._journal.begin()
        return self._outbox.control.on_cancel(callback)

    # --- ask ---

    def ask(
        self,
        question: str,
        *,
        options: list[Any] | None = None,
        schema: Any = None,
        goal: Goal | str | EllipsisType | None = ...,
        request_id: str | None = None,
        expires_in_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Ask the users who watch the run, and wait for the answer. In asyncio use ``aask``.

        ``options``: the possible answers, any JSON. ``schema``: a JSON Schema for the answer, or a pydantic model
        class, of which an instance is returned. Without both the answer is any JSON. ``goal``: a goal or its id; by
        default the innermost goal that is open here. ``request_id``: an id for the question, 1-256 characters.
        ``expires_in_s``: the question's life in seconds, counted by the server. ``timeout_s``: the longest wait here,
        in seconds.

        The question is in the log and survives every restart. An agent that was restarted (``tracewatch.resume``) asks
        the same again, with the same ``request_id`` or without one with the same text. It gets the question that is
        still open, or the answer given meanwhile.

        Returns the answer. Raises Expired after ``expires_in_s``, Cancelled, NotRunning if the trace was ended by
        another client, InvalidValue if a model refuses the answer, ApiError if the server refuses the question, and
        TimeoutError after ``timeout_s``; the question stays open then.

            if t.ask("Deploy?", options=["yes", "no"], expires_in_s=600) == "yes":
                deploy()
        """
        asked = self._questions.question(question, options, schema, goal, request_id, expires_in_s)
        self._journal.begin()
        return self._questions.ask(asked, seconds_of(timeout_s))

    async def aask(
        self,
        question: str,
        *,
        options: list[Any] | None = None,
        schema: Any = None,
        goal: Goal | str | EllipsisType | None = ...,
        request_id: str | None = None,
        expires_in_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """As ``ask``, in a task: other tasks go on while it waits.

        answer = await t.aask("Deploy?", options=["yes", "no"])
        """
        asked = self._questions.question(question, options, schema, goal, request_id, expires_in_s)
        self._journal.begin()
        return await self._questions.aask(asked, seconds_of(timeout_s))

    def asked_at_terminal(
        self,
        question: str,
        *,
        options: list[Any] | None = None,
        goal: Goal | str | EllipsisType | None = ...,
        request_id: str | None = None,
    ) -> TerminalQuestion:
        """Tell those who watch of a question that the agent asks at its own terminal; this waits for nothing.

        They see it, and can't answer it. ``.answered(value)`` closes it. ``options``: the possible answers. ``goal``:
        as for ``ask``. ``request_id``: 1-256 characters; one that was asked already is not asked again.

            asked = t.asked_at_terminal("Delete build/?", options=["yes", "no"])
            asked.answered(input("Delete build/? "))
        """
        self._journal.check()
        return TerminalQuestion(self._journal, question, options, goal, request_id)

    # --- the block ---

    def _enter(self) -> None:
        self._journal.entered.home = here()
        self._journal.begin()
        open_traces.enter(self)
        self._tell_page()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if self._lingers(error) and here()[1] is None:  # the other tasks of this thread's loop must not wait
            until = time.monotonic() + self._settings.linger_s
            while (left := until - time.monotonic()) > 0 and (going := self._sender.on_the_way(self._outbox)):
                going[0].wait_acked(going[0].next_seq - 1, min(left, 0.05))  # it may turn out to be in vain meanwhile
            if time.monotonic() >= until:
                self._sender.waited_in_vain()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if self._lingers(error):
            until = time.monotonic() + self._settings.linger_s
            while time.monotonic() < until and self._sender.on_the_way(self._outbox):
                await _sleep(0.01)
            if time.monotonic() >= until:
                self._sender.waited_in_vain()

    def _lingers(self, error: BaseException | None) -> bool:
        """Whether the block waits for the server at its end: the outermost one, unless somebody wants it to stop."""
        return not open_traces.all() and self._process == os.getpid() and (error is None or not stops(error))

    def _leave_in_child(self, error: BaseException | None) -> None:
        open_traces.leave(self)

    def _leave(self, error: BaseException | None) -> None:
        open_traces.leave(self)
        if self._journal.over:
            return
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            control = self._outbox.control
            # An agent that has seen the cancel and leaves has done what it was asked to; one that has not is complete.
            if control.cancel is not None and control.seen:
                self.stop(words(str(cancelled_error(control)), 1000))
            else:
                self.complete(self.summary)
        elif stops(error):
            self.stop(words(str(error) if isinstance(error, Cancelled) else text_of(error), 1000))
        else:
            self.fail(error)


def current() -> Trace | None:
    """The innermost trace whose block is open in this thread or task; None outside of all.

    A thread that was started within a block is outside, unless it runs what ``tracewatch.carry`` has made.

        t = tracewatch.current()
        if t is not None:
            t.message("user", "seen from a library")
    """
    return next(reversed(open_traces.all()), None)


async def _sleep(seconds: float) -> None:
    """Sleep in asyncio or trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is not None:
            await trio.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


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
    session_id: str | None = None,
    user_id: str | None = None,
    tags: list[str] | None = None,
) -> Trace:
    """Record a run of an agent, in a ``with`` or ``async with`` block.

        with tracewatch.trace("Fix the login bug", agent_type="coder") as t:
            t.message("user", "It fails since Monday")

    Entering the block creates the trace. Leaving it ends the trace: as completed, as failed with the exception, or as
    stopped after a cancel. Nothing in it waits for the server: each event is on disk when its call returns, is sent in
    the background, and leaves the disk when the server has it. The end of the outermost block waits for that, while
    the server is there, for at most ``TRACEWATCH_LINGER_S``. Only a ``with`` in a running loop waits for nothing: there
    use ``async with``.

    ``task``: the purpose of the run, 1-10,000 characters. ``agent_type``: the kind of agent, 1-256 characters.
    ``trace_id``: 1-128 of ``A-Z a-z 0-9 . _ : @ -``; without one the recorder makes one. ``parent_trace_id``,
    ``parent_goal_id``: the trace and goal that the run is part of, if another process records them (in the same one
    use ``sub_trace``). ``metadata``: a JSON object. ``url``: a server, or ``sqlite:///file.db``; None takes
    ``TRACEWATCH_URL``, else loopback. ``lease_s``: the trace is lost after so many seconds without a sign of life;
    None: never. ``spool_dir``: the folder for events that the server does not have yet; None takes
    ``TRACEWATCH_SPOOL_DIR``. ``token``: None takes ``TRACEWATCH_TOKEN``. ``session_id``, ``user_id``: the conversation
    and the user that the run belongs to, 1-256 characters each. ``tags``: at most 64 of 1-128 characters. Lists of
    traces filter by these three; ``Trace.set`` changes them later.

    Raises InvalidField for a ``url``, ``spool_dir`` or ``token`` given here that can't be used. A variable of the
    environment that can't be used is logged once, and its default is taken. Nothing is raised later.
    """
    settings = recorder_settings(url, spool_dir, token)
    belongs = {"session_id": session_id, "user_id": user_id, "tags": tags}
    spec = spec_of(task, agent_type, trace_id, parent_trace_id, parent_goal_id, metadata, lease_s, **belongs)
    return Trace(spec, SENDERS.get(settings), settings, fresh=trace_id is None)


def resume(
    trace_id: str,
    *,
    url: str | None = None,
    lease_s: float | None = 30,
    spool_dir: str | None = None,
    token: str | None = None,
) -> Trace:
    """Go on recording a run that another process began.

        with tracewatch.resume(trace_id) as t:
            answer = t.ask("Deploy?")

    The trace is running again, whatever its status was. Only a stopped one stays stopped, and the agent finds itself
    cancelled. An open question is still open: ``t.ask`` the same again to get it, or the answer given meanwhile.

    ``lease_s``: the time between signs of life in seconds; the lease itself is the one that the trace was created with.
    The other arguments are those of ``trace``. Raises InvalidField as ``trace`` does. Nothing is raised later.
    """
    settings = recorder_settings(url, spool_dir, token)
    spec = {"trace_id": trace_id_of(trace_id) or new_trace_id(), "resume": True}
    seconds = min(number_of(fit.amount, math.inf, lease_s) or 0, 86_400)
    resumed = Trace(spec | ({"lease_s": seconds} if seconds else {}), SENDERS.get(settings), settings)
    step = Step(encode({"event": "trace_status_changed", "status": "running", "reason": "resumed"}))
    resumed._journal.put(lambda: step)
    return resumed
