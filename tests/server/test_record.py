"""The record socket: acks in order after the commit, refusals that close nothing, commands, leases, exactly once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.log.helpers import sqlite
from tests.server.wire import Watch, append, end, make_trace, socket, stored, thought, watching
from tests.support import Serving, serving, until
from tracewatch.log import open_log

pytestmark = pytest.mark.anyio


def recording(server: Serving, trace_id: str, **params: Any) -> Any:
    return socket(server, f"/api/traces/{trace_id}/record", **params)


async def reply(watch: Watch, kind: str) -> dict[str, Any]:
    """The next ack or nack, which must be a ``kind``."""
    while True:
        frame = await watch.frame()
        if set(frame) & {"ack", "nack"}:
            assert kind in frame, frame
            value: dict[str, Any] = frame[kind]
            return value


async def numbers(server: Serving, trace_id: str) -> list[int]:
    return [orjson.loads(body)["n"] for body in await stored(server.services.log, trace_id)]


async def test_ready(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "ready")
    await log.append("ready", [thought(0), {"event": "input_requested", "question": "?", "request_id": "q"}])
    await log.append("ready", [{"event": "input_provided", "request_id": "q", "value": 5, "by": "me"}], by_server=True)
    await log.append("ready", [{"event": "cancel_requested", "reason": "r", "by": "me"}], by_server=True)
    await log.append("ready", [thought(1), thought(2)], producer="p", seq=1)
    async with recording(server, "ready") as watch:
        first = (await watch.frame())["ready"]
    assert list(first) == [
        *("trace_id", "epoch", "last_event_id", "producer", "expected_seq", "cancel_requested", "inputs")
    ]
    assert (first["trace_id"], first["epoch"], first["last_event_id"]) == ("ready", log.epoch, 6)
    assert (first["producer"], first["expected_seq"]) == (None, None)
    assert first["cancel_requested"]["reason"] == "r"
    assert [value["request_id"] for value in first["inputs"]] == ["q"]
    async with recording(server, "ready", producer="p") as watch:
        first = (await watch.frame())["ready"]
    assert (first["producer"], first["expected_seq"]) == ("p", 3)


async def test_acks_come_in_order_with_many_in_flight(server: Serving) -> None:
    await make_trace(server.services.log, "flight")
    async with recording(server, "flight", producer="p") as watch:
        seq = 1
        for size in [1, 3, 2] * 100:
            await watch.say({"append": {"seq": seq, "events": [thought(seq + i) for i in range(size)]}})
            seq += size
        acks = [await reply(watch, "ack") for _ in range(300)]
    assert [ack["seq"] for ack in acks][-1] == seq - 1
    assert [ack["seq"] for ack in acks] == [ack["last_event_id"] for ack in acks] == sorted(ack["seq"] for ack in acks)
    assert await numbers(server, "flight") == list(range(1, seq))


async def test_an_append_without_a_number_is_not_deduplicated(server: Serving) -> None:
    await make_trace(server.services.log, "plain")
    async with recording(server, "plain", producer="p") as watch:
        for _ in range(2):
            await watch.say({"append": {"events": [thought(1)]}})
            assert (await reply(watch, "ack"))["seq"] is None
    assert await numbers(server, "plain") == [1, 1]


async def test_a_refused_append_closes_nothing(server: Serving) -> None:
    await make_trace(server.services.log, "refused")
    bad: list[tuple[dict[str, Any], str]] = [
        ({"seq": 2, "events": [thought(2), {"event": "Bad Name"}]}, "invalid_event"),
        ({"seq": 2, "events": [{"event": "cancel_requested", "reason": "x", "by": "y"}]}, "reserved_event"),
        ({"seq": 2, "events": [{"event": "goal_updated", "goal_id": "9", "patch": {}}]}, "unknown_goal"),
        ({"seq": 3, "events": [thought(3)]}, "sequence_gap"),
        ({"seq": 2, "events": []}, "invalid_event"),
        ({"seq": 2, "events": [thought(1)] * 1001}, "too_large"),
        ({"seq": 2, "events": [thought(2, 300_000)]}, "too_large"),
    ]
    async with recording(server, "refused", producer="p") as watch:
        await watch.say({"append": {"seq": 1, "events": [thought(1)]}})
        for append_, _ in bad:
            await watch.say({"append": append_})
        await watch.say({"append": {"seq": 2, "events": [thought(2)]}})
        assert (await reply(watch, "ack"))["seq"] == 1
        for append_, code in bad:
            nack = await reply(watch, "nack")
            assert (nack["seq"], nack["error"]) == (append_["seq"], code), nack
            assert nack["message"]
            if code == "sequence_gap":
                assert nack["expected_seq"] == 2
        assert (await reply(watch, "ack"))["seq"] == 2
    assert await numbers(server, "refused") == [1, 2]


@pytest.mark.parametrize(
    "said",
    [
        {"append": 7},
        {"append": {"events": 7}},
        {"append": {"seq": 1}},
        {"append": {"seq": 1, "events": [{"event": "x"}]}},  # no producer
        {"append": {"seq": 0, "producer": "p", "events": [{"event": "x"}]}},
        {"append": {"seq": True, "producer": "p", "events": [{"event": "x"}]}},
        {"append": {"seq": "1", "producer": "p", "events": [{"event": "x"}]}},
        {"append": {"seq": 1, "producer": "a b", "events": [{"event": "x"}]}},
        {"append": {"producer": "p", "events": [{"event": "x"}]}},
        {"hello": 1},
    ],
    ids=str,
)
async def test_what_is_no_append_closes(server: Serving, said: Any) -> None:
    await make_trace(server.services.log, "closed")
    async with recording(server, "closed") as watch:
        await watch.say(said)
        assert await watch.closed() == 4500
        assert watch.control[-1]["code"] in ("bad_request", "invalid")
    assert await stored(server.services.log, "closed") == []


async def test_a_bad_producer_in_the_address(server: Serving) -> None:
    await make_trace(server.services.log, "closed")
    async with recording(server, "closed", producer="a b") as watch:
        assert await watch.closed() == 4500


async def test_an_ack_that_was_lost(server: Serving) -> None:
    """The recorder sends, leaves before it hears, and sends all of it again: everything is there once."""
    await make_trace(server.services.log, "lost")
    for attempt in range(4):
        async with recording(server, "lost", producer="p") as watch:
            for seq in range(1, 40, 3):
                await watch.say({"append": {"seq": seq, "events": [thought(seq + i) for i in range(3)]}})
            if attempt < 3:
                watch.ws.transport.abort()
                continue
            acks = [await reply(watch, "ack") for _ in range(13)]
            assert acks[-1]["seq"] == 39
            assert (
                sum(ack["duplicates"] for ack in acks) + sum(ack["first_event_id"] is not None for ack in acks) * 3
                >= 39
            )
    assert await numbers(server, "lost") == list(range(1, 40))


async def test_part_of_a_batch_is_there_already(server: Serving) -> None:
    await make_trace(server.services.log, "part")
    async with recording(server, "part", producer="p") as watch:
        await watch.say({"append": {"seq": 1, "events": [thought(1), thought(2)]}})
        await watch.say({"append": {"seq": 2, "events": [thought(2), thought(3)]}})
        await watch.say({"append": {"seq": 1, "events": [thought(1)]}})
        acks = [await reply(watch, "ack") for _ in range(3)]
    assert [(a["first_event_id"], a["last_event_id"], a["duplicates"]) for a in acks] == [
        (1, 2, 0),
        (3, 3, 1),
        (None, 3, 1),
    ]
    assert await numbers(server, "part") == [1, 2, 3]


async def test_commands_come_down_the_same_socket(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "told")
    other = await open_log(str(sqlite(log).path))
    try:
        async with recording(server, "told") as watch:
            await watch.frame()
            for writer, reason in ((log, "here"), (other, "there"), (log, "again")):
                await watch.say({"append": {"events": [thought(1)]}})
                command = {"event": "cancel_requested", "reason": reason, "by": "me"}
                await writer.append("told", [command, {**command, "reason": reason + "!"}], by_server=True)
                await append(writer, "told", 3)
                await watch.until("cancel_requested", reason=reason)
                await watch.until("cancel_requested", reason=reason + "!")
            await log.append("told", [{"event": "input_requested", "question": "?", "request_id": "q"}])
            answer = {"event": "input_provided", "request_id": "q", "value": 1, "by": "me"}
            await other.append("told", [answer], by_server=True)
            await watch.until("input_provided", request_id="q")
        pushed = [
            body for body in await stored(log, "told") if b'"thought"' not in body and b"input_requested" not in body
        ]
        assert watch.events == pushed  # the stored bytes, each once, in order
    finally:
        await other.close()


async def test_an_open_socket_keeps_the_lease(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", ws_ping_s=0.2) as server:
        log = server.services.log
        for name in ("kept", "left"):
            await make_trace(log, name, lease_s=1)
        async with recording(server, "kept") as watch:
            async with watching(server, "left") as other:
                await other.until("trace_status_changed", status="lost")
            assert (await log.snapshot("kept")).state.status == "running"
            await watch.say({"heartbeat": {}})
            await watch.say({"append": {"events": [thought(1)]}})
            await reply(watch, "ack")
        async with recording(server, "left") as watch:
            await watch.say({"append": {"events": [thought(1)]}})
            await reply(watch, "ack")
            assert (await log.snapshot("left")).state.status == "running"  # an append brings it back


async def test_two_recorders_on_one_trace(server: Serving) -> None:
    await make_trace(server.services.log, "two")

    async def recorder(name: str) -> None:
        async with recording(server, "two", producer=name) as watch:
            for seq in range(1, 101):
                await watch.say({"append": {"seq": seq, "events": [{**thought(seq), "by": name}]}})
            for _ in range(100):
                await reply(watch, "ack")

    await asyncio.gather(recorder("a"), recorder("b"))
    events = [orjson.loads(body) for body in await stored(server.services.log, "two")]
    assert [event["event_id"] for event in events] == list(range(1, 201))
    for name in "ab":
        assert [event["n"] for event in events if event["by"] == name] == list(range(1, 101))


async def test_a_hundred_recorders_at_once(server: Serving) -> None:
    log = server.services.log
    names = [f"hundred-{n}" for n in range(100)]
    await asyncio.gather(*(make_trace(log, name) for name in names))

    async def recorder(name: str) -> None:
        async with recording(server, name, producer="p") as watch:
            for seq in (1, 6):
                await watch.say({"append": {"seq": seq, "events": [thought(seq + i) for i in range(5)]}})
            assert [(await reply(watch, "ack"))["last_event_id"] for _ in range(2)] == [5, 10]

    await asyncio.gather(*(recorder(name) for name in names))
    for name in names:
        assert await numbers(server, name) == list(range(1, 11))


async def test_a_recorder_that_leaves_in_the_middle_is_let_go(server: Serving) -> None:
    """More appends than may be in flight, and nobody who reads the acks any more."""
    log = server.services.log
    await make_trace(log, "torn")
    before = len(asyncio.all_tasks())
    for _ in range(5):
        async with recording(server, "torn") as watch:
            for n in range(200):
                await watch.say({"append": {"events": [thought(n)]}})
            watch.ws.transport.abort()
    await until(lambda: len(asyncio.all_tasks()) <= before)
    await end(log, "torn")
