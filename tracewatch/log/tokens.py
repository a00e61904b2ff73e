"""Tokens: who may come in, and to which traces. Stored in the log itself, so that every process sees the same.

Rule 1: a token is stored as its SHA-256. It has 160 random bits, so nobody finds it by trying hashes, however fast;
        a slow hash would only make each request slow.
Rule 2: nothing is kept in memory: a token that was revoked a moment ago, by any process, is revoked in the next look.
Rule 3: no token is ever removed. Whether one was *ever* created decides whether anybody may come in without.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..errors import InvalidField, NotFound
from ..model.payloads import TRACE_ID
from .group import Group
from .jobs import Job
from .reader import Reader
from .storage import Needs, Storage
from .unit import Unit
from .views import SCOPES, Token, digest

__all__ = ["SCOPES", "Token", "Tokens", "digest", "token_id_of"]
MAX_EXPIRY_S = 100 * 366 * 86_400.0
_ID_BYTES, _SECRET_BYTES = 6, 20
_TOKEN = re.compile(r"tw_([0-9a-f]{12})_[0-9a-f]{40}", re.ASCII)


def token_id_of(token: str) -> str | None:
    """The id in a token; None for what has not the form of one."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else None


@dataclass(slots=True, eq=False, kw_only=True)
class _Create(Job):
    token: Token  # its times are not known yet
    expires_in_s: float | None

    def run(self, unit: Unit) -> None:
        expires_at = None if self.expires_in_s is None else unit.now + self.expires_in_s
        unit.tokens.append(replace(self.token, created_at=unit.ts, expires_at=expires_at))


@dataclass(slots=True, eq=False, kw_only=True)
class _Revoke(Job):
    token_id: str

    def need(self, needs: Needs) -> None:
        needs.tokens.add(self.token_id)

    def run(self, unit: Unit) -> bool:
        token = unit.load(unit.loaded.tokens, self.token_id, "tokens")
        if token is None:
            raise NotFound(f"there is no token {self.token_id!r}")
        if token.revoked_at is not None or self.token_id in unit.revoked:
            return False
        unit.revoked[self.token_id] = unit.ts
        return True


class Tokens:
    """The tokens of a log: ``EventLog.tokens``."""

    def __init__(self, storage: Storage, group: Group, reader: Reader) -> None:
        self._group = group
        self._reader = reader
        self.clock = storage.now  # Unix time in seconds

    async def create(
        self,
        scopes: Iterable[str],
        *,
        trace_id: str | None = None,
        expires_in_s: float | None = None,
        label: str = "",
    ) -> str:
        """Make a token and return it: the only time it is to be had. Raises InvalidField."""
        wanted = frozenset(scopes)
        if not wanted or wanted - set(SCOPES):
            raise InvalidField(f"scopes: one or more of {', '.join(SCOPES)}")
        if trace_id is not None and not TRACE_ID.fullmatch(trace_id):
            raise InvalidField(f"trace: {trace_id[:140]!r} is no trace_id (1-128 of A-Z a-z 0-9 . _ : @ -)")
        if expires_in_s is not None and not 0 < expires_in_s <= MAX_EXPIRY_S:
            raise InvalidField("expires: a time from now, of 100 years at the most")
        if len(label) > 200 or not label.isprintable():
            raise InvalidField("label: at most 200 printable characters")
        token_id = secrets.token_hex(_ID_BYTES)
        token = f"tw_{token_id}_{secrets.token_hex(_SECRET_BYTES)}"
        stored = Token(token_id, digest(token), wanted, trace_id, label, "", None, None)
        await self._group.do(_Create(token=stored, expires_in_s=expires_in_s))
        return token

    async def revoke(self, token_id: str) -> bool:
        """Refuse a token from now on; False if it was revoked before. Raises NotFound."""
        revoked: bool = await self._group.do(_Revoke(token_id=token_id))
        return revoked

    async def made(self) -> list[Token]:
        """All that were ever created, oldest first."""
        async with self._reader.reading() as storage:
            return await storage.tokens()

    async def find(self, token_id: str) -> Token | None:
        """The token of this id, in whatever state."""
        async with self._reader.reading() as storage:
            return next(iter(await storage.tokens([token_id])), None)

    async def any_made(self) -> bool:
        """Whether one was ever created."""
        async with self._reader.reading() as storage:
            return bool(await storage.tokens(limit=1))

    async def active(self, token_ids: Iterable[str]) -> set[str]:
        """Those of these that are neither revoked nor expired."""
        async with self._reader.reading() as storage:
            found = await storage.tokens(list(token_ids))
        now = self.clock()
        return {token.token_id for token in found if token.status(now) == "active"}

    async def covers(self, root_id: str, trace_id: str) -> bool:
        """Whether ``trace_id`` is ``root_id`` or one of its sub-traces, to any depth. For a token of ``root_id``."""
        if trace_id == root_id:
            return True
        async with self._reader.reading() as storage:
            return await storage.is_below(root_id, trace_id)
