"""The position at which `tail` begins, and the cursor file that keeps the position it has reached.

Rule 1: a position is written after the output before it was flushed, and the file is replaced by renaming. So it is
        never half-written and never ahead of the output.
Rule 2: the options that name a position exclude each other. Without one the documented default holds.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InvalidCursor
from ..model.frames import parse_cursor
from ..model.times import parse_time
from . import text
from .common import CliError

DEFAULT_EVENTS = 20  # the last screen of a log, as tail(1) shows of a file
_SUB_TRACE = re.compile(r"([A-Za-z0-9._:@-]{1,128}) ([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True)
class Position:
    """A position to begin at. ``since``: as for ``tracewatch.watch``; ``from_s``: the Unix time of the first event."""

    since: str | None = None
    from_s: float | None = None
    sub_traces: dict[str, int] = field(default_factory=dict)  # the last event of each that was printed


def parse_since(given: str, now_s: float) -> float:
    """The Unix time that ``--since`` names: ``5m`` before ``now_s``, or an RFC 3339 time. Raises CliError."""
    seconds = text.parse_duration(given)
    if seconds is not None:
        return now_s - seconds
    try:
        return parse_time(given)
    except ValueError:
        raise CliError(
            f"--since {given}: neither a duration such as 90s, 5m, 1h30m nor a time such as 2026-11-20T08:00:00Z"
        ) from None


def parse_count(given: str) -> int | None:
    """The number of events that ``-n`` names; None for ``all``. Raises CliError."""
    if given == "all":
        return None
    if not re.fullmatch(r"[0-9]{1,15}", given, re.ASCII):
        raise CliError(f"-n {given}: a number of events or `all`")
    return int(given)


def choose_start(
    *,
    count: str | None,
    since: str | None,
    after: str | None,
    cursor_file: CursorFile | None,
    filtered: bool,
    children: bool,
    now_s: float,
) -> Position:
    """The position that the options name. Raises CliError if they contradict each other or can't be read."""
    given = [name for name, value in (("-n", count), ("--since", since), ("--after", after)) if value is not None]
    if len(given) > 1:
        raise CliError(f"{' and '.join(given)}: each says where to begin; give one")
    if cursor_file is not None:
        kept = cursor_file.read()
        if kept is not None:
            return kept
    if after is not None:
        try:
            parse_cursor(after)
        except InvalidCursor as error:
            raise CliError(f"--after: {error.message}") from error
        return Position(after)
    if since is not None:
        return Position(from_s=parse_since(since, now_s))
    if count is None:
        everything = cursor_file is not None or filtered or children
        return Position(None if everything else f"-{DEFAULT_EVENTS}")
    number = parse_count(count)
    return Position(None if number is None else "latest" if number == 0 else f"-{number}")


class CursorFile:
    """A file with the cursor of the last event printed, and a line ``sub_trace_id event_id`` for each sub-trace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = ""

    def read(self) -> Position | None:
        """The position to go on at; None without a file or if it is empty. Raises CliError if it can't be read."""
        if not self._path.parent.is_dir():  # refused now, before events are printed
            raise CliError(f"--cursor-file {self._path}: there is no folder {self._path.parent}")
        try:
            lines = self._path.read_text().split("\n")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise CliError(f"--cursor-file {self._path}: {error}") from error
        if not "".join(lines).strip():
            return None
        sub_traces = {}
        try:
            parse_cursor(lines[0].strip())
            for line in lines[1:]:
                match = _SUB_TRACE.fullmatch(line)
                if match:
                    sub_traces[match[1]] = int(match[2])
                elif line.strip():
                    raise InvalidCursor(f"{line[:80]!r} is not a sub-trace and its last event")
        except InvalidCursor as error:
            raise CliError(f"--cursor-file {self._path}: {error.message}") from error
        return Position(lines[0].strip(), sub_traces=sub_traces)

    def write(self, cursor: str, sub_traces: dict[str, int]) -> None:
        """Write the position of the output. Raises CliError."""
        content = "\n".join([cursor, *(f"{trace_id} {last}" for trace_id, last in sub_traces.items()), ""])
        if content == self._written:
            return
        try:
            write_atomically(self._path, content.encode())
        except OSError as error:
            raise CliError(f"--cursor-file {self._path}: {error.strerror}") from error
        self._written = content


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content. At any moment the file has the whole of the old content or of the new one.

    Of a link it is the file to which it leads, so that the link stays.
    """
    path = path.resolve()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
