"""Running a coroutine that prints, so that whatever ends it ends it between two events.

Rule: Ctrl-C, SIGTERM and a reader of our output that leaves all cancel the coroutine; its ``finally`` runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
End = Callable[[BaseException], None]


def run_to_the_end(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that prints. SIGTERM and a reader that leaves end it as Ctrl-C does: between two events."""
    ended_by: list[BaseException] = []

    async def guarded() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(reason: BaseException) -> None:
            ended_by.append(reason)
            task.cancel()

        loop.add_signal_handler(signal.SIGTERM, end, SystemExit(128 + signal.SIGTERM))
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
    """Notice that `head` has left although there is nothing to write: the pipe's write end reports an error."""
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
