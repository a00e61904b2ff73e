"""The commands for a running agent: cancels, and answers to its questions. No I/O.

The background thread puts the commands of the log into a ``Control``. The agent's threads and tasks look at it, or wait
for a change.

Rule 1: a command that comes twice changes nothing, because every connection begins with all commands of the log.
Rule 2: a cancel is never taken back, and a closed question stays as it was closed.
Rule 3: no callback is called while the lock is held.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .blocks import trio_here

T = TypeVar("T")
TRIO_LOOK_S = 1.0  # a thread that waits for a task of trio ends within this time
CLOSED = frozenset({"answered", "expired", "closed"})

_log = logging.getLogger("tracewatch")


@dataclass(frozen=True, slots=True)
class Told:
    """The commands of a trace in the log. An input is ``{request_id, state, value?, by?, expires_at? …}``."""

    cancel: dict[str, Any] | None = None  # {reason, by} of a cancel that is not yet acknowledged
    inputs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of_event(cls, event: dict[str, Any]) -> Told | None:
        """The command in an event; None for other events."""
        name = event.get("event")
        if name == "cancel_requested":
            return cls(cancel={"reason": event.get("reason"), "by": event.get("by")})
        if name == "input_provided":
            given = {key: event.get(key) for key in ("request_id", "value", "by")}
            return cls(inputs=[{**given, "state": "answered"}])
        if name == "input_expired":
            return cls(inputs=[{"request_id": event.get("request_id"), "state": "expired"}])
        return None


class Control:
    """The commands for one trace that this process knows."""

    def __init__(self, *, primed: bool = False) -> None:
        self.cancel: dict[str, Any] | None = None  # {reason, by}
        self.seen = False  # whether the agent knows of the cancel
        self.primed = primed  # whether the log's commands are known, or there can't be any yet
        self.inputs: dict[str, dict[str, Any]] = {}
        self.waiting: dict[str, int] = {}  # request_id → number of calls that wait for its end
        self.unclear: set[str] = set()  # questions whose state the background thread has to ask for
        self._below: weakref.WeakSet[Control] = weakref.WeakSet()  # of sub-traces, which are cancelled with this one
        self._listeners: dict[object, Callable[[], None]] = {}  # called after each change
        self._callbacks: list[Callable[[], Any]] = []  # of the agent, called once at a cancel
        self._locks()

    def _locks(self) -> None:
        self._lock = threading.RLock()
        # Entered as _lock: its own __enter__ is Python, and a signal handler that raises in it would leave it taken
        self._changed = threading.Condition(self._lock)

    def after_fork(self) -> None:
        """Prepare for use in a forked child: known commands stay, no call waits, and the log has to be asked anew."""
        self._locks()
        self._listeners.clear()
        self.waiting.clear()
        self.primed = False

    # --- from the background thread ---

    def told(self, told: Told, *, whole: bool = False) -> None:
        """Take commands of the log. ``whole``: all of them, at the beginning of a connection."""
        with self._lock:
            for one in told.inputs:
                self._note(one)
            self.primed = self.primed or whole
        if told.cancel is not None:
            self.cancelled_by(told.cancel)
        self._notify()

    def _note(self, given: dict[str, Any]) -> None:
        request_id = str(given["request_id"])
        known = self.inputs.get(request_id, {})
        if known.get("state") in CLOSED and "value" not in given:
            return
        self.inputs[request_id] = given
        if given["state"] == "answered" and "value" not in given:
            self.unclear.add(request_id)  # too large for a first frame
        else:
            self.unclear.discard(request_id)

    def cancelled_by(self, cancel: dict[str, Any]) -> None:
        """Take a cancel."""
        with self._lock:
            if self.cancel is not None:
                return
            self.cancel = {"reason": cancel.get("reason"), "by": cancel.get("by")}
            callbacks, self._callbacks = self._callbacks, []
            below = list(self._below)
            self.seen = self.seen or bool(callbacks)
        self._notify()
        for control in below:
            control.cancelled_by(self.cancel)
        if callbacks:
            try:
                threading.Thread(target=self._call, args=(callbacks,), name="tracewatch cancel", daemon=True).start()
            except RuntimeError:
                self._call(callbacks)  # the system lets no thread start: late events are better than a run that goes on

    @staticmethod
    def _call(callbacks: Iterable[Callable[[], Any]]) -> None:
        for callback in callbacks:
            try:
                callback()
            except Exception:
                _log.exception("tracewatch: a function given to on_cancel has failed")

    def look_again(self, request_ids: Iterable[str] | None = None) -> None:
        """Have the states of these questions asked for; by default of those that a call waits for."""
        with self._lock:
            self.unclear.update(self.waiting if request_ids is None else request_ids)

    def refused(self, request_id: str, code: str, message: str) -> None:
        """Note that the log refuses this question."""
        with self._lock:
            self.inputs[request_id] = {"request_id": request_id, "state": "refused", "code": code, "message": message}
        self._notify()

    def lost(self, request_id: str) -> None:
        """Note that the log does not have this question any more. The agent that waits for it asks it again."""
        with self._lock:
            if self.inputs.get(request_id, {}).get("state") in ("asked", "open"):
                self.inputs[request_id] = {"request_id": request_id, "state": "lost"}
        self._notify()

    def _notify(self) -> None:
        with self._lock:
            self._changed.notify_all()
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener()

    # --- from the agent ---

    def link(self, below: Control) -> None:
        """Link the control of a sub-trace, which is cancelled along with this one."""
        with self._lock:
            self._below.add(below)
            cancel = self.cancel
        if cancel is not None:
            below.cancelled_by(cancel)

    def on_cancel(self, callback: Callable[[], Any]) -> Callable[[], None]:
        """Call ``callback`` once at a cancel, or now if it has come. Returns a function that removes the callback."""
        with self._lock:
            late = self.cancel is not None
            if not late:
                self._callbacks.append(callback)
        if late:
            self.seen = True
            self._call([callback])

        def forget() -> None:
            with self._lock:
                # By identity: a comparison may be code of the agent's
                self._callbacks = [one for one in self._callbacks if one is not callback]

        return forget

    def listen(self, key: object, listener: Callable[[], None]) -> None:
        """Call ``listener``, which must be quick, after each change and now."""
        with self._lock:
            self._listeners[key] = listener
        listener()

    def unlisten(self, key: object) -> None:
        """Remove a listener."""
        with self._lock:
            self._listeners.pop(key, None)

    def wait_for(self, outcome: Callable[[], T | None], timeout_s: float | None = None) -> T | None:
        """Wait until ``outcome()`` is something, and return that; None after ``timeout_s``."""
        with self._lock:
            return self._changed.wait_for(outcome, timeout_s)

    async def await_for(self, outcome: Callable[[], T | None], timeout_s: float | None = None) -> T | None:
        """As ``wait_for``, in a task of asyncio or trio."""
        trio = trio_here()
        if trio is not None:
            return await self._await_in_trio(trio, outcome, timeout_s)
        loop, changed, key = asyncio.get_running_loop(), asyncio.Event(), object()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:
                pass  # the loop is closed, so no task waits any more

        self.listen(key, wake)
        end = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            async with asyncio.timeout(None if end is None else max(end - time.monotonic(), 0)):
                while True:
                    changed.clear()  # before the look, because a change in between would be lost otherwise
                    with self._lock:
                        found = outcome()
                    if found is not None:
                        return found
                    await changed.wait()
        except TimeoutError:
            return None
        finally:
            self.unlisten(key)

    async def _await_in_trio(self, trio: Any, outcome: Callable[[], T | None], timeout_s: float | None) -> T | None:
        # In a thread, for short times: a thread that waits on for a task that was cancelled ends soon as well.
        end = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = max(0.0, min(end - time.monotonic(), TRIO_LOOK_S))
            found: T | None = await trio.to_thread.run_sync(self.wait_for, outcome, left, abandon_on_cancel=True)
            if found is not None or time.monotonic() >= end:
                return found
