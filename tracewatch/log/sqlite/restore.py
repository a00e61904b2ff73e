"""Restoring: putting a backup in the place of a log.

Rule 1: while a log is being replaced no other process has it open. The lock of which every connection holds a share is
        held exclusively on the old file, until the new one stands in its place. A process that opens the log in that
        moment waits, and is then refused by SQLite, because its file has moved.
Rule 2: a -wal belongs to the file it was written for; SQLite would play it into any other one beside it. So what is in
        the old -wal goes into the old file first, and the new file comes without one. Only then comes the one rename:
        before it the log is the old one, after it the new one, whenever the process or the machine dies.
Rule 3: an old file that SQLite can't read can't take its -wal back. Both are kept, under names that belong together.
Rule 4: tokens are not history. One that was revoked since the backup stays revoked, one that was made since stays,
        wherever the log that is replaced can be read. Those that only the backup has come back as they were, and are
        named in the result.
"""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InvalidField, LogError, LogInUse
from .backup import Copied, copy_log, sync_file, sync_folder, unfinished
from .identity import new_epoch, set_identifiers
from .inspect import Progress, is_log, open_read_only
from .migrate import migrate
from .obstacles import side_files
from .search import remove_index

KEPT = ".before-restore-"  # in the name of the log that was replaced
# Where SQLite locks a database file (its file format, section "The Lock-Byte Page"): the bytes from PENDING_BYTE on.
# In WAL mode a connection holds a shared lock there as long as it is open.
_LOCK_OFFSET, _LOCK_BYTES = 0x4000_0000, 512
_TOKENS = "token_id, hash, scopes, trace_id, label, created_at, expires_at, revoked_at"


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """What became of the tokens."""

    revoked: int = 0  # valid in the backup, revoked since: they stay so
    added: int = 0  # made since the backup
    back: list[tuple[str, str]] = field(default_factory=list)  # (token_id, label): valid, and only the backup has them


@dataclass(frozen=True, slots=True)
class Restored:
    """A backup that has become the log."""

    log: Copied  # ``epoch`` is the new one
    kept: Path | None  # the log that was there before
    tokens: KeptTokens


def restore_file(
    backup: Path, log: Path, *, replace: bool = False, keep: bool = True, progress: Progress | None = None
) -> Restored:
    """Make a copy of ``backup``, with a new epoch, the log at ``log``.

    ``replace``: also where there is a log already; it is then kept beside it unless ``keep`` is false. ``progress`` is
    called with what is being done ("copy", "check") and how many pages of how many are done. Raises InvalidField,
    LogInUse while any process has the log open, LogError for a backup that is damaged, newer or none, OSError.

    ``restore_file(Path("backup.db"), Path("tracewatch.db"), replace=True).kept`` is where the old log is now.
    """
    log = log.resolve()  # of a link the file it leads to is replaced, as it is what SQLite opens
    _check_places(backup, log, replace)
    with unfinished(log) as copy:
        copied = copy_log(backup, copy, progress)
        _own_as(copy, log)
        epoch = new_epoch()
        with _alone(log, lambda whole: _prepare(copy, epoch, log if whole else None)) as tokens:
            kept = _set_aside(log, keep)
            copy.replace(log)  # the moment
            remove_index(log)  # it is of what was there before
            sync_folder(log.parent)
    return Restored(dataclasses.replace(copied, path=log, epoch=epoch), kept, tokens)


def _check_places(backup: Path, log: Path, replace: bool) -> None:
    if not log.parent.is_dir():
        raise InvalidField(f"there is no folder {str(log.parent)!r}")
    if log.is_dir():
        raise InvalidField(f"{str(log)!r} is a folder")
    if not log.exists() or log.stat().st_size == 0:
        return
    if backup.exists() and backup.samefile(log):
        raise InvalidField(f"{str(backup)!r} is the log itself")
    _probe(log)
    try:
        is_log(log)
    except LogError as error:
        error.message = f"{str(log)!r} is not replaced: {error.message}"
        raise
    if not replace:
        raise InvalidField(f"there is a log at {str(log)!r}; --force replaces it (it is kept under another name)")


def _own_as(copy: Path, log: Path) -> None:
    """Give the copy owner and mode of the log that is there: the server may run as another user than this command."""
    if not log.exists():
        return
    was = log.stat()
    if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
        try:
            os.chown(copy, was.st_uid, was.st_gid)
        except PermissionError as error:
            raise LogError(f"{str(log)!r} belongs to another user: restore as that user, or as root") from error
    copy.chmod(was.st_mode & 0o777)


# --- the lock -------------------------------------------------------------------------------------------------


def _in_use(log: Path) -> LogInUse:
    return LogInUse(
        f"{str(log)!r} is open in another process: stop the server and the recorders that write to it first"
    )


def _lock(fd: int, log: Path) -> None:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_OFFSET)
    except OSError as error:
        raise _in_use(log) from error


def _probe(log: Path) -> None:
    """Raise LogInUse if any process has it open. Does not touch it."""
    fd = os.open(log, os.O_RDWR | os.O_CLOEXEC)
    try:
        _lock(fd, log)
    finally:
        os.close(fd)


@contextmanager
def _alone(log: Path, prepare: Callable[[bool], KeptTokens]) -> Iterator[KeptTokens]:
    """The log as one file without a -wal, if SQLite can make it so, and nobody else in it, or able to get into it.

    ``prepare`` is called when it is one file (True), or never will be (False), and can still be opened.
    """
    if not log.exists():
        yield prepare(False)
        return
    _probe(log)
    whole = is_log(log) and _take_in_wal(log)
    before = log.stat().st_mtime_ns
    prepared = prepare(whole)
    # This process may not open and close the file in between: that would end the lock
    fd = os.open(log, os.O_RDWR | os.O_CLOEXEC)
    try:
        _lock(fd, log)
        if whole and (log.stat().st_mtime_ns != before or any(path.exists() for path in side_files(log))):
            raise _in_use(log)  # since a moment ago, and it has ended as suddenly
        yield prepared
    finally:
        os.close(fd)


def _take_in_wal(log: Path) -> bool:
    """Put what is in the -wal into the file and remove it; False where SQLite can't read the file."""
    try:
        with closing(sqlite3.connect(log, isolation_level=None, timeout=1)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        return True
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise _in_use(log) from error
        return False  # a fault of the disk's, perhaps: kept as it is


# --- the new log -----------------------------------------------------------------------------------------------


def _prepare(copy: Path, epoch: str, replaced: Path | None) -> KeptTokens:
    """Make the copy another history, with what ``replaced`` (None: there is none that can be read) says of tokens."""
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as db:
            set_identifiers(db, epoch, copy)
            tokens = _keep_tokens(db, {} if replaced is None else _tokens_of(replaced), time.time())
    except sqlite3.Error as error:
        raise LogError(f"writing to {str(copy.parent)!r} failed: {error}") from error
    sync_file(copy)
    return tokens


def _keep_tokens(db: sqlite3.Connection, old: dict[str, tuple[Any, ...]], now: float) -> KeptTokens:
    """Bring the tokens of a backup up to what ``old``, those of the log it replaces, say. ``now``: Unix time."""
    if old:
        migrate(db)  # the backup may be older than tokens
    theirs = _tokens(db)
    revoked = [row for name, row in old.items() if name in theirs and row[-1] and not theirs[name][-1]]
    added = [row for name, row in old.items() if name not in theirs]
    db.execute("BEGIN IMMEDIATE")
    db.executemany("UPDATE tokens SET revoked_at = ? WHERE token_id = ?", [(row[-1], row[0]) for row in revoked])
    db.executemany(f"INSERT INTO tokens ({_TOKENS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", added)
    db.execute("COMMIT")
    back = [
        (row[0], row[4])
        for name, row in theirs.items()
        if name not in old and not row[-1] and (row[-2] is None or row[-2] > now)
    ]
    return KeptTokens(len(revoked), len(added), back)


def _tokens_of(path: Path) -> dict[str, tuple[Any, ...]]:
    try:
        with closing(open_read_only(path)) as db:
            return _tokens(db)
    except sqlite3.Error:
        return {}  # it can't be read: the backup's word is all there is


def _tokens(db: sqlite3.Connection) -> dict[str, tuple[Any, ...]]:
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'tokens'").fetchone():
        return {}
    return {row[0]: row for row in db.execute(f"SELECT {_TOKENS} FROM tokens")}


# --- the old log -----------------------------------------------------------------------------------------------


def _set_aside(log: Path, keep: bool) -> Path | None:
    """Give the old files a second name, and then take from those beside the log the first one."""
    present = [path for path in (log, *side_files(log)) if path.exists() and not path.name.endswith("-shm")]
    kept = _free_name(log) if keep and present else None
    if kept is not None:
        for path in present:
            _link(path, kept.with_name(kept.name + path.name.removeprefix(log.name)))
        sync_folder(log.parent)
    for path in side_files(log):
        path.unlink(missing_ok=True)
    sync_folder(log.parent)
    return kept


def _free_name(log: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (log.with_name(f"{log.name}{KEPT}{stamp}{'' if n == 1 else f'-{n}'}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def _link(path: Path, name: Path) -> None:
    try:
        name.hardlink_to(path)
    except OSError as error:
        raise LogError(
            f"{str(path)!r} can't be kept as {name.name!r} ({error.strerror}): copy it elsewhere, then --discard it"
        ) from error
