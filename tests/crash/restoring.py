"""Restores that kill themselves at a chosen step: ``python -m tests.crash.restoring BACKUP FOLDER…``.

In the n-th folder ``log.db`` is replaced by ``BACKUP`` and the process dies by SIGKILL right before its n-th step: a
call that opens, links, renames, removes or changes a file, or an SQL statement. The numbers of those that got through
are written to stdout. Children are forked, as a start of Python for each would cost seconds.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from tracewatch.log.sqlite import inspect, migrate  # noqa: F401  (imported before anything is counted)
from tracewatch.log.sqlite.restore import restore_file

STEPS = ("open", "os.", "fcntl.", "shutil.", "sqlite3.")


def main(backup: str, *folders: str) -> None:
    """One child for each folder."""
    for number, folder in enumerate(folders, 1):
        pid = os.fork()
        if pid == 0:
            try:
                child(Path(backup), Path(folder), number)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            os.write(1, f"{number}\n".encode())


def child(backup: Path, folder: Path, number: int) -> None:
    """Restore, and die before step ``number``."""
    left = number

    def burn() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(STEPS):
            burn()

    connect = sqlite3.connect

    def traced(*args: Any, **how: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **how)
        connection.set_trace_callback(lambda sql: burn())
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]
    sys.addaudithook(hook)
    restore_file(backup, folder / "log.db", replace=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
