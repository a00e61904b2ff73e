"""The client's own exceptions: a refusal of the server, an unreachable server, and a cancel, which is no error."""

from __future__ import annotations

from typing import Any

from ..errors import TracewatchError


class ApiError(TracewatchError):
    """The server refused a call.

    ``status``: the HTTP status. ``code``: the error's name, such as ``unknown_trace``. ``details``: ``{path, message}``
    for each fault in the request. ``facts``: further values of the answer, such as ``expected_seq``.

        except tracewatch.ApiError as error:
            if error.code != "not_running":
                raise
    """

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
    """The server did not answer: it is not there, or the connection broke or timed out.

    except tracewatch.Unreachable as error:
        print(error.message)
    """

    code = "unreachable"
    status = 503


class Cancelled(BaseException):
    """The run was cancelled. ``reason`` and ``by`` are the words and the name given with the cancel, or None.

    It is raised within ``t.cancel_scope()``, and by ``t.ask`` and ``t.raise_if_cancelled()``. It is no error, and so no
    TracewatchError and no Exception: ``except Exception`` in an agent's loop lets it pass, as it does asyncio's
    CancelledError. A program that does not catch it ends with one line and exit code 130, without a traceback.

        except tracewatch.Cancelled as cancelled:
            print(cancelled.reason, cancelled.by)
    """

    def __init__(self, reason: str | None = None, by: str | None = None) -> None:
        super().__init__(reason, by)
        self.reason = reason
        self.by = by

    def __str__(self) -> str:
        words = f"cancelled by {self.by}" if self.by else "cancelled"
        return f"{words}: {self.reason}" if self.reason else words
