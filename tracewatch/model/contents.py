"""Finding big and binary content in values, and putting references in its place. Pure: the caller keeps the bytes.

The recorder and the importers use it. ``keep`` takes bytes and gives the reference to them, or None where it can't:
then the value is shortened, or stays as it is.

Rule 1: a text above ``INLINE_BYTES`` goes, and so does all that is binary: bytes, data URLs, and base64 in the blocks
        of the forms that model APIs, MCP and agents use. What is around it stays, so that a block is still one.
Rule 2: a reference says by ``form`` how the value was written, so that it can be put together again (``restored``).
Rule 3: a list or an object that is large in itself goes as JSON, the innermost first, unless it holds references.
Rule 4: values of a message that fit one by one may be too much for its event together: then smaller ones go, too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from .blobs import ANY_TYPE, MARK, MAX_BLOB_BYTES, MEDIA_TYPE, is_reference
from .canonical import depth_exceeds
from .fit import DEPTH, EVENT_BYTES, MESSAGE_CHARS, flattened, marker, shortened_text

INLINE_BYTES = 64 * 1024  # a text of so many stays in its event
WHOLE_BYTES = 200 * 1024  # a content of many parts stays in its event, as JSON
CLOSER = (16 * 1024, 4 * 1024)  # instead of both, one after the other, where a message's event is still too large
PREVIEW_CHARS = 1000
MOST_KEPT = 64 * 1024**2  # bytes of one value
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]{0,200})*;base64,", re.ASCII | re.IGNORECASE)
_TYPE_KEYS = ("media_type", "mimeType", "mime_type", "mediaType", "type")
_BASE64_KEYS = ("data", "blob", "base64", "file_data", "b64_json")  # of blocks
_SOUNDS = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "opus": "audio/ogg", "pcm16": "audio/L16"}
_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
)


class Keep(Protocol):
    """Keeps bytes until they are stored."""

    def __call__(self, data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any] | None:
        """The reference to the bytes, with ``more`` keys; None where they can't be kept."""


def reference(data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any]:
    """The reference to these bytes (protocol, section 2).

    reference(b"…", "image/png", "image/png, 3.0 MiB", name="shot.png")
    """
    name = hashlib.sha256(data).hexdigest()
    return {"blob": name, "bytes": len(data), "media_type": media_type, "preview": preview, **more}


# --- taking out ------------------------------------------------------------------------------------------------


def taken_out(value: Any, keep: Keep) -> Any:
    """The value with references in the place of what is big or binary. ``value``: JSON, and bytes."""
    return _Taking(keep).value(value)


def event_taken_out(event: dict[str, Any], keep: Keep) -> dict[str, Any]:
    """As ``taken_out``, of each value in an event by itself; its deepest parts become text first."""
    if depth_exceeds(event, DEPTH):
        event = flattened(event, DEPTH)
    event = _each_taken_out(event, keep, INLINE_BYTES, WHOLE_BYTES)
    for most in CLOSER if event["event"] in ("message_added", "message_updated") else ():
        body = _json(event)
        if body is None or len(body) <= EVENT_BYTES:
            break
        event = _each_taken_out(event, keep, most, most)
    return event


def _each_taken_out(event: dict[str, Any], keep: Keep, inline: int, whole: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in event.items():
        if key in ("message", "patch") and isinstance(value, dict):
            found[key] = {name: _Taking(keep, inline, whole).value(part) for name, part in value.items()}
        else:
            found[key] = _Taking(keep, inline, whole).value(value)
    return found


def kept_bytes(data: bytes, keep: Keep, media_type: str = "", size: int | None = None, **more: Any) -> Any:
    """The reference to bytes, or words about them where they can't be kept.

    ``size``: how many there are, where ``data`` is the beginning. Text that is too long is cut, and says by how much.
    """
    media_type = media_type or sniffed(data)
    if media_type.startswith("text/") and len(data) > MAX_BLOB_BYTES:
        begin = data[: MAX_BLOB_BYTES - 200].decode("utf-8", "ignore").encode()
        data = begin + marker((size or len(data)) - len(begin)).encode()
    elif size is not None and size > len(data):
        return _left_out(media_type, size)
    return _Taking(keep).binary(data, media_type, **more)


class _Taking:
    """The work on one value, with what is left of what may be kept of it, and of the texts that can't be."""

    def __init__(self, keep: Keep, inline: int = INLINE_BYTES, whole: int = WHOLE_BYTES) -> None:
        self._keep = keep
        self._inline, self._whole = inline, whole
        self._room = MOST_KEPT
        self._tries = 2 * MOST_KEPT  # characters that may be base64
        self._chars = MESSAGE_CHARS
        self._seen: dict[int, tuple[str, Any]] = {}  # long texts by their id: one may be linked from many places

    def value(self, value: Any) -> Any:
        return self._compact(self._moved(value), self._whole, outermost=True)

    def _kept(self, data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any] | None:
        if len(data) > self._room:
            return None
        self._room -= len(data)
        return self._keep(data, media_type, preview, **more)

    def _moved(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is bytes:
            return self.binary(value)
        if kind is list or kind is tuple:
            return [self._moved(item) for item in value]
        if kind is dict and not is_reference(value):
            encoded = self._base64_of(value)
            if encoded is not None:
                return self._block(value, *encoded)
            return {key: self._moved(item) for key, item in value.items()}
        return value

    def _base64_of(self, block: dict[str, Any]) -> tuple[str, str, bytes] | None:
        """The key of the base64 in a block of a known form, its media type and its bytes."""
        for key in _BASE64_KEYS:
            text = block.get(key)
            if not isinstance(text, str) or not text or text[:5].lower() == "data:":
                continue
            media_type = _type_in(block, key)
            data = None if media_type is None else self._decoded(text)
            if media_type is not None and data is not None:
                return key, media_type or sniffed(data), data
        return None

    def _decoded(self, text: str) -> bytes | None:
        """The bytes of base64 that is written as we would write it again; None for anything else."""
        self._tries -= len(text)
        if self._tries < 0 or len(text) // 4 * 3 > 2 * MAX_BLOB_BYTES:
            return None
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return None
        return data if base64.b64encode(data) == text.encode() else None

    def _block(self, block: dict[str, Any], key: str, media_type: str, data: bytes) -> dict[str, Any]:
        """A block with base64, its bytes kept."""
        kept = None
        if len(data) <= MAX_BLOB_BYTES:
            kept = self._kept(data, media_type, _said(media_type, len(data)), form="base64")
        instead = kept or (block[key] if len(data) < INLINE_BYTES else _left_out(media_type, len(data)))
        return {name: instead if name == key else self._moved(item) for name, item in block.items()}

    def _text(self, text: str) -> Any:
        if len(text) <= self._inline // 4 or (len(text) <= self._inline and text.isascii()):
            return self._data_url(text) if text[:5].lower() == "data:" else text
        known = self._seen.get(id(text))
        if known is not None:
            return known[1]
        made = self._long_text(text)
        if type(made) is dict:  # what is not kept counts each time
            self._seen[id(text)] = text, made
        return made

    def _long_text(self, text: str) -> Any:
        if text[:5].lower() == "data:" and (found := self._data_url(text)) is not text:
            return found
        if min(len(text), MAX_BLOB_BYTES) <= self._room:
            data = text[:MAX_BLOB_BYTES].encode("utf-8", "replace")
            if len(data) <= self._inline:
                return text
            if len(text) > MAX_BLOB_BYTES or len(data) > MAX_BLOB_BYTES:
                shorter = data[: MAX_BLOB_BYTES - 200].decode("utf-8", "ignore")
                data = shortened_text(text, len(shorter)).encode("utf-8", "replace")
            if (kept := self._kept(data, "text/plain", preview_of(text))) is not None:
                return kept
        if self._chars <= 0:
            return "… cut"
        short = shortened_text(text, max(PREVIEW_CHARS, self._chars))
        self._chars -= len(short)
        return short

    def _data_url(self, text: str) -> Any:
        match = _DATA_URL.match(text, 0, 1000)
        data = None if match is None else self._decoded(text[match.end() :])
        if match is None or data is None:
            return text
        media_type = (match[1] or "text/plain").lower()
        if len(data) > MAX_BLOB_BYTES:
            return _left_out(media_type, len(data))
        more = {} if match[0] == _usual_head(media_type) else {"head": match[0]}
        return self._kept(data, media_type, _said(media_type, len(data)), form="data_url", **more) or text

    def binary(self, data: bytes, media_type: str = "", **more: Any) -> Any:
        """The reference to bytes, or words about them."""
        media_type = media_type or sniffed(data)
        if len(data) > MAX_BLOB_BYTES:
            return _left_out(media_type, len(data))
        preview = _said(media_type, len(data))
        if media_type.startswith("text/"):
            preview = preview_of(data[: 4 * PREVIEW_CHARS + 4].decode("utf-8", "replace"))
        return self._kept(data, media_type, preview, **more) or _left_out(media_type, len(data))

    def _compact(self, value: Any, limit: int, *, outermost: bool = False) -> Any:
        """The value with what is large in itself as JSON beside the log."""
        kind = type(value)
        if (kind is not dict and kind is not list) or (kind is dict and is_reference(value)):
            return value
        body = _json(value)
        if body is None or len(body) <= limit:
            return value
        if kind is list:
            value = [self._compact(item, self._inline) for item in value]
        else:
            value = {key: self._compact(item, self._inline) for key, item in value.items()}
        body = _json(value)
        if body is None or len(body) <= limit or MARK in body or (outermost and kind is dict):
            return value
        preview = preview_of(body[: 4 * PREVIEW_CHARS].decode("utf-8", "ignore"))
        return (self._kept(body, "application/json", preview) if len(body) <= MAX_BLOB_BYTES else None) or value


def _type_in(block: dict[str, Any], key: str) -> str | None:
    """The media type that a block says; "" where it is base64 but does not say; None where it is not known to be."""
    encoded = block.get("type") == "base64" or key != "data"
    for name in _TYPE_KEYS:
        given = block.get(name)
        if isinstance(given, str) and MEDIA_TYPE.fullmatch(given.lower()):
            is_text = given.lower().startswith(("text/", "application/json"))
            return given.lower() if encoded or not is_text else None  # such data may be the text itself
    if isinstance(given := block.get("format"), str) and key == "data":
        return _SOUNDS.get(given)
    return "" if key in ("b64_json", "file_data") or block.get("type") == "base64" else None


def _usual_head(media_type: str) -> str:
    return f"data:{media_type};base64,"


def _json(value: Any) -> bytes | None:
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return None


def preview_of(text: str) -> str:
    """The beginning of a text, with an ellipsis where there is more."""
    begin = text[:PREVIEW_CHARS].encode("utf-8", "replace").decode()
    return begin if len(text) <= PREVIEW_CHARS else f"{begin}…"


def sniffed(data: bytes) -> str:
    """The media type of bytes by how they begin."""
    for begin, media_type in _BEGINNINGS:
        if data.startswith(begin):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] in (b"WEBP", b"WAVE"):
        return "image/webp" if data[8:12] == b"WEBP" else "audio/wav"
    return "video/mp4" if data[4:8] == b"ftyp" else ANY_TYPE


def size_said(size: int) -> str:
    """A size for a person: ``3.0 MiB``."""
    if size < 1024:
        return f"{size} bytes"
    return f"{size / 1024:.1f} KiB" if size < 1024**2 else f"{size / 1024**2:.1f} MiB"


def _said(media_type: str, size: int) -> str:
    return f"{media_type}, {size_said(size)}"


def _left_out(media_type: str, size: int) -> str:
    return _said(media_type, size) + marker(size)


# --- putting back ----------------------------------------------------------------------------------------------


def replaced(value: Any, instead: Callable[[dict[str, Any]], Any]) -> Any:
    """A copy of a JSON value with other values in the place of its references."""
    if isinstance(value, dict):
        if is_reference(value):
            return instead(value)
        return {key: replaced(item, instead) for key, item in value.items()}
    return [replaced(item, instead) for item in value] if isinstance(value, list) else value


def restored(ref: dict[str, Any], data: bytes) -> Any:
    """The value that a reference stands for: text, JSON, a data URL, base64. What was bytes is base64 as well."""
    form = ref.get("form")
    if form == "data_url":
        head = ref.get("head")
        head = head if isinstance(head, str) else _usual_head(ref["media_type"])
        return f"{head}{base64.b64encode(data).decode()}"
    if form is None and ref["media_type"] == "application/json" and "name" not in ref:
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            pass
    if form is None and ref["media_type"].startswith("text/"):
        return data.decode("utf-8", "replace")
    return base64.b64encode(data).decode()


def told(ref: dict[str, Any]) -> str:
    """Words in the place of content that can't be had."""
    preview = ref.get("preview")
    said = preview if isinstance(preview, str) else _said(ref["media_type"], ref["bytes"])
    missing = max(0, ref["bytes"] - len(said.removesuffix("…").encode())) if said.endswith("…") else ref["bytes"]
    return said.removesuffix("…") + marker(missing)


def references_in(value: Any) -> list[dict[str, Any]]:
    """The references in a JSON value."""
    found: list[dict[str, Any]] = []

    def note(ref: dict[str, Any]) -> dict[str, Any]:
        found.append(ref)
        return ref

    replaced(value, note)
    return found
