"""What the client adds to the error tree: the server's refusals as it gave them, its absence, a gap's facts; and the
one thing it raises that is no error."""

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


def unauthorized(message: str) -> ApiError:
    """The server wants a token, or another one."""
    said = message.partition(" (")[0] or "this server asks for a token"
    hint = "set TRACEWATCH_TOKEN to one that `tracewatch token create` made there"
    return ApiError(401, "unauthorized", f"{said}: {hint}")


class Unreachable(TracewatchError):
    """No answer: the server is not there, or the connection broke or timed out."""

    code = "unreachable"
    status = 503


class Cancelled(BaseException):
    """Somebody wants the run to stop: ``reason`` and ``by`` say why and who, if that was said.

    No error, and so no TracewatchError and no Exception: ``except Exception`` in an agent's loop lets it pass, as it
    does asyncio's CancelledError.
    """

    def __init__(self, reason: str | None = None, by: str | None = None) -> None:
        super().__init__(reason, by)
        self.reason = reason
        self.by = by

    def __str__(self) -> str:
        words = f"cancelled by {self.by}" if self.by else "cancelled"
        return f"{words}: {self.reason}" if self.reason else words


class WatchGap(errors.WatchGap):
    """The log no longer follows the cursor.

    ``reason`` is trimmed, reset or ahead; a watch ``since`` ``cursor`` (of ``resume_event_id``) goes on; ``state`` is
    the trace as it is.
    """

    def __init__(
        self, message: str, *, reason: str, resume_event_id: int, cursor: str, state: State, **facts: Any
    ) -> None:
        super().__init__(message, reason=reason, resume_event_id=resume_event_id, cursor=cursor, **facts)
        self.reason = reason
        self.resume_event_id = resume_event_id
        self.cursor = cursor
        self.state = state
