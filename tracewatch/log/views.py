"""What the log answers with: values that every engine gives and every room above may hold."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..model.state import State


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
    max_bytes: int = 1024 * 1024  # of all summaries together; at least one is given


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
