"""What recorders have left in their user's spool: what there is, and its delivery by a server of this machine.

Rule 1: a server takes only what was meant for it: its own address as this machine knows it, a name that it was told is
        its own, or its database file.
Rule 2: no token is needed, or used: what is in a private folder of the user who owns the database is the user's own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ..client.sender import Sender
from ..client.spool import SpoolDir, header_of
from ..client.target import target_of
from ..errors import InvalidField
from ..settings import CLIENT_OPTIONS, Settings

LOOK_S = 5.0  # time between two looks of a server for spools of dead recorders
EXIT_S = 1.0  # what is on its way when the server ends may take so long
EVERYWHERE = ("0.0.0.0", "::")


@dataclass
class Left:
    """What there is for one target."""

    url: str
    traces: int = 0
    size_bytes: int = 0
    in_use: int = 0  # of the traces: their recorders live, and deliver them


def look(directory: SpoolDir) -> list[Left]:
    """What is in a spool folder, by target."""
    found: dict[str, Left] = {}
    for path in directory.boxes():
        box = directory.adopt(path)
        files = box.files() if box is not None else list(path.glob("*.spool")) if path.is_dir() else [path]
        for file in files:
            header = header_of(file)
            if header is None:
                continue
            left = found.setdefault(str(header["url"]), Left(str(header["url"])))
            left.traces += 1
            left.in_use += box is None
            try:
                left.size_bytes += file.stat().st_size
            except OSError:
                pass  # delivered in this moment
        if box is not None:
            box.abandon()
    return [found[url] for url in sorted(found)]


def deliver_to_server(settings: Settings, url: str) -> Sender | None:
    """Begin to deliver what this user's recorders have left for a server with this address, in a thread of its own.

    Returns what has to be shut down at the end; None where the user has no spool folder.
    """
    client = Settings.from_env(os.environ, only=CLIENT_OPTIONS, unusable=lambda error: None)
    if not client.spool_dir:
        return None
    file = os.path.realpath(settings.db.removeprefix("sqlite:///"))
    meant = _meant(settings, urlsplit(url).port or 0, file)
    sender = Sender(
        f"sqlite:///{file}", client.spool_dir, client.spool_bytes, EXIT_S, meant=meant, look_s=LOOK_S, private=True
    )
    sender.start()
    return sender


def _meant(settings: Settings, port: int, file: str) -> Callable[[dict[str, Any]], bool]:
    here = socket.gethostname()
    names = set(filter(None, settings.allowed_hosts.split(",")))
    local = settings.host in EVERYWHERE or target_of(f"http://{settings.host}:1", "").loopback

    def meant(header: dict[str, Any]) -> bool:
        url = str(header["url"])
        same_machine = header.get("host", here) == here  # a home folder may be shared by several
        if url.startswith("sqlite:///"):
            return same_machine and os.path.realpath(url.removeprefix("sqlite:///")) == file
        try:
            target = target_of(url, "")
        except InvalidField:
            return False
        if target.loopback:
            return local and same_machine and target.port == port
        return target.host in names or (target.port == port and target.host in (settings.host, here))

    return meant
