"""What users ask of a run, and what time does to it: cancel, answers, and the end of questions and leases.

Rule: what a command does depends on the trace at that very moment, so it is decided in the unit that writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import AlreadyAnswered, Expired, NoSuchRequest, NotAnswerable, NotRunning
from ..model.canonical import OPEN_STATUSES, TERMINAL
from .jobs import Job, needed, one_event, put, tell_parent
from .storage import Needs
from .unit import Draft, Missing, Plan, Unit

# --- leases ----------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False, kw_only=True)
class Renew(Job):
    """Count a lease from now."""

    trace_id: str

    def need(self, needs: Needs) -> None:
        needs.traces.add(self.trace_id)

    def run(self, unit: Unit) -> None:
        draft = needed(unit, self.trace_id)
        if draft.state.status == "lost":
            # It may have nothing to append: one that waits for an answer, or whose server was away
            raw = {"event": "trace_status_changed", "status": "running", "reason": "the recorder is back"}
            one_event(unit, draft, raw).commit()
        draft.renew()


@dataclass(slots=True, eq=False, kw_only=True)
class Expire(Job):
    """Mark a trace as lost if its lease has run out, and with it the sub-traces that nobody else keeps alive."""

    trace_id: str

    def need(self, needs: Needs) -> None:
        needs.traces.add(self.trace_id)
        needs.trees.add(self.trace_id)

    def run(self, unit: Unit) -> list[str]:
        draft = unit.draft(self.trace_id)
        if draft is None or draft.row.lease_alive(unit.steady) or not _may_be_lost(draft):
            return []
        if any(asked.get("resumable") is True for asked in draft.state.pending_inputs.values()):
            draft.renew()  # whoever asked has gone, and comes back with the answer
            return []
        below = [needed(unit, one) for one in self._kept_alive_by_it(unit)]
        lost = [draft, *(one for one in below if _may_be_lost(one))]
        idle = {one.row.trace_id for one in lost if one.state.status == "idle"}
        if not idle <= unit.loaded.needs.above:
            raise Missing(Needs(traces=idle, above=idle))
        for one in reversed(lost):  # from below: an end is told to the trace above
            reason = "the recorder's lease ran out" if one is draft else "the recorder of its parent was lost"
            if one.row.trace_id in idle:
                _end_idle(unit, one, reason)
            else:
                one_event(unit, one, {"event": "trace_status_changed", "status": "lost", "reason": reason}).commit()
        return [one.row.trace_id for one in lost]

    def _kept_alive_by_it(self, unit: Unit) -> list[str]:
        """The traces below it, but not those below one with a lease of its own that is alive."""
        reached, found = {self.trace_id}, []
        for trace_id in (unit.load(unit.loaded.trees, self.trace_id, "trees") or [])[1:]:
            row = unit.row(trace_id)
            if row is None or row.parent_trace_id not in reached:
                continue
            leased = row.status in OPEN_STATUSES and row.lease_expires_at is not None
            if not (leased and row.lease_alive(unit.steady)):
                reached.add(trace_id)
                found.append(trace_id)
        states = set(found) - unit.loaded.needs.traces
        if states:
            raise Missing(Needs(traces=states))
        return found


def _end_idle(unit: Unit, draft: Draft, reason: str) -> None:
    """A session whose turn was over and whose recorder has gone: nothing was cut off."""
    plan = Plan(unit, draft)
    put(plan, {"event": "trace_completed", "status": "completed", "reason": f"{reason} while it was idle"}, unit.ts)
    if (told := tell_parent(unit, draft, plan)) is not None:
        told.commit()
    plan.commit()


def _may_be_lost(draft: Draft) -> bool:
    """Unless it is, or an earlier job of this unit was its sign of life, or its end."""
    return not draft.renewed and draft.state.status in OPEN_STATUSES


# --- commands --------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False, kw_only=True)
class Cancel(Job):
    """Ask a trace's recorder to stop; end the trace where there is no recorder any more."""

    trace_id: str
    reason: str | None = None
    by: str | None = None

    def need(self, needs: Needs) -> None:
        needs.traces.add(self.trace_id)
        needs.above.add(self.trace_id)

    def run(self, unit: Unit) -> str:
        draft = needed(unit, self.trace_id)
        if draft.state.ended:
            raise NotRunning(
                f"trace {self.trace_id!r} has ended: it is {draft.state.status}",
                trace_id=self.trace_id,
                trace_status=draft.state.status,
            )
        gone = draft.recorder_gone(unit.steady)
        plan = Plan(unit, draft)
        if draft.state.cancel_requested is None:
            put(plan, {"event": "cancel_requested", "reason": self.reason, "by": self.by}, unit.ts)
        if gone:
            put(plan, {"event": "trace_completed", "status": "stopped", "summary": None}, unit.ts)
            told = tell_parent(unit, draft, plan)
            if told is not None:
                told.commit()
        plan.commit()
        return "stopped" if gone else "cancelling"


@dataclass(slots=True, eq=False, kw_only=True)
class Answer(Job):
    """Answer an open question. The value has been checked against the question already."""

    trace_id: str
    request_id: str
    value: Any
    by: str | None = None

    def need(self, needs: Needs) -> None:
        needs.traces.add(self.trace_id)
        needs.questions.add((self.trace_id, self.request_id))

    def run(self, unit: Unit) -> None:
        draft = needed(unit, self.trace_id)
        pending = draft.state.pending_inputs.get(self.request_id)
        if pending is None:
            raise refusal(self.trace_id, self.request_id, draft.state.closed_inputs.get(self.request_id))
        if _run_out(unit, self.trace_id, self.request_id):
            raise refusal(self.trace_id, self.request_id, "expired")  # the event that says so is about to come
        if pending.get("answerable") == TERMINAL:
            raise not_answerable(self.trace_id, self.request_id)
        raw = {"event": "input_provided", "request_id": self.request_id, "value": self.value, "by": self.by}
        one_event(unit, draft, raw).commit()


def not_answerable(trace_id: str, request_id: str) -> NotAnswerable:
    """Why a question takes no answer here, though it is open."""
    said = f"question {request_id!r} can be answered only where it was asked: in the agent's own terminal"
    return NotAnswerable(said, trace_id=trace_id, request_id=request_id)


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


@dataclass(slots=True, eq=False, kw_only=True)
class ExpireInput(Job):
    """Close an open question whose time has run out. The answer: whether it was still open."""

    trace_id: str
    request_id: str

    def need(self, needs: Needs) -> None:
        needs.traces.add(self.trace_id)
        needs.questions.add((self.trace_id, self.request_id))

    def run(self, unit: Unit) -> bool:
        draft = unit.draft(self.trace_id)
        pending = None if draft is None else draft.state.pending_inputs.get(self.request_id)
        if draft is None or pending is None or not _run_out(unit, self.trace_id, self.request_id):
            return False
        one_event(unit, draft, {"event": "input_expired", "request_id": self.request_id}).commit()
        return True


def _run_out(unit: Unit, trace_id: str, request_id: str) -> bool:
    expires_at = unit.load(unit.loaded.questions, (trace_id, request_id), "questions")
    return expires_at is not None and expires_at <= unit.steady
