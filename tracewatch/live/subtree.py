"""A trace with its sub-traces on one socket of ``/api/watch``: those that are there and those to come, to any depth.

Rule 1: what a member's log names is watched, so a sub-trace that was deleted is answered by ``unknown_trace``. A growth
        without events (of another process) is a hint to look for sub-traces in the log.
Rule 2: sockets that look for the same sub-traces at the same time share one look, and a look ends where everything is
        known already: sub-traces come newest first.
Rule 3: a subtree lives as long as a member is watched or still looked at. So the end of the root hides no sub-trace,
        and the end of a sub-trace does not hide its own.
Rule 4: a member whose trace the socket may not see is not looked at.
Rule 5: the snapshot of a member is sent before its sub-traces are watched: a client knows whose sub-trace each is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson

from ..errors import Unavailable
from ..log import Grown, Snapshot, TraceQuery
from ..model.canonical import event_name
from .hub import Hub
from .watcher import WatchRequest

RETRY_S = 0.5  # until a log that could not be read is asked again
SUB_TRACES_AT_ONCE = 100  # in one read


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
        below: str | None,
    ) -> None:
        """``start`` watches one more trace; ``looked`` is told whenever all members have been looked at.

        ``below``: the socket may see this trace, and what is below it, only.
        """
        self.looking = False  # whether sub-traces may still turn up in what is being looked at
        self._hub = hub
        self._request = request
        self._cursors = cursors  # where each sub-trace begins
        self._start = start
        self._looked = looked
        self._below = below
        # By trace_id: what takes its listener back; None: not looked at yet
        self._members: dict[str, Callable[[], None] | None] = {request.trace_id: None}
        self._complete: set[str] = set()  # members of which every older sub-trace is known
        self._dirty: set[str] = set()  # members whose sub-traces have to be looked for
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def members(self) -> set[str]:
        """The root and all sub-traces that were found so far."""
        return set(self._members)

    def watched(self, watches: dict[str, asyncio.Task[None]]) -> bool:
        """Whether any member is in ``watches``."""
        return not self._members.keys().isdisjoint(watches)

    def begin(self, snapshot: Snapshot) -> None:
        """A member's watch has begun: watch the sub-traces that its log names, and those to come."""
        for sub_id in snapshot.state.sub_traces:
            self._watch(sub_id)
        self._join(snapshot.state.trace_id)

    def allow(self, trace_id: str) -> None:
        """The socket may see this trace. Of a sub-trace that is enough to look at it: it may be gone, and have some."""
        if trace_id in self._members and trace_id != self._request.trace_id:
            self._join(trace_id)

    def _join(self, trace_id: str) -> None:
        if self._members[trace_id] is None:
            self._members[trace_id] = self._hub.on_growth(self._grown, trace_id)
            self._look(trace_id)

    def _grown(self, grown: Sequence[Grown]) -> None:
        for one in grown:
            if not one.bodies:
                self._look(one.trace_id)
            for body in one.bodies:
                if event_name(body) == "sub_trace_started":
                    self._watch(orjson.loads(body)["sub_trace_id"])

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
        before: str | None = None
        # In the order in which they came: what is new stands first
        query = TraceQuery(parent_trace_id=trace_id, order="created", limit=SUB_TRACES_AT_ONCE, below=self._below)
        while True:
            traces, before = await self._hub.traces(replace(query, before=before))
            new = [trace["trace_id"] for trace in traces if trace["trace_id"] not in self._members]
            for sub_id in new:
                self._watch(sub_id)
            if before is None:
                self._complete.add(trace_id)
                return
            if not new and trace_id in self._complete:
                return

    def _watch(self, sub_id: str) -> None:
        if sub_id in self._members:
            return
        self._members[sub_id] = None
        self._start(
            WatchRequest(
                sub_id,
                self._cursors.get(sub_id),
                types=self._request.types,
                until_end=self._request.until_end,
                tagged=True,
                nulls=self._request.nulls,
                client=self._request.client,
            ),
            self.begin,
        )

    def close(self) -> None:
        """Stop looking for sub-traces."""
        for take_back in self._members.values():
            if take_back is not None:
                take_back()
        if self._task is not None:
            self._task.cancel()
