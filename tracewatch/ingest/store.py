"""What the ingester needs of a log, as a seam, and the log of this process behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import orjson

from ..errors import NoSuchBlob, NoSuchMessage, UnknownTrace
from ..log import EventLog, TraceQuery
from ..model.blobs import ANY_TYPE, MEDIA_TYPE
from ..model.canonical import OPEN_STATUSES
from ..model.events import validate_trace

PAGE_EVENTS, PAGE_BYTES = 500, 1024 * 1024
PIECE_BYTES = 256 * 1024  # of a content that is stored


class Store(Protocol):
    """A log to write items to. Each method raises the errors of errors.py."""

    def turn(self, name: str) -> AbstractAsyncContextManager[bool]:
        """Keep other ingesters of this name out; True: nobody else had a turn since this one's last."""

    async def create(self, spec: dict[str, Any]) -> tuple[bool, int]:
        """Create a trace from the body of ``POST /api/traces``: whether it is new, and its last event_id.

        That is above 0 for the id of a trace that was deleted.
        """

    async def append(self, trace_id: str, events: Sequence[dict[str, Any]], expected_last_event_id: int) -> int:
        """Append events where the log stands at that event; the last event_id afterwards.

        Raises UnexpectedLastEventId where the log has moved on.
        """

    def events(self, trace_id: str, after: int) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """The stored events after ``after``, each with its id. Nothing for a trace that is not there."""

    async def message(self, trace_id: str, message_id: str) -> dict[str, Any] | None:
        """A message as it now stands."""

    async def put_content(self, trace_id: str, sha256: str, data: bytes, media_type: str) -> None:
        """Store a content beside the log for a trace, before the event that names it."""

    async def content(self, trace_id: str, sha256: str) -> bytes | None:
        """A content of a trace; None if it is not there."""

    async def tree(self, trace_id: str) -> list[dict[str, Any]]:
        """The summaries of a trace and of all in the tree that it stands in; [] if it is not there."""

    async def open_traces(self) -> list[dict[str, Any]]:
        """The summaries of all traces that are not over, and not lost."""

    async def of_session(self, session_id: str) -> list[dict[str, Any]]:
        """The summaries of the newest traces of a session that stand below no other, newest first."""

    async def delete(self, trace_id: str) -> None:
        """Remove a trace."""

    async def renew(self, trace_id: str) -> None:
        """Count a trace's lease from now."""


class LogStore:
    """The log of this process."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def turn(self, name: str) -> AbstractAsyncContextManager[bool]:
        """See Store.turn."""
        return self._log.turn(name)

    async def create(self, spec: dict[str, Any]) -> tuple[bool, int]:
        """See Store.create."""
        snapshot, created = await self._log.create_trace(validate_trace(spec))
        return created, snapshot.state.last_event_id

    async def append(self, trace_id: str, events: Sequence[dict[str, Any]], expected_last_event_id: int) -> int:
        """See Store.append."""
        done = await self._log.append(trace_id, events, expected_last_event_id=expected_last_event_id)
        return done.last_event_id

    async def events(self, trace_id: str, after: int) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """See Store.events."""
        while True:
            try:
                page = await self._log.read(trace_id, after, max_events=PAGE_EVENTS, max_bytes=PAGE_BYTES)
            except UnknownTrace:
                return
            if page.after + 1 < page.first_event_id:  # trimmed: what is left begins later
                after = page.first_event_id - 1
                if not page.bodies:
                    continue
            for event_id, body in enumerate(page.bodies, page.after + 1):
                yield event_id, orjson.loads(body)
            if not page.bodies:
                return
            after = page.upto

    async def message(self, trace_id: str, message_id: str) -> dict[str, Any] | None:
        """See Store.message."""
        try:
            return (await self._log.message(trace_id, message_id))[1]
        except (UnknownTrace, NoSuchMessage):
            return None

    async def put_content(self, trace_id: str, sha256: str, data: bytes, media_type: str) -> None:
        """See Store.put_content."""

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(data), PIECE_BYTES):
                yield data[start : start + PIECE_BYTES]

        media_type = media_type if MEDIA_TYPE.fullmatch(media_type) else ANY_TYPE
        await self._log.blobs.put(trace_id, sha256, pieces(), media_type=media_type, size=len(data))

    async def content(self, trace_id: str, sha256: str) -> bytes | None:
        """See Store.content."""
        try:
            return await self._log.blobs.whole(trace_id, sha256)
        except (UnknownTrace, NoSuchBlob):
            return None

    async def tree(self, trace_id: str) -> list[dict[str, Any]]:
        """See Store.tree."""
        found = await self._log.summaries([trace_id])
        if not found:
            return []
        root, rows, before = found[0]["root_trace_id"], list[dict[str, Any]](), None
        while True:
            page, before = await self._log.traces(TraceQuery(root_trace_id=root, limit=500, before=before))
            for row in page:  # a list has previews of what is long
                snapshot = await self._log.snapshot(row["trace_id"])
                rows.append(snapshot.state.trace(lease_alive=snapshot.lease_alive))
            if before is None:
                return rows

    async def open_traces(self) -> list[dict[str, Any]]:
        """See Store.open_traces."""
        rows, before = list[dict[str, Any]](), None
        while True:
            page, before = await self._log.traces(TraceQuery(status=OPEN_STATUSES, limit=500, before=before))
            rows += [await self._whole(row) for row in page]
            if before is None:
                return rows

    async def of_session(self, session_id: str) -> list[dict[str, Any]]:
        """See Store.of_session."""
        rows = (await self._log.traces(TraceQuery(session_id=session_id, limit=100)))[0]
        return [await self._whole(row) for row in rows if row["parent_trace_id"] is None]

    async def _whole(self, row: dict[str, Any]) -> dict[str, Any]:
        """A trace's summary with all of its metadata, of which a list has a preview where it is long."""
        if "metadata" in row.get("cut", ()):
            row["metadata"] = (await self._log.snapshot(row["trace_id"])).state.metadata
        return row

    async def delete(self, trace_id: str) -> None:
        """See Store.delete."""
        try:
            await self._log.delete_trace(trace_id)
        except UnknownTrace:
            pass  # another process did

    async def renew(self, trace_id: str) -> None:
        """See Store.renew."""
        try:
            await self._log.renew_lease(trace_id)
        except UnknownTrace:
            pass
