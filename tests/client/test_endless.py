"""Answers that never end: every client takes a bounded part of them, and says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import orjson
import pytest

from tests.client.answers import answer, answering, without_end
from tests.client.test_record import say
from tests.support import DEADLINE_S, until
from tracewatch.client import api as api_module
from tracewatch.client.address import Addresses
from tracewatch.client.api import Api
from tracewatch.client.errors import ApiError, Unreachable
from tracewatch.client.http import ANSWER_BYTES, HttpConnection
from tracewatch.client.link import ServerUplink
from tracewatch.client.target import parse_target
from tracewatch.client.trace import Trace
from tracewatch.client.watch import watch, watch_sync
from tracewatch.errors import TracewatchError

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]
BUFFERS = 16 * 1024 * 1024  # what the system and the libraries may hold on the way, at the very most
PIECE = b"x" * 65536
SPEC = {"trace_id": "t", "task": "x"}


def endless(
    status: str, sent: list[int], start: bytes = b"", piece: bytes = PIECE
) -> Callable[[bytes], AsyncIterator[bytes]]:
    def handler(request: bytes) -> AsyncIterator[bytes]:
        return without_end(answer(status, start, length=False), piece, sent)

    return handler


CALLS: dict[str, Callable[[Api], Any]] = {
    "create": lambda api: api.create_trace(SPEC),
    "append": lambda api: api.append("t", []),
    "import": lambda api: api.import_lines([b"{}"]),
    "list": lambda api: api.traces(),
    "trace": lambda api: api.trace("t"),
    "messages": lambda api: api.messages("t"),
    "inputs": lambda api: api.inputs(),
    "cancel": lambda api: api.cancel("t"),
    "answer": lambda api: api.answer("t", "q", 1),
    "delete": lambda api: api.delete("t"),
    "events": lambda api: list(api.events("t")),
    "follow": lambda api: list(api.events("t", follow=True)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", ["200 OK", "502 Bad Gateway"])
async def test_every_call(name: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "CONTENT_BYTES", 2 * 1024 * 1024)  # as the others, to be quick
    monkeypatch.setattr(api_module, "LINE_BYTES", 2 * 1024 * 1024)
    sent = [0]
    async with answering(endless(status, sent)) as url:
        with pytest.raises(ApiError if status > "3" else Unreachable) as caught:
            await asyncio.to_thread(CALLS[name], Api(url))
        assert "502" in str(caught.value) or "more than" in str(caught.value)
        assert sent[0] < BUFFERS


async def test_a_short_answer_that_was_cut_is_none() -> None:
    whole = answer("200 OK", b'{"trace":{}}' + b" " * 1000)
    async with answering(lambda request: whole[:-500]) as url:
        with pytest.raises(Unreachable, match="IncompleteRead"):
            await asyncio.to_thread(Api(url).health)


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "500 Internal Server Error"])
async def test_the_recorder(status: str, new_trace: New, caplog: pytest.LogCaptureFixture) -> None:
    sent, begun = [0], [0]

    def handler(request: bytes) -> AsyncIterator[bytes]:
        begun[0] += 1
        return endless(status, sent)(request)

    async with answering(handler) as url:
        with caplog.at_level(logging.CRITICAL, "tracewatch"), new_trace(url) as t:
            say(t, 1, 3)
            await until(lambda: begun[0] >= 3)
        assert t.pending and sent[0] / begun[0] < BUFFERS


async def test_what_was_asked_for_is_read_from_the_beginning_of_a_large_answer() -> None:
    """The summary of a trace stands before its goals, of which there may be megabytes."""
    start = b'{"trace":' + orjson.dumps({"trace_id": "t", "status": "running", "task": 'a "}'}) + b',"goal_tree":"'
    sent = [0]
    async with answering(endless("200 OK", sent, start)) as url:
        uplink = ServerUplink(parse_target(url))
        assert (await uplink.find("t"))["status"] == "running"
        assert sent[0] < BUFFERS


async def test_a_kept_connection_is_not_used_after_a_cut_answer_or_a_closed_one() -> None:
    sent = [0]
    many: Iterator[bytes | AsyncIterator[bytes]] = iter(
        [answer("200 OK", b"1"), endless("200 OK", sent)(b""), answer("200 OK", b"3")]
    )
    async with answering(lambda request: next(many)) as url:
        target = parse_target(url)
        connection = HttpConnection(target, Addresses(target.host, target.port), None)
        answers = [await connection.call("GET", "/") for _ in range(3)]
        assert [(len(one.body), one.cut) for one in answers] == [(1, False), (ANSWER_BYTES, True), (1, False)]
        connection.close()


FRAMES = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)


def upgraded(request: bytes) -> bytes:
    """The handshake's answer."""
    import base64
    import hashlib

    (key,) = (line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    magic = key.split(b":")[1].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return FRAMES % base64.b64encode(hashlib.sha1(magic).digest())


@pytest.mark.parametrize("case", ["refused", "frame"])
async def test_a_watch(case: str) -> None:
    sent = [0]

    def handler(request: bytes) -> AsyncIterator[bytes]:
        if case == "refused":
            return endless("404 Not Found", sent)(request)
        start = upgraded(request) + b"\x81\x7f" + (1 << 40).to_bytes(8, "big")  # one frame of a terabyte
        return without_end(start, PIECE, sent)

    async with answering(handler) as url:
        with pytest.raises(TracewatchError):
            async with asyncio.timeout(DEADLINE_S):
                await anext(watch("t", url=url, max_retry_s=0))
        with pytest.raises(TracewatchError):
            await asyncio.to_thread(next, watch_sync("t", url=url, max_retry_s=0))
        assert sent[0] < 2 * BUFFERS
