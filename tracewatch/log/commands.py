"""Commands as jobs of the writer: cancel, answer, expire.

Rule 1: what a command does depends on the trace at that very moment, so it is decided inside the transaction, and two
        servers on one file never decide the same thing twice.
Rule 2: a command is an event or it has not happened; who carries it to the recorder reads it from the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import AlreadyAnswered, Expired, NoSuchRequest, NotRunning
from ..model.rules import complete
from .jobs import Job, needed, tell_parent
from .rows import fetch
from .transaction import Draft, Plan, Transaction


def _put(tx: Transaction, plan: Plan, raw: dict[str, Any]) -> None:
    plan.put(complete(plan.state, raw, event_id=plan.state.last_event_id + 1, ts=tx.ts))


@dataclass(slots=True, eq=False)
class Cancel(Job):
    """Ask a trace's recorder to stop; end the trace where there is no recorder any more."""

    trace_id: str = ""
    reason: str | None = None
    by: str | None = None

    def traces(self) -> Iterator[str]:
        yield self.trace_id

    async def run(self, tx: Transaction) -> str:
        draft = needed(tx, self.trace_id)
        if draft.state.ended:
            raise NotRunning(
                f"trace {self.trace_id!r} has ended: it is {draft.state.status}",
                trace_id=self.trace_id,
                trace_status=draft.state.status,
            )
        gone = draft.recorder_gone(tx.steady)
        plan = Plan(draft)
        if draft.state.cancel_requested is None:
            _put(tx, plan, {"event": "cancel_requested", "reason": self.reason, "by": self.by})
        if gone:
            _put(tx, plan, {"event": "trace_completed", "status": "stopped", "summary": None})
            told = tell_parent(tx, draft, plan)
            if told is not None:
                told.commit()
        plan.commit()
        return "stopped" if gone else "cancelling"


@dataclass(slots=True, eq=False)
class Answer(Job):
    """Answer an open question. The value has been checked against the question already."""

    trace_id: str = ""
    request_id: str = ""
    value: Any = None
    by: str | None = None

    def traces(self) -> Iterator[str]:
        yield self.trace_id

    async def run(self, tx: Transaction) -> None:
        draft = needed(tx, self.trace_id)
        pending = draft.state.pending_inputs.get(self.request_id)
        if pending is None:
            raise refusal(self.trace_id, self.request_id, draft.state.closed_inputs.get(self.request_id))
        if await _run_out(tx, draft, self.request_id):
            raise refusal(self.trace_id, self.request_id, "expired")  # the event that says so is about to come
        plan = Plan(draft)
        _put(
            tx,
            plan,
            {"event": "input_provided", "request_id": self.request_id, "value": self.value, "by": self.by},
        )
        plan.commit()


def refusal(trace_id: str, request_id: str, how: str | None) -> NotRunning | NoSuchRequest | AlreadyAnswered | Expired:
    """Why a question that is no longer open (``how``: answered, expired, closed; None: never asked) takes no answer."""
    facts: dict[str, Any] = {"trace_id": trace_id, "request_id": request_id}
    if how == "answered":
        return AlreadyAnswered(f"question {request_id!r} was answered already", **facts)
    if how == "expired":
        return Expired(f"question {request_id!r} has expired", **facts)
    if how == "closed":
        return NotRunning(f"question {request_id!r} was closed by the end of its trace", **facts)
    return NoSuchRequest(f"trace {trace_id!r} has not asked a question {request_id!r}", **facts)


@dataclass(slots=True, eq=False)
class ExpireInput(Job):
    """Close an open question whose time has run out."""

    trace_id: str = ""
    request_id: str = ""

    def traces(self) -> Iterator[str]:
        yield self.trace_id

    async def run(self, tx: Transaction) -> bool:
        draft = tx.draft(self.trace_id)
        pending = None if draft is None else draft.state.pending_inputs.get(self.request_id)
        if draft is None or pending is None or not await _run_out(tx, draft, self.request_id):
            return False
        plan = Plan(draft)
        _put(tx, plan, {"event": "input_expired", "request_id": self.request_id})
        plan.commit()
        return True


async def _run_out(tx: Transaction, draft: Draft, request_id: str) -> bool:
    sql = "SELECT 1 FROM inputs WHERE trace_key = ? AND request_id = ? AND expires_at <= ?"
    return bool(await fetch(tx.connection, sql, draft.row.trace_key, request_id, tx.steady))
