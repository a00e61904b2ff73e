"""The seam between the rules of the log and an engine that keeps its rows.

A write goes through three calls: ``begin`` locks and loads what a group of jobs needs, the jobs plan without any I/O,
and ``commit`` writes what they planned. An engine that can compare a trace's head in the statement that writes
(``optimistic``) is spared ``begin`` for traces that this process knows.

Rule 1: everything that a job reads was loaded for it (``Needs``), and everything that it does is data (``Changes``).
Rule 2: order is per trace. A trace has a head, its last_event_id; there is no counter over all traces here.
Rule 3: the time is the engine's: of processes on several machines all count alike.
Rule 4: an engine reports what fails in one of the four ways below, and nothing else of its driver gets out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from .counts import LogLook
from .health import Fault
from .patience import Patience
from .row import TraceRow
from .sums import Sums
from .views import Grown, Page, Token, TraceQuery

T = TypeVar("T")
PIECE_BYTES = 1024**2  # of a content, written and read at a time


# --- what can go wrong -----------------------------------------------------------------------------------------


class StorageFault(Exception):
    """The engine can't do it. Where a commit raises it, nothing of the changes was stored."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


class Busy(Exception):
    """Another program holds what is needed. The same call may be made again, and waits another turn."""


class InDoubt(Exception):
    """The answer to a commit was lost: ``settle`` finds out what became of it."""


def said(error: BaseException) -> str:
    """The engine's words about a defect, to be added to a line of a log; of other errors nothing."""
    return f": {error}" if isinstance(error, Defect) else ""


class Closing(Exception):
    """The log is being closed."""


class Defect(Exception):
    """The engine refuses what we asked of it: a defect of ours. Its words quote no value that is stored."""


# --- rows ------------------------------------------------------------------------------------------------------


class EventRow(NamedTuple):
    """A row of ``events``."""

    event_id: int
    end_offset: int  # the size of the log up to and with this event
    body: bytes


class SnapshotRow(NamedTuple):
    """A row of ``snapshots``."""

    event_id: int
    body: bytes


class MessageRow(NamedTuple):
    """A new row of ``messages``. Without a body the message is as its event added it."""

    sequence: int
    message_id: str
    goal_id: str | None
    event_id: int
    as_of: int | None
    body: bytes | None


class BodyRow(NamedTuple):
    """What changes in a row of ``messages``."""

    message_id: str
    as_of: int | None
    body: bytes


class KeptSnapshot(NamedTuple):
    """The newest snapshot that is kept of a trace: the size of the log up to it, and its own, in bytes."""

    log_bytes: int
    size: int


class InputRow(NamedTuple):
    """A new row of ``inputs``."""

    request_id: str
    event_id: int
    asked_at: str
    expires_at: float | None  # by the steady clock
    state: str
    body: bytes | None
    answer: bytes | None


class ClosedInput(NamedTuple):
    """What changes in a row of ``inputs`` when its question ends."""

    request_id: str
    state: str
    answer: bytes | None


class BlobRow(NamedTuple):
    """A content of a trace."""

    blob_key: int  # of its pieces
    bytes: int
    media_type: str


class BlobRoom(NamedTuple):
    """How a trace stands that is to have a content."""

    row: BlobRow | None  # it has it already
    used: int  # bytes of all that it has
    stored: bool  # another trace has it: its pieces are there


class Upload(NamedTuple):
    """A content that was received, to be a trace's."""

    trace_id: str
    sha256: str
    bytes: int
    media_type: str
    key: int | None  # of its pieces; None: they should be there, being another trace's
    most: int  # bytes of all contents of the trace


# --- what is loaded --------------------------------------------------------------------------------------------


class Head(NamedTuple):
    """A state that is known already: of which trace, and after which event."""

    trace_key: int
    event_id: int


class StateParts(NamedTuple):
    """What a state is made of: the nearest kept snapshot, or None, and the next events, a page of them at most.

    Without a snapshot the events follow the known head or, where that is of no use, the beginning of the log.
    """

    base: int  # the event before the first of ``events``
    snapshot: bytes | None
    events: list[bytes]


class StoredMessage(NamedTuple):
    """A message's row, and what its reader needs to make the message of it."""

    message_id: str
    sequence: int
    event_id: int  # of its message_added
    as_of: int | None  # None: ``body`` is the message as it stands. Else later updates are still to be applied
    body: bytes  # the message, or the whole event that added it
    is_event: bool
    later: list[bytes]  # its message_updated events, those behind ``as_of`` among them


# It yields message_ids and is sent the messages that there are, or a SHA-256 and is sent that content, None if there is
# none. It returns something.
Gathering = Generator[Collection[str] | str, Any, T]


@dataclass(slots=True)
class Needs:
    """What a group of jobs must have loaded. ``above``: of these traces also all above them, their parents' states."""

    traces: set[str] = field(default_factory=set)  # rows and states
    above: set[str] = field(default_factory=set)  # all of them are in ``traces`` as well
    rows: set[str] = field(default_factory=set)  # rows only
    trees: set[str] = field(default_factory=set)  # the rows of these and of all below them
    levels: set[str] = field(default_factory=set)  # of what names these as its parent: how many stand below another
    messages: set[tuple[str, str]] = field(default_factory=set)  # (trace_id, message_id)
    mentioned: set[tuple[str, str]] = field(default_factory=set)  # (trace_id, message_id): whether there is one
    behind: set[str] = field(default_factory=set)  # traces that reach a boundary (see project.py, rules 3 and 5)
    producers: set[tuple[str, str]] = field(default_factory=set)  # (trace_id, producer)
    used_ids: set[str] = field(default_factory=set)  # the last event ids of deleted traces of these ids
    questions: set[tuple[str, str]] = field(default_factory=set)  # (trace_id, request_id): when they run out
    sequences: set[str] = field(default_factory=set)  # the highest message sequence of these traces
    blobs: set[tuple[str, str]] = field(default_factory=set)  # (trace_id, sha256)
    events: list[tuple[str, int, int]] = field(default_factory=list)  # (trace_id, first, last): their bodies
    snapshots: set[tuple[str, int]] = field(default_factory=set)  # (trace_id, event_id): whether there is one
    tokens: set[str] = field(default_factory=set)  # token_ids
    claims: set[str] = field(default_factory=set)
    skip: set[tuple[str, int]] = field(default_factory=set)  # (trace_id, event_id) of snapshots that can't be read
    heads: dict[str, Head] = field(default_factory=dict)  # what of ``traces`` is known
    growth: dict[str, int] = field(default_factory=dict)  # how many events the jobs bring for a trace

    def add(self, other: Needs) -> None:
        """Put in what ``other`` needs."""
        for name in _SETS:
            getattr(self, name).update(getattr(other, name))
        self.events.extend(other.events)


_SETS = (
    *(
        "traces",
        "above",
        "rows",
        "trees",
        "levels",
        "messages",
        "mentioned",
        "behind",
        "producers",
        "used_ids",
        "questions",
        "sequences",
        "blobs",
    ),
    *("snapshots", "tokens", "claims"),
)


@dataclass(slots=True)
class Loaded:
    """What ``begin`` found, all of one moment. What does not exist is missing in it."""

    needs: Needs  # what was asked for
    now: float  # Unix time in seconds
    steady: float  # what leases and questions are counted by
    rows: dict[str, TraceRow] = field(default_factory=dict)
    parts: dict[str, StateParts] = field(default_factory=dict)  # only where the known head is not the row's
    trees: dict[str, list[str]] = field(default_factory=dict)  # trace_ids, the one asked for first
    levels: dict[str, int] = field(default_factory=dict)  # 0: nothing names it as its parent
    messages: dict[tuple[str, str], StoredMessage] = field(default_factory=dict)
    mentioned: set[tuple[str, str]] = field(default_factory=set)
    behind: dict[str, list[StoredMessage]] = field(default_factory=dict)  # messages with updates not in their rows
    kept: dict[str, KeptSnapshot] = field(default_factory=dict)  # of the traces that reach a boundary
    producers: dict[tuple[str, str], int] = field(default_factory=dict)
    used_ids: dict[str, int] = field(default_factory=dict)
    questions: dict[tuple[str, str], float | None] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    blobs: dict[tuple[str, str], int] = field(default_factory=dict)  # of those that the traces have: their bytes
    events: dict[str, dict[int, bytes]] = field(default_factory=dict)
    snapshots: set[tuple[str, int]] = field(default_factory=set)
    tokens: dict[str, Token] = field(default_factory=dict)
    claims: dict[str, float] = field(default_factory=dict)  # until when they are held, by the steady clock


# --- what is written -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class TraceChange:
    """What is written of one trace. ``before`` is its row as it was loaded; None: the trace is new.

    The change holds only while the stored head is still ``before.last_event_id``. ``after.trace_key`` of a new trace
    is given by the engine. The tree_* values of ``after`` mean nothing: the engine counts the differences.
    """

    before: TraceRow | None
    after: TraceRow
    events: list[EventRow]
    snapshots: list[SnapshotRow]
    messages: list[MessageRow]
    bodies: list[BodyRow]
    inputs: list[InputRow]
    closed_inputs: list[ClosedInput]
    producers: dict[str, int]
    trimmed: dict[str, int] = field(default_factory=dict)  # the last event of each name that goes; {}: not known
    adopts: bool = False  # new: the traces that are ``apart`` and name it as their parent are below it from now on
    blobs: dict[str, int] = field(default_factory=dict)  # sha256: the event that names it now, see ``named_until``
    regrouped: dict[str, str | None] = field(
        default_factory=dict
    )  # message_id: the goal that it belongs to from now on

    @property
    def difference(self) -> Sums:
        """By how much the trace's own sums have grown."""
        return self.after.own() if self.before is None else self.after.own().minus(self.before.own())


class AbsentChange(NamedTuple):
    """By how much the sums of those sub-traces have grown that a trace's log tells of and that are not here."""

    trace_id: str  # of the parent
    sums: Sums


@dataclass(slots=True)
class Changes:
    """What one group of jobs writes: all of it, or of an optimistic engine each trace's part by itself."""

    write_id: int = 0  # random: by this ``settle`` finds the commit again
    optimistic: bool = False  # planned without ``begin``: the heads are those that this process remembers
    steady: float = 0.0
    traces: list[TraceChange] = field(default_factory=list)
    deleted: list[TraceRow] = field(default_factory=list)  # the first one's parent is not among them
    absent: list[AbsentChange] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)  # new ones
    revoked: dict[str, str] = field(default_factory=dict)  # token_id: when
    claims: dict[str, float] = field(default_factory=dict)
    probe: bool = False  # write something that changes nothing, to see whether that can be done

    @property
    def is_of_known_traces(self) -> bool:
        """Whether all that changes has a head, which can be compared."""
        rest = self.deleted or self.absent or self.tokens or self.revoked or self.claims or self.probe
        return not rest and all(change.before is not None for change in self.traces)

    def __bool__(self) -> bool:
        return bool(self.traces or self.deleted or self.tokens or self.revoked or self.claims or self.probe)


@dataclass(slots=True)
class Written:
    """What became of a commit."""

    keys: dict[str, int] = field(default_factory=dict)  # the trace_key of each new trace
    again: frozenset[str] = frozenset()  # these traces had another head: nothing of their changes was written
    nothing: bool = False  # after a doubt: the commit did not take place


# --- what is read ----------------------------------------------------------------------------------------------


class View(NamedTuple):
    """A trace as it stands, from one moment. ``subs``: its sub-traces that are here."""

    row: TraceRow
    parts: StateParts | None
    subs: list[TraceRow]


class OpenInput(NamedTuple):
    """An open question, and the trace that asks it."""

    request_id: str
    asked_at: str
    body: bytes
    trace_id: str
    task: str
    agent_type: str
    root_trace_id: str
    trace_status: str


class TraceInput(NamedTuple):
    """A question of one trace. ``answer`` is JSON, {"value", "by"}, where it was answered."""

    request_id: str
    state: str
    body: bytes | None
    answer: bytes | None


class Storage(Protocol):
    """An engine. One write is under way at a time (group.py sees to that); reads may run beside it."""

    epoch: str
    engine_version: str
    optimistic: bool  # compares heads in the statement that writes, so that ``commit`` needs no ``begin``

    def now(self) -> float:
        """Unix time in seconds, by the engine's clock."""

    def steady(self) -> float:
        """The time that leases and questions are counted by."""

    # --- writing ---

    async def begin(self, needs: Needs) -> Loaded:
        """Lock and load. Called again before ``commit`` or ``rollback`` it loads more, or anew. Raises Busy."""

    async def commit(self, changes: Changes) -> Written:
        """Write, and end what ``begin`` began: also where it raises. Raises StorageFault, InDoubt."""

    async def rollback(self) -> None:
        """End what ``begin`` began without having written anything."""

    async def settle(self, changes: Changes) -> Written:
        """What became of a commit that was in doubt. Raises InDoubt while nobody can tell."""

    async def put_piece(self, key: int | None, sha256: str, piece: int, body: bytes) -> int | None:
        """Store a piece of a content that is being received, by itself; returns its key, which the first one is given.

        None: what came before is gone.
        """

    async def keep_blob(self, upload: Upload) -> BlobRoom | None:
        """Make a content that has all its pieces a trace's, by itself. None: there is no such trace.

        Where the answer has no row, it was not done: there is no room for it, or its pieces are gone.
        """

    async def drop_blob(self, key: int) -> None:
        """Let the pieces of a content go that is not complete."""

    async def tend(self, keep_free_share: float, wal_bytes: int) -> bool:
        """One short piece of care, such as removing what deleted traces left. False: there is nothing more to do.

        ``keep_free_share``: how much of the room taken may stay free (0 to 1). ``wal_bytes``: how large a journal may
        stay.
        """

    async def rewrite(self) -> None:
        """Write everything anew, so that it takes no more room than it needs. May take long."""

    def has_room(self) -> bool:
        """Whether a full disk has room again for more than a small append."""

    # --- reading: each call sees one moment ---

    async def page(self, trace_id: str, after: int, max_events: int, max_bytes: int) -> Page | None:
        """Events after ``after``. None: there is no such trace."""

    async def view(
        self, trace_id: str, known: Head | None, upto: int | None, *, subs: bool, skip: Collection[int] = ()
    ) -> View | None:
        """The row and what makes the state after ``upto`` (None: the last event); ``known`` is of use up to there.

        ``skip``: events of which the snapshot can't be read.
        """

    async def messages(
        self, trace_id: str, goal_id: str | None, before: int | None, limit: int, patience: Patience
    ) -> tuple[list[StoredMessage], bool] | None:
        """The last messages of a sequence below ``before``, the newest first, and whether there are more.

        At most ``limit``, and about ``PAGE_BYTES``. None: there is no such trace. Raises TooLong.
        """

    async def message(self, trace_id: str, message_id: str) -> list[StoredMessage] | None:
        """The message, if there is one. None: there is no such trace."""

    async def gather(self, trace_id: str, begin: Callable[[], Gathering[T]], patience: Patience) -> T | None:
        """The result of a generator that yields message_ids and is sent those of the messages that there are.

        It runs off the loop, and all that it is sent is of one moment. None: there is no such trace. Raises TooLong.
        """

    async def list_traces(
        self, query: TraceQuery, patience: Patience, keys: Collection[int] | None = None
    ) -> tuple[list[TraceRow], bool]:
        """Rows for a list (``TraceRow.for_list``), newest first, and whether there are more. Raises TooLong.

        At most ``query.limit``, and ``query.max_bytes`` by their ``listed_bytes``, but at least one. ``keys``: only
        these traces, some thousands at most.
        """

    async def rows(self, trace_ids: Collection[str], below: str | None = None) -> list[TraceRow]:
        """Those that exist (and are ``below`` or one of its sub-traces), as for a list."""

    async def keys_below(self, trace_id: str, *, covered: bool) -> list[int]:
        """The trace_keys of a trace and its sub-traces. ``covered``: of what a token of it alone covers."""

    async def aside(self, work: Callable[[], T]) -> T:
        """Do some work of ours where reads are done: off the loop, and counted as a read of its client."""

    async def lines(self, trace_ids: Collection[str]) -> list[TraceRow]:
        """Those that exist, and all that are above them, as for a list."""

    async def is_below(self, root_id: str, trace_id: str) -> bool:
        """Whether ``trace_id`` is a sub-trace of ``root_id``, to any depth."""

    async def last_seq(self, trace_id: str, producer: str) -> int:
        """The last number stored for a producer, 0 if none."""

    async def open_inputs(
        self, limit: int, below: str | None, after: str | None, patience: Patience
    ) -> tuple[list[OpenInput], str | None]:
        """The open questions, oldest first, and the ``after`` of the next page or None. Raises TooLong.

        At most ``limit``, and about ``PAGE_BYTES``, but at least one.
        """

    async def inputs_of(self, trace_id: str, request_id: str | None, limit: int) -> list[TraceInput]:
        """A trace's questions: all open ones and the newest ``limit`` others, oldest first; or the one named.

        Beyond ``PAGE_BYTES``, newest first, they have neither body nor answer.
        """

    async def blob_room(self, trace_id: str, sha256: str) -> BlobRoom | None:
        """How the trace stands as to this content. None: there is no such trace."""

    async def blob_piece(self, blob_key: int, piece: int) -> bytes | None:
        """A piece of a content, ``PIECE_BYTES`` but for the last one. None: it is gone."""

    async def expired_leases(self) -> list[str]:
        """The running traces whose lease has run out."""

    async def expired_inputs(self) -> list[tuple[str, str]]:
        """``(trace_id, request_id)`` of the open questions whose time has run out, oldest first."""

    async def long(self, events: int) -> list[TraceRow]:
        """The traces whose logs hold more than ``events`` events."""

    async def untouched(self, before: str, statuses: Sequence[str]) -> list[list[TraceRow]]:
        """Traces of these statuses created and changed before then, the oldest first; each followed by all below it."""

    async def kept_before(self, trace_key: int, event_id: int) -> int:
        """The newest event up to ``event_id`` of which a snapshot is kept; 0 if there is none."""

    async def event_head(self, trace_key: int, event_id: int) -> bytes | None:
        """The first 512 bytes of an event."""

    async def size(self, trace_key: int, first: int, last: int) -> int:
        """Bytes of these events."""

    async def content_size(self, trace_key: int, upto: int | None) -> int:
        """Bytes of the contents that only this trace has, and that no event after ``upto`` names; None: all of it."""

    async def names(self, trace_key: int, first: int, last: int) -> dict[str, int]:
        """The names of these events, and the last event of each."""

    async def trimmed(self, trace_id: str, names: Collection[str]) -> int | None:
        """The last event with one of these names that was trimmed or may have been; 0: none. None: no such trace."""

    async def tokens(self, token_ids: Collection[str] | None = None, limit: int | None = None) -> list[Token]:
        """These tokens, or all, the oldest first."""

    async def look(self) -> LogLook:
        """How it stands now."""

    async def gives_back(self) -> bool:
        """Whether ``tend`` gives free space back to the file system; if not, ``rewrite`` changes that."""

    async def changes(self, seen: Any, traces: Collection[str] | None) -> tuple[list[Grown], Any]:
        """What any process has changed since ``seen`` (None: nothing yet), and where to go on."""

    def turn(self, name: str) -> AbstractAsyncContextManager[bool]:
        """Keep other turns of this name out, in all processes. True: nobody had one since this log's last."""

    async def verify(self) -> None:
        """Look through everything that is stored. Raises StorageFault for what is damaged."""

    async def close(self) -> None:
        """Finish what is under way and let go."""
