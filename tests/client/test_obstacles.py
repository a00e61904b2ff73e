"""What stands between a recorder and its server: proxies without upgrade, with small limits, login pages, redirects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.answers import answer
from tests.client.proxy import proxy
from tests.client.test_record import events, say, steps, told
from tests.support import DEADLINE_S, serving, until
from tracewatch.client import backoff, contents, delivery, posts
from tracewatch.client.api import Api
from tracewatch.client.obstacle import DOCS, obstacle
from tracewatch.client.trace import Trace

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]
TEXT = "what the agent said " * 150


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt comes soon."""
    monkeypatch.setattr(backoff, "LONGEST_S", 0.05)
    monkeypatch.setattr(backoff, "REFUSED_S", 0.05)


def without_upgrade(head: bytes) -> bytes:
    """As a proxy passes a request on that has no line for Upgrade in its configuration."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"upgrade:", b"connection:"))]
    return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])


# --- no WebSocket gets through ---------------------------------------------------------------------------------


REFUSALS: dict[str, Callable[[bytes], bytes]] = {
    "no upgrade": without_upgrade,
    "400": lambda head: answer("400 Bad Request", b"<html>no</html>", kind="text/html"),
    "501": lambda head: answer("501 Not Implemented"),
    "502, for sockets only": lambda head: answer("502 Bad Gateway"),
    "200": lambda head: answer("200 OK", b"{}"),
    "nothing": lambda head: b"HTTP/",
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_events_go_by_http_which_is_said_once(
    tmp_path: Path, new_trace: New, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.first_head = lambda head: REFUSALS[name](head) if b"\r\nupgrade:" in head.lower() else head
        with new_trace(between.url, trace_id="t", agent_type="coder") as t:
            say(t, 1, 700)
            with t.sub_trace("below", trace_id="below") as child, child.message("assistant") as m:
                m.stream(TEXT)
        assert await t.aflush(DEADLINE_S)
        assert await child.aflush(DEADLINE_S)
        assert await steps(server.url, "t") == list(range(1, 701))
        found = (await asyncio.to_thread(Api(server.url).trace, "below"))["trace"]
        assert (found["status"], found["parent_trace_id"]) == ("completed", "t")
        (said,) = [one for one in told(caplog) if "HTTP" in one]
        assert between.url in said
        assert (DOCS in said) == (name != "nothing" and not name.startswith("50"))


async def test_commands_come_over_http_too(tmp_path: Path, new_trace: New, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posts, "LOOK_S", 0.02)
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.first_head = without_upgrade
        log = server.services.log
        with new_trace(between.url, trace_id="t") as t:
            asked = asyncio.create_task(t.aask("Go?", options=["yes"], request_id="q", timeout_s=DEADLINE_S))
            await until(lambda: t._outbox.next_seq > 1)
            await t.aflush(DEADLINE_S)
            await log.answer("t", "q", "yes")
            assert await asked == "yes"
            await log.cancel("t", reason="enough")
            await until(lambda: t.cancelled)
        assert await t.aflush(DEADLINE_S)
        assert (await asyncio.to_thread(Api(server.url).trace, "t"))["trace"]["status"] == "stopped"


async def test_over_http_each_event_is_stored_once_whatever_is_cut(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.first_head = without_upgrade
        with new_trace(between.url, trace_id="t") as t:
            for n in range(10):
                say(t, 100 * n + 1, 100 * n + 100)
                await until(lambda n=n: t._outbox.acked > 100 * n)  # type: ignore[misc]
                between.cut()
                t._journal.emit({"event": "goal_added", "goal": {"description": "d", "type": f"bad {n}"}})
        assert await t.aflush(DEADLINE_S)
        assert await steps(server.url, "t") == list(range(1, 1001))
        refused = [e["goal"]["refused"]["type"] for e in await events(server.url, "t") if e["event"] == "goal_added"]
        assert refused == [f"bad {n}" for n in range(10)]


async def test_over_http_a_restored_log_is_seen(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.first_head = without_upgrade
        with new_trace(between.url, trace_id="t") as t:
            say(t, 1, 5)
            await t.aflush(DEADLINE_S)
            await server.services.log.delete_trace("t")
            say(t, 6, 9)
        assert await t.aflush(DEADLINE_S)
        assert await steps(server.url, "t") == [6, 7, 8, 9]
        assert "recorder_lost" in [e["event"] for e in await events(server.url, "t")]


# --- limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [
    {"max_ws_record_bytes": 2048},
    {"max_batch_bytes": 2048},
    {"max_event_bytes": 2048},
    {"max_event_bytes": 1024, "max_ws_record_bytes": 1024, "max_batch_bytes": 1024},
])  # fmt: skip
@pytest.mark.parametrize("way", ["socket", "http"])
async def test_a_batch_shrinks_and_an_event_that_can_not_is_told_of(
    tmp_path: Path, new_trace: New, limits: dict[str, Any], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "t.db", **limits) as server, proxy(server.url) as between:
        if way == "http":
            between.first_head = without_upgrade
        with new_trace(between.url, trace_id="t", metadata={"a": "b" * 4000}) as t, new_trace(between.url) as other:
            say(t, 1, 200)
            t.message("assistant", TEXT)
            say(t, 201, 400)
            t.message("assistant", TEXT * 15)
            say(t, 401, 600)
            say(other, 1, 100)
        assert await t.aflush(DEADLINE_S) and await other.aflush(DEADLINE_S)
        await until(lambda: not t.pending)
        assert await steps(server.url, "t") == list(range(1, 601))
        assert await steps(server.url, other.trace_id) == list(range(1, 101))
        other_way = "max_ws_record_bytes" if way == "http" else "max_batch_bytes"
        if limits.keys() != {other_way}:
            refused = [e for e in await events(server.url, "t") if e["event"] == "recorder_refused"]
            assert [e["original_event"] for e in refused][:2] == ["message_added", "message_added"]
            assert {e["error"] for e in refused} == {"too_large"}


async def test_an_event_that_a_proxy_cuts_the_connection_for_costs_itself(
    tmp_path: Path, new_trace: New, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that says nothing: it ends connections that carry more than 64 KiB at once."""
    monkeypatch.setattr(delivery, "CUTS_ALONE", 2)
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.largest = 65536
        with new_trace(between.url, trace_id="t") as t, new_trace(between.url, trace_id="other") as other:
            say(t, 1, 100)
            for _ in range(10):
                t.message("assistant", TEXT * 10)  # 30 KB: it may come, if not with others
            t.message("assistant", [TEXT * 12] * 5)
            say(t, 101, 200)
            say(other, 1, 100)
        assert await t.aflush(DEADLINE_S) and await other.aflush(DEADLINE_S)
        assert await steps(server.url, "t") == list(range(1, 201))
        assert await steps(server.url, "other") == list(range(1, 101))
        log = await events(server.url, "t")
        assert [len(e["message"]["content"]) for e in log if e["event"] == "message_added"] == [len(TEXT) * 10] * 10
        (refused,) = [e for e in log if e["event"] == "recorder_refused"]
        assert refused["original"].startswith('{"event":"message_added"')
        assert "is cut whenever it is sent" in caplog.text


async def test_content_that_a_proxy_cuts_the_connection_for_is_recorded_in_part(
    tmp_path: Path, new_trace: New, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(contents, "CUTS", 2)
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.largest = 65536
        with new_trace(between.url, trace_id="t") as t:
            say(t, 1, 100)
            t.message("user", b"\x89PNG\r\n\x1a\n" + bytes(200_000))
            say(t, 101, 200)
        assert await t.aflush(DEADLINE_S)
        assert await steps(server.url, "t") == list(range(1, 201))
        (message,) = [e["message"] for e in await events(server.url, "t") if e["event"] == "message_added"]
        assert message["content"].startswith("image/png, 195.3 KiB…[shortened by the recorder: ")
        assert "is cut whenever it is sent" in caplog.text


# --- words -----------------------------------------------------------------------------------------------------


OURS = b'{"error":"%b","message":"%b","details":[]}'
WORDS: list[tuple[int, dict[str, str], bytes, bool, str | None]] = [
    (302, {"Location": "https://sso.example/login"}, b"", False, "redirects to https://sso.example/login"),
    (
        200,
        {"Content-Type": "text/html"},
        b"<html><title>Sign in</title>",
        False,
        "page of HTML (“Sign in”), as a login",
    ),
    (502, {"content-type": "text/html"}, b"<html>", True, "status 502: a proxy does not reach"),
    (404, {}, OURS % (b"not_found", b"Not Found: GET /api/traces/t/watch"), True, "does not let WebSockets through"),
    (404, {}, OURS % (b"not_found", b"Not Found: GET /x/api/traces/t/watch"), True, "changes the path"),
    (426, {}, OURS % (b"upgrade_required", b"asked for by plain HTTP"), True, "does not let WebSockets through"),
    (
        403,
        {},
        OURS % (b"forbidden", b"this server is not known by the name 'backend'"),
        True,
        "changes Host to 'backend'",
    ),
    (403, {}, OURS % (b"forbidden", b"this server is not known by the name ''"), True, "sends no Host"),
    (403, {}, OURS % (b"forbidden", b"the token has not the scope read"), False, None),
    (404, {}, OURS % (b"unknown_trace", b"no trace"), True, None),
    (200, {"content-encoding": "gzip"}, b"\x1f\x8b", False, "compresses answers (gzip)"),
    (400, {}, b"", True, "WebSockets do not get through"),
    (503, {}, b"", True, None),
    (413, {"content-type": "text/html"}, b"<html>", False, "takes no request of this size"),
    (413, {}, OURS % (b"too_large", b"the body is too large"), False, None),
]


@pytest.mark.parametrize("case", WORDS, ids=lambda case: str(case[4]))
def test_each_mistake_is_named_in_a_line(case: tuple[int, dict[str, str], bytes, bool, str | None]) -> None:
    status, headers, body, upgrade, wanted = case
    said = obstacle("http://h:1", "/api/traces/t/watch", status, headers, body, upgrade=upgrade)
    if wanted is None:
        assert said is None
    else:
        assert said is not None and wanted in said and said.endswith(f"({DOCS})") and "\n" not in said


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "401 Unauthorized"])
async def test_a_login_page_is_said_and_nothing_is_lost(
    tmp_path: Path, new_trace: New, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    page = answer(status, b"<html><title>Sign in</title></html>", "Location: /login", kind="text/html")
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        between.first_head = lambda head: page
        with caplog.at_level(logging.WARNING, "tracewatch"), new_trace(between.url, trace_id="t") as t:
            say(t, 1, 3)
            await until(lambda: DOCS in caplog.text)
            assert ("/login" if status.startswith("302") else "Sign in") in caplog.text
            between.first_head = lambda head: head
        assert await t.aflush(DEADLINE_S)
        assert await steps(server.url, "t") == [1, 2, 3]
