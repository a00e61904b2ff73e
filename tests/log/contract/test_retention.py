"""Retention: trimming, deleting old traces, sweeping, and the checks that hold all the time."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.log.helpers import (
    Clock,
    Heard,
    Json,
    all_messages,
    bodies,
    check_trimmed,
    claim,
    create,
    delete_outdated,
    end,
    events,
    fill,
    goal,
    notes,
    opened,
    outdated,
    prune,
    say,
    summary,
    sweep,
    swept,
    trim,
)
from tracewatch.errors import TraceConflict, UnknownMessage, UnknownTrace
from tracewatch.log import EventLog
from tracewatch.model.base import make_base
from tracewatch.model.events import validate_header
from tracewatch.model.frames import snapshot_values

pytestmark = pytest.mark.anyio
DAY = 86_400


def updated(message_id: str, **more: Any) -> Json:
    """A ``message_updated``."""
    return {"event": "message_updated", "message_id": message_id, **more}


async def test_what_keep_events_lets_go(log: EventLog) -> None:
    await fill(log)
    whole = await bodies(log)
    for keep, first in ((5000, 1), (1600, 1), (1101, 1), (1100, 501), (600, 1001), (599, 1001), (1, 1501)):
        found = await outdated(log, keep_events=keep)
        if first == (await summary(log))["first_event_id"]:
            assert found == []
            continue
        (going,) = found
        before = await bodies(log)
        assert (going.trace_id, going.upto, going.deleted) == ("t", first - 1, False)
        assert going.events == len(before) - len(whole[first - 1 :])
        assert going.bytes == sum(map(len, before[: going.events]))
        assert await prune(log, keep_events=keep) == [going]
        assert await check_trimmed(log) == first
        assert await bodies(log) == whole[first - 1 :]
    assert await log.append("t", [say("more")])
    await check_trimmed(log)


async def test_what_keep_days_lets_go_of_a_trace_that_goes_on(log: EventLog, clock: Clock) -> None:
    for _ in range(4):
        await (fill if clock.now == 1_790_000_000.0 else _more)(log, count=500)
        clock.now += DAY
    # Events 1-500 are 4 days old, 501-1000 are 3 …
    for days, first in ((5, 1), (4.5, 1), (3.5, 501), (1.5, 1501), (0.5, 2001)):
        await prune(log, keep_days=days)
        assert await check_trimmed(log) == first
    assert await bodies(log) == []
    assert (await log.append("t", notes(1))).first_event_id == 2001
    assert await check_trimmed(log) == 2001


async def _more(log: EventLog, count: int) -> None:
    await log.append("t", notes(count))


async def test_trees_that_are_over_go_whole(log: EventLog, clock: Clock) -> None:
    for root in ("old", "open", "late", "lost"):
        await create(log, root, lease_s=5 if root == "lost" else None)
        await create(log, f"{root}.sub", parent_trace_id=root)
        await log.append(f"{root}.sub", [say(tokens=2), end()])
    for root in ("old", "late"):
        await log.append(root, [end()])
    await create(log, "long")
    await create(log, "long.open", parent_trace_id="long")
    await log.append("long", [end()])
    clock.now += 10
    await log.expire_leases()
    clock.now += 2 * DAY
    await log.append("late", notes(1))
    clock.now += 2 * DAY
    found = await outdated(log, keep_days=3)
    going = {one.trace_id: (one.deleted, one.with_trace) for one in found}
    # Of what goes on, the parts that are over go; its log still tells of them
    assert going == {
        "old": (True, None),
        "old.sub": (True, "old"),
        "lost": (True, None),
        "lost.sub": (True, "lost"),
        "open.sub": (True, None),
        "late.sub": (True, None),
    }
    heard = Heard(log)
    assert {one.trace_id for one in await prune(log, keep_days=3)} == set(going)
    gone = {grown.trace_id for commit in heard.commits for grown in commit if grown.deleted}
    assert gone == set(going)
    for trace_id in going:
        with pytest.raises(UnknownTrace):
            await log.snapshot(trace_id)
    assert (await summary(log, "open"))["tree_totals"]["total_tokens"] == 2
    assert (await log.snapshot("open")).state.sub_traces["open.sub"]["status"] == "completed"
    assert await outdated(log, keep_days=3) == []
    assert [one.trace_id for one in await outdated(log, keep_days=1)] == ["late"]


async def test_what_comes_to_life_in_time_stays(log: EventLog, clock: Clock) -> None:
    await create(log, "t")
    await log.append("t", [end()])
    clock.now += 9 * DAY
    assert [one.trace_id for one in await outdated(log, keep_days=3)] == ["t"]
    await log.append("t", notes(1))
    assert await delete_outdated(log, "t", 3) == []
    await log.snapshot("t")


async def test_trimming_needs_a_snapshot(log: EventLog) -> None:
    await fill(log, count=1100)
    for upto in (0, 1, 499, 501, 1100, 1500):
        assert await trim(log, "t", upto) is False
    assert await trim(log, "t", 500) is True
    assert await trim(log, "t", 500) is False
    with pytest.raises(UnknownTrace):
        await trim(log, "u", 500)
    assert await check_trimmed(log) == 501


async def test_messages_go_with_their_events_unless_they_are_open(log: EventLog, other: EventLog) -> None:
    await create(log)
    await log.append("t", [say("done"), say("tick", message_id="s", status="streaming"), say("r", status="running")])
    await log.append("t", [updated("s", append=" tock")])
    await log.append("t", [say("late"), *notes(600), say("new")])
    await trim(log, "t", 500)
    await swept(log)
    left = await all_messages(log)
    assert [message["content"] for message in left] == ["tick tock", "r", "new"]
    for this in (other, log):  # the one that remembers the message, and the one that has never seen it
        await this.append("t", [{"event": "message_updated", "message_id": "s", "append": "!"}])
        await this.append(
            "t", [{"event": "message_updated", "message_id": "m3", "patch": {"content": "x", "tokens": 7}}]
        )
        with pytest.raises(UnknownMessage):
            await this.append("t", [{"event": "message_updated", "message_id": "m1", "append": "?"}])
    done = {"event": "message_updated", "message_id": "s", "patch": {"status": "complete"}}
    await log.append("t", [done, *notes(500), say("newest")])
    assert [message["content"] for message in await all_messages(log)] == ["tick tock!!", "x", "new", "newest"]
    await trim(log, "t", 1000)
    await swept(log)
    assert [message["content"] for message in await all_messages(log)] == ["x", "newest"]
    assert [message["sequence"] for message in await all_messages(log)] == [3, 6]
    row = await summary(log)
    assert (row["total_messages"], row["total_tokens"]) == (6, 7)
    await check_trimmed(log)


async def test_what_producers_sent_and_was_asked_stays(log: EventLog) -> None:
    await create(log)
    asked = [{"event": "input_requested", "question": name, "request_id": name} for name in ("a", "b")]
    await log.append("t", asked, producer="p", seq=1)
    await log.answer("t", "a", 1)
    await log.append("t", notes(600), producer="p", seq=3)
    await trim(log, "t", 500)
    await swept(log)
    assert (await log.append("t", asked, producer="p", seq=1)).duplicates == 2
    assert [one["state"] for one in await log.inputs_of("t")] == ["answered", "open"]
    await log.answer("t", "b", 2)
    await check_trimmed(log)


async def test_ids_are_not_used_again(url: str, clock: Clock) -> None:
    async with opened(url, clock=clock) as log:
        await fill(log, count=1000)
        clock.now += 9 * DAY
        await prune(log, keep_days=1)
        assert await bodies(log) == []
    async with opened(url, clock=clock) as log:
        assert (await log.append("t", notes(1))).first_event_id == 1001
        await log.append("t", [end()])
        clock.now += 9 * DAY
        await prune(log, keep_days=1)
        await create(log)
        await fill(log, "u")
        assert (await log.append("t", notes(1))).first_event_id == 1003
        assert await check_trimmed(log) == 1003


@pytest.mark.parametrize("forget", [False, True])
async def test_another_process_trims(log: EventLog, other: EventLog, forget: bool) -> None:
    """What a process remembers of a trace may be from before that."""
    await fill(log, count=450)
    if not forget:
        await log.snapshot("t")
    await other.append("t", notes(500))
    assert await trim(other, "t", 500)
    await swept(other)
    assert await check_trimmed(log) == 501
    await other.append("t", notes(100))
    assert await trim(other, "t", 1000)
    await log.append("t", [say("x")])
    assert await check_trimmed(log) == await check_trimmed(other) == 1001


async def test_an_export_of_a_trimmed_trace_is_put_back(log: EventLog, tmp_path: Path) -> None:
    await create(log)
    asked = [{"event": "input_requested", "question": name, "request_id": name} for name in ("a", "b")]
    await log.append(
        "t", [goal(id="g", status="in_progress"), goal(id="h", parent_id="g"), say(tokens=2, cost=0.5), *asked]
    )
    await create(log, "c", parent_trace_id="t")
    await log.append("c", [say(tokens=5), end()])
    await log.append("t", [say("", status="streaming"), *notes(700)])  # a model call that stays in flight
    await log.answer("t", "b", 2)
    await log.append("t", [say(tokens=1), *notes(20)])
    await trim(log, "t", 500)
    await swept(log)
    header, stored = await exported(log)
    async with opened(str(tmp_path / "copy.db")) as copy:
        for begin in range(0, len(stored), 100):
            await copy.restore(header, stored[begin : begin + 100])
        assert await exported(copy) == (header, stored)
        assert await bodies(copy) == await bodies(log)
        assert await summary(copy) == await summary(log)
        assert await check_trimmed(copy) == 501
        assert [one["request_id"] for one in (await copy.inputs(9))[0]] == ["a"]
        await copy.answer("t", "a", 1)
        await copy.append("t", [say("on"), {"event": "goal_updated", "goal_id": "h", "patch": {"status": "completed"}}])
        assert await check_trimmed(copy) == 501
        assert (await summary(copy))["total_messages"] == 3
    await log.delete_trace("t")
    await log.restore(header, stored[:300])
    assert (await log.restore(header, stored[300:])).last_event_id == stored[-1]["event_id"]
    assert await check_trimmed(log) == 501


async def exported(log: EventLog) -> tuple[Json, list[Json]]:
    row = await summary(log)
    base = await log.snapshot("t", row["first_event_id"] - 1)
    answer = snapshot_values(base.state, lease_alive=base.lease_alive)
    header = validate_header({**row, "base": make_base(answer)})
    return orjson.loads(orjson.dumps(header)), await events(log)


async def test_an_older_export_is_not_put_over_a_deleted_trace(log: EventLog) -> None:
    """Its next events would get the ids of those that were deleted."""
    await create(log)
    await log.append("t", notes(5))
    older, stored = validate_header(await summary(log)), await events(log)
    await log.append("t", notes(1))
    newer, all_stored = validate_header(await summary(log)), await events(log)
    await log.delete_trace("t")
    for _ in range(2):  # refused, it must leave the memory of what was deleted
        with pytest.raises(TraceConflict, match="after its event 6"):
            await log.restore(older, stored)
    with pytest.raises(UnknownTrace):
        await log.snapshot("t")
    await log.restore(newer, all_stored)
    assert (await log.append("t", notes(1))).first_event_id == 7


async def test_one_process_at_a_time(log: EventLog, other: EventLog, clock: Clock) -> None:
    assert await claim(log, 60)
    assert not await claim(other, 60)
    clock.now += 50
    assert await claim(log, 60, held=True)
    clock.now += 50
    assert not await claim(other, 60)
    clock.now += 11
    assert await claim(other, 60)
    assert not await claim(log, 60)
    clock.now -= 3600  # the clock is put back: nobody waits an hour
    assert await claim(log, 60)


PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 300)),
        st.tuples(st.just("stream"), st.integers(1, 3)),
        st.tuples(st.just("trim"), st.integers(1, 900)),
        st.tuples(st.just("sweep"), st.integers(1, 4)),
        st.tuples(st.just("other"), st.just(0)),
    ),
    min_size=6,
    max_size=25,
)


@pytest.mark.slow
@pytest.mark.slow
@settings(
    max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
)
@given(steps=STEPS)
async def test_any_mix_of_appends_and_trims(steps: list[Any]) -> None:
    """Whatever is appended, trimmed and swept, by two processes: the ids have no hole and every state can be had."""
    with tempfile.TemporaryDirectory() as folder:
        url = str(Path(folder) / "log.db")
        async with opened(url) as one, opened(url) as two:
            this, that = one, two
            await fill(this, count=900)
            whole = await bodies(this)
            streams = 0
            for name, number in steps:
                if name == "say":
                    await this.append("t", [goal(), say("x", tokens=1), *notes(number)])
                elif name == "stream":
                    await this.append("t", [say("", message_id=f"s{streams}", status="streaming")])
                    for stream in range(max(0, streams - number), streams + 1):
                        await this.append("t", [updated(f"s{stream}", append="a")])
                    streams += 1
                elif name == "trim":
                    for going in await outdated(this, keep_events=number):
                        assert await trim(this, "t", going.upto)
                elif name == "sweep":
                    for _ in range(number):
                        await sweep(this)
                else:
                    this, that = that, this
                first = (await summary(this))["first_event_id"]
                whole = whole[: first - 1] + await bodies(this)
            first = await check_trimmed(this)
            assert await check_trimmed(that) == first
            assert await bodies(that) == whole[first - 1 :]
            open_ones = {m["message_id"]: m["content"] for m in await all_messages(that) if m["status"] != "complete"}
            assert open_ones.keys() == {f"s{n}" for n in range(streams)}
            await swept(that)
            assert {
                m["message_id"]: m["content"] for m in await all_messages(that) if m["message_id"] in open_ones
            } == open_ones


async def open_messages(log: EventLog) -> dict[str, str]:
    return {m["message_id"]: m["content"] for m in await all_messages(log) if m["status"] != "complete"}


async def test_what_was_trimmed_is_known_by_its_name(log: EventLog) -> None:
    await create(log)

    async def add(*names: str) -> None:
        await log.append("t", [{"event": name} for name in names])

    await add("early", *["noise"] * 499)  # 1 to 500
    await add(*["noise"] * 400, "late", *["noise"] * 99)  # to 1000; late is 901
    await add(*["noise"] * 700, "late")  # to 1701
    assert [await log.trimmed("t", {name}) for name in ("early", "late", "noise", "other")] == [0] * 4
    for upto, early, late, noise in ((500, 1, 0, 500), (1000, 1, 901, 1000), (1500, 1, 901, 1500)):
        assert await trim(log, "t", upto)
        found = [await log.trimmed("t", {name}) for name in ("early", "late", "noise", "other")]
        assert found == [early, late, noise, 0]
        assert await log.trimmed("t", {"early", "late"}) == max(early, late)
    with pytest.raises(UnknownTrace):
        await log.trimmed("nobody", {"early"})


async def test_of_what_was_trimmed_before_it_was_noted_nothing_is_claimed(log: EventLog) -> None:
    """A log put back from an export begins with a state; one made again goes on after the ids of the one before."""
    await fill(log)
    assert await trim(log, "t", 1000)
    row, base = await summary(log), make_base(snapshot_values((await log.snapshot("t", 1000)).state, lease_alive=True))
    kept = await events(log)
    await log.delete_trace("t")
    header = {**row, "base": base}
    await log.restore(validate_header(header), kept)
    assert await log.trimmed("t", {"never"}) == 1000
    await log.append("t", notes(900))
    assert await trim(log, "t", 1500)
    assert (await log.trimmed("t", {"never"}), await log.trimmed("t", {"note"})) == (1000, 1500)


async def test_more_names_than_are_noted_are_any(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(log)
    for start in range(0, 1500, 500):
        await log.append("t", [{"event": f"name.{start + n}"} for n in range(500)])
    await log.append("t", notes(10))
    assert await trim(log, "t", 500)
    assert await log.trimmed("t", {"name.7"}) == 8
    assert await trim(log, "t", 1000)
    assert await log.trimmed("t", {"never"}) in (0, 1000)  # an engine may note all of them
