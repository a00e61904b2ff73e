"""Signals, and a closed output pipe: a command ends in order, whatever ends it.

Rule: Ctrl-C, the signals that end a process and a closed output pipe take the same way out: the ``finally`` of what is
      running runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
End = Callable[[BaseException], None]


def run_to_the_end(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that prints. A closed pipe, SIGTERM, SIGHUP and SIGQUIT (Ctrl-\\) cancel it as Ctrl-C does.

    Returns the coroutine's result. Raises KeyboardInterrupt, SystemExit or BrokenPipeError, by what has ended it.
    """
    ended_by: list[BaseException] = []

    async def guarded() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(reason: BaseException) -> None:
            ended_by.append(reason)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, end, SystemExit(128 + number))
        watched = _watch_reader(loop, end)
        try:
            return await main
        finally:
            if watched is not None:
                loop.remove_reader(watched)

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise (ended_by[0] if ended_by else KeyboardInterrupt) from None


def _watch_reader(loop: asyncio.AbstractEventLoop, end: End) -> int | None:
    """Call ``end`` when the reader of our pipe (such as `head`) exits, even while there is nothing to write.

    The write end of a pipe becomes readable then. Returns its descriptor, or None where stdout is no pipe.
    """
    try:
        descriptor = sys.stdout.fileno()
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return None

        def left() -> None:
            loop.remove_reader(descriptor)
            end(BrokenPipeError())

        loop.add_reader(descriptor, left)
    except (OSError, ValueError):
        return None
    return descriptor


@contextmanager
def on_terminal(*, suspend: Callable[[], object], look: Callable[[], object]) -> Iterator[None]:
    """Within the block, and the running event loop: ``suspend`` before Ctrl-Z stops us; ``look`` at each new size of
    the terminal, and when we go on (``fg``).
    """
    loop = asyncio.get_running_loop()

    def stop() -> None:
        suspend()
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)  # and here we go on
        loop.add_signal_handler(signal.SIGTSTP, stop)

    handlers = {signal.SIGTSTP: stop, signal.SIGCONT: look, signal.SIGWINCH: look}
    kept = [number for number in handlers if signal.getsignal(number) != signal.SIG_IGN]
    for number in kept:
        loop.add_signal_handler(number, handlers[number])
    try:
        yield
    finally:
        for number in kept:
            loop.remove_signal_handler(number)


def in_foreground() -> bool:
    """Whether what we write to the terminal is not in the midst of what another program shows there."""
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except OSError:
        return True  # no terminal that has a foreground


@contextmanager
def as_interrupt(number: int) -> Iterator[None]:
    """Treat a signal as Ctrl-C within the block: it raises KeyboardInterrupt. Only the main thread can do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def unwind_on_signals(stack: ExitStack) -> None:
    """Make SIGTERM and SIGHUP leave through ``stack``, as Ctrl-C does, until the stack is left."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        stack.callback(signal.signal, number, signal.signal(number, leave))
