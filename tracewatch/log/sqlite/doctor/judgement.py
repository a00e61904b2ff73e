"""What follows from what the doctor found: a restore throws away what came since the backup.

Rule: "restore a backup" stands only where pages were read and found broken. What can't be opened for want of rights, is
      locked, too new, on a disk that fails or is full is said as that. What is found on a disk of which SQLite can't be
      sure, or in a file that somebody is writing, has to be found again first.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

from ..obstacles import obstacle
from .findings import ERROR, Finding, Findings

RESTORE = "Restore a backup: tracewatch restore FILE --force. A single trace can be saved by: tracewatch export TRACE"
NEWER = "Use the tracewatch that wrote it, or a newer one: pip install -U tracewatch. Nothing is known to be wrong"
DERIVED = "What is shown of this trace is not what its events say. Export it and import it again, or restore a backup"
_BROKEN = "Keep a copy of all its files as they are, then restore a backup: tracewatch restore FILE --force"
_OTHER = "Is --db the right file? If it is, its beginning is broken. " + _BROKEN
_ADVISED = (RESTORE, DERIVED, _BROKEN, _OTHER)
_STRANGE = (
    "This disk may show what is not so. Stop the server, copy all files of the database (FILE, FILE-wal) to a local "
    "disk and check the copy: tracewatch doctor --db COPY. Only if that is broken too: "
)
_WRITTEN = (
    "The file was changed while it was checked. If it is a copy that is still being made, wait for that. Then check "
    "again. Only if this is found again: "
)


def unreadable(found: Findings, path: Path, error: Exception) -> None:
    """The database as a whole can't be read: an obstacle, or damage."""
    stands = obstacle(path, error)
    if stands is not None:
        found.error(stands.code, f"the database can't be read: {stands.message}", stands.advice)
        return
    no_database = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB
    found.error("unreadable", f"the database can't be read: {error}", _OTHER if no_database else _BROKEN)


def unreadable_trace(found: Findings, path: Path, key: int, error: Exception) -> None:
    """A trace can't be read: an obstacle, or damage."""
    stands = obstacle(path, error)
    said = f"the trace with trace_key {key} can't be read: "
    if stands is not None:
        found.error(stands.code, said + stands.message, stands.advice)
    else:
        found.error("trace_unreadable", f"{said}{type(error).__name__}: {error}", RESTORE)


def changed_at(path: Path) -> tuple[int, int] | None:
    """The size of a file and when it was last written to."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def judged(findings: list[Finding], path: Path, before: tuple[int, int] | None) -> list[Finding]:
    """The findings, in which a restore is advised only as far as what was found can be believed.

    ``before``: what ``changed_at`` said before the check.
    """
    doubts = ""
    if any(one.code == "file_system" and one.severity == ERROR for one in findings):
        doubts = _STRANGE
    elif changed_at(path) != before:
        doubts = _WRITTEN
    if not doubts:
        return findings
    return [
        replace(one, advice=doubts + one.advice[:1].lower() + one.advice[1:]) if one.advice in _ADVISED else one
        for one in findings
    ]
