"""What the client adds to the error tree: the server's refusals as it gave them, and its absence."""

from __future__ import annotations

from typing import Any

from ..errors import TracewatchError


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
