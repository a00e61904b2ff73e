"""The log: the append-only store and the only order there is.

``open_log(url)`` gives an ``EventLog``. What this module holds is the whole contract; log.py keeps it, over an engine
that keeps the rows (storage.py).

Rule 1: an append is acknowledged after its transaction has reached the disk, never before.
Rule 2: an answer about a state is of one moment, and says the event_id that it is as of.
Rule 3: listeners are told after the commit; what they are told is a convenience, the log is the truth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import LogError
from .counts import LogCounts, LogLook
from .health import Health
from .retention import Outdated, Policy, Pruned
from .tokens import Tokens
from .views import Appended, Grown, Listener, Page, Snapshot, TraceQuery

__all__ = [
    "Appended",
    "EventLog",
    "Grown",
    "Listener",
    "LogLook",
    "Outdated",
    "Page",
    "Policy",
    "Pruned",
    "Snapshot",
    "TraceQuery",
    "log_path",
    "open_log",
]


class EventLog(Protocol):
    """A store of traces and their events. All methods may be called from many tasks of one event loop at once."""

    epoch: str
    engine_version: str  # of what stores it: SQLite's
    health: Health  # what is wrong with it now
    replaced: asyncio.Event  # set when another file stands in its place: whoever goes on opens that one
    counts: LogCounts  # what this process has done with it

    @property
    def waiting(self) -> int:
        """Appends and other jobs of this process that wait for the transaction being written."""

    async def look(self) -> LogLook:
        """How the log stands now: its size, live traces, leases, open questions. Raises Unavailable."""

    tokens: Tokens  # who may come in

    async def create_trace(self, spec: dict[str, Any]) -> tuple[Snapshot, bool]:
        """Create a trace from what ``validate_trace`` returned; False if it was there already with the same fields.

        Raises TraceConflict, UnknownParent, UnknownParentGoal.
        """

    async def append(
        self,
        trace_id: str,
        events: Sequence[Any],
        *,
        producer: str | None = None,
        seq: int | None = None,
        expected_last_event_id: int | None = None,
        by_server: bool = False,
        parsed: bool = False,
    ) -> Appended:
        """Append events as recorders send them, all or none; returns once they are on disk.

        ``seq`` is the first event's number by ``producer``, from 1. ``parsed``: the events were read from JSON, so
        nobody has to look for NaN and Infinity in them. Raises the refusals of errors.py, TooLarge,
        UnknownTrace, SequenceGap, UnexpectedLastEventId, Unavailable.
        """

    async def restore(self, header: dict[str, Any], events: Sequence[Any]) -> Appended:
        """Put back events as `export` wrote them. Raises TraceConflict where the log has others, Invalid."""

    async def delete_trace(self, trace_id: str) -> list[str]:
        """Remove a trace and its sub-traces; returns their ids. Raises UnknownTrace."""

    async def prune(self, policy: Policy, *, dry_run: bool = False) -> Pruned:
        """Let go what the policy does not keep, sweep up what earlier removals left, and give the space back.

        Appends go on meanwhile, but for ``policy.rewrite``. ``dry_run``: only say what would go.
        """

    async def tend(self, policy: Policy, every_s: float) -> bool:
        """As prune, unless another process has begun to in the last ``every_s`` seconds: then False."""

    async def renew_lease(self, trace_id: str) -> None:
        """Count the recorder's lease from now; a lost trace is running again. Raises UnknownTrace."""

    async def expire_leases(self) -> list[str]:
        """Mark as lost what no recorder keeps alive, sub-traces included; returns the ids of those traces."""

    async def cancel(self, trace_id: str, *, reason: str | None = None, by: str | None = None) -> str:
        """Ask the recorder to stop: ``"cancelling"``; where there is none any more the trace ends: ``"stopped"``.

        Asking again changes nothing. Raises UnknownTrace, NotRunning.
        """

    async def answer(self, trace_id: str, request_id: str, value: Any, *, by: str | None = None) -> None:
        """Answer a question; the first answer wins. ``value`` is checked by the caller.

        Raises UnknownTrace, NoSuchRequest, AlreadyAnswered, Expired, NotRunning.
        """

    async def expire_inputs(self) -> list[tuple[str, str]]:
        """Close the questions whose time has run out; returns their ``(trace_id, request_id)``."""

    async def inputs(self, limit: int, below: str | None = None) -> list[dict[str, Any]]:
        """The open questions of all traces, oldest first, each with ``trace_id``, ``task``, ``agent_type`` …

        ``below``: only those of this trace and its sub-traces.
        """

    async def inputs_of(self, trace_id: str, request_id: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """A trace's questions, oldest first, or the one named: ``{request_id, state, …}``.

        All that are open, and the newest ``limit`` of the others. ``state`` is open (then the question is in it),
        answered (then ``value`` and ``by``), expired or closed.
        """

    async def read(self, trace_id: str, after: int, *, max_events: int, max_bytes: int) -> Page:
        """Events after ``after``: at most ``max_events`` and ``max_bytes``, but at least one. Raises UnknownTrace."""

    async def snapshot(self, trace_id: str, at_event_id: int | None = None) -> Snapshot:
        """The trace now, or as it was after ``at_event_id``.

        Raises UnknownTrace, or Gap if the log does not hold it.
        """

    async def messages(
        self, trace_id: str, *, goal_id: str | None, before: int | None, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """The last ``limit`` messages of a sequence below ``before`` as they now stand, and whether there are more."""

    async def message(self, trace_id: str, message_id: str) -> tuple[int, dict[str, Any]]:
        """The event_id a message was added with, and the message as it now stands.

        Raises UnknownTrace and NoSuchMessage.
        """

    async def traces(self, query: TraceQuery) -> tuple[list[dict[str, Any]], int | None]:
        """Summaries, newest first, and the ``before`` of the next page or None."""

    async def summaries(self, trace_ids: Sequence[str], below: str | None = None) -> list[dict[str, Any]]:
        """Summaries of those of these traces that exist (and are ``below`` or one of its sub-traces)."""

    async def last_seq(self, trace_id: str, producer: str) -> int:
        """The last sequence number stored for a producer of a trace, 0 if none."""

    async def changes(self, seen: Any = None, traces: Collection[str] | None = None) -> tuple[list[Grown], Any]:
        """What any process has changed since ``seen``, without bodies, and the ``seen`` to go on with. Cheap.

        ``seen``: what the last call returned, and nothing else can be done with it; None: from now on, so nothing is
        told. ``traces``: only these; None: all. What was committed while an earlier call looked is told by a later one.
        """

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after each commit of this process; the result takes it back."""

    async def close(self) -> None:
        """Finish what is being written and let go of the storage."""


def log_path(url: str) -> Path:
    """The file of ``sqlite:///path.db``, or of a bare path. Raises LogError for anything else."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "sqlite":
        raise LogError(f"{scheme}:// is not a log this tracewatch can open; use sqlite:///path.db or a path")
    path = rest.removeprefix("/") if separator else url
    if not path:
        raise LogError("the path of the log is empty; use sqlite:///path.db")
    return Path(path)


async def open_log(url: str, **options: Any) -> EventLog:
    """Open the log at ``sqlite:///path.db`` (or a bare path), creating it if it is not there. Raises LogError.

    ``options``: see ``open_sqlite``.
    """
    from .sqlite.opening import open_sqlite

    return await open_sqlite(log_path(url), **options)
