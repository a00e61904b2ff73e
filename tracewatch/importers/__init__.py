"""Foreign formats, each turned into the same few steps.

An importer is a generator over one file's contents that yields, in order, what a recorder would have done:
``CreateTrace`` before the first ``Append`` to that trace, ``Fault`` for what could not be read (and goes on with the rest).
It does no network or log I/O; who sends the steps, and how fast, is the caller's business.

Rule 1: trace ids are a function of the file's contents, so importing a file twice changes nothing.
Rule 2: nothing is lost silently: what has no place in the protocol is kept as an extra key, or named by a ``Fault``.
Rule 3: where the source has times, every event carries ``occurred_at``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CreateTrace:
    """Create a trace. ``spec`` is the body of ``POST /api/traces`` and always has ``trace_id`` and ``task``."""

    spec: dict[str, Any]


@dataclass(frozen=True)
class Append:
    """Append one recorder's event (``{"event": …, …}``) to ``trace_id``."""

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
class Fault:
    """Something in the file that can't be imported. ``line`` counts from 1; ``field`` is a path such as ``steps[3].kind``."""

    message: str
    line: int | None = None
    field: str | None = None


Step = CreateTrace | Append | RestoreTrace | RestoreEvent | Fault
