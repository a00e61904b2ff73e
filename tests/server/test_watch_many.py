"""``WS /api/watch``: many subscriptions on one socket, whole trees of traces, and the live list."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.log.helpers import sqlite
from tests.server.wire import Watch, append, end, http, make_trace, socket, stored, thought
from tests.support import DEADLINE_S, Serving, serving, until
from tracewatch.live import subtree
from tracewatch.log import TraceQuery, open_log

pytestmark = pytest.mark.anyio


def by_trace(watch: Watch) -> dict[str, list[bytes]]:
    """The events received, by trace, in the order they came."""
    found: dict[str, list[bytes]] = defaultdict(list)
    for body in watch.events:
        found[orjson.loads(body)["trace_id"]].append(body)
    return found


async def until_stored(watch: Watch, server: Serving, *trace_ids: str) -> None:
    """Read on until each trace's events are exactly its log."""
    wanted = {trace_id: await stored(server.services.log, trace_id) for trace_id in trace_ids}
    async with asyncio.timeout(DEADLINE_S):
        while any(len(by_trace(watch)[t]) < len(wanted[t]) for t in trace_ids):
            await watch.frame()
    assert {t: by_trace(watch)[t] for t in trace_ids} == wanted


async def test_many_traces_on_one_socket(server: Serving) -> None:
    log = server.services.log
    names = [f"many-{n}" for n in range(20)]
    for n, name in enumerate(names):
        await make_trace(log, name)
        await append(log, name, n)
    async with socket(server, "/api/watch") as watch:
        for name in names:
            await watch.say({"subscribe": {"trace_id": name, "since_event_id": 0}})
        for _ in range(5):
            await asyncio.gather(*(append(log, name, 7) for name in names))
        await until_stored(watch, server, *names)
        assert all(frame["trace_id"] in names for frame in watch.control)
        assert watch.names().count("connected") == 20


async def test_parameters_of_a_subscription(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "params")
    await append(log, "params", 3)
    await append(log, "params", 2, name="other")
    async with socket(server, "/api/watch") as watch:
        await watch.say(
            {"subscribe": {"trace_id": "params", "types": ["other"], "until": "end", "since_event_id": "-5"}}
        )
        await watch.say({"subscribe": {"trace_id": "to-be", "wait": 1, "types": "thought,other"}})
        await watch.until("caught_up", trace_id="params")
        assert [orjson.loads(body)["event"] for body in watch.events] == ["other", "other"]
        await make_trace(log, "to-be")
        await watch.until("connected", trace_id="to-be")
        await end(log, "params")
        assert (await watch.until("end"))["trace_id"] == "params"
        await append(log, "to-be", 1)
        await watch.until("thought")
        await watch.say({"subscribe": {"trace_id": "params"}})  # it is over, so it can be had again
        await watch.until("caught_up", trace_id="params")


async def test_a_client_of_the_version_before_can_add_costs_up(server: Serving) -> None:
    """What nobody knows is null with ``nulls=1``, else 0: that client raised where it added null to a number."""
    log = server.services.log
    await make_trace(log, "free")
    await make_trace(log, "free-sub", parent_trace_id="free")
    text = '"total_cost":null'  # a text that looks like it stays as it is
    await log.append("free", [{"event": "message_added", "message": {"role": "user", "content": text}}])
    for nulls, cost in ((None, 0.0), ("1", None)):
        asked = {
            "trace_id": "free",
            "since_event_id": 0,
            "subtree": True,
            **({} if nulls is None else {"nulls": nulls}),
        }
        async with socket(server, "/api/watch") as watch:
            await watch.say({"subscribe": asked})
            connected = await watch.until("connected")
            assert connected["trace"]["total_cost"] == connected["trace"]["tree_totals"]["total_cost"] == cost
            assert connected["sub_traces"][0]["stats"]["total_cost"] == cost
            below = await watch.until("connected")
            assert (below["trace_id"], below["trace"]["total_cost"]) == ("free-sub", cost)
            await watch.until_events(2)  # sub_trace_started and the message
            assert any(text.replace(chr(34), chr(92) + chr(34)).encode() in event for event in watch.events)


async def test_a_subtree_there_and_to_come(server: Serving, client: httpx.AsyncClient) -> None:
    log = server.services.log
    await make_trace(log, "root")
    await make_trace(log, "sub-a", parent_trace_id="root")
    await make_trace(log, "sub-a-a", parent_trace_id="sub-a")
    for name in ("root", "sub-a", "sub-a-a"):
        await append(log, name, 4)
    async with socket(server, "/api/watch") as watch:
        cursors = {"sub-a": f"{log.epoch}.2", "sub-a-a": "3"}
        await watch.say({"subscribe": {"trace_id": "root", "subtree": True, "cursors": cursors}})
        for name in ("root", "sub-a", "sub-a-a"):
            await watch.had("caught_up", trace_id=name)
        assert {frame["trace_id"]: frame["cursor"] for frame in watch.control if frame["event"] == "connected"} == {
            "root": f"{log.epoch}.0",
            "sub-a": f"{log.epoch}.2",
            "sub-a-a": f"{log.epoch}.3",
        }
        for name, parent in (("sub-b", "root"), ("sub-a-a-a", "sub-a-a"), ("sub-b-a", "sub-b")):
            await client.post("/api/traces", json={"trace_id": name, "task": "x", "parent_trace_id": parent})
            await client.post(f"/api/traces/{name}/events", json=[thought(1), thought(2)])
        await until_stored(watch, server, "root", "sub-b", "sub-b-a", "sub-a-a-a")
        received = by_trace(watch)
        assert received["sub-a"] == (await stored(log, "sub-a"))[2:]
        assert received["sub-a-a"] == (await stored(log, "sub-a-a"))[3:]
        await watch.say({"unsubscribe": {"trace_id": "root"}})
        await watch.until("unsubscribed", trace_id="root")
        count = len(watch.events)
        await append(log, "sub-a-a-a", 1)
        await append(log, "root", 1)
        await watch.ws.send("ping")
        await watch.until("pong")
        assert len(watch.events) == count
        assert [server.services.hub.watchers(name) for name in ("root", "sub-a", "sub-b-a")] == [0, 0, 0]


async def test_a_subtree_written_by_another_process(server: Serving) -> None:
    """The same through a second log on the file, of which this process only hears hints."""
    await make_trace(server.services.log, "far")
    other = await open_log(str(sqlite(server.services.log).path))
    try:
        async with socket(server, "/api/watch") as watch:
            await watch.say({"subscribe": {"trace_id": "far", "subtree": True}})
            await watch.until("caught_up")
            for n, parent in enumerate(("far", "far-0", "far-1")):
                await make_trace(other, f"far-{n}", parent_trace_id=parent)
                await append(other, f"far-{n}", 30)
            await until_stored(watch, server, "far", "far-0", "far-1", "far-2")
    finally:
        await other.close()


async def test_a_sub_trace_that_is_subscribed_to_already_hides_none(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "over")
    await make_trace(log, "over-a", parent_trace_id="over")
    await make_trace(log, "over-a-a", parent_trace_id="over-a")
    async with socket(server, "/api/watch") as watch:
        await watch.say({"subscribe": {"trace_id": "over-a"}})
        await watch.until("caught_up", trace_id="over-a")
        await watch.say({"subscribe": {"trace_id": "over", "subtree": True}})
        await watch.had("caught_up", trace_id="over-a-a")
        await make_trace(log, "over-a-b", parent_trace_id="over-a")
        await watch.had("caught_up", trace_id="over-a-b")


class Looks:
    """The looks for sub-traces from now on: how many there were for each trace, and what they read."""

    def __init__(self, server: Serving) -> None:
        self.count: Counter[str | None] = Counter()
        self.rows: Counter[str | None] = Counter()
        log = server.services.log
        self._traces, log.traces = log.traces, self._counted  # type: ignore[method-assign]

    async def _counted(self, query: TraceQuery) -> tuple[list[dict[str, Any]], str | None]:
        found = await self._traces(query)
        self.count[query.parent_trace_id] += 1
        self.rows[query.parent_trace_id] += len(found[0])
        return found


async def whole_trees(server: Serving, stack: AsyncExitStack, root: str, count: int) -> list[Watch]:
    """Watchers of a tree that have looked at all of it."""
    watches = [await stack.enter_async_context(socket(server, "/api/watch")) for _ in range(count)]
    for watch in watches:
        await watch.say({"subscribe": {"trace_id": root, "subtree": True}})
        await watch.until("caught_up", trace_id=root)
    return watches


async def test_own_commits_are_no_reason_to_look_for_sub_traces(tmp_path: Path) -> None:
    """The poll sees them once more, and their bodies have said it all."""
    async with serving(tmp_path / "log.db") as server, AsyncExitStack() as stack:
        log = server.services.log
        await make_trace(log, "own")
        watches = await whole_trees(server, stack, "own", 10)
        looked, polled = server.services.poll.looked_at, server.services.poll.hints
        await until(lambda: server.services.poll.looked_at > looked)  # what comes before the first look is no news
        await append(log, "own", 1)  # the hint at this one is looked at: nobody knows what came before it
        await until(lambda: server.services.poll.hints > polled)
        polled = server.services.poll.hints
        looks = Looks(server)
        for number in range(1, 6):
            await append(log, "own", 1)
            await until(lambda: server.services.poll.hints >= polled + number)  # noqa: B023
        await make_trace(log, "own-a", parent_trace_id="own")
        for watch in watches:
            await watch.had("caught_up", trace_id="own-a")
        assert looks.count["own"] <= 2  # those of the first hint may still be under way


async def test_looks_at_what_another_process_wrote_are_shared(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, AsyncExitStack() as stack:
        await make_trace(server.services.log, "far")
        watches = await whole_trees(server, stack, "far", 10)
        other = await open_log(str(tmp_path / "log.db"))
        stack.push_async_callback(other.close)
        looked, polled = server.services.poll.looked_at, server.services.poll.hints
        await until(lambda: server.services.poll.looked_at > looked)
        looks = Looks(server)
        for number in range(1, 6):
            await append(other, "far", 1)
            await until(lambda: server.services.poll.hints >= polled + number)  # noqa: B023
        await make_trace(other, "far-a", parent_trace_id="far")
        for watch in watches:
            await watch.had("caught_up", trace_id="far-a")
        assert looks.count["far"] <= 2 * 6


async def test_a_new_sub_trace_costs_no_look_at_all_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subtree, "SUB_TRACES_AT_ONCE", 5)
    async with serving(tmp_path / "log.db") as server, AsyncExitStack() as stack:
        await make_trace(server.services.log, "wide")
        for number in range(40):
            await make_trace(server.services.log, f"wide-{number}", parent_trace_id="wide")
        (watch,) = await whole_trees(server, stack, "wide", 1)
        for number in range(40):
            await watch.had("caught_up", trace_id=f"wide-{number}")
        other = await open_log(str(tmp_path / "log.db"))
        stack.push_async_callback(other.close)
        looks = Looks(server)
        for number in range(40, 50):
            await make_trace(other, f"wide-{number}", parent_trace_id="wide")
            await watch.had("caught_up", trace_id=f"wide-{number}")
        # A page with the new one and a page in which all are known, once for the first hint and once for what followed
        assert looks.rows["wide"] <= 2 * (5 + 5) * 10


async def test_the_end_of_a_root_hides_no_sub_trace(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "ended")
    names = ["ended"]
    for depth in range(4):
        names.append(f"ended-{depth}")
        await make_trace(log, names[-1], parent_trace_id=names[-2])
    for name in reversed(names):
        await end(log, name)
    for _ in range(5):
        async with socket(server, "/api/watch") as watch:
            await watch.say({"subscribe": {"trace_id": "ended", "subtree": True, "until": "end"}})
            ended: set[str] = set()
            while ended < set(names):
                ended.add((await watch.until("end"))["trace_id"])
            await until_stored(watch, server, *names)
            await watch.say({"subscribe": {"trace_id": "ended", "subtree": True, "until": "end"}})  # all over: anew
            await watch.until("connected", trace_id="ended")


async def test_a_sub_trace_outlives_its_parents(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "short")
    await make_trace(log, "long", parent_trace_id="short")
    await end(log, "short")
    async with socket(server, "/api/watch") as watch:
        await watch.say({"subscribe": {"trace_id": "short", "subtree": True, "until": "end"}})
        await watch.had("end", trace_id="short")
        await watch.had("caught_up", trace_id="long")
        await make_trace(log, "longer", parent_trace_id="long")
        await watch.until("caught_up", trace_id="longer")
        await watch.say({"unsubscribe": {"trace_id": "short"}})
        await watch.until("unsubscribed")
        await until(lambda: server.services.hub.watchers("longer") == 0)


@pytest.mark.parametrize(
    "asked",
    [
        {"subscribe": {"trace_id": "nobody"}},
        {"subscribe": {"trace_id": "there"}},
        {"subscribe": {"trace_id": "other", "since_event_id": "garbage"}},
        {"subscribe": {"trace_id": "other", "types": [1]}},
        {"subscribe": {"trace_id": "other", "until": "never"}},
        {"subscribe": {"trace_id": "other", "subtree": True, "cursors": [1]}},
        {"subscribe": {"trace_id": "other", "subtree": True, "cursors": {"x": "garbage"}}},
        {"subscribe": {"trace_id": "other", "subtree": True, "cursors": {"x": {}}}},
        {"unsubscribe": {"trace_id": "nobody"}},
        {"unsubscribe": {"trace_id": 7}},
        {"subscribe": {}},
        {"subscribe": {"trace_id": 7}},
        {"subscribe_traces": {"status": "dead"}},
        {"subscribe_traces": {"status": 5}},
        {"subscribe_traces": {"status": [{}]}},
        {"subscribe_traces": {"q": 5}},
        {"subscribe_traces": {"tag": 5}},
        {"subscribe_traces": {"tag": ["x", 5]}},
        {"subscribe_traces": {"session_id": 5}},
        {"subscribe_traces": {"order": "newest"}},
        {"subscribe_traces": {"tags": "x"}},
        {"subscribe_traces": {"limit": 0}},
        {"subscribe_traces": {"limit": True}},
    ],
    ids=str,
)
async def test_a_bad_subscription_closes_nothing(tmp_path: Path, server: Serving, asked: dict[str, Any]) -> None:
    log = server.services.log
    for name in ("there", "other"):
        await make_trace(log, name)
    async with socket(server, "/api/watch") as watch:
        await watch.say({"subscribe": {"trace_id": "there"}})
        await watch.until("caught_up")
        await watch.say(asked)
        error = await watch.until("error")
        named = next(iter(asked.values())).get("trace_id")
        assert error.get("trace_id") == (named if isinstance(named, str) else None)
        assert error["code"] and error["message"]
        seen = len(watch.events)
        await append(log, "there", 1)
        await watch.until_events(seen + 1)  # the others go on


@pytest.mark.parametrize(
    "said", ["{}", '{"subscribe":7}', '{"hello":{}}', '{"subscribe":{},"unsubscribe":{}}', "[]", "x"]
)
async def test_what_is_no_request_closes(server: Serving, said: str) -> None:
    async with socket(server, "/api/watch") as watch:
        await watch.ws.send(said)
        assert await watch.closed() == 4500
        assert watch.control[-1]["code"] == "bad_request"


async def test_a_hundred_subscriptions(server: Serving) -> None:
    log = server.services.log
    await make_trace(log, "crowd")
    names = [f"crowd-{n}" for n in range(101)]
    await asyncio.gather(*(make_trace(log, name) for name in names))
    async with socket(server, "/api/watch") as watch:
        for name in names:
            await watch.say({"subscribe": {"trace_id": name}})
        error = await watch.until("error")
        assert (error["code"], error["trace_id"], error["limit"]) == ("too_many", "crowd-100", 100)
        await watch.say({"unsubscribe": {"trace_id": "crowd-5"}})
        await watch.until("unsubscribed")
        await watch.say({"subscribe": {"trace_id": "crowd-100"}})
        await watch.until("connected", trace_id="crowd-100")
    await until(lambda: server.services.hub.watchers("crowd-7") == 0)


async def test_a_subtree_is_one_subscription(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", max_subscriptions=2) as server:
        log = server.services.log
        await make_trace(log, "r")
        await make_trace(log, "other")
        subs = {f"r-{n}" for n in range(4)}
        for sub in sorted(subs):
            await make_trace(log, sub, parent_trace_id="r")
        async with socket(server, "/api/watch") as watch:
            await watch.say({"subscribe": {"trace_id": "r", "subtree": True}})
            while subs:
                subs.discard((await watch.until("caught_up"))["trace_id"])
            await watch.say({"subscribe": {"trace_id": "other"}})
            await watch.until("caught_up", trace_id="other")
            await watch.say({"subscribe": {"trace_id": "nope"}})
            assert (await watch.until("error"))["code"] == "too_many"


async def test_the_list_of_traces(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        log = server.services.log
        for n in range(3):
            await make_trace(log, f"t{n}", lease_s=None)
        async with socket(server, "/api/watch") as watch:
            await watch.say({"subscribe_traces": {}})
            first, read = await watch.frame(), (await client.get("/api/traces")).json()
            assert list(first) == ["event", "epoch", "ts", "traces"]
            assert (first["event"], first["epoch"], first["traces"]) == ("traces", log.epoch, read["traces"])
            assert (read["epoch"], first["ts"] <= read["ts"]) == (log.epoch, True)
            await append(log, "t1", 3)
            changed = await watch.until("trace_changed")
            while changed["trace"]["last_event_id"] < 3:
                changed = await watch.until("trace_changed")
            assert changed["trace"] == (await client.get("/api/traces/t1")).json()["trace"]
            assert (changed["epoch"], first["ts"] <= changed["ts"]) == (log.epoch, True)
            await make_trace(log, "new")
            assert (await watch.until("trace_changed"))["trace"]["trace_id"] == "new"
            await log.delete_trace("t0")
            deleted = await watch.until("trace_deleted")
            assert list(deleted) == ["event", "epoch", "ts", "trace_id"]
            assert (deleted["epoch"], deleted["trace_id"]) == (log.epoch, "t0")


async def test_a_filtered_list(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        log = server.services.log
        for name in ("apple", "banana"):
            await make_trace(log, name)
        async with socket(server, "/api/watch") as watch:
            await watch.say({"subscribe_traces": {"status": "running", "q": "APP"}})
            assert [trace["trace_id"] for trace in (await watch.frame())["traces"]] == ["apple"]
            await append(log, "banana", 1)
            await make_trace(log, "pineapple")
            assert (await watch.until("trace_changed"))["trace"]["trace_id"] == "pineapple"
            await end(log, "pineapple")
            left = (await watch.until("trace_changed"))["trace"]  # told also when it leaves the filter
            assert (left["trace_id"], left["status"]) == ("pineapple", "completed")
            await watch.say({"subscribe_traces": {"status": ["completed", "failed"]}})
            assert [trace["trace_id"] for trace in (await watch.until("traces"))["traces"]] == ["pineapple"]


async def test_what_a_list_remembers_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracewatch.live import list as lists

    monkeypatch.setattr(lists, "MOST_KNOWN", 4)
    async with serving(tmp_path / "log.db") as server:
        log = server.services.log
        async with socket(server, "/api/watch") as watch:
            await watch.say({"subscribe_traces": {"status": "running"}})
            await watch.until("traces")
            for n in range(12):
                await make_trace(log, f"t{n}")
                await watch.until("trace_changed")
            (listed,) = server.services.hub._list._watchers
            assert len(listed._shown) == 4
            await end(log, "t0")  # forgotten long ago: it is told all the same that it has left the filter
            left = (await watch.until("trace_changed"))["trace"]
            assert (left["trace_id"], left["status"]) == ("t0", "completed")
            await log.delete_trace("t1")
            assert (await watch.until("trace_deleted"))["trace_id"] == "t1"


async def test_any_number_of_lists_costs_the_reads_of_one(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, AsyncExitStack() as stack:
        log = server.services.log
        await make_trace(log, "busy")
        watches = [await stack.enter_async_context(socket(server, "/api/watch")) for _ in range(20)]
        for number, watch in enumerate(watches):
            await watch.say({"subscribe_traces": {"q": "bus"} if number % 2 else {}})
            await watch.until("traces")
        reads = 0
        summaries = log.summaries

        async def counted(*args: Any) -> list[dict[str, Any]]:
            nonlocal reads
            reads += 1
            return await summaries(*args)

        log.summaries = counted  # type: ignore[assignment]
        for number in range(1, 4):
            await append(log, "busy", 1)
            for watch in watches:
                while (await watch.until("trace_changed"))["trace"]["last_event_id"] < number:
                    pass
        assert reads <= 2 * 3  # each growth is heard of twice: from the commit, and from the poll


async def test_a_busy_trace_is_told_at_most_ten_times_a_second(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        log = server.services.log
        await make_trace(log, "busy")
        async with socket(server, "/api/watch") as watch:
            await watch.say({"subscribe_traces": {}})
            await watch.until("traces")
            begin = time.monotonic()
            for _ in range(100):
                await append(log, "busy", 1)
            last = 0
            while last < 100:
                last = (await watch.until("trace_changed"))["trace"]["last_event_id"]
            # A first one at once, then one each 0.1 s: however slow the machine, never more
            assert watch.names().count("trace_changed") <= 2 + (time.monotonic() - begin) / 0.1
            assert time.monotonic() - begin < DEADLINE_S


async def test_the_snapshot_of_a_member_comes_before_those_below_it(tmp_path: Path) -> None:
    """Else a client could not tell whose sub-trace it hears from."""
    async with serving(tmp_path / "log.db") as server:
        log = server.services.log
        await make_trace(log, "t")
        for above, trace_id in (("t", "child"), ("child", "grandchild"), ("grandchild", "last")):
            await make_trace(log, trace_id, parent_trace_id=above)
        given: list[str] = []
        snapshot = log.snapshot

        async def late(trace_id: str, *args: Any) -> Any:
            below = {"child": "grandchild", "grandchild": "last"}.get(trace_id)
            for _ in range(50 if below else 0):  # time enough for those below, if nothing holds them back
                await asyncio.sleep(0.01)
                if below in given:
                    break
            given.append(trace_id)
            return await snapshot(trace_id, *args)

        log.snapshot = late  # type: ignore[method-assign, assignment]
        async with socket(server, "/api/watch") as watch:
            await watch.say({"subscribe": {"trace_id": "t", "subtree": True}})
            began = [(await watch.until("connected"))["trace_id"] for _ in range(4)]
        assert began == ["t", "child", "grandchild", "last"]
