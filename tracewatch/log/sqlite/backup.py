"""Backing up a log while others write to it.

Rule 1: a backup is one read transaction of the source, held from the first page to the last. SQLite's backup API copies
        in small steps, so that progress can be shown and Ctrl-C works. Without that transaction it would begin again
        with every commit of another process, and never end on a busy log. In WAL mode readers do not hold up writers;
        what is written meanwhile stays in the -wal file a little longer.
Rule 2: a file gets its name by one rename, when it is whole, checked and on the disk. Until then the target stays as it
        was. A backup that fails or is interrupted leaves nothing beside it; one that is killed leaves a file with
        ``.unfinished-`` in its name.
Rule 3: a restored log is another history: it gets a new epoch before anybody can open it. A backup that is opened as a
        log, without `tracewatch restore`, gets one then: it names no file as its own (identity.py).
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidField, LogError
from .identity import identifiers
from .inspect import Progress, open_read_only, quick_check
from .migrate import schema_of
from .obstacles import side_files, why

STEP_PAGES = 1000  # 4 MiB between two words of progress, or before Ctrl-C is heard
UNFINISHED = ".unfinished-"  # in the name of a file that is being made


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy of a log, and what is in it."""

    path: Path
    size_bytes: int
    epoch: str | None
    schema: int
    traces: int
    events: int


def backup(source: Path, target: Path, *, replace: bool = False, progress: Progress | None = None) -> Copied:
    """Write a consistent, checked copy of a log to ``target``: one file, readable by its owner only.

    ``replace``: also where there is a file already. ``progress`` is called with what is being done ("copy", "check")
    and how many pages of how many are done. Raises InvalidField for a target that can't be, LogError for a source that
    can't be copied, OSError.

    ``backup(Path("tracewatch.db"), Path("/backup/tracewatch.db")).events`` is how many events are in it.
    """
    target = target.resolve()  # of a link the file it leads to is written, so that the link stays
    _check_target(source, target, replace)
    with unfinished(target) as copy:
        copied = copy_log(source, copy, progress)
        _check_target(source, target, replace)
        copy.replace(target)
    sync_folder(target.parent)
    return dataclasses.replace(copied, path=target)


def _check_target(source: Path, target: Path, replace: bool) -> None:
    if target.is_dir():
        raise InvalidField(f"{str(target)!r} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise InvalidField(f"there is no folder {str(target.parent)!r}")
    own = [source, *side_files(source)]
    if target.exists() and any(path.exists() and path.samefile(target) for path in own):
        raise InvalidField(f"{str(target)!r} is the log itself; a backup needs a file of its own")
    if target.exists() and not replace:
        raise InvalidField(f"{str(target)!r} exists already; --force writes over it")


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """A new file beside ``target`` for its owner only; at the end it is removed, unless it was given another name."""
    path = target.with_name(f"{target.name}{UNFINISHED}{secrets.token_hex(4)}")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        yield path
    finally:
        for left in (path, *side_files(path)):
            left.unlink(missing_ok=True)


def copy_log(source: Path, copy: Path, progress: Progress | None = None) -> Copied:
    """Copy a log into an empty file, check the copy and bring it to the disk. Raises LogError, OSError."""
    tell = progress or (lambda what, done, total: None)
    name = repr(str(source))
    with closing(open_read_only(source)) as connection:
        try:
            connection.execute("BEGIN")
            schema = schema_of(connection)  # the first look is what the transaction begins with
            pages, page_bytes = (connection.execute(f"PRAGMA page_{what}").fetchone()[0] for what in ("count", "size"))
        except sqlite3.Error as error:
            raise LogError(f"{name} can't be read: {why(source, error)}") from error
        except LogError as error:
            error.message = f"{name} is not a log that can be copied: {error.message}"
            raise
        _check_room(copy.parent, pages * page_bytes)
        with closing(sqlite3.connect(copy, isolation_level=None)) as target:
            try:
                for pragma in ("journal_mode = OFF", "synchronous = OFF"):  # a copy that fails is thrown away
                    target.execute(f"PRAGMA {pragma}")
                connection.backup(
                    target, pages=STEP_PAGES, progress=lambda _, left, total: tell("copy", total - left, total)
                )
                connection.execute("ROLLBACK")  # what follows needs the source no more
                tell("check", 0, 0)
                target.execute("PRAGMA journal_mode = DELETE")  # one file: without a -wal, now or when it is opened
                faults = quick_check(target)
            except sqlite3.Error as error:
                raise LogError(f"copying {name} to {str(copy.parent)!r} failed: {error}") from error
            if faults:
                raise LogError(f"{name} is damaged, so is its copy: {faults[0]}; `tracewatch doctor` says more")
            target.execute("INSERT OR REPLACE INTO meta VALUES ('inode', '')")
            traces, events = target.execute(
                "SELECT COUNT(*), SUM(last_event_id - first_event_id + 1) FROM traces"
            ).fetchone()
            epoch = identifiers(target).get("epoch")
    sync_file(copy)
    return Copied(copy, copy.stat().st_size, epoch, schema, traces, events or 0)


def _check_room(folder: Path, size_bytes: int) -> None:
    """Raise LogError if the copy does not fit: running out half-way would leave the log on the same disk no room."""
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        raise LogError(f"{str(folder)!r} has {free:,} bytes free, and the copy needs {size_bytes:,}")


def sync_file(path: Path) -> None:
    """Return when the file's content is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk."""
    sync_file(path)
