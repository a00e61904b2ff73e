"""Clients that give tests every frame as it came, and the log itself to compare with.

Rule: a client here only reads, with a deadline. It checks nothing except that the API's description has the answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support import DEADLINE_S, Serving
from tracewatch.log import EventLog
from tracewatch.model.events import validate_trace
from tracewatch.server.routes import description

SSE, NDJSON, JSON = "text/event-stream", "application/x-ndjson", "application/json"


def thought(n: int, size: int = 0) -> dict[str, Any]:
    """A small event, or one of about ``size`` bytes."""
    return {"event": "thought", "n": n, **({"pad": "x" * size} if size else {})}


async def make_trace(log: EventLog, trace_id: str, **spec: Any) -> None:
    """Create a trace."""
    await log.create_trace(validate_trace({"trace_id": trace_id, "task": "test", **spec}))


async def append(log: EventLog, trace_id: str, count: int, *, size: int = 0, name: str = "thought") -> None:
    """Append ``count`` events in batches of up to 500."""
    for start in range(0, count, 500):
        batch = [{**thought(start + i, size), "event": name} for i in range(min(500, count - start))]
        await log.append(trace_id, batch)


async def end(log: EventLog, trace_id: str, status: str = "completed") -> None:
    """End a trace."""
    await log.append(trace_id, [{"event": "trace_completed", "status": status}])


async def stored(log: EventLog, trace_id: str, after: int = 0) -> list[bytes]:
    """All stored events after ``after``, as their bytes."""
    bodies: list[bytes] = []
    while True:
        page = await log.read(trace_id, after + len(bodies), max_events=1000, max_bytes=1 << 20)
        bodies += page.bodies
        if not page.bodies:
            return bodies


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"Authorization": f"Bearer {token}".rstrip()}


class Watch:
    """A WebSocket client that keeps apart the events (as bytes) and the control frames (parsed), in order."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.events: list[bytes] = []
        self.control: list[dict[str, Any]] = []
        self.order: list[str] = []  # names of control frames, "*" for a run of events
        self.sizes: list[int] = []  # of every frame

    async def frame(self, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """The next frame. Raises ConnectionClosed."""
        data: bytes = await asyncio.wait_for(self.ws.recv(decode=False), deadline_s)
        self.sizes.append(len(data))
        value: dict[str, Any] = orjson.loads(data)
        if "event_id" in value:
            self.events.append(data)
            if not self.order or self.order[-1] != "*":
                self.order.append("*")
        else:
            self.control.append(value)
            self.order.append(value.get("event", ""))
        return value

    async def until(self, name: str, **equal: Any) -> dict[str, Any]:
        """Read on to the frame of this name (with these values)."""
        async with asyncio.timeout(DEADLINE_S):  # heartbeats alone must not keep a test alive
            while True:
                frame = await self.frame()
                if frame.get("event") == name and all(frame.get(key) == value for key, value in equal.items()):
                    return frame

    async def had(self, name: str, **equal: Any) -> dict[str, Any]:
        """The control frame of this name (with these values), come already or still to come."""
        for frame in self.control:
            if frame.get("event") == name and all(frame.get(key) == value for key, value in equal.items()):
                return frame
        return await self.until(name, **equal)

    async def until_events(self, count: int) -> list[bytes]:
        """Read on until there are ``count`` events."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.events) < count:
                await self.frame()
        return self.events

    async def closed(self) -> int:
        """Read on to the close; its code."""
        try:
            while True:
                await self.frame()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "closed without a close frame"
            return closed.rcvd.code

    async def say(self, value: Any) -> None:
        """Send JSON."""
        await self.ws.send(orjson.dumps(value).decode())

    def names(self) -> list[str]:
        """The names of the control frames so far."""
        return [frame["event"] for frame in self.control]


@asynccontextmanager
async def socket(server: Serving | str, path: str, token: str | None = None, **params: Any) -> AsyncIterator[Watch]:
    """A WebSocket to any endpoint."""
    headers = {} if token is None else bearer(token)
    base = server if isinstance(server, str) else server.ws_url
    query = "?" + urlencode(params) if params else ""
    # Without a limit on its queue: else this client stops reading, and waits in vain for the close when it leaves
    async with connect(
        f"{base}{path}{query}",
        compression=None,
        max_size=None,
        max_queue=None,
        open_timeout=DEADLINE_S,
        additional_headers=headers,
    ) as ws:
        yield Watch(ws)


@asynccontextmanager
async def watching(server: Serving | str, trace_id: str, **params: Any) -> AsyncIterator[Watch]:
    """A watch of one trace. ``since`` is short for ``since_event_id``."""
    if "since" in params:
        params["since_event_id"] = params.pop("since")
    async with socket(server, f"/api/traces/{trace_id}/watch", **params) as watch:
        yield watch


@cache
def _answers() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    paths = description()["paths"]
    return [(re.compile(re.sub(r"\\{[^}]*\\}", "[^/]*", re.escape(path))), item) for path, item in paths.items()]


async def described(response: httpx.Response) -> None:
    """What every client of the tests asks of an answer: its status and its media type are in /openapi.json."""
    for path, item in _answers():
        call = item.get(response.request.method.lower())
        if call is None or not path.fullmatch(response.request.url.path) or response.status_code == 500:  # a fault
            continue
        status, media = str(response.status_code), response.headers.get("content-type", "").partition(";")[0]
        assert status in call["responses"], f"{response.request.method} {response.request.url} answers {status}"
        medias = call["responses"][status].get("content", [""])
        assert media in medias or "*/*" in medias, f"{response.request.url} answers {media}"


def http(server: Serving | str, **more: Any) -> httpx.AsyncClient:
    """An HTTP client, to which only answers that are described may come."""
    base = server if isinstance(server, str) else server.url
    hooks: dict[str, Any] = {"response": [described]}
    return httpx.AsyncClient(base_url=base, timeout=DEADLINE_S, trust_env=False, event_hooks=hooks, **more)


class Stream:
    """A server-sent event stream, taken apart: ``(id or None, name, data)``."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.events: list[bytes] = []
        self.ids: list[str] = []
        self.control: list[dict[str, Any]] = []
        self._blocks = self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        buffer = b""
        async for chunk in self.response.aiter_raw():
            buffer += chunk
            while (at := buffer.find(b"\n\n")) >= 0:
                yield buffer[:at]
                buffer = buffer[at + 2 :]
        assert not buffer, f"half an event at the end: {buffer[:100]!r}"

    async def next(self) -> tuple[str | None, str, bytes]:
        """The next one. Raises StopAsyncIteration at the end."""
        block = await asyncio.wait_for(self._blocks.__anext__(), DEADLINE_S)
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n"))
        assert set(fields) <= {b"id", b"event", b"data"}, block
        event_id = fields[b"id"].decode() if b"id" in fields else None
        name, data = fields[b"event"].decode(), fields[b"data"]
        value = orjson.loads(data)
        assert value["event"] == name
        if "event_id" not in value:
            assert event_id == (value["cursor"] if name == "checkpoint" else None)
            self.control.append(value)
        else:
            assert event_id is not None and event_id.endswith(f".{value['event_id']}")
            self.ids.append(event_id)
            self.events.append(data)
        return event_id, name, data

    async def until(self, name: str) -> dict[str, Any]:
        """Read on to the event of this name."""
        while (found := await self.next())[1] != name:
            pass
        value: dict[str, Any] = orjson.loads(found[2])
        return value

    async def rest(self) -> None:
        """Read to the end."""
        try:
            while True:
                await self.next()
        except StopAsyncIteration:
            pass


@asynccontextmanager
async def sse(client: httpx.AsyncClient, trace_id: str, headers: Any = (), **params: Any) -> AsyncIterator[Stream]:
    """A server-sent event stream."""
    if "since" in params:
        params["since_event_id"] = params.pop("since")
    asked = {"Accept": SSE, **dict(headers)}
    async with client.stream("GET", f"/api/traces/{trace_id}/events", params=params, headers=asked) as response:
        yield Stream(response)


async def ndjson(client: httpx.AsyncClient, trace_id: str, **params: Any) -> httpx.Response:
    """All stored events as lines."""
    if "since" in params:
        params["since_event_id"] = params.pop("since")
    return await client.get(f"/api/traces/{trace_id}/events", params=params, headers={"Accept": NDJSON})


async def page(client: httpx.AsyncClient, trace_id: str, **params: Any) -> httpx.Response:
    """One page."""
    if "since" in params:
        params["since_event_id"] = params.pop("since")
    return await client.get(f"/api/traces/{trace_id}/events", params=params, headers={"Accept": JSON})


def page_bodies(response: httpx.Response) -> list[bytes]:
    """The events of a page as they stand in it, byte for byte."""
    values = response.json()["events"]
    bodies = [orjson.dumps(value) for value in values]
    assert response.content.startswith(b'{"events":[' + b",".join(bodies) + b"]"), "re-written on the way"
    return bodies


def ids(bodies: Sequence[bytes]) -> list[int]:
    """Their event_ids."""
    return [orjson.loads(body)["event_id"] for body in bodies]


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check a refusal and its shape."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, body.get("error")) == (status, code), response.text
    assert response.headers["content-type"] == "application/json"
    assert isinstance(body["message"], str) and body["message"]
    assert isinstance(body["details"], list) and all(isinstance(detail, dict) for detail in body["details"])
    assert "Traceback" not in response.text and ".py" not in response.text
    return body


async def post(client: httpx.AsyncClient, trace_id: str, body: Any, **headers: str) -> httpx.Response:
    """Append."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(f"/api/traces/{trace_id}/events", content=content, headers=named)
