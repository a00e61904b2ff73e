"""A reverse proxy that serves the server below ``/watch/`` and answers 404 to all else, as an nginx or Ingress does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

PATH = "/watch"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextlib.asynccontextmanager
async def below_a_path(url: str, *, cut: bool) -> AsyncIterator[str]:
    """The address of a proxy before the server at ``url``; ``cut``: it takes the path off what it passes on."""
    connections: set[asyncio.Task[None]] = set()
    port = int(url.rpartition(":")[2])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        with (
            contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError),
            contextlib.closing(writer),
        ):
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, rest = head.split(b" ", 2)
            if not path.startswith(PATH.encode()) or (cut and not path.startswith(f"{PATH}/".encode())):
                writer.write(NOT_FOUND)
                return
            if b"upgrade: websocket" not in rest.lower():  # one request for each connection keeps this proxy simple
                first, fields = rest.split(b"\r\n", 1)
                kept = [line for line in fields.split(b"\r\n") if not line.lower().startswith(b"connection:")]
                rest = b"\r\n".join([first, b"Connection: close", *kept])
            back, to = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(to):
                to.write(b" ".join([method, path.removeprefix(PATH.encode()) if cut else path, rest]))
                ways = {asyncio.create_task(_pass_on(reader, to)), asyncio.create_task(_pass_on(back, writer))}
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
