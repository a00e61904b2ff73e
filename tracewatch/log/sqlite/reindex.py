"""Making the search index of a log anew, and judging it: for the doctor, beside any server.

Rule: where a server fills the index, it makes it anew, as soon as the file is gone; else this process does.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from ...errors import LogError
from . import indexing
from .faults import fault_of
from .identity import identifiers
from .inspect import Progress, open_read_only
from .search import index_path, lock_path, made_anew, take_lock

LOOK_S = 0.2  # between two looks at what a server does


def reindex(path: Path, progress: Progress | None = None) -> int:
    """Make the search index of a log anew, to its end; the number of texts that are in it.

    ``progress`` is told "search", how many traces are read, and of how many. Raises LogError where there is no log, or
    where the index can't be written.
    """
    tell = progress or (lambda what, done, total: None)
    with closing(open_read_only(path)) as log:
        epoch = identifiers(log).get("epoch")
        if epoch is None:
            raise LogError(f"{str(path)!r} was never opened by a server, and has nothing to be searched")
        lock = take_lock(lock_path(path))
        try:
            if lock is None:
                _wait(path, log, tell)
            else:
                _read_all(path, log, epoch, tell)
        except (sqlite3.Error, OSError, indexing.LogUnreadable) as error:
            fault = fault_of(error)
            raise LogError(f"the search index can't be made: {error if fault is None else fault.text}") from error
        finally:
            if lock is not None:
                os.close(lock)
    with closing(_open(path)) as db:
        return int(db.execute("SELECT COUNT(*) FROM texts").fetchone()[0])


def _read_all(path: Path, log: sqlite3.Connection, epoch: str, tell: Progress) -> None:
    with closing(made_anew(index_path(path), epoch)) as db:
        while indexing.step(db, log):
            tell("search", *_traces(db, log))


def _wait(path: Path, log: sqlite3.Connection, tell: Progress) -> None:
    """Have the server make it, and wait until it has."""
    index_path(path).unlink(missing_ok=True)
    while True:
        with suppress(sqlite3.Error), closing(_open(path)) as db:
            if indexing.meta(db).get("built"):
                return
            tell("search", *_traces(db, log))
        lock = take_lock(lock_path(path))
        if lock is not None:
            os.close(lock)
            raise LogError("the server that was making the search index has ended: run this again")
        time.sleep(LOOK_S)


def _traces(db: sqlite3.Connection, log: sqlite3.Connection) -> tuple[int, int]:
    (read,) = db.execute("SELECT COUNT(*) FROM traces").fetchone()
    (there,) = log.execute("SELECT COUNT(*) FROM traces").fetchone()
    return min(int(read), int(there)), int(there)


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{index_path(path).as_uri()}?mode=ro", uri=True, timeout=5)


# --- judging it --------------------------------------------------------------------------------------------------


def wrong_with(path: Path, log: sqlite3.Connection, *, full: bool = False) -> tuple[str, str]:
    """What is to be said of an index, and what is wrong with it, "" for nothing. ``full``: FTS5 checks itself as well.

    An index that is not there, or behind, is nothing wrong.
    """
    if not index_path(path).exists():
        return "there is no search index; the next server makes it", ""
    try:
        with closing(_open(path)) as db:
            known = indexing.meta(db)
            if (known.get("version"), known.get("epoch")) != (indexing.VERSION, identifiers(log).get("epoch")):
                return "the search index is of another log or version; the next server makes it anew", ""
            checked = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if checked != "ok":
                return "", f"the search index is damaged: {checked}"
            found = db.execute("SELECT COUNT(*) FROM texts").fetchone()[0]
            there = db.execute("SELECT COUNT(*) FROM found_docsize").fetchone()[0]
            if found != there:
                return "", f"the search index has {there:,} entries for {found:,} texts"
            if full:
                _check_words(path)
            sql = "SELECT COUNT(*) FROM traces WHERE (change_seq, trace_key) > (?, ?)"
            (behind,) = log.execute(sql, (int(known["changed"]), int(known["changed_key"]))).fetchone()
    except sqlite3.Error as error:
        fault = fault_of(error)
        if fault is not None and fault.area != "damage" and not fault.own:
            return f"the search index can't be looked at now: {fault.text}", ""
        return "", f"the search index can't be read: {error}"
    rest = f"; {behind:,} traces changed since" if behind else ""
    return f"the search index has {found:,} texts{rest}", ""


def _check_words(path: Path) -> None:
    """FTS5's own check, which it takes for writing: with a transaction that is rolled back."""
    with closing(sqlite3.connect(index_path(path), isolation_level=None, timeout=5)) as db:
        db.execute("BEGIN")
        try:
            db.execute("INSERT INTO found (found) VALUES ('integrity-check')")
        finally:
            db.execute("ROLLBACK")
