"""Cancels in the agent: ``t.cancelled``, and the scope that raises ``Cancelled``.

Rule 1: a cancel is a request. Only a scope that the agent has opened itself ends the agent's code.
Rule 2: in a task a scope works like ``asyncio.timeout``: it cancels the task and turns the CancelledError into
        ``Cancelled``, unless other code has cancelled the task as well.
Rule 3: in other code the next call of the recorder raises, once in each scope, so that ``finally`` can record.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Self

from .blocks import OpenBlocks, SyncOrAsync
from .control import Control
from .encode import seconds_of
from .errors import Cancelled
from .uncaught import end_in_a_line

_scopes: OpenBlocks[CancelScope] = OpenBlocks("tracewatch_cancel_scopes")


def cancelled_error(control: Control) -> Cancelled:
    """The Cancelled with the reason and the name of a cancel."""
    control.seen = True
    end_in_a_line()
    cancel = control.cancel or {}
    return Cancelled(cancel.get("reason"), cancel.get("by"))


class Cancellation:
    """Whether the run was cancelled, and the cancel's reason and name, as ``t.cancelled`` returns it.

    if t.cancelled:
        print(t.cancelled.reason, t.cancelled.by)
    """

    def __init__(self, control: Control) -> None:
        self._control = control

    def __bool__(self) -> bool:
        cancelled = self._control.cancel is not None
        if cancelled:
            self._control.seen = True
        return cancelled

    def __repr__(self) -> str:
        return f"<cancelled: {self._control.cancel is not None}>"

    @property
    def reason(self) -> str | None:
        """The reason given with the cancel, or None."""
        return (self._control.cancel or {}).get("reason")

    @property
    def by(self) -> str | None:
        """The name given with the cancel, or None."""
        return (self._control.cancel or {}).get("by")

    def wait_sync(self, timeout_s: float | None = None) -> bool:
        """Wait for a cancel, for at most ``timeout_s`` seconds (None: for ever). Returns whether it has come.

        A run that can be stopped sleeps with it:

            if t.cancelled.wait_sync(60):
                return
        """
        return bool(self._control.wait_for(lambda: True if self else None, seconds_of(timeout_s)))

    async def wait(self) -> None:
        """Wait for a cancel, in a task."""
        await self._control.await_for(lambda: True if self else None)


class CancelScope(SyncOrAsync):
    """A block in which a cancel of the run raises ``Cancelled``, as ``t.cancel_scope()`` returns it."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._thread = 0
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cancelling = 0  # the number of cancels of the task from other code, at the beginning
        self._sent = False  # whether we have cancelled the task
        self._raised = False  # whether a call of the recorder has raised
        self._over = False

    def __enter__(self) -> Self:
        if self._control.cancel is not None:
            raise cancelled_error(self._control)
        self._thread = threading.get_ident()
        try:
            self._task = asyncio.current_task()
        except RuntimeError:
            self._task = None
        _scopes.enter(self)
        if self._task is not None:
            self._loop, self._cancelling = asyncio.get_running_loop(), self._task.cancelling()
            self._control.listen(self, self._changed)
        return self

    def _changed(self) -> None:
        if self._control.cancel is None or self._loop is None:
            return
        try:
            # Callbacks run while the task stands at an await, so it ends there
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            pass  # the loop is closed

    def _cancel(self) -> None:
        if self._task is not None and not (self._over or self._sent or self._raised):
            self._sent = True
            self._task.cancel()

    def check(self) -> None:
        """Check for a cancel at a call of the recorder. Raises Cancelled at the first call after it."""
        if self._over or self._sent or self._raised or self._thread != threading.get_ident():
            return
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if task is self._task:
            self._raised = True
            raise cancelled_error(self._control)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._over = True
        _scopes.leave(self)
        if self._task is None:
            return
        self._control.unlisten(self)
        if self._sent and self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise cancelled_error(self._control) from error


def check_scopes(control: Control) -> None:
    """Check for a cancel, before every call of the recorder. Raises Cancelled in a scope of a cancelled trace."""
    if control.cancel is not None:
        for scope in _scopes.all():
            if scope._control is control:
                scope.check()
