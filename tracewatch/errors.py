"""All errors that tracewatch raises on purpose, in one tree.

Rule 1: each class has a ``code`` (the word in ``{"error": code}``), an HTTP ``status`` and a WebSocket ``close_code``.
        The server answers an error by these three and by nothing else.
Rule 2: the message is for a person and never contains internal text.
Rule 3: ``facts`` are the values that a program needs (such as ``expected_seq``); they are JSON.
"""

from __future__ import annotations

from typing import Any

LONGEST_TEXT = 1000  # characters of a message, and of each text in the details
MOST_DETAILS = 20


def _short(value: Any) -> Any:
    return f"{value[: LONGEST_TEXT - 1]}…" if isinstance(value, str) and len(value) > LONGEST_TEXT else value


class TracewatchError(Exception):
    """The base of all errors of tracewatch.

    ``code`` is a word for programs, ``message`` a sentence for people, ``status`` the HTTP status that the server
    answers with. ``details`` is a list of JSON objects, one for each fault; ``facts`` are further JSON values by name.

        except tracewatch.TracewatchError as error:
            print(error.code, error.message)
    """

    code = "error"
    status = 500
    close_code = 4500

    def __init__(self, message: str, *, details: list[dict[str, Any]] | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts  # these stand at the top level of the answer
        self.details = details if details is not None else ([dict(facts)] if facts else [])

    def body(self) -> dict[str, Any]:
        """The JSON of the server's answer: ``{"error", "message", "details", …facts}``.

        Texts are cut and details left out beyond a limit: a refusal never repeats what was refused.
        """
        details = [{key: _short(value) for key, value in one.items()} for one in self.details[:MOST_DETAILS]]
        return {
            "error": self.code,
            "message": _short(self.message),
            "details": details,
            **{key: _short(value) for key, value in self.facts.items()},
        }


# --- the request can't be parsed or is not valid -----------------------------------------------------------------


class BadRequest(TracewatchError):
    """The request can't be parsed."""

    code = "bad_request"
    status = 400


class InvalidCursor(BadRequest):
    """``since_event_id`` has none of the forms of the protocol's section 4."""

    code = "invalid_cursor"


class Invalid(TracewatchError):
    """The request can be parsed but is not valid. ``details``: ``[{"path": "0.goal.status", "message": …}]``."""

    code = "invalid_event"
    status = 422


class InvalidField(Invalid):
    """A parameter, or a field outside an event, is not valid."""

    code = "invalid"


class ReservedEvent(Invalid):
    """A recorder appended an event that only the server writes."""

    code = "reserved_event"


class UnknownGoal(Invalid):
    """The event names a goal that the trace does not have."""

    code = "unknown_goal"


class UnknownMessage(Invalid):
    """The event names a message that the trace does not have."""

    code = "unknown_message"


class UnknownStep(Invalid):
    """The event names a step that the trace does not have."""

    code = "unknown_step"


class UnknownRequest(Invalid):
    """The event names a question that is not open."""

    code = "unknown_request"


class InvalidValue(Invalid):
    """The answer does not fit its question's options or schema."""

    code = "invalid_value"


class NotText(Invalid):
    """Text was appended to a message whose content is not text."""

    code = "not_text"


class UnknownBlob(Invalid):
    """The event names content that the trace does not have, or of another size. ``blob`` is its SHA-256."""

    code = "unknown_blob"


class BlobMismatch(Invalid):
    """What was sent is not the content of that SHA-256."""

    code = "blob_mismatch"


class GoalDepth(Invalid):
    """A goal would stand too deep. ``parent_id`` is the goal above its parent that may have children."""

    code = "goal_depth"


class StepDepth(Invalid):
    """A step would stand too deep. ``step_id`` is the step above that may have steps in it."""

    code = "step_depth"


class SubTraceDepth(Invalid):
    """A trace would stand too deep. ``parent_trace_id`` is the trace above its parent that may have sub-traces."""

    code = "sub_trace_depth"


class TooLarge(TracewatchError):
    """An event, a batch or a body is above its limit."""

    code = "too_large"
    status = 413


class TraceBlobsFull(TooLarge):
    """The contents of a trace would take more than they may. ``used`` are the bytes that it has, of ``limit``."""

    code = "trace_blobs_full"


class UpgradeRequired(TracewatchError):
    """A WebSocket's address was asked for by plain HTTP."""

    code = "upgrade_required"
    status = 426


class TooSlow(TracewatchError):
    """The body of the request did not arrive in time."""

    code = "timeout"
    status = 408


class MessageTooLarge(TooLarge):
    """A message would grow above its limit."""

    code = "message_too_large"


# --- the request contradicts what the log holds ------------------------------------------------------------------


class Conflict(TracewatchError):
    """The request contradicts the state of the log."""

    code = "conflict"
    status = 409


class GoalExists(Conflict):
    """A goal with this id is already in the trace."""

    code = "goal_exists"


class StepExists(Conflict):
    """The trace has a step of this id already."""

    code = "step_exists"


class MessageExists(Conflict):
    """A message with this id is already in the trace."""

    code = "message_exists"


class RequestExists(Conflict):
    """A question with this id was already asked in the trace."""

    code = "request_exists"


class InvalidTransition(Conflict):
    """A goal can't change from its status to the requested one."""

    code = "invalid_transition"


class TraceConflict(Conflict):
    """The trace exists with other fields."""

    code = "trace_conflict"


class SequenceGap(Conflict):
    """A producer skipped a sequence number. ``expected_seq`` is the next one that the log takes."""

    code = "sequence_gap"


class NotRunning(Conflict):
    """The trace has ended, so it can't be cancelled and its questions can't be answered."""

    code = "not_running"


class NotOpen(Conflict):
    """The trace is not open on this record socket."""

    code = "not_open"


class AlreadyOpen(Conflict):
    """The trace is open on this record socket already."""

    code = "already_open"


class NotAnswerable(Conflict):
    """The question can be answered in its source's own terminal only."""

    code = "not_answerable"


class AlreadyAnswered(Conflict):
    """Another answer to the question came first."""

    code = "already_answered"


class Expired(TracewatchError):
    """The question expired before it was answered: ``expires_in_s`` of ``ask`` has passed.

    try:
        answer = t.ask("Deploy?", expires_in_s=60)
    except tracewatch.Expired:
        answer = "no"
    """

    code = "expired"
    status = 410


class UnexpectedLastEventId(TracewatchError):
    """The log has another last event than ``Expected-Last-Event-Id`` names. ``last_event_id`` is the log's."""

    code = "unexpected_last_event_id"
    status = 412


class NotFound(TracewatchError):
    """The requested thing does not exist."""

    code = "not_found"
    status = 404
    close_code = 4504


class UnknownTrace(NotFound):
    """There is no trace with this id. A watch raises it, unless it is to ``wait`` for the trace.

    try:
        events = list(tracewatch.watch_sync("run-1"))
    except tracewatch.UnknownTrace:
        events = []
    """

    code = "unknown_trace"


class UnknownParent(NotFound):
    """``parent_trace_id`` names no trace."""

    code = "unknown_parent"


class UnknownParentGoal(NotFound):
    """``parent_goal_id`` names no goal of the parent."""

    code = "unknown_goal"


class UnknownParentStep(NotFound):
    """The parent trace has no such step."""

    code = "unknown_step"


class NoSuchRequest(NotFound):
    """No question with this id was asked in the trace."""

    code = "unknown_request"


class NoSuchMessage(NotFound):
    """The trace has no message with this id."""

    code = "unknown_message"


class NoSuchBlob(NotFound):
    """The trace has no content of this SHA-256."""

    code = "unknown_blob"


class TraceDeleted(NotFound):
    """The trace was deleted while it was being watched."""

    code = "trace_deleted"


class Gap(TracewatchError):
    """The log can't continue from the cursor. ``code`` is the reason: trimmed, reset or ahead."""

    status = 410

    def __init__(self, reason: str, message: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.code = reason


# --- the server's side ---------------------------------------------------------------------------------------


class Unauthorized(TracewatchError):
    """The request has no token, or one that is unknown, revoked or expired."""

    code = "unauthorized"
    status = 401
    close_code = 4501


class Forbidden(TracewatchError):
    """The request comes from an origin that is not allowed, or its token does not have the scope for it."""

    code = "forbidden"
    status = 403
    close_code = 4503


class TooMany(TracewatchError):
    """A limit on the number of requests, connections or watchers is reached; try again later."""

    code = "too_many"
    status = 429
    close_code = 4029


class WatcherShare(TooMany):
    """A client has as many of the server's watchers as one client may have; others still have room."""

    code = "watcher_share"


class Unavailable(TracewatchError):
    """The log can't store or read events now; try again later."""

    code = "unavailable"
    status = 503
    close_code = 4013


class TooMuchWork(TracewatchError):
    """The request asks for more reading than one request may; the message says what would make it less."""

    code = "too_slow"
    status = 503
    close_code = 4013


class Damaged(Unavailable):
    """The request needs a damaged part of the log. Other parts still work; this one needs a repair."""


class LogError(TracewatchError):
    """The log can't be opened. The message says why and how to mend it."""

    code = "log_error"


class LogInUse(LogError):
    """Another process has the log open."""

    code = "log_in_use"


class LogLocked(LogError):
    """The log could not be opened because another program holds it locked; try again later."""

    code = "log_locked"


class NeedsToken(LogError):
    """The server would be reachable from other machines, and there is no token that would let them in."""

    code = "needs_token"


class NewerDatabase(LogError):
    """The database was written by a newer tracewatch than this one."""

    code = "newer_database"


# --- raised by the client ----------------------------------------------------------------------------------------


class WatchError(TracewatchError):
    """A watch can't go on, and reconnecting would not help. ``code`` and ``message`` say why.

    except tracewatch.WatchError as error:
        print(error.message)
    """

    code = "watch_failed"


class WatchGap(WatchError):
    """The log can't continue from a watch's cursor: the events between are not available.

    ``reason``: ``trimmed`` (the events were removed), ``reset`` (the log was restored from a backup, or is another one)
    or ``ahead`` (the event of the cursor does not exist yet). ``resume_event_id``: the log goes on after this event.
    ``cursor``: the same as ``<epoch>.<event_id>``; a watch with this ``since`` goes on. ``state``: the trace as it is
    now, a ``tracewatch.model.state.State``.

        except tracewatch.WatchGap as gap:
            show(gap.state)
            events = tracewatch.watch_sync(trace_id, since=gap.cursor)
    """

    code = "gap"

    def __init__(
        self, message: str, *, reason: str, resume_event_id: int, cursor: str, state: Any, **facts: Any
    ) -> None:
        super().__init__(message, reason=reason, resume_event_id=resume_event_id, cursor=cursor, **facts)
        self.reason = reason
        self.resume_event_id = resume_event_id
        self.cursor = cursor
        self.state = state


class ProtocolViolation(WatchError):
    """The server broke the protocol, for example with a hole between two events."""

    code = "protocol_violation"
