"""What ``t.attach`` is given: bytes or a file, made the content of a message.

Rule: nothing here raises because of what it is given. A file that can't be read is told of in words.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ..model.blobs import MAX_BLOB_BYTES, MEDIA_TYPE
from ..model.contents import Keep, kept_bytes
from ..model.fit import NAME_CHARS
from .encode import guarded, type_name, words


class Attachment(NamedTuple):
    """The content of a message, a reference or words, and what it is called."""

    content: dict[str, Any] | str
    description: str


def attachment(given: Any, media_type: Any, name: Any, keep: Keep) -> Attachment:
    """The content for bytes or the path of a file."""
    kind = type(given)
    if issubclass(kind, (bytes, bytearray, memoryview)):
        path, (data, size) = "", guarded(lambda: _cut(memoryview(given).cast("B")), (b"", 0))
    else:
        path = guarded(lambda: os.fspath(given), "")
        path = str.__str__(path) if issubclass(type(path), str) else ""  # a type of the agent's may raise
        if not path:
            return Attachment(f"not attached: {type_name(given)} is neither bytes nor a path", "not attached")
        try:
            data, size = _read(path)
        except (OSError, ValueError) as error:
            said = f"not attached: {words(path, 1000)}: {getattr(error, 'strerror', None) or type_name(error)}"
            return Attachment(said, "not attached")
    called = words(name, NAME_CHARS) if name is not None else words(os.path.basename(path), NAME_CHARS)  # noqa: PTH119
    stated = words(media_type, 255).partition(";")[0].strip().lower() if media_type is not None else _by_name(called)
    more = {"name": called} if called else {}
    content = kept_bytes(data, keep, stated if MEDIA_TYPE.fullmatch(stated) else "", size, **more)
    said = content["preview"] if isinstance(content, dict) else content
    first = next((line for line in said.splitlines() if line.strip()), "")
    return Attachment(content, called or first[:200] or "attachment")


def _cut(view: memoryview) -> tuple[bytes, int]:
    return bytes(view[: MAX_BLOB_BYTES + 1]), len(view)


def _read(path: str) -> tuple[bytes, int]:
    """The bytes of a file, of one that is too large the beginning, and how many it has."""
    with open(path, "rb") as file:  # noqa: PTH123 (a path may be of any form)
        data = file.read(MAX_BLOB_BYTES + 1)
        return data, max(len(data), os.fstat(file.fileno()).st_size)


def _by_name(name: str) -> str:
    import mimetypes  # it reads files of the system

    return mimetypes.guess_type(name)[0] or ""
