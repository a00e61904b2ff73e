"""The steady clock, by which leases and questions run out.

The system's clock may be set an hour back, or stand an hour further when a laptop wakes up. Then a recorder that died
would count as alive for an hour, or all leases would run out at once. So durations are counted by a clock that is
never set.

Rule 1: the steady clock is the machine's monotonic clock plus a base. The base is in the database, so that all
        processes count alike, those to come too; it holds for one boot of one machine. The clock begins as the
        system's time, and differs from it only by how far the system's clock is set and how long the machine sleeps.
Rule 2: the times that people read (``ts``, ``expires_at``) are the system's. Order is by event_id and nothing else.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from ...model.canonical import OPEN_STATUSES
from .faults import is_busy


def boot_id() -> str:
    """Names this boot of this machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def steady_clock(
    db: sqlite3.Connection,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    boot: str | None = None,
) -> Callable[[], float]:
    """The steady clock of the log behind this (writing) connection, in seconds. ``boot``: by default ``boot_id()``."""
    boot = boot_id() if boot is None else boot
    base = wall() - monotonic()  # where the database can't be asked, or this system does not name its boots
    known = _base(db, boot)
    if known is None and boot:
        try:
            known = _begin(db, boot, base, wall())
        except sqlite3.OperationalError as error:
            if not is_busy(error):  # held locked by another program: the next one to open it stores a base
                raise
    base = base if known is None else known
    return lambda: base + monotonic()


def _base(db: sqlite3.Connection, boot: str) -> float | None:
    row = db.execute("SELECT value FROM meta WHERE key = 'steady_clock'").fetchone()
    if row is None or not boot:
        return None
    stored, _, value = row[0].partition(" ")
    return float(value) if stored == boot else None


def _begin(db: sqlite3.Connection, boot: str, base: float, now: float) -> float:
    """As the first process of this boot, store a base, and move the times that were counted by another one to it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        known = _base(db, boot)
        if known is None:
            known = base
            db.execute("INSERT OR REPLACE INTO meta VALUES ('steady_clock', ?)", (f"{boot} {base!r}",))
            # No lease is longer than itself from now on; a question ends when its asker was told that it would
            db.execute(
                "UPDATE traces SET lease_expires_at = ?1 + lease_s WHERE lease_expires_at > ?1 + lease_s"
                f" AND status IN {OPEN_STATUSES}",
                (now,),
            )
            db.execute(
                "UPDATE inputs SET expires_at ="
                " (julianday(json_extract(CAST(body AS TEXT), '$.expires_at')) - 2440587.5) * 86400.0"
                " WHERE state = 'open' AND expires_at IS NOT NULL AND body IS NOT NULL"
            )
        db.execute("COMMIT")
        return known
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
