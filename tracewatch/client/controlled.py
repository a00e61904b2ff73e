"""The part of a trace that others can act upon: it can be cancelled, and it can ask.

Rule: waiting for a person is the one thing here that blocks, because the agent asked for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import EllipsisType
from typing import Any

from ..errors import NotRunning
from .asking import Asker, Question, answer_of
from .cancel import Cancellation, CancelScope, cancelled_error, check_scopes
from .handles import Both, Goal, current_goal, id_of
from .outbox import Outbox


class Controlled(Both):
    """What ``Trace`` inherits."""

    trace_id: str
    _outbox: Outbox
    _over: bool
    _asker: Asker
    _begun: bool

    def emit(self, event: dict[str, Any]) -> None:
        """See Trace.emit."""
        raise NotImplementedError

    def _begin(self) -> None:
        raise NotImplementedError

    # --- cancelled ---

    @property
    def cancelled(self) -> Cancellation:
        """Whether somebody wants the run to stop: ``if t.cancelled:``, ``await t.cancelled.wait()``."""
        if not self._begun:
            self._begin()
        return Cancellation(self._outbox.control)

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled if somebody wants the run to stop."""
        if self.cancelled:
            raise cancelled_error(self._outbox.control)

    def cancel_scope(self) -> CancelScope:
        """A block that ends with ``Cancelled`` when somebody wants the run to stop; ``with`` or ``async with``.

        In a task at its next ``await``, as with ``asyncio.timeout``; in other code when it next records something (or
        calls ``raise_if_cancelled``). An agent that lets it pass ends its trace as stopped.
        """
        self._begin()
        return CancelScope(self._outbox.control)

    def on_cancel(self, callback: Callable[[], Any]) -> Callable[[], None]:
        """Call ``callback()`` once when somebody wants the run to stop, in a thread of its own; here and now if that
        has happened already. The result takes it back. What the callback raises is logged.
        """
        self._begin()
        return self._outbox.control.on_cancel(callback)

    def check(self) -> None:
        """A call of the recorder: raises Cancelled within a ``cancel_scope``, and nowhere else."""
        check_scopes(self._outbox.control)

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
        """Ask whoever watches, and wait for the answer: one of ``options`` or a value for ``schema`` (JSON Schema, or a
        pydantic model class, of which an instance is returned); any JSON if neither is given.

        The question is in the log: it survives every restart. An agent that was restarted (``tracewatch.resume``) asks
        the same again, by the same ``request_id`` or without one by the same text, and gets the question that is open
        or the answer given meanwhile.

        Raises Expired after ``expires_in_s`` (counted by the server), Cancelled, NotRunning when the trace was ended by
        somebody else, InvalidValue when a model refuses the answer, ApiError when the server refuses the question, and
        TimeoutError after ``timeout_s`` of waiting here; the question then stays open. In asyncio: ``aask``.
        """
        asked = self._question(question, options, schema, goal, request_id, expires_in_s)
        control, end = self._outbox.control, None if timeout_s is None else time.monotonic() + timeout_s

        def left() -> float | None:
            return None if end is None else end - time.monotonic()

        if control.wait_for(self._may_ask, left()) is None:
            raise TimeoutError(f"{self._outbox.trace_id}: no server to ask")
        self._ask(asked)
        try:
            while True:
                outcome = control.wait_for(lambda: self._asker.outcome(asked), left())
                if not self._lost(asked, outcome):
                    break
        finally:
            self._asked(asked)
        if outcome is None:
            raise TimeoutError(f"no answer after {timeout_s:g} s: {asked.event['question'][:200]}")
        return answer_of(asked, outcome)

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
        """As ``ask``, in a task."""
        asked = self._question(question, options, schema, goal, request_id, expires_in_s)
        control, end = self._outbox.control, None if timeout_s is None else time.monotonic() + timeout_s

        def left() -> float | None:
            return None if end is None else end - time.monotonic()

        if await control.await_for(self._may_ask, left()) is None:
            raise TimeoutError(f"{self._outbox.trace_id}: no server to ask")
        self._ask(asked)
        try:
            while True:
                outcome = await control.await_for(lambda: self._asker.outcome(asked), left())
                if not self._lost(asked, outcome):
                    break
        finally:
            self._asked(asked)
        if outcome is None:
            raise TimeoutError(f"no answer after {timeout_s:g} s: {asked.event['question'][:200]}")
        return answer_of(asked, outcome)

    def _question(
        self,
        question: Any,
        options: Any,
        schema: Any,
        goal: Goal | str | EllipsisType | None,
        request_id: Any,
        expires_in_s: Any,
    ) -> Question:
        self.raise_if_cancelled()
        if self._over:
            raise NotRunning(f"trace {self.trace_id!r} has ended: nobody would be asked", trace_id=self.trace_id)
        goal_id = current_goal(self) if isinstance(goal, EllipsisType) else id_of(goal)
        return Question.of(question, options, schema, goal_id, request_id, expires_in_s)

    def _may_ask(self) -> bool | None:
        """Whether it is known what was asked before. Raises Cancelled."""
        control = self._outbox.control
        if control.cancel is not None:
            raise cancelled_error(control)
        return True if control.primed else None

    def _ask(self, question: Question) -> None:
        control = self._outbox.control
        with self._outbox.lock:
            new = self._asker.choose(question)
            request_id = question.request_id or ""
            control.waiting[request_id] = control.waiting.get(request_id, 0) + 1
            if new:
                self.emit({**question.event, "request_id": request_id})
        self._begin()  # an answer that is known without its value has to be asked for

    def _lost(self, question: Question, outcome: dict[str, Any] | None) -> bool:
        """Ask again what the log has lost; False for any other outcome."""
        if outcome is None or outcome["state"] != "lost":
            return False
        with self._outbox.lock:
            if self._asker.ask_again(question):
                self.emit({**question.event, "request_id": question.request_id})
        return True

    def _asked(self, question: Question) -> None:
        with self._outbox.lock:
            waiting, request_id = self._outbox.control.waiting, question.request_id or ""
            if waiting.get(request_id, 0) > 1:
                waiting[request_id] -= 1
            else:
                waiting.pop(request_id, None)
