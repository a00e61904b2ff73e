"""Big and binary content: how an event refers to it. The content itself stands beside the log, once by its SHA-256.

Rule 1: a reference is an object with at least ``blob`` (64 hexadecimal digits), ``bytes`` and ``media_type``. It stands
        in the place of the value that it was made of, anywhere in an event. All else is JSON like any other.
Rule 2: its ``preview`` is text for lists, rows and searches: the beginning of a text, or what the content is.
"""

from __future__ import annotations

import re
from typing import Any

MAX_BLOB_BYTES = 32 * 1024**2  # of one content
DEFAULT_TRACE_BYTES = 1024**3  # of all contents of a trace
MARK = b'"blob":"'  # without it canonical bytes hold no reference
SHA256 = re.compile(r"[0-9a-f]{64}")
MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
ANY_TYPE = "application/octet-stream"


def is_reference(value: Any) -> bool:
    """Whether a JSON value refers to content beside the log.

    is_reference({"blob": 64 * "0", "bytes": 3, "media_type": "image/png", "preview": "a picture"})
    """
    if not isinstance(value, dict):
        return False
    name, size = value.get("blob"), value.get("bytes")
    if not (isinstance(name, str) and isinstance(size, int) and not isinstance(size, bool) and size >= 0):
        return False
    return isinstance(value.get("media_type"), str) and SHA256.fullmatch(name) is not None


def references(value: Any) -> dict[str, int]:
    """The contents that a JSON value refers to, at any depth: the bytes of each, by its SHA-256 in hexadecimal."""
    found: dict[str, int] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if is_reference(one):
                found[one["blob"]] = one["bytes"]
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return found


def shown(value: Any) -> Any:
    """What rows and lists show of a value: of a reference its preview."""
    if is_reference(value):
        preview = value.get("preview")
        return preview if isinstance(preview, str) else value["media_type"]
    return value
