"""Whatever happens to Redis, no event is lost or doubled, and hints work again afterwards.

Events are appended at both sides all the time, and each side has a watcher that must get every one of them once.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.live.redis_sides import SLOW, Lines, Relay, command, subscribed, traffic, two
from tests.redis_server import RedisServer
from tests.support import until
from tracewatch.live.redis import HintHealth

pytestmark = pytest.mark.anyio


async def test_absent_at_start(server: RedisServer, tmp_path: Path, lines: Lines) -> None:
    async with two(tmp_path / "log.db", server.url) as (a, b), traffic(a, b) as going:
        await until(lambda: len(lines()) == 2)
        assert a.redis.health == HintHealth(False, True, "it can't be reached: Connection refused")
        text = f"Redis at 127.0.0.1:{server.port}: it can't be reached: Connection refused"
        assert all(line == f"{text}. Watching goes on by the poll; trying again" for line in lines())
        await going.goes_on()
        server.start()
        await a.healthy()
        await b.healthy()
        assert len(lines()) == 4  # one each way for each process
        assert all("is back after" in line for line in lines()[2:])


async def test_killed_and_restarted(server: RedisServer, tmp_path: Path, lines: Lines) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b), traffic(a, b) as going:
            await a.healthy()
            await b.healthy()
            for times in (1, 2):
                server.kill()
                assert await a.degraded()
                assert await b.degraded()
                await going.goes_on()
                assert len(lines()) == 4 * times - 2
                server.start()
                await a.healthy()
                await b.healthy()
                assert len(lines()) == 4 * times
            assert "the connection was lost" in lines()[0]


async def test_hung(server: RedisServer, tmp_path: Path, lines: Lines) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b), traffic(a, b) as going:
            await a.healthy()
            await b.healthy()
            server.hang()
            try:
                assert await a.degraded() == "it does not answer"
                assert await b.degraded() == "it does not answer"
                await going.goes_on()
            finally:
                server.wake()
            await a.healthy()
            await b.healthy()
            assert len(lines()) == 4


async def test_hung_before_the_start_and_closed_meanwhile(server: RedisServer, tmp_path: Path) -> None:
    """Closing does not wait for a Redis that says nothing."""
    with server:
        server.hang()
        async with two(tmp_path / "log.db", server.url) as (a, b), traffic(a, b):
            assert a.redis.health.degraded
        server.wake()


async def test_flushed(server: RedisServer, tmp_path: Path, lines: Lines) -> None:
    """Nothing is kept in Redis, so there is nothing to lose."""
    with server:
        async with two(tmp_path / "log.db", server.url, SLOW) as (a, b):
            await a.healthy()
            await b.healthy()
            watches = traffic(a, b)
            assert await command(server, "DBSIZE") == 0
            async with watches as going:
                await command(server, "FLUSHALL")
                await going.goes_on()  # without a poll
            assert await command(server, "DBSIZE") == 0
            assert lines() == []


@pytest.mark.parametrize("password", ["", ":s3cret-wrong@"])
async def test_wrong_credentials(
    binary: str, tmp_path: Path, lines: Lines, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    """At one side only: it says so, the other is well, and both see everything. Recovery once they are right."""
    with RedisServer(binary, tmp_path, "--requirepass", "right") as server:
        right, wrong = (server.url.replace("//", f"//{given}") for given in (":right@", password))
        async with two(tmp_path / "log.db", (right, wrong)) as (a, b), traffic(a, b) as going:
            await a.healthy()
            await until(lambda: lines())
            await going.goes_on()
            assert (b.redis.health.reason or "").startswith("it refuses the credentials: ")
            assert a.redis.health.ok
            assert len(lines()) == 1
            async with Redis(port=server.port, password="right") as client:
                await client.config_set("requirepass", password.strip(":@"))
            await b.healthy()
            assert len(lines()) == 2
        assert "s3cret" not in caplog.text
        assert "right@" not in caplog.text


@pytest.mark.parametrize("missing", ["-publish", "-subscribe", "resetchannels"])
async def test_rights_that_do_not_suffice_are_found_before_a_hint_is_lost(
    server: RedisServer, tmp_path: Path, lines: Lines, missing: str
) -> None:
    with server:
        await command(server, "ACL", "SETUSER", "tw", "on", ">pw", "~*", "&*", "+@all", missing)
        url = server.url.replace("//", "//tw:pw@")
        async with two(tmp_path / "log.db", (server.url, url)) as (a, b), traffic(a, b) as going:
            await until(lambda: lines())
            await going.goes_on()
            assert "permission" in await b.degraded()
            assert a.redis.health.ok
            await command(server, "ACL", "SETUSER", "tw", "&*", "+@all")
            await b.healthy()
            assert len(lines()) == 2


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_one_of_the_two_connections_dies(server: RedisServer, tmp_path: Path, lines: Lines, kind: str) -> None:
    """The one that hears or the one that publishes: the side notices, and comes back as a whole."""
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b), traffic(a, b) as going:
            await a.healthy()
            await b.healthy()
            await subscribed(server, f"tracewatch:{a.log.epoch}:t")
            await command(server, "CLIENT", "KILL", "TYPE", kind)
            await until(lambda: len(lines()) == 4)
            await a.healthy()
            await b.healthy()
            await going.goes_on()
            assert [("lost" in line, "back" in line) for line in lines()].count((True, False)) == 2
            assert await command(server, "PUBSUB", "NUMSUB", f"tracewatch:{a.log.epoch}:t") == [
                f"tracewatch:{a.log.epoch}:t".encode(),
                2,
            ]


@pytest.mark.parametrize("dead", [0, 1])
async def test_one_of_the_two_connections_falls_silent(
    server: RedisServer, tmp_path: Path, lines: Lines, dead: int
) -> None:
    """Nothing is closed: a cable is out. The other connection and the other side are well meanwhile."""
    with server:
        async with Relay(server.port).listening() as relay, two(tmp_path / "log.db", (server.url, relay.url)) as (a, b):
            async with traffic(a, b) as going:
                await a.healthy()
                await b.healthy()
                relay.dead.add(dead)
                assert await b.degraded() == "it does not answer"
                await going.goes_on()
                await b.healthy()
                assert relay.connections == 4
                assert len(lines()) == 2
                assert a.redis.health.ok


async def test_two_redis_that_know_nothing_of_each_other(binary: str, tmp_path: Path) -> None:
    """A mistake no process can see from its own end; it costs the time to the next poll."""
    with RedisServer(binary, tmp_path) as one, RedisServer(binary, tmp_path) as other:
        async with two(tmp_path / "log.db", (one.url, other.url)) as (a, b):
            await a.healthy()
            await b.healthy()
            async with traffic(a, b):
                pass


async def test_not_a_redis_at_all(tmp_path: Path, lines: Lines) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with two(tmp_path / "log.db", url) as (a, b), traffic(a, b):
            await until(lambda: len(lines()) == 2)
            assert a.redis.health.degraded
