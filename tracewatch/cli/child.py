"""A program that a command runs in its own place: the same terminal, the same signals, the same end.

Rule 1: what the terminal sends (Ctrl-C, Ctrl-\\) reaches the program from the terminal, as both are in its foreground;
        what is sent to this process alone is passed on.
Rule 2: this process ends as the program did: with its exit code, or by the signal that ended it.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import FrameType

from .common import CliError

PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)
BY_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
LOOK_S = 0.2


class NoProgram(CliError):
    """There is no such program. The exit code is a shell's."""

    exit_code = 127


class NotExecutable(CliError):
    """The program can't be run. The exit code is a shell's."""

    exit_code = 126


def run_child(command: Sequence[str], environ: Mapping[str, str], meanwhile: Callable[[], object]) -> int:
    """Run a program to its end; its exit code, or minus the number of the signal that ended it.

    ``meanwhile`` is called several times a second. Raises NoProgram, NotExecutable.
    """
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        if number in BY_TERMINAL and _in_foreground():
            return
        if child is None:
            early.append(number)
        else:
            with suppress(ProcessLookupError):
                child.send_signal(number)

    with ExitStack() as stack:
        for number in PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it: the program ignores it as well
                stack.callback(signal.signal, number, signal.signal(number, pass_on))
        try:
            child = subprocess.Popen(list(command), env=dict(environ))
        except FileNotFoundError as error:
            raise NoProgram(f"{command[0]}: no such program") from error
        except OSError as error:
            raise NotExecutable(f"{command[0]}: {error.strerror}") from error
        for one in early:
            child.send_signal(one)
        while True:
            try:
                return child.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                meanwhile()


def _in_foreground() -> bool:
    """Whether Ctrl-C on our terminal reaches this process, and so the program."""
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            return os.tcgetpgrp(descriptor) == os.getpgrp()
    return False


def end_as(code: int) -> int:
    """The exit code to end with after a program ended with ``code``; if a signal ended it, that ends this process."""
    if code >= 0:
        return code
    number = -code
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program has left its own
    with suppress(ValueError, OSError):
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return 128 + number
