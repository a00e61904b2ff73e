"""What is wrong with a log now, and since when.

Rule 1: whatever meets a fault notes it, and whatever finds it gone clears it: the writer at its next commit, a reader
        at its next page, the watchdog every second when nobody writes or reads. Nothing here asks anything.
Rule 2: a fault is told in words for people who can do something about it: no paths, no tracebacks, no SQL.
Rule 3: what is damaged stays noted until a check of everything has found nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import Damaged, Unavailable

logger = logging.getLogger("tracewatch.log")


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault. ``code`` is the word for programs (``reason`` on the wire), ``text`` is for people."""

    code: str
    text: str
    retry_after_s: int = 1
    own: bool = False  # may be the doing of what one job or one reader asked for, rather than of the disk
    area: str = ""  # what it stands in the way of, if not only of the reading or writing that met it

    def error(self, what: str) -> Unavailable:
        """The error for a caller who is refused because of it. ``what``: "written" or "read"."""
        kind = Damaged if self.code == "damaged" else Unavailable
        message = f"the log can't be {what}: {self.text}"
        return kind(message, reason=self.code, retry_after_s=self.retry_after_s)


DISK_FULL = Fault("disk_full", "the disk is full; it goes on by itself when there is room", 5)
LOCKED = Fault("locked", "another program holds the database locked")
SLOW = Fault("slow_disk", "the disk has not finished writing what came before", 5)
CROWDED = Fault("too_many_waiting", "as much as may wait to be written is waiting already")
IN_DOUBT = Fault("in_doubt", "the answer to a commit was lost, and it can't be found out yet whether it was stored", 5)
_DAMAGED = "a part of the database is damaged ({}); what lies elsewhere in it can be read and written"


def damage(found: str) -> Fault:
    """The fault of a log in which this was found."""
    return Fault("damaged", _DAMAGED.format(found), 30, own=True, area="damage")


NO_JSON = damage("what is stored is no JSON")


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault that lasts."""

    code: str
    message: str
    since: float  # Unix time in seconds


class Health:
    """The troubles of one log, by what they stand in the way of: write, read, file, damage …"""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._troubles: dict[str, Trouble] = {}

    @property
    def troubles(self) -> list[Trouble]:
        """All there are now, the oldest first."""
        return sorted(self._troubles.values(), key=lambda trouble: trouble.since)

    def of(self, area: str) -> Trouble | None:
        """The trouble in one area."""
        return self._troubles.get(area)

    def note(self, area: str, code: str, message: str) -> None:
        """There is this trouble; one of the same code goes on, and was logged when it began."""
        old = self._troubles.get(area)
        same = old is not None and old.code == code
        if not same:
            logger.warning("%s", message)
        self._troubles[area] = Trouble(code, message, old.since if same and old is not None else self._clock())

    def note_error(self, area: str, error: Unavailable) -> Unavailable:
        """As ``note``, from the error that is told because of it; gives the error back."""
        self.note(area, str(error.facts.get("reason", error.code)), error.message)
        return error

    def note_fault(self, fault: Fault, what: str) -> Unavailable:
        """Note a fault that stood in the way of something being ``what``: "written" or "read". Returns the error."""
        return self.note_error(fault.area or {"written": "write", "read": "read"}[what], fault.error(what))

    def clear(self, area: str) -> None:
        """It is over."""
        old = self._troubles.pop(area, None)
        if old is not None:
            logger.warning("over after %.0f s: %s", max(0.0, self._clock() - old.since), old.message)
