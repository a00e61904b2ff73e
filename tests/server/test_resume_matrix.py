"""The start of a reader: every form of ``since_event_id`` over every transport, in whole logs and in trimmed ones
(protocol, section 4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from tests.log.helpers import trim
from tests.server.wire import (
    Watch,
    append,
    end,
    http,
    make_trace,
    ndjson,
    page,
    page_bodies,
    socket,
    sse,
    stored,
    watching,
)
from tests.support import Serving, serving
from tracewatch.model.state import State, apply_into

pytestmark = pytest.mark.anyio
COUNT = 103
PAGE = 40  # so that the log is more than two pages


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Without asyncio's debug mode, which every other module has: hundreds of connections are three times as fast."""
    return "asyncio"


@dataclass(frozen=True)
class Case:
    """One trace and what its log holds."""

    server: Serving
    client: httpx.AsyncClient
    trace_id: str
    ended: bool
    epoch: str
    first: int  # the oldest event_id there is
    bodies: list[bytes]

    @property
    def last(self) -> int:
        """The newest event_id."""
        return self.first - 1 + len(self.bodies)

    def after(self, event_id: int) -> list[bytes]:
        """The events after one."""
        return self.bodies[event_id + 1 - self.first :]


@dataclass(frozen=True)
class Expected:
    """What a position asks for: events after ``after``; a gap; whether it says that somebody has been here before."""

    after: int
    gap: str | None = None
    explicit: bool = False


def past(event_id: int, first: int, *, explicit: bool = True) -> Expected:
    """What an event_id asks for of a log that begins with ``first``."""
    return Expected(event_id, explicit=explicit) if event_id >= first - 1 else Expected(first - 1, "trimmed", explicit)


# name: (token, meaning), both told the epoch, the first and the last event_id
POSITIONS: dict[str, Any] = {
    "absent": lambda epoch, first, last: (None, past(0, first, explicit=False)),
    "empty": lambda epoch, first, last: ("", past(0, first, explicit=False)),
    "zero": lambda epoch, first, last: ("0", past(0, first, explicit=False)),
    "one": lambda epoch, first, last: ("1", past(1, first)),
    "leading zeros": lambda epoch, first, last: ("007", past(7, first)),
    "just trimmed": lambda epoch, first, last: (str(max(1, first - 2)), past(max(1, first - 2), first)),
    "before the first": lambda epoch, first, last: (str(first - 1), Expected(first - 1, explicit=first > 1)),
    "the first": lambda epoch, first, last: (str(first), Expected(first, explicit=True)),
    "middle": lambda epoch, first, last: (str(last - 51), Expected(last - 51, explicit=True)),
    "last but one": lambda epoch, first, last: (str(last - 1), Expected(last - 1, explicit=True)),
    "last": lambda epoch, first, last: (str(last), Expected(last, explicit=True)),
    "behind the last": lambda epoch, first, last: (str(last + 1), Expected(last, "ahead", True)),
    "far ahead": lambda epoch, first, last: ("9" * 18, Expected(last, "ahead", True)),
    "last 50": lambda epoch, first, last: ("-50", Expected(last - 50)),
    "last 1": lambda epoch, first, last: ("-1", Expected(last - 1)),
    "last of more than there are": lambda epoch, first, last: (f"-{last + 5}", Expected(first - 1)),
    "latest": lambda epoch, first, last: ("latest", Expected(last)),
    "cursor at the start": lambda epoch, first, last: (f"{epoch}.0", past(0, first, explicit=False)),
    "cursor just trimmed": lambda epoch, first, last: (f"{epoch}.{max(1, first - 2)}", past(max(1, first - 2), first)),
    "cursor": lambda epoch, first, last: (f"{epoch}.{last - 51}", Expected(last - 51, explicit=True)),
    "cursor at the end": lambda epoch, first, last: (f"{epoch}.{last}", Expected(last, explicit=True)),
    "cursor ahead": lambda epoch, first, last: (f"{epoch}.{last + 1}", Expected(last, "ahead", True)),
    "other epoch": lambda epoch, first, last: ("0123456789ab.41", Expected(first - 1, "reset", True)),
    "other epoch, there": lambda epoch, first, last: (f"0123456789ab.{last}", Expected(first - 1, "reset", True)),
    "other epoch, ahead": lambda epoch, first, last: (f"0123456789ab.{last + 9}", Expected(first - 1, "reset", True)),
}
GARBAGE = (
    "abc",
    "1.2.3",
    "-",
    "--1",
    "1e3",
    " 1",
    "1 ",
    "١٢",
    "1" + "0" * 30,
    "+1",
    "1.",
    ".1",
    "-latest",
    "0x10",
    "1\n",
)


@pytest.fixture(scope="module", params=["running", "ended", "trimmed running", "trimmed ended"])
async def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Case]:
    async with (
        serving(tmp_path_factory.mktemp("matrix") / "log.db", page_events=PAGE) as server,
        http(server) as client,
    ):
        log, trace_id = server.services.log, "m"
        await make_trace(log, trace_id)
        ended, trimmed = "ended" in request.param, "trimmed" in request.param
        goal = {"event": "goal_added", "goal": {"id": "g", "description": "a goal", "status": "in_progress"}}
        await log.append(trace_id, [goal])
        if trimmed:
            await append(log, trace_id, 499)
        await append(log, trace_id, COUNT - 2 - ended)
        await log.append(
            trace_id, [{"event": "message_added", "message": {"role": "user", "content": "x", "tokens": 3}}]
        )
        if ended:
            await end(log, trace_id)
        if trimmed:
            assert await trim(log, trace_id, 500)
        bodies = await stored(log, trace_id, 500 if trimmed else 0)
        yield Case(server, client, trace_id, ended, log.epoch, 501 if trimmed else 1, bodies)


def _ask(token: str | None) -> dict[str, str]:
    return {} if token is None else {"since_event_id": token}


def _check_start(case: Case, control: list[dict[str, Any]], token: str | None, expected: Expected) -> None:
    """``connected`` and what follows it before the first event."""
    connected = control[0]
    assert connected["event"] == "connected"
    assert connected["cursor"] == f"{case.epoch}.{expected.after}"
    assert (connected["epoch"], connected["protocol"]) == (case.epoch, 1)
    assert (connected["first_event_id"], connected["current_event_id"]) == (case.first, case.last)
    assert connected["goal_tree"]["as_of_event_id"] == case.last
    assert connected["trace_status"] == connected["trace"]["status"] == ("completed" if case.ended else "running")
    assert connected["is_running"] is not case.ended
    if expected.gap is None:
        return
    gap, snapshot = control[1], control[2]
    assert {key: gap[key] for key in gap if key != "trace_id"} == {
        "event": "gap",
        "reason": expected.gap,
        "requested": token,
        "first_event_id": case.first,
        "current_event_id": case.last,
        "resume_event_id": expected.after,
    }
    assert snapshot == {**connected, "event": "snapshot", "ts": snapshot["ts"]}


def _check_caught_up(case: Case, frame: dict[str, Any], expected: Expected) -> None:
    assert frame["current_event_id"] == case.last
    assert frame["cursor"] == f"{case.epoch}.{case.last}"
    assert frame["replayed"] == case.last - expected.after


async def _check_watch(case: Case, watch: Watch, token: str | None, expected: Expected, trace_id: str | None) -> None:
    _check_caught_up(case, await watch.until("caught_up"), expected)
    _check_start(case, watch.control, token, expected)
    assert watch.events == case.after(expected.after)
    start = ["connected", "gap", "snapshot"] if expected.gap else ["connected"]
    assert watch.order == [*start, *(["*"] if expected.after < case.last else []), "caught_up"]
    assert all(frame.get("trace_id") == trace_id for frame in watch.control)
    await _check_fold(case, expected.after, watch.events)


async def _check_fold(case: Case, after: int, events: list[bytes]) -> None:
    """The state where it began and what it was sent make the state the server has."""
    answer = (await case.client.get(f"/api/traces/{case.trace_id}", params={"at_event_id": after})).json()
    state = State.from_snapshot({**answer, "current_event_id": after})
    for body in events:
        apply_into(state, orjson.loads(body))
    now = (await case.client.get(f"/api/traces/{case.trace_id}")).json()
    assert (state.trace(), state.goal_tree()) == (now["trace"], now["goal_tree"])
    assert now["trace"]["total_tokens"] == 3 and len(now["goal_tree"]["goals"]) == 1


@pytest.mark.parametrize("name", POSITIONS)
async def test_websocket(case: Case, name: str) -> None:
    token, expected = POSITIONS[name](case.epoch, case.first, case.last)
    async with watching(case.server, case.trace_id, **_ask(token)) as watch:
        await _check_watch(case, watch, token, expected, None)
    if case.ended:
        async with watching(case.server, case.trace_id, until="end", **_ask(token)) as watch:
            assert await watch.until("end") == {"event": "end", "status": "completed", "last_event_id": case.last}
            assert watch.events == case.after(expected.after)
            assert await watch.closed() == 1000


@pytest.mark.parametrize("name", POSITIONS)
async def test_many_on_one_socket(case: Case, name: str) -> None:
    token, expected = POSITIONS[name](case.epoch, case.first, case.last)
    async with socket(case.server, "/api/watch") as watch:
        await watch.say({"subscribe": {"trace_id": case.trace_id, **_ask(token)}})
        await _check_watch(case, watch, token, expected, case.trace_id)
        if token is not None and token.lstrip("-").isdigit() and len(token) < 16:
            await watch.say({"unsubscribe": {"trace_id": case.trace_id}})
            await watch.until("unsubscribed")
            again = len(watch.events)
            await watch.say({"subscribe": {"trace_id": case.trace_id, "since_event_id": int(token)}})
            await watch.until("caught_up")
            assert watch.events[again:] == case.after(expected.after)


@pytest.mark.parametrize("how", ["since_event_id", "Last-Event-ID"])
@pytest.mark.parametrize("name", POSITIONS)
async def test_server_sent_events(case: Case, name: str, how: str) -> None:
    token, expected = POSITIONS[name](case.epoch, case.first, case.last)
    params = _ask(token)
    headers: dict[str, str] = {}
    if how == "Last-Event-ID":
        if not token or not case.ended:
            return  # the running one is asked by parameter only
        params, headers = {"since_event_id": "3"}, {"Last-Event-ID": token}  # the header wins
    async with sse(case.client, case.trace_id, headers, **params) as stream:
        if case.ended and expected.explicit and expected.gap is None and expected.after == case.last:
            assert stream.response.status_code == 204
            assert await stream.response.aread() == b""
            return
        assert stream.response.status_code == 200
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        _check_caught_up(case, await stream.until("caught_up"), expected)
        _check_start(case, stream.control, token, expected)
        assert stream.events == case.after(expected.after)
        assert stream.ids == [f"{case.epoch}.{n}" for n in range(expected.after + 1, case.last + 1)]
        if case.ended:
            await stream.rest()
            assert stream.control[-1] == {"event": "end", "status": "completed", "last_event_id": case.last}


def _check_gone(case: Case, response: httpx.Response, expected: Expected) -> None:
    assert response.status_code == 410
    body = response.json()
    assert body["error"] == expected.gap
    assert body["first_event_id"] == case.first
    assert body["current_event_id"] == case.last
    assert body["resume_event_id"] == expected.after
    assert body["message"] and body["details"]


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("name", POSITIONS)
async def test_lines(case: Case, name: str, follow: bool) -> None:
    token, expected = POSITIONS[name](case.epoch, case.first, case.last)
    if follow and not case.ended:
        return  # see test_streams.py: it stays open
    response = await ndjson(case.client, case.trace_id, **_ask(token), **({"follow": "1"} if follow else {}))
    if expected.gap:
        _check_gone(case, response, expected)
        return
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert response.content == b"".join(body + b"\n" for body in case.after(expected.after))


@pytest.mark.parametrize("name", POSITIONS)
async def test_pages(case: Case, name: str) -> None:
    token, expected = POSITIONS[name](case.epoch, case.first, case.last)
    response = await page(case.client, case.trace_id, **_ask(token))
    if expected.gap:
        _check_gone(case, response, expected)
        return
    bodies = page_bodies(response)
    assert len(bodies) == min(PAGE, case.last - expected.after)
    answer = response.json()
    while answer["has_more"]:
        assert answer["next_since_event_id"] == expected.after + len(bodies)
        assert answer["cursor"] == f"{case.epoch}.{answer['next_since_event_id']}"
        response = await page(case.client, case.trace_id, since=answer["cursor"], limit=PAGE)
        answer = response.json()
        bodies += page_bodies(response)
    assert bodies == case.after(expected.after)
    assert answer["next_since_event_id"] == answer["current_event_id"] == case.last
    assert answer["first_event_id"] == case.first


@pytest.mark.parametrize("token", GARBAGE)
async def test_garbage_is_refused_everywhere(case: Case, token: str) -> None:
    if case.ended or case.first > 1:
        return  # nothing is looked at before the position
    for wait in ({}, {"wait": "1"}):
        async with watching(case.server, case.trace_id, since=token, **wait) as watch:
            assert await watch.closed() == 4500
            assert [frame["code"] for frame in watch.control] == ["invalid_cursor"]
    async with socket(case.server, "/api/watch") as watch:
        await watch.say({"subscribe": {"trace_id": case.trace_id, "since_event_id": token}})
        error = await watch.until("error")
        assert (error["trace_id"], error["code"]) == (case.trace_id, "invalid_cursor")
        await watch.say({"subscribe": {"trace_id": case.trace_id, "since_event_id": "latest"}})
        await watch.until("caught_up")
    for accept in ("text/event-stream", "application/x-ndjson", "application/json"):
        response = await case.client.get(
            f"/api/traces/{case.trace_id}/events", params={"since_event_id": token}, headers={"Accept": accept}
        )
        assert (response.status_code, response.json()["error"]) == (400, "invalid_cursor"), accept
    if token.isascii() and token == token.strip():  # what a header can say
        async with sse(case.client, case.trace_id, {"Last-Event-ID": token}) as stream:
            assert stream.response.status_code == 400


@pytest.mark.parametrize("value", [1.5, True, [1], {"a": 1}, 10**30, -(10**30)])
async def test_a_subscription_from_no_position(case: Case, value: Any) -> None:
    if case.ended or case.first > 1:
        return
    async with socket(case.server, "/api/watch") as watch:
        await watch.ws.send(
            f'{{"subscribe":{{"trace_id":"m","since_event_id":{str(value).lower()}}}}}'.replace("'", '"')
        )
        error = await watch.until("error")
        assert error["code"] in ("invalid", "invalid_cursor"), error
        await watch.ws.send("ping")
        await watch.until("pong")
