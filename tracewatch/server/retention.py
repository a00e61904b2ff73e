"""What is no longer kept goes, for as long as a server runs.

Rule: of all processes on a file one does this at a time, whichever comes first; one that dies at it is followed by
      another within a minute.
"""

from __future__ import annotations

import asyncio

from ..errors import TracewatchError
from ..log import EventLog, Policy
from ..settings import Settings

KEEP_FREE_SHARE = 0.1  # of the file: what is let go one minute is filled again in the next
WAL_BYTES = 16 * 1024 * 1024  # it is at some 4 MiB while nobody holds it up


async def retain(log: EventLog, chosen: Settings) -> None:
    """Trim and delete by ``keep_days`` and ``keep_events``, and remove what was deleted by hand, every so often."""
    policy = Policy(
        keep_days=chosen.keep_days,
        keep_events=chosen.keep_events,
        keep_free_share=KEEP_FREE_SHARE,
        wal_bytes=WAL_BYTES,
    )
    while True:
        try:
            await log.tend(policy, chosen.retention_s)
        except TracewatchError:
            pass  # the log can't be written now, which /readyz says; what is too old goes later
        await asyncio.sleep(chosen.retention_s)
