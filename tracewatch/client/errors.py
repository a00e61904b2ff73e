"""What the client adds to the error tree: the server's refusals as it gave them, its absence, a gap's facts."""

from __future__ import annotations

from typing import Any

from .. import errors
from ..errors import TracewatchError
from ..model.state import State


class ApiError(TracewatchError):
    """The server refused: ``status``, ``code``, ``details`` and ``facts`` are its answer's."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: list[dict[str, Any]] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, details=details or [])
        self.status = status
        self.code = code
        self.facts = facts or {}


class Unreachable(TracewatchError):
    """No answer: the server is not there, or the connection broke or timed out."""

    code = "unreachable"
    status = 503


class WatchGap(errors.WatchGap):
    """The log no longer follows the cursor.

    ``reason`` is trimmed, reset or ahead; a watch from ``resume_event_id`` goes on; ``state`` is the trace as it is.
    """

    def __init__(self, message: str, *, reason: str, resume_event_id: int, state: State, **facts: Any) -> None:
        super().__init__(message, reason=reason, resume_event_id=resume_event_id, **facts)
        self.reason = reason
        self.resume_event_id = resume_event_id
        self.state = state
