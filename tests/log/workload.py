"""A random workload with everything that can happen to a log, for checks that must hold of any log."""

from __future__ import annotations

import random
from typing import Any

from tests.log.helpers import Clock, Json, events, goal, notes, say, sweep, trim
from tracewatch.errors import TracewatchError
from tracewatch.log import EventLog
from tracewatch.log.project import SNAPSHOT_EVERY
from tracewatch.model.events import validate_header, validate_trace


class Workload:
    """Does one thing after another to a log whose clock is ``clock``."""

    def __init__(self, log: EventLog, clock: Clock, seed: int) -> None:
        self.log, self.clock, self.dice = log, clock, random.Random(seed)
        self.traces: list[str] = []
        self.seqs: dict[tuple[str, str], int] = {}
        self.number = 0

    async def run(self, steps: int) -> None:
        """So many steps, of which some are refused."""
        await self.create()
        for _ in range(steps):
            name = self.dice.choices(
                ("append", "create", "end", "answer", "cancel", "expire", "delete", "again", "trim", "sweep"),
                (60, 8, 5, 8, 3, 5, 1, 1, 5, 5),
            )[0]
            try:
                await getattr(self, name)()
            except TracewatchError:
                continue
            self.clock.now += self.dice.random() * 5

    def any(self) -> str:
        return self.dice.choice(self.traces)

    async def create(self) -> None:
        self.number += 1
        fields: Json = {"trace_id": f"t{self.number}", "task": f"Task {self.number}"}
        if self.traces and self.dice.random() < 0.6:
            fields["parent_trace_id"] = self.any()
        if self.dice.random() < 0.5:
            fields["lease_s"] = self.dice.choice((5, 100))
        await self.log.create_trace(validate_trace(fields))
        self.traces.append(fields["trace_id"])

    async def append(self) -> None:
        trace_id, producer = self.any(), self.dice.choice((None, "p", "q"))
        batch = [self.event() for _ in range(self.dice.choice((1, 1, 3, 10)))]
        if self.dice.random() < 0.1:
            batch = [*batch, *notes(400)]
        if producer is None:
            await self.log.append(trace_id, batch)
            return
        seq = self.seqs.get((trace_id, producer), 0) + 1
        seq = max(1, seq - self.dice.choice((0, 0, 0, 1)))  # sometimes one is sent again
        await self.log.append(trace_id, batch, producer=producer, seq=seq)
        self.seqs[trace_id, producer] = seq + len(batch) - 1

    def event(self) -> Json:
        dice, number = self.dice, str(self.dice.randint(1, 12))
        kind = dice.randrange(8)
        if kind == 0:
            more: Json = {"parent_id": number} if dice.random() < 0.4 else {}
            return goal(f"goal {number}", status=dice.choice(("pending", "in_progress", "completed")), **more)
        if kind == 1:
            status = dice.choice(("in_progress", "completed", "abandoned"))
            return {"event": "goal_updated", "goal_id": number, "patch": {"status": status}}
        if kind in (2, 3):
            self.number += 1
            more = {"tokens": dice.randint(0, 99), "cost": dice.random() / 7, "message_id": f"x{self.number}"}
            return say("Grüße" * dice.randint(0, 9), status=dice.choice(("streaming", "complete")), **more)
        if kind in (4, 5):
            patch = dice.choice(({"tokens": dice.randint(0, 99)}, {"status": "complete"}, {"cost": dice.random()}))
            return {"event": "message_updated", "message_id": f"x{self.number}", "append": "…", "patch": patch}
        if kind == 6:
            self.number += 1
            more = {"expires_in_s": 20} if dice.random() < 0.3 else {}
            return {"event": "input_requested", "request_id": f"ask{self.number}", "question": "?", **more}
        return dice.choice([*notes(1), {"event": "trace_status_changed", "status": "running"}])

    async def end(self) -> None:
        status = self.dice.choice(("completed", "failed", "stopped"))
        await self.log.append(self.any(), [{"event": "trace_completed", "status": status, "error": {"a": 1}}])

    async def answer(self) -> None:
        for asked in (await self.log.inputs(10))[0][:2]:
            await self.log.answer(asked["trace_id"], asked["request_id"], {"yes": [1]}, by="me")

    async def cancel(self) -> None:
        await self.log.cancel(self.any(), reason="why not")

    async def expire(self) -> None:
        self.clock.now += 10
        await self.log.expire_leases()
        await self.log.expire_inputs()

    async def delete(self) -> None:
        gone = await self.log.delete_trace(self.any())
        self.traces = [one for one in self.traces if one not in gone]
        self.seqs = {key: seq for key, seq in self.seqs.items() if key[0] not in gone}
        if not self.traces:
            await self.create()

    async def trim(self) -> None:
        (row,) = await self.log.summaries([self.any()])
        await trim(self.log, row["trace_id"], row["last_event_id"] // SNAPSHOT_EVERY * SNAPSHOT_EVERY)

    async def sweep(self) -> None:
        await sweep(self.log)

    async def again(self) -> None:
        """Export a trace, delete it, and either import it or begin another one under its id."""
        trace_id = self.any()
        (row,) = await self.log.summaries([trace_id])
        stored = await events(self.log, trace_id)
        gone = await self.log.delete_trace(trace_id)
        self.traces = [one for one in self.traces if one not in gone] or []
        self.seqs = {key: seq for key, seq in self.seqs.items() if key[0] not in gone}
        if self.dice.random() < 0.5 or row["first_event_id"] > 1:
            await self.log.create_trace(validate_trace({"trace_id": trace_id, "task": "again"}))
        else:
            header = validate_header(row)
            for start in range(0, max(1, len(stored)), 1000):
                await self.log.restore(header, stored[start : start + 1000])
        self.traces.append(trace_id)


async def work(log: EventLog, clock: Clock, seed: int, steps: int) -> Any:
    """``Workload.run``; the traces there are."""
    workload = Workload(log, clock, seed)
    await workload.run(steps)
    return workload.traces
