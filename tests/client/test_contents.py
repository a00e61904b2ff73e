"""Big and binary content in what an agent records: in the log before the event that names it, whatever happens."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import TestSenders
from tests.client.test_record import New, events
from tests.support import DEADLINE_S, ServerProcess, free_port, serving, until
from tracewatch.client.api import Api
from tracewatch.client.contents import Contents
from tracewatch.client.errors import ApiError, Unreachable
from tracewatch.client.outbox import Outbox
from tracewatch.model.blobs import references
from tracewatch.model.contents import replaced, restored

pytestmark = pytest.mark.anyio
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 12_000  # 3 MB
OUTPUT = "".join(f"line {n} of the output\n" for n in range(900_000))  # 20 MB
B64 = base64.b64encode(PNG).decode()


async def whole(url: str, trace_id: str) -> list[dict[str, Any]]:
    """All events of a trace, with the contents that they name in their place."""
    api, log = Api(url), await events(url, trace_id)

    def put_back() -> list[dict[str, Any]]:
        def value(ref: dict[str, Any]) -> Any:
            data = b"".join(api.blob(trace_id, ref["blob"]))
            assert hashlib.sha256(data).hexdigest() == ref["blob"] and len(data) == ref["bytes"]
            return restored(ref, data)

        return [replaced(event, value) for event in log]

    return await asyncio.to_thread(put_back)


def contents(log: list[dict[str, Any]]) -> list[Any]:
    return [event["message"]["content"] for event in log if event["event"] == "message_added"]


def blobs(spool_dir: Path) -> list[Path]:
    return list(spool_dir.rglob("*.blob"))


async def test_large_output_and_a_picture_are_recorded_whole(tmp_path: Path, new_trace: New, spool_dir: Path) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}}
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url, trace_id="t", lease_s=None) as t:
            with t.tool_call("run", {"cmd": "make"}) as call:
                call.result(OUTPUT)
            with t.tool_call("look") as call:
                call.result([picture])
            t.message("user", ["see", {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{B64}"}}])
            (tmp_path / "shot.png").write_bytes(PNG)
            ref = t.attach(tmp_path / "shot.png", goal=None)
            t.event("shot", raw=PNG, text="short", many=list(range(40_000)))
        assert await t.aflush(DEADLINE_S)
        log = await whole(server.url, "t")
        results = [e["patch"]["content"]["result"] for e in log if "content" in e.get("patch", {})]
        assert results == [OUTPUT, [picture]]
        assert contents(log)[2][1]["image_url"]["url"] == f"data:image/png;base64,{B64}"
        assert contents(log)[3] == B64 and ref["name"] == "shot.png" and ref["media_type"] == "image/png"
        (shot,) = [event for event in log if event["event"] == "shot"]
        assert (shot["raw"], shot["text"], shot["many"]) == (B64, "short", list(range(40_000)))
        stored = {name for event in await events(server.url, "t") for name in references(event)}
        assert len(stored) == 3  # the picture once
        assert all(len(json.dumps(event)) < 10_000 for event in await events(server.url, "t"))
        await until(lambda: not blobs(spool_dir))


async def test_into_a_file_without_a_server(tmp_path: Path, new_trace: New, senders: TestSenders) -> None:
    with new_trace(f"sqlite:///{tmp_path}/t.db", trace_id="t") as t:
        t.message("user", OUTPUT)
    assert await t.aflush(DEADLINE_S)
    await asyncio.to_thread(senders.end)
    async with serving(tmp_path / "t.db") as server:
        assert contents(await whole(server.url, "t")) == [OUTPUT]


AGENT = """
import os, signal, sys
import tracewatch
t = tracewatch.trace("run", trace_id="t", lease_s=None)
t.__enter__()
for n in range(6):
    t.message("user", (str(n) + "x" * 99 + "\\n") * 60_000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def agent(url: str, spool_dir: Path) -> int:
    env = {**os.environ, "TRACEWATCH_URL": url, "TRACEWATCH_SPOOL_DIR": str(spool_dir)}
    return subprocess.run([sys.executable, "-c", AGENT], env=env, timeout=DEADLINE_S).returncode


def flush(url: str, spool_dir: Path) -> int:
    command = [sys.executable, "-m", "tracewatch", "flush", "--url", url]
    env = {**os.environ, "TRACEWATCH_SPOOL_DIR": str(spool_dir)}
    return subprocess.run(command, env=env, timeout=DEADLINE_S, capture_output=True).returncode


def has_begun(db: Path) -> bool:
    """Whether a piece of content is in the log."""
    with closing(sqlite3.connect(db)) as connection:
        return bool(connection.execute("SELECT 1 FROM blob_pieces LIMIT 1").fetchone())


@pytest.mark.crash
async def test_an_agent_that_is_killed_leaves_what_it_recorded(tmp_path: Path, spool_dir: Path) -> None:
    port = free_port()
    assert await asyncio.to_thread(agent, f"http://127.0.0.1:{port}", spool_dir) == -9
    assert len(blobs(spool_dir)) == 6
    with ServerProcess(tmp_path / "t.db", port=port) as server:
        flushing = asyncio.create_task(asyncio.to_thread(flush, server.url, spool_dir))
        await until(lambda: flushing.done() or has_begun(tmp_path / "t.db"))
        server.kill()  # in the middle of what is sent
        await flushing
        await asyncio.to_thread(server.start)
        assert await asyncio.to_thread(flush, server.url, spool_dir) == 0
        log = await whole(server.url, "t")
        assert [text[0] for text in contents(log)] == list("012345") and all(
            len(text) == 6_060_000 for text in contents(log)
        )
        assert not blobs(spool_dir)


async def test_more_than_a_trace_may_have_is_recorded_in_part(
    tmp_path: Path, new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with serving(tmp_path / "t.db", max_trace_blob_bytes=4_000_000) as server:
            with new_trace(server.url, trace_id="t") as t:
                t.message("user", "a" * 3_000_000)
                with t.tool_call("run") as call:
                    call.result("b" * 2_000_000)
                t.message("user", PNG)
            assert await t.aflush(DEADLINE_S)
            log = await whole(server.url, "t")
    assert contents(log)[0] == "a" * 3_000_000
    (result,) = [e["patch"]["content"]["result"] for e in log if "content" in e.get("patch", {})]
    assert result.startswith("b" * 60_000) and result.endswith("bytes]") and "shortened by the recorder" in result
    assert contents(log)[2] == f"image/png, 2.9 MiB…[shortened by the recorder: {len(PNG)} bytes]"
    assert "content is recorded only in part" in caplog.text


class OlderServer:
    """The way to a server that has no place for contents."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def put_blob(self, *given: Any) -> None:
        raise self.error


async def test_a_server_of_the_version_before_gets_what_it_got_before(new_trace: New) -> None:
    t = new_trace("http://127.0.0.1:1")
    outbox: Outbox = t._outbox
    text = "words " * 60_000
    t.message("user", text)
    t.event("note", raw=PNG[:1000])
    bodies = outbox.take(1, 10, 10**9)
    way = Contents(outbox, OlderServer(ApiError(404, "not_found", "no such path")))  # type: ignore[arg-type]
    assert not await way.sent(1, bodies)
    first, *_ = [json.loads(body) for body in outbox.take(1, 10, 10**9)]
    later = [json.loads(body) for body in outbox.take(3, 10, 10**9)]
    assert first["message"]["content"] + "".join(event["append"] for event in later) == text
    assert not await way.sent(1, outbox.take(1, 10, 10**9))  # the other one
    (_, second, *_) = [json.loads(body) for body in outbox.take(1, 10, 10**9)]
    assert base64.b64decode(second["raw"]) == PNG[:1000]
    assert await way.sent(1, outbox.take(1, 10, 10**9))


async def test_a_server_that_is_away_loses_nothing(new_trace: New) -> None:
    t = new_trace("http://127.0.0.1:1")
    t.message("user", OUTPUT[:100_000])
    outbox: Outbox = t._outbox
    before = outbox.take(1, 10, 10**9)
    for error in (Unreachable("away"), ApiError(503, "unavailable", "full"), ApiError(401, "unauthorized", "no")):
        way = Contents(outbox, OlderServer(error))  # type: ignore[arg-type]
        with pytest.raises(type(error)):
            await way.sent(1, before)
    assert outbox.take(1, 10, 10**9) == before


async def test_content_that_the_log_has_lost_is_sent_again(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url, trace_id="t", lease_s=None)
        t.message("user", OUTPUT[:100_000])
        assert await t.aflush(DEADLINE_S)
        await server.services.log.delete_trace("t")
        t.message("user", OUTPUT[:100_000])
        t.message("user", OUTPUT[:200_000])
        assert await t.aflush(DEADLINE_S)
        assert contents(await whole(server.url, "t"))[-2:] == [OUTPUT[:100_000], OUTPUT[:200_000]]
        t.complete()
        assert await t.aflush(DEADLINE_S)


async def test_without_a_disk_it_is_cut(tmp_path: Path, new_trace: New) -> None:
    (tmp_path / "file").write_text("")
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url, trace_id="t", spool_dir=str(tmp_path / "file" / "spool")) as t:
            t.message("user", "x" * 300_000)
            t.message("user", PNG)
            assert "text" in t.attach(PNG)
        assert await t.aflush(DEADLINE_S)
        log = await events(server.url, "t")
        appended = "".join(event.get("append", "") for event in log)
        assert contents(log)[0] + appended == "x" * 300_000
        assert contents(log)[1].startswith("image/png, 2.9 MiB…[shortened by the recorder")


async def test_what_can_not_be_attached_is_told(new_trace: New, tmp_path: Path) -> None:
    t = new_trace("http://127.0.0.1:1")
    for given in (tmp_path / "nowhere", tmp_path, "a\0b", 7, None, object()):
        assert t.attach(given)["text"].startswith("not attached: ")  # type: ignore[arg-type]
    assert t.pending == 6
