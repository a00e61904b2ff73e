"""``GET /api/search``: hits that lead to their events, what is not understood, and who finds what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.wire import bearer, http, make_trace, refused, socket
from tests.support import DEADLINE_S, Serving, serving
from tracewatch.client.api import Api

pytestmark = pytest.mark.anyio
Json = dict[str, Any]


async def read_all(server: Serving) -> None:
    """Wait until search has read all."""
    async with asyncio.timeout(DEADLINE_S):
        while (await server.services.log.finder.progress()).state != "current":  # noqa: ASYNC110 (an answer)
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    async with serving(tmp_path_factory.mktemp("search") / "log.db") as started:
        log = started.services.log
        await make_trace(log, "mine")
        await make_trace(log, "mine.sub", parent_trace_id="mine")
        await make_trace(log, "theirs", tags=["nightly"])
        for name in ("mine", "mine.sub", "theirs"):
            said = {"message_id": "said", "role": "assistant", "content": f"a <b>needle</b> in {name}"}
            await log.append(name, [{"event": "message_added", "message": said}])
        await log.append("theirs", [{"event": "trace_completed", "status": "failed", "error": "no thread"}])
        await read_all(started)
        yield started


@pytest.fixture(scope="module")
async def client(server: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with http(server) as opened:
        yield opened


async def test_a_hit_leads_to_its_event(client: httpx.AsyncClient) -> None:
    body = (await client.get("/api/search", params={"q": "needle theirs"})).json()
    (hit,), (trace,) = body["hits"], body["traces"]
    assert hit == {
        "trace_id": "theirs",
        "event_id": 1,
        "kind": "message",
        "label": "assistant",
        "message_id": "said",
        "ts": hit["ts"],
        "snippet": ["a <b>", "needle", "</b> in ", "theirs", ""],
    }
    assert (trace["trace_id"], trace["status"], body["next_page_token"]) == ("theirs", "failed", None)
    assert body["index"] == {"state": "current", "behind": 0}
    message = (await client.get(f"/api/traces/theirs/messages/{hit['message_id']}")).json()
    assert message["event_id"] == hit["event_id"]


async def test_fields_of_a_filter_say_in_which_traces(client: httpx.AsyncClient) -> None:
    for text, names in (
        ("needle status:failed", ["theirs"]),
        ("needle -status:failed", ["mine.sub", "mine"]),
        ("needle tag:nightly,other", ["theirs"]),
        ("needle age<1h messages>=1", ["theirs", "mine.sub", "mine"]),
        ("thread", ["theirs"]),
        ("needle cost>1", []),
    ):
        body = (await client.get("/api/search", params={"q": text})).json()
        assert [hit["trace_id"] for hit in body["hits"]] == names, text


async def test_pages(client: httpx.AsyncClient) -> None:
    names, token = [], None
    while True:
        params: Json = {"q": "needle", "limit": 1} | ({} if token is None else {"page_token": token})
        body = (await client.get("/api/search", params=params)).json()
        names += [hit["trace_id"] for hit in body["hits"]]
        if (token := body["next_page_token"]) is None:
            break
    assert names == ["theirs", "mine.sub", "mine"]
    within = (await client.get("/api/search", params={"q": "needle", "trace_id": "mine"})).json()
    assert [hit["trace_id"] for hit in within["hits"]] == ["mine.sub", "mine"]


@pytest.mark.parametrize(
    ("params", "path", "at"),
    [
        ({}, "q", None),
        ({"q": " "}, "q", None),
        ({"q": "-needle"}, "q", None),
        ({"q": "status:failed"}, "q", None),
        ({"q": "needle foo:bar"}, "q", 7),
        ({"q": "needle took>soon"}, "q", 7),
        ({"q": "->"}, "q", 0),
        ({"q": "x" * 1001}, "q", None),
        ({"q": " ".join("abcdefghijklmnopqrstuvwxyz" * 2)}, "q", None),
        ({"q": "needle", "limit": "0"}, "limit", None),
        ({"q": "needle", "per_trace": "201"}, "per_trace", None),
        ({"q": "needle", "trace_id": "no id"}, "trace_id", None),
        ({"q": "needle", "status": "failed"}, "status", None),
    ],
)
async def test_what_is_not_understood_is_said(
    client: httpx.AsyncClient, params: Json, path: str, at: int | None
) -> None:
    details = refused(await client.get("/api/search", params=params), 422, "invalid")["details"]
    assert (details[0]["path"], details[0].get("at")) == (path, at)


async def test_a_page_token_that_nobody_gave(client: httpx.AsyncClient) -> None:
    refused(await client.get("/api/search", params={"q": "needle", "page_token": "x"}), 400, "bad_request")


async def test_what_is_appended_is_found_soon_and_what_is_deleted_at_once(
    server: Serving, client: httpx.AsyncClient
) -> None:
    log = server.services.log
    await make_trace(log, "later")
    await log.append("later", [{"event": "message_added", "message": {"role": "user", "content": "haystack"}}])

    async def hits() -> list[Json]:
        found: list[Json] = (await client.get("/api/search", params={"q": "haystack"})).json()["hits"]
        return found

    async with asyncio.timeout(DEADLINE_S):
        while not await hits():  # noqa: ASYNC110 (what is waited for is an answer)
            await asyncio.sleep(0.01)
    await log.delete_trace("later")
    assert await hits() == []


async def test_a_token_of_one_trace_finds_in_it_only(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        log = server.services.log
        await make_trace(log, "mine")
        await make_trace(log, "mine.sub", parent_trace_id="mine")
        await make_trace(log, "theirs")
        for name in ("mine", "mine.sub", "theirs"):
            await log.append(name, [{"event": "message_added", "message": {"role": "user", "content": "needle"}}])
        token = await log.tokens.create(["read"], trace_id="mine")
        none = await log.tokens.create(["write"])
        await read_all(server)
        async with http(server, headers=bearer(token)) as client:
            for query in ("", "&trace_id=theirs", "&trace_id=mine", "&page_token=9000000000000000"):
                body = (await client.get(f"/api/search?q=needle{query}")).json()
                assert {hit["trace_id"] for hit in body["hits"]} <= {"mine", "mine.sub"}, query
            assert len((await client.get("/api/search?q=needle")).json()["hits"]) == 2
        async with http(server, headers=bearer(none)) as client:
            refused(await client.get("/api/search?q=needle"), 403, "forbidden")


async def test_the_client_calls_it(server: Serving) -> None:
    found = await asyncio.to_thread(lambda: Api(server.url).search("needle", limit=2, per_trace=1))
    assert len(found["hits"]) == 2


async def test_a_list_by_a_filter(client: httpx.AsyncClient) -> None:
    for text, names in (
        ("status:failed tag:nightly", ["theirs"]),
        ("-status:failed age<1h", ["mine.sub", "mine"]),
        ("needle -tag:nightly", ["mine.sub", "mine"]),
        ("thread", ["theirs"]),
        ("", ["theirs", "mine.sub", "mine"]),
    ):
        body = (await client.get("/api/traces", params={"filter": text})).json()
        assert [trace["trace_id"] for trace in body["traces"]] == names, text
    body = (await client.get("/api/traces", params={"filter": "status:failed", "agent_type": "other"})).json()
    assert body["traces"] == [], "besides the other filters"
    for text, at in (("colour:red", [0, 10]), ("tag:x took>soon", [6, 15])):
        details = refused(await client.get("/api/traces", params={"filter": text}), 422, "invalid")["details"]
        assert (details[0]["path"], [details[0]["at"], details[0]["end"]]) == ("filter", at)


async def test_a_watched_list_by_a_filter(server: Serving) -> None:
    async with socket(server, "/api/watch") as watch:
        await watch.say({"subscribe_traces": {"filter": "status:failed messages>=0 -id:nobody"}})
        frame = await watch.until("traces")
        assert [trace["trace_id"] for trace in frame["traces"]] == ["theirs"]
        await make_trace(server.services.log, "third")
        await server.services.log.append("third", [{"event": "trace_completed", "status": "completed"}])
        said = {"event": "message_added", "message": {"role": "user", "content": "x"}}
        await make_trace(server.services.log, "fourth")
        await server.services.log.append("fourth", [said, {"event": "trace_completed", "status": "failed"}])
        assert (await watch.until("trace_changed"))["trace"]["trace_id"] == "fourth"
    async with socket(server, "/api/watch") as watch:
        await watch.say({"subscribe_traces": {"filter": "needle"}})
        frame = await watch.until("error")
        assert frame["code"] == "invalid" and "watched" in frame["message"]
