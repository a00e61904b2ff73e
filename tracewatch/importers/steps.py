"""The steps that an importer yields: those that a recorder would have taken.

Rule: ``CreateTrace`` comes before the first ``AppendEvent`` to its trace, and a parent's before its children's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CreateTrace:
    """Create a trace. ``spec`` is the body of ``POST /api/traces`` and always has ``trace_id`` and ``task``."""

    spec: dict[str, Any]


@dataclass(frozen=True)
class AppendEvent:
    """Append one event of a recorder (``{"event": …, …}``) to ``trace_id``.

    ``closing``: the event says how the trace stands where the source ends, and another one may come in its place when
    the source has grown. A trace's closing events come after all its others.
    """

    trace_id: str
    event: dict[str, Any]
    closing: bool = False


@dataclass(frozen=True)
class RestoreTrace:
    """Restore a trace of an export. ``header`` is the ``trace`` of its header line."""

    header: dict[str, Any]


@dataclass(frozen=True)
class RestoreEvent:
    """Restore one stored event of the last ``RestoreTrace``. ``body`` are its canonical bytes."""

    body: bytes


@dataclass(frozen=True)
class ImportFault:
    """A part of the file that can't be imported. ``message`` says why.

    ``line`` counts from 1; ``field`` is a path such as ``steps[3].kind``; ``file`` is the file's name, if it is not the
    imported file but one beside it.
    """

    message: str
    line: int | None = None
    field: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        """The fault in one line, ``agent-1.jsonl: line 4: message.content: …``; unknown parts are left out."""
        line = None if self.line is None else f"line {self.line}"
        return ": ".join(part for part in (self.file, line, self.field, self.message) if part)


Step = CreateTrace | AppendEvent | RestoreTrace | RestoreEvent | ImportFault
