"""Fixtures of all tests: the event loop, the hypothesis profile, the way to the real agent runs.

Rule: a fixture that only one room needs lives in that room's folder.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support import CHECKED

# No deadline: a shared machine may stall any example. In CI the examples are the same each time, so that red
# means a change.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


# A shell starts what it puts in the background with Ctrl-C ignored, and so would every command that is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many tests run side by side with ``-n auto``: two for each CPU, since a test waits half of its time."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(2 * cpus, 16)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes runs only where ``-m`` names it."""
    if "long" in str(config.option.markexpr):
        return
    long = [item for item in items if item.get_closest_marker("long") is not None]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_collection_finish() -> None:
    """What the collection of thousands of tests leaves stays to the end: no collection of garbage looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """asyncio, and in debug mode: a call from the wrong thread is an error."""
    return CHECKED


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real agent runs beside the repository; skips where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the real agent runs of ../shared/data beside the repository, which are not here")
    return path
