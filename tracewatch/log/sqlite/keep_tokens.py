"""Who may come into a restored log. Tokens are not history: what was decided after the backup still holds.

Rule: a token that was revoked stays revoked, one that was made since stays, wherever the log that is replaced can be
read. What the backup alone knows of comes back as it was, and is named to whoever restores.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .inspect import open_read_only
from .migrate import available, statements

_COLUMNS = "token_id, hash, scopes, trace_id, label, created_at, expires_at, revoked_at"


@dataclass(frozen=True, slots=True)
class Inherited:
    """What became of the tokens."""

    revoked: int = 0  # valid in the backup, revoked since: they stay so
    added: int = 0  # made since the backup
    back: list[tuple[str, str]] = field(default_factory=list)  # (token_id, label): valid, and only the backup has them


def inherit_tokens(copy: Path, replaced: Path | None, now: float) -> Inherited:
    """Bring the tokens of ``copy`` up to what ``replaced`` (None: there is none that can be read) says of them.

    ``now``: Unix time in seconds. Raises sqlite3.Error for a copy that can't be written.
    """
    old = {} if replaced is None else _tokens_of(replaced)
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        if old:
            _bring_up_to_date(connection)  # the backup may be older than tokens
        theirs = {row[0]: row for row in _rows(connection)}
        revoked = [row for name, row in old.items() if name in theirs and row[-1] and not theirs[name][-1]]
        added = [row for name, row in old.items() if name not in theirs]
        for row in revoked:
            connection.execute("UPDATE tokens SET revoked_at = ? WHERE token_id = ?", (row[-1], row[0]))
        for row in added:
            connection.execute(f"INSERT INTO tokens ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute("COMMIT")
    back = [
        (row[0], row[4])
        for name, row in theirs.items()
        if name not in old and not row[-1] and (row[-2] is None or row[-2] > now)
    ]
    return Inherited(len(revoked), len(added), back)


def _tokens_of(path: Path) -> dict[str, tuple[Any, ...]]:
    try:
        with closing(open_read_only(path)) as connection:
            return {row[0]: row for row in _rows(connection)}
    except sqlite3.Error:
        return {}  # it can't be read: the backup's word is all there is


def _rows(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'tokens'").fetchone():
        return []
    return connection.execute(f"SELECT {_COLUMNS} FROM tokens").fetchall()


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    applied = {number for (number,) in connection.execute("SELECT number FROM schema_migrations")}
    for number, name, path in available():
        if number not in applied:
            for statement in statements(path.read_text(encoding="utf-8")):
                connection.execute(statement)
            connection.execute("INSERT INTO schema_migrations (number, name) VALUES (?, ?)", (number, name))
