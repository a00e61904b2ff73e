"""What listeners hear of a growth: each commit once, whatever else hints at it, and never too little."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.live.harness import Bench, bench
from tests.log.helpers import notes
from tracewatch.log import Grown
from tracewatch.model.events import validate_trace

pytestmark = pytest.mark.anyio


class Poll:
    """A listener for the trace ``t``, and the poll, which looks when it is told to."""

    def __init__(self, b: Bench, seen: int) -> None:
        self.heard: list[tuple[int, int]] = []  # last_event_id, and how many events came with it
        self._b, self._seen = b, seen
        self.take_back = b.hub.on_growth(self._listen, "t")

    def _listen(self, grown: Sequence[Grown]) -> None:
        self.heard += [(one.last_event_id, len(one.bodies)) for one in grown]

    async def look(self) -> list[tuple[int, int]]:
        """Look, and tell; what has been heard since the last look."""
        grown, self._seen = await self._b.log.changes(self._seen)
        self._b.hub.hinted(grown)
        heard, self.heard = self.heard, []
        return heard


async def polled(b: Bench) -> Poll:
    """One whose listener knows where the trace stands."""
    _, seen = await b.log.changes(2**62)
    poll = Poll(b, seen)
    await b.append(1)
    assert await poll.look() == [(1, 1), (1, 0)], "nobody knows what was before the first commit"
    return poll


async def test_own_commits_are_told_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        poll = await polled(b)
        await b.append(2)
        await b.append(1)
        assert await poll.look() == [(3, 2), (4, 1)]
        assert await poll.look() == []
        await b.append(1)
        assert await poll.look() == [(5, 1)]


async def test_what_another_process_wrote_before_an_own_commit_is_told(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        poll = await polled(b)
        await b.append(2, by=b.other)
        await b.append(1)
        assert await poll.look() == [(4, 1), (4, 0)]
        await b.append(1)
        await b.append(1, by=b.other)
        assert await poll.look() == [(5, 1), (6, 0)]
        await b.append(1)
        assert await poll.look() == [(7, 1)]


async def test_what_changes_without_an_event_is_told(tmp_path: Path) -> None:
    """A sub-trace's messages change the sums of the traces above it; another process's, and this one's."""
    async with bench(tmp_path) as b:
        poll = await polled(b)
        await b.other.create_trace(validate_trace({"trace_id": "sub", "task": "x", "parent_trace_id": "t"}))
        assert await poll.look() == [(2, 0)]
        for log in (b.other, b.log):
            await log.append("sub", [{"event": "message_added", "message": {"role": "user", "content": "x"}}])
            assert await poll.look() == [(2, 0)]


async def test_a_deletion_and_what_comes_after_it_are_told(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        poll = await polled(b)
        await b.append(1)
        await b.other.delete_trace("t")
        assert await poll.look() == [(2, 1), (2, 0)]
        await b.other.create_trace(validate_trace({"trace_id": "t", "task": "x"}))
        await b.other.append("t", notes(1))
        assert await poll.look() == [(3, 0)]
        await b.append(1)
        assert await poll.look() == [(4, 1)]


async def test_the_traces_that_somebody_wants_to_hear_of(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        poll = await polled(b)
        assert (set(b.hub.watched()), set(b.hub.recorded())) == (set(), {"t"})
        b.watch()
        await poll.look()
        assert set(b.hub.watched()) == {"t"}
        poll.take_back()
        assert set(b.hub.recorded()) == set()
        await b.append(1)
        assert (b.hub._known, b.hub._told) == ({}, {})
