"""The backlog: spools that wait to be delivered, those of dead processes and of this one's ended traces.

Rule 1: what is delivered at the same time is bounded; as soon as one is done the next begins. So thousands of spools
        take as long as their bytes do, and a server that is away costs neither a task nor a descriptor for each.
Rule 2: a trace is delivered before its sub-traces, as far as that is known.
Rule 3: a spool that its server refuses now steps back for the others.
Rule 4: used by the background thread only.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .outbox import Outbox
from .spool import Box, Shelf, SpoolDir, SpoolError, header_of, set_aside

REFUSED_S = 30.0  # a spool whose delivery was refused waits so long


@dataclass
class Waiting:
    """A spool that waits. ``outbox``: a living one, of a trace of this process that has ended."""

    path: Path
    box: Box
    events: int = 0  # of this process, to be delivered
    outbox: weakref.ref[Outbox] | None = None
    not_before: float = 0.0  # monotonic


@dataclass
class _Adopted:
    """A box of a dead process, and how many of its files are not delivered yet."""

    box: Box
    left: set[Path] = field(default_factory=set)


class Backlog:
    """The spools that wait. ``meant``: whether one with this header is for the target that is delivered to."""

    def __init__(self, directory: SpoolDir, meant: Callable[[dict[str, Any]], bool]) -> None:
        self.directory = directory
        self._meant = meant
        self._waiting: deque[Waiting] = deque()
        self._adopted: dict[Path, _Adopted] = {}
        self._foreign: set[Path] = set()  # boxes for other targets
        self.done = (0, 0)  # how many traces and events of other processes were delivered

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def resting(self) -> int:
        """How many of them were refused a moment ago."""
        now = time.monotonic()
        return sum(one.not_before > now for one in self._waiting.copy())

    @property
    def own_events(self) -> tuple[int, int]:
        """How many events of how many ended traces of this process wait."""
        own = [one.events for one in self._waiting if one.outbox is not None]
        return sum(own), len(own)

    def look(self) -> int:
        """Take the boxes of processes that have died meanwhile; returns how many files they have."""
        before = len(self._waiting)
        there = self.directory.boxes()
        self._foreign.intersection_update(there)
        for path in there:
            if path not in self._adopted and path not in self._foreign:
                box = self.directory.adopt(path)
                if box is not None:
                    self._take(box)
        return len(self._waiting) - before

    def _take(self, box: Box) -> None:
        files = box.files()
        header = next(filter(None, map(header_of, files)), None)
        if header is not None and not self._meant(header):
            self._foreign.add(box.path)
            box.abandon()
            return
        if files:
            self._adopted[box.path] = _Adopted(box, set(files))
            self._waiting.extend(Waiting(path, box) for path in files)
        else:
            box.close()

    def park(self, outbox: Outbox, shelf: Shelf) -> bool:
        """Have an ended trace of this process wait; False if its events are not all in a spool."""
        spool, box = outbox.spool, shelf.box
        if spool is None or box is None or outbox.unsaved:
            return False
        outbox.release()
        spool.close()
        self._waiting.append(Waiting(spool.path, box, outbox.pending, weakref.ref(outbox)))
        return True

    def put_back(self, outbox: Outbox) -> None:
        """Have an adopted spool wait that its server refuses now."""
        if outbox.spool is not None:
            path = outbox.spool.path
            again_at = time.monotonic() + REFUSED_S
            self._waiting.append(Waiting(path, outbox.spool.box, 0, None, again_at))

    def next(self) -> Outbox | None:
        """The next to deliver; None if none waits, or all were refused a moment ago."""
        for _ in range(len(self._waiting)):
            one = self._waiting.popleft()
            if one.not_before > time.monotonic():
                self._waiting.append(one)
                continue
            outbox = one.outbox() if one.outbox is not None else None
            if outbox is None:
                outbox = self._read(one)
            if outbox is not None:
                return outbox
        return None

    def _read(self, one: Waiting) -> Outbox | None:
        try:
            spool = one.box.read_back(one.path)
        except (SpoolError, ValueError, KeyError, TypeError):
            set_aside(self.directory, one.path)
            spool = None
        if spool is not None:
            return Outbox.adopted(spool)
        self.delivered(one.path)
        return None

    def delivered(self, path: Path, events: int | None = None) -> None:
        """Note that a file is gone, whose ``events`` were delivered. A box without files is removed."""
        if events is not None:
            self.done = (self.done[0] + 1, self.done[1] + events)
        adopted = self._adopted.get(path if path in self._adopted else path.parent)
        if adopted is None:
            return
        adopted.left.discard(path)
        if not adopted.left:
            del self._adopted[adopted.box.path]
            adopted.box.close()

    def close(self) -> None:
        """Leave what waits to the next process."""
        for adopted in self._adopted.values():
            adopted.box.close()
        self._adopted.clear()
        self._waiting.clear()

    def after_fork(self) -> None:
        """Forget everything in a forked child: it is the parent's."""
        for adopted in self._adopted.values():
            adopted.box.abandon()
        self._adopted.clear()
        self._waiting.clear()
