"""A TCP proxy that treats connections as networks do: it delays, cuts and drops them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit


class Proxy:
    """Stands before a server. Change its attributes at any time; they hold for all connections from then on."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.to = (parts.hostname, parts.port)
        self.url = ""
        self.connections = 0
        self.swallow_answers = False  # what the server says does not arrive
        self.cut_after: int | None = None  # bytes of the client's to pass on before the connection is reset
        self.largest: int | None = None  # bytes of the client's that come at once; with more the connection is reset
        self.refuse = False  # new connections are reset
        # Of each connection's first request: what to pass on in its place, or what to answer instead ("HTTP/…")
        self.first_head: Callable[[bytes], bytes] = lambda head: head
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self.refuse:
                return
            head = self.first_head(await reader.readuntil(b"\r\n\r\n"))
            if head.startswith(b"HTTP/"):
                writer.write(head)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
                return
            back, upstream = await asyncio.open_connection(*self.to)
            self._writers.add(upstream)
            head = head if self.cut_after is None else head[: self.cut_after]
            if self.cut_after is not None:
                self.cut_after -= len(head)
            upstream.write(head)
            pumps = [
                asyncio.create_task(self._pump(reader, upstream, from_client=True)),
                asyncio.create_task(self._pump(back, writer, from_client=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, upstream):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536 if self.largest is None else self.largest + 1):
                if from_client and self.largest is not None and len(data) > self.largest:
                    return
                if from_client and self.cut_after is not None:
                    data = data[: self.cut_after]
                    self.cut_after -= len(data)
                elif not from_client and self.swallow_answers:
                    continue
                writer.write(data)
                await writer.drain()
                if from_client and self.cut_after == 0:
                    self.cut_after = None
                    return


@contextlib.asynccontextmanager
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """A proxy before ``url``, on a free port."""
    made = Proxy(url)
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        made.cut()
        await server.wait_closed()
        await asyncio.sleep(0)
