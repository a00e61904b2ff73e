"""The courier of what is told while it happens: it waits for a server that is away, and keeps the runs alive.

Rule 1: what could not be sent is held, and sent when the server is there again. The ledgers are then made anew from the
        logs, so nothing is written twice.
Rule 2: a run that is told live has a lease, and a heartbeat each third of it. So one whose teller was killed is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ..client.api import Api
from ..client.errors import ApiError, Unreachable
from ..importers import ImportFault, Put, Step
from .courier import HELD_BYTES, Courier

LEASE_S = 30.0
RETRY_S = 1.0


class LiveCourier:
    """Sends steps as they come. ``take`` holds them, ``flush`` sends them; neither raises where the server is away.

    ``on_fault`` gets what the log refuses and what could not be read, ``on_trace`` the id of each run that is created.
    """

    def __init__(
        self,
        api: Api,
        on_fault: Callable[[ImportFault], None],
        on_trace: Callable[[str], None] = lambda trace_id: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._on_fault = on_fault
        self._clock = clock
        self.gone: set[str] = set()  # traces that were in the log, and are not any more
        self._courier = Courier(api, on_fault, on_trace, lease_s=LEASE_S, itself=False, on_gone=self.gone.add)
        self._retry_at = 0.0
        self._beat_at = 0.0
        self.refusal: str | None = None  # why nothing could be sent the last time

    def take(self, steps: Iterable[Step]) -> None:
        """Hold steps until the next flush."""
        for step in steps:
            if isinstance(step, ImportFault):
                self._on_fault(step)
            elif isinstance(step, Put):
                self._courier.take(step)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._courier.holds

    @property
    def full(self) -> bool:
        """Whether so much waits that no more should be taken before it is sent."""
        return self._courier.held_bytes > HELD_BYTES

    def flush(self, *, at_once: bool = False) -> bool:
        """Send what waits; False: the server is away. ``at_once``: although it was away a moment ago."""
        if self.idle:
            return True
        if not at_once and self._clock() < self._retry_at:
            return False
        try:
            self._courier.flush()
        except (Unreachable, ApiError) as error:
            self._courier.forget()
            self._retry_at = self._clock() + RETRY_S
            self.refusal = error.message
            return False
        self.refusal = None
        return True

    def beat(self, trace_ids: Iterable[str]) -> None:
        """Send heartbeats for these runs, when they are due."""
        if self._clock() < self._beat_at:
            return
        self._beat_at = self._clock() + LEASE_S / 3
        for trace_id in trace_ids:
            try:
                self._api.heartbeat(trace_id)
            except Unreachable:
                return
            except ApiError:
                continue  # it has ended, or is not there yet
