"""Every error tracewatch raises on purpose, in one tree.

Rule 1: each class has a ``code`` (the word in ``{"error": code}``), an HTTP ``status`` and a WebSocket ``close_code``;
        the server maps errors to the wire from these and from nowhere else.
Rule 2: the message is for a person and never holds internal text.
Rule 3: ``facts`` are what a program needs from the error (``expected_seq`` …): JSON values only.
"""

from __future__ import annotations

from typing import Any


class TracewatchError(Exception):
    """Something went wrong in a way tracewatch knows about."""

    code = "error"
    status = 500
    close_code = 4500

    def __init__(self, message: str, *, details: list[dict[str, Any]] | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts  # what a program needs: stands at the top level of the answer
        self.details = details if details is not None else ([dict(facts)] if facts else [])

    def body(self) -> dict[str, Any]:
        """The answer's JSON: ``{"error", "message", "details", …facts}``."""
        return {"error": self.code, "message": self.message, "details": self.details, **self.facts}


# --- what the caller said can't be read or does not hold -------------------------------------------------------


class BadRequest(TracewatchError):
    """The request can't be parsed."""

    code = "bad_request"
    status = 400


class InvalidCursor(BadRequest):
    """``since_event_id`` is none of the forms of the protocol's section 4."""

    code = "invalid_cursor"


class Invalid(TracewatchError):
    """The request parses but does not validate. ``details``: ``[{"path": "0.goal.status", "message": …}]``."""

    code = "invalid_event"
    status = 422


class InvalidField(Invalid):
    """A parameter or field outside an event does not validate."""

    code = "invalid"


class ReservedEvent(Invalid):
    """A recorder appended an event that only the server writes."""

    code = "reserved_event"


class UnknownGoal(Invalid):
    """The event names a goal that is not in the trace."""

    code = "unknown_goal"


class UnknownMessage(Invalid):
    """The event names a message that is not in the trace."""

    code = "unknown_message"


class UnknownRequest(Invalid):
    """The event names a question that is not open."""

    code = "unknown_request"


class InvalidValue(Invalid):
    """An answer does not match its question's options or schema."""

    code = "invalid_value"


class NotText(Invalid):
    """Text was appended to a message whose content is not text."""

    code = "not_text"


class TooLarge(TracewatchError):
    """An event, a batch or a body is above its limit."""

    code = "too_large"
    status = 413


class TooSlow(TracewatchError):
    """A request's body did not come."""

    code = "timeout"
    status = 408


class MessageTooLarge(TooLarge):
    """A message would grow above its limit."""

    code = "message_too_large"


# --- what the caller said does not fit what is there ---------------------------------------------------------


class Conflict(TracewatchError):
    """The request contradicts what is stored."""

    code = "conflict"
    status = 409


class GoalExists(Conflict):
    """A goal with this id is already in the trace."""

    code = "goal_exists"


class MessageExists(Conflict):
    """A message with this id is already in the trace."""

    code = "message_exists"


class RequestExists(Conflict):
    """A question with this id was already asked in the trace."""

    code = "request_exists"


class InvalidTransition(Conflict):
    """A goal can't go from its status to the one asked for."""

    code = "invalid_transition"


class TraceConflict(Conflict):
    """The trace exists with other fields."""

    code = "trace_conflict"


class SequenceGap(Conflict):
    """A producer skipped a sequence number. ``expected_seq`` is the one to go on with."""

    code = "sequence_gap"


class NotRunning(Conflict):
    """The trace has ended, so there is nothing to cancel or to answer."""

    code = "not_running"


class NotOpen(Conflict):
    """The trace is not open on this record socket."""

    code = "not_open"


class AlreadyOpen(Conflict):
    """The trace is open on this record socket already."""

    code = "already_open"


class AlreadyAnswered(Conflict):
    """Somebody else's answer came first."""

    code = "already_answered"


class Expired(TracewatchError):
    """The question's time has run out."""

    code = "expired"
    status = 410


class UnexpectedLastEventId(TracewatchError):
    """``Expected-Last-Event-Id`` no longer holds. ``last_event_id`` is where the log stands."""

    code = "unexpected_last_event_id"
    status = 412


class NotFound(TracewatchError):
    """What was asked for is not there."""

    code = "not_found"
    status = 404
    close_code = 4504


class UnknownTrace(NotFound):
    """There is no trace with this id."""

    code = "unknown_trace"


class UnknownParent(NotFound):
    """``parent_trace_id`` names no trace."""

    code = "unknown_parent"


class UnknownParentGoal(NotFound):
    """``parent_goal_id`` names no goal of the parent."""

    code = "unknown_goal"


class NoSuchRequest(NotFound):
    """No question with this id was asked in the trace."""

    code = "unknown_request"


class NoSuchMessage(NotFound):
    """No message with this id is in the trace."""

    code = "unknown_message"


class TraceDeleted(NotFound):
    """The trace was deleted while it was being watched."""

    code = "trace_deleted"


class Gap(TracewatchError):
    """The events asked for can't follow the cursor. ``code`` is the reason: trimmed, reset or ahead."""

    status = 410

    def __init__(self, reason: str, message: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.code = reason


# --- the server's side ---------------------------------------------------------------------------------------


class Unauthorized(TracewatchError):
    """No token, or one that does not let in: unknown, revoked, expired."""

    code = "unauthorized"
    status = 401
    close_code = 4501


class Forbidden(TracewatchError):
    """The request comes from where it may not come from, or asks for what its token is not for."""

    code = "forbidden"
    status = 403
    close_code = 4503


class TooMany(TracewatchError):
    """A limit on how many is reached; try again later."""

    code = "too_many"
    status = 429
    close_code = 4029


class Unavailable(TracewatchError):
    """The log can't take or give events now; try again later."""

    code = "unavailable"
    status = 503
    close_code = 4013


class Damaged(Unavailable):
    """What was asked for lies in a damaged part of the log. Elsewhere it may go on; here only a repair helps."""


class LogError(TracewatchError):
    """The log can't be opened: its message says why and what to do."""

    code = "log_error"


class LogInUse(LogError):
    """Another process has the log open."""

    code = "log_in_use"


class LogLocked(LogError):
    """The log could not be opened because another program holds it locked: try again."""

    code = "log_locked"


class NeedsToken(LogError):
    """A server that others can reach was to be started, and nobody of them could get in."""

    code = "needs_token"


class NewerDatabase(LogError):
    """The database was written by a newer tracewatch than this one."""

    code = "newer_database"


# --- raised by the client ------------------------------------------------------------------------------------


class WatchError(TracewatchError):
    """A watch can't go on and reconnecting would not help."""

    code = "watch_failed"


class WatchGap(WatchError):
    """The log no longer follows the cursor (``reason``: trimmed, reset or ahead)."""

    code = "gap"


class ProtocolViolation(WatchError):
    """The server sent something that breaks the protocol, such as a hole between two events."""

    code = "protocol_violation"
