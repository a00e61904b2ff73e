"""The sender of an importer's steps to a server: in batches, at a pace, and so that a second time changes nothing.

Rule 1: steps are sent in their order. A batch ends where the trace changes, because a sub-trace may need a goal of its
        parent's trace.
Rule 2: an event's ``seq`` is its place among its trace's events in the file. Of a refused event
        there is what the log takes, or an ``import_refused`` (``model/mend.py``): the numbers after it stay the same.
        A trace that has ended and gets more, from a file that has grown, is running again before that. Closing events
        are a producer of their own, named by their contents and place; those of a file that is older than what the log
        has are left out.
Rule 3: data that can't be imported becomes an ImportFault, and the import goes on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..client.api import Api
from ..client.errors import ApiError
from ..client.posts import NEVER
from ..importers import AppendEvent, CreateTrace, ImportFault, RestoreEvent, RestoreTrace, Step
from ..model.canonical import ENDED
from ..model.mend import Mender
from ..model.times import parse_time
from ..model.window import BATCH_EVENTS, Window

PRODUCER = "import"
MAX_BYTES = 2 * 1024 * 1024  # of a batch
ABOUT_THE_TRACE = frozenset({"unknown_trace", "sequence_gap"})  # refusals that no single event has caused
MESSAGE_S = 1.0  # between two messages at real speed where the file has no times


@dataclass
class Counts:
    """The numbers of an import so far."""

    traces: int = 0
    events: int = 0  # events that the log did not have
    duplicates: int = 0  # events that it had already
    faults: int = 0

    def add(self, other: Counts) -> None:
        """Add another's numbers to these."""
        self.traces += other.traces
        self.events += other.events
        self.duplicates += other.duplicates
        self.faults += other.faults


class Pace:
    """Waits between events as the run did. ``speed``: 1 is real time, 10 ten times as fast, None does not wait."""

    def __init__(self, speed: float | None, sleep: Callable[[float], None] = time.sleep) -> None:
        self._speed = speed
        self._sleep = sleep
        self._last_s: float | None = None  # when the last event happened

    @property
    def waiting(self) -> bool:
        """Whether there is a wait between events, so that they are sent one by one."""
        return self._speed is not None

    def wait(self, event: dict[str, Any]) -> None:
        """Sleep until ``event`` is due."""
        if self._speed is None:
            return
        stamp = event.get("occurred_at") or event.get("ts")
        if isinstance(stamp, str):
            at_s = parse_time(stamp)
            due = 0.0 if self._last_s is None else max(at_s - self._last_s, 0.0)
            self._last_s = max(at_s, self._last_s or at_s)
        else:
            due = MESSAGE_S if event["event"] == "message_added" else 0.0
        if due:
            self._sleep(due / self._speed)


@dataclass
class StepSender:
    """Sends the steps of one file. ``on_fault`` gets every ImportFault, ``on_progress`` the number of events sent."""

    api: Api
    pace: Pace
    on_fault: Callable[[ImportFault], None]
    on_progress: Callable[[int], None] = lambda _: None
    counts: Counts = field(default_factory=Counts)
    _trace_id: str | None = None  # of the batch
    _batch: list[bytes] = field(default_factory=list)
    _bytes: int = 0
    _header: bytes | None = None  # of the trace being restored; None: events are appended
    _seq: dict[str, int] = field(default_factory=dict)  # the last one given out
    _given_up: set[str] = field(default_factory=set)
    _closing: bool = False  # the batch is of closing events
    _there: set[str] = field(default_factory=set)  # traces that had events before
    _ended: set[str] = field(default_factory=set)  # those of them that have ended

    def take(self, step: Step) -> None:
        """Take one step, and send it at the latest at ``flush``. Raises Unreachable."""
        if isinstance(step, ImportFault):
            self._fault(step)
        elif isinstance(step, CreateTrace):
            self.flush()
            self._create(step.spec)
        elif isinstance(step, RestoreTrace):
            self.flush()
            self._trace_id, self._header = step.header["trace_id"], orjson.dumps({"trace": step.header})
            self.counts.traces += 1
            self._restore()  # so that a trace without events is restored too
        elif isinstance(step, RestoreEvent):
            if self.pace.waiting:
                self.pace.wait(orjson.loads(step.body))
            self._add(step.body)
        elif isinstance(step, AppendEvent) and step.trace_id not in self._given_up:
            if (step.trace_id, step.closing) != (self._trace_id, self._closing) or self._header is not None:
                self.flush()
                self._trace_id, self._closing, self._header = step.trace_id, step.closing, None
            self.pace.wait(step.event)
            self._add(orjson.dumps(step.event))

    def flush(self) -> None:
        """Send the steps that wait."""
        if not self._batch:
            return
        if self._header is not None:
            self._restore()
        elif self._trace_id is not None and self._closing:
            self._close(self._trace_id, self._batch)
        elif self._trace_id is not None:
            seq = self._seq.get(self._trace_id, 0) + 1
            self._seq[self._trace_id] = seq + len(self._batch) - 1
            if self._trace_id in self._ended:
                new = self._batch[max(0, self._known(self._trace_id, PRODUCER) + 1 - seq) :]
                if new:
                    self._reopen(self._trace_id, new[0])
            self._append(self._trace_id, self._batch, seq, PRODUCER)
        self._batch, self._bytes = [], 0

    def _add(self, body: bytes) -> None:
        if self._trace_id in self._given_up:
            return
        if self._bytes + len(body) > MAX_BYTES:
            self.flush()
        self._batch.append(body)
        self._bytes += len(body) + 1
        if not self._closing and (len(self._batch) >= BATCH_EVENTS or self.pace.waiting):
            self.flush()

    def _create(self, spec: dict[str, Any]) -> None:
        trace_id = spec["trace_id"]
        try:
            try:
                trace = self.api.create_trace(spec)
            except ApiError as error:
                if error.code != "trace_conflict":
                    raise
                trace = self._updated(spec, error)
        except ApiError as error:
            _raise_if_ours(error)
            self._give_up(trace_id, error)
            return
        self.counts.traces += 1
        if trace.get("last_event_id"):
            self._there.add(trace_id)
            if trace.get("status") in ENDED:
                self._ended.add(trace_id)

    def _updated(self, spec: dict[str, Any], conflict: ApiError) -> dict[str, Any]:
        """The trace that the same source gave before, with what it says of itself by now. Raises the conflict."""
        found: dict[str, Any] = self.api.trace(spec["trace_id"])["trace"]
        metadata, before = spec.get("metadata") or {}, found.get("metadata") or {}
        if "format" not in metadata or any(metadata.get(key) != before.get(key) for key in ("format", "begins")):
            raise conflict
        if spec.get("parent_trace_id") != found["parent_trace_id"]:
            raise conflict
        changes: dict[str, Any] = {} if spec["task"] == found["task"] else {"task": spec["task"]}
        if new := {key: value for key, value in metadata.items() if before.get(key) != value}:
            changes["metadata"] = new
        if changes:
            self._tell(spec["trace_id"], {"event": "trace_updated", **changes}, found.get("active_at"))
        return found

    def _known(self, trace_id: str, producer: str) -> int:
        """The last seq of a producer that the log has."""
        try:
            self.api.append(trace_id, [{"event": f"{PRODUCER}_asks"}], producer=producer, seq=NEVER)
        except ApiError as error:
            if error.code != "sequence_gap":
                raise
            return int(error.facts["expected_seq"]) - 1
        return 0

    def _reopen(self, trace_id: str, before: bytes) -> None:
        """Have an ended trace run again, at the time of the event that comes next."""
        self._ended.discard(trace_id)
        event = {"event": "trace_status_changed", "status": "running", "reason": "imported again"}
        self._tell(trace_id, event, orjson.loads(before).get("occurred_at"))

    def _tell(self, trace_id: str, event: dict[str, Any], at: str | None) -> None:
        self.api.append(trace_id, [event | ({"occurred_at": at} if at else {})])

    def _close(self, trace_id: str, bodies: list[bytes]) -> None:
        """Send a trace's closing events, unless the log has them, or more of the trace than this file."""
        seq = self._seq.get(trace_id, 0)
        producer = f"{PRODUCER}.{seq}.{hashlib.sha256(b''.join(bodies)).hexdigest()[:16]}"
        if trace_id in self._there:
            if self._known(trace_id, PRODUCER) > seq:
                self._count(len(bodies), len(bodies))
                return
            if trace_id in self._ended and self._known(trace_id, producer) < len(bodies):
                self._reopen(trace_id, bodies[0])
        self._append(trace_id, bodies, 1, producer)

    def _give_up(self, trace_id: str, error: ApiError) -> None:
        self._given_up.add(trace_id)
        self._fault(ImportFault(f"{error.message}; the events of trace {trace_id} are left out", field=_path(error)))

    def _restore(self) -> None:
        assert self._header is not None and self._trace_id is not None
        try:
            answer = self.api.import_lines([self._header, *self._batch])
        except ApiError as error:
            _raise_if_ours(error)
            self._give_up(self._trace_id, error)
            self._batch, self._bytes = [], 0
        else:
            self._count(len(self._batch), answer["duplicates"])

    def _append(self, trace_id: str, bodies: list[bytes], first: int, producer: str) -> None:
        """Send ``bodies``, numbered from ``first``, until each is stored or has a substitute."""
        window, last, mender = Window(first - 1, in_flight=1), first + len(bodies) - 1, Mender(PRODUCER)
        while (seq := window.next) <= last:
            part = bodies[seq - first :][: window.room()]
            window.sent(len(part))
            try:
                answer = self.api.append(trace_id, b"[" + b",".join(part) + b"]", producer=producer, seq=seq)
            except ApiError as error:
                _raise_if_ours(error)
                if error.code in ABOUT_THE_TRACE:
                    self._give_up(trace_id, error)
                    return
                culprit = window.nacked(seq, error.code, None, failures=1)
                if culprit is not None:
                    body = bodies[culprit - first]
                    instead = mender.instead(culprit, body, error.code, error.message, error.details)
                    if instead is None:
                        self._give_up(trace_id, error)
                        return
                    bodies[culprit - first] = instead
                    name = orjson.loads(body)["event"]
                    if name != f"{PRODUCER}_refused":
                        said = f"event {culprit} of trace {trace_id} ({name}): {error.message}"
                        self._fault(ImportFault(said, field=_path(error)))
                window.settle(seq - 1)
            else:
                window.acked(window.next - 1)
                self._count(len(part), answer["duplicates"])

    def _count(self, sent: int, duplicates: int) -> None:
        self.counts.events += sent - duplicates
        self.counts.duplicates += duplicates
        self.on_progress(sent)

    def _fault(self, fault: ImportFault) -> None:
        self.counts.faults += 1
        self.on_fault(fault)


def _raise_if_ours(error: ApiError) -> None:
    """Raise an error that ends the import. A refusal of the data sent is the file's fault, and the import goes on."""
    if error.status >= 500 or error.status in (401, 403, 429):
        raise error


def _path(error: ApiError) -> str | None:
    path = error.details[0].get("path") if error.details else None
    return path.partition(".")[2] or path if isinstance(path, str) and path.partition(".")[0].isdigit() else path
