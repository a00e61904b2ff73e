"""A trace with its sub-traces on one socket of ``/api/watch``: those there are and those to come, to any depth.

Rule 1: a growth of a member is only a hint to look for its sub-traces in the log; looking twice does nothing twice.
        Whatever a member's log names is watched, so one that was deleted is answered by ``unknown_trace``.
Rule 2: it lives as long as a member is watched or still looked at, so that the end of the root does not hide a
        sub-trace, and the end of a sub-trace does not hide its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..errors import Unavailable
from ..log import Grown, Snapshot, TraceQuery
from ..model.events import event_name
from .hub import Hub
from .watcher import WatchRequest

RETRY_S = 0.5  # until a log that could not be read is asked again


class Subtree:
    """Keeps a session watching the sub-traces of a trace."""

    def __init__(
        self,
        hub: Hub,
        request: WatchRequest,
        cursors: dict[str, str],
        *,
        start: Callable[[WatchRequest, Callable[[Snapshot], None]], None],
        looked: Callable[[], None],
    ) -> None:
        self.members: set[str] = {request.trace_id}
        self.looking = False  # whether sub-traces may still turn up in what is being looked at
        self._hub = hub
        self._request = request
        self._cursors = cursors
        self._start = start  # watch one more trace
        self._looked = looked  # told whenever everything has been looked at
        self._dirty: set[str] = set()  # members whose sub-traces have to be looked for
        self._wake = asyncio.Event()
        self._unlisten = hub.on_growth(self._grown)
        self._task: asyncio.Task[None] | None = None

    def begin(self, snapshot: Snapshot) -> None:
        """A member's watch has begun: watch the sub-traces it has already."""
        for sub_id in snapshot.state.sub_traces:
            self._watch(sub_id)
        self._look(snapshot.state.trace_id)

    def _grown(self, grown: Sequence[Grown]) -> None:
        for one in grown:
            if one.trace_id not in self.members:
                continue
            # Bodies say at once whether there is a new sub-trace; a hint of another process has none
            if not one.bodies or any(event_name(body) == "sub_trace_started" for body in one.bodies):
                self._look(one.trace_id)

    def _look(self, trace_id: str) -> None:
        self._dirty.add(trace_id)
        self.looking = True
        self._wake.set()

    def run_in(self, task: asyncio.Task[None]) -> None:
        """``task`` is the one that ``run``s this."""
        self._task = task

    async def run(self) -> None:
        """Look for sub-traces until closed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty:
                trace_id = self._dirty.pop()
                try:
                    await self._watch_sub_traces(trace_id)
                except Unavailable:
                    self._dirty.add(trace_id)
                    await asyncio.sleep(RETRY_S)
            self.looking = False
            self._looked()

    async def _watch_sub_traces(self, trace_id: str) -> None:
        before: int | None = None
        while True:
            query = TraceQuery(parent_trace_id=trace_id, limit=1000, before=before)
            traces, before = await self._hub.log.traces(query)
            for trace in traces:
                self._watch(trace["trace_id"])
            if before is None:
                return

    def _watch(self, sub_id: str) -> None:
        if sub_id in self.members:
            return
        self.members.add(sub_id)
        self._start(
            WatchRequest(
                sub_id,
                self._cursors.get(sub_id),
                types=self._request.types,
                until_end=self._request.until_end,
                tagged=True,
            ),
            self.begin,
        )
        self._look(sub_id)  # also where the socket has no place for it

    def close(self) -> None:
        """Stop looking for sub-traces."""
        self._unlisten()
        if self._task is not None:
            self._task.cancel()
