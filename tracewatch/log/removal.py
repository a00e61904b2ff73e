"""What leaves the log, as jobs of the writer: trimming, deleting, and getting the space back.

Rule 1: what goes is gone for every reader in one transaction of a few rows: ``first_event_id`` moves up, or the trace's
        row goes. Its other rows (``leftovers``) follow in pieces, so that no append waits for hundreds of thousands.
Rule 2: a log is trimmed only up to a kept snapshot, which stays: every state from ``first_event_id - 1`` on can be had.
Rule 3: a message goes with its ``message_added``, unless it is still open: then what it says so far moves into its row,
        so that its next update finds it. Questions and what producers have sent stay as long as their trace.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiosqlite
import orjson

from ..errors import UnknownTrace
from ..model.events import ENDED
from .health import is_busy
from .jobs import Job, needed
from .rows import at_first, fetch
from .transaction import Transaction, stats_of

OVER = (*ENDED, "lost")  # nobody records it any more
PIECE_ROWS = 500  # removed in one transaction, at most
PIECE_BYTES = 1024 * 1024
FREED_PAGES = 256  # given back to the file system in one transaction, at most
CHECKPOINT_MS = 20  # how long readers are waited for
NO_END = 2**62
_ADDED = b'{"event":"message_added",'

DOWN = (  # a trace and all below it
    "WITH RECURSIVE down (trace_id) AS (SELECT ? UNION SELECT traces.trace_id FROM traces"
    " JOIN down ON traces.parent_trace_id = down.trace_id)"
)


@dataclass(slots=True, eq=False)
class Delete(Job):
    """Remove a trace and its sub-traces; with ``idle_since`` only if all are over and nothing has happened since."""

    trace_id: str = ""
    idle_since: str | None = None
    exclusive: bool = True

    async def run(self, tx: Transaction) -> list[str]:
        rows = await fetch(
            tx.connection,
            f"{DOWN} SELECT trace_key, trace_id, last_event_id, parent_trace_id, tree_messages, tree_tokens, tree_cost,"
            " status, updated_at FROM traces JOIN down USING (trace_id)",
            self.trace_id,
        )
        if self.idle_since is not None and any(row[7] not in OVER or row[8] >= self.idle_since for row in rows):
            return []
        if not rows:
            raise UnknownTrace(f"there is no trace {self.trace_id!r}", trace_id=self.trace_id)
        await self._leave_parent(tx, next(row for row in rows if row[1] == self.trace_id))
        keys = [(row[0],) for row in rows]
        for table in ("producers", "inputs", "traces"):
            await tx.connection.executemany(f"DELETE FROM {table} WHERE trace_key = ?", keys)
        await tx.connection.executemany("INSERT OR REPLACE INTO leftovers VALUES (?, NULL)", keys)
        tx.deleted.extend((row[1], row[2]) for row in rows)
        return [row[1] for row in rows]

    async def _leave_parent(self, tx: Transaction, row: Sequence[Any]) -> None:
        """What stays of it in the totals above is what its parent's log says of it."""
        parent_id, tree = row[3], row[4:7]
        if parent_id is None:
            return
        await tx.load([parent_id])
        parent = tx.draft(parent_id)
        if parent is not None:
            messages, tokens, cost = stats_of(parent.state.sub_traces, self.trace_id)
            tx.tree_changes.append((parent_id, messages - tree[0], tokens - tree[1], cost - tree[2]))


@dataclass(slots=True, eq=False)
class Trim(Job):
    """Let a trace's log begin after ``upto``, of which there must be a snapshot. False if it can't or does already."""

    trace_id: str = ""
    upto: int = 0
    exclusive: bool = True

    def traces(self) -> Iterator[str]:
        yield self.trace_id

    async def run(self, tx: Transaction) -> bool:
        draft = needed(tx, self.trace_id)
        key = draft.row.trace_key
        if not draft.row.first_event_id <= self.upto <= draft.row.last_event_id:
            return False
        if not await fetch(
            tx.connection, "SELECT 1 FROM snapshots WHERE trace_key = ? AND event_id = ?", key, self.upto
        ):
            return False
        await fetch(tx.connection, "UPDATE traces SET first_event_id = ? WHERE trace_key = ?", self.upto + 1, key)
        await fetch(tx.connection, "INSERT OR REPLACE INTO leftovers VALUES (?, ?)", key, self.upto)
        draft.state = at_first(draft.state, self.upto + 1)
        draft.trimmed = True
        return True


@dataclass(slots=True, eq=False)
class Sweep(Job):
    """Remove one piece of what was trimmed or deleted. False if there was nothing."""

    exclusive: bool = True

    async def run(self, tx: Transaction) -> bool:
        connection = tx.connection
        found = await fetch(connection, "SELECT trace_key, upto_event_id FROM leftovers LIMIT 1")
        if not found:
            return False
        key, upto = found[0]
        end = await _piece(connection, "events", "event_id", key, NO_END if upto is None else upto)
        if end is not None:
            if upto is not None:
                await _release_messages(connection, key, end)
            await fetch(connection, "DELETE FROM events WHERE trace_key = ? AND event_id <= ?", key, end)
            return True
        tables = [("snapshots", "event_id", NO_END if upto is None else upto - 1)]  # that of ``upto`` stays
        if upto is None:
            tables.append(("messages", "sequence", NO_END))
        for table, column, last in tables:
            end = await _piece(connection, table, column, key, last)
            if end is not None:
                await fetch(connection, f"DELETE FROM {table} WHERE trace_key = ? AND {column} <= ?", key, end)
                return True
        await fetch(connection, "DELETE FROM leftovers WHERE trace_key = ?", key)
        return True


async def _piece(connection: aiosqlite.Connection, table: str, column: str, key: int, last: int) -> int | None:
    """The last row of a piece of bounded size that begins with the table's first row of the trace; None: no row."""
    rows = await fetch(
        connection,
        f"SELECT {column}, COALESCE(length(body), 0) FROM {table} WHERE trace_key = ? AND {column} <= ?"
        f" ORDER BY {column} LIMIT ?",
        key,
        last,
        PIECE_ROWS,
    )
    end: int | None = None
    size = 0
    for number, length in rows:
        size += length
        if end is not None and size > PIECE_BYTES:
            break
        end = number
    return end


async def _release_messages(connection: aiosqlite.Connection, key: int, end: int) -> None:
    """The messages that events up to ``end`` added: they go, or, being open, keep in their row what they say."""
    bodies = await fetch(
        connection,
        f"SELECT body FROM events WHERE trace_key = ? AND event_id <= ? AND substr(body, 1, {len(_ADDED)}) = ?",
        key,
        end,
        _ADDED,
    )
    added = {message["sequence"]: message for (body,) in bodies if (message := orjson.loads(body)["message"])}
    if not added:
        return
    rows = await fetch(
        connection,
        "SELECT sequence, json_extract(CAST(body AS TEXT), '$.status') FROM messages"
        " WHERE trace_key = ? AND sequence <= ? AND event_id <= ?",
        key,
        max(added),
        end,
    )
    gone, kept = [], []
    for sequence, status in rows:  # those of earlier pieces that were open then are among them
        if (status or added[sequence]["status"]) == "complete":
            gone.append((key, sequence))
        elif status is None:
            kept.append((orjson.dumps(added[sequence]), key, sequence))
    await connection.executemany("DELETE FROM messages WHERE trace_key = ? AND sequence = ?", gone)
    await connection.executemany("UPDATE messages SET body = ? WHERE trace_key = ? AND sequence = ?", kept)


@dataclass(slots=True, eq=False)
class Shrink(Job):
    """Give free pages of the file back, some at a time, down to ``keep``. False if there is nothing to do."""

    keep: int = 0  # free pages
    exclusive: bool = True
    bare: bool = True

    async def work(self, connection: aiosqlite.Connection) -> bool:
        free = (await fetch(connection, "PRAGMA freelist_count"))[0][0]
        if free <= self.keep or not await gives_back(connection):
            return False
        # As a script: some versions of Python's sqlite3 take one step of a statement without columns, and free one page
        try:
            await connection.executescript(f"PRAGMA incremental_vacuum({min(FREED_PAGES, free - self.keep)})")
        except sqlite3.OperationalError as error:
            if is_busy(error):
                return False  # somebody else writes: next time
            raise
        return True


async def gives_back(connection: aiosqlite.Connection) -> bool:
    """Whether the file can give pages back bit by bit: one that was made without must be rewritten once."""
    await fetch(connection, "SELECT 1 FROM meta")  # a connection sees what another one's VACUUM changed when it reads
    return bool((await fetch(connection, "PRAGMA auto_vacuum"))[0][0] == 2)


@dataclass(slots=True, eq=False)
class Checkpoint(Job):
    """Move the WAL into the file and empty it; False if a reader that is in it takes longer than a moment."""

    exclusive: bool = True
    bare: bool = True

    async def work(self, connection: aiosqlite.Connection) -> bool:
        patience_ms = (await fetch(connection, "PRAGMA busy_timeout"))[0][0]
        await fetch(connection, f"PRAGMA busy_timeout = {CHECKPOINT_MS}")  # appends wait behind this
        try:
            return bool((await fetch(connection, "PRAGMA wal_checkpoint(TRUNCATE)"))[0][0] == 0)
        finally:
            await fetch(connection, f"PRAGMA busy_timeout = {patience_ms}")


@dataclass(slots=True, eq=False)
class Vacuum(Job):
    """Write the file anew, without free pages and so that it gives back later ones. Nobody else can write meanwhile."""

    exclusive: bool = True
    bare: bool = True

    async def work(self, connection: aiosqlite.Connection) -> None:
        await fetch(connection, "PRAGMA auto_vacuum = INCREMENTAL")
        await fetch(connection, "PRAGMA temp_store = FILE")  # the file may be larger than the memory
        try:
            await fetch(connection, "VACUUM")
        finally:
            await fetch(connection, "PRAGMA temp_store = MEMORY")


@dataclass(slots=True, eq=False)
class Claim(Job):
    """Have retention to oneself for ``for_s``; ``held``: one has, and it goes on. False if another process has it."""

    for_s: float = 0.0
    held: bool = False

    async def run(self, tx: Transaction) -> bool:
        # A time further ahead than anybody claims was written by a clock that has been put back since
        given = await fetch(
            tx.connection,
            "UPDATE meta SET value = ?1 WHERE key = 'retention_until' AND"
            " (?2 OR NOT CAST(value AS REAL) BETWEEN ?3 AND ?3 + ?4) RETURNING 1",
            str(tx.steady + self.for_s),
            self.held,
            tx.steady,
            2 * self.for_s,
        )
        return bool(given)
