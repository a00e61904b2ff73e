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
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ..errors import BadRequest
from ..model.times import format_time, normalize_time

LINE_BYTES = 64 * 1024 * 1024  # of a line of JSONL
DOCUMENT_BYTES = 512 * 1024 * 1024  # of a file that is one JSON document
_BOM = b"\xef\xbb\xbf"
_COMPRESSED = {b"\x1f\x8b": "gunzip -c", b"\x28\xb5\x2f\xfd": "zstd -dc", b"\xfd7zXZ": "xz -dc", b"BZh": "bunzip2 -c"}
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


def digest_of(value: Any) -> str:
    """16 hex digits from a JSON value, for a line that has no id of its own."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


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


def load_mended(data: bytes) -> tuple[list[Any], str | None]:
    """The values of one line of JSONL, also where a few bytes of it are bad, and what was bad; None where nothing was.

    Read are: NULs around a record (a power cut leaves them), several records on one line, bytes that are no UTF-8 (they
    become U+FFFD), control characters in a text. Raises BadJson where nothing can be read.
    """
    data = data.removeprefix(_BOM)
    try:
        return [orjson.loads(data)], None
    except orjson.JSONDecodeError:
        pass
    bare = data.strip(b"\0 \t\r\n")
    if not bare:
        return [], f"{len(data)} bytes of 0 in the place of a record"
    faults = [f"{len(data) - len(bare)} bytes of 0 beside the record"] if b"\0" in data[:1] + data[-1:] else []
    try:
        return [load(bare)], _said(faults)
    except BadJson as error:
        whole = error
    text = bare.decode("utf-8", "replace")
    if "\ufffd" in text and "\ufffd".encode() not in bare:
        faults.append("bytes that are no UTF-8")
    values, at = [], 0
    decoder = json.JSONDecoder(parse_constant=str, parse_int=_whole, strict=False)
    try:
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            values.append(_scrubbed(value))
            while at < len(text) and text[at] in " \t\r\n\0,":
                at += 1
    except (ValueError, RecursionError):
        values = [value for value in values if isinstance(value, dict)]
        if not values:
            raise whole from None
        faults.append(f"after column {at} it is not JSON")
    if not all(isinstance(value, dict) for value in values):
        raise whole
    if len(values) > 1:
        faults.append(f"{len(values)} records on one line")
    return values, _said(faults or ["a control character in a text"])


def _said(faults: list[str]) -> str | None:
    return f"it has {', and '.join(faults)}; what can be read is imported" if faults else None


def records(path: Path) -> Iterator[tuple[int, int, Any | BadJson]]:
    """Each record of a JSONL file with the number of its line (from 1) and the length of that, in bytes.

    What is bad in a line is a BadJson, before the records that can be read of it.
    """
    with path.open("rb") as file:
        for number, size, line in _raw_lines(file):
            for value in values_of(line, number) if isinstance(line, bytes) else [line]:
                yield number, size, value


def values_of(line: bytes, number: int) -> Iterator[Any | BadJson]:
    """The values of one line, and before them a BadJson for what is bad in it. A blank line has none."""
    line = line.strip()
    if not line:
        return
    try:
        values, fault = load_mended(line)
    except BadJson as error:
        values, fault = [], error.message
    if fault is not None:
        yield BadJson(fault, number)
    yield from values


def _raw_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes | BadJson]]:
    """The number, the length in bytes and the bytes of each line; a BadJson for one that is too long."""
    for number in count(1):
        line = file.readline(LINE_BYTES + 1)
        if len(line) <= LINE_BYTES:
            if not line:
                return
            yield number, len(line), line
            continue
        size = len(line)
        while not line.endswith(b"\n") and (line := file.readline(1 << 20)):
            size += len(line)
        yield number, size, too_long(number, size)


def too_long(number: int, size: int) -> BadJson:
    """What is said of a line of ``size`` bytes, which is not read."""
    return BadJson(f"this line has {size:,} bytes; what can be read has up to {LINE_BYTES:,}", number)


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


def lines(path: Path) -> Iterator[tuple[int, bytes | BadJson]]:
    """The number (from 1) and the stripped text of each line that is not blank, or why it is not read."""
    with path.open("rb") as file:
        for number, _, line in _raw_lines(file):
            if isinstance(line, BadJson):
                yield number, line
            elif stripped := line.removeprefix(_BOM).strip():
                yield number, stripped


def whole(path: Path) -> Any:
    """The value of a file that is one JSON document. Raises BadJson, also for one that is too large."""
    size = path.stat().st_size
    if size > DOCUMENT_BYTES:
        said = f"this is one JSON document of {size:,} bytes; what can be read has up to {DOCUMENT_BYTES:,}"
        raise BadJson(said, 1)
    return load(path.read_bytes())


def documents(path: Path) -> Iterator[tuple[int | None, Any | BadJson]]:
    """A JSON document as ``(None, value)``; JSONL as each line's number with its value, or with a BadJson."""
    for line, _, value in entries(path):
        yield line, value


def entries(path: Path) -> Iterator[tuple[int | None, int, Any | BadJson]]:
    """As ``documents``, and between them the length in bytes of what was read for it."""
    if not has_lines(path):
        # If the first line is no JSON by itself, the file is a broken document, which is one fault.
        try:
            yield None, path.stat().st_size, whole(path)
        except BadJson as error:
            yield error.line, 0, error
        return
    yield from records(path)


def has_lines(path: Path) -> bool:
    """Whether a file is JSONL: its first line that is not blank is JSON by itself, and there is another one."""
    return starts_with_a_value(path) and len(list(islice(lines(path), 2))) > 1


def starts_with_a_value(path: Path) -> bool:
    """Whether the first line that is not blank is JSON by itself."""
    _, first = next(lines(path), (1, b""))
    if isinstance(first, BadJson):
        return False
    try:
        load(first)
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
    for magic, tool in _COMPRESSED.items():
        if head.startswith(magic):
            raise BadRequest(f"{path} is compressed; this reads it: {tool} {path.name} | tracewatch import -")
    if b"\0" in head and head.lstrip(b"\0 \t\r\n" + _BOM)[:1] not in (b"", b"{", b"["):
        raise BadRequest(f"{path} is a binary file, not JSON")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadRequest(f"{path} is UTF-16: write it as UTF-8")
    head = head.replace(b"\0", b"")
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


def list_of(value: Any) -> list[Any]:
    """``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


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
