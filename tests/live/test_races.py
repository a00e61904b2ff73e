"""Races between the log's growth and a watcher's steps: no hole, no repeat. Each is a list of steps."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.live.harness import bench
from tests.support import until
from tracewatch.errors import TraceDeleted
from tracewatch.log import Grown
from tracewatch.model.events import validate_trace

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("direct", [True, False], ids=["websocket", "stream"])]


async def test_an_append_between_the_snapshot_and_the_first_page(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        await b.append(3)
        b.gated.snapshot_gate.shut()
        notes = b.watch(direct=direct)
        await b.gated.snapshot_gate.held()
        await b.append(2)  # told while nobody knows the head
        b.gated.snapshot_gate.open()
        await b.complete(notes)
        await until(lambda: notes.names() == ["connected", "caught_up"])
        assert notes.control[0]["current_event_id"] == 3
        assert notes.control[1]["current_event_id"] == notes.control[1]["replayed"] == 5
        await b.append(1)
        await b.complete(notes)


async def test_latest_means_after_the_snapshot_whatever_comes_meanwhile(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        await b.append(3)
        b.gated.snapshot_gate.shut()
        notes = b.watch(direct=direct, since="latest")
        await b.gated.snapshot_gate.held()
        await b.append(2)
        b.gated.snapshot_gate.open()
        await b.complete(notes, after=3)


async def test_an_append_between_the_last_page_and_the_head(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        await b.append(3)
        b.gated.read_gate.shut()
        notes = b.watch(direct=direct)
        await b.gated.read_gate.held()  # it holds 1 to 3
        await b.append(2)
        b.gated.read_gate.open()
        await b.complete(notes)
        await until(lambda: "caught_up" in notes.names())
        await b.append(2)
        await b.complete(notes)


async def test_an_append_while_an_empty_page_is_on_its_way(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        b.gated.read_gate.shut()
        notes = b.watch(direct=direct)
        await b.gated.read_gate.held()  # it holds nothing: the log was empty
        await b.append(4)
        b.gated.read_gate.open()
        await b.complete(notes)
        await until(lambda: notes.names() == ["connected", "caught_up"])


async def test_a_hint_before_the_commit_can_be_seen(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        await b.ring(last=7)  # nothing is there yet
        await b.ring(last=7)
        await b.append(7)
        await b.complete(notes)
        await b.append(1, by=b.other)
        await b.ring()
        await b.complete(notes)


async def test_hints_are_late_repeated_and_out_of_order(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        b.gated.keeping = True
        for count in (1, 3, 2, 5):
            await b.append(count)
        kept = b.gated.hints
        for hints in (kept[2], kept[0], kept[0], kept[3], kept[1], kept[2], kept[3]):
            b.gated.tell(hints)
        await b.complete(notes)
        for hints in kept:
            b.gated.tell(hints)
        b.gated.keeping = False
        await b.append(1)
        await b.complete(notes)
        assert notes.names() == ["connected", "caught_up"]


async def test_a_lost_hint_costs_time_and_no_event(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        b.gated.keeping = True
        await b.append(3)
        b.gated.keeping = False  # nobody ever hears of those
        await b.append(2)  # its commit does not follow the head
        await b.complete(notes)


async def test_another_process_commits_between_two_of_ours(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        for _ in range(10):
            await b.append(1)
            await b.append(2, by=b.other)
            await b.append(1)
            await b.append(1, by=b.other)
        await b.ring()
        await b.complete(notes)
        assert notes.names() == ["connected", "caught_up"]


async def test_ours_come_while_the_others_are_being_read(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        await b.append(2, by=b.other)
        b.gated.read_gate.shut()
        await b.ring()
        await b.gated.read_gate.held()  # the head reads 1 and 2
        await b.append(3)  # these must wait for them
        await b.append(1)
        b.gated.read_gate.open()
        await b.complete(notes)


async def test_a_second_watcher_knows_more_than_the_head(tmp_path: Path, direct: bool) -> None:
    """It reads in the log what no hint has told yet."""
    async with bench(tmp_path) as b:
        first = b.watch(direct=direct)
        await until(lambda: "caught_up" in first.names())
        await b.append(5, by=b.other)
        second = b.watch(direct=direct)
        await b.complete(second)
        await b.complete(first)
        await b.append(1)
        await b.complete(first)
        await b.complete(second)


async def test_the_end_comes_between_the_last_page_and_the_head(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        await b.append(3)
        b.gated.read_gate.shut()
        notes = b.watch(direct=direct, until_end=True)
        await b.gated.read_gate.held()
        await b.other.append("t", [{"event": "trace_completed", "status": "failed"}])
        await b.ring()
        b.gated.read_gate.open()
        assert await b.tasks[0] == "end"
        await b.complete(notes)
        assert notes.control[-1] == {"event": "end", "status": "failed", "last_event_id": 4}


async def test_an_end_that_is_taken_back_at_once(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        notes = b.watch(direct=direct, until_end=True)
        await until(lambda: "caught_up" in notes.names())
        again = {"event": "trace_status_changed", "status": "running"}
        await b.log.append("t", [{"event": "trace_completed", "status": "failed"}, again])
        await b.append(1)
        await b.complete(notes)
        assert not b.tasks[0].done()


async def test_more_than_memory_keeps_while_a_reader_waits(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path, page_events=7) as b:
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        notes.room.clear()
        notes.unsent = 1 << 20
        for _ in range(40):
            await b.append(10, size=2000)  # 800 KB: three times what a head keeps
        notes.unsent = 0
        notes.room.set()
        await b.complete(notes)
        await until(lambda: notes.names() == ["connected", "caught_up", "fell_behind", "caught_up"])
        fell, caught_up = notes.control[2:]
        assert caught_up["replayed"] == 400 - fell["sent_event_id"]


async def test_old_frames_are_forgotten(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        head = b.hub._heads["t"]
        for _ in range(3):
            await b.append(4)
            await b.complete(notes)
            head.age()
            head.age()
            assert not head._ring and head._ring_bytes == 0
        assert notes.names() == ["connected", "caught_up"]


async def test_a_woken_watcher_reads_ahead_of_the_flush(tmp_path: Path, direct: bool) -> None:
    """Frames that were pushed in two commits, of which it has read the first from memory already."""
    async with bench(tmp_path) as b:
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        b.gated.keeping = True
        await b.append(1)
        await b.append(2)
        b.hub._heads["t"].wake_all()  # it runs first and reads the first commit from memory,
        asyncio.get_running_loop().call_soon(b.gated.tell, b.gated.hints[1])  # then the second one comes,
        b.gated.tell(b.gated.hints[0])  # then what is written at the head is both
        await b.complete(notes)
        assert notes.names() == ["connected", "caught_up"]


async def test_a_filter_passes_over_what_comes_live(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path, page_events=7) as b:
        notes = b.watch(direct=direct, types=frozenset({"wanted"}))
        await until(lambda: "caught_up" in notes.names())
        await b.append(999)
        await b.append(1)
        await b.log.append("t", [{"event": "wanted"}])
        await until(lambda: len(notes.events) == 1 and "checkpoint" in notes.names())
        places = [int(f["cursor"].split(".")[1]) for f in notes.control if f["event"] == "checkpoint"]
        assert len(places) == 1 and 1000 <= places[0] <= 1001


async def test_a_deletion_while_a_page_is_on_its_way(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        await b.append(3)
        b.gated.read_gate.shut()
        b.watch(direct=direct)
        await b.gated.read_gate.held()
        await b.log.delete_trace("t")
        b.gated.read_gate.open()
        with pytest.raises(TraceDeleted):
            await b.tasks.pop()


@pytest.mark.parametrize("by_us", [False, True], ids=["they append", "we append"])
async def test_deleted_and_made_again_between_two_looks(tmp_path: Path, direct: bool, by_us: bool) -> None:
    """Ids go on where the deleted trace's ended, so nothing but its key tells the new trace from the old one."""
    async with bench(tmp_path) as b:
        await b.append(3)
        at_head = b.watch(direct=direct)
        await until(lambda: "caught_up" in at_head.names())
        await b.other.delete_trace("t")
        await b.other.create_trace(validate_trace({"trace_id": "t", "task": "another"}))
        await b.append(2, by=b.log if by_us else b.other)
        await b.ring()
        with pytest.raises(TraceDeleted):
            await b.tasks.pop()
        assert len(at_head.events) == 3
        again = b.watch(direct=direct)
        await b.append(1)
        await b.complete(again, 3)


async def test_made_again_while_a_page_is_on_its_way(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        await b.append(3)
        b.gated.read_gate.shut()
        b.watch(direct=direct)
        await b.gated.read_gate.held()
        await b.other.delete_trace("t")
        await b.other.create_trace(validate_trace({"trace_id": "t", "task": "another"}))
        await b.append(5, by=b.other)
        b.gated.read_gate.open()
        with pytest.raises(TraceDeleted):
            await b.tasks.pop()


async def test_a_deletion_that_did_not_happen(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        b.gated.tell([Grown("t", 0, "deleted", deleted=True)])
        await b.append(3)
        await b.complete(notes)


async def test_the_log_cannot_be_read_for_a_moment(
    tmp_path: Path, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracewatch.errors import Unavailable
    from tracewatch.live import head

    monkeypatch.setattr(head, "RETRY_S", 0.001)
    async with bench(tmp_path) as b:
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        failures = 0
        read = b.gated.read

        async def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal failures
            failures += 1
            if failures <= 5:
                raise Unavailable("busy")
            return await read(*args, **kwargs)

        monkeypatch.setattr(b.gated, "read", failing)
        await b.append(3, by=b.other)
        await b.ring()
        await b.complete(notes)
        assert failures > 5
