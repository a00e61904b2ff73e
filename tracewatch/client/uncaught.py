"""The end of a program or a thread by a cancel that nobody catches: one line, as for Ctrl-C, and no traceback.

Rule 1: hooks are set when a cancel is first raised, and pass on all that is no cancel.
Rule 2: the program ends only where Python itself is about to end it. Where other code has called the hook (a console, a
        notebook, a program that has Python in it) the line is all.
"""

from __future__ import annotations

import inspect
import sys
import threading
from types import TracebackType
from typing import Any

from .encode import guarded
from .errors import Cancelled

EXIT_CANCELLED = 130  # of a program that a person has stopped: 128 + SIGINT, as shells have it
_MARK = "of_tracewatch"  # of a hook that is ours


def end_in_a_line() -> None:
    """Have a cancel that nobody catches end the program, or its thread, with one line."""
    if not hasattr(sys.excepthook, _MARK):
        sys.excepthook = _program_hook(sys.excepthook)
    if not hasattr(threading.excepthook, _MARK):
        threading.excepthook = _thread_hook(threading.excepthook)


def _program_hook(above: Any) -> Any:
    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cancel = _only_cancel(error)
        if cancel is None:
            above(kind, error, trace)
            return
        _tell(str(cancel))
        if _is_the_end():
            raise SystemExit(EXIT_CANCELLED)

    setattr(hook, _MARK, True)
    return hook


def _thread_hook(above: Any) -> Any:
    def hook(args: Any) -> None:
        cancel = _only_cancel(args.exc_value)
        if cancel is None:
            above(args)
        else:
            _tell(f"{args.thread.name}: {cancel}" if args.thread is not None else str(cancel))

    setattr(hook, _MARK, True)
    return hook


def _is_the_end() -> bool:
    """Whether the hook's caller is Python itself, which has left the script."""
    if sys.flags.interactive or hasattr(sys, "ps1") or not sys.orig_argv:  # without arguments: within another program
        return False
    here = inspect.currentframe()
    hook = None if here is None else here.f_back
    return hook is not None and hook.f_back is None  # above the hook there is no code


def _tell(cancel: str) -> None:
    line = "".join(char if char.isprintable() else " " for char in cancel)  # its words are another user's
    guarded(lambda: sys.stderr.write(f"tracewatch: {line}\n"), None)  # stderr may be none


def _only_cancel(error: BaseException | None) -> Cancelled | None:
    """The cancel, if an exception is that, or a group of cancels alone."""
    while isinstance(error, BaseExceptionGroup) and error.split(Cancelled)[1] is None:
        error = error.exceptions[0]
    return error if isinstance(error, Cancelled) else None
