"""The machine under a log: SQLite, the file system and the room on it, permissions, open files, the accept queue."""

from __future__ import annotations

import resource
import shutil
import sqlite3
from pathlib import Path

from ..backup import UNFINISHED
from ..restore import KEPT
from .findings import Findings

MIB = 1024 * 1024
SPARE_FILES = 200  # descriptors a server needs besides its sockets
LOW_BYTES, OUT_BYTES = 256 * MIB, 16 * MIB
BACKLOG = 1024  # connections that may wait to be accepted
# Without the shared memory or the locks that SQLite's WAL needs, or with some that do not reach the other machines
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "davfs"),
    *("vboxsf", "virtiofs", "prl_fs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.glusterfs", "fuse.gcsfuse"),
    *("fuse.cephfs", "fuse.vmhgfs-fuse", "fuse.davfs"),
}
_FLEETING = {"tmpfs": "memory", "ramfs": "memory", "overlay": "a container's own layer"}


def check_machine(found: Findings, path: Path, *, max_watchers: int) -> None:
    """Look at everything but the content of the file."""
    _sqlite(found)
    _file_system(found, path)
    _room(found, path)
    _permissions(found, path)
    _files_beside(found, path)
    _limits(found, max_watchers)


def _sqlite(found: Findings) -> None:
    version = sqlite3.sqlite_version
    if (3, 7, 0) <= sqlite3.sqlite_version_info < (3, 51, 3):
        found.warning(
            "sqlite_version",
            f"SQLite {version} has the WAL-reset bug (3.7.0 to 3.51.2): two connections of which one checkpoints while "
            "the other commits can, rarely, damage the file",
            "tracewatch avoids it by one writing connection in each process. With --workers, or recorders that write "
            "to the file themselves, use a Python that is linked with SQLite 3.51.3 or newer, and back up",
        )
    else:
        found.ok("sqlite_version", f"SQLite {version}")


def file_system(path: Path, mounts: str) -> tuple[str, str] | None:
    """``(type, mount point)`` of the file system a file lies on, from the text of /proc/mounts."""
    best: tuple[str, str] | None = None
    real = path.resolve()
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].encode().decode("unicode_escape")
        if real.is_relative_to(point) and (best is None or len(point) >= len(best[1])):
            best = fields[2], point
    return best


def _file_system(found: Findings, path: Path) -> None:
    try:
        kind = file_system(path, Path("/proc/mounts").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        kind = None  # not Linux
    if kind is None:
        found.ok("file_system", "the type of the file system is not known here; it must be a local one")
    elif kind[0] in _NETWORK:
        found.error(
            "file_system",
            f"the database lies on a network file system ({kind[0]}, {kind[1]}): SQLite's WAL breaks there",
            "Stop the server and move the database to a local disk (tracewatch backup FILE, tracewatch restore FILE)",
        )
    elif kind[0] in _FLEETING:
        found.warning(
            "file_system",
            f"the database lies in {_FLEETING[kind[0]]} ({kind[0]}, {kind[1]}) and goes with it",
            "Put it on a disk, or on a volume of the container",
        )
    else:
        found.ok("file_system", f"file system: {kind[0]} ({kind[1]})")


def _room(found: Findings, path: Path) -> None:
    free = shutil.disk_usage(path.parent).free
    said = f"{free / MIB:,.0f} MiB free on its disk"
    advice = "Make room, or keep less: appends are refused (503) when the disk is full, and recorders spool"
    if free < OUT_BYTES:
        found.error("free_space", said, advice)
    elif free < LOW_BYTES:
        found.warning("free_space", said, advice)
    else:
        found.ok("free_space", said)


def _permissions(found: Findings, path: Path) -> None:
    status = path.stat()
    mode = status.st_mode & 0o777
    if not mode & 0o200:
        found.error("permissions", f"the database is read-only (mode {mode:04o})", f"chmod 600 {path.absolute()}")
    elif mode & 0o022:
        said = f"others than its owner may write to the database (mode {mode:04o})"
        found.warning("permissions", said, f"chmod 600 {path.absolute()}")
    elif mode & 0o004:
        found.warning(
            "permissions",
            f"everybody on this machine may read the database (mode {mode:04o}): all that agents said",
            f"chmod 600 {path.absolute()}",
        )
    else:
        found.ok("permissions", f"mode {mode:04o}")
    if status.st_nlink > 1:
        found.warning(
            "second_name",
            "the database has a second name (a hard link): opened under both it would be damaged",
            f"A restore that was killed leaves it. Remove the other one: ls {path.absolute()}{KEPT}*",
        )


def _files_beside(found: Findings, path: Path) -> None:
    real = path.resolve()
    for beside in sorted(real.parent.glob(f"{_literal(real.name)}*")):
        size = f"{beside.stat().st_size / MIB:,.1f} MiB"
        if UNFINISHED in beside.name:
            found.warning(
                "leftover_file",
                f"{beside.name} ({size}) was left by a backup or restore that was killed",
                f"If none is running now: rm {beside}",
            )
        elif KEPT in beside.name:
            found.ok("kept_file", f"{beside.name} ({size}) is what a restore has replaced")


def _literal(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _limits(found: Findings, max_watchers: int) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < max_watchers + SPARE_FILES:
        found.warning(
            "open_files",
            f"a process of this user may open {soft:,} files here, which is too few for {max_watchers:,} watchers",
            f"For the server: LimitNOFILE=65536 in its unit, or ulimit -n {max_watchers + SPARE_FILES}; or a lower "
            "TRACEWATCH_MAX_WATCHERS",
        )
    else:
        found.ok("open_files", f"open files: {'no limit' if soft == resource.RLIM_INFINITY else f'{soft:,}'}")
    try:
        backlog = int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return  # not Linux
    if backlog < BACKLOG:
        found.warning(
            "somaxconn",
            f"net.core.somaxconn is {backlog}: when many clients come back at once, some are not let in at first",
            "sysctl -w net.core.somaxconn=4096",
        )
    else:
        found.ok("somaxconn", f"net.core.somaxconn: {backlog:,}")
