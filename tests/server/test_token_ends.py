"""The end of a token closes its connections, on every transport and in every process; and guessing is slow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.server.tokens import revoke
from tests.server.wire import NDJSON, Watch, append, bearer, http, make_trace, refused, socket, sse
from tests.support import DEADLINE_S, ServerProcess, Serving, serving, until
from tracewatch.errors import Unavailable
from tracewatch.log import open_log
from tracewatch.log.tokens import token_id_of

pytestmark = pytest.mark.anyio
SOCKETS = ("/api/traces/t/watch", "/api/traces/t/record", "/api/watch")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "log.db", token_check_s=0.05, auth_failures=3, auth_retry_s=600) as started:
        await make_trace(started.services.log, "t")
        yield started


async def ended(watch: Watch) -> None:
    """It was told why, and then closed."""
    assert (await watch.until("error"))["code"] == "unauthorized"
    assert await watch.closed() == 4501


async def opened(watch: Watch, path: str) -> None:
    """Wait until the socket is at work."""
    if path == "/api/watch":
        await watch.say({"subscribe": {"trace_id": "t"}})
    await watch.frame()


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.parametrize("how", ["revoked", "expired", "first token made"])
async def test_a_socket_ends_with_its_token(
    server: Serving, path: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = server.services.log
    token = None
    if how != "first token made":
        token = await log.tokens.create(["admin"], expires_in_s=60 if how == "expired" else None)
    async with socket(server, path, token) as watch:
        await opened(watch, path)
        if token is None:
            await log.tokens.create(["read"])
        elif how == "revoked":
            await revoke(log, token)
        else:
            monkeypatch.setattr(log.tokens, "clock", lambda: time.time() + 61)
        await ended(watch)
    await until(lambda: not server.services.gate._uses)
    assert server.services.hub.watchers("t") == 0


async def test_others_go_on(server: Serving) -> None:
    log = server.services.log
    one, two = await log.tokens.create(["read"]), await log.tokens.create(["read"])
    async with socket(server, SOCKETS[0], one) as first, socket(server, SOCKETS[0], two) as second:
        await first.until("caught_up")
        await second.until("caught_up")
        await revoke(log, one)
        await ended(first)
        await append(log, "t", 3)
        await second.until_events(3)


async def test_whoever_comes_in_while_the_log_is_asked_stays(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    log = server.services.log
    one, two = await log.tokens.create(["read"]), await log.tokens.create(["read"])
    active, looks, gate = log.tokens.active, 0, asyncio.Event()

    async def held(ids: Iterable[str]) -> set[str]:
        nonlocal looks
        found = await active(ids)
        looks += 1
        await gate.wait()
        return found

    monkeypatch.setattr(log.tokens, "active", held)
    async with socket(server, SOCKETS[0], one) as first:
        await first.until("caught_up")
        await until(lambda: looks == 1)
        async with socket(server, SOCKETS[0], two) as second:
            await second.until("caught_up")
            gate.set()
            await until(lambda: looks == 2)
            await append(log, "t", 1)
            await second.until_events(1)


async def test_a_stream_ends_with_its_token(server: Serving) -> None:
    log = server.services.log
    token = await log.tokens.create(["read"])
    async with http(server, headers=bearer(token)) as client, sse(client, "t") as stream:
        await stream.until("caught_up")
        query = "/api/traces/t/events?follow=1"
        await append(log, "t", 1)
        async with client.stream("GET", query, headers={"Accept": NDJSON}) as lines:
            took = lines.aiter_raw()
            assert b"thought" in await asyncio.wait_for(anext(took), DEADLINE_S)
            await revoke(log, token)
            with pytest.raises(httpx.RemoteProtocolError):  # left unfinished
                await asyncio.wait_for(anext(took), DEADLINE_S)
        assert (await stream.until("error"))["code"] == "unauthorized"
        with pytest.raises(StopAsyncIteration):
            await stream.next()
        refused(await client.get(query), 401, "unauthorized")


async def test_who_waits_for_a_trace_hears_it_too(server: Serving) -> None:
    token = await server.services.log.tokens.create(["read"])
    async with http(server, headers=bearer(token)) as client:
        asked = asyncio.create_task(client.get("/api/traces/none/events?wait=1&follow=1", headers={"Accept": NDJSON}))
        await until(lambda: server.services.gate._uses)
        await revoke(server.services.log, token)
        with pytest.raises(httpx.RemoteProtocolError):
            await asyncio.wait_for(asked, DEADLINE_S)


async def test_one_that_does_not_read_is_freed(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", token_check_s=0.05, send_buffer=8192) as server:
        log = server.services.log
        await make_trace(log, "t")
        await append(log, "t", 400, size=20_000)
        token = await log.tokens.create(["read"])
        async with socket(server, SOCKETS[0], token) as watch:
            await watch.frame()
            watch.ws.transport.pause_reading()
            await until(lambda: server.services.gate._uses)
            await revoke(log, token)
            await until(lambda: not server.services.gate._uses)
            await until(lambda: server.services.hub.watchers("t") == 0)
            watch.ws.transport.resume_reading()
            with pytest.raises(ConnectionClosed):
                while True:
                    await watch.frame()


async def test_a_log_that_can_not_be_asked_ends_nobody_but_the_expired(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = server.services.log
    lasting, brief = await log.tokens.create(["read"]), await log.tokens.create(["read"], expires_in_s=60)
    async with socket(server, SOCKETS[0], lasting) as first, socket(server, SOCKETS[0], brief) as second:
        await first.until("caught_up")
        await second.until("caught_up")

        async def locked(*_: Any) -> Any:
            raise Unavailable("the log can't be read: locked", retry_after_s=1)

        monkeypatch.setattr(log.tokens, "active", locked)
        monkeypatch.setattr(log.tokens, "clock", lambda: time.time() + 61)
        await ended(second)
        await first.say({"event": "ping"})
        await first.until("pong")


async def test_two_processes_at_once(tmp_path: Path) -> None:
    """Made and revoked from outside, as the command line does, while two servers run on the file."""
    db = tmp_path / "log.db"
    log = await open_log(str(db))
    try:
        await make_trace(log, "t")
        with ServerProcess(db) as one, ServerProcess(db) as two:
            token = await log.tokens.create(["read"])
            for server in (one, two):
                async with http(server.url) as client:
                    assert (await client.get("/api/traces")).status_code == 401
                    assert (await client.get("/api/traces", headers=bearer(token))).status_code == 200
            async with (
                socket(one.ws_url, SOCKETS[0], token) as first,
                socket(two.ws_url, SOCKETS[0], token) as second,
            ):
                await first.until("caught_up")
                await second.until("caught_up")
                await revoke(log, token)
                async with asyncio.timeout(60):
                    await asyncio.gather(ended(first), ended(second))
            for server in (one, two):
                async with http(server.url) as client:
                    assert (await client.get("/api/traces", headers=bearer(token))).status_code == 401
    finally:
        await log.close()


# --- guessing -----------------------------------------------------------------------------------------------------


async def test_guessing_is_stopped_and_work_goes_on(server: Serving) -> None:
    log = server.services.log
    known, new = [await log.tokens.create(["read"]) for _ in range(2)]
    async with http(server) as client:

        async def get(token: str) -> httpx.Response:
            return await client.get("/api/traces", headers=bearer(token))

        assert (await get(known)).status_code == 200
        guesses = [f"tw_{token_id_of(known)}_{n:040x}" for n in range(20)]
        answers = await asyncio.gather(*(get(guess) for guess in guesses))  # all at once
        assert sorted(answer.status_code for answer in answers) == [401] * 3 + [429] * 17
        answer = next(answer for answer in answers if answer.status_code == 429)
        refused(answer, 429, "too_many")
        assert 0 < int(answer.headers["retry-after"]) <= 600
        assert (await get(new)).status_code == 429  # not even looked at, so nobody learns whether it was right
        assert (await get(known)).status_code == 200
        assert (await client.get("/api/traces")).status_code == 401  # no token is no guess
        assert (await client.get("/healthz")).status_code == 200
    async with socket(server, SOCKETS[0], guesses[0]) as watch:
        frame = await watch.frame()
        assert (frame["code"], await watch.closed()) == ("too_many", 4029)
    async with socket(server, SOCKETS[0], known) as watch:
        await watch.until("caught_up")


async def test_tokens_that_have_run_out_are_no_guesses(server: Serving) -> None:
    log = server.services.log
    old, good = [await log.tokens.create(["read"]) for _ in range(2)]
    await revoke(log, old)
    async with http(server) as client:
        for _ in range(10):
            assert (await client.get("/api/traces", headers=bearer(old))).status_code == 401
        for _ in range(10):
            assert (await client.get("/api/traces")).status_code == 401
        assert (await client.get("/api/traces", headers=bearer(good))).status_code == 200


async def guesses(client: httpx.AsyncClient, count: int, headers: Callable[[int], dict[str, str]]) -> list[int]:
    return [(await client.get("/api/traces", headers=bearer("wrong") | headers(n))).status_code for n in range(count)]


async def test_an_address_can_not_be_made_up(tmp_path: Path) -> None:
    """X-Forwarded-For counts from a proxy only, and only what that proxy itself has added."""
    more: dict[str, Any] = {"auth_failures": 3, "auth_retry_s": 600}
    async with serving(tmp_path / "log.db", allowed_hosts="x", **more) as server, http(server) as client:
        assert await guesses(client, 5, lambda n: {"X-Forwarded-For": f"192.0.2.{n}"}) == [401] * 3 + [429] * 2
    async with serving(tmp_path / "log.db", proxy="10.0.0.1", **more) as server, http(server) as client:
        assert await guesses(client, 5, lambda n: {"X-Forwarded-For": f"192.0.2.{n}"}) == [401] * 3 + [429] * 2
    async with serving(tmp_path / "log.db", proxy="127.0.0.0/8", **more) as server, http(server) as client:
        assert (
            await guesses(client, 5, lambda n: {"X-Forwarded-For": f"192.0.2.{n}, 198.51.100.1"})
            == [401] * 3 + [429] * 2
        )
        other = bearer("wrong") | {"X-Forwarded-For": "198.51.100.2"}
        assert (await client.get("/api/traces", headers=other)).status_code == 401
        network: Callable[[int], dict[str, str]] = lambda n: {"X-Forwarded-For": f"2001:db8::{n}"}  # noqa: E731
        assert await guesses(client, 5, network) == [401] * 3 + [429] * 2
