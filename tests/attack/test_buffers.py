"""Every buffer that a client fills: what is read ahead, decompressed, collected until it is complete, or never read."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.server.stalled import raw, request, ws_frame
from tests.server.wire import NDJSON, SSE, append, bearer, http, make_trace, refused, socket
from tests.support import DEADLINE_S, Serving, serving, until
from tracewatch.log import Snapshot
from tracewatch.server.logs import OFTEN, WHILE_S, Seldom
from tracewatch.server.record import HELD_MESSAGES
from tracewatch.server.uvicorn import http_protocol

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024
KINDS = ["httptools", "h11"]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    async with serving(tmp_path_factory.mktemp("buffers") / "log.db") as started:
        yield started


def options(kind: str) -> dict[str, Any]:
    return {"http": http_protocol(kind, 64 * MIB)}


# --- what arrives compressed ---------------------------------------------------------------------------------------


async def test_a_compressed_body_is_refused_and_not_opened(server: Serving) -> None:
    bomb = gzip.compress(b" " * 64 * MIB)  # 64 KiB
    async with http(server) as client:
        for path in ("/api/traces", "/api/traces/t/events", "/api/import"):
            for encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
                answer = await client.post(path, content=bomb, headers={"Content-Encoding": encoding})
                body = refused(answer, 400, "bad_request")
                assert "Content-Encoding" in body["message"]
        answer = await client.post("/api/traces", json={"task": "x"}, headers={"Content-Encoding": "identity"})
        assert answer.status_code == 201


async def test_messages_are_not_decompressed(server: Serving) -> None:
    """The extension is offered and not taken; a frame that says it is compressed is an error of its sender."""
    async with connect(server.ws_url + "/api/watch", compression="deflate", proxy=None) as ws:
        assert ws.response is not None and "Sec-WebSocket-Extensions" not in ws.response.headers
    deflate = zlib.compressobj(wbits=-15)
    bomb = deflate.compress(b" " * 16 * MIB) + deflate.flush(zlib.Z_SYNC_FLUSH)
    with raw(server) as client:
        client.send(request("/api/watch", websocket=True))
        assert b" 101 " in await client.read()
        frame = bytearray(ws_frame(bomb[:-4]))
        frame[0] |= 0x40  # RSV1
        client.send(bytes(frame))
        assert closed_with(await client.read_all()) == 1002


# --- what is sent after the end ------------------------------------------------------------------------------------


def closed_with(data: bytes) -> int | None:
    """The code of the close frame that ends what a server has sent."""
    found = re.search(rb"\x88[\x02-\x7d](..)[^\x88]*\Z", data, re.DOTALL)
    return None if found is None else int(struct.unpack(">H", found[1])[0])


WRONG = {
    "no UTF-8": (ws_frame(b"\xff\xfe"), 1007),
    "too large": (ws_frame(b"x" * 200_000), 1009),
    "no frame": (b"\xff" * 100, 1002),
    "no JSON": (ws_frame(b"{"), 4500),
}


@pytest.mark.parametrize(("sent", "code"), WRONG.values(), ids=WRONG)
async def test_a_close_frame_arrives_although_more_was_sent(server: Serving, sent: bytes, code: int) -> None:
    with raw(server, receive_buffer=65536) as client:
        client.send(request("/api/watch", websocket=True))
        assert b" 101 " in await client.read()
        client.send(sent + ws_frame(b"[1]") * 3000)
        await asyncio.sleep(0)
        rest = asyncio.create_task(asyncio.to_thread(keep_sending, client.sock))
        assert closed_with(await client.read_all()) == code
        await rest


def keep_sending(sock: Any) -> None:
    """Send until the other side has closed, a few megabytes at most."""
    try:
        for _ in range(40):
            sock.sendall(b"x" * 65536)
    except OSError:
        pass


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_arrives_although_more_was_sent(tmp_path: Path, kind: str) -> None:
    async with serving(tmp_path / "log.db", uvicorn=options(kind)) as server:
        for sent, status in (
            (b"this is no request\r\n\r\n" + b"x" * 60_000, b"400"),
            (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n" + b"x" * 60_000, b"400"),
            (request("/nowhere", websocket=True) + ws_frame(b"x") * 5000, b"403"),
        ):
            with raw(server, receive_buffer=65536) as client:
                await asyncio.to_thread(client.send, sent)
                found = await read_to_the_end(client.sock)
                assert re.match(rb"HTTP/1.1 ([0-9]+)", found)[1] == status, found  # type: ignore[index]


async def test_a_body_that_is_too_large_is_told_so(server: Serving) -> None:
    """Also to a client that wants the connection closed, and sends on meanwhile."""
    body = b"x" * 6 * MIB
    with raw(server, receive_buffer=65536) as client:
        head = b"POST /api/traces HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
            body
        )
        sending = asyncio.create_task(asyncio.to_thread(send_all, client.sock, head + body))
        found = await read_to_the_end(client.sock)
        assert b" 413 " in found.splitlines()[0] and b"connection: close" in found.lower()
        await sending


def send_all(sock: Any, data: bytes) -> None:
    """Send what the server takes."""
    try:
        sock.sendall(data)
    except OSError:
        pass


async def read_to_the_end(sock: Any) -> bytes:
    """All there is up to a proper end: a reset is an error."""
    found = b""
    while data := await asyncio.wait_for(asyncio.to_thread(sock.recv, 65536), DEADLINE_S):
        found += data
    return found


# --- what is collected until it is complete --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("head", "more"),
    [
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n", "X: y\r\n"),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", "y"),
        ("GET /", "a"),
        ("POST /api/traces HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;", "x"),
        ("POST /api/traces HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", "y"),
        ("POST /api/traces HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n"),
        ("GET /api/watch HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", "X: y\r\n"),
    ],
    ids=["headers", "a header", "a target", "a chunk's extension", "a trailer", "trailers", "a handshake"],
)
async def test_what_never_ends_is_refused(tmp_path: Path, kind: str, head: str, more: str) -> None:
    async with serving(tmp_path / "log.db", uvicorn=options(kind)) as server:
        with raw(server, receive_buffer=65536) as client:
            sending = asyncio.create_task(
                asyncio.to_thread(send_all, client.sock, (head + more * (MIB // len(more))).encode())
            )
            found = await client.read_all()
            assert found.startswith(b"HTTP/1.1 400 ") or not found, found[:200]
            await sending


async def test_a_body_for_a_stream_is_thrown_away(server: Serving) -> None:
    """Server-sent events and lines go on while their client sends a body that nobody asked for."""
    await make_trace(server.services.log, "stream")
    for accept in (SSE, NDJSON):
        with raw(server, receive_buffer=65536) as client:
            path = "/api/traces/stream/events?follow=1"
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nContent-Length: {64 * MIB}\r\n\r\n"
            await asyncio.to_thread(send_all, client.sock, head.encode() + b"x" * 4 * MIB)
            await append(server.services.log, "stream", 1)
            found = b""
            while b'"thought"' not in found:
                found += await client.read()
    connections = server.services.stalls
    assert connections.aborted == 0


# --- what a recorder sends and does not hear of ----------------------------------------------------------------------


async def test_appends_before_ready_are_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a trace is being opened its appends wait, parsed: some of them, and the others in the client."""
    size = 60_000
    async with serving(tmp_path / "log.db", max_ws_record_bytes=65536) as server:
        log, go_on, most = server.services.log, asyncio.Event(), [0]
        await make_trace(log, "t")
        snapshot = log.snapshot

        async def later(trace_id: str, at_event_id: int | None = None) -> Snapshot:
            await go_on.wait()
            return await snapshot(trace_id, at_event_id)

        monkeypatch.setattr(log, "snapshot", later)
        async with socket(server, "/api/record") as record:
            await record.say({"open": {"trace_id": "t", "producer": "p"}})
            event = {"event": "x", "pad": "x" * size}
            for seq in range(1, 31):
                await record.say({"append": {"trace_id": "t", "seq": seq, "events": [event]}})
            for _ in range(100):
                most[0] = max(most[0], server.services.coming.bytes)
                await asyncio.sleep(0.005)
            assert size < most[0] <= HELD_MESSAGES * 65536 + 65536
            go_on.set()
            async with asyncio.timeout(DEADLINE_S):
                while (await record.frame()).get("ack", {}).get("seq") != 30:
                    pass
        assert server.services.coming.bytes == 0


async def test_appends_before_ready_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path / "log.db", max_ws_record_bytes=65536, max_waiting_bytes=200_000) as server:
        log, go_on = server.services.log, asyncio.Event()
        await make_trace(log, "t")
        snapshot = log.snapshot

        async def later(trace_id: str, at_event_id: int | None = None) -> Snapshot:
            await go_on.wait()
            return await snapshot(trace_id, at_event_id)

        monkeypatch.setattr(log, "snapshot", later)
        with ExitStack():
            answers = await asyncio.gather(*(open_and_append(server, n, go_on) for n in range(6)))
        assert {"ack"} < set(answers) <= {"ack", "unavailable"}


async def open_and_append(server: Serving, n: int, go_on: asyncio.Event) -> str:
    """What comes of an append of 60 KB that is sent before ``ready``."""
    async with socket(server, "/api/record") as record, asyncio.timeout(DEADLINE_S):
        await record.say({"open": {"trace_id": "t", "producer": f"p{n}"}})
        await record.say({"append": {"trace_id": "t", "seq": 1, "events": [{"event": "x", "pad": "x" * 60_000}]}})
        if n == 5:
            await until(lambda: server.services.coming.bytes > 120_000)
            await asyncio.sleep(0.2)
            go_on.set()
        while True:
            frame = await record.frame()
            if "ack" in frame:
                return "ack"
            if "nack" in frame:
                return str(frame["nack"]["error"])


async def test_a_refusal_does_not_repeat_what_was_refused(server: Serving) -> None:
    """64 refusals that nobody reads are small, whatever was refused."""
    await make_trace(server.services.log, "refusals")
    long = "k" * 100_000
    nasty: list[Any] = [
        {"event": long},
        {"event": "goal_updated", "goal_id": "g", "patch": {long: 1}},
        {"event": "message_updated", "message_id": long, "append": "x"},
        {"event": "message_added", "message": {"role": long, "content": 1}},
        {"event": "goal_added", "goal": {"description": [long]}},
        {"event": "input_requested", "question": "?", "options": 7, "schema": long},
        *({"event": "goal_added", "goal": {"id": n}} for n in range(500)),
    ]
    async with socket(server, "/api/traces/refusals/record") as record:
        await record.frame()
        for events in ([one] for one in nasty[:6]):
            await record.say({"append": {"events": events}})
            assert len(orjson.dumps((await record.frame())["nack"])) < 4096
        await record.say({"append": {"events": nasty[6:]}})
        assert len(orjson.dumps((await record.frame())["nack"])) < 4096


# --- what is written to the log --------------------------------------------------------------------------------------


def test_a_line_of_a_library_is_written_a_few_times_a_minute() -> None:
    now = [0.0]
    seldom = Seldom(clock=lambda: now[0])

    def written(name: str, text: str, *args: Any) -> str | None:
        record = logging.LogRecord(name, logging.WARNING, "", 0, text, args, None)
        return record.getMessage() if seldom.filter(record) else None

    said = [written("uvicorn.error", "Invalid HTTP request received.") for _ in range(1000)]
    assert [line for line in said if line] == ["Invalid HTTP request received."] * OFTEN
    assert written("uvicorn.error", "another: %s", 7) == "another: 7"
    assert written("tracewatch.server", "Invalid HTTP request received.")
    now[0] = WHILE_S
    again = written("uvicorn.error", "Invalid HTTP request received.")
    assert again == f"Invalid HTTP request received. (and {1000 - OFTEN} times more before)"
    for n in range(1000):
        written("library", f"line {n}")
    assert len(seldom._seen) == 100


async def test_tokens_that_are_wrong_cost_no_line(server: Serving, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tracewatch")
    async with http(server, headers=bearer("tw_0123456789ab_" + "0" * 40)) as client:
        for _ in range(50):
            await client.get("/api/traces", headers={"X-Forwarded-For": "10.0.0.1"})
    assert len([one for one in caplog.records if one.name.startswith("tracewatch")]) <= 1


async def test_a_socket_that_was_refused_is_gone(server: Serving) -> None:
    with pytest.raises(ConnectionClosed):
        async with connect(server.ws_url + "/api/traces/none/watch", proxy=None) as ws:
            while True:
                await ws.recv()
