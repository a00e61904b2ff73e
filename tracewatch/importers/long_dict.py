"""A dictionary of bounded memory: what does not fit in it lies in a temporary file, which goes with the program.

Rule 1: entries keep the order in which they came. The newest ones are in memory.
Rule 2: a value that was changed is set again, since what ``get`` gives may be a copy.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar, overload

NEAR = 4096  # entries in memory
_CACHE_KIB = 512  # of the file
_Value = TypeVar("_Value")


class LongDict(Generic[_Value]):
    """A dictionary from texts to small values. ``near``: so many entries are in memory.

    Raises OSError where the temporary file can't be written. Example: ``LongDict()["a"] = 1``.
    """

    def __init__(self, near: int = NEAR) -> None:
        self._most = near
        self._near: dict[str, _Value] = {}
        self._far: sqlite3.Connection | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._near or (self._far is not None and self._row(key) is not None)

    @overload
    def get(self, key: str) -> _Value | None: ...
    @overload
    def get(self, key: str, default: _Value) -> _Value: ...
    def get(self, key: str, default: _Value | None = None) -> _Value | None:
        """The value of ``key``."""
        if self._far is None or key in self._near:
            return self._near.get(key, default)
        row = self._row(key)
        return default if row is None else _value(row[1])

    def __setitem__(self, key: str, value: _Value) -> None:
        self._near[key] = value
        if len(self._near) > self._most:
            self._put_away()

    def after(self, key: str | None) -> Iterator[tuple[str, _Value]]:
        """The entries that came after ``key``, None: all, in their order. They must not change meanwhile."""
        row = (0, b"") if key is None else self._row(key) if self._far is not None else None
        if row is not None and self._far is not None:
            for found, value in self._do("SELECT key, value FROM entries WHERE place > ? ORDER BY place", (row[0],)):
                yield found, self._near[found] if found in self._near else _value(value)
        begun = row is not None
        for found, near in self._near.items():
            if begun and (self._far is None or self._row(found) is None):
                yield found, near
            begun = begun or found == key

    def _put_away(self) -> None:
        """Put the older half of what is in memory into the file, in the place of what it has of the same."""
        if self._far is None:
            self._far = sqlite3.connect("", check_same_thread=False)  # a file without a name
            self._do("PRAGMA journal_mode = OFF")
            self._do(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._do("CREATE TABLE entries (place INTEGER PRIMARY KEY, key TEXT UNIQUE, value BLOB)")
        half = len(self._near) // 2
        rows = ((key, pickle.dumps(value)) for key, value in islice(self._near.items(), half))
        write = "INSERT INTO entries (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        try:
            self._far.executemany(write, rows)
        except sqlite3.Error as error:
            raise _failed(error) from error
        self._near = dict(islice(self._near.items(), half, None))

    def _row(self, key: str) -> tuple[int, bytes] | None:
        found: tuple[int, bytes] | None = self._do("SELECT place, value FROM entries WHERE key = ?", (key,)).fetchone()
        return found

    def _do(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        assert self._far is not None
        try:
            return self._far.execute(statement, values)
        except sqlite3.Error as error:
            raise _failed(error) from error


def _failed(error: sqlite3.Error) -> OSError:
    return OSError(f"a temporary file (in TMPDIR, else /var/tmp) can't be used: {error}")


def _value(data: bytes) -> _Value:  # type: ignore[type-var]
    value: _Value = pickle.loads(data)
    return value
