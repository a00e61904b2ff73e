"""LangSmith's wire: what its clients are told, what is answered, who may send, and what becomes of their runs."""

from __future__ import annotations

import gzip
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.ingest.langsmith_bodies import MULTIPART, body, ended, metadata, multipart, part, parts_of, run, run_id
from tests.server.wire import http
from tests.support import Serving, serving
from tracewatch.errors import Unavailable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.anyio
JSON = {"content-type": "application/json"}
LIMIT = 256 * 1024


@pytest.fixture(scope="module")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    """A server that takes requests of 256 KiB."""
    async with serving(tmp_path_factory.mktemp("langsmith") / "log.db", max_ingest_bytes=LIMIT) as started:
        yield started


@pytest.fixture(scope="module")
async def sender(small: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with http(small) as opened:
        yield opened


def agent_run(name: str) -> list[dict[str, Any]]:
    """An agent with a model call and a tool, that have begun."""
    return [
        run(name, extra=metadata(lc_agent_name="planner"), inputs={"messages": [["user", "Why?"]]}),
        run("call", "llm", name, inputs={"messages": [["user", "Why?"]]}, extra=metadata(ls_model_name="m")),
        run("look", "tool", name, inputs={"q": 1}),
    ]


def the_end(began: list[dict[str, Any]]) -> list[dict[str, Any]]:
    planner, call, look = began
    usage = {"input_tokens": 9, "output_tokens": 2}
    said = {"choices": [{"message": {"role": "assistant", "content": "So."}}], "usage_metadata": usage}
    return [ended(call, outputs=said), ended(look, error="ValueError('no')"), ended(planner, outputs={"output": "So."})]


async def test_each_client_is_told_what_makes_it_live(sender: httpx.AsyncClient) -> None:
    for agent, size in (("langsmith-py/0.15.1-httpx2", 1), ("langsmith-js/0.12.0", 100), ("curl", 1)):
        said = (await sender.get("/info", headers={"user-agent": agent})).json()
        batches = said["batch_ingest_config"]
        assert (batches["size_limit"], batches["use_multipart_endpoint"]) == (size, True)
        assert batches["size_limit_bytes"] == LIMIT
        assert said["instance_flags"] == {"zstd_compression_enabled": True, "gzip_body_enabled": True}


@pytest.mark.parametrize("way", ["multipart", "zstd", "gzip", "batch", "batch gzip", "one by one"])
async def test_a_run_comes_in_by_each_form(sender: httpx.AsyncClient, way: str) -> None:
    began = agent_run(f"planner {way}")
    over = the_end(began)
    for runs, kind in ((began, "post"), (over, "patch"), (over, "patch")):
        if way == "one by one":
            for one in runs:
                path, method = ("/runs", "POST") if kind == "post" else (f"/runs/{one['id']}", "PATCH")
                assert (await sender.request(method, path, json=one)).status_code == 202
            continue
        raw = orjson.dumps({kind: runs}) if "batch" in way else body(**{kind: runs})
        headers = JSON if "batch" in way else MULTIPART
        if "gzip" in way or way == "zstd":
            raw = gzip.compress(raw) if "gzip" in way else zstd.compress(raw)
            headers = {**headers, "content-encoding": "zstd" if way == "zstd" else "gzip"}
        path = "/runs/batch" if "batch" in way else "/runs/multipart"
        answer = await sender.post(path, content=raw, headers=headers)
        assert (answer.status_code, answer.json()) == (202, {"message": "Runs batch ingested"})
    trace = f"/api/traces/ls-{run_id(f'planner {way}')}"
    found = (await sender.get(trace)).json()["trace"]
    assert (found["agent_type"], found["task"], found["status"]) == ("planner", "Why?", "completed")
    assert (found["summary"], found["total_tokens"]) == ("So.", 11)
    messages = (await sender.get(f"{trace}/messages")).json()["messages"]
    assert [(one["role"], one["status"]) for one in messages] == [
        ("user", "complete"),
        ("assistant", "complete"),
        ("tool", "complete"),
    ]
    assert (messages[1]["content"], messages[2]["content"]["error"]["type"]) == ("So.", "ValueError")


async def test_what_has_begun_is_seen_before_it_ends(sender: httpx.AsyncClient) -> None:
    await sender.post("/runs/multipart", content=body(agent_run("begun")), headers=MULTIPART)
    trace = f"/api/traces/ls-{run_id('begun')}"
    assert (await sender.get(trace)).json()["trace"]["status"] == "running"
    messages = (await sender.get(f"{trace}/messages")).json()["messages"]
    assert [(one["role"], one["status"]) for one in messages] == [
        ("user", "complete"),
        ("assistant", "streaming"),
        ("tool", "running"),
    ]


async def test_a_patch_alone_and_a_post_that_comes_late(sender: httpx.AsyncClient) -> None:
    began = agent_run("late")
    await sender.post("/runs/multipart", content=body(patch=the_end(began)), headers=MULTIPART)
    await sender.post("/runs/multipart", content=body(began), headers=MULTIPART)
    trace = f"/api/traces/ls-{run_id('late')}"
    assert (await sender.get(trace)).json()["trace"]["status"] == "completed"
    messages = (await sender.get(f"{trace}/messages")).json()["messages"]
    assert sorted(one["role"] for one in messages) == ["assistant", "tool", "user"]
    assert {one["status"] for one in messages} == {"complete"}


async def test_feedback_is_kept_with_its_run(sender: httpx.AsyncClient) -> None:
    await sender.post("/runs/multipart", content=body(agent_run("thought of")), headers=MULTIPART)
    trace = run_id("thought of")
    said = {"trace_id": trace, "run_id": run_id("call"), "key": "helpful", "score": 0.5}
    in_parts = multipart(part("feedback.f1", {**said, "id": "f1"}))
    assert (await sender.post("/runs/multipart", content=in_parts, headers=MULTIPART)).status_code == 202
    assert (await sender.post("/feedback", json={**said, "id": "f2", "comment": "so so"})).status_code == 202
    events = (await sender.get(f"/api/traces/ls-{trace}/events")).json()["events"]
    found = [event for event in events if event["event"] == "langsmith.feedback"]
    assert [(event["key"], event["score"], event.get("comment")) for event in found] == [
        ("helpful", 0.5, None),
        ("helpful", 0.5, "so so"),
    ]


async def test_an_attachment_stands_beside_the_log(sender: httpx.AsyncClient) -> None:
    data = b"\x89PNG\r\n\x1a\n" + bytes(1000)
    raw = multipart(parts_of("post", run("pictured")), part(f"attachment.{run_id('pictured')}.img", data))
    assert (await sender.post("/runs/multipart", content=raw, headers=MULTIPART)).status_code == 202
    trace = f"/api/traces/ls-{run_id('pictured')}"
    (message,) = (await sender.get(f"{trace}/messages")).json()["messages"]
    (block,) = message["content"]
    assert (block["type"], block["name"], block["media_type"]) == ("image", "img", "image/png")
    blob = await sender.get(f"{trace}/blobs/{block['blob']['blob']}")
    assert (blob.content, blob.headers["content-type"]) == (data, "image/png")


async def test_what_is_not_langsmiths_is_400_and_what_is_too_large_413(sender: httpx.AsyncClient) -> None:
    bomb = zstd.compress(bytes(64 * 1024 * 1024))
    assert len(bomb) < 10_000
    for path, raw, headers, status in (
        ("/runs/multipart", b"{", JSON, 400),
        ("/runs/multipart", b"x", MULTIPART, 400),
        ("/runs/batch", b"[]", JSON, 400),
        ("/runs", b"{}", JSON, 400),
        ("/feedback", b"{}", JSON, 400),
        ("/runs/multipart", b"not zstd", {**MULTIPART, "content-encoding": "zstd"}, 400),
        ("/runs/multipart", zstd.compress(b"x" * 1000)[:-9], {**MULTIPART, "content-encoding": "zstd"}, 400),
        ("/runs/multipart", bomb, {**MULTIPART, "content-encoding": "zstd"}, 413),
        ("/runs/multipart", bytes(LIMIT + 1), MULTIPART, 413),
    ):
        answer = await sender.post(path, content=raw, headers=headers)
        assert answer.status_code == status, (path, raw[:20], answer.content)
    assert (await sender.patch(f"/runs/{run_id('x')}", content=b"[]", headers=JSON)).status_code == 400


async def test_what_is_not_understood_is_counted(sender: httpx.AsyncClient) -> None:
    raw = multipart(parts_of("post", run("odd", "of a kind to come", "root of odd")), part("what", 1))
    assert (await sender.post("/runs/multipart", content=raw, headers=MULTIPART)).status_code == 202
    counted = (await sender.get("/metrics")).text
    for what in ("item", "unknown", "unreadable"):
        assert f'tracewatch_ingested_total{{source="ls",what="{what}"' in counted or what in counted


async def test_a_log_that_cannot_be_written_is_503_with_retry_after(
    small: Serving, sender: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*args: Any, **more: Any) -> int:
        raise Unavailable("no room", retry_after_s=7)

    monkeypatch.setattr(small.services.ingester, "take", refuse)
    answer = await sender.post("/runs/multipart", content=body([run("a")]), headers=MULTIPART)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


async def test_who_may_send(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as started, http(started) as client:
        tokens = started.services.log.tokens
        write, read = await tokens.create(["write"]), await tokens.create(["read"])
        for key, status in ((None, 401), (write, 202), (read, 403), ("lsv2_pt_wrong", 401)):
            headers = {} if key is None else {"x-api-key": key}
            answer = await client.post("/runs/multipart", content=body([run("a")]), headers={**MULTIPART, **headers})
            assert answer.status_code == status, key
            assert (await client.post("/runs", json=run("a"), headers=headers)).status_code == status
            assert (await client.patch(f"/runs/{run_id('a')}", json=run("a"), headers=headers)).status_code == status
            assert (await client.get("/info", headers=headers)).status_code == 200
