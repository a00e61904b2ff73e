"""What can be asked of the log: each job names what it needs, then plans it, without any I/O.

Rule 1: ``run`` either raises one of errors.py having planned nothing, or makes all of its plans part of the unit.
Rule 2: what one event of a trace means for another trace's log is decided here, in the same unit: a sub-trace's start
        and end stand in its parent's log or not at all.
Rule 3: two servers on one log never decide the same thing twice: it is decided here, and in commands.py, in the unit
        that writes it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..errors import (
    Invalid,
    NoSuchMessage,
    SequenceGap,
    SubTraceDepth,
    TraceConflict,
    TracewatchError,
    UnexpectedLastEventId,
    UnknownParent,
    UnknownParentGoal,
    UnknownParentStep,
    UnknownTrace,
)
from ..model.blobs import MARK
from ..model.canonical import ENDED, MAX_SUB_TRACE_DEPTH, canonical, check_size
from ..model.events import PLACE_FIELDS
from ..model.prompt import references
from ..model.rules import complete, is_repeat
from ..model.state import State
from .cache import at_first
from .prices import Prices
from .row import TraceRow
from .storage import Needs
from .sums import SUM_NAMES, Sums
from .unit import Draft, Missing, Plan, Unit
from .views import Appended

OVER = (*ENDED, "lost")  # nobody records it any more


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """Something for the log to do."""

    future: asyncio.Future[Any] = field(init=False)  # of whoever waits for it
    since: float = field(init=False, default=0.0)  # loop time from which it waits
    size: int = 1024  # bytes it may cost while it waits; roughly
    events: int = 0  # how much it adds to its group
    exclusive: bool = False  # whether it must be alone in its unit
    prices: Prices | None = None  # which must be loaded before its turn

    def need(self, needs: Needs) -> None:
        """Put in what it needs."""

    def run(self, unit: Unit) -> Any:
        """Plan it and return the answer."""
        raise NotImplementedError


def needed(unit: Unit, trace_id: str) -> Draft:
    """The loaded trace. Raises UnknownTrace."""
    draft = unit.draft(trace_id)
    if draft is None:
        raise UnknownTrace(f"there is no trace {trace_id!r}", trace_id=trace_id)
    return draft


def need_named(needs: Needs, trace_id: str, events: Sequence[dict[str, Any]]) -> list[str]:
    """The messages that events name, where they exist; and the parent of a trace that they may end.

    Returns the message_ids.
    """
    named = []
    for event in events:
        name = event["event"]
        if name == "message_updated":
            named.append(event["message_id"])
            if "request" in event.get("patch", ()):
                needs.mentioned.update((trace_id, one) for _, one in references(event["patch"]["request"]))
        elif name == "message_added":
            if "message_id" in event["message"]:
                named.append(event["message"]["message_id"])
            if "request" in event["message"]:
                needs.mentioned.update((trace_id, one) for _, one in references(event["message"]["request"]))
        elif name in ("step_added", "step_updated"):
            message_id = event["step" if name == "step_added" else "patch"].get("message_id")
            if message_id is not None:
                named.append(message_id)
        elif name == "trace_completed" or (name == "trace_status_changed" and event["status"] in ENDED):
            needs.above.add(trace_id)
    needs.messages.update((trace_id, message_id) for message_id in named)
    return named


def put(plan: Plan, raw: dict[str, Any], ts: str) -> None:
    """Put an event of the server's own behind the others."""
    plan.put(complete(plan.state, raw, event_id=plan.state.last_event_id + 1, ts=ts))


def one_event(unit: Unit, draft: Draft, raw: dict[str, Any]) -> Plan:
    """A plan of one event of the server's own."""
    plan = Plan(unit, draft)
    put(plan, raw, unit.ts)
    return plan


def tell_parent(unit: Unit, draft: Draft, plan: Plan) -> Plan | None:
    """The plan for the log of the parent, if there is one, of a trace that this plan ends."""
    row, state = draft.row, plan.state
    above = unit.above(row)
    if above is None:
        return None
    if row.trace_id not in unit.loaded.needs.above:
        raise Missing(Needs(traces={row.trace_id}, above={row.trace_id}))
    parent = unit.draft(above)
    if parent is None:
        return None
    return one_event(unit, parent, completed_event(unit, draft, state))


def completed_event(unit: Unit, draft: Draft, state: State) -> dict[str, Any]:
    """What the log of the parent is told of a trace that has ended."""
    return {
        "event": "sub_trace_completed",
        "sub_trace_id": draft.row.trace_id,
        "status": state.status,
        "summary": state.summary,
        "stats": _written(unit.tree_totals(draft, state)),
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "occurred_at": state.ended_at,
        **({} if state.error is None else {"error": state.error}),
    }


def _written(totals: dict[str, Any]) -> dict[str, Any]:
    """Sums as an event holds them: a number for the cost, which older clients add up, and whether a 0 is known."""
    if totals["total_cost"]:
        return totals
    return {**totals, "total_cost": 0.0, **({} if totals["total_cost"] is None else {"cost_known": True})}


# --- recording -------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False, kw_only=True)
class Append(Job):
    """Append a recorder's (validated) events, all or none."""

    trace_id: str
    raws: Sequence[dict[str, Any]]
    producer: str | None = None
    seq: int | None = None
    expected_last_event_id: int | None = None
    by_server: bool = False
    parsed: bool = False  # read from JSON, which has no NaN
    max_event_bytes: int
    named: list[str] = field(init=False)  # messages

    def need(self, needs: Needs) -> None:
        needs.traces.add(self.trace_id)
        needs.growth[self.trace_id] = needs.growth.get(self.trace_id, 0) + len(self.raws)
        self.named = need_named(needs, self.trace_id, self.raws)
        if self.producer is not None:
            needs.producers.add((self.trace_id, self.producer))

    def run(self, unit: Unit) -> Appended:
        draft = needed(unit, self.trace_id)
        duplicates = self._duplicates(unit, draft)
        fresh, repeats = self.raws[duplicates:], 0
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
        for message_id in self.named:
            unit.message(draft, message_id)
        plan, ended = Plan(unit, draft), False
        for index, raw in enumerate(fresh, duplicates):
            if self._is_repeat(unit, plan, raw):
                repeats += 1
                continue
            try:
                was_ended = plan.state.ended
                self._put(plan, self._complete(unit, plan, raw), unit.ts)
                ended = plan.state.ended and (ended or not was_ended)
            except TracewatchError as error:
                raise _at(error, index) if len(self.raws) > 1 else error  # noqa: B904 (the same error, told where)
        told = tell_parent(unit, draft, plan) if ended else None
        if told is not None:
            told.commit()
        plan.commit()
        if not self.by_server:
            draft.renew()
        if self.producer is not None and self.seq is not None:
            draft.producers[self.producer] = self.seq + len(self.raws) - 1
            draft.changed_producers.add(self.producer)
        first = last + 1 if len(fresh) > repeats else None
        return Appended(first, plan.state.last_event_id, duplicates + repeats)

    def _is_repeat(self, unit: Unit, plan: Plan, raw: dict[str, Any]) -> bool:
        """Whether the event is nothing, as what it says is so already."""
        return ("if_absent" in raw or raw["event"] == "input_provided") and is_repeat(plan.state, raw)

    def _complete(self, unit: Unit, plan: Plan, raw: dict[str, Any]) -> dict[str, Any]:
        """The event with what other traces add to it."""
        return raw

    def _put(self, plan: Plan, raw: dict[str, Any], ts: str) -> None:
        event_id, known = plan.state.last_event_id + 1, plan.has_message
        event = complete(plan.state, raw, event_id=event_id, ts=ts, price=self.prices, known=known)
        body = canonical(event, parsed=self.parsed)
        if len(body) > self.max_event_bytes:  # with what was added; what counts is what was sent
            check_size(orjson.dumps(raw), self.max_event_bytes)
        if MARK in body:
            plan.name_blobs(event)
        plan.put(event, body)

    def _duplicates(self, unit: Unit, draft: Draft) -> int:
        """How many of the events are stored already. Raises SequenceGap."""
        if self.producer is None or self.seq is None:
            return 0
        stored = unit.last_seq(draft, self.producer)
        if self.seq > stored + 1:
            raise SequenceGap(
                f"producer {self.producer!r} sent seq {self.seq}; {stored + 1} comes next", expected_seq=stored + 1
            )
        return min(len(self.raws), stored + 1 - self.seq)


def _compared(spec: str) -> dict[str, Any]:
    """The fields of a trace by which a repeat of its creation is known: when it began is each recorder's own."""
    asked: dict[str, Any] = orjson.loads(spec)
    asked.pop("started_at", None)
    return asked


def _at(error: TracewatchError, index: int) -> TracewatchError:
    error.message = f"event {index} of the batch: {error.message}"
    error.facts["index"] = index
    error.details = [{**detail, "index": index} for detail in error.details] or [{"index": index}]
    return error


@dataclass(slots=True, eq=False, kw_only=True)
class Create(Job):
    """Create a trace and tell its parent. The answer: its id, and whether it is new."""

    spec: dict[str, Any]  # as ``validate_trace`` returned it
    below: str | None = None  # who asks may do so below this trace only

    def need(self, needs: Needs) -> None:
        if self.spec["trace_id"] is not None:
            needs.traces.add(self.spec["trace_id"])
            needs.used_ids.add(self.spec["trace_id"])
            needs.levels.add(self.spec["trace_id"])
        if self.spec["parent_trace_id"] is not None:
            needs.traces.add(self.spec["parent_trace_id"])
            needs.above.add(self.spec["parent_trace_id"])
            if "parent_message_id" in self.spec:
                needs.messages.add((self.spec["parent_trace_id"], self.spec["parent_message_id"]))

    def run(self, unit: Unit) -> tuple[str, bool]:
        spec = self.spec
        asked = orjson.dumps(
            {key: value for key, value in spec.items() if key not in ("trace_id", "if_absent")},
            option=orjson.OPT_SORT_KEYS,
        ).decode()
        trace_id = spec["trace_id"] or make_trace_id(unit.now)
        old = unit.draft(trace_id)
        if old is not None:
            if not spec.get("if_absent") and _compared(old.row.spec) != _compared(asked):
                raise TraceConflict(
                    f"trace {trace_id!r} exists with other fields", details=_differing(old.row.spec, spec)
                )
            return trace_id, False
        parent, parent_goal_id = self._parent(unit)
        check_above(unit, trace_id, spec["parent_trace_id"])
        check_depth(unit, trace_id, spec["parent_trace_id"], adopts=spec["trace_id"] is not None and self.below is None)
        used = 0 if spec["trace_id"] is None else unit.load(unit.loaded.used_ids, trace_id, "used_ids") or 0
        if parent is not None:
            one_event(unit, parent, self._started(trace_id, parent_goal_id)).commit()
        row = new_row(
            trace_id=trace_id,
            spec=asked,
            fields={**spec, "parent_goal_id": parent_goal_id},
            root_trace_id=trace_id if parent is None else parent.row.root_trace_id,
            first_event_id=used + 1,
            created_at=unit.ts,
            lease_expires_at=None if spec["lease_s"] is None else unit.steady + spec["lease_s"],
        )
        unit.add(Draft(row, row.initial_state(), {}, {}, new=True, renewed=True, adopts=self.below is None))
        return trace_id, True

    def _started(self, trace_id: str, parent_goal_id: str | None) -> dict[str, Any]:
        return {
            "event": "sub_trace_started",
            "sub_trace_id": trace_id,
            "parent_goal_id": parent_goal_id,
            **{key: self.spec[key] for key in PLACE_FIELDS if key in self.spec},
            "agent_type": self.spec["agent_type"],
            "task": self.spec["task"],
            **({"started_at": started, "occurred_at": started} if (started := self.spec.get("started_at")) else {}),
        }

    def _parent(self, unit: Unit) -> tuple[Draft | None, str | None]:
        parent_id, goal_id = self.spec["parent_trace_id"], self.spec["parent_goal_id"]
        if parent_id is None:
            for key in ("parent_goal_id", *PLACE_FIELDS):
                if self.spec.get(key) is not None:
                    raise Invalid(f"{key}: needs a parent_trace_id")
            return None, None
        parent = unit.draft(parent_id)
        if parent is None or not (self.below is None or unit.covers(self.below, parent_id)):
            raise UnknownParent(f"there is no trace {parent_id!r} to be the parent", parent_trace_id=parent_id)
        holder = place_in(unit, parent, self.spec)
        if goal_id is None:
            return parent, parent.state.current_goal_id if holder is None else holder["goal_id"]
        if goal_id not in parent.state.goals:
            raise UnknownParentGoal(f"trace {parent_id!r} has no goal {goal_id!r}", parent_goal_id=goal_id)
        return parent, goal_id


def place_in(unit: Unit, parent: Draft, place: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The step or message of the parent that a sub-trace stands in, if it names one.

    Raises UnknownParentStep, NoSuchMessage, Invalid where it names both.
    """
    step_id, message_id, trace_id = place.get("parent_step_id"), place.get("parent_message_id"), parent.row.trace_id
    if step_id is not None and message_id is not None:
        raise Invalid("parent_message_id: a sub-trace stands in a step or in a message, not in both")
    if message_id is not None:
        unit.message(parent, message_id)
        if message_id not in parent.state.messages:
            raise NoSuchMessage(f"trace {trace_id!r} has no message {message_id!r}", parent_message_id=message_id)
        return parent.state.messages[message_id]
    if step_id is not None and step_id not in parent.state.steps:
        raise UnknownParentStep(f"trace {trace_id!r} has no step {step_id!r}", parent_step_id=step_id)
    return None if step_id is None else parent.state.steps[step_id]


def check_above(unit: Unit, trace_id: str, parent_trace_id: str | None) -> None:
    """A trace can't stand below itself: restored traces may name as their parent what was not there yet.

    Raises Invalid.
    """
    if unit.would_stand_below(parent_trace_id, trace_id):
        raise Invalid(f"parent_trace_id: {parent_trace_id!r} is a sub-trace of {trace_id!r}, or it itself")


def check_depth(unit: Unit, trace_id: str, parent_trace_id: str | None, *, adopts: bool) -> None:
    """A new trace can't stand too deep: its sums count in all above it.

    ``adopts``: what names it as its parent, having been restored before it, comes to be below it, and counts as well.
    Raises SubTraceDepth.
    """
    above = unit.line(parent_trace_id)
    below = unit.load(unit.loaded.levels, trace_id, "levels") if adopts else 0
    room = MAX_SUB_TRACE_DEPTH - 1 - (below or 0)  # for those above
    if len(above) > room:
        lowest = above[len(above) - room] if room > 0 else None
        said = f"traces stand {MAX_SUB_TRACE_DEPTH} deep at most"
        said += f"; {lowest!r} above may have sub-traces" if lowest is not None else ""
        raise SubTraceDepth(
            f"parent_trace_id: {said}",
            details=[{"path": "parent_trace_id", "message": said, "parent_trace_id": lowest}],
            parent_trace_id=lowest,
            limit=MAX_SUB_TRACE_DEPTH,
        )


_NO_SUMS: dict[str, Any] = {
    f"{of}_{name}": nothing for of in ("total", "tree") for name, nothing in zip(SUM_NAMES, Sums(), strict=True)
}


def new_row(
    *,
    trace_id: str,
    spec: str,
    fields: dict[str, Any],
    root_trace_id: str,
    first_event_id: int,
    created_at: str,
    lease_expires_at: float | None,
    apart: bool = False,
) -> TraceRow:
    """The row of a trace without events. ``fields``: task, agent_type, parent_trace_id, parent_goal_id, metadata …"""
    return TraceRow(
        trace_key=0,
        trace_id=trace_id,
        spec=spec,
        task=fields["task"],
        agent_type=fields["agent_type"],
        parent_trace_id=fields["parent_trace_id"],
        parent_goal_id=fields["parent_goal_id"],
        root_trace_id=root_trace_id,
        metadata=orjson.dumps(fields["metadata"]).decode(),
        status="running",
        current_goal_id=None,
        first_event_id=first_event_id,
        last_event_id=first_event_id - 1,
        log_bytes=0,
        **_NO_SUMS,
        created_at=created_at,
        updated_at=created_at,
        completed_at=None,
        started_at=fields.get("started_at") or created_at,
        ended_at=None,
        active_at=created_at,
        session_id=fields.get("session_id"),
        user_id=fields.get("user_id"),
        tags=orjson.dumps(fields.get("tags") or []).decode(),
        models="[]",
        links=orjson.dumps(fields.get("links") or []).decode(),
        summary=None,
        error=None,
        lease_s=fields["lease_s"],
        lease_expires_at=lease_expires_at,
        apart=apart,
    )


def _differing(stored: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
    there = orjson.loads(stored)
    return [
        {"path": key, "message": "differs from the stored trace's"}
        for key in {**there, **spec}
        if key not in ("trace_id", "if_absent", "started_at") and there.get(key) != spec.get(key)
    ]


def make_trace_id(now: float) -> str:
    """A new trace_id that sorts by time: milliseconds in hexadecimal, then 48 random bits."""
    return f"{int(now * 1000):012x}-{secrets.token_hex(6)}"


# --- removal and the rest --------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False, kw_only=True)
class Delete(Job):
    """Remove a trace and its sub-traces; with ``idle_since`` only if all are over and nothing has happened since.

    What goes is gone for every reader at once. The engine removes what it leaves behind in pieces, later.
    """

    trace_id: str
    idle_since: str | None = None
    exclusive: bool = True

    def need(self, needs: Needs) -> None:
        needs.traces.add(self.trace_id)
        needs.above.add(self.trace_id)
        needs.trees.add(self.trace_id)

    def run(self, unit: Unit) -> list[str]:
        tree = unit.load(unit.loaded.trees, self.trace_id, "trees") or []
        rows = [row for one in tree if (row := unit.row(one)) is not None]
        if self.idle_since is not None and any(r.status not in OVER or r.updated_at >= self.idle_since for r in rows):
            return []
        if unit.row(self.trace_id) is None:
            raise UnknownTrace(f"there is no trace {self.trace_id!r}", trace_id=self.trace_id)
        parent_id = unit.above(rows[0])
        parent = None if parent_id is None or parent_id in tree else unit.draft(parent_id)
        if parent is not None:
            unit.count_absent(parent, self.trace_id)
        unit.deleted.extend(rows)
        return [row.trace_id for row in rows]


@dataclass(slots=True, eq=False, kw_only=True)
class Trim(Job):
    """Let a trace's log begin after ``upto``, of which there must be a kept snapshot. The answer: whether it does now.

    The snapshot stays, so every state from ``first_event_id - 1`` on can be had.
    """

    trace_id: str
    upto: int
    trace_key: int = 0  # of the trace that ``names`` was read from
    names: dict[str, int] = field(default_factory=dict)  # of the events that go: the last one of each name
    exclusive: bool = True

    def need(self, needs: Needs) -> None:
        needs.traces.add(self.trace_id)
        needs.snapshots.add((self.trace_id, self.upto))

    def run(self, unit: Unit) -> bool:
        draft = needed(unit, self.trace_id)
        if not draft.row.first_event_id <= self.upto <= draft.row.last_event_id:
            return False
        if (self.trace_id, self.upto) not in unit.loaded.snapshots:
            return False
        draft.state = at_first(draft.state, self.upto + 1)
        draft.trimmed = True
        draft.trimmed_names = self.names if self.trace_key == draft.row.trace_key else {}
        return True


@dataclass(slots=True, eq=False, kw_only=True)
class Check(Job):
    """See whether the log can be written; ``write``: by writing, and not only by taking the lock."""

    write: bool = False

    def run(self, unit: Unit) -> None:
        unit.probe = unit.probe or self.write


@dataclass(slots=True, eq=False, kw_only=True)
class Claim(Job):
    """Have something to oneself for ``for_s`` seconds. False if another process has it.

    ``held``: one has it, and goes on having it.
    """

    name: str
    for_s: float
    held: bool = False

    def need(self, needs: Needs) -> None:
        needs.claims.add(self.name)

    def run(self, unit: Unit) -> bool:
        until = unit.claims.get(self.name) or unit.load(unit.loaded.claims, self.name, "claims") or 0.0
        # A time further ahead than anybody claims was written by a clock that has been put back since
        if not self.held and unit.steady <= until <= unit.steady + 2 * self.for_s:
            return False
        unit.claims[self.name] = unit.steady + self.for_s
        return True
