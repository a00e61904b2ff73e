"""The log: the append-only store and the only order there is.

``open_log(url)`` gives an ``EventLog``. What this module holds is the whole contract; sqlite/ keeps it.

Rule 1: an append is acknowledged after its transaction has reached the disk, never before.
Rule 2: whoever asks for a state gets it from one read transaction, with the event_id it is as of.
Rule 3: listeners are told after the commit; what they are told is a convenience, the log is the truth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import LogError
from ..model.state import State
from .counts import LogCounts, LogLook
from .health import Health

if TYPE_CHECKING:
    from .retention import Outdated
    from .tokens import Tokens


@dataclass(frozen=True, slots=True)
class Appended:
    """The answer to an append: the ids given, None if all were duplicates; ``last_event_id`` is the log's."""

    first_event_id: int | None
    last_event_id: int
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive stored events after a cursor, and where the log stood in the same read transaction."""

    bodies: list[bytes]  # canonical bytes; the first one's id is ``after + 1``
    after: int
    first_event_id: int
    last_event_id: int
    status: str
    trace_key: int  # a trace created again under the same id has another, higher one

    @property
    def upto(self) -> int:
        """The id of the last event in the page, or ``after`` if it is empty."""
        return self.after + len(self.bodies)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A trace as of ``state.last_event_id``, and what its log does not say: whether its recorder's lease is alive."""

    state: State
    lease_alive: bool
    trace_key: int


@dataclass(frozen=True, slots=True)
class Grown:
    """What one commit did to one trace. ``bodies`` are the new events, the last one's id being ``last_event_id``."""

    trace_id: str
    last_event_id: int
    status: str
    bodies: list[bytes] = field(default_factory=list)
    deleted: bool = False
    trace_key: int = 0  # there where ``bodies`` are


@dataclass(frozen=True, slots=True)
class TraceQuery:
    """Which traces to list, newest first. ``before``: only those created before this ``trace_key`` (a page token)."""

    status: tuple[str, ...] = ()
    agent_type: str | None = None
    q: str | None = None
    parent_trace_id: str | None = None
    root_trace_id: str | None = None
    limit: int = 50
    before: int | None = None
    below: str | None = None  # only this trace and its sub-traces, to any depth


Listener = Callable[[Sequence[Grown]], None]


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
        """How the log stands now: its files, live traces, leases, open questions. Raises Unavailable."""

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

    async def outdated(self, *, keep_days: float = 0, keep_events: int = 0) -> list[Outdated]:
        """What retention would let go now; 0: that one is off. Traces that go whole first, then what goes with them."""

    async def delete_outdated(self, trace_id: str, keep_days: float) -> list[str]:
        """As delete_trace, if all of it is over and nothing has happened in it for ``keep_days``; else nothing, []."""

    async def trim(self, trace_id: str, upto: int) -> bool:
        """Let the log begin after ``upto``. False where it can't: there is no kept snapshot of it. UnknownTrace."""

    async def sweep(self) -> bool:
        """Remove a piece of what was trimmed or deleted from the file. False if there was nothing."""

    async def shrink(self, keep_free_share: float = 0.0) -> bool:
        """Give some of the file's free space back. False if no more than this share of it (0 to 1) is free."""

    async def checkpoint(self, above_bytes: int = 0) -> bool:
        """Empty the WAL and cut off the file's end if together they are above ``above_bytes``. False: not just now."""

    async def vacuum(self) -> None:
        """Write the file anew, in one go: nobody can write meanwhile."""

    async def gives_back(self) -> bool:
        """Whether ``shrink`` can do something for this file; if not, ``vacuum`` changes that."""

    async def claim_retention(self, for_s: float, *, held: bool = False) -> bool:
        """Have retention to oneself ``for_s`` long; ``held``: go on having it. False: another process has it."""

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

    async def changes(self, since: int) -> tuple[list[Grown], int]:
        """Traces changed by any process since the change number ``since``, without bodies, and the newest number."""

    async def data_version(self) -> int:
        """A number that differs from the last call's if any process has written in between. Cheap."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after each commit of this process; the result takes it back."""

    async def close(self) -> None:
        """Finish what is being written and close the file."""


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
    """Open the log at ``sqlite:///path.db`` (or a bare path), creating it if it is not there. Raises LogError."""
    from .sqlite.log import SQLiteLog

    return await SQLiteLog.open(log_path(url), **options)
