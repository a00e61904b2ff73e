"""What is big or binary in items, on its way beside the log: kept here until the event that names it is written.

Rule 1: what goes beside the log, and what stands in its place, is as for every recorder (``model/contents.py``), and
        the same value always gives the same reference. So what came again is compared with what the log has.
Rule 2: a value that the log has no room for goes back into its event, as much of it as fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from ..model.blobs import MARK
from ..model.canonical import depth_exceeds
from ..model.contents import event_taken_out, reference, replaced, restored, told
from ..model.fit import DEPTH, EVENT_BYTES

SMALL_BYTES = 16 * 1024  # of JSON, in which nothing can be too big
_BINARY = (b"base64", b'"data":"', b'"blob":"', b'"file_data":"', b'"b64_json":"')  # what binary values stand behind

Event = dict[str, Any]


class Aside:
    """The contents of the items of one trace of a source that are being written."""

    def __init__(self) -> None:
        self.stored: set[tuple[str, str]] = set()  # (trace_id, SHA-256) that the log has been given
        self._data: dict[str, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._data)

    def keep(self, data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any]:
        """The reference to bytes, which are kept (contents.Keep)."""
        made = reference(data, media_type, preview, **more)
        self._data[made["blob"]] = data
        return made

    def data(self, sha256: str) -> bytes | None:
        """The bytes of a reference that was made here."""
        return self._data.get(sha256)

    def clear(self) -> None:
        """All is written."""
        self._data.clear()

    def fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of a message or of an update with references in the place of what is big or binary."""
        if not _may_be_big(fields):
            return fields
        taken: dict[str, Any] = event_taken_out({"event": "message_updated", "patch": fields}, self.keep)["patch"]
        return taken

    def event(self, event: Event) -> Event:
        """The same of an event of any kind."""
        return event_taken_out(event, self.keep) if _may_be_big(event) else event


def _may_be_big(value: dict[str, Any]) -> bool:
    body = orjson.dumps(value)
    return len(body) > SMALL_BYTES or any(mark in body for mark in _BINARY) or depth_exceeds(value, DEPTH - 2)


def put_back(event: Event, refused: str, data: Callable[[str], bytes | None]) -> Event:
    """The event with a content that the log does not take in its own place: text as it is, of bytes what they were."""

    def instead(ref: dict[str, Any]) -> Any:
        if ref["blob"] != refused:
            return ref
        kept = data(refused)
        is_text = "form" not in ref and ref["media_type"].startswith(("text/", "application/json"))
        return told(ref) if kept is None or not (is_text or len(kept) < EVENT_BYTES // 2) else restored(ref, kept)

    found: Event = replaced(event, instead)
    return found


def named_in(event: Event) -> bool:
    """Whether an event may name contents."""
    return MARK in orjson.dumps(event)
