"""The files of a log as they were opened: the database, its -wal and its -shm.

Rule 1: what is written into a file that has lost its name is lost with the process. So the writer asks here before it
        acknowledges anything; it costs three ``stat`` calls.
Rule 2: a log whose file was replaced stays replaced, also if the old file is put back: the process opens nothing anew.
        It can only be closed.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..health import Fault
from .faults import GONE, REPLACED, SIDE_GONE

Identity = tuple[int, int]  # device and inode


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
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
        self._known = (_identity(self._path), *(_identity(side) for side in self._sides))

    def fault(self) -> Fault | None:
        """What has become of them: None while each is in its place."""
        main = _identity(self._path)
        if main is not None and main != self._known[0]:
            self.replaced = True
        if self.replaced:
            return REPLACED
        if (main, *map(_identity, self._sides)) == self._known:
            return None
        return GONE if main is None else SIDE_GONE

    def stray_sides(self) -> list[Path]:
        """The -wal and -shm of this log that lie beside another database, which would take them for its own."""
        if _identity(self._real) in (None, self._known[0]):
            return []
        known = {identity for identity in self._known[1:] if identity is not None}
        return [side for side in self._sides if _identity(side) in known]

    def free_bytes(self) -> int | None:
        """What the disk can still take; None if it does not say."""
        try:
            disk = os.statvfs(self._real.parent)
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize
