"""The steps that an importer yields: those that a recorder would have taken.

Rule: ``CreateTrace`` comes before the first ``AppendEvent`` to its trace, and a parent's before its children's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CreateTrace:
    """Create a trace. ``spec`` is the body of ``POST /api/traces`` and always has ``trace_id`` and ``task``."""

    spec: dict[str, Any]


@dataclass(frozen=True)
class AppendEvent:
    """Append one event of a recorder (``{"event": …, …}``) to ``trace_id``."""

    trace_id: str
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Put:
    """A fact that a trace shall hold: what is there already is not written again (ledger.py says what that means).

    ``kind`` is "trace" (``fields`` as for CreateTrace), "message", "append" (``text`` at the character ``start`` of a
    message that streams), "show" (a piece of an answer as a hook tells it), "said" (all of such an answer), "goal",
    "event" (``event`` is its name) or "status". ``key`` names the fact in its trace: the id of a message or goal, or
    that of the line of a file that tells of an event or status. ``at``: RFC 3339, or None.
    """

    trace_id: str
    kind: str
    key: str
    fields: dict[str, Any]
    at: str | None = None


@dataclass(frozen=True)
class KeepContent:
    """Store big or binary content of a trace, which events after this step name."""

    trace_id: str
    data: bytes
    media_type: str


@dataclass(frozen=True)
class RestoreTrace:
    """Restore a trace of an export. ``header`` is the ``trace`` of its header line."""

    header: dict[str, Any]


@dataclass(frozen=True)
class RestoreEvent:
    """Restore one stored event of the last ``RestoreTrace``. ``body`` are its canonical bytes."""

    body: bytes


@dataclass(frozen=True)
class WireBody:
    """What an agent's tracer sent to ``route`` of a server, which is given to ours as it is.

    ``items``: how many spans, records or runs it has; ``line``: of the file, for faults; ``headers``: where it isn't
    plain JSON.
    """

    route: str
    body: bytes
    items: int
    line: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NextFile:
    """What follows is of the file ``name``, the ``number``-th of ``of`` in the folder that is imported."""

    name: str
    number: int
    of: int


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


Step = Put | CreateTrace | AppendEvent | KeepContent | RestoreTrace | RestoreEvent | WireBody | NextFile | ImportFault
