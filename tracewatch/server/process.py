"""A process that serves: how many files it may open, and how Python's own machinery is set for it.

Rule: Only a process of ours is set up. An application that mounts ours has its own ideas.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys

from ..log.health import Health

logger = logging.getLogger("tracewatch.server")
OWN_FILES = 128  # descriptors kept for the log, standard streams and whatever else is no connection
RESERVE = 16  # with no more descriptors than this left, nobody new can connect
# After so long a thread that waits for Python's lock gets it. It asks only once a whole interval has gone by without
# the lock having been free for an instant (CPython's take_gil). A loop whose callbacks are all shorter, and which is
# never idle, keeps the thread that commits from ever running: at Python's own 5 ms, under a flood of tiny frames, an
# append waited for a minute and more
SWITCH_S = 0.00005
# Collections of the second generation until the third is collected as well: the loop stands still for that, 100 ms with
# 3,000 watchers. What connections leave behind does not wait for it (tests/server/test_garbage.py)
FULL_EVERY = 1000


def tune_interpreter() -> None:
    """Set Python's lock and its garbage collector for a process that has just started and does nothing but serve.

    What there is by now stays, and is not looked through again.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_EVERY)


def room_for(max_connections: int) -> int:
    """How many connections there may be: ``max_connections``, or what is left of the open files this process may have.

    Asks the system for as many files as that takes, up to its hard limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max_connections
    room = max(1, soft - min(OWN_FILES, soft // 2))
    logger.warning("open files are limited to %d: at most %d connections (ulimit -n, LimitNOFILE)", soft, room)
    return room


def descriptors_left() -> int:
    """How many more files this process may open; roughly, and 0 when there are none.

    It costs one ``open``, whatever is open already: the kernel gives the lowest number that is free.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        free = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    os.close(free)
    return max(0, soft - free) if soft != resource.RLIM_INFINITY else RESERVE * 2


def look_at_descriptors(health: Health) -> None:
    """Note in ``health`` whether any are left. Without one nobody new can connect, and nobody else can say why."""
    if descriptors_left() < RESERVE:
        words = (
            "nearly every file descriptor this process may have is in use: nobody new can connect; raise LimitNOFILE"
        )
        health.note("descriptors", "no_descriptors", words)
    else:
        health.clear("descriptors")
