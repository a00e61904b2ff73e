"""What stands between us and a database that may well be whole: rights, a lock, the disk. For people, in words.

SQLite says "unable to open database file" or "attempt to write a readonly database" for many reasons. Here the files
are looked at, and the reason is named.

Rule: only what SQLite has read and found broken is damage. Everything else is an obstacle, and says nothing of what is
      in the file.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from .faults import fault_of

_NOT_DAMAGED = "Nothing is known to be wrong with what is in it"
_ADVICE = {
    "locked": "Try again when that is over; `fuser FILE` names who has it open",
    "disk_full": "Make room on its disk",
    "io_error": "Look at what the kernel says (dmesg). Copy all its files to another disk while they can be read, and "
    "check the copy: tracewatch doctor --db COPY",
    "read_only": "Run this as the user of the server, or copy all its files to a place of your own and check the copy",
}
_ADVICE["cant_open"] = _ADVICE["read_only"]


def side_files(path: Path) -> list[Path]:
    """The names of the files that SQLite keeps beside a database: the -wal, the -shm and the -journal."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal")]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a database can't be used now, and what to do about it. Its content was not judged."""

    code: str  # as a fault's: locked, disk_full, io_error, read_only, cant_open …
    message: str
    advice: str


def obstacle(path: Path, error: BaseException, *, write: bool = False) -> Obstacle | None:
    """What an error of SQLite's or of the system's means, if it is no damage and no defect of ours.

    ``write``: what was tried needs the right to write.
    """
    if isinstance(error, OSError):
        return Obstacle("cant_open", rights(path, write=write) or str(error), _advice("cant_open"))
    fault = fault_of(error, _free_bytes(path))
    if fault is None or fault.code == "damaged":
        return None
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
        return None  # a table or a column that should be there is not
    said = fault.text if fault.code != "sqlite_error" else str(error)
    if fault.code in ("read_only", "cant_open"):
        said = rights(path, write=write) or f"{said} ({error})"
    return Obstacle(fault.code, said, _advice(fault.code))


def why(path: Path, error: BaseException, *, write: bool = False) -> str:
    """Why a database can't be opened: the obstacle in words, else what the error says."""
    found = obstacle(path, error, write=write)
    return str(error) if found is None else found.message


def rights(path: Path, *, write: bool) -> str | None:
    """Why this user may not use a database; None where rights are not in the way.

    Reading takes the right to read all its files. Who reads also makes the -shm where there is none, which takes the
    right to write to the folder.
    """
    try:
        real = Path(os.path.realpath(path))
        for folder in reversed(real.parents):
            if not _may(folder, os.X_OK):
                return f"the user {_me()} may not enter the folder {str(folder)!r} ({_owner(folder)})"
        for file in (real, *side_files(real)):
            if file.exists():
                if not _may(file, os.R_OK):
                    return f"the user {_me()} may not read {str(file)!r} ({_owner(file)})"
                if write and not _may(file, os.W_OK):
                    return _not_writable(file, f"may not write to {str(file)!r} ({_owner(file)})")
        if (write or not real.with_name(f"{real.name}-shm").exists()) and not _may(real.parent, os.W_OK):
            needs = f"may not make files in the folder {str(real.parent)!r} ({_owner(real.parent)}), as SQLite has to"
            return _not_writable(real.parent, needs)
    except OSError as error:
        return str(error)
    return None


def _not_writable(place: Path, needs: str) -> str:
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return f"the file system of {str(place)!r} is mounted read-only"
    return f"the user {_me()} {needs}"


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _owner(path: Path) -> str:
    status = path.stat()
    return f"of {_name(status.st_uid)}, mode {status.st_mode & 0o7777:04o}"


def _me() -> str:
    return _name(os.geteuid())


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _free_bytes(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return None


def _advice(code: str) -> str:
    return f"{_ADVICE.get(code, 'Try again. If it stays, please report this')}. {_NOT_DAMAGED}"
