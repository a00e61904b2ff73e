"""Which files a log has open (the database, its -wal and its -shm), and which history they hold.

Rule 1: events written into a file that has lost its name are lost with the process. So the writer asks here before it
        acknowledges anything; it costs three ``stat`` calls.
Rule 2: a log whose file was replaced stays replaced, also if the old file is put back: the process opens nothing anew.
        It can only be closed.
Rule 3: one file is one history. A log keeps the number (inode) of the file it is in; in a file with another number it
        is a copy, which goes on as a history of its own.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from pathlib import Path

from ..health import Fault
from .faults import GONE, REPLACED, SIDE_GONE

Identity = tuple[int, int]  # device and inode


def identity(path: Path | str) -> Identity | None:
    """Which file stands under this name now; None for none."""
    try:
        found = os.stat(path)  # noqa: PTH116 (the writer asks at each commit, and a Path takes three times as long)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class OpenFile:
    """What the connections of a log have open. Make it when all of them are, and nothing is written yet."""

    def __init__(self, path: Path) -> None:
        self.replaced = False  # another file was seen in the place of the database
        self._path = Path.cwd() / path
        self._real = real = path.resolve()  # of a link SQLite puts the other two beside where it leads
        self._sides = (real.with_name(f"{real.name}-wal"), real.with_name(f"{real.name}-shm"))
        self._names = (str(self._path), *map(str, self._sides))
        self._known = tuple(map(identity, self._names))

    def fault(self) -> Fault | None:
        """What has become of them: None while each is in its place."""
        now = tuple(map(identity, self._names))
        main = now[0]
        if main is not None and main != self._known[0]:
            self.replaced = True
        if self.replaced:
            return REPLACED
        if now == self._known:
            return None
        return GONE if main is None else SIDE_GONE

    def stray_sides(self) -> list[Path]:
        """The -wal and -shm of this log that lie beside another database, which would take them for its own."""
        if identity(self._real) in (None, self._known[0]):
            return []
        known = {identity for identity in self._known[1:] if identity is not None}
        return [side for side in self._sides if identity(side) in known]

    def free_bytes(self) -> int | None:
        """What the disk can still take; None if it does not say."""
        try:
            disk = os.statvfs(self._real.parent)
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize


# --- histories -------------------------------------------------------------------------------------------------


def epoch_for(db: sqlite3.Connection, path: Path) -> str:
    """The epoch of the log in this file: made when it is opened for the first time, and again in a copy of it.

    What a copy holds under an id may not be what the original has told its watchers. A file system may give the number
    of a deleted file to the next one, so a copy made by ``tracewatch backup`` has no number. Where nothing is to be
    changed, no lock is needed.
    """
    known, inode = identifiers(db), str(path.stat().st_ino)
    if known.get("inode") == inode and "epoch" in known:
        return known["epoch"]
    db.execute("BEGIN IMMEDIATE")
    try:
        known = identifiers(db)  # another process may have been faster
        if "epoch" in known and known.get("inode", inode) == inode:
            set_identifiers(db, known["epoch"], path)
        else:
            set_identifiers(db, new_epoch(), path)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return identifiers(db)["epoch"]


def new_epoch() -> str:
    """A name for a history that there was not before."""
    return secrets.token_hex(6)


def identifiers(db: sqlite3.Connection) -> dict[str, str]:
    """``epoch`` and ``inode`` as the log has them; a log that was never opened to the end has none."""
    return dict(db.execute("SELECT key, value FROM meta WHERE key IN ('epoch', 'inode')"))


def set_identifiers(db: sqlite3.Connection, epoch: str, path: Path) -> None:
    """Note which history a log is, and that it is the one in this file."""
    values = (("epoch", epoch), ("inode", str(path.stat().st_ino)))
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
