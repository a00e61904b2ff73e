"""Restoring: stored events put back as they were exported, ids, times and all.

Rule: what was exported is believed as far as the fold can take it; what would contradict a table's keys is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..errors import Invalid, TraceConflict, TracewatchError
from ..model.base import put_base
from ..model.events import canonical
from . import Appended
from .jobs import Job, first_ids, named_messages
from .rows import fetch
from .transaction import Draft, Plan, Transaction


@dataclass(slots=True, eq=False)
class Restore(Job):
    """Put back a trace's stored events as they are."""

    header: dict[str, Any] = field(default_factory=dict)
    stored: Sequence[dict[str, Any]] = ()

    def traces(self) -> Iterator[str]:
        yield self.header["trace_id"]
        if self.header["parent_trace_id"] is not None:
            yield self.header["parent_trace_id"]

    def messages(self) -> Iterator[tuple[str, str]]:
        return named_messages(self.header["trace_id"], self.stored)

    async def run(self, tx: Transaction) -> Appended:
        await fetch(tx.connection, "SAVEPOINT restore")  # a refusal must not leave an empty trace behind
        new = tx.draft(self.header["trace_id"]) is None
        try:
            return await self._restore(tx)
        except TracewatchError:
            await fetch(tx.connection, "ROLLBACK TO restore")
            if new:
                tx.drafts.pop(self.header["trace_id"], None)
            raise
        finally:
            await fetch(tx.connection, "RELEASE restore")

    async def _restore(self, tx: Transaction) -> Appended:
        header = self.header
        draft = tx.draft(header["trace_id"])
        if draft is None:
            draft = await self._create(tx)
        else:
            self._compare(draft)
        last = draft.state.last_event_id
        present = [event for event in self.stored if event["event_id"] <= last]
        await self._compare_events(tx, draft, present)
        fresh = self.stored[len(present) :]
        await tx.load_messages(self.messages())
        plan = Plan(draft)
        sequence = await _last_sequence(tx, draft)
        for event in fresh:
            if event["event_id"] != plan.state.last_event_id + 1:
                raise Invalid(
                    f"event_id {event['event_id']} does not follow {plan.state.last_event_id}",
                    last_event_id=plan.state.last_event_id,
                )
            sequence = _check_message(plan, event, sequence)
            plan.put(event, canonical(event))
        plan.commit()
        return Appended(last + 1 if fresh else None, plan.state.last_event_id, len(present))

    async def _create(self, tx: Transaction) -> Draft:
        header = self.header
        first = header.get("first_event_id", 1)
        used = (await first_ids(tx, header["trace_id"]))["last_event_id"]
        if used > max(header.get("last_event_id", 0), first - 1):
            raise TraceConflict(
                f"trace {header['trace_id']!r} was deleted after its event {used}, and this export ends before that:"
                " what came next would get ids that were used already. Import it into another database",
                last_event_id=used,
            )
        spec = {key: header.get(key) for key in ("task", "agent_type", "parent_trace_id", "parent_goal_id", "metadata")}
        draft = await tx.insert_trace(
            {
                "trace_id": header["trace_id"],
                "spec": orjson.dumps({**spec, "lease_s": None}, option=orjson.OPT_SORT_KEYS).decode(),
                **spec,
                "metadata": orjson.dumps(header["metadata"]).decode(),
                "root_trace_id": header["root_trace_id"],
                "first_event_id": first,
                "last_event_id": first - 1,
                "created_at": header["created_at"],
                "updated_at": header["created_at"],
            }
        )
        if header.get("base") is not None and first > 1:
            await self._put_base(tx, draft, first - 1)
        return draft

    async def _put_base(self, tx: Transaction, draft: Draft, upto: int) -> None:
        """A trimmed log begins with a state, and with the snapshot that says so."""
        draft.state = put_base(draft.state, self.header["base"])
        draft.told |= draft.state.sub_traces.keys()
        draft.snapshots.append((draft.row.trace_key, upto, orjson.dumps(draft.state.to_json())))
        draft.inputs.opened.update(dict.fromkeys(draft.state.pending_inputs, upto))

    def _compare(self, draft: Draft) -> None:
        row = draft.row
        for key in ("task", "agent_type", "parent_trace_id", "parent_goal_id", "root_trace_id", "created_at"):
            if self.header[key] != getattr(row, key):
                raise TraceConflict(f"trace {row.trace_id!r} is here already with another {key}", path=key)

    async def _compare_events(self, tx: Transaction, draft: Draft, present: Sequence[dict[str, Any]]) -> None:
        if not present:
            return
        first, last = present[0]["event_id"], present[-1]["event_id"]
        rows = await fetch(
            tx.connection,
            "SELECT event_id, body FROM events WHERE trace_key = ? AND event_id BETWEEN ? AND ?",
            draft.row.trace_key,
            first,
            last,
        )
        bodies = dict(rows)
        for event in present:
            if bodies.get(event["event_id"]) != canonical(event):
                raise TraceConflict(
                    f"event {event['event_id']} of trace {draft.row.trace_id!r} is another one here",
                    event_id=event["event_id"],
                )


async def _last_sequence(tx: Transaction, draft: Draft) -> int:
    sql = "SELECT COALESCE(MAX(sequence), 0) FROM messages WHERE trace_key = ?"
    there = int((await fetch(tx.connection, sql, draft.row.trace_key))[0][0])
    return max(there, draft.state.total_messages)  # those that were trimmed have had theirs


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
