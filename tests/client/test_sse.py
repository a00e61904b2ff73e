"""Watching where no WebSocket gets through: the same events over HTTP, and words for what stands between."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.answers import answer, answering
from tests.client.proxy import proxy
from tests.client.test_obstacles import without_upgrade
from tests.client.test_watch import DONE, FORMS, call, made_trace
from tests.support import DEADLINE_S, serving, until
from tracewatch.client import backoff, sse
from tracewatch.client.errors import ApiError, Unreachable
from tracewatch.client.obstacle import DOCS
from tracewatch.client.watch import ConnectionStatus
from tracewatch.errors import UnknownTrace

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("form", FORMS, ids=["tasks", "threads"])]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "LONGEST_S", 0.05)


async def numbers(events: AsyncIterator[tuple[dict[str, Any], bytes]]) -> list[int]:
    return [event["n"] async for event, _ in events if "n" in event]


async def test_it_goes_on_over_http_and_says_so(tmp_path: Path, form: Any) -> None:
    made, by = form
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.first_head = without_upgrade
        api = await made_trace(server.url, 3)
        news: list[ConnectionStatus] = []
        watching = made("t", url=between.url, on_status=news.append)
        events = by(watching)
        assert [(await anext(events))[0]["n"] for _ in range(3)] == [1, 2, 3]
        waits = asyncio.ensure_future(anext(events))
        await until(lambda: watching.status == "live")
        await call(api.append, "t", [{"event": "thought", "n": 4}])
        event, body = await waits
        assert event["n"] == 4 and b'"n":4' in body and watching.cursor.endswith(".4")
        between.cut()
        await call(api.append, "t", [{"event": "thought", "n": 5}, DONE])
        assert await numbers(events) == [5]
        assert watching.state.status == "completed" and watching.status == "ended"
        (told,) = [one for one in news if one.kind == "over_http"]
        assert "does not let WebSockets through" in str(told.error) and DOCS in str(told.error)
        assert [one.kind for one in news if one.kind in ("lost", "reconnected")] in (
            [],
            ["lost", "reconnected"],
            ["lost"],
        )


async def test_it_is_logged_where_nobody_listens(tmp_path: Path, form: Any, caplog: pytest.LogCaptureFixture) -> None:
    made, by = form
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.first_head = without_upgrade
        await made_trace(server.url, 1200, done=True)
        for since, first in ((None, 1), ("600", 601), ("-3", 1199), ("1201", None)):  # of an ended trace
            wanted = [] if first is None else list(range(first, 1201))
            assert await numbers(by(made("t", url=between.url, since=since))) == wanted
        assert caplog.text.count("goes on over HTTP") == 4


async def test_positions_filters_and_whoever_waits(tmp_path: Path, form: Any) -> None:
    made, by = form
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.first_head = without_upgrade
        waiting = made("t", url=between.url, wait=True, types=["other"])
        first = asyncio.ensure_future(anext(by(waiting)))
        await until(lambda: between.connections >= 2)
        api = await made_trace(server.url, 3)
        await call(api.append, "t", [{"event": "other", "n": 4}])
        assert (await first)[0]["n"] == 4
        await call(waiting.close) if made is not FORMS[0][0] else waiting.close()
        with pytest.raises(UnknownTrace):
            await numbers(by(made("absent", url=between.url)))


async def test_what_has_no_other_way_is_named(tmp_path: Path, form: Any) -> None:
    made, by = form
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.first_head = without_upgrade
        await made_trace(server.url, 3, done=True)
        with pytest.raises(ApiError, match=r"does not let WebSockets through.*with sub-traces needs a WebSocket"):
            await numbers(by(made("t", url=between.url, children=True)))
        for page, words in (("200 OK", "Sign in"), ("302 Found", "redirects to /login")):
            body = b"<html><title>Sign in</title></html>"
            told = answer(page, body, "Location: /login", kind="text/html")
            between.first_head = lambda head, told=told: told  # type: ignore[misc]
            with pytest.raises(ApiError, match=words):
                await numbers(by(made("t", url=between.url)))


@pytest.mark.parametrize("broken", [b"", b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"])
async def test_sockets_that_only_ever_break(tmp_path: Path, form: Any, broken: bytes) -> None:
    made, by = form
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.first_head = lambda head: (broken or b"HTTP/") if b"\r\nupgrade:" in head.lower() else head
        await made_trace(server.url, 3, done=True)
        async with asyncio.timeout(DEADLINE_S):
            assert await numbers(by(made("t", url=between.url))) == [1, 2, 3]


async def test_an_answer_that_is_held_back_is_named(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, by = form
    monkeypatch.setattr(sse, "FIRST_S", 0.05)

    async def held(start: bytes) -> AsyncIterator[bytes]:
        yield start
        await asyncio.Event().wait()

    def handler(request: bytes) -> bytes | AsyncIterator[bytes]:
        if b"text/event-stream" in request:
            return held(answer("200 OK", kind="text/event-stream", length=False))
        return answer("426 Upgrade Required")

    async with answering(handler) as url:
        with pytest.raises(Unreachable, match="holds answers back"):
            await numbers(by(made("t", url=url, max_retry_s=0)))


async def test_a_stream_without_end_or_compressed(form: Any) -> None:
    made, by = form
    sent, kinds = [0], itertools.cycle([0, 1])

    async def endless(start: bytes) -> AsyncIterator[bytes]:
        yield start + b"data: "
        while True:
            yield b"x" * 65536
            sent[0] += 65536

    def handler(request: bytes) -> bytes | AsyncIterator[bytes]:
        if b"text/event-stream" not in request:
            return answer("426 Upgrade Required")
        if next(kinds):
            return answer("200 OK", b"\x1f\x8b", "Content-Encoding: gzip", kind="text/event-stream")
        return endless(answer("200 OK", kind="text/event-stream", length=False))

    async with answering(handler) as url:
        with pytest.raises(Unreachable, match="a line of more than"):
            await numbers(by(made("t", url=url, max_retry_s=0)))
        assert sent[0] < 64 * 1024 * 1024
        with pytest.raises(ApiError):
            await numbers(by(made("t", url=url, max_retry_s=0)))
