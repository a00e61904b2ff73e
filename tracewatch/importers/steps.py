"""What an importer yields: the few steps a recorder would have taken.

Rule: in order. ``CreateTrace`` comes before the first ``AppendEvent`` to its trace, a parent's before its children's.
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
    """AppendEvent one recorder's event (``{"event": …, …}``) to ``trace_id``."""

    trace_id: str
    event: dict[str, Any]


@dataclass(frozen=True)
class RestoreTrace:
    """Put back a trace that `export` wrote. ``header`` is its first line's ``trace``."""

    header: dict[str, Any]


@dataclass(frozen=True)
class RestoreEvent:
    """Put back one stored event of the last ``RestoreTrace``, ``body`` being its canonical bytes."""

    body: bytes


@dataclass(frozen=True)
class ImportFault:
    """Something in the file that can't be imported.

    ``line`` counts from 1; ``field`` is a path such as ``steps[3].kind``; ``file`` is the name of the file when it is
    not the one being imported but one beside it.
    """

    message: str
    line: int | None = None
    field: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        """``agent-1.jsonl: line 4: message.content: …``, as far as each is known."""
        line = None if self.line is None else f"line {self.line}"
        return ": ".join(part for part in (self.file, line, self.field, self.message) if part)


Step = CreateTrace | AppendEvent | RestoreTrace | RestoreEvent | ImportFault
