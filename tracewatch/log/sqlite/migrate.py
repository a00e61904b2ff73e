"""Numbered SQL migrations: applied in order, one transaction each, recorded, and checked at every start.

All of it is plain functions of a ``sqlite3.Connection``: the server opens its log with them, and backup, restore and
the doctor check files with them.

Rule 1: a migration that has been released never changes. Each database has the numbers and names of those it has seen.
Rule 2: a database that has seen a migration this code does not know is refused, never guessed at.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

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


def tables_of(db: sqlite3.Connection) -> set[str]:
    """The names of a database's tables. Raises LogError for the database of another program, named by mistake."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and "schema_migrations" not in tables:
        raise LogError("this is the database of another program, not a tracewatch log")
    return tables


def applied(db: sqlite3.Connection, folder: Path | None = None) -> list[int]:
    """The numbers of the migrations that a database has seen, in order; none in an empty one.

    ``folder``: where the migrations are, by default our own. Raises NewerDatabase, LogError for what is no log of
    ours, sqlite3.Error for what can't be read.
    """
    if not tables_of(db):
        return []
    known = [(number, name) for number, name, _ in available(folder)]
    rows = db.execute("SELECT number, name FROM schema_migrations ORDER BY number").fetchall()
    if len(rows) > len(known):
        raise NewerDatabase(
            f"this database was written by a newer tracewatch (its schema is {rows[-1][0]}, this one knows "
            f"{len(known)}): upgrade tracewatch, or open another file"
        )
    for row, expected in zip(rows, known, strict=False):
        if row != expected:
            raise LogError(f"this database has migration {row[1]!r} where this tracewatch has {expected[1]!r}")
    return [number for number, _ in rows]


def schema_of(db: sqlite3.Connection) -> int:
    """The number of the last migration that a log has seen. Raises as ``applied``, and LogError for an empty file."""
    numbers = applied(db)
    if not numbers:
        raise LogError("this database is empty")
    return numbers[-1]


def migrate(db: sqlite3.Connection, folder: Path | None = None) -> list[int]:
    """Bring a database up to date and return the numbers applied now.

    ``db`` is in autocommit mode. Raises as ``applied``, and LogError when a migration fails: the database is then as
    it was before that one.
    """
    known = available(folder)
    done: list[int] = []
    if len(applied(db, folder)) == len(known):
        return done  # no lock is needed: another program may hold it
    while True:
        # The lock first, then the look: two processes that start at once must not both apply one
        db.execute("BEGIN IMMEDIATE")
        try:
            there = len(applied(db, folder))
            if there < len(known):
                number, name, path = known[there]
                db.execute(_RECORD)
                for statement in statements(path.read_text(encoding="utf-8")):
                    db.execute(statement)
                db.execute("INSERT INTO schema_migrations (number, name) VALUES (?, ?)", (number, name))
                done.append(number)
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:  # a full disk makes SQLite roll back by itself
                db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise LogError(f"migrating the database failed: {error}") from error
            raise
        if there == len(known):
            return done
