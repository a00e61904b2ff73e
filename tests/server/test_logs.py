"""The server's logs: they have client, trace, progress and reason, and never a payload, a token or a forged line."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.server.wire import append, http, make_trace, ndjson, post, socket, sse, watching
from tests.support import ServerProcess, Serving, serving, until
from tracewatch.errors import Invalid
from tracewatch.log.tokens import token_id_of
from tracewatch.server.logs import LineFormatter

pytestmark = pytest.mark.anyio
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) \d+ [a-z._]+: .")
SECRET = "kR7marker"  # in every payload, token, header and query string of the busy session


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The access log so far."""
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "tracewatch.access"]


async def quiet(server: Serving) -> None:
    """Wait until all sockets are seen to have closed."""
    await until(lambda: not any(server.services.observed.open.values()))


async def test_each_socket_leaves_two_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tracewatch.access")
    async with serving(tmp_path / "log.db", access_log="json") as server, http(server) as client:
        log, epoch = server.services.log, server.services.log.epoch
        await make_trace(log, "t")
        await append(log, "t", 5)
        async with watching(server, "t", since="2") as watch:
            await watch.until("caught_up")
            await watch.ws.close(1001)
        async with socket(server, "/api/watch") as many:
            await many.say({"subscribe": {"trace_id": "t", "since_event_id": f"{epoch}.4"}})
            await many.until("caught_up")
            await many.say({"unsubscribe": {"trace_id": "t"}})
            await many.until("unsubscribed")
        async with socket(server, "/api/traces/t/record") as record:
            await record.frame()
        async with sse(client, "t") as stream:
            await stream.until("caught_up")
        assert (await ndjson(client, "t")).status_code == 200
        assert (await client.get("/api/traces/t?since_event_id=0")).status_code == 200
        await quiet(server)
    found = lines(caplog)
    assert all(line.pop("ts").endswith("Z") and line.pop("client") == "127.0.0.1" for line in found)
    assert all(isinstance(line.pop("ms"), int | float) for line in found if line["event"] != "opened")
    t, at_end = {"trace_id": "t"}, {"cursor": f"{epoch}.5"}

    def closed(kind: str, **values: Any) -> dict[str, Any]:
        return {"event": "closed", "kind": kind, **values}

    opened = [
        {key: line.get(key) for key in ("kind", "trace_id", "since")} for line in found if line["event"] == "opened"
    ]
    assert opened == [
        {"kind": "watch", "trace_id": "t", "since": "2"},
        {"kind": "watch_many", "trace_id": None, "since": None},
        {"kind": "subscription", "trace_id": "t", "since": f"{epoch}.4"},
        {"kind": "record", "trace_id": "t", "since": None},
        {"kind": "sse", "trace_id": "t", "since": None},
        {"kind": "ndjson", "trace_id": "t", "since": None},
    ]
    ended = [line for line in found if line["event"] == "closed"]
    expected = [
        closed("watch", **t, since="2", reason="left", code=1001, **at_end, events=3),
        closed("subscription", **t, since=f"{epoch}.4", reason="unsubscribed", **at_end, events=1),
        closed("watch_many", reason="left", code=1000),
        closed("record", **t, reason="left", code=1000),
        closed("sse", **t, reason="left", **at_end, events=5),
        closed("ndjson", **t, reason="end", **at_end, events=5),
    ]
    assert sorted(ended, key=str) == sorted(expected, key=str)
    requests = [line for line in found if line["event"] == "request"]
    assert requests == [{"event": "request", "method": "GET", "route": "/api/traces/{trace_id}", **t, "status": 200}]


async def test_a_token_is_known_by_its_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tracewatch.access")
    async with serving(tmp_path / "log.db", access_log="json", token_check_s=0.05) as server:
        log = server.services.log
        await make_trace(log, "t")
        token = await log.tokens.create(["read"])
        token_id = token_id_of(token)
        async with http(server, headers={"Authorization": f"Bearer {token}"}) as client:
            assert (await client.get("/api/traces", params={"token": token})).status_code == 200
            assert (await client.post("/api/traces", json={"task": "x"})).status_code == 403
            async with socket(server, "/api/traces/t/watch", token) as watch, sse(client, "t") as stream:
                await watch.until("caught_up")
                await stream.until("caught_up")
                await log.tokens.revoke(token_id or "")
                assert await watch.closed() == 4501
                await stream.until("error")
            assert (await client.get("/api/traces")).status_code == 401
        await quiet(server)
    found = lines(caplog)
    assert token_id is not None and token[-40:] not in str(found)
    ended = {line["kind"]: (line["reason"], line["token"]) for line in found if line["event"] == "closed"}
    assert ended == {"watch": ("unauthorized", token_id), "sse": ("unauthorized", token_id)}
    requests = [(line["status"], line.get("token")) for line in found if line["event"] == "request"]
    assert requests == [(200, token_id), (403, None), (401, None)]


async def test_off_is_off_and_text_is_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tracewatch.access")
    async with serving(tmp_path / "a.db") as server, http(server) as client:
        await client.get("/api/traces")
    assert not [record for record in caplog.records if record.name == "tracewatch.access"]
    async with serving(tmp_path / "b.db", access_log="text") as server, http(server) as client:
        await client.get("/api/traces/none")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "tracewatch.access"]
    assert re.fullmatch(
        r"request client=127.0.0.1 method=GET route=/api/traces/{trace_id} trace_id=none status=404 ms=[0-9.]+", line
    )


@pytest.mark.parametrize("form", ["json", "text"])
async def test_nobody_can_forge_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture, form: str) -> None:
    caplog.set_level(logging.INFO, "tracewatch.access")
    evil = 'x%0a{"event":"closed"}%0d%1b[31m%c2%85%e2%80%a8%7f ok=1'.replace(" ", "%20")
    async with serving(tmp_path / "log.db", access_log=form) as server, http(server) as client:
        await client.get(f"/api/traces/{evil}")
        await client.get(f"/{evil}")
        async with watching(server, evil) as watch:
            await watch.closed()
        async with socket(server, "/api/watch") as many:
            await many.say({"subscribe": {"trace_id": "y\n\x1b[2J\x85", "since_event_id": "1\nforged"}})
            await many.until("error")
        await quiet(server)
    written = [
        LineFormatter(words=False).format(record) for record in caplog.records if record.name == "tracewatch.access"
    ]
    assert len(written) == 2 + 2 + 2 + 2
    for line in written:
        assert line.isascii() and line.isprintable() and len(line.splitlines()) == 1, line
        assert form == "text" or json.loads(line)
        assert form == "json" or " ok=1" not in re.sub(r'"(\\.|[^"])*"', "", line), "a value that passes for a field"


def formatted(error: BaseException, message: str = "it failed", name: str = "tracewatch.server", **how: bool) -> str:
    record = logging.LogRecord(name, logging.ERROR, __file__, 1, message, (), (type(error), error, error.__traceback__))
    return LineFormatter(words=how.get("words", False)).format(record)


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_an_exception_does_not_quote_what_it_failed_on() -> None:
    inner = raised(ExceptionGroup(f"g {SECRET}", [raised(ValueError(SECRET))]), raised(KeyError(SECRET)))
    text = formatted(inner)
    assert SECRET not in text
    assert "ValueError" in text and "KeyError" in text and "in raised" in text  # what it was, and where
    assert SECRET in formatted(inner, words=True)
    assert "disk is full" in formatted(raised(OSError("disk is full")))
    assert "no\\x0athing" in formatted(raised(Invalid("no\nthing")))
    asyncio_says = f"Task exception was never retrieved\nfuture: <Task exception=KeyError('{SECRET}')>"
    assert SECRET not in formatted(KeyError(), asyncio_says, "asyncio")
    for line in text.splitlines()[1:]:
        assert line.startswith("  ")
    assert LINE.match(text)


async def busy(server: ServerProcess) -> None:
    """A session with the secret wherever a client can put one, by right or by mistake."""
    headers = {"Authorization": f"Bearer {SECRET}", "Cookie": f"a={SECRET}", "X-Token": SECRET, "User-Agent": SECRET}
    query = {"token": SECRET, "access_token": SECRET, "q": SECRET}
    async with http(server.url, headers=headers, params=query) as client:
        await client.post("/api/traces", json={"trace_id": "t", "task": SECRET, "metadata": {SECRET: SECRET}})
        await post(client, "t", [{"event": "thought", "text": SECRET, SECRET: 1}])
        await post(client, "t", {"event": "goal_updated", "goal_id": SECRET})
        await post(client, "t", f'{{"event": "{SECRET}'.encode())
        await client.post("/api/traces/t/events", content=SECRET.encode() * 100_000)
        await client.get("/api/traces")
        await client.get("/api/traces/t", params={"at_event_id": SECRET})
        await client.get("/nowhere")
        await client.get("/healthz", headers={"Host": f"{SECRET}.example"})
        await client.get("/api/traces/t/events", headers={"Accept": f"text/{SECRET}"})
        await client.get("/api/traces/t/events", params={"since_event_id": SECRET})
        async with client.stream(
            "GET", "/api/traces/t/events", headers={"Accept": "text/event-stream", "Last-Event-ID": SECRET}
        ) as response:
            await response.aread()
        await client.get("/metrics")
    for path in ("/api/traces/t/watch", "/api/traces/t/record", "/api/watch"):
        url = f"{server.ws_url}{path}?token={SECRET}&producer={SECRET}&since_event_id=0"
        for said in (f'{{"append": {{"events": [{{"event": "x", "text": "{SECRET}"}}]}}}}', SECRET, SECRET.encode()):
            async with connect(url, additional_headers=headers) as ws:
                await ws.send(said)
                await ws.send(f'{{"subscribe": {{"trace_id": "t", "since_event_id": "{SECRET}"}}}}')
                await ws.send("ping")
                try:
                    async with asyncio.timeout(0.5):
                        async for _ in ws:
                            pass
                except (TimeoutError, ConnectionClosed):
                    pass
        with pytest.raises(InvalidStatus):
            async with connect(url, origin=f"https://{SECRET}.example"):  # type: ignore[arg-type]
                pass
    await broken(server)


async def broken(server: ServerProcess) -> None:
    """What is no HTTP and no WebSocket."""
    for said in (f"{SECRET} {SECRET}\r\n\r\n", f"GET /?{SECRET} HTTP/1.1\r\n{SECRET}\r\n\r\n", f"GET / HTTP/{SECRET}"):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(said.encode())
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_no_payload_and_no_token_in_any_line(tmp_path: Path, level: str) -> None:
    with ServerProcess(tmp_path / "log.db", said=tmp_path / "stderr", access_log="json", log_level=level) as server:
        await busy(server)
        assert await asyncio.to_thread(server.stop) == 0
    text = (tmp_path / "stderr").read_text()
    assert '"kind": "record"' in text and '"event": "request"' in text  # it was written down
    assert SECRET.lower() not in text.lower()
    for line in text.splitlines():
        assert line.startswith(("{", "  ")) or LINE.match(line), line


async def test_a_defect_is_told_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "log.db") as server:

        async def failing(*_: Any) -> Any:
            raise KeyError(SECRET)

        monkeypatch.setattr(server.services.log, "traces", failing)
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            assert (await client.get("/api/traces")).status_code == 500
        await until(lambda: [record for record in caplog.records if record.exc_info])
    text = "\n".join(LineFormatter(words=False).format(record) for record in caplog.records)
    assert SECRET not in text and "KeyError" in text and "in failing" in text
