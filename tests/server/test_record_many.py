"""``/api/record``, a socket for many traces: each message names its trace, and no trace disturbs another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.server.tokens import two_runs
from tests.server.wire import Watch, append, http, make_trace, socket, stored, thought, watching
from tests.support import Serving, serving, until

pytestmark = pytest.mark.anyio


def recording(server: Serving, token: str | None = None) -> Any:
    return socket(server, "/api/record", token)


async def frame(watch: Watch, kind: str, trace_id: str | None = None) -> dict[str, Any]:
    """The next frame but commands, which must be a ``kind``, of this trace."""
    while True:
        value = await watch.frame()
        if "event_id" in value:
            continue
        assert kind in value, value
        found: dict[str, Any] = value[kind]
        assert trace_id is None or found["trace_id"] == trace_id, value
        return found


async def opened(watch: Watch, trace_id: str, producer: str | None = "p") -> dict[str, Any]:
    await watch.say({"open": {"trace_id": trace_id, "producer": producer}})
    return await frame(watch, "ready", trace_id)


async def numbers(server: Serving, trace_id: str) -> list[int]:
    return [orjson.loads(body)["n"] for body in await stored(server.services.log, trace_id)]


def batch(trace_id: str, seq: int, count: int = 1) -> dict[str, Any]:
    return {"append": {"trace_id": trace_id, "seq": seq, "events": [thought(seq + n) for n in range(count)]}}


# --- create, open, append, close -------------------------------------------------------------------------------


async def test_a_trace_is_created_opened_recorded_and_closed(server: Serving) -> None:
    fields = {"trace_id": "whole", "task": "test", "metadata": {"a": 1}}
    async with recording(server) as watch, http(server) as client:
        await watch.say({"create": fields})
        created = await frame(watch, "created")
        assert created == (await client.post("/api/traces", json=fields)).json()
        ready = await opened(watch, "whole")
        async with socket(server, "/api/traces/whole/record", producer="p") as alone:
            assert (await alone.frame())["ready"] == ready  # what the socket of one trace says
        await watch.say(batch("whole", 1, 3))
        ack = await frame(watch, "ack")
        assert ack == {"trace_id": "whole", "seq": 3, "first_event_id": 1, "last_event_id": 3, "duplicates": 0}
        await watch.say({"close": {"trace_id": "whole"}})
        assert await frame(watch, "closed") == {"trace_id": "whole"}
        assert (await opened(watch, "whole"))["expected_seq"] == 4
    assert await numbers(server, "whole") == [1, 2, 3]


async def test_all_of_it_can_be_said_at_once_and_is_done_in_its_order(server: Serving) -> None:
    """Nobody has to wait for ``created``, ``ready`` or ``closed``; and other traces do not wait for these."""
    async with recording(server) as watch:
        for name in ("at", "once"):
            await watch.say({"create": {"trace_id": name, "task": "test"}})
            await watch.say({"open": {"trace_id": name, "producer": "p"}})
            await watch.say(batch(name, 1, 2))
            await watch.say({"close": {"trace_id": name}})
            await watch.say({"open": {"trace_id": name, "producer": "q"}})
            await watch.say(batch(name, 1))
        said: dict[str, list[str]] = {"at": [], "once": []}
        while sum(map(len, said.values())) < 12:
            value = await watch.frame()
            ((kind, found),) = value.items()
            said[found["trace_id"]].append(kind)
    assert said["at"] == said["once"] == ["created", "ready", "ack", "closed", "ready", "ack"]
    assert await numbers(server, "at") == await numbers(server, "once") == [1, 2, 1]


async def test_acks_come_in_the_order_of_their_trace_with_many_in_flight(server: Serving) -> None:
    names = [f"order-{n}" for n in range(20)]
    await asyncio.gather(*(make_trace(server.services.log, name) for name in names))
    async with recording(server) as watch:
        for name in names:
            await opened(watch, name)
        seqs = dict.fromkeys(names, 1)
        for size in [1, 3, 2] * 10:
            for name in names:
                await watch.say(batch(name, seqs[name], size))
                seqs[name] += size
        acks: dict[str, list[int]] = {name: [] for name in names}
        for _ in range(30 * len(names)):
            ack = await frame(watch, "ack")
            acks[ack["trace_id"]].append(ack["seq"])
    for name in names:
        assert acks[name] == sorted(acks[name])
        assert acks[name][-1] == seqs[name] - 1
        assert await numbers(server, name) == list(range(1, seqs[name]))


async def test_appends_without_a_number_are_not_deduplicated(server: Serving) -> None:
    await make_trace(server.services.log, "plain")
    async with recording(server) as watch:
        await opened(watch, "plain", None)
        for _ in range(2):
            await watch.say({"append": {"trace_id": "plain", "events": [thought(1)]}})
            assert (await frame(watch, "ack"))["seq"] is None
        await watch.say({"append": {"trace_id": "plain", "producer": "q", "seq": 1, "events": [thought(2)]}})
        await watch.say(batch("plain", 2))  # of q as well: it holds for the trace from then on
        assert [(await frame(watch, "ack"))["seq"] for _ in range(2)] == [1, 2]
    assert await numbers(server, "plain") == [1, 1, 2, 2]


# --- refusals --------------------------------------------------------------------------------------------------


async def test_a_refusal_is_its_own_traces(server: Serving) -> None:
    await make_trace(server.services.log, "good")
    refused: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"open": {"trace_id": "absent"}}, {"of": "open", "status": 404, "error": "unknown_trace"}),
        ({"open": {"trace_id": "x" * 200}}, {"of": "open", "status": 404, "error": "unknown_trace"}),
        ({"open": {"trace_id": "good2", "producer": "a b"}}, {"of": "open", "status": 422, "error": "invalid"}),
        ({"open": {"trace_id": "good"}}, {"of": "open", "status": 409, "error": "already_open"}),
        ({"close": {"trace_id": "absent"}}, {"of": "close", "status": 409, "error": "not_open"}),
        ({"create": {"trace_id": "a b", "task": "x"}}, {"of": "create", "status": 422, "error": "invalid"}),
        ({"create": {"trace_id": "n", "task": ""}}, {"of": "create", "status": 422, "error": "invalid"}),
        ({"create": {"trace_id": "n", "nonsense": 1}}, {"of": "create", "status": 422, "error": "invalid"}),
        ({"create": {"trace_id": "good", "task": "other"}}, {"of": "create", "status": 409, "error": "trace_conflict"}),
        (
            {"create": {"trace_id": "n", "task": "x", "parent_trace_id": "absent"}},
            {"of": "create", "status": 404, "error": "unknown_parent"},
        ),
        (
            {"create": {"trace_id": "n", "task": "x", "metadata": {"m": "x" * 300_000}}},
            {"of": "create", "status": 413, "error": "too_large"},
        ),
        (batch("absent", 7), {"seq": 7, "error": "not_open"}),
        (batch("good", 7), {"seq": 7, "error": "sequence_gap", "expected_seq": 1}),
        ({"append": {"trace_id": "good", "seq": 1, "events": []}}, {"seq": 1, "error": "invalid_event"}),
        ({"append": {"trace_id": "good", "seq": 1, "events": 7}}, {"seq": 1, "error": "bad_request"}),
        ({"append": {"trace_id": "good", "seq": "1", "events": [thought(1)]}}, {"seq": None, "error": "invalid"}),
        ({"append": {"trace_id": "good", "seq": 0, "events": [thought(1)]}}, {"seq": 0, "error": "invalid"}),
    ]
    async with recording(server) as watch:
        await opened(watch, "good")
        for said, expected in refused:
            await watch.say(said)
            nack = await frame(watch, "nack")
            assert nack["trace_id"] == next(iter(said.values()))["trace_id"]
            assert nack["message"]
            assert expected.items() <= nack.items(), nack
        await watch.say(batch("good", 1))
        assert (await frame(watch, "ack", "good"))["seq"] == 1
    assert await numbers(server, "good") == [1]


async def test_appends_behind_an_open_that_fails_are_refused_behind_it(server: Serving) -> None:
    await make_trace(server.services.log, "beside")
    async with recording(server) as watch:
        await opened(watch, "beside")
        await watch.say({"open": {"trace_id": "absent", "producer": "p"}})
        await watch.say(batch("absent", 1))
        await watch.say(batch("absent", 2))
        await watch.say(batch("beside", 1))
        answers = [await watch.frame() for _ in range(4)]
    assert [a["nack"]["error"] for a in answers if "nack" in a] == ["unknown_trace", "not_open", "not_open"]
    assert sum("ack" in a for a in answers) == 1


@pytest.mark.parametrize(
    "said",
    [
        *("[]", "7", "{", "{}", '{"hello":{"trace_id":"t"}}', '{"create":{"task":"no id"}}'),
        *('{"append":7}', '{"append":{"seq":1,"events":[]}}', '{"open":{}}', '{"open":{"trace_id":7}}'),
        *('{"close":[]}', '{"heartbeat":{"trace_id":7}}', '{"heartbeat":7}'),
    ],
)
async def test_what_belongs_to_no_trace_closes(server: Serving, said: str) -> None:
    async with recording(server) as watch:
        await watch.ws.send(said)
        assert await watch.closed() == 4500
        assert watch.control[-1]["event"] == "error"


async def test_a_deleted_trace_is_refused_and_the_others_go_on(server: Serving) -> None:
    log = server.services.log
    for name in ("deleted", "stays"):
        await make_trace(log, name)
    async with recording(server) as watch:
        for name in ("deleted", "stays"):
            await opened(watch, name)
        await log.delete_trace("deleted")
        await watch.say(batch("deleted", 1))
        assert (await frame(watch, "nack", "deleted"))["error"] == "unknown_trace"
        await watch.say({"heartbeat": {}})
        await watch.say({"heartbeat": {"trace_id": "deleted"}})
        await watch.say(batch("stays", 1))
        await frame(watch, "ack", "stays")
        await watch.say({"close": {"trace_id": "deleted"}})
        await frame(watch, "closed", "deleted")
        await watch.say({"create": {"trace_id": "deleted", "task": "again"}})
        await frame(watch, "created", "deleted")
        assert (await opened(watch, "deleted"))["expected_seq"] == 1


# --- commands, leases, goaway -----------------------------------------------------------------------------------


async def test_commands_name_their_trace(server: Serving) -> None:
    log = server.services.log
    for name in ("told", "other"):
        await make_trace(log, name)
    async with recording(server) as watch, http(server) as client:
        for name in ("told", "other"):
            await opened(watch, name)
        assert (await client.post("/api/traces/told/cancel", json={"reason": "r"})).status_code == 202
        await watch.until("cancel_requested", trace_id="told", reason="r")
        asked = {"event": "input_requested", "question": "?", "request_id": "q"}
        await watch.say({"append": {"trace_id": "other", "seq": 1, "events": [asked]}})
        await frame(watch, "ack", "other")
        assert (await client.post("/api/traces/other/inputs/q", json={"value": 1})).status_code == 200
        await watch.until("input_provided", trace_id="other", request_id="q")
        await watch.say({"close": {"trace_id": "told"}})
        await frame(watch, "closed", "told")
        await log.append("told", [{"event": "cancel_requested", "reason": "late", "by": None}], by_server=True)
        await watch.say(batch("other", 2))
        await frame(watch, "ack", "other")
        assert [orjson.loads(body)["event"] for body in watch.events] == ["cancel_requested", "input_provided"]
        assert (await opened(watch, "told"))["cancel_requested"]["reason"] == "late"


async def test_a_command_between_the_snapshot_and_ready_is_told_once_at_least(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "between")
    async with recording(server) as watch:
        for n in range(20):
            await watch.say({"open": {"trace_id": "between", "producer": "p"}})
            command = {"event": "cancel_requested", "reason": str(n), "by": "me"}
            await log.append("between", [command], by_server=True)
            ready = await frame(watch, "ready")
            if ready["cancel_requested"] is None or ready["cancel_requested"]["reason"] != str(n):
                await watch.until("cancel_requested", reason=str(n))
            await watch.say({"close": {"trace_id": "between"}})
            await frame(watch, "closed")


async def test_an_open_socket_keeps_the_leases_of_what_is_open(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", ws_ping_s=0.2) as server:
        log = server.services.log
        kept = [f"kept-{n}" for n in range(5)]
        for name in (*kept, "closed"):
            await make_trace(log, name, lease_s=1)
        async with recording(server) as watch:
            for name in (*kept, "closed"):
                await opened(watch, name)
            await watch.say({"close": {"trace_id": "closed"}})
            await frame(watch, "closed")
            async with watching(server, "closed") as other:
                await other.until("trace_status_changed", status="lost")
            assert {(await log.snapshot(name)).state.status for name in kept} == {"running"}
            await watch.say({"heartbeat": {}})
            await opened(watch, "closed")
            assert (await log.snapshot("closed")).state.status == "running"


async def test_a_server_that_leaves_says_so_once_and_answers_what_is_in_flight(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        names = [f"leaves-{n}" for n in range(5)]
        for name in names:
            await make_trace(server.services.log, name)
        async with recording(server) as watch:
            for name in names:
                await opened(watch, name)
            for name in names:
                await watch.say(batch(name, 1))
            leaving = asyncio.create_task(server.services.hub.goaway(500, 1.0))
            assert await watch.closed() == 1012
            await leaving
        assert [one for one in watch.control if "goaway" in one] == [{"goaway": {"after_ms": 500}}]
        for name in names:  # what was taken in before was answered as well
            acked = [one["ack"]["seq"] for one in watch.control if one.get("ack", {}).get("trace_id") == name]
            assert acked == await numbers(server, name)


# --- many, and busy ones ----------------------------------------------------------------------------------------


async def test_a_busy_trace_does_not_starve_another(server: Serving) -> None:
    """Messages are taken as they come; the answer of a small one does not wait for all that follows it."""
    log = server.services.log
    for name in ("busy", "calm"):
        await make_trace(log, name)
    async with recording(server) as watch:
        for name in ("busy", "calm"):
            await opened(watch, name)
        for n in range(300):
            await watch.say(batch("busy", 1 + n * 20, 20))
            if n == 20:
                await watch.say(batch("calm", 1))
        busy_before = 0
        while (await frame(watch, "ack"))["trace_id"] == "busy":
            busy_before += 1
        assert busy_before < 300
        for _ in range(300 - busy_before):
            await frame(watch, "ack", "busy")


async def test_a_recorder_that_leaves_in_the_middle_is_let_go(server: Serving) -> None:
    names = [f"torn-{n}" for n in range(10)]
    for name in names:
        await make_trace(server.services.log, name)
    before = len(asyncio.all_tasks())
    for _ in range(3):
        async with recording(server) as watch:
            for name in names:
                await watch.say({"open": {"trace_id": name}})
                for n in range(30):
                    await watch.say({"append": {"trace_id": name, "events": [thought(n)]}})
            watch.ws.transport.abort()
    await until(lambda: len(asyncio.all_tasks()) <= before)
    assert server.services.observed.open["recording"] == server.services.observed.open["record_many"] == 0
    await append(server.services.log, "torn-0", 1)  # nobody listens any more, and nothing is the matter with that


async def test_what_is_open_is_counted(server: Serving) -> None:
    for name in ("c1", "c2"):
        await make_trace(server.services.log, name)
    async with recording(server) as watch:
        for name in ("c1", "c2"):
            await opened(watch, name)
        count = server.services.observed.open
        assert (count["record_many"], count["recording"]) == (1, 2)
        await watch.say({"close": {"trace_id": "c1"}})
        await frame(watch, "closed")
        assert (count["record_many"], count["recording"]) == (1, 1)


# --- tokens -----------------------------------------------------------------------------------------------------


async def test_tokens(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        log = server.services.log
        await two_runs(log, "mine", "theirs")
        one = await log.tokens.create(["write"], trace_id="mine")
        reader = await log.tokens.create(["read"])
        async with recording(server) as watch:
            assert await watch.closed() == 4501
        async with recording(server, reader) as watch:
            assert await watch.closed() == 4503
        async with recording(server, one) as watch:
            for name in ("mine", "mine.sub"):
                await opened(watch, name)
            for name in ("theirs", "theirs.sub", "absent"):
                await watch.say({"open": {"trace_id": name, "producer": "p"}})
                nack = await frame(watch, "nack", name)
                assert (nack["status"], nack["error"]) == (404, "unknown_trace")
                assert nack["message"].replace(name, "x") == "there is no trace 'x'"
                await watch.say(batch(name, 1))
                assert (await frame(watch, "nack", name))["error"] == "not_open"
            for spec, error in (
                ({"trace_id": "new"}, "forbidden"),
                ({"trace_id": "new", "parent_trace_id": "theirs"}, "unknown_parent"),
                ({"trace_id": "theirs", "parent_trace_id": "mine"}, "trace_conflict"),
            ):
                await watch.say({"create": {**spec, "task": "x"}})
                assert (await frame(watch, "nack", spec["trace_id"]))["error"] == error
            await watch.say({"create": {"trace_id": "new", "task": "x", "parent_trace_id": "mine"}})
            await frame(watch, "created", "new")
            await watch.say(batch("mine", 1))
            await frame(watch, "ack", "mine")


async def test_a_token_that_ends_closes_the_socket(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", token_check_s=0.05) as server:
        log = server.services.log
        await make_trace(log, "t")
        token = await log.tokens.create(["write"])
        async with recording(server, token) as watch:
            await opened(watch, "t")
            await log.tokens.revoke(token.split("_")[1])
            assert await watch.closed() == 4501
