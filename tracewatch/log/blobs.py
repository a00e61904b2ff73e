"""Big and binary content beside the log: received in pieces, checked against its SHA-256, read in pieces.

Rule 1: nothing of it is held in memory but a piece. Hashing is done off the loop, and each piece is written between
        two units of the log, so that appends go on.
Rule 2: a content that another trace has is stored once, but is received all the same: who knows a hash does not get
        what it stands for.
Rule 3: what was received becomes a trace's in one transaction, or is removed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import (
    BlobMismatch,
    InvalidField,
    NoSuchBlob,
    TooLarge,
    TraceBlobsFull,
    Unavailable,
    UnknownTrace,
)
from ..model.blobs import MAX_BLOB_BYTES, MEDIA_TYPE, SHA256
from .group import Alone, Group
from .reader import Reader
from .storage import PIECE_BYTES, BlobRoom, BlobRow, Storage, Upload

QUICK_BYTES = 64 * 1024  # are hashed on the loop


@dataclass(frozen=True, slots=True)
class Blob:
    """A content of a trace. Its bytes are read with ``Blobs.read``."""

    trace_id: str
    sha256: str
    bytes: int
    media_type: str
    blob_key: int


class Blobs:
    """The contents of a log's traces."""

    def __init__(self, storage: Storage, group: Group, reader: Reader, *, max_trace_bytes: int) -> None:
        self._storage = storage
        self._group = group
        self._reader = reader
        self._max_trace_bytes = max_trace_bytes
        self._letting_go: set[asyncio.Task[Any]] = set()

    async def put(
        self,
        trace_id: str,
        sha256: str,
        chunks: AsyncIterator[bytes],
        *,
        media_type: str,
        size: int | None = None,
    ) -> tuple[Blob, bool]:
        """Store a content for a trace, and say whether it is new to it.

        ``sha256``: in hexadecimal. ``chunks``: its bytes. ``size``: how many they will be, if that is known.
        Raises InvalidField, UnknownTrace, TooLarge, TraceBlobsFull, BlobMismatch, Unavailable.
        """
        if not SHA256.fullmatch(sha256):
            raise InvalidField("sha256: 64 hexadecimal digits in lower case")
        if not MEDIA_TYPE.fullmatch(media_type):
            raise InvalidField(f"Content-Type: {media_type[:80]!r} is no media type")
        room = await self._room(trace_id, sha256)
        self._check(trace_id, room, size or 0)
        coming = _Coming(self, sha256, is_stored=room.stored)
        try:
            async for chunk in chunks:
                await coming.take(chunk)
                self._check(trace_id, room, coming.bytes)
            await coming.end()
            upload = Upload(trace_id, sha256, coming.bytes, media_type, coming.key, self._max_trace_bytes)
            kept = await self.alone(partial(self._storage.keep_blob, upload))
        except BaseException:
            if coming.key is not None:  # if this fails as well, it is removed in a day
                self._let_go(self.alone(partial(self._storage.drop_blob, coming.key)))
            raise
        if kept is None:
            raise _unknown(trace_id)
        if kept.row is None:
            self._check(trace_id, kept, upload.bytes)
            raise Unavailable("what was received was removed before it was complete; send it again", retry_after_s=1)
        return _blob(trace_id, sha256, kept.row), room.row is None

    async def find(self, trace_id: str, sha256: str) -> Blob:
        """A content of a trace. Raises UnknownTrace, NoSuchBlob."""
        room = await self._room(trace_id, sha256)
        if room.row is None:
            raise NoSuchBlob(f"trace {trace_id!r} has no blob {sha256[:64]!r}", blob=sha256[:64])
        return _blob(trace_id, sha256, room.row)

    async def read(self, blob: Blob, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes of a content from ``start`` up to, not with, ``end``, a piece at a time. Raises NoSuchBlob."""
        end = blob.bytes if end is None else min(end, blob.bytes)
        while start < end:
            number, offset = divmod(start, PIECE_BYTES)
            async with self._reader.reading(blob.trace_id) as storage:
                piece = await storage.blob_piece(blob.blob_key, number)
            part = b"" if piece is None else piece[offset : offset + end - start]
            if not part:
                raise NoSuchBlob(f"blob {blob.sha256} of trace {blob.trace_id!r} has gone", blob=blob.sha256)
            start += len(part)
            yield part

    async def whole(self, trace_id: str, sha256: str) -> bytes:
        """All bytes of a content. Raises UnknownTrace, NoSuchBlob."""
        blob = await self.find(trace_id, sha256)
        return b"".join([part async for part in self.read(blob)])

    async def close(self) -> None:
        """Wait for what is being let go."""
        await asyncio.gather(*self._letting_go, return_exceptions=True)

    # --- inside ---

    async def _room(self, trace_id: str, sha256: str) -> BlobRoom:
        async with self._reader.reading(trace_id) as storage:
            room = await storage.blob_room(trace_id, sha256)
        if room is None:
            raise _unknown(trace_id)
        return room

    def _check(self, trace_id: str, room: BlobRoom, size: int) -> None:
        if size > MAX_BLOB_BYTES:
            raise TooLarge(f"the blob is above the limit of {MAX_BLOB_BYTES:,} bytes", limit=MAX_BLOB_BYTES)
        most = self._max_trace_bytes
        if room.row is None and room.used + size > most:
            raise TraceBlobsFull(
                f"trace {trace_id!r} has {room.used:,} bytes of blobs, and may have {most:,}: these are too much",
                limit=most,
                used=room.used,
            )

    async def alone(self, work: Any, size: int = 1024) -> Any:
        """Have the storage do something by itself, between two units."""
        return await self._group.do(Alone(work, size))

    async def aside(self, work: Callable[[], None]) -> None:
        """Do some work off the loop. No executor: a recorder's are gone when its process ends."""
        async with self._reader.reading() as storage:
            await storage.aside(work)

    async def put_piece(self, key: int | None, sha256: str, number: int, body: bytes) -> int:
        """Write a piece and return its key. Raises Unavailable."""
        work = partial(self._storage.put_piece, key, sha256, number, body)
        found: int | None = await self.alone(work, len(body))
        if found is None:
            raise Unavailable("what was received was removed before it was complete; send it again", retry_after_s=1)
        return found

    def _let_go(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._letting_go.add(task)
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[Any]) -> None:
        self._letting_go.discard(task)
        if not task.cancelled():
            task.exception()  # it is removed in a day


class _Coming:
    """A content that is being received."""

    def __init__(self, blobs: Blobs, sha256: str, *, is_stored: bool) -> None:
        self.bytes = 0
        self.key: int | None = None
        self._blobs = blobs
        self._sha256 = sha256
        self._is_stored = is_stored
        self._digest = hashlib.sha256()
        self._piece = bytearray()
        self._number = 0

    async def take(self, chunk: bytes) -> None:
        """Take more bytes of it."""
        self.bytes += len(chunk)
        if self.bytes > MAX_BLOB_BYTES:
            return  # which is refused
        self._piece += chunk
        while len(self._piece) >= PIECE_BYTES:
            await self._put(bytes(self._piece[:PIECE_BYTES]))
            del self._piece[:PIECE_BYTES]

    async def end(self) -> None:
        """All of it came. Raises BlobMismatch."""
        if self._piece or not self._number:
            await self._put(bytes(self._piece))
        found = self._digest.hexdigest()
        if found != self._sha256:
            raise BlobMismatch(f"the {self.bytes:,} bytes that came have the SHA-256 {found}", sha256=found)

    async def _put(self, piece: bytes) -> None:
        if len(piece) > QUICK_BYTES:
            await self._blobs.aside(partial(self._digest.update, piece))
        else:
            self._digest.update(piece)
        if not self._is_stored:
            self.key = await self._blobs.put_piece(self.key, self._sha256, self._number, piece)
        self._number += 1


def _blob(trace_id: str, sha256: str, row: BlobRow) -> Blob:
    return Blob(trace_id, sha256, row.bytes, row.media_type, row.blob_key)


def _unknown(trace_id: str) -> UnknownTrace:
    return UnknownTrace(f"there is no trace {trace_id!r}", trace_id=trace_id)
