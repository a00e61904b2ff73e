"""Watching over WebSocket: one trace on ``/api/traces/{id}/watch``, many traces and their list on ``/api/watch``.

Rule 1: a socket on ``/api/watch`` outlives the end and the error of each of its subscriptions; a message that is no
        request ends it.
Rule 2: a socket does not live on without a task that it needs: a defect closes it, and its client comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from starlette.websockets import WebSocket

from ..errors import BadRequest, Invalid, InvalidField, TooMany, TooMuchWork, TracewatchError, UnknownTrace
from ..live.sink import Sink, SinkClosed
from ..live.subtree import Subtree
from ..live.watcher import WatchRequest
from ..log import Snapshot, TraceQuery
from ..log.patience import CLIENT
from ..model.frames import CLOSE_GOING_AWAY, control, resolve_since
from .auth.tokens import grant_of
from .control import COMMANDS, obey
from .endpoint import CLOSE_INTERNAL, accept, close, close_with_error, close_with_outcome, error_frame, messages
from .http import CLIENT_NAME, Services, listed, services
from .lists import list_of_message
from .metrics.seen import Opened
from .sinks import websocket_sink

OnStart = Callable[[Snapshot], None]


def watch_request(trace_id: str, params: Any, **more: Any) -> WatchRequest:
    """The request in a query or in a ``subscribe``. Raises InvalidField."""
    since = params.get("since_event_id")
    if isinstance(since, bool) or not (since is None or isinstance(since, str | int)):
        raise InvalidField("since_event_id: an event_id, a cursor, -N or latest")
    types = params.get("types")
    if isinstance(types, str):
        types = listed(types)
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
        nulls=params.get("nulls") in ("1", "true", 1, True),
        **more,
    )


async def watch_trace(websocket: WebSocket) -> None:
    """``WS /api/traces/{id}/watch``."""
    served = services(websocket)
    await accept(websocket, served.settings.max_ws_bytes)
    sink = websocket_sink(websocket, served.settings.watcher_bytes)
    with served.observed.socket("watch", websocket, websocket.query_params.get("since_event_id")) as seen:
        try:
            trace_id, client = websocket.path_params["trace_id"], websocket.scope[CLIENT_NAME]
            request = watch_request(trace_id, websocket.query_params, client=client)
        except TracewatchError as error:
            await close_with_error(websocket, sink, error)
            return
        await _watch_and_read(served, websocket, sink, request, seen)


async def _watch_and_read(
    served: Services, websocket: WebSocket, sink: Sink, request: WatchRequest, seen: Opened
) -> None:
    task = asyncio.create_task(_watch_one(served, websocket, sink, request, seen))
    try:
        async for message, _ in messages(websocket, sink, served.settings.max_ws_bytes):
            await obey(served, sink, message, grant_of(websocket), request.trace_id)  # other messages are ignored
    except TracewatchError as error:
        await close_with_error(websocket, sink, error)
    except SinkClosed:
        pass
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch_one(served: Services, websocket: WebSocket, sink: Sink, request: WatchRequest, seen: Opened) -> None:
    try:
        await close_with_outcome(websocket, await served.hub.watch(request, sink, progress=seen.progress))
    except TracewatchError as error:
        await close_with_error(websocket, sink, error)
    except SinkClosed:
        pass
    except Exception:
        await close(websocket, CLOSE_INTERNAL)  # Rule 2
        raise


async def watch_many(websocket: WebSocket) -> None:
    """``WS /api/watch``."""
    served = services(websocket)
    await accept(websocket, served.settings.max_ws_bytes)
    with served.observed.socket("watch_many", websocket):
        session = WatchSession(served, websocket, websocket_sink(websocket, served.settings.watcher_bytes))
        try:
            async for message, _ in messages(websocket, session.sink, served.settings.max_ws_bytes):
                await session.handle(message)
        except TracewatchError as error:
            await close_with_error(websocket, session.sink, error)
        except SinkClosed:
            pass
        finally:
            await session.close()


class WatchSession:
    """One client of ``/api/watch`` and its subscriptions."""

    def __init__(self, served: Services, websocket: WebSocket, sink: Sink) -> None:
        self.sink = sink
        self._served = served
        self._grant = grant_of(websocket)
        self._client: str = websocket.scope[CLIENT_NAME]
        self._websocket = websocket
        self._watches: dict[str, asyncio.Task[None]] = {}  # by trace_id
        self._asked: set[str] = set()  # those of them the client named itself
        self._roots: dict[str, Subtree] = {}  # subscriptions with ``subtree``, by the trace_id subscribed to
        self._list: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # all that runs for this client
        self._over = False  # the client has gone, or nearly
        self._spawn(self._leave())

    async def handle(self, message: dict[str, Any]) -> None:
        """Do what one message asks for. Raises BadRequest for a message that is none."""
        if await obey(self._served, self.sink, message, self._grant):
            return
        known = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "subscribe_traces": self._subscribe_traces,
        }
        names = [name for name in known if name in message]
        if len(names) != 1 or not isinstance(message[names[0]], dict):
            raise BadRequest(f"a message is one of {', '.join((*known, *COMMANDS))} with an object, or ping")
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
        request = watch_request(trace_id, asked, tagged=True, client=self._client)
        self._asked = (self._asked & self._watches.keys()) | {trace_id}
        if not asked.get("subtree"):
            self._start(request)
            return
        cursors = checked_cursors(asked.get("cursors"))
        if trace_id in self._roots:
            self._roots.pop(trace_id).close()
        subtree = Subtree(
            self._served.hub,
            request,
            cursors,
            start=self._start_sub_trace,
            looked=self._prune,
            below=self._grant.trace_id,
        )
        self._roots[trace_id] = subtree
        subtree.run_in(self._spawn(subtree.run()))
        self._start(request, subtree.begin)

    def _check_room(self) -> None:
        # A subtree is one subscription, however many sub-traces it has: the limit of watchers bounds those
        limit = self._served.settings.max_subscriptions
        if len(self._asked & self._watches.keys()) >= limit:
            raise TooMany(f"a socket has at most {limit} subscriptions", limit=limit)

    def _start_sub_trace(self, request: WatchRequest, on_start: OnStart) -> None:
        if request.trace_id in self._watches:  # the client has subscribed to it by itself
            self._spawn(self._allow(request.trace_id))
        else:
            self._start(request, on_start)

    async def _allow(self, trace_id: str) -> None:
        """Let the subtrees look at a trace. Raises UnknownTrace where the socket may not see it."""
        await self._served.gate.check_trace(self._grant, trace_id)
        for subtree in self._roots.values():
            subtree.allow(trace_id)

    def _start(self, request: WatchRequest, on_start: OnStart | None = None) -> None:
        self._watches[request.trace_id] = self._spawn(self._watch(request, on_start))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before it began, it was never awaited
        return task

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SinkClosed:
            pass
        except Exception:
            await close(self._websocket, CLOSE_INTERNAL)  # Rule 2
            raise

    async def _watch(self, request: WatchRequest, on_start: OnStart | None) -> None:
        with self._served.observed.subscription(self._websocket, request.trace_id, request.since) as seen:
            try:
                # Here and not in _subscribe: a log may name as its sub-trace a trace that is none
                await self._served.gate.check_trace(self._grant, request.trace_id)
                seen.because(await self._watch_or_look(request, on_start, seen))
            except TracewatchError as error:
                seen.because(error.code)
                await self.sink.send_control(error_frame(error, trace_id=request.trace_id))
            except SinkClosed:
                seen.because("left")
                raise
            finally:
                seen.because("left" if self._over else "unsubscribed")
                if self._watches.get(request.trace_id) is asyncio.current_task():
                    del self._watches[request.trace_id]
                self._prune()

    async def _watch_or_look(self, request: WatchRequest, on_start: OnStart | None, seen: Opened) -> str:
        """Watch a trace; of one that is gone the subtrees look for what is below it. Its own snapshot comes first."""
        try:
            return await self._served.hub.watch(request, self.sink, on_start, seen.progress)
        except UnknownTrace:
            for subtree in self._roots.values():
                subtree.allow(request.trace_id)
            raise

    def _prune(self) -> None:
        """Forget the subtrees of which nothing is watched any more."""
        for root_id, subtree in tuple(self._roots.items()):
            if not subtree.looking and not subtree.watched(self._watches):
                del self._roots[root_id]
                subtree.close()

    async def _unsubscribe(self, asked: dict[str, Any]) -> None:
        trace_id = asked.get("trace_id")
        if not isinstance(trace_id, str) or not (trace_id in self._watches or trace_id in self._roots):
            raise Invalid(f"there is no subscription to {str(trace_id)[:128]!r} on this socket")
        subtree = self._roots.pop(trace_id, None)
        members = {trace_id}
        if subtree is not None:
            subtree.close()
            members |= subtree.members
        await _end(*[self._watches.pop(member) for member in members if member in self._watches])
        await self.sink.send_control(control("unsubscribed", trace_id=trace_id))

    async def _subscribe_traces(self, asked: dict[str, Any]) -> None:
        query = replace(list_of_message(asked), below=self._grant.trace_id)
        if self._list is not None:
            await _end(self._list)
        self._list = self._spawn(self._watch_list(query))

    async def _watch_list(self, query: TraceQuery) -> None:
        CLIENT.set(self._client)  # a search is the client's own work, as over HTTP
        try:
            await self._served.hub.watch_list(query, self.sink)
        except TooMuchWork as error:
            await self.sink.send_control(error_frame(error))

    async def _leave(self) -> None:
        after_ms = await self._served.hub.left()
        await self.sink.send_control(control("goaway", after_ms=after_ms))
        await close(self._websocket, CLOSE_GOING_AWAY)

    async def close(self) -> None:
        """End all subscriptions."""
        self._over = True
        for subtree in self._roots.values():
            subtree.close()
        self._roots.clear()
        await _end(*self._tasks)


def checked_cursors(cursors: Any) -> dict[str, str]:
    """The ``cursors`` of a ``subscribe``: where each sub-trace begins. Raises InvalidField, InvalidCursor."""
    if cursors is None:
        return {}
    if not isinstance(cursors, dict) or not all(isinstance(c, str | int) for c in cursors.values()):
        raise InvalidField("cursors: an object {sub_trace_id: cursor}")
    for cursor in cursors.values():
        resolve_since(str(cursor), epoch="", first_event_id=1, last_event_id=0)
    return {sub_id: str(cursor) for sub_id, cursor in cursors.items()}


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:  # all of them first: one may be waiting for another
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
