"""Recording into a file without a server, and into one that a server has open."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.client.conftest import TestSenders
from tests.client.test_record import New, say, steps
from tests.support import serving
from tracewatch.client.api import Api

pytestmark = pytest.mark.anyio


async def test_into_a_file_without_a_server(tmp_path: Path, new_trace: New, senders: TestSenders) -> None:
    with new_trace(f"sqlite:///{tmp_path}/t.db") as t:
        with t.goal("g"):
            say(t, 1, 1200)
            t.event("Not A Name")
            child = t.sub_trace("child")
            child.complete("done")
    assert await t.aflush(60)
    assert await child.aflush(60)
    await asyncio.to_thread(senders.end)
    async with serving(tmp_path / "t.db") as server:
        assert await steps(server.url, t.trace_id) == list(range(1, 1201))
        answer = await asyncio.to_thread(Api(server.url).trace, t.trace_id)
        assert answer["trace"]["status"] == "completed"
        assert answer["sub_traces"][0]["summary"] == "done"


async def test_into_a_file_that_a_server_serves(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(f"sqlite:///{tmp_path}/t.db")
        say(t, 1, 100)
        assert await t.aflush(60)
        assert await steps(server.url, t.trace_id) == list(range(1, 101))
