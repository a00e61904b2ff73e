"""A content in an export: lines ``{"blob": {sha256, bytes, media_type, offset, data}}``, ``data`` being base64.

Rule: the lines of a content follow each other, in the order of their ``offset``. Whole is what has the SHA-256.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from ..errors import Invalid
from .blobs import MAX_BLOB_BYTES, MEDIA_TYPE, SHA256

LINE_BYTES = 768 * 1024  # of the content, in one line


def content_lines(sha256: str, size: int, media_type: str, parts: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a content, without their line breaks. ``parts``: its bytes."""
    offset, rest = 0, b""
    said: dict[str, Any] = {"sha256": sha256, "bytes": size, "media_type": media_type}

    def line(data: bytes) -> bytes:
        return orjson.dumps({"blob": {**said, "offset": offset, "data": base64.b64encode(data).decode()}})

    for part in parts:
        rest += part
        while len(rest) >= LINE_BYTES:
            yield line(rest[:LINE_BYTES])
            offset, rest = offset + LINE_BYTES, rest[LINE_BYTES:]
    if rest or not offset:
        yield line(rest)


class ContentLines:
    """A content that is being read."""

    def __init__(self) -> None:
        self.sha256 = ""
        self.media_type = ""
        self._size = 0
        self._data = bytearray()

    def take(self, part: Any) -> bytes | None:
        """The content, with its last line; None before. ``part``: the value of ``blob``. Raises Invalid."""
        if not isinstance(part, dict) or not all(isinstance(part.get(key), str) for key in ("sha256", "data")):
            raise Invalid("blob: an object with sha256, bytes, media_type, offset and data")
        size, offset, media_type = part.get("bytes"), part.get("offset", 0), part.get("media_type")
        if not SHA256.fullmatch(part["sha256"]) or (self.sha256 and self.sha256 != part["sha256"]):
            raise Invalid("blob.sha256: 64 hexadecimal digits, the same until the content is whole")
        if not isinstance(size, int) or not 0 <= size <= MAX_BLOB_BYTES or (self._size and size != self._size):
            raise Invalid(f"blob.bytes: a number up to {MAX_BLOB_BYTES:,}, the same until the content is whole")
        if not isinstance(media_type, str) or not MEDIA_TYPE.fullmatch(media_type):
            raise Invalid("blob.media_type: such as image/png")
        if offset != len(self._data):
            raise Invalid(f"blob.offset: is {offset!r} where {len(self._data)} was expected")
        self.sha256, self.media_type, self._size = part["sha256"], media_type, size
        try:
            self._data += base64.b64decode(part["data"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise Invalid("blob.data: is no base64") from error
        if len(self._data) > size or (len(self._data) < size and not part["data"]):
            raise Invalid(f"blob.data: there are {len(self._data):,} bytes where {size:,} were expected")
        if len(self._data) < size:
            return None
        if hashlib.sha256(self._data).hexdigest() != self.sha256:
            raise Invalid("blob.data: has another SHA-256")
        return bytes(self._data)
