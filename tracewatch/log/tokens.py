"""Tokens: who may come in, and to which traces. Rows of the log's own file, so that every process sees the same.

Rule 1: a token is stored as its SHA-256. It has 160 random bits, so nobody finds it by trying hashes, however fast;
        a slow hash would only make each request slow.
Rule 2: nothing is kept in memory: a token that was revoked a moment ago, by any process, is revoked in the next look.
Rule 3: no row is ever removed. Whether one was *ever* created decides whether anybody may come in without.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import aiosqlite
import orjson

from ..errors import InvalidField, NotFound
from ..model.payloads import TRACE_ID
from ..model.times import format_time
from .jobs import Job
from .rows import fetch
from .sqlite.writer import Writer
from .transaction import Transaction

SCOPES = ("read", "write", "control", "admin")
MAX_EXPIRY_S = 100 * 366 * 86_400.0
_ID_BYTES, _SECRET_BYTES = 6, 20
_TOKEN = re.compile(r"tw_([0-9a-f]{12})_[0-9a-f]{40}", re.ASCII)
_COLUMNS = "token_id, hash, scopes, trace_id, label, created_at, expires_at, revoked_at"
_ABOVE = (
    "WITH RECURSIVE up (trace_id) AS (SELECT ?1 UNION SELECT t.parent_trace_id FROM traces AS t JOIN up"
    " USING (trace_id) WHERE t.parent_trace_id IS NOT NULL) SELECT 1 FROM up WHERE trace_id = ?2"
)


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


def token_id_of(token: str) -> str | None:
    """The id in a token; None for what has not the form of one."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else None


def _token(row: Sequence[Any]) -> Token:
    token_id, stored, scopes, *rest = row
    return Token(token_id, stored, frozenset(scopes.split(",")), *rest)


@dataclass(slots=True, eq=False)
class _Create(Job):
    hash: bytes = b""
    values: Sequence[Any] = ()
    exclusive: bool = True

    async def run(self, tx: Transaction) -> None:
        token_id, scopes, trace_id, label, expires_in_s = self.values
        expires_at = None if expires_in_s is None else tx.now + expires_in_s
        row = (token_id, self.hash, scopes, trace_id, label, tx.ts, expires_at)
        await fetch(tx.connection, f"INSERT INTO tokens ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", *row)


@dataclass(slots=True, eq=False)
class _Revoke(Job):
    token_id: str = ""
    exclusive: bool = True

    async def run(self, tx: Transaction) -> bool:
        sql = "UPDATE tokens SET revoked_at = ? WHERE token_id = ? AND revoked_at IS NULL"
        await fetch(tx.connection, sql, format_time(tx.now), self.token_id)
        changed = (await fetch(tx.connection, "SELECT changes()"))[0][0]
        if not changed and not await fetch(tx.connection, "SELECT 1 FROM tokens WHERE token_id = ?", self.token_id):
            raise NotFound(f"there is no token {self.token_id!r}")
        return bool(changed)


class Tokens:
    """The tokens of a log: ``EventLog.tokens``."""

    def __init__(
        self,
        writer: Writer,
        lend: Callable[[], AbstractAsyncContextManager[aiosqlite.Connection]],
        clock: Callable[[], float],
    ) -> None:
        self._writer = writer
        self._lend = lend
        self.clock = clock  # Unix time in seconds

    async def create(
        self,
        scopes: Iterable[str],
        *,
        trace_id: str | None = None,
        expires_in_s: float | None = None,
        label: str = "",
    ) -> str:
        """Make a token and return it: the only time it is to be had. Raises InvalidField."""
        wanted = set(scopes)
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
        values = (token_id, ",".join(name for name in SCOPES if name in wanted), trace_id, label, expires_in_s)
        await self._writer.do(lambda future: _Create(future, hash=digest(token), values=values))
        return token

    async def revoke(self, token_id: str) -> bool:
        """Refuse a token from now on; False if it was revoked before. Raises NotFound."""
        revoked: bool = await self._writer.do(lambda future: _Revoke(future, token_id=token_id))
        return revoked

    async def made(self) -> list[Token]:
        """All that were ever created, oldest first."""
        async with self._lend() as connection:
            rows = await fetch(connection, f"SELECT {_COLUMNS} FROM tokens ORDER BY created_at, token_id")
        return [_token(row) for row in rows]

    async def find(self, token_id: str) -> Token | None:
        """The token of this id, in whatever state."""
        async with self._lend() as connection:
            rows = await fetch(connection, f"SELECT {_COLUMNS} FROM tokens WHERE token_id = ?", token_id)
        return _token(rows[0]) if rows else None

    async def any_made(self) -> bool:
        """Whether one was ever created."""
        async with self._lend() as connection:
            return bool(await fetch(connection, "SELECT 1 FROM tokens LIMIT 1"))

    async def active(self, token_ids: Iterable[str]) -> set[str]:
        """Those of these that are neither revoked nor expired."""
        async with self._lend() as connection:
            rows = await fetch(
                connection,
                "SELECT token_id FROM tokens WHERE token_id IN (SELECT value FROM json_each(?))"
                " AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)",
                orjson.dumps(list(token_ids)).decode(),
                self.clock(),
            )
        return {str(row[0]) for row in rows}

    async def covers(self, root_id: str, trace_id: str) -> bool:
        """Whether ``trace_id`` is ``root_id`` or one of its sub-traces, to any depth. For a token of ``root_id``."""
        if trace_id == root_id:
            return True
        async with self._lend() as connection:
            return bool(await fetch(connection, _ABOVE, trace_id, root_id))
