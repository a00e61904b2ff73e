"""Pages of the log."""

from __future__ import annotations

import pytest

from tests.log.helpers import bodies, create, notes
from tracewatch.errors import UnknownTrace
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio
BIG = 1 << 40


async def test_pages_by_events(log: EventLog) -> None:
    await create(log)
    await log.append("t", notes(10))
    page = await log.read("t", 0, max_events=4, max_bytes=BIG)
    assert (len(page.bodies), page.after, page.upto) == (4, 0, 4)
    assert (page.first_event_id, page.last_event_id, page.status) == (1, 10, "running")
    page = await log.read("t", 8, max_events=4, max_bytes=BIG)
    assert (len(page.bodies), page.upto) == (2, 10)


@pytest.mark.parametrize("after", [10, 11, 2**53])
async def test_at_and_beyond_the_end(log: EventLog, after: int) -> None:
    await create(log)
    await log.append("t", notes(10))
    page = await log.read("t", after, max_events=4, max_bytes=BIG)
    assert (page.bodies, page.upto, page.last_event_id) == ([], after, 10)


async def test_an_empty_log_and_none(log: EventLog) -> None:
    await create(log)
    page = await log.read("t", 0, max_events=1, max_bytes=BIG)
    assert (page.bodies, page.first_event_id, page.last_event_id) == ([], 1, 0)
    with pytest.raises(UnknownTrace):
        await log.read("nope", 0, max_events=1, max_bytes=BIG)


async def test_every_cut_by_bytes(log: EventLog) -> None:
    """As many as fit, at least one, wherever the page begins and however the batches were cut."""
    await create(log, "before")
    await log.append("before", notes(3))
    await create(log)
    for size in (1, 1, 30, 2):
        await log.append("t", [note for n in range(size) for note in notes(1, "x" * (37 * n % 400))])
    stored = await bodies(log)
    sizes = [len(body) for body in stored]
    for after in range(len(stored)):
        for max_bytes in (1, sizes[after], sum(sizes[after : after + 3]) - 1, sum(sizes[after : after + 3]), 5000):
            page = await log.read("t", after, max_events=9, max_bytes=max_bytes)
            fits = 1
            while fits < min(9, len(stored) - after) and sum(sizes[after : after + fits + 1]) <= max_bytes:
                fits += 1
            assert page.bodies == stored[after : after + fits]
