"""What can be asked of the writer: each job names what it needs, plans on copies, then commits its plan.

Rule 1: ``run`` either raises one of errors.py having changed nothing, or commits all of its plans.
Rule 2: what one event of a trace means for another trace's log is decided here, in the same transaction: a sub-trace's
        start and end stand in its parent's log or not at all.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiosqlite
import orjson

from ..errors import (
    Invalid,
    SequenceGap,
    TraceConflict,
    TracewatchError,
    UnexpectedLastEventId,
    UnknownParent,
    UnknownParentGoal,
    UnknownTrace,
)
from ..model.events import canonical, check_size
from ..model.rules import complete
from . import Appended
from .rows import fetch
from .transaction import Draft, Plan, Transaction


@dataclass(slots=True, eq=False)
class Job:
    """Something for the writer to do, and the future of who waits for it."""

    future: asyncio.Future[Any]
    events: int = 0  # how much it adds to its group
    exclusive: bool = False  # whether it writes by itself and so must be alone in its transaction
    size: int = 1024  # bytes it may cost while it waits; roughly
    since: float = 0.0  # loop time from which it waits
    bare: bool = False  # ``work`` is done instead of ``run``, without a transaction around it: exclusive as well

    def traces(self) -> Iterator[str]:
        """The traces it needs loaded."""
        yield from ()

    def messages(self) -> Iterator[tuple[str, str]]:
        """The ``(trace_id, message_id)`` its events name, where they exist."""
        yield from ()

    async def run(self, tx: Transaction) -> Any:
        """Do it and return the answer."""
        raise NotImplementedError

    async def work(self, connection: aiosqlite.Connection) -> Any:
        """The same of a ``bare`` job."""
        raise NotImplementedError


def needed(tx: Transaction, trace_id: str) -> Draft:
    """The loaded trace. Raises UnknownTrace."""
    draft = tx.draft(trace_id)
    if draft is None:
        raise UnknownTrace(f"there is no trace {trace_id!r}", trace_id=trace_id)
    return draft


def named_messages(trace_id: str, events: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for event in events:
        if event["event"] == "message_updated":
            yield trace_id, event["message_id"]
        elif event["event"] == "message_added" and "message_id" in event["message"]:
            yield trace_id, event["message"]["message_id"]


@dataclass(slots=True, eq=False)
class Append(Job):
    """Append a recorder's (validated) events, all or none."""

    trace_id: str = ""
    raws: Sequence[dict[str, Any]] = ()
    producer: str | None = None
    seq: int | None = None
    expected_last_event_id: int | None = None
    by_server: bool = False
    parsed: bool = False  # read from JSON, which has no NaN
    max_event_bytes: int = 0

    def traces(self) -> Iterator[str]:
        yield self.trace_id

    def messages(self) -> Iterator[tuple[str, str]]:
        return named_messages(self.trace_id, self.raws)

    async def run(self, tx: Transaction) -> Appended:
        draft = needed(tx, self.trace_id)
        duplicates = await self._duplicates(tx, draft)
        fresh = self.raws[duplicates:]
        last = draft.state.last_event_id
        if not fresh:
            if not self.by_server:
                draft.renew()
            return Appended(None, last, duplicates)
        if self.expected_last_event_id is not None and self.expected_last_event_id != last:
            raise UnexpectedLastEventId(
                f"the log has moved on: its last event is {last}, not {self.expected_last_event_id}",
                last_event_id=last,
            )
        plan, ended = Plan(draft), False
        for index, raw in enumerate(fresh, duplicates):
            try:
                event = complete(plan.state, raw, event_id=plan.state.last_event_id + 1, ts=tx.ts)
                body = canonical(event, parsed=self.parsed)
                if len(body) > self.max_event_bytes:  # with what was added; what counts is what was sent
                    check_size(orjson.dumps(raw), self.max_event_bytes)
                was_ended = plan.state.ended
                plan.put(event, body)
                ended = plan.state.ended and (ended or not was_ended)
            except TracewatchError as error:
                raise _at(error, index) if len(self.raws) > 1 else error  # noqa: B904 (the same error, told where)
        if ended and (told := tell_parent(tx, draft, plan)) is not None:
            told.commit()
        plan.commit()
        if not self.by_server:
            draft.renew()
        if self.producer is not None and self.seq is not None:
            draft.producers[self.producer] = self.seq + len(self.raws) - 1
            draft.changed_producers.add(self.producer)
        return Appended(last + 1, plan.state.last_event_id, duplicates)

    async def _duplicates(self, tx: Transaction, draft: Draft) -> int:
        """How many of the events are stored already. Raises SequenceGap."""
        if self.producer is None or self.seq is None:
            return 0
        stored = await tx.last_seq(draft, self.producer)
        if self.seq > stored + 1:
            raise SequenceGap(
                f"producer {self.producer!r} sent seq {self.seq}; {stored + 1} comes next", expected_seq=stored + 1
            )
        return min(len(self.raws), stored + 1 - self.seq)


def _at(error: TracewatchError, index: int) -> TracewatchError:
    error.message = f"event {index} of the batch: {error.message}"
    error.facts["index"] = index
    error.details = [{**detail, "index": index} for detail in error.details] or [{"index": index}]
    return error


def tell_parent(tx: Transaction, draft: Draft, plan: Plan) -> Plan | None:
    """The plan for the log of the parent, if there is one, of a trace that this plan ends."""
    parent = tx.draft(draft.row.parent_trace_id) if draft.row.parent_trace_id is not None else None
    if parent is None:
        return None
    row, state = draft.row, plan.state
    raw = {
        "event": "sub_trace_completed",
        "sub_trace_id": row.trace_id,
        "status": state.status,
        "summary": state.summary,
        "stats": tx.tree_totals(draft, state),
    }
    return _one_event(tx, parent, raw)


def _one_event(tx: Transaction, draft: Draft, raw: dict[str, Any]) -> Plan:
    plan = Plan(draft)
    plan.put(complete(plan.state, raw, event_id=plan.state.last_event_id + 1, ts=tx.ts))
    return plan


@dataclass(slots=True, eq=False)
class Create(Job):
    """Create a trace and tell its parent."""

    spec: dict[str, Any] = field(default_factory=dict)  # as ``validate_trace`` returned it

    def traces(self) -> Iterator[str]:
        for key in ("trace_id", "parent_trace_id"):
            if self.spec[key] is not None:
                yield self.spec[key]

    async def run(self, tx: Transaction) -> tuple[Draft, bool]:
        spec = self.spec
        asked = orjson.dumps(
            {key: value for key, value in spec.items() if key != "trace_id"}, option=orjson.OPT_SORT_KEYS
        )
        trace_id = spec["trace_id"] or make_trace_id(tx.now)
        old = tx.draft(trace_id)
        if old is not None:
            if old.row.spec != asked.decode():
                raise TraceConflict(
                    f"trace {trace_id!r} exists with other fields", details=_differing(old.row.spec, spec)
                )
            return old, False
        parent, parent_goal_id = self._parent(tx)
        told = None if parent is None else _one_event(tx, parent, self._started(trace_id, parent_goal_id))
        draft = await tx.insert_trace(
            {
                "trace_id": trace_id,
                "spec": asked.decode(),
                "task": spec["task"],
                "agent_type": spec["agent_type"],
                "parent_trace_id": spec["parent_trace_id"],
                "parent_goal_id": parent_goal_id,
                "root_trace_id": trace_id if parent is None else parent.row.root_trace_id,
                "metadata": orjson.dumps(spec["metadata"]).decode(),
                **await first_ids(tx, trace_id),
                "created_at": tx.ts,
                "updated_at": tx.ts,
                "lease_s": spec["lease_s"],
                "lease_expires_at": None if spec["lease_s"] is None else tx.steady + spec["lease_s"],
            }
        )
        if told is not None:
            told.commit()
        return draft, True

    def _started(self, trace_id: str, parent_goal_id: str | None) -> dict[str, Any]:
        return {
            "event": "sub_trace_started",
            "sub_trace_id": trace_id,
            "parent_goal_id": parent_goal_id,
            "agent_type": self.spec["agent_type"],
            "task": self.spec["task"],
        }

    def _parent(self, tx: Transaction) -> tuple[Draft | None, str | None]:
        parent_id, goal_id = self.spec["parent_trace_id"], self.spec["parent_goal_id"]
        if parent_id is None:
            if goal_id is not None:
                raise Invalid("parent_goal_id: needs a parent_trace_id")
            return None, None
        parent = tx.draft(parent_id)
        if parent is None:
            raise UnknownParent(f"there is no trace {parent_id!r} to be the parent", parent_trace_id=parent_id)
        if goal_id is None:
            return parent, parent.state.current_goal_id
        if goal_id not in parent.state.goals:
            raise UnknownParentGoal(f"trace {parent_id!r} has no goal {goal_id!r}", parent_goal_id=goal_id)
        return parent, goal_id


def _differing(stored: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
    there = orjson.loads(stored)
    return [{"path": key, "message": "differs from the stored trace's"} for key in there if there[key] != spec[key]]


async def first_ids(tx: Transaction, trace_id: str) -> dict[str, int]:
    """Where a new trace's ids begin: behind those of a deleted one of the same id."""
    rows = await fetch(tx.connection, "SELECT last_event_id FROM deleted_traces WHERE trace_id = ?", trace_id)
    last = rows[0][0] if rows else 0
    return {"first_event_id": last + 1, "last_event_id": last}


def make_trace_id(now: float) -> str:
    """A new trace_id that sorts by time: milliseconds in hexadecimal, then 48 random bits."""
    return f"{int(now * 1000):012x}-{secrets.token_hex(6)}"


@dataclass(slots=True, eq=False)
class Check(Job):
    """See whether the log can be written; ``write``: by writing, and not only by taking the lock."""

    write: bool = False

    async def run(self, tx: Transaction) -> None:
        if self.write:
            await fetch(tx.connection, "UPDATE meta SET value = value WHERE key = 'epoch'")


@dataclass(slots=True, eq=False)
class Renew(Job):
    """Count a lease from now."""

    trace_id: str = ""

    def traces(self) -> Iterator[str]:
        yield self.trace_id

    async def run(self, tx: Transaction) -> None:
        draft = needed(tx, self.trace_id)
        draft.renew()
        if draft.state.status == "lost":
            # It may have nothing to append: one that waits for an answer, or whose server was away
            raw = {"event": "trace_status_changed", "status": "running", "reason": "the recorder is back"}
            _one_event(tx, draft, raw).commit()


@dataclass(slots=True, eq=False)
class Expire(Job):
    """Mark a trace as lost if its lease has run out, and with it the sub-traces that nobody else keeps alive."""

    trace_id: str = ""

    def traces(self) -> Iterator[str]:
        yield self.trace_id

    async def run(self, tx: Transaction) -> list[str]:
        draft = tx.draft(self.trace_id)
        if (
            draft is None
            or draft.row.lease_alive(tx.steady)
            or not _mark_lost(tx, draft, "the recorder's lease ran out")
        ):
            return []
        below = await fetch(
            tx.connection,
            "WITH RECURSIVE down (trace_id) AS (SELECT ?1"
            " UNION SELECT t.trace_id FROM traces AS t JOIN down ON t.parent_trace_id = down.trace_id WHERE NOT"
            " (t.status IN ('running', 'waiting') AND t.lease_expires_at IS NOT NULL AND t.lease_expires_at > ?2))"
            " SELECT trace_id FROM down WHERE trace_id != ?1",
            self.trace_id,
            tx.steady,
        )
        trace_ids = [str(row[0]) for row in below]
        await tx.load(trace_ids)
        reason = "the recorder of its parent was lost"
        return [self.trace_id, *(one for one in trace_ids if _mark_lost(tx, needed(tx, one), reason))]


def _mark_lost(tx: Transaction, draft: Draft, reason: str) -> bool:
    """Mark it as lost, unless it is or an earlier job of this transaction was its sign of life, or its end."""
    if draft.renewed or draft.state.status not in ("running", "waiting"):
        return False
    _one_event(tx, draft, {"event": "trace_status_changed", "status": "lost", "reason": reason}).commit()
    return True
