"""Short lives: processes that do one thing until they are killed: ``python -m tests.crash.lives``, told lines on stdin.

A line is JSON: ``{"lives": [[mode, FILE, OTHER], …], "after_ms": 40, "acks": FILE}``. Each life is a fork of this
process (so that two hundred cost less than as many starts of Python); after that time all get SIGKILL. The answer is
a line: how many of them were killed rather than through. What was acknowledged is appended to the file ``acks``, a line
by one system call each, as tests/crash/writer.py writes them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash import writer
from tracewatch.log import Policy, open_log
from tracewatch.log.sqlite.backup import backup
from tracewatch.log.sqlite.restore import restore_file

KEEP_EVENTS = 600  # the least that leaves something to trim: snapshots are 500 events apart


def append(path: str, name: str) -> None:
    """Append for ever."""
    asyncio.run(writer.main(path, name))


def trim(path: str, _: str) -> None:
    """Trim again and again."""

    async def run() -> None:
        log = await open_log(path)
        while True:
            await log.prune(Policy(keep_events=KEEP_EVENTS))

    asyncio.run(run())


def migrate(path: str, _: str) -> None:
    """Bring a file up to date and close it."""

    async def run() -> None:
        await (await open_log(path)).close()

    asyncio.run(run())


def copy(path: str, other: str) -> None:
    """Make backups, one over the other."""
    while True:
        backup(Path(path), Path(other), replace=True)


def restore(path: str, other: str) -> None:
    """Put a backup in place of the log."""
    restore_file(Path(other), Path(path), replace=True)


MODES: dict[str, Callable[[str, str], None]] = {one.__name__: one for one in (append, trim, migrate, copy, restore)}


def begin(mode: str, path: str, other: str, acks: str) -> int:
    """Fork one life; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 1)
        MODES[mode](path, other)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Live and die as told."""
    for line in sys.stdin:
        order = json.loads(line)
        pids = [begin(mode, path, other, order["acks"]) for mode, path, other in order["lives"]]
        time.sleep(order["after_ms"] / 1000)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)  # one that is through is a zombie until it is waited for
        ends = [os.waitpid(pid, 0)[1] for pid in pids]
        if any(os.WIFEXITED(end) and os.WEXITSTATUS(end) for end in ends):
            os.write(1, b"failed\n")
        else:
            os.write(1, b"%d\n" % sum(map(os.WIFSIGNALED, ends)))


if __name__ == "__main__":
    main()
