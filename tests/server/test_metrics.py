"""``/metrics``: the numbers of a known workload, exactly; each metric documented; no label that grows with use."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.log.helpers import delete_outdated, trim
from tests.server.wire import append, end, http, make_trace, ndjson, post, socket, sse, watching
from tests.support import ServerProcess, Serving, serving, until
from tracewatch.errors import Unavailable
from tracewatch.server.metrics.names import METRICS, markdown_table
from tracewatch.server.metrics.workers import Place, Siblings

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]
LABELS = {"worker", "le", *(label for one in METRICS for label in one.labels)}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """Every sample by name and labels, ``worker`` "0" left out. Fails for what Prometheus would not take."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type != "unknown", family.name
        for sample in family.samples:
            key = sample.name, frozenset(item for item in sample.labels.items() if item != ("worker", "0"))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


async def scrape(client: httpx.AsyncClient) -> Samples:
    """The server's numbers."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(answer.text)


def value(samples: Samples, name: str, **labels: str) -> float:
    """One value; it must be there."""
    return samples[f"tracewatch_{name}", frozenset(labels.items())]


@contextlib.asynccontextmanager
async def fresh(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Serving, httpx.AsyncClient]]:
    """A server that has done nothing yet, and a client."""
    async with serving(tmp_path / "log.db", **settings) as server, http(server) as client:
        yield server, client


async def test_what_was_appended_and_refused(tmp_path: Path) -> None:
    async with fresh(tmp_path) as (server, client):
        answer = await client.post("/api/traces", json={"trace_id": "t", "task": "x", "lease_s": 30})
        assert answer.status_code == 201
        await post(client, "t", [{"event": "a"}, {"event": "b"}], Producer_Id="p", Producer_Seq="1")
        await post(client, "t", [{"event": "a"}, {"event": "b"}], Producer_Id="p", Producer_Seq="1")  # duplicates
        await post(client, "t", {"event": "a"}, Producer_Id="p", Producer_Seq="9")
        await post(client, "gone", {"event": "a"})
        await post(client, "gone", {"event": "a"})
        page = await server.services.log.read("t", 0, max_events=10, max_bytes=10_000)
        got = await scrape(client)
    assert value(got, "appended_events_total") == 2
    assert value(got, "appended_bytes_total") == sum(map(len, page.bodies))
    assert value(got, "appends_total") == 2
    assert value(got, "appends_refused_total", code="sequence_gap") == 1
    assert value(got, "appends_refused_total", code="unknown_trace") == 2
    groups, jobs = value(got, "group_jobs_count"), value(got, "group_jobs_sum")
    assert value(got, "commit_seconds_count") == groups
    assert 6 <= groups <= jobs  # each alone but for jobs of the log's own, which may have come at the same time
    assert value(got, "commit_seconds_sum") > 0
    assert value(got, "waiting_jobs") == value(got, "failed_groups_total") == 0
    one = "/api/traces/{trace_id}/events"
    assert value(got, "http_requests_total", route="/api/traces", method="POST", status="201") == 1
    assert value(got, "http_requests_total", route=one, method="POST", status="200") == 2
    assert value(got, "http_requests_total", route=one, method="POST", status="404") == 2
    assert value(got, "http_requests_total", route=one, method="POST", status="409") == 1
    assert value(got, "http_answer_seconds_count", route=one, method="POST") == 5
    assert value(got, "traces", status="running") == value(got, "leases") == value(got, "log_up") == 1
    assert value(got, "database_bytes") > 0 and value(got, "wal_bytes") > 0 and value(got, "disk_free_bytes") > 0
    assert value(got, "worker_up") == 1
    assert value(got, "stalls_aborted_total") == 0
    assert got["process_resident_memory_bytes", frozenset()] > 0


async def test_group_size_is_jobs_of_a_transaction(tmp_path: Path) -> None:
    async with fresh(tmp_path) as (server, client):
        log = server.services.log
        await make_trace(log, "t")
        await asyncio.gather(*(append(log, "t", 1) for _ in range(20)))
        got = await scrape(client)
    assert value(got, "group_jobs_sum") >= 21  # jobs of the log's own may be among them
    assert value(got, "group_jobs_count") < 21  # the first is written alone, what gathered meanwhile together
    assert value(got, "group_jobs_bucket", le="+Inf") == value(got, "group_jobs_count")


async def test_watchers_and_what_they_were_given(tmp_path: Path) -> None:
    async with fresh(tmp_path) as (server, client):
        log, epoch = server.services.log, server.services.log.epoch
        await make_trace(log, "t")
        await append(log, "t", 10)
        async with contextlib.AsyncExitStack() as stack:
            for since in (None, "4", f"{epoch}.10", "99", "000000000000.5"):
                watch = await stack.enter_async_context(watching(server, "t", **({"since": since} if since else {})))
                await watch.until("caught_up")
            await stack.enter_async_context(watching(server, "later", wait=1))
            many = await stack.enter_async_context(socket(server, "/api/watch"))
            await many.say({"subscribe": {"trace_id": "t", "types": ["other"]}})
            await many.until("caught_up")
            await stack.enter_async_context(socket(server, "/api/traces/t/record"))
            stream = await stack.enter_async_context(sse(client, "t", since="10"))
            await stream.until("caught_up")
            await until(lambda: server.services.hub.look().states == {"waiting": 1, "catching_up": 0, "at_head": 7})
            await append(log, "t", 1)
            await until(lambda: server.services.hub.look().lags == [0] * 7)
            got = await scrape(client)
            assert value(got, "watchers", state="at_head") == 7
            assert value(got, "watchers", state="waiting") == 1
            assert value(got, "watched_traces") == 2
            assert value(got, "watches_total") == 8
            # 10, 6 (from 4), 0, 0 (ahead), 10 (reset), then the new one to all but the filtered one
            assert value(got, "delivered_events_total") == 10 + 6 + 10 + 6
            assert {
                name: value(got, "resumes_total", outcome=name) for name in ("ok", "trimmed", "reset", "ahead")
            } == {"ok": 3, "trimmed": 0, "reset": 1, "ahead": 1}
            kinds = {"watch": 6, "watch_many": 1, "subscription": 1, "record": 1, "sse": 1, "ndjson": 0}
            assert {kind: value(got, "sockets", kind=kind) for kind in kinds} == kinds
            assert value(got, "watcher_lag_events", quantile="1.0") == value(got, "fell_behind_total") == 0
        await until(lambda: not any(server.services.observed.open.values()))
        got = await scrape(client)
        assert value(got, "delivered_events_total") == 32  # also of those that have left
        assert value(got, "sockets_closed_total", kind="watch", reason="left") == 6
        assert value(got, "sockets_closed_total", kind="subscription", reason="left") == 1
        assert value(got, "watchers", state="at_head") == value(got, "watched_traces") == 0


async def test_why_sockets_ended(tmp_path: Path) -> None:
    async with fresh(tmp_path) as (server, client):
        log = server.services.log
        await make_trace(log, "t")
        await append(log, "t", 3)
        async with watching(server, "none") as watch:
            assert await watch.closed() == 4504
        async with watching(server, "t", since="nonsense") as watch:
            await watch.closed()
        async with socket(server, "/api/watch") as many:
            await many.say({"subscribe": {"trace_id": "t"}})
            await many.until("caught_up")
            await many.say({"unsubscribe": {"trace_id": "t"}})
            await many.until("unsubscribed")
        await end(log, "t")
        assert (await ndjson(client, "t")).status_code == 200
        async with watching(server, "t", until="end") as watch:
            assert await watch.closed() == 1000
        await until(lambda: not any(server.services.observed.open.values()))
        got = await scrape(client)
    closed = {
        (dict(labels)["kind"], dict(labels)["reason"]): count
        for (name, labels), count in got.items()
        if name == "tracewatch_sockets_closed_total"
    }
    assert closed == {
        ("watch", "unknown_trace"): 1,
        ("watch", "invalid_cursor"): 1,
        ("subscription", "unsubscribed"): 1,
        ("watch_many", "left"): 1,
        ("ndjson", "end"): 1,
        ("watch", "end"): 1,
    }


async def test_a_watcher_that_does_not_read_is_seen_to_be_behind(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", send_buffer=16_384) as server, http(server) as client:
        log = server.services.log
        await make_trace(log, "t")
        async with watching(server, "t") as watch:
            await watch.until("caught_up")
            watch.ws.transport.pause_reading()
            for _ in range(40):
                await append(log, "t", 10, size=20_000)
            await until(lambda: server.services.hub.counts.fell_behind)
            got = await scrape(client)
            assert value(got, "fell_behind_total") == 1
            assert value(got, "watcher_lag_events", quantile="1.0") > 0
            assert value(got, "watchers", state="catching_up") == 1
            watch.ws.transport.resume_reading()
            await watch.until_events(400)


async def test_what_retention_let_go(tmp_path: Path) -> None:
    async with fresh(tmp_path) as (server, client):
        log = server.services.log
        await make_trace(log, "t")
        await append(log, "t", 1200)
        assert await trim(log, "t", 500) and not await trim(log, "t", 500)
        async with watching(server, "t", since="7") as watch:
            assert (await watch.until("gap"))["reason"] == "trimmed"
            await watch.until("caught_up")
        await end(log, "t")
        assert await delete_outdated(log, "t", -1) == ["t"]
        got = await scrape(client)
    assert value(got, "trims_total") == value(got, "outdated_traces_total") == 1
    assert value(got, "resumes_total", outcome="trimmed") == 1


async def test_refused_for_where_they_come_from(tmp_path: Path) -> None:
    async with fresh(tmp_path) as (_, client):
        assert (await client.get("/api/traces", headers={"Host": "evil.example"})).status_code == 403
        got = await scrape(client)
    assert sum(count for (name, _), count in got.items() if name == "tracewatch_auth_failures_total") == 1
    assert value(got, "http_requests_total", route="unmatched", method="GET", status="403") == 1


async def test_what_clients_choose_makes_no_series(tmp_path: Path) -> None:
    async with fresh(tmp_path) as (server, client):
        log = server.services.log

        async def use(names: list[str]) -> int:
            for name in names:
                await make_trace(log, name)
                await append(log, name, 2)
                await client.get(f"/api/traces/{name}")
                await client.get(f"/{name}/nowhere")
                await client.request(name.upper(), "/api/traces")
                async with watching(server, name, since="1") as watch:
                    await watch.until("caught_up")
            await until(lambda: not any(server.services.observed.open.values()))
            got = await scrape(client)
            assert {key for _, labels in got for key, _ in labels} <= LABELS | {
                "version",
                "implementation",
                "major",
                "minor",
                "patchlevel",
            }
            return len(got)

        await use(["one"])
        first = await use(["two"])
        assert await use([f"more{number}" for number in range(10)]) == first


async def test_a_log_that_can_not_be_asked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fresh(tmp_path) as (server, client):

        async def failing() -> Any:
            raise Unavailable("the log can't be read: disk I/O error")

        assert value(await scrape(client), "log_ready") == 1
        monkeypatch.setattr(server.services.log, "look", failing)
        server.services.log.health.note("here", "disk_full", "the disk is full")  # an area that no write clears
        got = await scrape(client)
        assert value(got, "log_up") == value(got, "log_ready") == 0
        assert value(got, "log_troubles", code="disk_full") == 1
        assert value(got, "appends_total") == 0  # what does not need it is still told


async def test_two_servers_in_one_process_count_for_themselves(tmp_path: Path) -> None:
    async with serving(tmp_path / "a.db") as one, serving(tmp_path / "b.db") as other:
        await make_trace(one.services.log, "t")
        await append(one.services.log, "t", 3)
        async with http(one) as first, http(other) as second:
            assert value(await scrape(first), "appended_events_total") == 3
            assert value(await scrape(second), "appended_events_total") == 0


async def test_one_scrape_has_all_workers(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log.db", workers=2) as server:
        async with http(server.url) as client:
            await client.post("/api/traces", json={"trace_id": "t", "task": "x"})
        for number in range(20):  # a connection each: whoever accepts it
            async with http(server.url) as client:
                await post(client, "t", {"event": "a", "n": number})
        for _ in range(4):
            async with http(server.url) as client:
                got = parsed((await client.get("/metrics")).text)
                stored = [count for (name, _), count in got.items() if name == "tracewatch_appended_events_total"]
                assert len(stored) == 2 and sum(stored) == 20
                assert [count for (name, _), count in got.items() if name == "tracewatch_worker_up"] == [1, 1]
                assert [count for (name, _), count in got.items() if name == "tracewatch_traces"] == [1, 0, 0, 0]


async def test_a_worker_that_does_not_answer_is_left_out(tmp_path: Path) -> None:
    siblings = [Siblings(Place(number, 3, str(tmp_path)), lambda: [["x", "", "gauge", []]]) for number in range(3)]
    await siblings[0].begin()
    await siblings[1].begin()
    kept: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_unix_server(lambda _, writer: kept.append(writer), tmp_path / "2.sock")
    try:
        assert await siblings[0].ask() == {1: [["x", "", "gauge", []]], 2: None}
        await siblings[1].close()
        (tmp_path / "1.sock").unlink(missing_ok=True)
        assert await siblings[0].ask() == {1: None, 2: None}
    finally:
        silent.close()
        for writer in kept:
            writer.close()
            await writer.wait_closed()
        for one in siblings:
            await one.close()


async def test_every_metric_is_documented_and_every_documented_one_is_there(tmp_path: Path) -> None:
    text = (ROOT / "docs/operating.md").read_text()
    table = re.search(r"<!-- metrics -->\n(.*?)\n<!-- /metrics -->", text, re.DOTALL)
    assert table is not None and table[1] == markdown_table()
    async with fresh(tmp_path) as (_, client):
        exposed = re.findall(r"^# TYPE (tracewatch_\w+)", (await client.get("/metrics")).text, re.MULTILINE)
        described = (await client.get("/openapi.json")).json()["paths"]
    assert len(set(exposed)) == len(exposed)
    assert {one.full_name for one in METRICS} - set(exposed) == {"tracewatch_redis_up"}  # with --redis only
    assert set(exposed) <= {one.full_name for one in METRICS}
    assert "text/plain" in described["/metrics"]["get"]["responses"]["200"]["content"]
    for name in re.findall(r"tracewatch_\w+", "\n".join(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))):
        known = {one.full_name for one in METRICS} | {
            f"tracewatch_{one.name}{suffix}"
            for one in METRICS
            if one.type == "histogram"
            for suffix in ("_bucket", "_sum", "_count")
        }
        assert name in known, f"an alert on {name}, which is not exposed"
