"""Hostile clients for tests and a benchmark: each is a coroutine that goes on until it is cancelled.

``python -m tests.hostile.clients NAME PORT TRACE_ID`` runs one of them in a process of its own, until stdin ends.

Rule 1: they use bare sockets, because libraries would not let them misbehave.
Rule 2: a hostile client that is disconnected connects again and reports nothing. The tests look at the other clients.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

TEXT, BINARY, PING, CONTINUATION = 0x1, 0x2, 0x9, 0x0
ALL_EVENTS = "since_event_id=0"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is, and a trace with some events in it."""

    port: int
    trace_id: str
    over: asyncio.Event  # set: stop

    @property
    def trace(self) -> str:
        """The path of the trace."""
        return f"/api/traces/{self.trace_id}"


Abuse = Callable[..., Coroutine[Any, Any, None]]


def frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A client's WebSocket frame (RFC 6455 section 5.2), masked with zeros."""
    first = (0x80 if fin else 0) | (0x40 if rsv1 else 0) | opcode
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


def handshake(target: Target, path: str, *more: str) -> bytes:
    """The request that opens a WebSocket."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{target.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dHJhY2V3YXRjaGJlbmNoIQ==",
        "Sec-WebSocket-Version: 13",
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def request(target: Target, method: str, path: str, body: bytes, *more: str) -> bytes:
    """An HTTP request that ends the connection."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{target.port}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@asynccontextmanager
async def connected(
    target: Target, *, receive_buffer: int = 0
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection that is gone at once at the end."""
    raw = socket.socket()
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", target.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=1 << 16)
    except BaseException:
        raw.close()
        raise
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def crowd(target: Target, count: int, one: Callable[[], Awaitable[None]]) -> None:
    """``count`` at once, each coming again when it was cut off, until it is over."""

    async def again() -> None:
        while not target.over.is_set():
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await one()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(again()) for _ in range(count)]
    try:
        await target.over.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def upgraded(reader: asyncio.StreamReader) -> None:
    """Read the answer to a handshake."""
    await reader.readuntil(b"\r\n\r\n")


# --- reading too little --------------------------------------------------------------------------------------


async def never_reads(target: Target) -> None:
    """Ask for everything, over every transport, and take none of it."""
    accepts = ("text/event-stream", "application/x-ndjson", "application/json")
    ways = [handshake(target, f"{target.trace}/watch?{ALL_EVENTS}")]
    ways += [
        request(target, "GET", f"{target.trace}/events?{ALL_EVENTS}&follow=1", b"", f"Accept: {one}") for one in accepts
    ]

    async def one() -> None:
        async with connected(target, receive_buffer=4096) as (_, writer):
            writer.write(random.choice(ways))
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's own is a ReadTransport too
            await target.over.wait()

    await crowd(target, 60, one)


async def talks_and_never_listens(target: Target) -> None:
    """Say what has an answer, again and again, and read no answer."""
    words = [
        frame(b"ping") * 200,
        frame(b'{"event":"ping","id":"%s"}' % (b"x" * 400)) * 50,
        frame(b"p" * 100, PING) * 100,
        frame(b'{"subscribe":{"trace_id":"no-such-trace"}}') * 50,
    ]

    async def one() -> None:
        async with connected(target, receive_buffer=4096) as (reader, writer):
            writer.write(handshake(target, "/api/watch"))
            await upgraded(reader)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            while not target.over.is_set():
                writer.write(random.choice(words))
                await writer.drain()
                await asyncio.sleep(0.005)

    await crowd(target, 10, one)


# --- WebSocket frames nobody should send ---------------------------------------------------------------------


async def _sends(target: Target, count: int, path: str, chunks: Callable[[], AsyncIterator[bytes]]) -> None:
    async def one() -> None:
        async with connected(target) as (reader, writer):
            writer.write(handshake(target, path))
            await upgraded(reader)
            drain = asyncio.create_task(reader.read(-1))  # what comes back is nobody's concern
            try:
                async for chunk in chunks():
                    writer.write(chunk)
                    await writer.drain()
                await asyncio.wait({drain}, timeout=1)
            finally:
                drain.cancel()
                await asyncio.gather(drain, return_exceptions=True)

    await crowd(target, count, one)


async def binary(target: Target) -> None:
    """Binary frames."""

    async def chunks() -> AsyncIterator[bytes]:
        yield frame(os.urandom(2000), BINARY)

    await _sends(target, 5, f"{target.trace}/watch", chunks)


async def endless_fragments(target: Target) -> None:
    """A message that begins and never ends."""

    async def chunks() -> AsyncIterator[bytes]:
        yield frame(b"[", TEXT, fin=False)
        while True:
            yield frame(b" " * 16_384, CONTINUATION, fin=False)
            await asyncio.sleep(0.001)

    await _sends(target, 5, f"{target.trace}/record", chunks)


async def empty_fragments(target: Target) -> None:
    """A message in fragments of nothing: never large, never over."""

    async def chunks() -> AsyncIterator[bytes]:
        yield frame(b"[", TEXT, fin=False)
        while True:
            yield frame(b"", CONTINUATION, fin=False) * 500
            await asyncio.sleep(0.02)

    await _sends(target, 3, f"{target.trace}/watch", chunks)


async def huge_frames(target: Target) -> None:
    """Frames of 10 MB, in pieces as a network brings them: written whole, they keep one of the cores in the kernel."""
    whole = frame(b'{"append":{"events":[{"event":"x","text":"' + b"x" * 10_000_000 + b'"}]}}')

    async def chunks() -> AsyncIterator[bytes]:
        for first in range(0, len(whole), 1 << 16):
            yield whole[first : first + (1 << 16)]

    await _sends(target, 3, f"{target.trace}/record", chunks)


async def tiny_frames(target: Target) -> None:
    """As many small frames as the socket takes."""

    async def chunks() -> AsyncIterator[bytes]:
        burst = frame(b"ping") * 1000
        while True:
            yield burst
            await asyncio.sleep(0)

    await _sends(target, 2, f"{target.trace}/watch?since_event_id=latest", chunks)


async def compressed_bomb(target: Target) -> None:
    """A compressed frame of zeros, agreed upon or not."""
    deflate = zlib.compressobj(9, wbits=-15)
    bomb = deflate.compress(b"0" * 50_000_000) + deflate.flush(zlib.Z_SYNC_FLUSH)
    opening = handshake(target, "/api/watch", "Sec-WebSocket-Extensions: permessage-deflate")

    async def one() -> None:
        async with connected(target) as (reader, writer):
            writer.write(opening)
            await upgraded(reader)
            writer.write(frame(bomb[:-4], rsv1=True))
            await writer.drain()
            await asyncio.wait_for(reader.read(-1), 1)

    async def quietly() -> None:
        with suppress(TimeoutError):
            await one()

    await crowd(target, 4, quietly)


# --- connections that lead nowhere ---------------------------------------------------------------------------


async def slow_loris(target: Target) -> None:
    """Requests, handshakes and bodies that come a byte now and then."""
    opening = handshake(target, f"{target.trace}/watch")
    post = request(target, "POST", f"{target.trace}/events", b"x" * 1000)
    slow = [opening[:-4], post[: post.index(b"\r\n\r\n")], post[: post.index(b"\r\n\r\n") + 4]]

    async def one() -> None:
        text = random.choice(slow)
        async with connected(target) as (reader, writer):
            at = len(text) if text is slow[2] else random.randrange(1, 40)
            writer.write(text[:at])
            closed = asyncio.create_task(reader.read(1))
            try:
                while not closed.done():
                    await asyncio.wait({closed}, timeout=0.3)
                    writer.write((text + b"x" * 10_000)[at : at + 1])
                    at += 1
            finally:
                closed.cancel()
                await asyncio.gather(closed, return_exceptions=True)

    await crowd(target, 100, one)


async def half_open(target: Target) -> None:
    """Connections that say nothing, and WebSockets that answer no ping."""
    opening = handshake(target, f"{target.trace}/watch?since_event_id=latest")

    async def one() -> None:
        async with connected(target) as (reader, writer):
            if random.random() < 0.5:
                writer.write(opening)
            while await reader.read(1 << 16):
                pass

    await crowd(target, 100, one)


async def connection_storm(target: Target, count: float = 10_000, seconds: float = 10.0) -> None:
    """This many connections in this time, most of them held as long as they may be. What they watch does not grow."""
    held: list[asyncio.Task[None]] = []
    opening = handshake(target, f"{target.trace}-idle/watch?since_event_id=latest")

    async def one(number: int) -> None:
        with suppress(OSError):
            async with connected(target) as (reader, writer):
                if number % 3:
                    writer.write(opening if number % 3 == 1 else b"GET / HT")
                while await reader.read(1 << 16):
                    pass

    try:
        for number in range(int(count)):
            if target.over.is_set():
                break
            held.append(asyncio.create_task(one(number)))
            await asyncio.sleep(seconds / count)
        await target.over.wait()
    finally:
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


# --- JSON nobody should send ---------------------------------------------------------------------------------

DEEP = b"[" * 100_000 + b"]" * 100_000
NASTY: Sequence[bytes] = (
    DEEP,
    b'{"event":"x","v":' + DEEP + b"}",
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    b'{"event":"x","v":NaN}',
    b'{"event":"x","v":Infinity}',
    b'{"event":"x","v":1e400}',
    b'{"event":"x","v":' + b"9" * 100_000 + b"}",
    b'{"event":"x","v":9223372036854775808}',
    b'{"event":"x","v":-9223372036854775809}',
    b'{"event":"x","v":18446744073709551616}',
    b'{"event":"x","v":"\\ud800"}',
    b'{"event":"x","v":"\\udc00\\ud800"}',
    b'{"event":"x","v":"\xed\xa0\x80"}',
    b'{"event":"x","v":"\xff\xfe"}',
    b'{"event":"x","v":"\\u0000"}',
    b'{"event":"x","v":"a\x00b"}',
    b'{"event":"x","event":"y","v":1,"v":2}',
    b'{"event":"trace_completed","status":"completed","status":"failed"}'[:-1],
    b'{"event":"x","":{"":{"":[]}}}'[:-1],
    b'{"event":"x","occurred_at":"9999-99-99T99:99:99Z"}',
    b'{"event":"message_added","message":{"role":"user","content":"x","tokens":1e308}}',
    b'{"event":"message_added","message":{"role":"user","content":"x","cost":-1}}',
    b'{"event":"goal_added","goal":{"id":"g","description":"x","parent_id":"g"}}',
    b"[" + b"{}," * 20_000 + b"{}]",
    b"null",
    b'"',
    b"",
    b"\xef\xbb\xbf{}",
    b"[[[[",
    b"{" * 1000,
)


async def nasty_json(target: Target) -> None:
    """Bodies and messages that parsers stumble over, over HTTP and both kinds of socket."""

    async def post() -> None:
        path = random.choice((f"{target.trace}/events", "/api/traces", f"{target.trace}/cancel", "/api/import"))
        async with connected(target) as (reader, writer):
            writer.write(request(target, "POST", path, random.choice(NASTY)))
            await writer.drain()
            await asyncio.wait_for(reader.read(-1), 5)

    async def say() -> None:
        path = random.choice((f"{target.trace}/record", "/api/watch", f"{target.trace}/watch"))
        async with connected(target) as (reader, writer):
            writer.write(handshake(target, path))
            await upgraded(reader)
            value = random.choice(NASTY)
            writer.write(frame(random.choice((value, b'{"append":{"events":[' + value + b"]}}"))))
            await writer.drain()
            await asyncio.wait_for(reader.read(1 << 20), 1)

    async def one() -> None:
        with suppress(TimeoutError):
            await random.choice((post, say))()

    await crowd(target, 8, one)


ABUSES: dict[str, Abuse] = {
    one.__name__: one
    for one in (
        never_reads,
        talks_and_never_listens,
        binary,
        endless_fragments,
        empty_fragments,
        huge_frames,
        tiny_frames,
        compressed_bomb,
        slow_loris,
        half_open,
        connection_storm,
        nasty_json,
    )
}


async def main(name: str, port: int, trace_id: str, *more: float) -> None:
    """Misbehave until stdin ends."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(0, lambda: None if os.read(0, 4096) else over.set())
    await ABUSES[name](Target(port, trace_id, over), *more)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], *map(float, sys.argv[4:])))
