"""Answering what agents ask, for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tests.support import DEADLINE_S
from tracewatch.client.api import Api
from tracewatch.client.errors import Unreachable


async def polled(look: Callable[[], Any]) -> Any:
    """Wait until ``look()``, which may block and find nobody there, gives something."""
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            found = await asyncio.to_thread(look)
        except Unreachable:
            found = None
        if found:
            return found
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.01)


async def open_question(url: str, trace_id: str) -> dict[str, Any]:
    """The trace's open question, once there is one."""

    def look() -> Any:
        return next((one for one in Api(url).inputs()["inputs"] if one["trace_id"] == trace_id), None)

    found: dict[str, Any] = await polled(look)
    return found


async def answer(url: str, trace_id: str, value: Any, by: str | None = None) -> str:
    """Answer the trace's open question; its id."""
    asked = await open_question(url, trace_id)
    await asyncio.to_thread(Api(url).answer, trace_id, asked["request_id"], value, by)
    return str(asked["request_id"])


async def status(url: str, trace_id: str) -> str:
    """How the trace stands."""
    return str((await asyncio.to_thread(Api(url).trace, trace_id))["trace"]["status"])
