"""The gate: a token is looked up in the log and becomes a grant; what a grant has opened ends with it.

Rule 1: a token is looked up at every request and every handshake. What is kept in memory can only refuse more.
Rule 2: to a token of one trace every other trace is absent: the answer is the one for a trace that never existed.
Rule 3: a socket or a stream lives no longer than its grant. One query for all grants in use finds those that have
        ended.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

from ...errors import Forbidden, TooMany, TraceConflict, Unauthorized, Unavailable, UnknownParent, UnknownTrace
from ...log import EventLog
from ...log.tokens import SCOPES, digest, token_id_of
from .limiter import Limiter

NEEDED = "this server asks for a token (Authorization: Bearer …; `tracewatch token create` makes one)"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a client may do."""

    scopes: frozenset[str]
    trace_id: str | None = None  # if not None: in this trace and its sub-traces only
    token_id: str | None = None  # None: no token was needed
    expires_at: float | None = None  # Unix time in seconds

    def may(self, *scopes: str) -> bool:
        """Whether one of these scopes is granted."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)

    def require(self, *scopes: str) -> None:
        """Raise Forbidden unless one of these scopes is granted."""
        if not self.may(*scopes):
            raise Forbidden(f"this token lacks the scope {' or '.join(scopes)}")


EVERYTHING = Grant(frozenset(SCOPES))


def grant_of(connection: HTTPConnection) -> Grant:
    """What the client that sent this request, or opened this socket, may do."""
    found: Grant = connection.scope["tracewatch.grant"]
    return found


class Gate:
    """Gives each client its grant by the log's tokens, and ends what was opened under a grant that has ended."""

    def __init__(
        self,
        log: EventLog,
        *,
        always: bool,
        limiter: Limiter,
        check_s: float,
        on_refused: Callable[[str], None] = lambda code: None,
    ) -> None:
        """``always``: a token is needed even while none was ever made, and not only after the first.

        ``check_s``: seconds between two looks for grants that have ended. ``on_refused`` is told each refusal's code.
        """
        self.on_refused = on_refused
        self._log = log
        self._limiter = limiter
        self._needed = always  # once true it stays: tokens are never removed
        self._looking: asyncio.Task[bool] | None = None  # a query that has begun: was a token made?
        self._next_look: asyncio.Task[bool] | None = None  # the one after it, not begun yet
        self._uses: dict[Grant, set[asyncio.Timeout]] = {}  # what is open under each grant
        self._checks = asyncio.create_task(self._check_for_ever(check_s), name="tracewatch-tokens")

    # --- from token to grant ---

    async def admit(self, token: str | None, client: str | None, headers: Mapping[bytes, bytes]) -> Grant:
        """The grant of a client at the address ``client`` that sends ``token`` (None: it sends none).

        Raises Unauthorized; TooMany after too many wrong tokens from this address; Unavailable if the log can't be
        asked.
        """
        if _is_near(client, headers) and not await self._token_needed():
            return EVERYTHING
        if token is None:
            raise Unauthorized(NEEDED)
        return await self._identify(token, client or "")

    async def _token_needed(self) -> bool:
        # A thousand requests at once share one query, which begins after the last of them has come
        if self._needed:
            return True
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._look(self._looking))
        return await asyncio.shield(self._next_look)

    async def _look(self, before: asyncio.Task[bool] | None) -> bool:
        if before is not None:
            await asyncio.wait([before])
        self._looking, self._next_look = self._next_look, None
        self._needed = await self._log.tokens.any_made() or self._needed
        return self._needed

    async def _identify(self, token: str, client: str) -> Grant:
        hashed = digest(token)
        wait_s = math.ceil(self._limiter.attempt(client, hashed))
        if wait_s:
            raise TooMany("too many wrong tokens from this address; wait", retry_after_s=wait_s)
        token_id = token_id_of(token)
        try:
            found = None if token_id is None else await self._log.tokens.find(token_id)
        except Unavailable:
            self._limiter.unpay(client, hashed)
            raise
        if found is None or not found.fits(token):
            self._limiter.wrong(client, hashed)
            raise Unauthorized("there is no such token")
        # A client that has the whole token is not guessing, even if the token has ended
        self._limiter.right(client, hashed)
        status = found.status(self._log.tokens.clock())
        if status != "active":
            raise Unauthorized(f"this token {'was' if status == 'revoked' else 'has'} {status}")
        return Grant(found.scopes, found.trace_id, found.token_id, found.expires_at)

    # --- what a grant of one trace covers ---

    async def check_trace(self, grant: Grant, trace_id: str) -> None:
        """Raise UnknownTrace unless ``grant`` covers the trace, whether it exists or not."""
        if grant.trace_id is not None and not await self._log.tokens.covers(grant.trace_id, trace_id):
            raise UnknownTrace(f"there is no trace {trace_id!r}", trace_id=trace_id)

    async def check_create(self, grant: Grant, spec: Mapping[str, Any]) -> None:
        """Raise Forbidden, UnknownParent or TraceConflict where ``grant`` does not cover a trace to be created."""
        root_id, trace_id, parent_id = grant.trace_id, spec["trace_id"], spec["parent_trace_id"]
        if root_id is None:
            return
        if trace_id != root_id and parent_id is None:
            raise _not_ours(root_id)
        known = await self._summary(root_id) if trace_id == root_id else None
        again = known is not None and known["parent_trace_id"] == parent_id  # writes nothing
        if not (again or parent_id is None or await self._log.tokens.covers(root_id, parent_id)):
            raise UnknownParent(f"there is no trace {parent_id!r} to be the parent", parent_trace_id=parent_id)
        await self._check_free(root_id, trace_id)

    async def check_import(self, grant: Grant, header: Mapping[str, Any]) -> None:
        """Raise Forbidden or TraceConflict where ``grant`` does not cover a trace to be put back."""
        root_id, trace_id, parent_id = grant.trace_id, header["trace_id"], header["parent_trace_id"]
        if root_id is None or (trace_id == root_id and await self._summary(root_id) is not None):
            return
        known = await self._summary(root_id)
        top = root_id if known is None else known["root_trace_id"]
        below = parent_id is not None and await self._log.tokens.covers(root_id, parent_id)
        if header["root_trace_id"] != top or not (below or (trace_id == root_id and parent_id is None)):
            raise _not_ours(root_id)
        await self._check_free(root_id, trace_id)

    async def _check_free(self, root_id: str, trace_id: str | None) -> None:
        # That the id is taken has to be said; in which fields the trace there differs is not
        if trace_id is None or await self._log.tokens.covers(root_id, trace_id):
            return
        if await self._summary(trace_id) is not None:
            raise TraceConflict(f"trace {trace_id!r} exists with other fields")

    async def _summary(self, trace_id: str) -> dict[str, Any] | None:
        return next(iter(await self._log.summaries([trace_id])), None)

    # --- the end of a grant ---

    @contextmanager
    def using(self, grant: Grant, end: asyncio.Timeout) -> Iterator[None]:
        """Within the block ``end`` runs out as soon as ``grant`` is found to have ended."""
        self._uses.setdefault(grant, set()).add(end)
        try:
            yield
        finally:
            uses = self._uses[grant]
            uses.discard(end)
            if not uses:
                del self._uses[grant]

    async def _check_for_ever(self, check_s: float) -> None:
        while True:
            await asyncio.sleep(check_s)
            if self._uses:
                await self._check()

    async def _check(self) -> None:
        now = self._log.tokens.clock()
        asked = {grant.token_id for grant in self._uses if grant.token_id is not None}
        try:
            active = await self._log.tokens.active(asked)
            needed = await self._token_needed()
        except Unavailable:  # asked again at the next check; whether a grant has expired is known without asking
            active, needed = asked, self._needed
        for grant, ends in tuple(self._uses.items()):
            if grant.token_id is not None and grant.token_id not in asked:
                continue  # it came in while the log was asked; the next check asks about it
            expired = grant.expires_at is not None and grant.expires_at <= now
            if expired or (needed if grant.token_id is None else grant.token_id not in active):
                for end in tuple(ends):
                    end.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Stop checking grants."""
        self._checks.cancel()
        await asyncio.gather(self._checks, return_exceptions=True)


def _not_ours(root_id: str) -> Forbidden:
    return Forbidden(f"this token is for trace {root_id!r} and its sub-traces only")


def _is_near(client: str | None, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the client is on this machine and has not come through a proxy. All others need a token."""
    if b"x-forwarded-for" in headers or b"forwarded" in headers:
        return False
    try:
        return client is not None and ipaddress.ip_address(client.partition("%")[0]).is_loopback
    except ValueError:
        return False
