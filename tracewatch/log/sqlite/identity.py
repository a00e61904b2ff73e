"""The files of a log as they were opened: the database, its -wal and its -shm.

Rule: what is written into a file that has no name any more is lost with the process. So whoever acknowledges asks here
      first; it costs three ``stat`` calls.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..health import GONE, OTHER, OTHER_WAL, SIDE_GONE, Fault

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
        self._path = Path.cwd() / path
        real = path.resolve()  # of a link SQLite puts the other two beside where it leads
        self._folder = real.parent
        self._sides = (real.with_name(f"{real.name}-wal"), real.with_name(f"{real.name}-shm"))
        self._known = (_identity(self._path), *(_identity(side) for side in self._sides))

    def fault(self) -> Fault | None:
        """What has become of them: None while each is in its place."""
        main = _identity(self._path)
        sides = tuple(map(_identity, self._sides))
        if (main, *sides) == self._known:
            return None
        if main == self._known[0]:
            return SIDE_GONE
        if main is None:
            return GONE
        # A -wal of the old file would be played into the new one: that must not be opened
        old = {identity for identity in self._known[1:] if identity is not None}
        return OTHER_WAL if old & set(sides) else OTHER

    def check(self) -> None:
        """Raise Unavailable unless each is in its place."""
        fault = self.fault()
        if fault is not None:
            raise fault.error("written")

    def free_bytes(self) -> int | None:
        """What the disk can still take; None if it does not say."""
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize
