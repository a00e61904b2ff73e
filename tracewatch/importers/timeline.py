"""The lines of several JSONL files in the order of their times, although each is read a line at a time.

Rule 1: a line without a time has that of the line before it; lines before the first time have that one.
Rule 2: of equal times the order of the files, and in a file that of its lines, counts.
Rule 3: the files are read twice, so that only where the lines are is remembered and not what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from ..model.times import parse_time
from .reading import BadJson, load_mended, records, time_of
from .steps import ImportFault


class Timeline:
    """The lines of files. ``add`` looks at a file, then ``rows`` gives those of all files in order."""

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._places: list[tuple[float, int, int, int]] = []  # time, file, place in it, number of the line

    def add(self, path: Path, seen: Callable[[dict[str, Any]], bool]) -> int | None:
        """Look at a file, and return its number. ``seen`` gets each record; False: the file is left out, as None."""
        number, last = len(self._paths), None
        early: dict[tuple[int, int], None] = {}  # lines before the first one with a time
        places: list[tuple[float, int, int, int]] = []
        for line, place, row in records(path):
            given = row if isinstance(row, dict) else {}
            if not seen(given):
                return None
            at = time_of(given.get("timestamp"))
            last = parse_time(at) if at else last
            if last is None:
                early[place, line] = None
            elif not places or places[-1][2] != place:
                places.append((last, number, place, line))
        first = places[0][0] if places else float("-inf")
        self._places += [(first, number, *one) for one in early]
        self._places += places
        self._paths.append(path)
        return number

    def rows(self) -> Iterator[tuple[int, int, Any]]:
        """(number of the file, number of the line, the object or an ImportFault) of each record."""
        self._places.sort(key=lambda place: place[0])
        with ExitStack() as stack:
            opened: dict[int, BinaryIO] = {}
            for _, number, place, line in self._places:
                file = opened.get(number)
                if file is None:
                    file = opened[number] = stack.enter_context(self._paths[number].open("rb"))
                file.seek(place)
                for row in rows_of(file.readline(), line):
                    yield number, line, row


def rows_of(line: bytes, number: int) -> Iterator[Any]:
    """The objects of one line, and before them an ImportFault for what is bad in it. A blank line has none."""
    line = line.strip()
    if not line:
        return
    try:
        values, fault = load_mended(line)
    except BadJson as error:
        values, fault = [], error.message
    if fault is not None:
        yield ImportFault(fault, number)
    for value in values:
        yield value if isinstance(value, dict) else ImportFault("a line is a JSON object", number)
