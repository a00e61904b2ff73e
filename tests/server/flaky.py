"""A network that breaks at any byte, and clients that reconnect, for the property tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidMessage, WebSocketException

RETRY_S = 0.02
BROKEN = (OSError, WebSocketException, InvalidHandshake, InvalidMessage, EOFError, TimeoutError, httpx.HTTPError)


class Proxy:
    """A TCP proxy to a server that may move; ``cut`` breaks what is connected after so many more bytes."""

    def __init__(self, target: Callable[[], int]) -> None:
        self.port = 0
        self._target = target  # the server's port, when asked
        self._left: dict[str, int | None] = {"up": None, "down": None}
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self._abort()

    def cut(self, direction: str, after_bytes: int) -> None:
        """Break the connection once ``after_bytes`` more have gone ``up`` or ``down``."""
        self._left[direction] = after_bytes
        if not after_bytes:
            self._left[direction] = None
            self._abort()

    def _abort(self) -> None:
        for writer in tuple(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target())
        except OSError:
            writer.transport.abort()
            return
        both = {writer, to_writer}
        self._open |= both
        try:
            pumps = [self._pump("up", reader, to_writer), self._pump("down", to_reader, writer)]
            tasks = [asyncio.ensure_future(pump) for pump in pumps]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._open -= both
            for one in both:
                one.transport.abort()

    async def _pump(self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(16_384):
            left = self._left[direction]
            if left is not None:
                data = data[:left]
                self._left[direction] = left = left - len(data)
            writer.write(data)
            await writer.drain()
            if left == 0:
                self._left[direction] = None
                return


class Recorder:
    """Sends batches over the record socket until each is acknowledged, over as many connections as it takes."""

    def __init__(self, port: int, trace_id: str, name: str) -> None:
        self.name = name
        self.sent = 0  # events made so far
        self.acked: list[int] = []  # their numbers
        self._url = f"ws://127.0.0.1:{port}/api/traces/{trace_id}/record?producer={name}"
        self._batches: list[tuple[int, int, int]] = []  # (seq, count, size), not yet acknowledged
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def record(self, count: int, size: int) -> None:
        """Record ``count`` events of about ``size`` bytes each."""
        self._batches.append((self.sent + 1, count, size))
        self.sent += count
        self._idle.clear()
        self._more.set()

    async def idle(self) -> None:
        """Wait until everything is acknowledged."""
        await self._idle.wait()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with connect(self._url, compression=None, open_timeout=5, close_timeout=1) as ws:
                    await self._session(ws)
            except BROKEN:
                await asyncio.sleep(RETRY_S)

    async def _session(self, ws: Any) -> None:
        orjson.loads(await ws.recv())["ready"]
        sending = asyncio.create_task(self._send(ws))
        try:
            async for message in ws:
                frame = orjson.loads(message)
                if "goaway" in frame or "event" in frame:
                    continue
                assert "ack" in frame, frame
                seq, count, _ = self._batches.pop(0)
                assert frame["ack"]["seq"] == seq + count - 1, (frame, seq, count)
                self.acked.extend(range(seq, seq + count))
                if not self._batches:
                    self._idle.set()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, ws: Any) -> None:
        last = 0  # the seq of the last batch sent here; those not acknowledged before are sent again
        while True:
            self._more.clear()
            for seq, count, size in [batch for batch in self._batches if batch[0] > last]:
                events = [self._event(seq + n, size) for n in range(count)]
                await ws.send(orjson.dumps({"append": {"seq": seq, "events": events}}).decode())
                last = seq
            await self._more.wait()

    def _event(self, n: int, size: int) -> dict[str, Any]:
        return {"event": ("thought", "action", "output")[n % 3], "by": self.name, "n": n, "pad": "x" * size}


class Follower:
    """Watches to the end over as many connections as it takes, always from the last cursor it was given."""

    def __init__(self, port: int, trace_id: str, since: str | None, types: str | None, transport: str) -> None:
        self.start: int | None = None  # the event_id its first connection began after
        self.events: list[bytes] = []
        self.types = None if types is None else frozenset(types.split(","))
        self.reading = asyncio.Event()  # cleared: takes nothing
        self.reading.set()
        self._cursor = since
        self._types = types
        self._transport = transport
        self._base = f"127.0.0.1:{port}/api/traces/{trace_id}"

    async def run(self) -> None:
        """Until the ``end`` frame."""
        session = self._over_websocket if self._transport == "ws" else self._over_sse
        while True:
            with contextlib.suppress(*BROKEN):
                if await session():
                    return
            await asyncio.sleep(RETRY_S)

    def _query(self) -> dict[str, str]:
        query = {"until": "end"}
        if self._cursor is not None:
            query["since_event_id"] = self._cursor
        if self._types is not None:
            query["types"] = self._types
        return query

    def _take(self, data: bytes) -> bool:
        frame = orjson.loads(data)
        assert frame["event"] not in ("gap", "error"), frame
        if "event_id" in frame:
            self.events.append(data)
            assert self._cursor is not None
            self._cursor = f"{self._cursor.split('.')[0]}.{frame['event_id']}"
        elif "cursor" in frame:
            self._cursor = frame["cursor"]
            if self.start is None:
                self.start = int(frame["cursor"].split(".")[1])
        return bool(frame["event"] == "end")

    async def _over_websocket(self) -> bool:
        url = str(httpx.URL(f"ws://{self._base}/watch", params=self._query()))
        async with connect(url, compression=None, max_queue=1, open_timeout=5, close_timeout=0.1, max_size=None) as ws:
            while True:
                await self.reading.wait()
                if self._take(await ws.recv(decode=False)):
                    return True

    async def _over_sse(self) -> bool:
        query, headers = self._query(), {"Accept": "text/event-stream"}
        if self.start is not None:
            headers["Last-Event-ID"] = query.pop("since_event_id")
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            url = f"http://{self._base}/events"
            async with client.stream("GET", url, params=query, headers=headers) as response:
                if response.status_code == 204:
                    return True
                response.raise_for_status()
                buffer = b""
                async for chunk in response.aiter_raw():
                    await self.reading.wait()
                    *blocks, buffer = (buffer + chunk).split(b"\n\n")
                    for block in blocks:
                        if self._take(block[block.index(b"data: ") + 6 :]):
                            return True
        return False
