"""Events are trimmed while a watcher reads them: it gets a gap where events are missing, and only there."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.live.harness import Bench, Notes, bench
from tests.log.helpers import outdated, prune, sweep, trim
from tests.support import DEADLINE_S, until
from tracewatch.errors import Gap
from tracewatch.live.watcher import WatchRequest
from tracewatch.model.state import State, apply_into

pytestmark = pytest.mark.anyio
both = pytest.mark.parametrize("direct", [True, False], ids=["websocket", "stream"])


def ids(notes: Notes) -> list[int]:
    return [orjson.loads(body)["event_id"] for body in notes.events]


@both
async def test_trimmed_under_a_watcher_in_the_log(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path, page_events=100) as b:
        await b.append(700)
        b.gated.read_gate.shut()
        notes = b.watch(direct=direct)
        await b.gated.read_gate.held()  # it holds 1 to 100
        await b.append(500)
        assert await trim(b.other, "t", 1000)
        b.gated.read_gate.open()
        await until(lambda: "caught_up" in notes.names())
        assert ids(notes) == [*range(1, 101), *range(1001, 1201)]
        assert notes.names() == ["connected", "gap", "snapshot", "caught_up"]
        connected, gap, snapshot, caught_up = notes.control
        epoch = b.log.epoch
        assert gap == {
            "event": "gap",
            "reason": "trimmed",
            "requested": f"{epoch}.100",
            "first_event_id": 1001,
            "current_event_id": 1200,
            "resume_event_id": 1000,
        }
        assert (snapshot["cursor"], snapshot["first_event_id"]) == (f"{epoch}.1000", 1001)
        assert connected["first_event_id"] == 1
        assert caught_up["replayed"] == 200
        await b.append(1)
        await until(lambda: ids(notes)[-1] == 1201)


@both
async def test_at_the_head_nobody_notices(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        await b.append(1100)
        notes = b.watch(direct=direct, since="-10")
        await until(lambda: "caught_up" in notes.names())
        assert await trim(b.log, "t", 500)
        assert await trim(b.other, "t", 1000)
        await prune(b.other, keep_events=1)
        await b.ring()
        await b.append(3)
        await until(lambda: ids(notes)[-1] == 1103)
        assert ids(notes) == list(range(1091, 1104))
        assert notes.names() == ["connected", "caught_up"]


@both
async def test_written_and_trimmed_by_others_before_this_process_looked(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        await b.append(5)
        notes = b.watch(direct=direct)
        await until(lambda: "caught_up" in notes.names())
        await b.append(1200, by=b.other)
        assert await trim(b.other, "t", 1000)
        await b.ring()
        await until(lambda: ids(notes)[-1:] == [1205])
        await until(lambda: notes.names()[-1] == "caught_up")
        assert ids(notes) == [*range(1, 6), *range(1001, 1206)]
        assert [name for name in notes.names() if name != "fell_behind"] == [
            *("connected", "caught_up", "gap", "snapshot", "caught_up")
        ]
        await b.append(2)
        await until(lambda: ids(notes)[-1] == 1207)


@both
async def test_everything_goes(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path, page_events=10) as b:
        await b.append(500)
        b.gated.read_gate.shut()
        notes = b.watch(direct=direct)
        await b.gated.read_gate.held()
        assert await trim(b.log, "t", 500)
        b.gated.read_gate.open()
        await until(lambda: "caught_up" in notes.names())
        assert ids(notes) == list(range(1, 11))
        assert notes.control[-1]["current_event_id"] == notes.control[1]["resume_event_id"] == 500
        await b.append(1)
        await until(lambda: ids(notes)[-1] == 501)


async def test_without_control_frames_it_is_an_error(tmp_path: Path) -> None:
    async with bench(tmp_path, page_events=100) as b:
        await b.append(1100)
        b.gated.read_gate.shut()
        notes = b.watch(direct=False, quiet=True)
        await b.gated.read_gate.held()
        assert await trim(b.log, "t", 1000)
        b.gated.read_gate.open()
        with pytest.raises(Gap) as caught:
            await b.tasks.pop()
        assert (ids(notes)[-1], caught.value.facts["resume_event_id"]) == (100, 1000)


POSITIONS = st.sampled_from([None, "0", "-30", "latest", "250", "600"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 400)),
        st.tuples(st.just("other"), st.integers(1, 400)),
        st.tuples(st.just("trim"), st.integers(1, 700)),
        st.tuples(st.just("sweep"), st.integers(1, 3)),
        st.tuples(st.just("watch"), st.tuples(POSITIONS, st.booleans())),
        st.tuples(st.just("stall"), st.integers(0, 5)),
        st.tuples(st.just("read"), st.integers(0, 5)),
        st.tuples(st.just("turn"), st.integers(1, 30)),
    ),
    min_size=5,
    max_size=25,
)


def folded(notes: Notes, frames: list[dict[str, Any]]) -> tuple[State, list[int]]:
    """What a client makes of all it got, in order: its state, and the ids of the events."""
    state, position, taken = State("t"), -1, []
    gap: dict[str, Any] | None = None
    for frame in frames:
        if "event_id" in frame:
            assert frame["event_id"] == position + 1
            position = frame["event_id"]
            taken.append(position)
            apply_into(state, frame)  # what the snapshot has already changes nothing
        elif frame["event"] in ("connected", "snapshot"):
            state = State.from_snapshot(frame)
            start = int(frame["cursor"].split(".")[1])
            assert frame["event"] == "connected" or (gap is not None and start == gap["resume_event_id"] >= position)
            position, gap = start, None
        elif frame["event"] == "gap":
            gap = frame
    assert gap is None
    return state, taken


class Ordered(Notes):
    """Keeps control frames and events in one order."""

    def __init__(self, *, direct: bool) -> None:
        super().__init__(direct=direct)
        self.frames: list[dict[str, Any]] = []

    def _note(self, payload: bytes) -> None:
        super()._note(payload)
        self.frames.append(orjson.loads(payload))


async def play(b: Bench, steps: list[Any]) -> None:
    watchers: list[Ordered] = []
    for name, value in steps:
        if name in ("append", "other"):
            await b.append(value, by=b.other if name == "other" else None)
            await b.ring()
        elif name == "trim":
            for going in await outdated(b.other, keep_events=value):
                await trim(b.other, "t", going.upto)
        elif name == "sweep":
            for _ in range(value):
                await sweep(b.log)
        elif name == "watch":
            since, direct = value
            watchers.append(Ordered(direct=direct))
            b.tasks.append(asyncio.create_task(b.hub.watch(WatchRequest("t", since, nulls=True), watchers[-1])))
        elif name in ("stall", "read") and watchers:
            notes = watchers[value % len(watchers)]
            notes.unsent = 1 << 30 if name == "stall" else 0
            notes.room.clear() if name == "stall" else notes.room.set()
        elif name == "turn":
            for _ in range(value):
                await asyncio.sleep(0)
    for notes in watchers:
        notes.unsent = 0
        notes.room.set()
    await b.append(1)
    snapshot = await b.log.snapshot("t")
    first, last = snapshot.state.first_event_id, snapshot.state.last_event_id
    there = (await b.log.read("t", first - 1, max_events=10**6, max_bytes=1 << 30)).bodies
    for notes in watchers:
        await until(partial(_has, notes, last))
        state, taken = folded(notes, notes.frames)
        assert {**state.to_json(), "first_event_id": 0} == {**snapshot.state.to_json(), "first_event_id": 0}
        stored = {first + n: body for n, body in enumerate(there)}
        assert all(stored.get(event_id, body) == body for event_id, body in zip(taken, notes.events, strict=True))
        gaps = [frame for frame in notes.control if frame["event"] == "gap"]
        assert all(frame["reason"] in ("trimmed", "ahead") for frame in gaps)


def _has(notes: Ordered, last: int) -> bool:
    """Whether it has the last event, or stands at the end without having been sent it."""
    if notes.frames and notes.frames[-1].get("event_id") == last:
        return True
    frames = [frame for frame in notes.control if frame["event"] == "caught_up"]
    return bool(frames) and frames[-1]["current_event_id"] == last


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(steps=STEPS)
async def test_what_was_received_folds_to_the_state(steps: list[Any]) -> None:
    """Whatever is appended and trimmed by two processes, and whoever reads slowly: events follow one another, gaps and
    snapshots stand where some are missing, and in the end everybody has the state."""
    with tempfile.TemporaryDirectory() as folder:
        async with bench(Path(folder), page_events=60) as b:
            await b.append(300)
            async with asyncio.timeout(DEADLINE_S):
                await play(b, steps)
