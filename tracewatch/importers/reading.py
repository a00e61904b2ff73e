"""Reading files as parsed JSON, also the JSON that real programs write; and small functions on parsed values.

Rule 1: values that are not strictly JSON but clear in meaning (NaN, half a surrogate pair, numbers beyond 64 bits) are
        kept as text: Python's own json module writes such values.
Rule 2: every failure names its place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..errors import BadRequest
from ..model.times import format_time, normalize_time

_BOM = b"\xef\xbb\xbf"
_NAIVE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?", re.ASCII)


@dataclass(frozen=True)
class BadJson(Exception):
    """The text is not JSON. ``message`` says why; ``line`` counts from 1."""

    message: str
    line: int


def digest(paths: Iterable[Path]) -> str:
    """16 hex digits from the contents of the files in this order, for the trace ids of an import."""
    sha = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()[:16]


def load(data: bytes) -> Any:
    """Parse JSON. Raises BadJson."""
    data = data.removeprefix(_BOM)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        strict = error
    try:
        return _scrubbed(json.loads(data, parse_constant=str, parse_int=_whole))
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BadJson(f"this is not JSON: {strict.msg}", strict.lineno) from strict


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) < 19 else digits


def _scrubbed(value: Any) -> Any:
    """``value`` with U+FFFD for each lone surrogate, which UTF-8 can't hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_scrubbed(item) for item in value]
    if isinstance(value, dict):
        return {_scrubbed(key): _scrubbed(item) for key, item in value.items()}
    return value


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The number (from 1) and the stripped text of each line that is not blank."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if stripped := line.removeprefix(_BOM).strip():
                yield number, stripped


def documents(path: Path) -> Iterator[tuple[int | None, Any | BadJson]]:
    """A JSON document as ``(None, value)``; JSONL as each line's number with its value, or with a BadJson."""
    data = path.read_bytes()
    try:
        yield None, load(data)
        return
    except BadJson as error:
        whole = error
    # If the first line is no JSON by itself, the file is a broken document, which is one fault.
    if not starts_with_a_value(data):
        yield whole.line, whole
        return
    for number, line in lines(path):
        try:
            yield number, load(line)
        except BadJson as error:
            yield number, BadJson(error.message, number)


def starts_with_a_value(data: bytes) -> bool:
    """Whether the first line that is not blank is JSON by itself."""
    first = next((line for line in data.split(b"\n", 64) if line.strip()), b"")
    try:
        load(first.strip())
    except BadJson:
        return False
    return True


def regular_file(path: Path) -> Path:
    """``path``, if it is a file with text in it. Raises BadRequest otherwise, saying what it is."""
    if not path.exists():
        raise BadRequest(f"{path}: there is no such file")
    if path.is_dir():
        raise BadRequest(f"{path} is a directory, not a file")
    if not path.is_file():
        raise BadRequest(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise BadRequest(f"{path} can't be read: {error.strerror}") from error
    if b"\0" in head:
        raise BadRequest(f"{path} is a binary file, not JSON")
    if not head.strip() and path.stat().st_size <= len(head):
        raise BadRequest(f"{path} is empty")
    return path


# --- functions on parsed values ----------------------------------------------------------------------------------


def time_of(value: Any) -> str | None:
    """A time in the protocol's form. ``value``: RFC 3339, also without an offset (then UTC), or Unix seconds.

    Returns None for anything else.
    """
    try:
        if isinstance(value, str):
            return normalize_time(f"{value}Z" if _NAIVE.fullmatch(value) else value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return format_time(value)
    except (ValueError, OverflowError, OSError):
        pass  # it is no time; the caller keeps the value
    return None


def text_of(content: Any) -> str:
    """The readable text of ``content``: itself, or the texts of its content parts; else ""."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return ""


def name_of(value: Any) -> str | None:
    """``value`` if it can be an id or a name in the protocol, else None."""
    return value if isinstance(value, str) and 0 < len(value) <= 256 else None


def clip(text: str, length: int) -> str:
    """``text`` stripped and cut to ``length`` characters."""
    text = text.strip()
    return text if len(text) <= length else f"{text[: length - 1]}…"


def first_line(text: str, length: int = 200) -> str:
    """The first line of ``text`` that is not blank, cut to ``length`` characters."""
    return clip(next((line for line in text.splitlines() if line.strip()), ""), length)


def without(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A copy of ``row`` without ``keys``."""
    return {key: value for key, value in row.items() if key not in keys}
