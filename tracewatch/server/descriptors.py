"""How many file descriptors are left: without any, nobody new can connect, and only this process can tell why.

Rule: it costs one ``dup``, whatever is open: the kernel gives the lowest number that is free.
"""

from __future__ import annotations

import os
import resource

from ..log.health import Health

RESERVE = 16  # as few as this left are none


def descriptors_left() -> int:
    """How many more files this process may open; roughly, and 0 when there are none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        free = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    os.close(free)
    return max(0, soft - free) if soft != resource.RLIM_INFINITY else RESERVE * 2


def look_at_descriptors(health: Health) -> None:
    """Note in ``health`` whether any are left."""
    if descriptors_left() < RESERVE:
        words = (
            "nearly every file descriptor this process may have is in use: nobody new can connect; raise LimitNOFILE"
        )
        health.note("descriptors", "no_descriptors", words)
    else:
        health.clear("descriptors")
