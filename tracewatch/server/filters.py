"""The filter language in requests: what is not understood is refused, with its place."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidField
from ..model.filter import TraceFilter, parse_filter


def checked_filter(name: str, text: str) -> TraceFilter:
    """A filter that is understood. ``name``: the parameter that has it. Raises InvalidField, which says where."""
    asked = parse_filter(text)
    if asked.faults:
        details: list[dict[str, Any]] = [
            {"path": name, "message": fault.message, "at": fault.at, "end": fault.end} for fault in asked.faults
        ]
        first = asked.faults[0]
        message = f"{name}: {text[first.at : first.end][:80]!r} is not understood: {first.message}"
        raise InvalidField(message, details=details)
    return asked
