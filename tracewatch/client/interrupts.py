"""Exceptions that come from outside into the middle of the recorder's code, and belong to the agent.

A signal handler runs between any two steps of the main thread and may raise there: a timeout by SIGALRM does. Another
thread may set an exception in this one (``PyThreadState_SetAsyncExc``), as some packages for timeouts do.

Rule: such an exception reaches the agent. What the recorder itself fails at never does.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any

_PACKAGE = str(Path(__file__).parents[1])
_OURS = frozenset({"builtins", "orjson", "tracewatch", *sys.stdlib_module_names})


def of_agent(error: BaseException) -> bool:
    """Whether an exception was raised by a signal handler, or set by another thread."""
    if not isinstance(error, Exception):
        return True
    if error.__traceback__ is None:
        return False
    codes = _codes(error.__traceback__)
    if not set(codes).isdisjoint(_handlers()):
        return True
    # No line of ours raises an exception of a foreign class: another thread has set it.
    return codes[-1].co_filename.startswith(_PACKAGE) and type(error).__module__.partition(".")[0] not in _OURS


def pass_on(error: BaseException) -> None:
    """Raise an exception that is the agent's: for handlers of OSError, as TimeoutError is one."""
    if of_agent(error):
        raise error


def by_handler(error: BaseException) -> bool:
    """Whether an exception was raised by a signal handler; KeyboardInterrupt may always be."""
    return isinstance(error, KeyboardInterrupt) or not set(_codes(error.__traceback__)).isdisjoint(_handlers())


def _codes(frames: TracebackType | None) -> list[CodeType]:
    codes = []
    while frames is not None:
        codes.append(frames.tb_frame.f_code)
        frames = frames.tb_next
    return codes


def _handlers() -> set[CodeType]:
    """The code of all signal handlers that are set now."""
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()}
    return {code for code in handlers if code is not None}


def _code(handler: Any) -> CodeType | None:
    for _ in range(5):  # a method of an object, a partial of a method …
        handler = getattr(handler, "func", getattr(handler, "__func__", handler))
        if hasattr(handler, "__code__"):
            break
        handler = getattr(type(handler), "__call__", None)  # noqa: B004
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
