"""Numbered SQL migrations: applied in order, one transaction each, recorded, and checked at every start.

Rule 1: a migration that has been released never changes; what it was is checked by its number and name.
Rule 2: a database that has seen a migration this code does not know is refused, never guessed at.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import aiosqlite

from ...errors import LogError, NewerDatabase

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql", re.ASCII)
_RECORD = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)
"""


def migrations_dir() -> Path:
    """The folder with ``sqlite/0001_….sql``: inside the package when installed from a wheel, else beside it.

    Raises LogError if there is neither.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "sqlite").is_dir():
            return folder
    raise LogError("the migrations folder is missing: this installation of tracewatch is incomplete; install it again")


def available(folder: Path | None = None) -> list[tuple[int, str, Path]]:
    """``(number, name, path)`` of every migration, in order. Raises LogError if the numbers have a hole."""
    folder = folder or migrations_dir() / "sqlite"
    found = sorted((int(m[1]), p.name, p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name)))
    if [number for number, _, _ in found] != list(range(1, len(found) + 1)):
        raise LogError(f"the migrations in {folder} are not numbered 1, 2, 3 …")
    return found


def statements(script: str) -> list[str]:
    """The statements of an SQL script; a trigger's body stays whole."""
    parts: list[str] = []
    pending = ""
    *pieces, rest = script.split(";")
    for piece in pieces:
        pending += piece + ";"
        if sqlite3.complete_statement(pending):  # not inside a string, a comment or a trigger
            parts.append(pending.strip())
            pending = ""
    pending += rest
    if any(line.strip() and not line.lstrip().startswith("--") for line in pending.splitlines()):
        raise LogError(f"a migration ends in the middle of a statement: {pending.strip()[:80]!r}")
    return parts


async def migrate(connection: aiosqlite.Connection, folder: Path | None = None) -> list[int]:
    """Bring the database up to date and return the numbers applied now.

    ``connection`` is in autocommit mode and nobody else's. Raises NewerDatabase, or LogError when a migration fails
    (the database is then as it was before that one).
    """
    known = available(folder)
    applied: list[int] = []
    if await _is_current(connection, known):
        return applied  # no lock is needed: another program may hold it
    while True:
        # The lock first, then the look: two processes that start at once must not both apply one
        await connection.execute("BEGIN IMMEDIATE")
        try:
            await _check_ours(connection)
            await connection.execute(_RECORD)
            rows = list(await connection.execute_fetchall("SELECT number, name FROM schema_migrations ORDER BY number"))
            check_known([(int(row[0]), str(row[1])) for row in rows], [(n, name) for n, name, _ in known])
            if len(rows) == len(known):
                await connection.execute("COMMIT")
                return applied
            number, name, path = known[len(rows)]
            for statement in statements(path.read_text(encoding="utf-8")):
                await connection.execute(statement)
            await connection.execute("INSERT INTO schema_migrations (number, name) VALUES (?, ?)", (number, name))
            await connection.execute("COMMIT")
            applied.append(number)
        except BaseException as error:
            if connection.in_transaction:  # a full disk makes SQLite roll back by itself
                await connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise LogError(f"migrating the database failed: {error}") from error
            raise


async def _is_current(connection: aiosqlite.Connection, known: list[tuple[int, str, Path]]) -> bool:
    tables = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'"
    if not list(await connection.execute_fetchall(tables)):
        return False
    rows = list(await connection.execute_fetchall("SELECT number, name FROM schema_migrations ORDER BY number"))
    return [(int(row[0]), str(row[1])) for row in rows] == [(number, name) for number, name, _ in known]


async def _check_ours(connection: aiosqlite.Connection) -> None:
    """Keep our tables out of some other program's database, named by mistake."""
    tables = {
        row[0] for row in await connection.execute_fetchall("SELECT name FROM sqlite_schema WHERE type = 'table'")
    }
    if tables and "schema_migrations" not in tables:
        raise LogError("this is the database of another program, not a tracewatch log")


def check_known(rows: list[tuple[int, str]], known: list[tuple[int, str]]) -> None:
    """Compare the migrations a database has seen with those there are, as ``(number, name)``.

    Raises NewerDatabase, LogError.
    """
    if len(rows) > len(known):
        raise NewerDatabase(
            f"this database was written by a newer tracewatch (its schema is {rows[-1][0]}, this one knows "
            f"{len(known)}): upgrade tracewatch, or open another file"
        )
    for row, expected in zip(rows, known, strict=False):
        if row != expected:
            raise LogError(f"this database has migration {row[1]!r} where this tracewatch has {expected[1]!r}")
