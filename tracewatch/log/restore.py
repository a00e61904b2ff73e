"""Restoring: stored events put back as they were exported, ids, times and all.

Rule 1: what was exported is believed as far as the fold can take it; what would contradict a table's keys is refused.
Rule 2: a trace whose parent is not there is ``apart``, below nothing, until somebody who may see every trace puts the
        parent there. A client that may only work below one trace can't take it in by making up a trace of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..errors import Invalid, TraceConflict
from ..model.base import put_base
from ..model.blobs import MARK, references
from ..model.canonical import canonical
from ..model.events import LATER_FIELDS
from .jobs import Job, check_above, check_depth, need_named, new_row
from .storage import Needs, SnapshotRow
from .unit import FOR_GOOD, Draft, Plan, Unit
from .views import Appended

_SAME = ("task", "agent_type", "parent_trace_id", "parent_goal_id", "root_trace_id", "created_at")


@dataclass(slots=True, eq=False, kw_only=True)
class Restore(Job):
    """Put back a trace's stored events as they are."""

    header: dict[str, Any]
    stored: Sequence[dict[str, Any]]
    below: str | None = None  # who asks may do so for this trace, and below it, only
    named: list[str] = field(init=False)  # messages
    exclusive: bool = True

    def need(self, needs: Needs) -> None:
        trace_id, parent_id = self.header["trace_id"], self.header["parent_trace_id"]
        needs.traces.add(trace_id)
        needs.used_ids.add(trace_id)
        needs.sequences.add(trace_id)
        self.named = need_named(needs, trace_id, self.stored)
        if self.stored:
            needs.events.append((trace_id, self.stored[0]["event_id"], self.stored[-1]["event_id"]))
        if parent_id is not None:
            needs.traces.add(parent_id)
            needs.above.add(parent_id)
        needs.rows.update(event["sub_trace_id"] for event in self.stored if "sub_trace_id" in event)

    def run(self, unit: Unit) -> Appended:
        header = self.header
        draft = unit.draft(header["trace_id"])
        if draft is None:
            draft = self._create(unit)
        else:
            self._compare(draft)
        last = draft.state.last_event_id
        present = [event for event in self.stored if event["event_id"] <= last]
        self._compare_events(unit, draft, present)
        fresh = self.stored[len(present) :]
        for message_id in self.named if fresh else ():
            unit.message(draft, message_id)
        plan = Plan(unit, draft)
        there = unit.load(unit.loaded.sequences, header["trace_id"], "sequences") or 0
        sequence = max(there, draft.state.total_messages)  # those that were trimmed have had theirs
        for event in fresh:
            if event["event_id"] != plan.state.last_event_id + 1:
                raise Invalid(
                    f"event_id {event['event_id']} does not follow {plan.state.last_event_id}",
                    last_event_id=plan.state.last_event_id,
                )
            sequence = _check_message(plan, event, sequence)
            body = canonical(event)
            if MARK in body:
                plan.name_blobs(event)
            plan.put(event, body)
        self._name_contents(unit, draft)
        unit.add(draft)
        plan.commit()
        return Appended(last + 1 if fresh else None, plan.state.last_event_id, len(present))

    def _create(self, unit: Unit) -> Draft:
        header = self.header
        first = header.get("first_event_id", 1)
        used = unit.load(unit.loaded.used_ids, header["trace_id"], "used_ids") or 0
        if used > max(header.get("last_event_id", 0), first - 1):
            raise TraceConflict(
                f"trace {header['trace_id']!r} was deleted after its event {used}, and this export ends before that:"
                " what came next would get ids that were used already. Import it into another database",
                last_event_id=used,
            )
        check_above(unit, header["trace_id"], header["parent_trace_id"])
        check_depth(unit, header["trace_id"], header["parent_trace_id"], adopts=self.below is None)
        parent_id = header["parent_trace_id"]
        here = parent_id is None or unit.draft(parent_id) is not None
        names = ("task", "agent_type", "parent_trace_id", "parent_goal_id", "metadata")
        spec = {**{key: header.get(key) for key in names}, "lease_s": None}
        spec |= {key: header[key] for key in LATER_FIELDS if key in header}
        row = new_row(
            trace_id=header["trace_id"],
            spec=orjson.dumps(spec, option=orjson.OPT_SORT_KEYS).decode(),
            fields=spec,
            root_trace_id=header["root_trace_id"],
            first_event_id=first,
            created_at=header["created_at"],
            lease_expires_at=None,
            apart=not here and parent_id != self.below,
        )
        draft = Draft(row, row.initial_state(), {}, {}, new=True, adopts=self.below is None)
        if header.get("base") is not None and first > 1:
            self._put_base(draft, first - 1)
        return draft

    def _put_base(self, draft: Draft, upto: int) -> None:
        """A trimmed log begins with a state, and with the snapshot that says so."""
        draft.state = put_base(draft.state, self.header["base"])
        draft.noted.told |= draft.state.sub_traces.keys()
        draft.snapshots.append(SnapshotRow(upto, orjson.dumps(draft.state.to_json())))
        draft.noted.opened.update(dict.fromkeys(draft.state.pending_inputs, upto))

    def _name_contents(self, unit: Unit, draft: Draft) -> None:
        """The contents that the state before the first event names stay. They come after the header, or never."""
        named = [self.header.get(key) for key in ("base", "metadata")]
        for sha256, size in references(named).items():
            if unit.load(unit.loaded.blobs, (draft.row.trace_id, sha256), "blobs") == size:
                draft.blobs[sha256] = FOR_GOOD

    def _compare(self, draft: Draft) -> None:
        row = draft.row
        for key in _SAME:
            if self.header[key] != getattr(row, key):
                raise TraceConflict(f"trace {row.trace_id!r} is here already with another {key}", path=key)

    def _compare_events(self, unit: Unit, draft: Draft, present: Sequence[dict[str, Any]]) -> None:
        bodies = unit.loaded.events.get(draft.row.trace_id, {})
        for event in present:
            if bodies.get(event["event_id"]) != canonical(event):
                raise TraceConflict(
                    f"event {event['event_id']} of trace {draft.row.trace_id!r} is another one here",
                    event_id=event["event_id"],
                )


def _check_message(plan: Plan, event: dict[str, Any], sequence: int) -> int:
    """The sequence number of the last message after ``event``. Raises Invalid where an event adds one a second time."""
    if event["event"] != "message_added":
        return sequence
    message = event["message"]
    if message["message_id"] in plan.state.messages:
        raise Invalid(f"event {event['event_id']}: message {message['message_id']!r} was added already")
    if message["sequence"] <= sequence:
        raise Invalid(
            f"event {event['event_id']}: message.sequence {message['sequence']} does not come after {sequence}"
        )
    return int(message["sequence"])
