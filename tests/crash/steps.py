"""Processes that kill themselves at a chosen SQL statement: ``python -m tests.crash.steps FOLDER open|append``.

The n-th child works on ``FOLDER/<n>.db`` and dies by SIGKILL right before its n-th statement; the last got through.
Children are forked before anything runs, so that forty of them cost less than one more start of Python.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from tests.crash.writer import batch
from tracewatch.log import open_log
from tracewatch.log.sqlite import opening
from tracewatch.log.sqlite.connections import WorkConnection
from tracewatch.model.events import validate_trace

MOST = 300  # statements; more than there are at a start with all migrations


class Fuse:
    """Counts statements once it is lit, and kills the process at the n-th."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.lit = False

    def burn(self) -> None:
        if self.lit:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def lay(self) -> None:
        """Have every statement of every connection burn it."""
        burn = self.burn

        class Burning(WorkConnection):
            def execute(self, *args: Any) -> Any:
                burn()
                return super().execute(*args)

            def executemany(self, *args: Any) -> sqlite3.Cursor:
                burn()
                return super().executemany(*args)

            def executescript(self, *args: Any) -> sqlite3.Cursor:
                burn()
                return super().executescript(*args)

        vars(opening)["WorkConnection"] = Burning


async def child(path: Path, mode: str, number: int) -> None:
    """Open a log, or append to one: two groups of which each writes to every table."""
    fuse = Fuse(number)
    fuse.lay()
    fuse.lit = mode == "open"
    log = await open_log(str(path))
    if mode == "append":
        await log.create_trace(validate_trace({"trace_id": "t", "task": "Task"}))
        await log.append("t", batch("a", 1, 10), producer="a", seq=1)
        fuse.lit = True
        child = validate_trace({"trace_id": "c", "task": "Sub", "parent_trace_id": "t"})
        await asyncio.gather(log.append("t", batch("a", 11, 10), producer="a", seq=11), log.create_trace(child))
        os.write(1, f"{number}\n".encode())
        await asyncio.gather(
            log.append(
                "c", [*batch("b", 1, 3), {"event": "trace_completed", "status": "completed"}], producer="b", seq=1
            ),
            *(log.append("t", batch(name, 1, 500), producer=name, seq=1) for name in "xy"),
        )
    await log.close()


def main(folder: str, mode: str) -> None:
    """Fork child after child until one gets through."""
    for number in range(1, MOST):
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(child(Path(folder) / f"{number}.db", mode, number))
            except BaseException:
                os._exit(1)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            sys.exit(os.WEXITSTATUS(status))
    sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
