"""The payload of every event of the protocol's section 2, as a recorder sends it and as the log stores it.

Rule 1: objects are open: unknown keys are kept. Only a goal's patch and the bodies of requests are closed, because
        there an unknown key is a typo.
Rule 2: the order of the keys here is their order in the stored bytes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidatorFunctionWrapHandler, WrapValidator
from typing_extensions import TypedDict

from .canonical import MAX_LINKS, MAX_TOTAL
from .times import normalize_time

Status = Literal["running", "waiting", "idle", "completed", "failed", "stopped", "lost"]
GoalStatus = Literal["pending", "in_progress", "completed", "abandoned"]
_LOOSE = ConfigDict(extra="allow", strict=True)
_CLOSED = ConfigDict(extra="forbid", strict=True)

Id = Annotated[str, Field(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=0, lt=2**53)]  # every JSON reader holds these exactly
# A sum that an export brings is bounded too, so that a database holds the sums over many thousands of traces
Total = Annotated[int, Field(ge=0, le=MAX_TOTAL)]
Dollars = Annotated[float, Field(ge=0, le=MAX_TOTAL, allow_inf_nan=False)]
# The numbers of one message are bounded, so that no sum over messages exceeds what JSON can hold
Tokens = Annotated[int, Field(ge=0, le=10**9)]
Cost = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]


def _as_given(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    check(value)
    return value


# A whole number stays one in the stored bytes. (A union of int and float would do that too, but report a fault twice.)
Milliseconds = Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False), WrapValidator(_as_given)]
LeaseSeconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False), WrapValidator(_as_given)]
ExpirySeconds = Annotated[float, Field(gt=0, le=10 * 366 * 86_400, allow_inf_nan=False), WrapValidator(_as_given)]


def _time(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a time is a string such as 2026-11-20T08:00:00.123Z")
    return normalize_time(value)


Time = Annotated[str, BeforeValidator(_time)]


class GoalInput(TypedDict):
    """A goal as a recorder adds it."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    id: NotRequired[Id]
    description: str
    reason: NotRequired[str | None]
    parent_id: NotRequired[Id | None]
    after_id: NotRequired[Id | None]
    step_id: NotRequired[Id | None]
    type: NotRequired[Literal["normal", "agent_call"]]
    status: NotRequired[GoalStatus]
    summary: NotRequired[str | None]


class GoalPatch(TypedDict, total=False):
    """The keys of a goal that may change. Unknown keys are refused."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    status: GoalStatus
    description: str
    reason: str | None
    summary: str | None
    parent_id: Id | None
    step_id: Id | None


class MessageUsage(TypedDict, total=False):
    """What a model call used. Cached and reasoning tokens are parts of the input and the output (see usage.py)."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    input_tokens: Tokens
    output_tokens: Tokens
    cache_read_tokens: Tokens
    cache_write_tokens: Tokens
    reasoning_tokens: Tokens


class UsageTotals(TypedDict, total=False):
    """Sums of usage, each part by itself."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    input_tokens: Total
    output_tokens: Total
    cache_read_tokens: Total
    cache_write_tokens: Total
    reasoning_tokens: Total


class ModelRequest(TypedDict, total=False):
    """What a model call was asked. Items of ``input`` and ``tools`` may be references (see prompt.py)."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    params: dict[str, Any]
    params_of: Id
    tools: list[Any]
    input: list[Any]
    digest: str


CostSource = Literal["given", "priced"]
MessageStatus = Literal["streaming", "running", "complete"]


class MessageInput(TypedDict):
    """A message as a recorder adds it."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    message_id: NotRequired[Id]
    role: Id
    content: Any
    goal_id: NotRequired[Id | None]
    step_id: NotRequired[Id | None]
    tool_call_id: NotRequired[Id | None]
    parent_sequence: NotRequired[Count | None]
    description: NotRequired[str]
    status: NotRequired[MessageStatus]
    tokens: NotRequired[Tokens]
    usage: NotRequired[MessageUsage]
    cost: NotRequired[Cost]
    cost_source: NotRequired[CostSource]
    duration_ms: NotRequired[Milliseconds]
    started_at: NotRequired[Time]
    ended_at: NotRequired[Time | None]
    model: NotRequired[str]
    agent: NotRequired[str]
    request: NotRequired[ModelRequest]


class MessagePatch(TypedDict, total=False):
    """The keys of a message that may change. ``validate_event`` refuses those of its identity."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    content: Any
    goal_id: Id | None
    step_id: Id | None
    tool_call_id: Id | None
    parent_sequence: Count | None
    description: str
    status: MessageStatus
    tokens: Tokens
    usage: MessageUsage
    cost: Cost
    cost_source: CostSource
    duration_ms: Milliseconds
    started_at: Time
    ended_at: Time | None
    model: str
    agent: str
    request: ModelRequest


StepStatus = Literal["running", "completed", "failed", "stopped"]
StepText = Annotated[str, Field(max_length=2000)]  # a preview: a state holds it, and a run has thousands of steps


class StepInput(TypedDict):
    """A step as a recorder adds it."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    id: NotRequired[Id]
    name: Id
    kind: NotRequired[Id]
    goal_id: NotRequired[Id | None]
    step_id: NotRequired[Id | None]
    message_id: NotRequired[Id | None]
    status: NotRequired[StepStatus]
    started_at: NotRequired[Time | None]
    ended_at: NotRequired[Time | None]
    input: NotRequired[StepText | None]
    output: NotRequired[StepText | None]
    error: NotRequired[Any]


class StepPatch(TypedDict, total=False):
    """The keys of a step that may change."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    name: Id
    kind: Id
    goal_id: Id | None
    step_id: Id | None
    message_id: Id | None
    status: StepStatus
    started_at: Time | None
    ended_at: Time | None
    input: StepText | None
    output: StepText | None
    error: Any


class Totals(TypedDict):
    """A trace's own sums, without its sub-traces. ``total_cost`` is in dollars."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    total_messages: Total
    total_tokens: Total
    total_cost: Dollars | None
    usage: NotRequired[UsageTotals]


class Stats(TypedDict):
    """Sums over the messages of one goal, or of its whole subtree. ``total_cost`` is in dollars."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    message_count: Total
    total_tokens: Total
    total_cost: Dollars | None
    preview: str
    usage: NotRequired[UsageTotals]


class _Recorded(TypedDict):
    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    event: str
    occurred_at: NotRequired[Time]


class GoalAdded(_Recorded):
    """``goal_added`` from a recorder."""

    goal: GoalInput
    if_absent: NotRequired[bool]


class GoalUpdated(_Recorded):
    """``goal_updated`` from a recorder."""

    goal_id: Id
    patch: GoalPatch


class MessageAdded(_Recorded):
    """``message_added`` from a recorder."""

    message: MessageInput
    if_absent: NotRequired[bool]


class MessageUpdated(_Recorded):
    """``message_updated`` from a recorder."""

    message_id: Id
    append: NotRequired[str]
    patch: NotRequired[MessagePatch]


class StepAdded(_Recorded):
    """``step_added`` from a recorder."""

    step: StepInput
    if_absent: NotRequired[bool]


class StepUpdated(_Recorded):
    """``step_updated`` from a recorder."""

    step_id: Id
    patch: StepPatch


class TraceStatusChanged(_Recorded):
    """``trace_status_changed`` from a recorder."""

    status: Status
    reason: NotRequired[str | None]


class TraceCompleted(_Recorded):
    """``trace_completed`` from a recorder."""

    status: Literal["completed", "failed", "stopped"]
    summary: NotRequired[str | None]
    error: NotRequired[Any]


Task = Annotated[str, Field(min_length=1, max_length=10_000)]
Tag = Annotated[str, Field(min_length=1, max_length=128)]
Tags = Annotated[list[Tag], Field(max_length=64)]


TRACE_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}", re.ASCII)
TraceId = Annotated[str, Field(pattern=rf"^{TRACE_ID.pattern}$")]


class Link(TypedDict):
    """What a trace has to do with another one: a handoff, a retry, the other side of a call."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    trace_id: TraceId
    message_id: NotRequired[Id | None]
    kind: Id


Links = Annotated[list[Link], Field(max_length=MAX_LINKS)]


class TraceUpdated(_Recorded):
    """``trace_updated`` from a recorder: what is to be known of the trace from now on.

    ``metadata`` adds its keys, and ``links`` those that are not there.
    """

    task: NotRequired[Task]
    agent_type: NotRequired[Id]
    tags: NotRequired[Tags]
    session_id: NotRequired[Id | None]
    user_id: NotRequired[Id | None]
    links: NotRequired[Links]
    metadata: NotRequired[dict[str, Any]]
    started_at: NotRequired[Time]


class TraceParentChanged(_Recorded):
    """``trace_parent_changed`` from a recorder: the trace stands below another one from now on."""

    parent_trace_id: TraceId
    parent_goal_id: NotRequired[Id | None]
    parent_step_id: NotRequired[Id | None]
    parent_message_id: NotRequired[Id | None]


class InputRequested(_Recorded):
    """``input_requested`` from a recorder."""

    request_id: NotRequired[Id]
    question: str
    options: NotRequired[list[Any] | None]
    schema: NotRequired[dict[str, Any] | None]
    goal_id: NotRequired[Id | None]
    expires_in_s: NotRequired[ExpirySeconds | None]
    answerable: NotRequired[Literal["here", "terminal"]]
    resumable: NotRequired[bool]
    if_absent: NotRequired[bool]


class SubTraceStarted(_Recorded):
    """``sub_trace_started``, which the server writes."""

    sub_trace_id: Id
    parent_goal_id: Id | None
    parent_step_id: NotRequired[Id]
    parent_message_id: NotRequired[Id]
    agent_type: str
    task: str
    started_at: NotRequired[Time | None]


class SubTraceCompleted(_Recorded):
    """``sub_trace_completed``, which the server writes. ``stats``: sums of the sub-trace and all below it."""

    sub_trace_id: Id
    status: Status
    summary: str | None
    stats: Totals
    error: NotRequired[Any]
    started_at: NotRequired[Time | None]
    ended_at: NotRequired[Time | None]


class SubTraceLeft(_Recorded):
    """``sub_trace_left``, which the server writes: it stands below ``parent_trace_id`` now."""

    sub_trace_id: Id
    parent_trace_id: Id


class InputProvided(_Recorded):
    """``input_provided``, which the control API writes."""

    request_id: Id
    value: Any
    by: NotRequired[str | None]


class AnsweredElsewhere(_Recorded):
    """``input_provided`` from a recorder: answered in the source's own terminal. Without a value it is not known."""

    request_id: Id
    value: NotRequired[Any]
    by: Literal["terminal"]


class InputExpired(_Recorded):
    """``input_expired``, which the server writes."""

    request_id: Id


class CancelRequested(_Recorded):
    """``cancel_requested``, which the control API writes."""

    reason: NotRequired[str | None]
    by: NotRequired[str | None]


RECORDED: dict[str, TypeAdapter[Any]] = {
    "goal_added": TypeAdapter(GoalAdded),
    "goal_updated": TypeAdapter(GoalUpdated),
    "message_added": TypeAdapter(MessageAdded),
    "message_updated": TypeAdapter(MessageUpdated),
    "step_added": TypeAdapter(StepAdded),
    "step_updated": TypeAdapter(StepUpdated),
    "trace_status_changed": TypeAdapter(TraceStatusChanged),
    "trace_completed": TypeAdapter(TraceCompleted),
    "trace_updated": TypeAdapter(TraceUpdated),
    "trace_parent_changed": TypeAdapter(TraceParentChanged),
    "input_requested": TypeAdapter(InputRequested),
}
ELSEWHERE: TypeAdapter[Any] = TypeAdapter(AnsweredElsewhere)
SERVER: dict[str, TypeAdapter[Any]] = {
    "sub_trace_started": TypeAdapter(SubTraceStarted),
    "sub_trace_completed": TypeAdapter(SubTraceCompleted),
    "sub_trace_left": TypeAdapter(SubTraceLeft),
    "input_provided": TypeAdapter(InputProvided),
    "input_expired": TypeAdapter(InputExpired),
    "cancel_requested": TypeAdapter(CancelRequested),
}


# --- as stored: the keys that the server adds are required ----------------------------------------------------------


class FullGoal(TypedDict):
    """A goal with all its keys, as ``goal_added`` stores it."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    id: Id
    description: str
    after_id: NotRequired[Id | None]
    step_id: NotRequired[Id | None]
    reason: str | None
    parent_id: Id | None
    type: Literal["normal", "agent_call"]
    status: GoalStatus
    summary: str | None
    self_stats: Stats
    cumulative_stats: Stats
    sub_trace_ids: list[Id]


class FullMessage(TypedDict):
    """A message with all its keys, as ``message_added`` stores it."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    message_id: Id
    role: Id
    content: Any
    step_id: NotRequired[Id | None]
    tool_call_id: NotRequired[Id | None]
    parent_sequence: NotRequired[Count | None]
    tokens: NotRequired[Tokens]
    usage: NotRequired[MessageUsage]
    cost: NotRequired[Cost]
    cost_source: NotRequired[CostSource]
    duration_ms: NotRequired[Milliseconds]
    started_at: NotRequired[Time]
    ended_at: NotRequired[Time | None]
    model: NotRequired[str]
    agent: NotRequired[str]
    request: NotRequired[ModelRequest]
    sequence: Annotated[int, Field(ge=1)]
    goal_id: Id | None
    description: str
    status: MessageStatus
    counted: NotRequired[Literal[False]]


class FullStep(TypedDict):
    """A step with all its keys, as ``step_added`` stores it."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    id: Id
    name: Id
    kind: Id
    goal_id: Id | None
    step_id: Id | None
    message_id: Id | None
    status: StepStatus
    started_at: NotRequired[Time | None]
    ended_at: NotRequired[Time | None]
    input: NotRequired[StepText | None]
    output: NotRequired[StepText | None]
    error: NotRequired[Any]


class AffectedGoal(TypedDict):
    """The changes of one goal that the event itself does not name."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]
    goal_id: Id
    status: NotRequired[GoalStatus]
    self_stats: NotRequired[Stats]
    cumulative_stats: NotRequired[Stats]


class StoredGoalAdded(_Recorded):
    """``goal_added`` as stored."""

    goal: FullGoal
    affected_goals: list[AffectedGoal]


class StoredGoalUpdated(GoalUpdated):
    """``goal_updated`` as stored."""

    moved: NotRequired[Literal[True]]
    affected_goals: list[AffectedGoal]


class StoredMessageAdded(_Recorded):
    """``message_added`` as stored."""

    message: FullMessage
    affected_goals: list[AffectedGoal]


class StoredMessageUpdated(MessageUpdated):
    """``message_updated`` as stored."""

    goal_id: Id | None
    moved: NotRequired[Literal[True]]
    counted: NotRequired[Literal[True]]
    totals: NotRequired[Totals]
    affected_goals: list[AffectedGoal]


class StoredStepAdded(_Recorded):
    """``step_added`` as stored."""

    step: FullStep


class StoredTraceParentChanged(_Recorded):
    """``trace_parent_changed`` as stored."""

    parent_trace_id: TraceId
    parent_goal_id: Id | None
    parent_step_id: NotRequired[Id | None]
    parent_message_id: NotRequired[Id | None]
    root_trace_id: TraceId


class StoredInputRequested(_Recorded):
    """``input_requested`` as stored."""

    request_id: Id
    question: str
    goal_id: Id | None
    expires_at: Time | None


STORED: dict[str, TypeAdapter[Any]] = {
    **RECORDED,
    **SERVER,
    "goal_added": TypeAdapter(StoredGoalAdded),
    "goal_updated": TypeAdapter(StoredGoalUpdated),
    "message_added": TypeAdapter(StoredMessageAdded),
    "message_updated": TypeAdapter(StoredMessageUpdated),
    "step_added": TypeAdapter(StoredStepAdded),
    "input_requested": TypeAdapter(StoredInputRequested),
    "trace_parent_changed": TypeAdapter(StoredTraceParentChanged),
}


class TraceSpec(TypedDict):
    """The body of ``POST /api/traces``. ``lease_s``: the trace is lost after so many seconds without a sign of life."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    trace_id: NotRequired[TraceId | None]
    task: Task
    agent_type: NotRequired[Id | None]
    parent_trace_id: NotRequired[TraceId | None]
    parent_goal_id: NotRequired[Id | None]
    parent_step_id: NotRequired[Id | None]
    parent_message_id: NotRequired[Id | None]
    lease_s: NotRequired[LeaseSeconds | None]
    metadata: NotRequired[dict[str, Any] | None]
    session_id: NotRequired[Id | None]
    user_id: NotRequired[Id | None]
    tags: NotRequired[Tags | None]
    links: NotRequired[Links | None]
    started_at: NotRequired[Time | None]
    if_absent: NotRequired[bool | None]


By = Annotated[str, Field(min_length=1, max_length=256)]


class CancelSpec(TypedDict):
    """The body of ``POST …/cancel``."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    reason: NotRequired[Annotated[str, Field(max_length=10_000)] | None]
    by: NotRequired[By | None]


class AnswerSpec(TypedDict):
    """The body of ``POST …/inputs/{request_id}``."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    value: Any
    by: NotRequired[By | None]


CANCEL_SPEC: TypeAdapter[Any] = TypeAdapter(CancelSpec)
ANSWER_SPEC: TypeAdapter[Any] = TypeAdapter(AnswerSpec)
TRACE_SPEC: TypeAdapter[Any] = TypeAdapter(TraceSpec)
GENERIC: TypeAdapter[Any] = TypeAdapter(_Recorded)
