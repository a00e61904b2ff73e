"""Is this log, and what it lies on, as it should be? ``check`` looks at everything and says what to do.

Rule 1: it only reads, beside any server: a log in use is judged as well as one at rest.
Rule 2: it trusts nothing that can be worked out again. The events are the truth; states, rows and sums are folded anew
        from them and compared.
Rule 3: each trace is read in a read transaction of its own, row by row: the -wal is not held for longer than one trace
        takes, and memory does not grow with what agents say.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from ....errors import LogError
from ..inspect import Progress, open_read_only
from .database import check_database
from .findings import ERROR, OK, WARNING, Finding, Findings
from .machine import check_machine
from .trace import check_traces

__all__ = ["ERROR", "OK", "WARNING", "Finding", "check", "errors"]


def check(
    path: Path,
    *,
    full: bool = False,
    machine: bool = True,
    max_watchers: int = 10_000,
    now: float | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """Look at a log and its machine; what is in order is among the findings, too.

    ``full``: SQLite compares its indexes with their tables as well. ``machine``: look at what the log lies on, too.
    ``now``: Unix time in seconds. Raises LogError where there is no file.
    """
    found = Findings()
    tell = progress or (lambda what, done, total: None)
    at = time.time() if now is None else now
    with closing(open_read_only(path)) as connection:
        if machine:
            check_machine(found, path, max_watchers=max_watchers)
        tell("file", 0, 0)
        try:
            if check_database(found, connection, path, full=full, now=at):
                check_traces(found, connection, tell)
        except (sqlite3.Error, LogError) as error:
            found.error(
                "unreadable",
                f"the database can't be read: {error}",
                "Keep a copy of the files as they are, then restore a backup: tracewatch restore FILE --force",
            )
    return found.all()


def errors(path: Path) -> list[Finding]:
    """What is broken in a log, wherever it lies; for tests that end with a judgement."""
    return [finding for finding in check(path, full=True, machine=False) if finding.severity == ERROR]
