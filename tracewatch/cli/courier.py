"""The courier of Puts to a server: what the logs hold of a source is read from them, so only what is new is written.

Rule 1: an append is conditional on where the ledger believes the log to stand. Where another writer was there (a second
        import, a pipe beside a follower, a hook) or an answer was lost, the ledger is made anew from the log, and what
        is still missing is written. So nothing is written twice, by however many, and whatever is killed when.
Rule 2: a trace is created before its events, its parent's events before it. One whose parent is not there is a run of
        its own until it is told again when the parent is.
Rule 3: an event that the log refuses is mended or becomes an ``import_refused``, and a fault says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..client.api import Api
from ..client.errors import ApiError
from ..importers import ImportFault, Put
from ..importers.ledger import Ledger
from ..model.contents import Keep, reference
from ..model.mend import Mender
from ..model.window import BATCH_EVENTS

MAX_BYTES = 2 * 1024 * 1024  # of a batch
HELD_PUTS = 2000  # so many are sent together, over all traces, unless it is told otherwise
HELD_BYTES = 8 * 1024 * 1024  # of their values, likewise
LEDGERS = 64  # of traces that nothing was told of for the longest are forgotten
_TRIES = 8  # to write what another writer has changed under us each time
_BY = "import"
_PIECE_CHARS = 16_384  # of streamed text in one event, and one more piece


@dataclass
class Courier:
    """Takes Puts and sends what is new of them, at the latest at ``flush``.

    ``on_sent`` gets the events that were written, ``on_known`` how many Puts said nothing new; ``lease_s``: of the
    traces that it creates.
    """

    api: Api
    on_fault: Callable[[ImportFault], None]
    on_trace: Callable[[str], None] = lambda trace_id: None
    on_sent: Callable[[int], None] = lambda events: None
    on_known: Callable[[int], None] = lambda puts: None
    before: Callable[[dict[str, Any]], None] | None = None  # waits until an event is due: then one is sent at a time
    lease_s: float | None = None  # of the runs that it creates; their sub-traces end with them
    itself: bool = True  # it sends by itself where it holds much
    on_gone: Callable[[str], object] | None = None  # gets a trace that was deleted meanwhile; else it is a fault
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    _held: dict[str, list[Put]] = field(default_factory=dict)
    held_bytes: int = 0  # about, of the values that it holds
    _count: int = 0
    _behind: set[str] = field(default_factory=set)  # traces into whose logs the server has written for others
    _given_up: set[str] = field(default_factory=set)

    def take(self, put: Put) -> None:
        """Take one Put. Raises Unreachable, and ApiError where the server refuses everything."""
        if put.trace_id in self._given_up:
            return
        self._held.setdefault(put.trace_id, []).append(put)
        self._count += 1
        self.held_bytes += _size(put.fields)
        if self.before is not None or (self.itself and (self._count >= HELD_PUTS or self.held_bytes > HELD_BYTES)):
            self.flush()

    @property
    def holds(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)

    def flush(self) -> None:
        """Send what is held. What could not be sent before an error stays held."""
        while self._held:
            self._flush(next(iter(self._held)))
        self.held_bytes = 0

    def forget(self) -> None:
        """Forget all ledgers: what is told next is compared with what the logs hold then."""
        self.ledgers.clear()
        self._behind.clear()

    def _flush(self, trace_id: str) -> None:
        puts = self._held.get(trace_id, [])
        parent_id = next(
            (p.fields["parent_trace_id"] for p in puts if p.kind == "trace" and "parent_trace_id" in p.fields), None
        )
        if parent_id in self._held:
            held = self._held.pop(trace_id)
            try:
                self._flush(parent_id)
            finally:
                self._held = {trace_id: held, **self._held}
        for _ in range(_TRIES):
            if self._told(trace_id, puts):
                break
            self.ledgers.pop(trace_id, None)  # another writer was there
        else:
            self._fault(trace_id, "another program goes on writing into it")
        self._count -= len(self._held.pop(trace_id, ()))

    def _told(self, trace_id: str, puts: list[Put]) -> bool:
        """Send what is new of ``puts``; False: the log is another than was believed."""
        ledger = self._ledger(trace_id)
        events: list[dict[str, Any]] = []
        known = 0
        if not self._homed(ledger, puts):
            return False
        for put in puts:
            if trace_id in self._given_up:
                return True
            spec = ledger.creates(put)
            if spec is not None:
                self._create(ledger, spec)
                continue
            if ledger.spec is None:
                self._gone(trace_id, "the log does not have the trace")
                return True
            planned = ledger.plan(put)
            known += not planned
            events += planned
        if not self._append(ledger, _joined(events)):
            return False
        self.on_known(known)
        if ledger.ended_now and ledger.spec and ledger.spec.get("parent_trace_id"):
            self._behind.add(ledger.spec["parent_trace_id"])
        return True

    def _homed(self, ledger: Ledger, puts: list[Put]) -> bool:
        """Put a trace that came before its parent below that; False: the log is another than was believed."""
        parent_id = next((p.fields.get("parent_trace_id") for p in puts if p.kind == "trace"), None)
        spec = ledger.spec
        if parent_id is None or spec is None or spec.get("parent_trace_id") or self._ledger(parent_id).spec is None:
            return True
        ledger.spec = spec | {"parent_trace_id": parent_id}
        self._behind.add(parent_id)
        event = {"event": "trace_parent_changed", "parent_trace_id": parent_id}
        return self._send(ledger, [orjson.dumps(event)])

    def _keeping(self, trace_id: str) -> Keep:
        def keep(data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any] | None:
            """Store content at once: there may be much of it. What the log does not take stays in its event."""
            try:
                self.api.put_blob(trace_id, data, media_type)
            except ApiError as error:
                if error.status not in (404, 405, 413):
                    raise
                return None
            return reference(data, media_type, preview, **more)

        return keep

    # --- what the log holds ---

    def _ledger(self, trace_id: str) -> Ledger:
        ledger = self.ledgers.pop(trace_id, None)
        if ledger is None:
            ledger = self._read(trace_id)
        elif trace_id in self._behind:
            self._catch_up(ledger)
        self._behind.discard(trace_id)
        self.ledgers[trace_id] = ledger
        while len(self.ledgers) > LEDGERS:
            self.ledgers.pop(next(iter(self.ledgers)))
        return ledger

    def _read(self, trace_id: str) -> Ledger:
        ledger = Ledger(trace_id, keep=self._keeping(trace_id))
        try:
            trace = self.api.trace(trace_id)["trace"]
        except ApiError as error:
            if error.status != 404:
                raise
            return ledger
        ledger.spec, ledger.last_event_id = trace, trace["first_event_id"] - 1
        if trace["first_event_id"] > 1:  # its beginning was trimmed: what is known of the messages is in their rows
            before = None
            while True:
                page = self.api.messages(trace_id, before=before, limit=1000)
                for message in page["messages"]:
                    ledger.absorb({"event": "message_added", "message": message})
                if not page["has_more"] or not page["messages"]:
                    break
                before = min(message["sequence"] for message in page["messages"])
        self._catch_up(ledger)
        ledger.status = trace["status"]
        return ledger

    def _catch_up(self, ledger: Ledger) -> None:
        for line in self.api.events(ledger.trace_id, str(ledger.last_event_id)):
            ledger.absorb(orjson.loads(line))

    # --- writing ---

    def _create(self, ledger: Ledger, spec: dict[str, Any]) -> None:
        if self.lease_s is not None and "parent_trace_id" not in spec:
            spec = spec | {"lease_s": self.lease_s}
        try:
            trace = self.api.create_trace(spec)
        except ApiError as error:
            _raise_if_ours(error)
            if error.code == "unknown_goal":  # it was refused
                return self._create(ledger, {k: v for k, v in spec.items() if k != "parent_goal_id"})
            if error.code == "unknown_parent":  # it is still to come, or never does
                ledger.spec = {k: v for k, v in spec.items() if not k.startswith("parent_")}
                return self._create(ledger, ledger.spec)
            if error.code == "trace_conflict":  # another writer was faster
                fresh = self._read(ledger.trace_id)
                ledger.__dict__.update(fresh.__dict__)
            else:
                self._give_up(ledger.trace_id, error.message)
            return None
        ledger.last_event_id = trace.get("last_event_id") or 0  # of one that was deleted before
        self.on_trace(ledger.trace_id)
        if spec.get("parent_trace_id"):
            self._behind.add(spec["parent_trace_id"])
        return None

    def _append(self, ledger: Ledger, events: list[dict[str, Any]]) -> bool:
        if self.before is not None:
            for event in events:
                self.before(event)
                if not self._send(ledger, [orjson.dumps(event)]):
                    return False
            return True
        batch: list[bytes] = []
        size = 0
        for event in events:
            body = orjson.dumps(event)
            if batch and (len(batch) >= BATCH_EVENTS or size + len(body) > MAX_BYTES):
                if not self._send(ledger, batch):
                    return False
                batch, size = [], 0
            batch.append(body)
            size += len(body) + 1
        return not batch or self._send(ledger, batch)

    def _send(self, ledger: Ledger, bodies: list[bytes], mender: Mender | None = None) -> bool:
        """Append a batch; one that is refused in halves, until the culprit is mended."""
        try:
            answer = self.api.append(
                ledger.trace_id, b"[" + b",".join(bodies) + b"]", expected_last_event_id=ledger.last_event_id
            )
        except ApiError as error:
            if error.status == 412:
                return False
            _raise_if_ours(error)
            if error.code == "unknown_trace":
                self._gone(ledger.trace_id, error.message)
                return True
            if len(bodies) > 1:
                half = len(bodies) // 2
                return self._send(ledger, bodies[:half]) and self._send(ledger, bodies[half:])
            return self._mend(ledger, bodies[0], error, mender or Mender(_BY))
        ledger.last_event_id = answer["last_event_id"]
        self.on_sent(len(bodies))
        return True

    def _mend(self, ledger: Ledger, body: bytes, error: ApiError, mender: Mender) -> bool:
        name = orjson.loads(body)["event"]
        instead = mender.instead(1, body, error.code, error.message, error.details)
        if name != f"{_BY}_refused":
            self._fault(ledger.trace_id, f"{name}: {error.message}")
        return instead is None or self._send(ledger, [instead], mender)

    def _gone(self, trace_id: str, why: str) -> None:
        if self.on_gone is None:
            self._give_up(trace_id, why)
        else:
            self.ledgers.pop(trace_id, None)
            self.on_gone(trace_id)

    def _give_up(self, trace_id: str, why: str) -> None:
        self._given_up.add(trace_id)
        self._fault(trace_id, f"{why}; what follows of it is left out")

    def _fault(self, trace_id: str, why: str) -> None:
        self.on_fault(ImportFault(f"trace {trace_id}: {why}"))


def _size(value: Any) -> int:
    """About how many bytes a value takes, for what has many of them."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 1


def _joined(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events, pieces of one text that follow each other as one, up to what an event may hold."""
    joined: list[dict[str, Any]] = []
    for event in events:
        last = joined[-1] if joined else event
        pieces = last is not event and "append" in last and "append" in event and "patch" not in last
        if pieces and last["message_id"] == event["message_id"] and len(last["append"]) < _PIECE_CHARS:
            joined[-1] = {**event, "append": last["append"] + event["append"]}
        else:
            joined.append(event)
    return joined


def _raise_if_ours(error: ApiError) -> None:
    """Raise an error that ends the import. A refusal of the data sent is the file's fault, and the import goes on."""
    if error.status >= 500 or error.status in (401, 403, 429):
        raise error
