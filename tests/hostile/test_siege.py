"""Whatever one client does, the others get every event, memory stays bounded, and the server keeps nothing of it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ServerProcess

from .clients import ABUSES
from .siege import RATE, siege

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.alone]
EVENTS = 3 * RATE
MORE_KIB = 96 * 1024  # than before: buffers of the hostile, and what Python keeps of them
STORM = ("2000", "2")  # connections, in so many seconds; the benchmark has 10,000 in 10


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One for all: what one abuse leaves behind, the next one's victims would feel."""
    with tempfile.TemporaryDirectory() as folder:
        with ServerProcess(
            Path(folder) / "log.db", write_stall_s=2, request_stall_s=2, ws_ping_s=15, heartbeat_s=1, shutdown_s=2
        ) as one:
            yield one


@pytest.mark.parametrize("name", ABUSES)
async def test_good_watchers_get_everything_and_nothing_is_left(server: ServerProcess, name: str) -> None:
    abuse = [name, *STORM] if name == "connection_storm" else [name]
    assert server.process is not None
    pid = server.process.pid
    outcome = await asyncio.wait_for(siege(server.port, pid, abuse, events=EVENTS, good=f"good-{name}"), 100)
    for watcher in outcome.watchers:
        assert watcher.event_ids == list(range(1, EVENTS + 1))
    assert server.process.poll() is None, "the server died"
    assert outcome.rss_most_kib - outcome.rss_before_kib < MORE_KIB
    assert outcome.descriptors_after <= outcome.descriptors_before + 2, "connections were left behind"
