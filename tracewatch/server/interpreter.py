"""Python's own machinery in a process that does nothing but serve: the lock of its threads, its garbage collector.

Rule: only such a process is set up so. An application that mounts ours has its own ideas.
"""

from __future__ import annotations

import gc
import sys

# After so long a thread that waits for Python's lock gets it. It asks only once a whole interval has gone by without
# the lock having been free for an instant (CPython's take_gil). A loop whose callbacks are all shorter, and which is
# never idle, keeps the thread that commits from ever running: at Python's own 5 ms, under a flood of tiny frames, an
# append waited for a minute and more
SWITCH_S = 0.00005
# Collections of the second generation until the third is collected as well: the loop stands still for that, 100 ms with
# 3,000 watchers. What connections leave behind does not wait for it (tests/server/test_garbage.py)
FULL_EVERY = 1000


def set_up() -> None:
    """For a process that serves and has just started: what there is stays, and is not looked through again."""
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_EVERY)
