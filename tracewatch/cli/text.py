"""Words and numbers for a terminal. Pure, but for its width.

Rule 1: text that an agent wrote goes through ``escape``: characters that move the cursor, hide text or reorder it are
        written out.
Rule 2: a width is a number of terminal cells, not of characters.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import orjson
from rich.cells import cell_len, chop_cells, set_cell_size

# C0 but tab and line feed, DEL and C1; soft hyphen, zero-width characters, marks and overrides of direction, line
# separators, invisible operators, interlinear anchors, lone surrogates, tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+(?:\.[0-9]+)?)s?)?", re.ASCII)


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escape(text: str) -> str:
    """``text`` with every character that is not plainly visible written out, such as ``\\x1b``. Line breaks stay."""
    text = text.replace("\r\n", "\n").expandtabs(4) if "\r" in text or "\t" in text else text
    return _UNSAFE.sub(_visible, text)


def escape_json(written: bytes) -> bytes:
    """The same JSON with every character that is not plainly visible as its escape, such as ``\\u202e``."""
    return _UNSAFE.sub(_in_json, written.decode("utf-8", "replace")).encode()


def _in_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def json_document(value: Any) -> bytes:
    """``value`` as indented JSON for people. An invisible character is written as its escape, such as ``\\u202e``."""
    return escape_json(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def one_line(text: str) -> str:
    """``text`` escaped, its line breaks shown as ``⏎``."""
    return escape(text.strip("\r\n")).replace("\n", " ⏎ ")


def cut(text: str, cells: int) -> str:
    """``text`` in at most ``cells`` cells, with ``…`` where something was cut off."""
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, max(cells - 1, 0)).rstrip() + "…" if cells > 0 else ""


def terminal_width() -> int:
    """The cells in a row of the terminal now; it may have been resized since the last call."""
    return shutil.get_terminal_size().columns


def wrap(text: str, width: int, first: int | None = None) -> Iterator[str]:
    """``text`` as lines of at most ``width`` cells (the first: ``first`` cells), broken at blanks where possible."""
    room = width if first is None else first
    for line in text.split("\n"):
        current = ""
        for piece in re.findall(r"\s*\S+|\s+$", line) or [""]:
            if cell_len(current) + cell_len(piece) <= room:
                current += piece
                continue
            if current or room < width:
                yield current
                room = width
                piece = piece.lstrip()
            *whole, current = chop_cells(piece, room) if cell_len(piece) > room else [piece]
            for part in whole:
                yield part
                room = width
        yield current
        room = width


def duration(milliseconds: float) -> str:
    """``850 ms``, ``1.2 s``, ``3m 04s``, ``2h 05m``, ``3d 4h``."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def age(seconds: float) -> str:
    """``12s``, ``5m``, ``3h``, ``9d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(int(seconds), 0)}s"


def count(number: int, noun: str = "") -> str:
    """``1,234`` or, with a noun, ``1 event`` and ``1,234 events``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}" if noun else f"{number:,}"


def size(number_of_bytes: int) -> str:
    """``1.2 MB``."""
    number, units = float(number_of_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while number >= 999.95 and len(units) > 1:
        number /= 1000
        del units[0]
    return f"{number_of_bytes:,} bytes" if units[0] == "bytes" else f"{number:.1f} {units[0]}"


def dollars(cost: float | None) -> str:
    """``$1.23``, ``$0.0042``, ``<$0.0001``; ``$?`` for the sum that an older server could not hold."""
    if cost is None:
        return "$?"
    if 0 < cost < 0.0001:
        return "<$0.0001"
    return f"${cost:,.2f}" if cost >= 0.1 or cost == 0 else f"${cost:.4f}"


def parse_duration(text: str) -> float | None:
    """Seconds of ``90``, ``5m``, ``1h30m``, ``2d``; None for anything else."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not match[0]:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
