"""The lines of files, told some at a time; those of several JSONL files in the order of their times.

Rule 1: a line without a time has that of the line before it; lines before the first time have that one.
Rule 2: of equal times the order of the files, and in a file that of its lines, counts.
Rule 3: only some lines of each file are in memory. One that stands further than those from its place by its time comes
        when it is read.
Rule 4: the files are read twice. Those that have not begun yet, or have ended, are not open.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ..model.times import parse_time
from .reading import LINE_BYTES, BadJson, entries, records, time_of, too_long, values_of
from .steps import ImportFault, Step

TOLD, LONG = 256, 1 << 13  # lines whose facts are given at a time; a long one counts as several of this many bytes
_LINES, _BYTES = 1000, 1 << 18  # of a file that are in memory, and one line more


class LineMapping(Protocol):
    """The mapping of one file: it takes lines, and gives facts."""

    def line(self, number: int, row: Any) -> None:
        """Take one line: its object, or its ImportFault."""

    def drain(self) -> list[Step]:
        """The facts since the last time."""


def tell(path: Path, mapping: LineMapping) -> Iterator[Step]:
    """The facts of a file of lines, or of one array, some lines at a time."""
    told = 0
    for line, size, value in entries(path):
        for number, row in enumerate(value, 1) if isinstance(value, list) else [(line or 1, value)]:
            mapping.line(number, _object(row, number))
            told += 1
            if told > TOLD:
                told = 0
                yield from mapping.drain()
        told += size // LONG
    yield from mapping.drain()


class Timeline:
    """The lines of files. ``add`` looks at a file, then ``rows`` gives those of all files in order."""

    def __init__(self) -> None:
        self._files: list[tuple[float, int, Path]] = []  # first time, number

    def add(self, path: Path, seen: Callable[[dict[str, Any]], bool]) -> int | None:
        """Look at a file, and return its number. ``seen`` gets each record; False: the file is left out, as None."""
        first: float | None = None
        for _, _, row in records(path):
            given = row if isinstance(row, dict) else {}
            if not seen(given):
                return None
            if first is None and (at := time_of(given.get("timestamp"))):
                first = parse_time(at)
        number = len(self._files)
        self._files.append((float("-inf") if first is None else first, number, path))
        return number

    def rows(self) -> Iterator[tuple[int, int, Any, int]]:
        """(number of the file, number of the line, the object or an ImportFault, its size in bytes) of each record."""
        waiting = sorted(self._files, key=lambda file: file[:2], reverse=True)
        open_files: list[_Head] = []
        while waiting or open_files:
            while waiting and (not open_files or waiting[-1][:2] <= open_files[0][:2]):
                first, number, path = waiting.pop()
                _advance(open_files, number, _in_order(path, first))
            if open_files:
                _, number, line, row, size, rest = heapq.heappop(open_files)
                yield number, line, row, size
                _advance(open_files, number, rest)


_Row = tuple[float, int, Any, int]  # time, number of the line, the object or an ImportFault, bytes
_Head = tuple[
    float, int, int, Any, int, Iterator[_Row]
]  # time, number of the file, and the rest of a row; what follows


def _advance(heap: list[_Head], number: int, rows: Iterator[_Row]) -> None:
    found = next(rows, None)
    if found is not None:
        at, line, row, size = found
        heapq.heappush(heap, (at, number, line, row, size, rows))


def _in_order(path: Path, first: float) -> Iterator[_Row]:
    """The lines of one file, of those in memory always the earliest."""
    held: list[tuple[float, int, int, Any, int]] = []
    size, last = 0, first
    for order, (line, length, row) in enumerate(records(path)):
        given = row if isinstance(row, dict) else {}
        at = time_of(given.get("timestamp"))
        last = parse_time(at) if at else last
        heapq.heappush(held, (last, order, line, _object(row, line), length))
        size += length
        while len(held) > _LINES or (size > _BYTES and len(held) > 1):
            at_s, _, number, found, length = heapq.heappop(held)
            size -= length
            yield at_s, number, found, length
    while held:
        at_s, _, number, found, length = heapq.heappop(held)
        yield at_s, number, found, length


def _object(row: Any, line: int) -> dict[str, Any] | ImportFault:
    """The object of a line, or what is wrong with it."""
    if isinstance(row, BadJson):
        return ImportFault(row.message, line)
    return row if isinstance(row, dict) else ImportFault("a line is a JSON object", line)


def rows_of(line: bytes | BadJson, number: int) -> Iterator[dict[str, Any] | ImportFault]:
    """The objects of one line, and before them an ImportFault for what is bad in it. A blank line has none."""
    for value in values_of(line, number) if isinstance(line, bytes) else [line]:
        yield _object(value, number)


class LineCutter:
    """Cuts bytes into lines as they come. What is longer than a line may be is not kept."""

    def __init__(self) -> None:
        self.number = 0  # of the last whole line
        self._parts: list[bytes] = []
        self._size = 0  # of the line that has begun
        self._told = False  # its beginning was taken

    def cut(self, data: bytes) -> list[tuple[int, bytes | BadJson]]:
        """The lines that end in these bytes, each with its number."""
        *ends, rest = data.split(b"\n")
        found = [self._line(end) for end in ends]
        self._add(rest)
        return found

    def rest(self) -> bytes:
        """The line that has begun, b"" if it is too long to be kept."""
        return b"".join(self._parts)

    def take_rest(self) -> tuple[int, bytes | BadJson] | None:
        """The line that has begun, as if it had ended; None if there is none."""
        if not self._size:
            return None
        found = self._line(b"")
        self.number, self._told = found[0], True
        return found

    def _line(self, end: bytes) -> tuple[int, bytes | BadJson]:
        self._add(end)
        self.number += not self._told
        line = self.rest() if self._size <= LINE_BYTES else too_long(self.number, self._size)
        self._parts, self._size, self._told = [], 0, False
        return self.number, line

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > LINE_BYTES:
            self._parts = []
        elif data:
            self._parts.append(data)
