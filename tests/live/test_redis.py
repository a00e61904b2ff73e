"""Hints over a real Redis: they work without the poll, reach only processes with watchers, and are always checked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.live.redis_sides import SLOW, Side, command, subscribed, two
from tests.log.helpers import create, notes
from tests.redis_server import RedisServer, in_wheel, on_path
from tests.support import serving, until
from tracewatch.errors import InvalidField, LogError
from tracewatch.live import redis as hints
from tracewatch.live.redis import PENDING, HintHealth, connector
from tracewatch.log import Grown
from tracewatch.settings import Settings

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("find", [on_path, in_wheel])
async def test_hints_carry_both_ways_without_a_poll(find: Callable[[], str | None], tmp_path: Path) -> None:
    binary = find()
    if binary is None:
        pytest.skip(f"{find.__name__}: no redis-server there")
    with RedisServer(binary, tmp_path) as server:
        async with two(tmp_path / "log.db", server.url, SLOW) as (a, b):
            await create(a.log)
            await a.healthy()
            await b.healthy()
            at_a, at_b = a.watch(), b.watch()
            await subscribed(server, f"tracewatch:{a.log.epoch}:t")
            for number in range(10):
                await (a, b)[number % 2].log.append("t", notes(3))
                await until(lambda: len(at_a.ids) == len(at_b.ids) == 3 * number + 3)  # noqa: B023
            assert at_a.ids == at_b.ids == list(range(1, 31))


async def test_a_watch_that_waits_for_its_trace_is_woken(server: RedisServer, tmp_path: Path) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url, SLOW) as (a, b):
            heard = b.watch("later")
            await a.healthy()
            await subscribed(server, f"tracewatch:{a.log.epoch}:later")
            await create(a.log, "later")
            await a.log.append("later", notes(2))
            await until(lambda: heard.ids == [1, 2])


async def test_subscribed_only_while_somebody_watches(server: RedisServer, tmp_path: Path) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b):
            prefix = f"tracewatch:{a.log.epoch}:"
            await a.healthy()
            await b.healthy()
            await subscribed(server)  # the proof's channel is gone as well
            for trace_id in ("t", "u"):
                await create(a.log, trace_id)
            a.watch("t")
            b.watch("t")
            b.watch("u")
            await subscribed(server, prefix + "t", prefix + "u")
            await b.leave()
            await subscribed(server, prefix + "t")
            await a.leave()
            await subscribed(server)


async def test_what_was_watched_is_subscribed_again_after_a_restart(server: RedisServer, tmp_path: Path) -> None:
    """More than fit one command; without a poll, so that only a subscription can bring the event."""
    with server:
        async with two(tmp_path / "log.db", server.url, SLOW) as (a, b):
            await create(a.log)
            names = [f"w{number}" for number in range(hints.SUBSCRIBE + 1)]
            for name in names:
                b.watch(name)
            heard = b.watch()
            server.kill()
            await a.degraded()
            await b.degraded()
            server.start()
            await a.healthy()
            await b.healthy()
            await subscribed(server, *(f"tracewatch:{a.log.epoch}:{name}" for name in [*names, "t"]))
            await a.log.append("t", notes(1))
            await until(lambda: heard.ids == [1])


async def test_own_hints_are_no_news(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b):
            rung: dict[Side, list[int]] = {a: [], b: []}
            for one in (a, b):
                monkeypatch.setattr(one.hub, "hint", lambda _, last, one=one: rung[one].append(last))
            await create(a.log)
            a.watch()
            b.watch()
            await a.healthy()
            await b.healthy()
            await subscribed(server, f"tracewatch:{a.log.epoch}:t")
            await a.log.append("t", notes(1))
            await until(lambda: rung[b] == [1])
            await b.log.append("t", notes(1))
            await until(lambda: rung[a] == [2])  # what comes back of its own came before this


# --- hints are only hints ---------------------------------------------------------------------------------------


async def test_nonsense_late_and_repeated_hints_change_nothing(server: RedisServer, tmp_path: Path) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, b):
            await create(a.log)
            await b.healthy()
            heard = b.watch()
            channel = f"tracewatch:{a.log.epoch}:t"
            await subscribed(server, channel)
            await a.log.append("t", notes(5))
            ids: list[Any] = [None, True, "6", 1.5, [], -1, 0, 1, 5, 5, 3, 6, 2**63]
            said = [b"", b"\xff", b"{", b"[]", b"null", b"7", *(orjson.dumps({"last_event_id": one}) for one in ids)]
            said.append(b'{"last_event_id":1' + b"0" * 40 + b"}")
            said.append(b'{"last_event_id":1000000,"status":"completed","deleted":true,"bodies":["x"]}')
            for payload in said:
                assert await command(server, "PUBLISH", channel, payload) == 1
            await a.log.append("t", notes(5))
            await until(lambda: len(heard.ids) >= 10)
            assert heard.ids == list(range(1, 11))
            assert b.redis.health == HintHealth(True, False, None)
            assert not b.watches[0].done()


async def test_what_redis_does_not_take_is_dropped(server: RedisServer, tmp_path: Path) -> None:
    with server:
        async with two(tmp_path / "log.db", server.url) as (a, _):
            await a.healthy()
            server.hang()
            try:
                for number in range(PENDING + 500):
                    a.redis._committed([Grown(f"t{number}", 1, "running")])
                    a.redis._committed([Grown("t0", number, "running")])
                assert len(a.redis._pending) == PENDING
                assert a.redis._pending["t0"] == PENDING + 499  # one for each trace, the newest
                await a.degraded()
                assert not a.redis._pending
                a.redis._committed([Grown("t", 1, "running")])
                assert not a.redis._pending  # nothing is kept for later
            finally:
                server.wake()
            await a.healthy()


# --- wiring -----------------------------------------------------------------------------------------------------


async def test_the_server_has_it(server: RedisServer, tmp_path: Path) -> None:
    with server:
        db = tmp_path / "log.db"
        async with serving(db, redis=server.url) as a, serving(db, redis=server.url) as b, serving(db) as without:
            assert without.services.redis is None
            for one in (a, b):
                hints = one.services.redis
                assert hints is not None
                await until(lambda: hints.health.ok)  # noqa: B023


@pytest.mark.parametrize("url", ["redis://h:s3cret", "redis://:s3cret@h:port", "redis://h:1/x?socket_timeout=s3cret"])
def test_an_address_that_can_not_be_used_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(LogError, match="--redis: not an address") as caught:
        connector(url)
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("url", ["http://h", "redis://", "h:6379", "reds://:s3cret@h"])
def test_a_setting_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidField, match="TRACEWATCH_REDIS: must be an address that begins with redis://") as caught:
        Settings.from_env({"TRACEWATCH_REDIS": url})
    assert "s3cret" not in str(caught.value.body())


def test_without_the_extra_serve_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "import tracewatch\nfrom tracewatch.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    argv = ["serve", "--db", str(tmp_path / "log.db"), "--port", "0", "--redis", "redis://127.0.0.1:1"]
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert "pip install 'tracewatch[redis]'" in done.stderr
