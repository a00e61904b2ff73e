"""Looking at a log's file without opening it as a log: for backup, restore and the doctor, beside any server.

Rule: nothing here writes to the database or checkpoints it. One exception: a rollback journal that a killed process
      has left is rolled back first, as by any program that opens the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ...errors import LogError
from .migrate import tables_of
from .obstacles import why

BUSY_S = 10.0
Progress = Callable[[str, int, int], None]  # (what is being done, how much of it is, of how much in all)


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode that can't write. Raises LogError where there is no readable file."""
    try:
        if not path.is_file():
            raise LogError(f"there is no log at {str(path)!r}" + (": it is a folder" if path.is_dir() else ""))
        connection = _connect(path, "ro")
        try:
            connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1")
        except sqlite3.OperationalError as error:
            # A change of journal mode was killed half-way: it takes a connection that may write to take it back
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:
                with closing(_connect(path, "rw")) as writing:
                    writing.execute("SELECT 1 FROM sqlite_schema LIMIT 1")
        except sqlite3.DatabaseError:
            pass  # the caller finds out when it reads
    except (sqlite3.Error, OSError) as error:
        raise LogError(f"can't open {str(path)!r}: {why(path, error)}") from error
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_S)
    connection.execute("PRAGMA query_only = 1")
    return connection


def quick_check(connection: sqlite3.Connection, *, full: bool = False) -> list[str]:
    """What SQLite finds wrong with the file, at most 100 things. ``full`` compares indexes with their tables, too."""
    # A Python callback now and then lets Ctrl-C through; sqlite3 then says "interrupted"
    connection.set_progress_handler(lambda: 0, 100_000)
    try:
        rows = connection.execute(f"PRAGMA {'integrity_check' if full else 'quick_check'}").fetchall()
    except sqlite3.OperationalError as error:
        if str(error) == "interrupted":
            raise KeyboardInterrupt from error
        raise
    except sqlite3.DatabaseError as error:
        return [str(error)]
    finally:
        connection.set_progress_handler(None, 0)
    lines = [line for (text,) in rows for line in str(text).splitlines()]
    return [line for line in lines if line != "ok" and not line.startswith("*** in database ")]


def is_log(path: Path) -> bool:
    """Whether this is a log that SQLite can read, of whatever version; not an empty file.

    Raises LogError for the database of another program.
    """
    try:
        with closing(open_read_only(path)) as connection:
            return bool(tables_of(connection))
    except sqlite3.Error:
        return False
