"""Watching over WebSocket: one trace on ``/api/traces/{id}/watch``, many things on ``/api/watch``."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import orjson
from starlette.websockets import WebSocket

from ..errors import BadRequest, Invalid, InvalidField, TooMany, TracewatchError
from ..live.list import ListWatch
from ..live.sink import Sink, SinkClosed
from ..live.watcher import WatchRequest
from ..log import Grown, Snapshot, TraceQuery
from ..model.events import STATUSES, event_name
from ..model.frames import CLOSE_GOING_AWAY, control, parse_cursor
from .services import Services, services
from .sinks import websocket_sink
from .sockets import close, close_with_error, close_with_outcome, error_frame, messages


def watch_request(trace_id: str, params: Any, **more: Any) -> WatchRequest:
    """The request in a query or in a ``subscribe``. Raises InvalidField."""
    since = params.get("since_event_id")
    if isinstance(since, bool) or not (since is None or isinstance(since, str | int)):
        raise InvalidField("since_event_id: an event_id, a cursor, -N or latest")
    types = params.get("types")
    if isinstance(types, str):
        types = [name for name in types.split(",") if name]
    if types is not None and not (isinstance(types, list) and all(isinstance(name, str) for name in types)):
        raise InvalidField("types: names of events with commas between them")
    until = params.get("until")
    if until not in (None, "", "end"):
        raise InvalidField(f"until: {str(until)[:40]!r} is not: end")
    wait = params.get("wait") in ("1", "true", 1, True)
    return WatchRequest(
        trace_id,
        None if since is None else str(since),
        types=frozenset(types) if types else None,
        until_end=until == "end",
        wait=wait,
        **more,
    )


async def watch_trace(websocket: WebSocket) -> None:
    """``WS /api/traces/{id}/watch``."""
    served = services(websocket)
    await websocket.accept()
    sink = websocket_sink(websocket, served.settings.watcher_bytes)
    try:
        request = watch_request(websocket.path_params["trace_id"], websocket.query_params)
    except TracewatchError as error:
        await close_with_error(websocket, sink, error)
        return
    task = asyncio.create_task(_watch_one(served, websocket, sink, request))
    try:
        async for _ in messages(websocket, sink, served.settings.max_ws_bytes):
            pass  # nothing but pings is said on this socket; what else comes is passed over
    except TracewatchError as error:
        await close_with_error(websocket, sink, error)
    except SinkClosed:
        pass
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch_one(served: Services, websocket: WebSocket, sink: Sink, request: WatchRequest) -> None:
    try:
        await close_with_outcome(websocket, await served.hub.watch(request, sink))
    except TracewatchError as error:
        await close_with_error(websocket, sink, error)
    except SinkClosed:
        pass


async def watch_many(websocket: WebSocket) -> None:
    """``WS /api/watch``."""
    served = services(websocket)
    await websocket.accept()
    session = Session(served, websocket, websocket_sink(websocket, served.settings.watcher_bytes))
    try:
        async for message in messages(websocket, session.sink, served.settings.max_ws_bytes):
            await session.handle(message)
    except TracewatchError as error:
        await close_with_error(websocket, session.sink, error)
    except SinkClosed:
        pass
    finally:
        await session.close()


class Session:
    """One client of ``/api/watch`` and its subscriptions."""

    def __init__(self, served: Services, websocket: WebSocket, sink: Sink) -> None:
        self.sink = sink
        self._served = served
        self._websocket = websocket
        self._watches: dict[str, asyncio.Task[None]] = {}  # by trace_id
        self._roots: dict[str, Subtree] = {}  # subscriptions with ``subtree``, by the trace_id subscribed to
        self._list: asyncio.Task[None] | None = None

    async def handle(self, message: dict[str, Any]) -> None:
        """Do what one message asks for. Raises BadRequest for a message that is none."""
        known = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "subscribe_traces": self._subscribe_traces,
        }
        names = [name for name in known if name in message]
        if len(names) != 1 or not isinstance(message[names[0]], dict):
            raise BadRequest(f"a message is one of {', '.join(known)} with an object, or ping")
        asked = message[names[0]]
        try:
            await known[names[0]](asked)
        except TracewatchError as error:
            tags = {"trace_id": asked["trace_id"]} if isinstance(asked.get("trace_id"), str) else {}
            await self.sink.send_control(error_frame(error, **tags))

    async def _subscribe(self, asked: dict[str, Any]) -> None:
        trace_id = asked.get("trace_id")
        if not isinstance(trace_id, str):
            raise InvalidField("subscribe.trace_id: is missing")
        if trace_id in self._watches:
            raise Invalid(f"trace {trace_id!r} is subscribed to on this socket already")
        self._check_room()
        request = watch_request(trace_id, asked, tagged=True)
        if asked.get("subtree"):
            self._roots[trace_id] = Subtree(self, self._served, request, asked.get("cursors") or {})
            self._start(request, self._roots[trace_id].begin)
        else:
            self._start(request)

    def _check_room(self) -> None:
        limit = self._served.settings.max_subscriptions
        if len(self._watches) >= limit:
            raise TooMany(f"a socket has at most {limit} subscriptions", limit=limit)

    def start_sub_trace(self, request: WatchRequest) -> None:
        """Watch one more trace of a subtree, if it is not watched already."""
        if request.trace_id in self._watches:
            return
        try:
            self._check_room()
        except TooMany as error:
            task = asyncio.create_task(self.sink.send_control(error_frame(error, trace_id=request.trace_id)))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            return
        self._start(request)

    def _start(self, request: WatchRequest, on_start: Any = None) -> None:
        task = asyncio.create_task(self._watch(request, on_start))
        self._watches[request.trace_id] = task

    async def _watch(self, request: WatchRequest, on_start: Any) -> None:
        try:
            outcome = await self._served.hub.watch(request, self.sink, on_start)
            if outcome == "goaway":
                await close(self._websocket, CLOSE_GOING_AWAY)
        except TracewatchError as error:
            with suppress(SinkClosed):
                await self.sink.send_control(error_frame(error, trace_id=request.trace_id))
        except SinkClosed:
            pass
        finally:
            self._forget(request.trace_id)

    def _forget(self, trace_id: str) -> None:
        self._watches.pop(trace_id, None)
        subtree = self._roots.pop(trace_id, None)
        if subtree is not None:
            subtree.close()

    async def _unsubscribe(self, asked: dict[str, Any]) -> None:
        trace_id = asked.get("trace_id")
        task = self._watches.get(trace_id) if isinstance(trace_id, str) else None
        if task is None or not isinstance(trace_id, str):
            raise Invalid(f"there is no subscription to {str(trace_id)[:128]!r} on this socket")
        subtree = self._roots.get(trace_id)
        for sub_id in subtree.members if subtree is not None else ():
            if sub_id != trace_id and sub_id in self._watches:
                await _end(self._watches[sub_id])
        await _end(task)
        self._forget(trace_id)
        await self.sink.send_control(control("unsubscribed", trace_id=trace_id))

    async def _subscribe_traces(self, asked: dict[str, Any]) -> None:
        status = asked.get("status")
        statuses = tuple(status) if isinstance(status, list) else tuple(s for s in (status or "").split(",") if s)
        for one in statuses:
            if one not in STATUSES:
                raise InvalidField(f"status: {str(one)[:40]!r} is none of {', '.join(STATUSES)}")
        q = asked.get("q")
        limit = asked.get("limit", 100)
        if not (q is None or isinstance(q, str)) or not (isinstance(limit, int) and 1 <= limit <= 1000):
            raise InvalidField("q is text and limit a number from 1 to 1000")
        if self._list is not None:
            await _end(self._list)
        query = TraceQuery(status=statuses, q=q or None, limit=limit)
        watch = ListWatch(self._served.log, self._served.hub, query, self._send)
        self._list = asyncio.create_task(watch.run())
        self._list.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _send(self, frame: dict[str, Any]) -> None:
        await self.sink.send_control(orjson.dumps(frame))

    async def close(self) -> None:
        """End all subscriptions."""
        for subtree in self._roots.values():
            subtree.close()
        for task in [*self._watches.values(), *([self._list] if self._list else [])]:
            await _end(task)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Subtree:
    """Keeps a session watching the sub-traces of a trace, to any depth, those to come as well."""

    def __init__(self, session: Session, served: Services, request: WatchRequest, cursors: dict[str, Any]) -> None:
        if not isinstance(cursors, dict):
            raise InvalidField("cursors: an object {sub_trace_id: cursor}")
        for cursor in cursors.values():
            parse_cursor(str(cursor))
        self._session = session
        self._served = served
        self._request = request
        self._cursors = cursors
        self.members: set[str] = {request.trace_id}
        self._work: set[asyncio.Task[None]] = set()
        self._unlisten = served.hub.on_growth(self._grown)

    def begin(self, snapshot: Snapshot) -> None:
        """The root's watch has begun: watch the sub-traces it has already."""
        self._look(self._request.trace_id)

    def _grown(self, grown: Any) -> None:
        one: Grown
        for one in grown:
            if one.trace_id not in self.members:
                continue
            # Bodies say at once whether there is a new sub-trace; a hint of another process has none
            if not one.bodies or any(event_name(body) == "sub_trace_started" for body in one.bodies):
                self._look(one.trace_id)

    def _look(self, trace_id: str) -> None:
        task = asyncio.create_task(self._watch_sub_traces(trace_id))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _watch_sub_traces(self, trace_id: str) -> None:
        before: int | None = None
        while True:
            query = TraceQuery(parent_trace_id=trace_id, limit=1000, before=before)
            traces, before = await self._served.log.traces(query)
            for trace in traces:
                self._watch(trace["trace_id"])
            if before is None:
                return

    def _watch(self, sub_id: str) -> None:
        if sub_id in self.members:
            return
        self.members.add(sub_id)
        since = self._cursors.get(sub_id)
        request = WatchRequest(
            sub_id,
            None if since is None else str(since),
            types=self._request.types,
            until_end=self._request.until_end,
            tagged=True,
        )
        self._session.start_sub_trace(request)
        self._look(sub_id)

    def close(self) -> None:
        """Stop looking for sub-traces."""
        self._unlisten()
        for task in self._work:
            task.cancel()
