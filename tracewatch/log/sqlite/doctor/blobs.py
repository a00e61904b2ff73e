"""Big and binary contents: whether each is whole and is what its name says, and whether all that is named is there."""

from __future__ import annotations

import hashlib
import sqlite3

from ....model.blobs import references
from .findings import ERROR, Findings

ADVICE = "It can't be shown. Import the traces that have it again from an export or another server, or restore a backup"
REPORT = "Nobody is shown it. Please report this, with what happened before"
BY_THE_SERVER = frozenset({"sub_trace_completed", "input_provided", "cancel_requested"})  # repeat what others said


def check_blobs(found: Findings, connection: sqlite3.Connection) -> None:
    """Look at every content, one at a time."""
    before = found.count(ERROR)
    rows = connection.execute("SELECT blob_key FROM blobs WHERE complete ORDER BY blob_key").fetchall()
    size = 0
    for (key,) in rows:
        connection.execute("BEGIN")
        try:
            size += _check(found, connection, key)
        finally:
            connection.execute("ROLLBACK")
    _check_references(found, connection)
    if found.count(ERROR) == before:
        found.ok("blobs", f"{len(rows):,} blobs of {size:,} bytes: whole, and what their names say")


def _check(found: Findings, connection: sqlite3.Connection, key: int) -> int:
    sql = "SELECT sha256, bytes FROM blobs WHERE blob_key = ? AND complete"
    row = connection.execute(sql, (key,)).fetchone()
    if row is None:
        return 0  # its last trace was deleted meanwhile
    sha256, size = row
    digest, there, faults = hashlib.sha256(), 0, []
    pieces = connection.execute("SELECT piece, body FROM blob_pieces WHERE blob_key = ? ORDER BY piece", (key,))
    for expected, (piece, body) in enumerate(pieces):
        if piece != expected:
            faults.append(f"its piece {expected} is missing")
            break
        digest.update(body)
        there += len(body)
    if not faults and there != size:
        faults.append(f"it has {there:,} bytes, and ought to have {size:,}")
    if not faults and digest.hexdigest() != sha256:
        faults.append(f"its bytes have the SHA-256 {digest.hexdigest()}")
    traces = connection.execute(
        "SELECT trace_id FROM trace_blobs JOIN traces USING (trace_key) WHERE blob_key = ? LIMIT 3", (key,)
    ).fetchall()
    of = ", ".join(repr(trace_id) for (trace_id,) in traces) or "no trace"
    for fault in faults:
        found.error("blob", f"blob {sha256} (of {of}): {fault}", ADVICE, traces[0][0] if traces else None)
    return int(there)


def _check_references(found: Findings, connection: sqlite3.Connection) -> None:
    for what, sql in (
        (
            "traces have {n:,} blobs that are not there",
            "SELECT COUNT(*) FROM trace_blobs WHERE blob_key NOT IN (SELECT blob_key FROM blobs WHERE complete)",
        ),
        (
            "there are {n:,} pieces of blobs that do not exist",
            "SELECT COUNT(*) FROM blob_pieces WHERE blob_key NOT IN (SELECT blob_key FROM blobs)",
        ),
        (
            "there are {n:,} blobs that no trace has",
            "SELECT COUNT(*) FROM blobs WHERE complete AND blob_key NOT IN (SELECT blob_key FROM trace_blobs)",
        ),
    ):
        (n,) = connection.execute(sql).fetchone()
        if n:
            found.error("orphan_blobs", what.format(n=n), REPORT)


def blobs_of(connection: sqlite3.Connection, trace_key: int) -> dict[str, int]:
    """The bytes of a trace's contents, by their SHA-256."""
    sql = "SELECT sha256, trace_blobs.bytes FROM trace_blobs JOIN blobs USING (blob_key) WHERE trace_key = ?"
    return dict(connection.execute(sql, (trace_key,)).fetchall())


def missing(event: dict[str, object], there: dict[str, int]) -> list[str]:
    """The contents that an event names and that its trace does not have."""
    if event["event"] in BY_THE_SERVER:
        return []
    return [sha256 for sha256, size in references(event).items() if there.get(sha256) != size]
