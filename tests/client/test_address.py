"""Names and addresses: all of a name are tried, and a look-up that hangs holds up nobody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.test_record import say, steps
from tests.support import DEADLINE_S, serving, until
from tracewatch.client import address
from tracewatch.client.address import Addresses
from tracewatch.client.api import Api
from tracewatch.client.errors import Unreachable
from tracewatch.client.trace import Trace
from tracewatch.client.watch import Watch, watch, watch_sync

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]
LOOKUP = socket.getaddrinfo


class Names:
    """A resolver: names are what they are said to be, or hang."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        self.hangs = False
        self.fails = False
        self.asked = 0
        self.let_go = threading.Event()

    def look(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in self.known or kwargs.get("flags"):
            return LOOKUP(host, port, *args, **kwargs)
        self.asked += 1
        if self.hangs:
            self.let_go.wait(DEADLINE_S)
        if self.fails:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [found for one in self.known[name] for found in LOOKUP(one, port, type=socket.SOCK_STREAM)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.look)
    yield made
    made.let_go.set()


def nobody() -> int:
    """A port at which nobody listens, on any address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(host: str, port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.bind((host, port))
    made.listen()
    return made


async def connects(found: Addresses) -> list[socket.socket]:
    """A connection as threads make it, and one as tasks do."""
    return [await asyncio.to_thread(found.connect, DEADLINE_S), await found.aconnect()]


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
async def test_localhost_is_both(names: Names, host: str) -> None:
    with listening(host) as server:
        for made in await connects(Addresses("localhost", server.getsockname()[1])):
            assert made.getpeername()[0] == host
            made.close()


async def test_a_silent_address_holds_up_the_next_only_for_a_moment(names: Names) -> None:
    """The first address accepts nothing: its backlog is full."""
    with listening("127.0.0.2") as deaf, listening("127.0.0.3", deaf.getsockname()[1]) as server:
        deaf.listen(0)
        filling = []
        for _ in range(3):
            filling.append(socket.socket())
            filling[-1].setblocking(False)
            filling[-1].connect_ex(deaf.getsockname())
        names.known = {"tracewatch.test": ["127.0.0.4", "127.0.0.2", "127.0.0.3"]}
        for made in await connects(Addresses("tracewatch.test", server.getsockname()[1])):
            assert made.getpeername()[0] == "127.0.0.3"
            made.close()
        for one in filling:
            one.close()


async def test_all_that_is_said_when_all_refuse(names: Names) -> None:
    found = Addresses("localhost", nobody())
    with pytest.raises(ConnectionRefusedError, match="refused"):
        await asyncio.to_thread(found.connect, DEADLINE_S)
    with pytest.raises(ConnectionRefusedError):
        await found.aconnect()


async def test_a_look_up_that_hangs_is_one_thread_and_what_was_found_last_is_used(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "LOOKUP_S", 0.01)
    names.known = {"tracewatch.test": ["127.0.0.1"]}
    with listening("127.0.0.1") as server:
        found, other = (Addresses("tracewatch.test", server.getsockname()[1]) for _ in range(2))
        monkeypatch.setattr(address, "LOOKUP_S", DEADLINE_S)
        (await asyncio.to_thread(found.connect, DEADLINE_S)).close()
        monkeypatch.setattr(address, "LOOKUP_S", 0.01)
        names.hangs, names.asked = True, 0
        for _ in range(5):
            for made in await connects(found):
                made.close()
            with pytest.raises(TimeoutError, match=r"tracewatch\.test"):
                await other.aconnect()
        assert names.asked == 2  # one for each, for ever
        names.hangs, names.fails = False, True
        names.let_go.set()
        for made in await connects(found):
            made.close()


async def test_a_recorder_whose_name_hangs_keeps_its_events_and_its_loop(
    tmp_path: Path, names: Names, new_trace: New, spool_dir: Path
) -> None:
    async with serving(tmp_path / "t.db") as server:
        port = server.url.rpartition(":")[2]
        names.known, names.hangs = {"tracewatch.localhost": ["127.0.0.1"]}, True
        with new_trace(f"http://tracewatch.localhost:{port}", trace_id="t") as t:
            say(t, 1, 5)
            await until(lambda: names.asked)
            sender = t._sender
            turned = threading.Event()
            sender.later(0, turned.set)
            assert await asyncio.to_thread(turned.wait, DEADLINE_S)  # the background thread goes on
        names.let_go.set()
        assert await t.aflush(DEADLINE_S)
        assert await steps(server.url, "t") == [1, 2, 3, 4, 5]


async def test_clients_on_a_name_with_several_addresses(tmp_path: Path, names: Names, new_trace: New) -> None:
    names.known = {"tracewatch.localhost": ["127.0.0.9", "127.0.0.1"]}
    async with serving(tmp_path / "t.db") as server:
        url = f"http://tracewatch.localhost:{server.url.rpartition(':')[2]}"
        with new_trace(url, trace_id="t") as t:
            say(t, 1, 2)
        assert await t.aflush(DEADLINE_S)
        assert (await asyncio.to_thread(Api(url).trace, "t"))["trace"]["status"] == "completed"
        assert [e["event"] async for e in watch("t", url=url)][-1] == "trace_completed"
        assert (await asyncio.to_thread(lambda: list(watch_sync("t", url=url))))[-1]["event"] == "trace_completed"


async def test_a_watch_and_a_call_on_a_name_that_hangs_say_so(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "LOOKUP_S", 0.01)
    names.known, names.hangs = {"tracewatch.test": ["127.0.0.1"]}, True
    url = "http://tracewatch.test:1"
    with pytest.raises(Unreachable, match="is not found"):
        await asyncio.to_thread(Api(url).health)
    watching: Watch = watch("t", url=url, max_retry_s=0)
    with pytest.raises(Unreachable, match="is not found"):
        await anext(watching)
    with pytest.raises(Unreachable, match="is not found"):
        await asyncio.to_thread(next, watch_sync("t", url=url, max_retry_s=0))
