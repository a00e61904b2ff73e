"""Exports of tracewatch: ``{"trace": …}``, then the stored events of this trace, then perhaps the next trace.

Rule 1: the file is read line by line. The bytes of an event go through untouched, so that a restored trace exports to
        the same bytes.
Rule 2: a content stands in lines of its own, in parts, before the first event that names it. It is whole, or a fault.
Rule 3: a log has no holes. After an unreadable event the rest of its trace is left out, and one fault says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import Invalid
from ..model.content_lines import ContentLines
from ..model.events import validate_stored
from .reading import BadJson, lines, load
from .steps import ImportFault, KeepContent, RestoreEvent, RestoreTrace, Step


def read(path: Path) -> Iterator[Step]:
    """The steps that restore the traces of an export."""
    reader = _Reader()
    for number, line in lines(path):
        try:
            if isinstance(line, BadJson):
                raise line
            yield reader.line(load(line), line)
        except BadJson as error:
            yield reader.skip_rest(ImportFault(error.message, number))
        except _Refused as refused:
            yield reader.skip_rest(ImportFault(refused.message, number, refused.field))
        except _Skipped:
            continue


class _Refused(Exception):
    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class _Skipped(Exception):
    """The line belongs to a trace that was given up with a fault."""


class _Reader:
    """Turns lines into steps. It knows the current trace and the event_id that comes next in it."""

    def __init__(self) -> None:
        self._trace_id: str | None = None  # None: no trace has begun, or it was given up
        self._next_id: int | None = None  # None: any, because the first event of a trimmed trace may have any id
        self._skipping = False
        self._content: ContentLines | None = None  # that is being read

    def line(self, row: Any, line: bytes) -> Step:
        if not isinstance(row, dict):
            raise _Refused('a line is a JSON object: {"trace": …}, {"blob": …} or a stored event')
        if "trace" in row and "event" not in row:
            return self._header(row["trace"])
        if self._skipping:
            raise _Skipped
        if self._trace_id is None:
            raise _Refused('an event before any {"trace": …} line', "event")
        if "blob" in row and "event" not in row:
            return self._part(row["blob"], self._trace_id)
        self._check(row, self._trace_id)
        self._next_id = row["event_id"] + 1
        return RestoreEvent(line)

    def _part(self, part: Any, trace_id: str) -> Step:
        """A line of a content; the step when it is whole."""
        try:
            self._content = self._content or ContentLines()
            data = self._content.take(part)
        except Invalid as error:
            self._content = None
            raise _Refused(error.message, "blob") from error
        if data is None:
            raise _Skipped
        media_type, self._content = self._content.media_type, None
        return KeepContent(trace_id, data, media_type)

    def _header(self, trace: Any) -> Step:
        self._trace_id, self._next_id, self._skipping = None, None, False
        if not isinstance(trace, dict):
            raise _Refused("must be a JSON object", "trace")
        if not isinstance(trace.get("trace_id"), str) or not trace["trace_id"]:
            raise _Refused("must be the trace's id", "trace.trace_id")
        self._trace_id = trace["trace_id"]
        return RestoreTrace(trace)

    def _check(self, row: dict[str, Any], trace_id: str) -> None:
        try:
            validate_stored(row)
        except Invalid as error:
            path = str(error.details[0].get("path", "")) if error.details else ""
            raise _Refused(error.message.removeprefix(f"{path}: "), path or None) from error
        if row["trace_id"] != trace_id:
            raise _Refused(f"is not that of the trace it stands below ({trace_id})", "trace_id")
        if self._next_id is not None and row["event_id"] != self._next_id:
            raise _Refused(f"is {row['event_id']} where {self._next_id} was expected", "event_id")

    def skip_rest(self, fault: ImportFault) -> ImportFault:
        if self._trace_id is None or self._skipping:
            self._skipping = True
            return fault
        self._skipping = True
        return ImportFault(
            f"{fault.message}; the rest of trace {self._trace_id} is passed over, since a log has no holes",
            fault.line,
            fault.field,
        )
