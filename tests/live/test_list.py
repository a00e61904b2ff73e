"""The live list: a change is read once for all its watchers, and each watcher gets it once and in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.live.harness import Bench, Notes, bench
from tests.log.helpers import notes as events
from tests.support import until
from tracewatch.errors import Unavailable
from tracewatch.live import list as lists
from tracewatch.log import Grown, TraceQuery
from tracewatch.model.events import validate_trace

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "INTERVAL_S", 0.001)
    monkeypatch.setattr(lists, "RETRY_S", 0.001)


async def make(b: Bench, trace_id: str, **spec: Any) -> None:
    await b.log.create_trace(validate_trace({"trace_id": trace_id, "task": "x", **spec}))


def of(frame: dict[str, Any]) -> str:
    """The trace that a change is about."""
    return str(frame["trace"]["trace_id"] if frame["event"] == "trace_changed" else frame["trace_id"])


def told(notes: Notes, trace_id: str) -> list[Any]:
    """What a client was told of a trace after the first frame: its last_event_id, or that it was deleted."""
    found: list[Any] = []
    for frame in notes.control[1:]:
        if of(frame) == trace_id:
            found.append(frame["trace"]["last_event_id"] if frame["event"] == "trace_changed" else "deleted")
    return found


def view(notes: Notes) -> dict[str, Any]:
    """What a client shows."""
    traces = {trace["trace_id"]: trace for trace in notes.control[0]["traces"]}
    for frame in notes.control[1:]:
        if frame["event"] == "trace_deleted":
            traces.pop(frame["trace_id"], None)
        else:
            traces[frame["trace"]["trace_id"]] = frame["trace"]
    return traces


async def shows(b: Bench, notes: Notes, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> None:
    """Wait until a client shows what the log holds of what it wants to see."""
    async with asyncio.timeout(20):
        while True:
            there = {one["trace_id"]: one for one in (await b.log.traces(TraceQuery(limit=1000)))[0]}
            if notes.control and {k: v for k, v in view(notes).items() if wanted(v)} == {
                k: v for k, v in there.items() if wanted(v)
            }:
                return
            await asyncio.sleep(0.001)


async def begun(*watchers: Notes) -> None:
    await until(lambda: all(notes.names() for notes in watchers))


@pytest.mark.parametrize("direct", [True, False], ids=["websocket", "asgi"])
async def test_one_read_and_one_encoding_for_all(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        watchers = [b.watch_list(direct=direct) for _ in range(30)]
        await begun(*watchers)
        assert b.gated.reads["traces"] <= 2, "those who come at once share one read"
        sent: list[bytes] = []
        for notes in watchers:
            note = notes._note
            notes._note = lambda payload, note=note: (sent.append(payload), note(payload))  # type: ignore
        await b.append(1)
        await until(lambda: all(told(notes, "t") == [1] for notes in watchers))
        assert b.gated.reads["summaries"] == 1
        assert len({id(payload) for payload in sent}) == 1, "the very same bytes"


async def test_what_is_read_later_is_newer(tmp_path: Path) -> None:
    """A watcher that comes while a change is being read, in each order that this may have."""
    async with bench(tmp_path) as b:
        first = b.watch_list()
        await begun(first)
        b.gated.summaries_gate.shut()
        await b.append(1)
        await b.gated.summaries_gate.held()  # the head has read the first event, and has told nobody
        late = b.watch_list()
        await b.append(1)
        b.gated.summaries_gate.open()
        await until(lambda: told(first, "t")[-1:] == [2])
        await begun(late)
        assert late.control[0]["traces"][0]["last_event_id"] == 2
        assert told(late, "t") == [], "it has seen that already"

        b.gated.traces_gate.shut()
        later = b.watch_list()
        await b.gated.traces_gate.held()  # its list is read, and not yet sent
        await b.append(1)
        b.gated.traces_gate.open()
        await until(lambda: told(later, "t") == [3])
        assert later.control[0]["traces"][0]["last_event_id"] == 2
        assert told(late, "t") == [3]


async def test_a_slow_reader_is_told_the_last_state_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "RING_BYTES", 2000)  # three traces
    async with bench(tmp_path) as b:
        slow, other = b.watch_list(), b.watch_list()
        await begun(slow, other)
        slow.room.clear()
        for n in range(20):
            await make(b, f"t{n}")
        for n in range(20):
            await b.log.append(f"t{n}", events(3))
        await b.log.delete_trace("t7")
        await b.log.delete_trace("t19")
        await shows(b, other)
        slow.room.set()
        await shows(b, slow)
        assert len(told(slow, "t3")) <= 2  # one was on its way, the other waited for it
        assert b.hub._list._ring_bytes <= 2000
        assert b.hub.budget.used == b.hub._list._ring_bytes
    assert b.hub.budget.used == 0


async def test_many_at_once_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "TRACES_AT_ONCE", 3)
    monkeypatch.setattr(lists, "WATCHERS_AT_ONCE", 2)
    async with bench(tmp_path) as b:
        watchers = [b.watch_list(direct=n % 2 == 0) for n in range(5)]
        await begun(*watchers)
        await asyncio.gather(*(make(b, f"t{n}") for n in range(20)))
        await b.append(1)
        for notes in watchers:
            await shows(b, notes)


async def test_a_deletion_is_only_believed_where_the_log_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        notes = b.watch_list()
        await begun(notes)
        b.gated.tell([Grown("t", 0, "deleted", deleted=True)])  # of one that was there before, told late
        await b.append(1)
        await until(lambda: told(notes, "t") == [1])
        await b.log.delete_trace("t")
        await until(lambda: told(notes, "t") == [1, "deleted"])
        await make(b, "t")
        await until(lambda: told(notes, "t")[:2] == [1, "deleted"] and len(told(notes, "t")) == 3)


async def test_a_token_of_one_trace_sees_it_and_all_below(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await make(b, "mine")
        await make(b, "mine-a", parent_trace_id="mine")
        only = [b.watch_list(below="mine"), b.watch_list(below="mine", status=("running",)), b.watch_list(below="gone")]
        all_of_it = b.watch_list()
        await begun(*only, all_of_it)
        await make(b, "mine-a-a", parent_trace_id="mine-a")
        await make(b, "theirs")
        await make(b, "theirs-a", parent_trace_id="theirs")
        await b.log.append("mine-a-a", events(2))
        await b.log.append("theirs-a", events(2))
        await b.log.delete_trace("theirs-a")
        await b.log.append("mine", events(1))
        await shows(b, all_of_it)
        for notes in only[:2]:
            await shows(b, notes, lambda trace: trace["root_trace_id"] == "mine")
            assert set(view(notes)) == {"mine", "mine-a", "mine-a-a"}
        assert only[2].names() == ["traces"]
        # As many reads as there are steps up, whatever number of tokens
        before = b.gated.reads["summaries"]
        await b.log.append("mine-a-a", events(1))
        await until(lambda: all(told(notes, "mine-a-a")[-1:] == [3] for notes in only[:2]))
        assert b.gated.reads["summaries"] <= before + 3


@pytest.mark.parametrize("direct", [True, False], ids=["websocket", "asgi"])
async def test_a_filter_is_told_of_what_passes_it(tmp_path: Path, direct: bool) -> None:
    async with bench(tmp_path) as b:
        await make(b, "a", tags=["x", "y"], session_id="s", user_id="ann")
        queries: dict[str, dict[str, Any]] = {
            "tag": {"tags": ("x", "y")},
            "session": {"session_id": "s", "order": "activity"},
            "user": {"user_id": "bob"},
            "model": {"model": "m"},
            "error": {"error": "timeout"},
            "agent": {"agent_type": "coder", "status": ("running",)},
            "parent": {"parent_trace_id": "a"},
            "root": {"root_trace_id": "a"},
        }
        seen = {name: b.watch_list(direct=direct, **query) for name, query in queries.items()}
        everything = b.watch_list(direct=direct)
        await begun(*seen.values(), everything)
        await make(b, "b", tags=["y"], session_id="s", user_id="bob")
        await make(b, "c", tags=["y"], agent_type="coder", parent_trace_id="a")
        await b.log.append("c", [{"event": "trace_updated", "tags": ["y", "x"]}])
        await b.log.append("b", [{"event": "message_added", "message": {"role": "user", "content": "", "model": "m"}}])
        error = {"type": "Timeout", "message": "too late"}
        await b.log.append("b", [{"event": "trace_completed", "status": "failed", "error": error}])
        # An imported run of last year comes last, and is told as any other
        await make(b, "old", session_id="s", started_at="2025-01-01T00:00:00Z")
        await shows(b, everything)
        expected = {"tag": "ac", "session": ["a", "b", "old"], "user": "b", "model": "b", "error": "b", "agent": "c"}
        for name, ids in {**expected, "parent": "c", "root": "ac"}.items():
            await shows(b, seen[name], lambda trace, ids=ids: trace["trace_id"] in ids)  # type: ignore[misc]
            assert sorted(view(seen[name])) == list(ids), name
        late = b.watch_list(direct=direct)
        await begun(late)
        assert [trace["trace_id"] for trace in late.control[0]["traces"]] == ["c", "b", "a", "t", "old"]


async def test_a_log_that_cannot_be_read_costs_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path) as b:
        failures = 0
        reads = {"traces": b.gated.traces, "summaries": b.gated.summaries}

        def failing(name: str) -> Any:
            async def read(*args: Any) -> Any:
                nonlocal failures
                failures += 1
                if failures % 3:
                    raise Unavailable("the log can't be read: disk I/O error", reason="io_error")
                return await reads[name](*args)

            return read

        for name in reads:
            monkeypatch.setattr(b.gated, name, failing(name))
        notes = b.watch_list()
        await begun(notes)
        for n in range(5):
            await make(b, f"t{n}")
            await b.log.append(f"t{n}", events(1))
        await b.log.delete_trace("t2")
        await shows(b, notes)
        assert failures > 6


async def test_a_defect_is_loud_and_the_next_one_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path) as b:
        broken = [b.watch_list(), b.watch_list()]
        await begun(*broken)
        monkeypatch.setattr(b.gated, "summaries", lambda *_: 1 / 0)
        await b.append(1)
        failed, b.tasks = b.tasks, []
        for outcome in await asyncio.gather(*failed, return_exceptions=True):
            assert isinstance(outcome, ZeroDivisionError)
        monkeypatch.undo()
        notes = b.watch_list()
        await begun(notes)
        await b.append(1)
        await until(lambda: told(notes, "t")[-1:] == [2])


async def test_whoever_leaves_leaves_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        listed = b.hub._list
        for _ in range(3):
            notes = b.watch_list()
            await begun(notes)
            assert listed.watched
            await b.append(1)
            await until(lambda: len(told(notes, "t")) == 1)  # noqa: B023
            b.tasks[-1].cancel()
            await asyncio.gather(b.tasks.pop(), return_exceptions=True)
            assert not listed.watched
            await b.append(1)
            assert (listed._grown, listed._ring_bytes, b.hub.budget.used) == ({}, 0, 0)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_everybody_shows_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Traces come, grow, end and go by two processes; watchers come at any time, some are slow."""
    monkeypatch.setattr(lists, "RING_BYTES", 3000)
    monkeypatch.setattr(lists, "TRACES_AT_ONCE", 4)
    dice = random.Random(seed)
    async with bench(tmp_path) as b:
        kinds: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
            ({}, lambda _: True),
            ({"status": ("running",)}, lambda trace: trace["status"] == "running"),
            ({"q": "AB"}, lambda trace: "ab" in trace["trace_id"]),
            ({"below": "t"}, lambda trace: trace["root_trace_id"] == "t"),
        ]
        names = [f"{kind}{n}" for kind in ("ab", "cd") for n in range(4)]
        watchers: list[tuple[Notes, Callable[[dict[str, Any]], bool]]] = []
        seen: tuple[list[Grown], int] = await b.other.changes(2**62)
        for step in range(120):
            log = dice.choice((b.log, b.other))
            there = {one["trace_id"]: one for one in (await log.traces(TraceQuery(limit=100)))[0]}
            name = dice.choice(names)
            roll = dice.random()
            if name not in there:
                parent = {"parent_trace_id": "t"} if int(name[-1]) % 2 else {}
                await log.create_trace(validate_trace({"trace_id": name, "task": "x", **parent}))
            elif roll < 0.1:
                await log.delete_trace(name)
            elif there[name]["status"] == "running":
                what = (
                    [{"event": "trace_completed", "status": "failed"}] if roll < 0.2 else events(dice.randrange(1, 4))
                )
                await log.append(name, what)
            if step % 10 == 0:
                query, wanted = dice.choice(kinds)
                watchers.append((b.watch_list(direct=dice.random() < 0.5, **query), wanted))
            for notes, _ in watchers:
                (notes.room.clear if dice.random() < 0.2 else notes.room.set)()
            if step % 4 == 0:  # the poll
                seen = await b.log.changes(seen[1])
                b.gated.tell(seen[0])
            if dice.random() < 0.3:
                await asyncio.sleep(0.002)
        b.gated.tell((await b.log.changes(seen[1]))[0])
        for notes, wanted in watchers:
            notes.room.set()
            await shows(b, notes, wanted)
            for name in names:  # nothing is told twice
                frames = [orjson.dumps(one) for one in notes.control[1:] if of(one) == name]
                assert all(one != other for one, other in pairwise(frames))
