"""Servers that are killed while content is being sent: no event is without its content, and nothing is half there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.log.helpers import events, fetch, opened, sweep
from tests.server.wire import http
from tests.support import ServerProcess
from tracewatch.model.blobs import references

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
SIZE = 6 * 1024**2


async def test_no_event_is_without_its_content(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    with ServerProcess(tmp_path / "log.db") as server:
        async with http(server.url) as client:
            await client.post("/api/traces", json={"trace_id": "t", "task": "x"})
        for round_ in range(4):
            async with http(server.url) as client:
                sending = [asyncio.create_task(send(client, round_ * 3 + n, acknowledged)) for n in range(3)]
                for _ in range(round_ * 5):  # at another point each time
                    await client.get("/healthz")
                server.kill()
                await asyncio.gather(*sending, return_exceptions=True)
            await asyncio.to_thread(server.start)
        async with http(server.url) as client:
            await send(client, 100, acknowledged)
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", clock=later) as log:
        stored = await events(log)
        named = [name for event in stored for name in references(event)]
        assert set(acknowledged) <= set(named)
        for name in named:
            assert hashlib.sha256(await log.blobs.whole("t", name)).hexdigest() == name
        while await sweep(log):
            pass
        (pieces,) = await fetch(log, "SELECT COALESCE(SUM(length(body)), 0) FROM blob_pieces")
        assert pieces == (SIZE * len(set(named)),)  # of what was cut off nothing is left


def later() -> float:
    return 4_000_000_000.0


async def send(client: httpx.AsyncClient, seed: int, acknowledged: list[str]) -> None:
    """Send a content and the event that names it."""
    body = bytes([seed]) * SIZE

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, SIZE, 65_536):
            yield body[start : start + 65_536]

    name = hashlib.sha256(body).hexdigest()
    reference: dict[str, Any] = {"blob": name, "bytes": SIZE, "media_type": "text/plain", "preview": "x"}
    with contextlib.suppress(httpx.HTTPError):
        await client.put(f"/api/traces/t/blobs/{name}", content=chunks())
        answer = await client.post("/api/traces/t/events", content=orjson.dumps({"event": "note", "see": reference}))
        if answer.status_code == 200:
            acknowledged.append(name)
