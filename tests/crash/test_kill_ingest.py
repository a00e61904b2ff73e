"""A server that is killed while a tracer sends: after the tracer's retry every span is there once."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import httpx
import pytest

from tests.ingest.recordings import all_traces, messages_of, requests_of
from tests.log.helpers import opened
from tests.server.wire import http
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.crash]


@pytest.mark.parametrize("recording", ["otlp-pydantic-ai-logfire-token", "langsmith-info-limit1"])
async def test_a_tracer_sends_again_what_was_not_answered(tmp_path: Path, shared_data: Path, recording: str) -> None:
    folder = shared_data / "wire" / recording
    with ServerProcess(tmp_path / "log.db") as server:
        for number, sent in enumerate(one for one in requests_of(folder) if one.method == "POST"):
            if number % 4 == 1 and number < 16:
                async with http(server.url) as client:
                    sending = asyncio.create_task(client.post(sent.path, content=sent.body, headers=sent.headers))
                    for _ in range(number):  # at another point each time
                        await asyncio.sleep(0)
                    server.kill()
                    with contextlib.suppress(httpx.HTTPError):
                        await sending
                await asyncio.to_thread(server.start)
            async with http(server.url) as client:
                answer = await client.post(sent.path, content=sent.body, headers=sent.headers)
                assert answer.status_code in (200, 202)
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as log:
        traces = await all_traces(log)
        roles = [m["role"] for one in traces for m in await messages_of(log, one["trace_id"])]
        assert sorted(trace["agent_type"] for trace in traces) == ["expert", "planner"]
        assert {trace["status"] for trace in traces} == {"completed"}
        assert (roles.count("assistant"), roles.count("tool")) == (6, 5)
        assert sum(trace["total_tokens"] for trace in traces) == 790
