"""Clients with a token, without one and with a bad one: a clear error, no lost event, and no token in any output."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.client.conftest import TestSenders
from tests.support import DEADLINE_S, Serving, serving, until
from tracewatch.client import backoff
from tracewatch.client.api import Api
from tracewatch.client.errors import ApiError
from tracewatch.client.target import parse_target
from tracewatch.client.trace import Trace
from tracewatch.client.watch import watch, watch_sync
from tracewatch.errors import Forbidden, InvalidField
from tracewatch.settings import Settings

pytestmark = pytest.mark.anyio
BAD = "tw_0123456789ab_" + "7" * 40


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "log.db", token_check_s=0.05) as started:
        await started.services.log.tokens.create(["read"])
        yield started


@pytest.fixture(autouse=True)
async def ended(server: Serving, senders: TestSenders) -> AsyncIterator[None]:
    """Recorders end while the server's loop still runs: they say goodbye to it."""
    yield
    await call(senders.end)


call = asyncio.to_thread  # a client of this process's server must not hold up its loop


def spooled(spool_dir: Path) -> bytes:
    return b"".join(path.read_bytes() for path in spool_dir.rglob("*") if path.is_file())


async def test_calls(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ApiError, match="TRACEWATCH_TOKEN") as caught:
        await call(Api(server.url).traces)
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")
    with pytest.raises(ApiError, match="no such token: set TRACEWATCH_TOKEN") as caught:
        await call(Api(server.url, token=BAD).traces)
    assert BAD not in str(caught.value)
    token = await server.services.log.tokens.create(["read"])
    monkeypatch.setenv("TRACEWATCH_TOKEN", token)
    assert (await call(Api(server.url).traces))["traces"] == []
    with pytest.raises(ApiError, match="scope write"):
        await call(Api(server.url).create_trace, {"task": "x"})


async def test_watching(server: Serving) -> None:
    log = server.services.log
    admin, reader, writer = [await log.tokens.create([scope]) for scope in ("admin", "read", "write")]
    await call(Api(server.url, token=admin).create_trace, {"task": "x", "trace_id": "t"})
    done = b'[{"event":"trace_completed","status":"completed"}]'
    await call(Api(server.url, token=admin).append, "t", done)
    assert [event["event"] async for event in watch("t", url=server.url, token=reader)] == ["trace_completed"]
    for children in (False, True):
        for bad in (None, BAD):
            with pytest.raises(ApiError, match="TRACEWATCH_TOKEN"):
                await anext(watch("t", url=server.url, token=bad, children=children))
    with pytest.raises(Forbidden, match="scope read"):
        await anext(watch("t", url=server.url, token=writer))
    with pytest.raises(ApiError, match="TRACEWATCH_TOKEN"):
        await call(lambda: list(watch_sync("t", url=server.url)))
    assert await call(lambda: len(list(watch_sync("t", url=server.url, token=reader)))) == 1


async def test_a_watch_whose_token_is_revoked_ends_with_the_reason(server: Serving) -> None:
    log = server.services.log
    token = await log.tokens.create(["read", "write"])
    await call(Api(server.url, token=token).create_trace, {"task": "x", "trace_id": "t"})
    waiting = asyncio.create_task(anext(watch("t", url=server.url, token=token)))
    await until(lambda: server.services.hub.watchers("t"))
    await log.tokens.revoke(token.split("_")[1])
    with pytest.raises(ApiError, match="revoked"):
        await asyncio.wait_for(waiting, DEADLINE_S)


async def test_a_recorder_with_a_bad_token_keeps_everything(
    server: Serving,
    new_trace: Callable[..., Trace],
    senders: TestSenders,
    spool_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = server.services.gate._limiter
    with caplog.at_level(logging.DEBUG):
        recorder = new_trace(server.url, token=BAD, trace_id="kept")
        began = time.monotonic()
        for n in range(2000):
            recorder.event("thought", n=n)
        assert time.monotonic() - began < 5  # it costs the agent nothing
        recorder.complete()
        await until(lambda: "TRACEWATCH_TOKEN" in caplog.text)
        await until(lambda: spooled(spool_dir))
        assert not recorder.flush(0.2)
        assert recorder.pending == 2001 and recorder.dropped == 0
    assert caplog.text.count("can't be recorded now") == 1
    assert BAD not in caplog.text
    assert before._level("127.0.0.1") <= 3  # it does not try again and again
    await call(senders.end)
    assert b"thought" in spooled(spool_dir) and BAD.encode() not in spooled(spool_dir)
    # The next process has the right one
    good = await server.services.log.tokens.create(["write"])
    later = TestSenders()
    try:
        settings = Settings.from_env({}, url=server.url, spool_dir=str(spool_dir), token=good, flush_s=1)
        sender = later.get(settings)
        sender._register(Trace({"task": "x", "trace_id": "new"}, sender, settings)._outbox)
        sql = "SELECT last_event_id FROM traces WHERE trace_id = 'kept'"
        with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
            await until(lambda: connection.execute(sql).fetchone() == (2001,))
    finally:
        await call(later.end)


async def test_a_recorder_whose_token_is_revoked_goes_on_with_its_spool(
    server: Serving, new_trace: Callable[..., Trace], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backoff, "REFUSED_S", 0.2)
    log = server.services.log
    token = await log.tokens.create(["write"])
    recorder = new_trace(server.url, token=token)
    recorder.event("thought", n=1)
    assert await recorder.aflush(DEADLINE_S)
    await log.tokens.revoke(token.split("_")[1])
    await until(lambda: "revoked" in caplog.text)
    recorder.event("thought", n=2)
    assert not await recorder.aflush(0.3)
    assert caplog.text.count("can't be recorded now") == 1


async def test_a_recorder_of_one_trace(server: Serving, new_trace: Callable[..., Trace]) -> None:
    log = server.services.log
    token = await log.tokens.create(["write"], trace_id="only")
    with new_trace(server.url, token=token, trace_id="only") as recorder:
        with recorder.sub_trace("part") as child:
            child.event("thought")
        recorder.event("thought")
    assert await recorder.aflush(DEADLINE_S) and await child.aflush(DEADLINE_S)
    found = {one["trace_id"]: one["status"] for one in await log.summaries(["only", child.trace_id])}
    assert found == {"only": "completed", child.trace_id: "completed"}


async def test_a_recorder_that_may_only_write_takes_a_trace_as_it_is(
    server: Serving, new_trace: Callable[..., Trace]
) -> None:
    log = server.services.log
    token = await log.tokens.create(["write"])
    await call(Api(server.url, token=token).create_trace, {"task": "another", "trace_id": "t"})
    recorder = new_trace(server.url, token=token, trace_id="t")
    recorder.event("thought")
    assert await recorder.aflush(DEADLINE_S)


async def test_nothing_shows_it() -> None:
    settings = Settings.from_env({}, token=BAD, redis="redis://:sesame@host", ssl_keyfile_password="sesame")
    assert settings.token == BAD and BAD not in repr(settings) and "sesame" not in repr(settings)
    assert BAD not in repr(parse_target("http://127.0.0.1:1", BAD))
    for wrong in ("a b", "a\r\nX: y", "tökën"):
        with pytest.raises(InvalidField) as caught:
            Settings.from_env({"TRACEWATCH_TOKEN": wrong})
        assert wrong not in str(caught.value) and caught.value.message.startswith("TRACEWATCH_TOKEN: ")


async def test_no_log_has_it_even_at_debug(
    server: Serving, new_trace: Callable[..., Trace], caplog: pytest.LogCaptureFixture
) -> None:
    token = await server.services.log.tokens.create(["read", "write"])
    with caplog.at_level(logging.DEBUG, logger="websockets"), caplog.at_level(logging.DEBUG, logger="tracewatch"):
        with new_trace(server.url, token=token) as recorder:
            recorder.event("thought")
        assert await recorder.aflush(DEADLINE_S)
        assert [event["event"] async for event in watch(recorder.trace_id, url=server.url, token=token)]
    assert token not in caplog.text
