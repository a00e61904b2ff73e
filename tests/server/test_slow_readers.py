"""A watcher that reads slowly or not at all: it costs bounded memory, delays no other one, and loses no event."""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from websockets.asyncio.client import connect

from tests.server.wire import Watch, append, end, http, ids, make_trace, stored, watching
from tests.support import Serving, serving, until
from tracewatch.live.sink import Frame
from tracewatch.live.watcher import Watcher
from tracewatch.server.sinks import TransportSink
from tracewatch.server.socket import WebSocketProtocol

pytestmark = pytest.mark.anyio
LIMIT = 64 * 1024  # what a slow watcher may cost in these tests
EVENT = 16 * 1024


@asynccontextmanager
async def slow(server: Serving, path: str) -> AsyncIterator[Watch]:
    """A client that takes nothing until it is read from: small buffers on its side, and a queue of one frame."""
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 32768)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    ws = await connect(f"{server.ws_url}{path}", sock=raw, compression=None, max_size=None, max_queue=1)
    try:
        yield Watch(ws)
    finally:
        ws.transport.abort()
        await ws.wait_closed()


def buffered(server: Serving) -> int:
    """The most bytes that wait in this process for any one WebSocket watcher."""
    return max((w.sink.buffered() for w in server.services.hub._watchers if w.sink.direct), default=0)


def waiting(watcher: Watcher) -> int:
    """How many wait for room on this watcher's socket."""
    assert isinstance(watcher.sink, TransportSink)
    assert isinstance(watcher.sink._socket, WebSocketProtocol)
    room = watcher.sink._socket._room
    return 0 if room is None else len(room._waiters)


async def fill(server: Serving, trace_id: str, total: int) -> int:
    """Append ``total`` bytes; the largest buffer seen meanwhile."""
    most = 0
    for _ in range(total // (4 * EVENT)):
        await append(server.services.log, trace_id, 4, size=EVENT)
        most = max(most, buffered(server))
    return most


async def test_a_stalled_watcher_falls_behind_and_loses_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", watcher_bytes=LIMIT, send_buffer=LIMIT) as server:
        log = server.services.log
        await make_trace(log, "t")
        async with slow(server, "/api/traces/t/watch") as stalled, watching(server, "t") as quick:
            await stalled.until("caught_up")
            await quick.until("caught_up")
            most = await fill(server, "t", 3 << 20)
            bodies = await stored(log, "t")
            await quick.until_events(len(bodies))  # while the other one still takes nothing
            assert quick.events == bodies
            assert stalled.events == []
            # Half the limit before it is sent back to the log, and one chunk that was on its way
            assert 0 < most <= LIMIT + 2 * EVENT, most
            await until(lambda: buffered(server) <= LIMIT + 2 * EVENT)
            await stalled.until("fell_behind")
            fell = stalled.control[-1]
            assert fell["sent_event_id"] == ids(stalled.events)[-1] < fell["current_event_id"]
            caught_up = await stalled.until("caught_up")
            assert stalled.events == bodies
            assert caught_up["replayed"] == len(bodies) - fell["sent_event_id"]
            await append(log, "t", 3)
            await stalled.until_events(len(bodies) + 3)  # at the head again
            await end(log, "t")
            await stalled.until("trace_completed")
            assert stalled.events == await stored(log, "t")


async def test_a_slow_backfill_is_paced(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db", watcher_bytes=LIMIT, send_buffer=LIMIT, page_bytes=LIMIT) as server:
        log = server.services.log
        await make_trace(log, "t")
        await fill(server, "t", 3 << 20)
        async with slow(server, "/api/traces/t/watch?until=end") as reader:
            await until(lambda: buffered(server) > 0)
            most = await fill(server, "t", 1 << 20)  # it grows meanwhile
            await end(log, "t")
            assert most <= LIMIT + 2 * EVENT, most
            assert await reader.closed() == 1000
            assert reader.events == await stored(log, "t")
            assert "fell_behind" not in reader.names()  # it was never live


async def test_many_subscriptions_of_one_slow_socket_share_one_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks: list[int] = []
    send_events = TransportSink.send_events

    async def measured(sink: TransportSink, frames: Sequence[Frame]) -> None:
        await send_events(sink, frames)
        peaks.append(sink.buffered())

    monkeypatch.setattr(TransportSink, "send_events", measured)
    async with serving(tmp_path / "log.db", watcher_bytes=LIMIT, send_buffer=LIMIT) as server:
        log = server.services.log
        names = [f"t{n}" for n in range(40)]
        for name in names:
            await make_trace(log, name)
            await append(log, name, 8, size=EVENT)
        async with slow(server, "/api/watch") as reader:
            for name in names:
                await reader.say({"subscribe": {"trace_id": name}})
            await until(lambda: max(map(waiting, server.services.hub._watchers), default=0) >= 30)
            received: dict[str, list[int]] = {name: [] for name in names}
            while sum(map(len, received.values())) < 8 * len(names):
                frame = await reader.frame()
                if "event_id" in frame:
                    received[frame["trace_id"]].append(frame["event_id"])
            assert all(found == list(range(1, 9)) for found in received.values())
            assert 0 < max(peaks) <= LIMIT + 2 * EVENT, max(peaks)


async def test_a_slow_stream_is_paced(tmp_path: Path) -> None:
    """Server-sent events wait for their reader; what leaves memory meanwhile comes from the log."""
    async with serving(tmp_path / "log.db", watcher_bytes=LIMIT, send_buffer=LIMIT) as server, http(server) as client:
        log = server.services.log
        await make_trace(log, "t")
        asked = {"Accept": "text/event-stream"}
        async with client.stream("GET", "/api/traces/t/events", headers=asked) as response:
            await until(lambda: server.services.hub.watchers("t") == 1)
            await fill(server, "t", 3 << 20)
            await end(log, "t")
            text = await response.aread()
        blocks = [dict(line.split(b": ", 1) for line in block.split(b"\n")) for block in text.split(b"\n\n") if block]
        assert [block[b"data"] for block in blocks if b"id" in block] == await stored(log, "t")
        names = [block[b"event"] for block in blocks if b"id" not in block]
        assert names == [b"connected", b"caught_up", b"fell_behind", b"caught_up", b"end"]
        assert orjson.loads(blocks[-1][b"data"])["status"] == "completed"
