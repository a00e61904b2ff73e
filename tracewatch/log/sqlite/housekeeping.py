"""What retention asks of a SQLite log: each a short job of its writer, or a look that spares the writer one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from ...model.times import format_time
from ..removal import Checkpoint, Claim, Delete, Shrink, Sweep, Trim, Vacuum
from ..retention import DAY_S
from .reader import Reader
from .writer import Writer

PAGE_BYTES = 4096  # SQLite's own default, which nobody changes


class Housekeeping:
    """Trims, deletes, sweeps and shrinks."""

    def __init__(self, path: Path, writer: Writer, reader: Reader, clock: Callable[[], float]) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._clock = clock

    async def delete_outdated(self, trace_id: str, keep_days: float) -> list[str]:
        """See EventLog.delete_outdated."""
        since = format_time(self._clock() - keep_days * DAY_S)
        deleted: list[str] = await self._writer.do(lambda future: Delete(future, trace_id=trace_id, idle_since=since))
        self._writer.counts.outdated += len(deleted)
        return deleted

    async def trim(self, trace_id: str, upto: int) -> bool:
        """See EventLog.trim."""
        trimmed = bool(await self._writer.do(lambda future: Trim(future, trace_id=trace_id, upto=upto)))
        self._writer.counts.trims += trimmed
        return trimmed

    async def sweep(self) -> bool:
        """See EventLog.sweep. Looks first, like expire_leases."""
        return await self._reader.has_leftovers() and bool(await self._writer.do(Sweep))

    async def shrink(self, keep_free_share: float = 0.0) -> bool:
        """See EventLog.shrink. Looks first."""
        pages, free = await self._reader.pages()
        keep = int(pages * keep_free_share)
        return free > keep and bool(await self._writer.do(lambda future: Shrink(future, keep=keep)))

    async def checkpoint(self, above_bytes: int = 0) -> bool:
        """See EventLog.checkpoint."""
        pages, _ = await self._reader.pages()
        extra = await asyncio.to_thread(self._extra_bytes, pages)
        return extra <= above_bytes or bool(await self._writer.do(Checkpoint))

    def _extra_bytes(self, pages: int) -> int:
        """The WAL, and what the file has had given back and still holds: the end of it is cut off with the WAL."""
        file = self._path.resolve()
        extra = 0
        try:
            extra = file.stat().st_size - pages * PAGE_BYTES
            return extra + file.with_name(f"{file.name}-wal").stat().st_size
        except OSError:  # one of them is not there: whoever writes says so
            return extra

    async def vacuum(self) -> None:
        """See EventLog.vacuum."""
        await self._writer.do(Vacuum)

    async def claim(self, for_s: float, *, held: bool = False) -> bool:
        """See EventLog.claim_retention."""
        return bool(await self._writer.do(lambda future: Claim(future, for_s=for_s, held=held)))
