"""The sender of an importer's steps to a server: in batches, at a pace, and so that a second time changes nothing.

Rule 1: steps are sent in their order. A batch ends where the trace changes, because a sub-trace may need a goal of its
        parent's trace.
Rule 2: an event's ``seq`` is its place among its trace's events in the file. Of a refused event
        there is what the log takes, or an ``import_refused`` (``model/mend.py``): the numbers after it stay the same.
Rule 3: what a file tells as Puts goes by a courier.
Rule 4: data that can't be imported becomes an ImportFault, and the import goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..client.api import Api
from ..client.errors import ApiError
from ..importers import (
    AppendEvent,
    CreateTrace,
    ImportFault,
    KeepContent,
    NextFile,
    Put,
    RestoreEvent,
    RestoreTrace,
    Step,
    WireBody,
)
from ..model.mend import Mender
from ..model.times import parse_time
from ..model.window import BATCH_EVENTS, Window
from .courier import Courier

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
    sent: int = 0  # spans, records or runs of foreign tracers, which the server has compared with what it has

    def add(self, other: Counts) -> None:
        """Add another's numbers to these."""
        self.traces += other.traces
        self.events += other.events
        self.duplicates += other.duplicates
        self.faults += other.faults
        self.sent += other.sent


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
    """Sends the steps of one file. ``on_fault`` gets every ImportFault, ``on_progress`` the number of events sent,
    ``on_file`` the next file of a folder.
    """

    api: Api
    pace: Pace
    on_fault: Callable[[ImportFault], None]
    on_progress: Callable[[int], None] = lambda _: None
    on_file: Callable[[NextFile], None] = lambda _: None
    counts: Counts = field(default_factory=Counts)
    _trace_id: str | None = None  # of the batch
    _batch: list[bytes] = field(default_factory=list)
    _bytes: int = 0
    _header: bytes | None = None  # of the trace being restored; None: events are appended
    _seq: dict[str, int] = field(default_factory=dict)  # the last one given out
    _kept: bool = False  # content that the header names may have come behind it
    _given_up: set[str] = field(default_factory=set)
    _courier: Courier | None = None
    _traces: set[str] = field(default_factory=set)  # that foreign tracers told of

    def take(self, step: Step) -> None:
        """Take one step, and send it at the latest at ``flush``. Raises Unreachable."""
        if isinstance(step, ImportFault):
            self._fault(step)
        elif isinstance(step, NextFile):
            self.on_file(step)
        elif isinstance(step, Put):
            self._told(step)
        elif isinstance(step, WireBody):
            self._tell(step)
        elif isinstance(step, CreateTrace):
            self.flush()
            self._create(step.spec)
        elif isinstance(step, RestoreTrace):
            self.flush()
            self._trace_id, self._header = step.header["trace_id"], orjson.dumps({"trace": step.header})
            self.counts.traces += 1
            self._restore()  # so that a trace without events is restored too
        elif isinstance(step, KeepContent):
            self._keep(step)
        elif isinstance(step, RestoreEvent):
            if self.pace.waiting:
                self.pace.wait(orjson.loads(step.body))
            self._add(step.body)
        elif isinstance(step, AppendEvent) and step.trace_id not in self._given_up:
            if step.trace_id != self._trace_id or self._header is not None:
                self.flush()
                self._trace_id, self._header = step.trace_id, None
            self.pace.wait(step.event)
            self._add(orjson.dumps(step.event))

    def _keep(self, step: KeepContent) -> None:
        """Store content, before the events that name it. Without it they are mended, or refused."""
        if step.trace_id in self._given_up:
            return
        try:
            self.api.put_blob(step.trace_id, step.data, step.media_type)
            self._kept = self._header is not None
        except ApiError as error:
            _raise_if_ours(error)
            said = f"{step.media_type} of {len(step.data):,} bytes in trace {step.trace_id}: {error.message}"
            self._fault(ImportFault(said))

    def _tell(self, step: WireBody) -> None:
        try:
            answer, traces = self.api.tell(step.route, step.body, step.headers)
        except ApiError as error:
            _raise_if_ours(error)
            self._fault(ImportFault(error.message, step.line))
            return
        self.counts.traces += len(set(traces) - self._traces)
        self._traces |= set(traces)
        refused = answer.get("partialSuccess") or {}
        count = int(refused.get("rejectedSpans") or refused.get("rejectedLogRecords") or 0)
        if count:
            self._fault(ImportFault(str(refused.get("errorMessage") or f"{count} of {step.items} refused"), step.line))
        self.counts.sent += step.items - count
        self.on_progress(step.items)

    def _told(self, put: Put) -> None:
        if self._courier is None:
            before = self.pace.wait if self.pace.waiting else None
            self._courier = Courier(self.api, self._fault, self._created, self._sent, self._known, before=before)
        self._courier.take(put)

    def _created(self, trace_id: str) -> None:
        self.counts.traces += 1

    def _sent(self, events: int) -> None:
        self.counts.events += events
        self.on_progress(events)

    def _known(self, puts: int) -> None:
        self.counts.duplicates += puts

    def flush(self) -> None:
        """Send the steps that wait."""
        if self._courier is not None:
            self._courier.flush()
        if not self._batch and not self._kept:
            return
        if self._header is not None:
            self._restore()
        elif self._trace_id is not None:
            seq = self._seq.get(self._trace_id, 0) + 1
            self._seq[self._trace_id] = seq + len(self._batch) - 1
            self._append(self._trace_id, self._batch, seq)
        self._batch, self._bytes = [], 0

    def _add(self, body: bytes) -> None:
        if self._trace_id in self._given_up:
            return
        if self._bytes + len(body) > MAX_BYTES:
            self.flush()
        self._batch.append(body)
        self._bytes += len(body) + 1
        if len(self._batch) >= BATCH_EVENTS or self.pace.waiting:
            self.flush()

    def _create(self, spec: dict[str, Any]) -> None:
        try:
            self.api.create_trace(spec)
        except ApiError as error:
            _raise_if_ours(error)
            self._give_up(spec["trace_id"], error)
        else:
            self.counts.traces += 1

    def _give_up(self, trace_id: str, error: ApiError) -> None:
        self._given_up.add(trace_id)
        self._fault(ImportFault(f"{error.message}; the events of trace {trace_id} are left out", field=_path(error)))

    def _restore(self) -> None:
        assert self._header is not None and self._trace_id is not None
        self._kept = False
        try:
            answer = self.api.import_lines([self._header, *self._batch])
        except ApiError as error:
            _raise_if_ours(error)
            self._give_up(self._trace_id, error)
            self._batch, self._bytes = [], 0
        else:
            self._count(len(self._batch), answer["duplicates"])

    def _append(self, trace_id: str, bodies: list[bytes], first: int) -> None:
        """Send ``bodies``, numbered from ``first``, until each is stored or has a substitute."""
        window, last, mender = Window(first - 1, in_flight=1), first + len(bodies) - 1, Mender(PRODUCER)
        while (seq := window.next) <= last:
            part = bodies[seq - first :][: window.room()]
            window.sent(len(part))
            try:
                answer = self.api.append(trace_id, b"[" + b",".join(part) + b"]", producer=PRODUCER, seq=seq)
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
