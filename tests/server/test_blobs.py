"""Big and binary content over HTTP: stored, read in ranges, and never run in a page."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.wire import bearer, http, make_trace, post, refused
from tests.support import Serving, serving

pytestmark = pytest.mark.anyio
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 12_000  # 3 MB, over several pieces


def where(body: bytes, trace_id: str = "t") -> str:
    """Its address."""
    return f"/api/traces/{trace_id}/blobs/{hashlib.sha256(body).hexdigest()}"


async def put(client: httpx.AsyncClient, body: bytes, media_type: str = "text/plain", trace_id: str = "t") -> Any:
    return await client.put(where(body, trace_id), content=body, headers={"Content-Type": media_type})


@pytest.fixture(scope="module", autouse=True)
async def trace(server: Serving) -> None:
    await make_trace(server.services.log, "t")


async def test_a_picture_comes_back(client: httpx.AsyncClient) -> None:
    first = await put(client, PNG, "image/png; some=thing")
    sha256 = hashlib.sha256(PNG).hexdigest()
    stored = {"trace_id": "t", "sha256": sha256, "bytes": len(PNG), "media_type": "image/png"}
    assert (first.status_code, first.json()) == (201, stored)
    assert (await put(client, PNG, "image/png")).status_code == 200
    answer = await client.get(where(PNG))
    assert answer.content == PNG and answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == f'"{sha256}"' and answer.headers["content-length"] == str(len(PNG))
    assert answer.headers["content-disposition"] == f'inline; filename="{sha256[:12]}.png"'
    head = await client.head(where(PNG))
    assert head.content == b"" and head.headers["content-length"] == str(len(PNG))
    reference = {"blob": sha256, "bytes": len(PNG), "media_type": "image/png", "preview": "image/png"}
    message = {"role": "tool", "content": {"tool_name": "look", "result": [reference]}}
    assert (await post(client, "t", [{"event": "message_added", "message": message}])).status_code == 200


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-0", 206, (0, 1)),
        ("bytes=5-", 206, (5, None)),
        ("bytes=-7", 206, (-7, None)),
        ("bytes=1048570-1048580", 206, (1048570, 1048581)),
        ("bytes=10-99999999", 206, (10, None)),
        ("bytes=-99999999", 206, (0, None)),
        ("bytes=0-1,5-6", 200, (0, None)),
        ("bytes=9-2", 200, (0, None)),
        ("pages=1-2", 200, (0, None)),
        ("bytes=-", 200, (0, None)),
        ("bytes=99999999-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
async def test_ranges(client: httpx.AsyncClient, asked: str, status: int, part: tuple[int, int | None] | None) -> None:
    await put(client, PNG, "image/png")
    answer = await client.get(where(PNG), headers={"Range": asked})
    assert answer.status_code == status
    if part is None:
        assert answer.headers["content-range"] == f"bytes */{len(PNG)}" and answer.content == b""
        return
    wanted = PNG[part[0] : part[1]]
    assert answer.content == wanted and answer.headers["content-length"] == str(len(wanted))
    if status == 206:
        start = part[0] % len(PNG)
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(wanted) - 1}/{len(PNG)}"


async def test_what_a_client_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    await put(client, PNG, "image/png")
    tag = (await client.head(where(PNG))).headers["etag"]
    for given in (tag, f'"x", W/{tag}'):
        answer = await client.get(where(PNG), headers={"If-None-Match": given})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    for given, status in ((tag, 206), ('"else"', 200)):
        answer = await client.get(where(PNG), headers={"Range": "bytes=1-2", "If-Range": given})
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("media_type", "place"),
    [
        *((one, "inline") for one in ("image/jpeg", "image/webp", "text/plain", "audio/mpeg", "application/json")),
        *((one, "attachment") for one in ("image/svg+xml", "text/html", "application/xml", "application/pdf")),
        *((one, "attachment") for one in ("application/xhtml+xml", "text/css", "text/javascript", "x/unheard-of")),
    ],
)
async def test_nothing_runs_in_a_page(client: httpx.AsyncClient, media_type: str, place: str) -> None:
    body = f"<script>alert('{media_type}')</script>".encode()
    await put(client, body, media_type.upper())
    answer = await client.get(where(body))
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.headers["content-disposition"].split(";")[0] == place
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


async def test_what_is_refused(client: httpx.AsyncClient) -> None:
    body = b"the body"
    refused(await client.get(where(b"never sent")), 404, "unknown_blob")
    refused(await client.get(where(body, "nobody")), 404, "unknown_trace")
    refused(await put(client, body, trace_id="nobody"), 404, "unknown_trace")
    refused(await client.put(where(body), content=b"another body"), 422, "blob_mismatch")
    refused(await client.put("/api/traces/t/blobs/abc", content=body), 422, "invalid")
    refused(await put(client, body, "no type"), 422, "invalid")
    refused(await put(client, bytes(33 * 1024**2)), 413, "too_large")
    refused(await client.put(where(body), headers={"Content-Encoding": "gzip"}, content=body), 400, "bad_request")
    reference = {"blob": "0" * 64, "bytes": 1, "media_type": "text/plain"}
    answer = refused(await post(client, "t", [{"event": "note", "see": reference}]), 422, "unknown_blob")
    assert answer["blob"] == "0" * 64
    refused(await client.get(where(body)), 404, "unknown_blob")


async def test_a_trace_has_so_much_room(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", max_trace_blob_bytes=1_000_000) as server, http(server) as client:
        await make_trace(server.services.log, "t")
        assert (await put(client, bytes(600_000))).status_code == 201
        answer = refused(await put(client, bytes(500_000)), 413, "trace_blobs_full")
        assert (answer["used"], answer["limit"]) == (600_000, 1_000_000)

        async def unannounced() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield bytes(10_000)

        refused(await client.put(where(bytes(500_000)), content=unannounced()), 413, "trace_blobs_full")
        assert (await put(client, bytes(400_000))).status_code == 201


async def test_one_that_stops_coming_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", request_stall_s=0.1) as server, http(server) as client:
        await make_trace(server.services.log, "t")

        async def stalling() -> AsyncIterator[bytes]:
            yield bytes(2_000_000)
            await asyncio.sleep(60)

        refused(await client.put(where(b""), content=stalling()), 408, "timeout")
        assert server.services.coming.bytes == 0


async def test_many_at_once_are_bounded_in_memory(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", max_waiting_bytes=3_000_000) as server, http(server) as client:
        await make_trace(server.services.log, "t")
        bodies = [bytes([n]) * 2_000_000 for n in range(4)]
        answers = await asyncio.gather(*(put(client, body) for body in bodies))
        assert {answer.status_code for answer in answers} <= {201, 503}
        assert server.services.coming.bytes == 0
        for body in bodies:
            assert (await put(client, body)).status_code in (200, 201)


async def test_a_token_of_one_trace_has_its_own_only(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        log = server.services.log
        await make_trace(log, "mine")
        await make_trace(log, "theirs")
        admin, mine = await log.tokens.create(["admin"]), await log.tokens.create(["read", "write"], trace_id="mine")
        async with http(server, headers=bearer(admin)) as client:
            assert (await put(client, b"secret", trace_id="theirs")).status_code == 201
        async with http(server, headers=bearer(mine)) as client:
            refused(await client.get(where(b"secret", "theirs")), 404, "unknown_trace")
            refused(await client.get(where(b"secret", "mine")), 404, "unknown_blob")
            # Who knows the hash does not get the content by it
            sent = await client.put(where(b"secret", "mine"), content=b"guess")
            refused(sent, 422, "blob_mismatch")
            assert (await put(client, b"secret", trace_id="mine")).status_code == 201
            assert (await client.get(where(b"secret", "mine"))).content == b"secret"
