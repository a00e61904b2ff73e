"""The poll that notices the events of other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import until
from tracewatch.errors import TracewatchError, Unavailable
from tracewatch.live.hints import PollHints
from tracewatch.log import Grown, open_log
from tracewatch.model.events import validate_trace

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "error",
    [Unavailable("not now"), TracewatchError("a defect"), RuntimeError("a defect of ours")],
    ids=["now", "defect", "ours"],
)
@pytest.mark.parametrize("which", [1, 2])
async def test_it_goes_on_after_a_read_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int, error: Exception
) -> None:
    monkeypatch.setattr("tracewatch.live.hints.RETRY_S", 0.01)
    log, other = await open_log(str(tmp_path / "log.db")), None
    heard: list[str] = []
    failed: list[int] = []
    said: list[Any] = []
    asked = log.changes

    async def failing(*args: Any) -> Any:
        failed.append(1)
        if len(failed) == which:
            raise error
        return await asked(*args)

    def ring(grown: Sequence[Grown]) -> None:
        heard.extend(one.trace_id for one in grown)

    monkeypatch.setattr(log, "changes", failing)
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: said.append(context["exception"]))
    bell = PollHints(log, ring, poll_ms=1)
    try:
        other = await open_log(str(tmp_path / "log.db"))
        looked = bell.looked_at
        await until(lambda: len(failed) > which and bell.looked_at > looked)
        await other.create_trace(validate_trace({"trace_id": "t", "task": "x"}))
        await until(lambda: "t" in heard)
        assert said == ([] if isinstance(error, TracewatchError) else [error])
    finally:
        loop.set_exception_handler(handler)
        await bell.close()
        await log.close()
        if other is not None:
            await other.close()


async def test_what_is_written_before_its_second_look_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher may have read the log already when another process writes, and the poll has not come to look again."""
    log, other = await open_log(str(tmp_path / "log.db")), await open_log(str(tmp_path / "log.db"))
    heard: list[str] = []
    bell = await PollHints.begun(log, lambda grown: heard.extend(one.trace_id for one in grown), poll_ms=1)
    asked, gate = log.changes, asyncio.Event()

    async def held(*args: Any) -> Any:
        await gate.wait()
        return await asked(*args)

    monkeypatch.setattr(log, "changes", held)  # nothing has awaited since: its task has not begun
    try:
        await other.create_trace(validate_trace({"trace_id": "t", "task": "x"}))
        gate.set()
        await until(lambda: "t" in heard)
    finally:
        await bell.close()
        await log.close()
        await other.close()
