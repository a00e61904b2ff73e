"""The doctor's findings, and how bad each is."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

OK, WARNING, ERROR = "ok", "warning", "error"
MOST_OF_A_KIND = 20  # a log that is broken in a million places is as broken as one in twenty


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``code`` is for programs, ``message`` and ``advice`` are for people."""

    severity: str  # ok, warning or error
    code: str
    message: str
    advice: str = ""
    trace_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As ``doctor --json`` writes it."""
        return asdict(self)


@dataclass(slots=True)
class Findings:
    """Collects findings, the first twenty of a kind."""

    _found: list[Finding] = field(default_factory=list)
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def ok(self, code: str, message: str) -> None:
        """This is as it should be."""
        self._add(Finding(OK, code, message))

    def warning(self, code: str, message: str, advice: str, trace_id: str | None = None) -> None:
        """This works, and may not for long, or not well."""
        self._add(Finding(WARNING, code, message, advice, trace_id))

    def error(self, code: str, message: str, advice: str, trace_id: str | None = None) -> None:
        """This is broken."""
        self._add(Finding(ERROR, code, message, advice, trace_id))

    def count(self, *severities: str) -> int:
        """How many findings of these severities there are."""
        return sum(number for (severity, _), number in self._counts.items() if severity in severities)

    def _add(self, finding: Finding) -> None:
        kind = (finding.severity, finding.code)
        self._counts[kind] += 1
        if self._counts[kind] <= MOST_OF_A_KIND:
            self._found.append(finding)

    def all(self) -> list[Finding]:
        """The findings, in the order they were made; of kinds with too many, one more that says how many."""
        more = [
            Finding(severity, code, f"and {number - MOST_OF_A_KIND:,} more of this kind")
            for (severity, code), number in self._counts.items()
            if number > MOST_OF_A_KIND
        ]
        return [*self._found, *more]
