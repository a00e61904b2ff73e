"""Being asked to stop: ``t.cancelled``, and the scope that raises ``Cancelled``.

Rule 1: a cancel is a request. Nothing ends the agent's code but a scope that the agent has opened itself.
Rule 2: in a task a scope does what ``asyncio.timeout`` does: it cancels the task and turns the CancelledError that
        comes out into ``Cancelled``, unless somebody else has cancelled the task as well.
Rule 3: elsewhere the next call of the recorder raises, once in each scope, so that ``finally`` can record.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Self

from .blocks import OpenBlocks, SyncOrAsync
from .control import Control
from .errors import Cancelled

_scopes: OpenBlocks[CancelScope] = OpenBlocks("tracewatch_cancel_scopes")


def cancelled_error(control: Control) -> Cancelled:
    """The exception that says who wants the run to stop, and why."""
    control.seen = True
    cancel = control.cancel or {}
    return Cancelled(cancel.get("reason"), cancel.get("by"))


class Cancellation:
    """Whether somebody wants the run to stop, and why: what ``t.cancelled`` gives.

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
        """Why, if somebody said so."""
        return (self._control.cancel or {}).get("reason")

    @property
    def by(self) -> str | None:
        """Who wants it, if that was said."""
        return (self._control.cancel or {}).get("by")

    def wait_sync(self, timeout_s: float | None = None) -> bool:
        """Wait for a cancel, at most ``timeout_s`` seconds; whether it has come. The ``sleep`` of a run that can be
        stopped: ``if t.cancelled.wait_sync(60): return``.
        """
        return bool(self._control.wait_for(lambda: True if self else None, timeout_s))

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
        self._cancelling = 0  # how often others had cancelled the task before
        self._sent = False  # we have cancelled it
        self._raised = False  # a recorder's call has raised
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
            # Callbacks run while the task stands at an await, which is then where it ends
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            pass  # the loop is closed

    def _cancel(self) -> None:
        if self._task is not None and not (self._over or self._sent or self._raised):
            self._sent = True
            self._task.cancel()

    def check(self) -> None:
        """A call of the recorder. Raises Cancelled, the first time after the cancel."""
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
    """What every call of the recorder does first. Raises Cancelled in a scope of a cancelled trace."""
    if control.cancel is not None:
        for scope in _scopes.all():
            if scope._control is control:
                scope.check()
