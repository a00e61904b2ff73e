"""Words and numbers for a terminal. Pure, but for its width.

Rule 1: text that an agent wrote goes through ``escape``: characters that move the cursor, hide text or reorder it are
        written out. It shows the same text as the viewer does (web/src/format.ts, ``visible``).
Rule 2: a width is a number of terminal cells, not of characters.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from rich.cells import cell_len, chop_cells, set_cell_size

# C0 but tab and line feed, DEL and C1; soft hyphen, zero-width characters, marks and overrides of direction, line
# separators, invisible operators, fillers, selectors that show nothing, interlinear anchors, lone surrogates, tags.
_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
# Extended_Pictographic of emoji-data.txt (Unicode 15.1), emoji modifiers and U+FE0F: the parts of joined emoji
_EMOJI = (
    "©®\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388\u23cf\u23e9-\u23f3\u23f8-\u23fa\u24c2"
    "\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716"
    "\u271d\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27a1\u27b0"
    "\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001f0ff"
    "\U0001f10d-\U0001f10f\U0001f12f\U0001f16c-\U0001f171\U0001f17e\U0001f17f\U0001f18e\U0001f191-\U0001f19a"
    "\U0001f1ad-\U0001f1e5\U0001f201-\U0001f20f\U0001f21a\U0001f22f\U0001f232-\U0001f23a\U0001f23c-\U0001f23f"
    "\U0001f249-\U0001f53d\U0001f546-\U0001f64f\U0001f680-\U0001f6ff\U0001f774-\U0001f77f\U0001f7d5-\U0001f7ff"
    "\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8ff"
    "\U0001f90c-\U0001f93a\U0001f93c-\U0001f945\U0001f947-\U0001faff\U0001fc00-\U0001fffd"
)
# The Arabic script (Scripts.txt), in which Persian, Urdu and others join letters or keep them apart by joiners
_ARABIC = (
    "\u0600-\u0604\u0606-\u060b\u060d-\u061a\u061e\u0620-\u063f\u0641-\u064a\u0656-\u066f\u0671-\u06dc\u06de-\u06ff"
    "\u0750-\u077f\u0870-\u088e\u0890\u0891\u0898-\u08e1\u08e3-\u08ff\ufb50-\ufdff\ufe70-\ufefc"
)
_UNSAFE = re.compile(f"[{_UNSEEN}]|(?<![{_EMOJI}{_ARABIC}])[\u200c\u200d]")
_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+(?:\.[0-9]+)?)s?)?", re.ASCII)


def _visible(match: re.Match[str]) -> str:
    if _is_joined(match):
        return match[0]
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_joined(match: re.Match[str]) -> bool:
    """Whether it is a joiner after a mark: Indic scripts make their letters so. Elsewhere joiners hide."""
    before = match.string[match.start() - 1 : match.start()]
    return bool(
        match[0] in "\u200c\u200d"
        and before
        and unicodedata.category(before).startswith("M")
        and not _UNSAFE.match(before)
    )


def escape(text: str) -> str:
    """``text`` with every character that is not plainly visible written out, such as ``\\x1b``. Line breaks stay.

    Each of CR, LF and CR LF is a line break. Joiners stay between the parts of an emoji and in scripts that need them.
    """
    if "\r" in text or "\t" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    return _UNSAFE.sub(_visible, text)


def escape_after(before: str, text: str) -> str:
    """``text`` escaped as what follows ``before``: a CR LF or an emoji may have been cut between the two."""
    last = before[-1:]
    return escape(last + text)[len(escape(last)) :]


def escape_json(written: bytes) -> bytes:
    """The same JSON with every character that is not plainly visible as its escape, such as ``\\u202e``."""
    return _UNSAFE.sub(_in_json, written.decode("utf-8", "replace")).encode()


def _in_json(match: re.Match[str]) -> str:
    if _is_joined(match):
        return match[0]
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
            if room != width and cell_len(piece) > room:  # the first row has a width of its own
                part = chop_cells(piece, room)[0]
                yield part
                piece, room = piece[len(part) :], width
            *whole, current = chop_cells(piece, width) if cell_len(piece) > width else [piece]
            yield from whole
        yield current
        room = width


def duration(milliseconds: float) -> str:
    """``850 ms``, ``1.2 s``, ``3m 04s``, ``2h 05m``, ``3d 4h``; ``0 ms`` where a clock was set back meanwhile."""
    if milliseconds < 1000:
        return f"{max(milliseconds, 0):.0f} ms"
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
    """``$1.23``, ``$0.0042``, ``<$0.0001``; ``–`` for what is not known."""
    if cost is None:
        return "–"
    if 0 < cost < 0.0001:
        return "<$0.0001"
    return f"${cost:,.2f}" if cost >= 0.1 or cost == 0 else f"${cost:.4f}"


def short(number: int) -> str:
    """``950``, ``1.5k``, ``12k``, ``1.2M``: a number of tokens where there is little room."""
    if number < 1000:
        return str(number)
    shown, units = number / 1000, ["k", "M", "G"]
    while shown >= 999.5 and len(units) > 1:
        shown /= 1000
        del units[0]
    return (f"{shown:.0f}" if shown >= 9.95 else f"{shown:.1f}".removesuffix(".0")) + units[0]


def used(of: Mapping[str, Any], tokens: int | None) -> str:
    """``1.5k → 200 · 1.2k cached``: the parts of a usage, where it is known; else ``1,700 tokens``, or ""."""
    usage = of.get("usage") or {}
    if not (usage.get("input_tokens") or usage.get("output_tokens")):
        return count(tokens, "token") if tokens else ""
    parts = [f"{short(usage.get('input_tokens', 0))} → {short(usage.get('output_tokens', 0))}"]
    for key, what in (("cache_read_tokens", "cached"), ("reasoning_tokens", "reasoning")):
        parts += [f"{short(usage[key])} {what}"] if usage.get(key) else []
    return " · ".join(parts)


def parse_duration(text: str) -> float | None:
    """Seconds of ``90``, ``5m``, ``1h30m``, ``2d``; None for anything else."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not match[0]:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
