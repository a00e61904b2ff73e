"""A server of a test that answers HTTP as it is told to, for what no server of ours answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

Handler = Callable[[bytes], "bytes | AsyncIterator[bytes]"]  # the head and body of a request give an answer, in pieces


def answer(status: str, body: bytes = b"", *headers: str, kind: str = "application/json", length: bool = True) -> bytes:
    """An answer, which ends its connection."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def without_end(start: bytes, piece: bytes, sent: list[int]) -> AsyncIterator[bytes]:
    """An answer that goes on for ever; ``sent`` counts the bytes that were taken."""
    yield start
    while True:
        yield piece
        sent[0] += len(piece)


@contextlib.asynccontextmanager
async def answering(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """The url of a server that answers each request by ``handler``."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):  # the end
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0][15:])) if lengths else b""
                given = handler(head + body)
                if isinstance(given, bytes):
                    writer.write(given)
                else:
                    async for piece in given:
                        writer.write(piece)
                        await writer.drain()
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, host, 0)
    name = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{name}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was aborted is closed in the loop's next turn
        await server.wait_closed()
