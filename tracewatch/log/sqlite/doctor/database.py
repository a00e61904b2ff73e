"""The database as a whole: whether SQLite finds it sound, whether it is ours, whether its tables fit together."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ....errors import LogError, NewerDatabase
from ....model.times import format_time
from ..identity import identifiers
from ..inspect import quick_check
from ..keys import EVENT_ID_BITS
from ..migrate import available, schema_of
from .findings import ERROR, Findings
from .judgement import NEWER, RESTORE

MIB = 1024 * 1024
WAL_BYTES = 256 * MIB
CLOCK_S = 60.0
_EPOCH = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
OF_A_TRACE = (
    "events",
    "messages",
    "producers",
    "snapshots",
    "inputs",
    "trimmed",
    "trace_blobs",
    "trace_words",
)  # tables with a trace_key, or a key that begins with it


def check_database(found: Findings, connection: sqlite3.Connection, path: Path, *, full: bool, now: float) -> bool:
    """Look at everything but the traces. False if these can't be looked at."""
    _wal(found, path)
    try:
        schema = schema_of(connection)
    except LogError as error:
        advice = NEWER if isinstance(error, NewerDatabase) else "Is --db the right file?"
        found.error("schema", f"the database is not a log that can be checked: {error}", advice)
        return False
    newest = available()[-1][0]
    if schema < newest:
        said = f"schema {schema}, of an earlier tracewatch; this one has {newest}, and what came since is not checked"
        found.warning("schema", said, "The next start of the server brings it up to date. Back up before")
    else:
        found.ok("schema", f"schema {schema}")
    faults = quick_check(connection, full=full)
    for fault in faults:
        found.error("integrity", f"SQLite finds the file damaged: {fault}", RESTORE)
    if not faults:
        found.ok("integrity", f"SQLite finds the file sound ({'integrity_check' if full else 'quick_check'})")
    if schema < newest:
        return False
    _epoch(found, connection)
    for check in (_orphans, _counters, _search):
        connection.execute("BEGIN")
        try:
            check(found, connection)
        finally:
            connection.execute("ROLLBACK")
    _clock(found, connection, now)
    return True


def _wal(found: Findings, path: Path) -> None:
    wal = path.with_name(f"{path.name}-wal")
    size = wal.stat().st_size if wal.exists() else 0
    said = f"the -wal file has {size / MIB:,.0f} MiB"
    if size > WAL_BYTES:
        advice = "A reader that stays in one transaction holds it: a backup, a doctor, an open sqlite3. Else restart"
        found.warning("wal_size", said, advice)
    else:
        found.ok("wal_size", said)


def _epoch(found: Findings, connection: sqlite3.Connection) -> None:
    epoch = identifiers(connection).get("epoch")
    if epoch is None:
        found.warning("epoch", "the log has no epoch yet", "The next start of the server gives it one")
    elif not _EPOCH.fullmatch(epoch):
        found.error("epoch", f"the epoch {epoch[:80]!r} can't stand in a cursor", RESTORE)
    else:
        found.ok("epoch", f"epoch {epoch}")


def keys_of(connection: sqlite3.Connection, table: str) -> Iterator[int]:
    """Each trace_key of a table once, by as many steps of its tree as there are traces."""
    key = 0
    sql = f"SELECT MIN(trace_key) FROM {table} WHERE trace_key > ?"
    if table == "events":
        sql = f"SELECT MIN(event_key) >> {EVENT_ID_BITS} FROM events WHERE event_key >= (? + 1) << {EVENT_ID_BITS}"
    while True:
        (found,) = connection.execute(sql, (key,)).fetchone()
        if found is None:
            return
        if not isinstance(found, int) or found <= key:  # a damaged tree may go in circles
            raise sqlite3.DatabaseError(f"the table {table} is out of order")
        key = found
        yield key


def _orphans(found: Findings, connection: sqlite3.Connection) -> None:
    before = found.count(ERROR)
    # The rows of deleted traces are on their way out
    known = "SELECT 1 FROM traces WHERE trace_key = ?1 UNION SELECT 1 FROM leftovers WHERE trace_key = ?1"
    for table in OF_A_TRACE:
        for key in keys_of(connection, table):
            if connection.execute(known, (key,)).fetchone():
                continue
            of_it = f"event_key >> {EVENT_ID_BITS}" if table == "events" else "trace_key"
            rows = connection.execute(f"SELECT COUNT(*) FROM {table} WHERE {of_it} = ?", (key,)).fetchone()[0]
            said = f"{table} has {rows:,} rows of a trace that does not exist (trace_key {key})"
            found.error("orphan_rows", said, "Nobody is shown them. Please report this, with what happened before")
    if found.count(ERROR) == before:
        found.ok("orphan_rows", "no rows without a trace")


def _counters(found: Findings, connection: sqlite3.Connection) -> None:
    before = found.count(ERROR)
    advice = "Watchers in other processes may miss changes. Restart the server. If it stays, please report this"
    counter = connection.execute("SELECT change_seq FROM change_counter").fetchone()
    newest = connection.execute(
        "SELECT MAX((SELECT COALESCE(MAX(change_seq), 0) FROM traces),"
        " (SELECT COALESCE(MAX(change_seq), 0) FROM deleted_traces))"
    ).fetchone()[0]
    if counter is None or counter[0] < newest:
        now = "missing" if counter is None else f"at {counter[0]:,}"
        found.error("change_counter", f"the counter of changes is {now}, and a change {newest:,} is there", advice)
    for (trace_id,) in connection.execute("SELECT trace_id FROM traces JOIN deleted_traces USING (trace_id)"):
        said = f"trace {trace_id!r} is there and counts as deleted"
        found.error("deleted_trace", said, "Its ids may be used again. Please report this", trace_id)
    if found.count(ERROR) == before:
        found.ok("change_counter", "the counter of changes is ahead of every change")


def _search(found: Findings, connection: sqlite3.Connection) -> None:
    wrong = connection.execute(
        "SELECT (SELECT COUNT(*) FROM traces WHERE trace_key NOT IN (SELECT id FROM traces_text_docsize))"
        " + (SELECT COUNT(*) FROM traces_text_docsize WHERE id NOT IN (SELECT trace_key FROM traces))"
    ).fetchone()[0]
    if wrong:
        found.error(
            "search",
            f"the search index does not agree with {wrong:,} traces",
            "Stop the server, then: sqlite3 FILE \"INSERT INTO traces_text (traces_text) VALUES ('rebuild')\"",
        )
    else:
        found.ok("search", "the search index has every trace")


def _clock(found: Findings, connection: sqlite3.Connection, now: float) -> None:
    newest = connection.execute("SELECT MAX(updated_at) FROM traces").fetchone()[0]
    if newest is not None and newest > format_time(now + CLOCK_S):
        found.warning(
            "clock",
            f"the newest event is of {newest}, and it is {format_time(now)}",
            "Is this machine's clock right? Is the other one's, if the log comes from there? Order does not suffer",
        )
    else:
        found.ok("clock", "no event is of the future")
