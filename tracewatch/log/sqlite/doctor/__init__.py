"""The doctor: ``check`` looks at a log and the machine it is on, and says what is wrong and what to do.

Rule 1: the doctor only reads, beside any server: a log in use is judged as well as one at rest.
Rule 2: it trusts nothing that can be worked out again. The events are the truth; states, rows and sums are folded anew
        from them and compared with the stored ones.
Rule 3: a restore is advised only where pages were read and found broken (judgement.py).
Rule 4: each trace is read in a read transaction of its own, row by row. So the -wal is not held for longer than one
        trace takes, and memory does not grow with the length of what agents say.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from ....errors import LogError
from ..inspect import Progress, open_read_only
from ..reindex import wrong_with
from .blobs import check_blobs
from .database import check_database
from .findings import ERROR, OK, WARNING, Finding, Findings
from .judgement import changed_at, judged, unreadable
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
    """Look at a log and its machine. Returns the findings; things that are in order are among them.

    ``full``: SQLite compares its indexes with their tables as well. ``machine``: look at SQLite, the file system and
    the machine's limits, too; ``max_watchers`` is how many its open files should do for. ``now``: Unix time in
    seconds. ``progress`` is called with what is being done ("file", "events"), and how much of how much is done.
    Raises LogError where there is no file.

    ``[one for one in check(Path("tracewatch.db")) if one.severity == ERROR]`` is what is broken.
    """
    found = Findings()
    tell = progress or (lambda what, done, total: None)
    at = time.time() if now is None else now
    before = changed_at(path)
    with closing(open_read_only(path)) as connection:
        if machine:
            check_machine(found, path, max_watchers=max_watchers)
        tell("file", 0, 0)
        try:
            if check_database(found, connection, path, full=full, now=at):
                check_blobs(found, connection)
                _check_search(found, connection, path, full=full)
                check_traces(found, connection, path, tell)
        except (sqlite3.Error, LogError) as error:
            unreadable(found, path, error)
    return judged(found.all(), path, before)


def _check_search(found: Findings, connection: sqlite3.Connection, path: Path, *, full: bool) -> None:
    said, wrong = wrong_with(path, connection, full=full)
    if wrong:
        found.warning("search_index", wrong, "Nothing is lost: tracewatch doctor --reindex makes it anew")
    else:
        found.ok("search_index", said)


def errors(path: Path) -> list[Finding]:
    """The errors in a log, whatever machine it is on: for tests that end with a judgement."""
    return [finding for finding in check(path, full=True, machine=False) if finding.severity == ERROR]
