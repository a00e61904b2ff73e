"""What the log answers with: values that every engine gives and every room above may hold."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..model.error import error_line
from ..model.filter import Condition
from ..model.state import State
from ..model.terms import Term


@dataclass(frozen=True, slots=True)
class Appended:
    """The answer to an append: the ids given, None if all were duplicates; ``last_event_id`` is the log's."""

    first_event_id: int | None
    last_event_id: int
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive stored events after a cursor, and where the log stood at the same moment."""

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
    trace_key: int = 0  # known where there are ``bodies``


SCOPES = ("read", "write", "control", "admin")
Listener = Callable[[Sequence[Grown]], None]


class ListPlace(NamedTuple):
    """A trace's place in the order of a list. As text it is a page token, which says of which order it is.

    >>> str(ListPlace("started", "2026-11-20T08:00:00.123Z", 7))
    's2026-11-20T08:00:00.123Z_7'
    """

    order: str
    at: str  # a time, as the order has it
    trace_key: int

    def __str__(self) -> str:
        return f"{self.order[0]}{self.at}_{self.trace_key}"


ORDERS = ("started", "activity")  # of a list, both with the newest first
_ORDER_OF = {"s": "started", "a": "activity", "c": "created"}
_PLACE = re.compile(r"([sac])([0-9TZ:.-]{0,40})_([0-9]{1,18})|([0-9]{1,18})", re.ASCII)


def place_of(token: str) -> ListPlace | None:
    """The place that a page token stands for; None for a text that is none.

    A number alone is the token of a version before: the key of a trace. Its place is of no order ("").
    """
    match = _PLACE.fullmatch(token)
    if match is None:
        return None
    letter, at, key, alone = match.groups()
    return ListPlace("", "", int(alone)) if alone is not None else ListPlace(_ORDER_OF[letter], at, int(key))


@dataclass(frozen=True, slots=True)
class TraceQuery:
    """Which traces to list, newest first: by when they began (``started``), or when something happened last.

    The order ``created``, by when they were made here, is for those of one parent. ``before``: only what comes behind
    this page token.
    """

    status: tuple[str, ...] = ()
    agent_type: str | None = None
    q: str | None = None
    parent_trace_id: str | None = None
    root_trace_id: str | None = None
    tags: tuple[str, ...] = ()  # all of them
    session_id: str | None = None
    user_id: str | None = None
    model: str | None = None  # one of its models
    conditions: tuple[Condition, ...] = ()  # of a filter: all of them
    sought: tuple[Term, ...] = ()  # of a filter, for the search index: ``fits`` does not look at them
    error: str | None = None  # text in the line that its error says (``error_line``); "": whatever error it has
    order: str = "started"
    limit: int = 50
    before: str | None = None
    below: str | None = None  # only this trace and its sub-traces, to any depth
    max_bytes: int = 1024 * 1024  # of all summaries together; at least one is given

    def fits(self, trace: Mapping[str, Any]) -> bool:
        """Whether a summary passes the filters, but for ``below``. Rather too much than too little where it was cut."""
        wanted = (self.agent_type, self.parent_trace_id, self.root_trace_id, self.session_id, self.user_id)
        if any(one not in (None, trace[key]) for one, key in zip(wanted, _EXACTLY, strict=True)):
            return False
        if (self.status and trace["status"] not in self.status) or self.model not in (None, *trace["models"]):
            return False
        if self.tags and not set(self.tags) <= set(map(str, trace["tags"])):
            return False
        cut = trace.get("cut", ())
        error = trace["error"]
        if self.error is not None and (error is None or not (says_error(self.error, error) or "error" in cut)):
            return False
        if self.conditions:
            now = time.time()
            if not all(condition.fits(trace, now) for condition in self.conditions):
                return False
        return not self.q or says(self.q, *(trace[key] for key in _SEARCHED)) or "task" in cut


_EXACTLY = ("agent_type", "parent_trace_id", "root_trace_id", "session_id", "user_id")
_SEARCHED = ("trace_id", "task", "agent_type")
_COMPARED = ("tree_totals", "started_at", "created_at", "ended_at", "last_event_id")
FILTERED = (
    "status",
    "models",
    "tags",
    "error",
    "cut",
    *_EXACTLY,
    *_COMPARED,
    "trace_id",
    "task",
)  # what ``fits`` looks at


def says(text: str, *values: str) -> bool:
    """Whether one of the values has ``text`` in it, in any case. NUL is left out of it."""
    needle = text.replace("\0", "").lower()
    return any(needle in value.lower() for value in values)


def says_error(text: str, error: Any) -> bool:
    """Whether the line of an error (any JSON) has ``text`` in it, in any case."""
    return not text or says(text, error_line(error))


@dataclass(frozen=True, slots=True)
class Token:
    """A stored token: everything but the secret."""

    token_id: str
    hash: bytes = field(repr=False)
    scopes: frozenset[str]
    trace_id: str | None  # only this trace and its sub-traces
    label: str
    created_at: str
    expires_at: float | None  # Unix time in seconds
    revoked_at: str | None

    def fits(self, token: str) -> bool:
        """Whether ``token`` is this one; in constant time."""
        return hmac.compare_digest(digest(token), self.hash)

    def status(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


def digest(token: str) -> bytes:
    """How a token is stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
