"""The log without a WebSocket: ``GET /api/traces/{id}/events`` as SSE, NDJSON or pages, whichever ``Accept`` asks for.

Rule: a request is refused before the first byte of its answer if it can be, so that a refusal has a status.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import BadRequest, TracewatchError
from ..live.sink import SinkClosed
from ..live.watcher import WatchRequest, gap_error, start_of
from ..log.patience import CLIENT
from ..model.canonical import ENDED, event_name
from ..model.frames import format_cursor, resolve_since
from ..model.state import State
from .endpoint import error_frame
from .http import CLIENT_NAME, JSON, NDJSON, SSE, Services, json_response, limit_param, services
from .metrics.seen import Opened
from .sinks import StreamSink
from .watch import watch_request


def chosen_type(accept: str) -> str:
    """The first type in an ``Accept`` header that there is; a page if none is named."""
    for part in accept.split(","):
        media = part.split(";")[0].strip().lower()
        if media in (SSE, NDJSON, JSON):
            return media
        if media in ("*/*", "application/*", ""):
            return JSON
    raise BadRequest(f"Accept: one of {SSE}, {NDJSON}, {JSON}")


async def get_events(request: Request) -> Response:
    """``GET /api/traces/{id}/events``."""
    served = services(request)
    media = chosen_type(request.headers.get("accept", "*/*"))
    params = dict(request.query_params)
    if media == SSE and request.headers.get("last-event-id"):
        params["since_event_id"] = request.headers["last-event-id"]
    trace_id, client = request.path_params["trace_id"], request.scope[CLIENT_NAME]
    if media == JSON:
        return await _page(request, served, watch_request(trace_id, params))
    if media == SSE:
        watch = replace(watch_request(trace_id, params, client=client), until_end=True)
        if not watch.wait and await _nothing_more(served, watch):
            return Response(status_code=204)
        return EventStream(served, watch, media)
    follow = params.get("follow") in ("1", "true")
    watch = replace(watch_request(trace_id, params, client=client), until_end=True, quiet=True, follow=follow)
    return EventStream(served, watch, media)


async def _nothing_more(served: Services, watch: WatchRequest) -> bool:
    """Whether the client stands at the end of an ended trace: 204 is what stops an EventSource."""
    page = await served.log.read(watch.trace_id, 0, max_events=1, max_bytes=1)
    start = await start_of(served.log, watch, page.first_event_id, page.last_event_id)
    at_end = start.explicit and start.gap is None and start.after == page.last_event_id
    return at_end and page.status in ENDED


async def _page(request: Request, served: Services, watch: WatchRequest) -> Response:
    limit = limit_param(request, served.settings.page_events)
    epoch = served.log.epoch
    page = await served.log.read(watch.trace_id, 0, max_events=1, max_bytes=1)
    while True:
        first, last = page.first_event_id, page.last_event_id
        start = await start_of(served.log, watch, first, last)
        if start.gap is not None:
            state = State(watch.trace_id, first_event_id=first, last_event_id=last)
            raise gap_error(start.gap, state, epoch)
        page = await served.log.read(
            watch.trace_id, start.after, max_events=limit, max_bytes=served.settings.page_bytes
        )
        if page.first_event_id - 1 <= start.after:
            break  # else it was trimmed between the two reads
    bodies = [body for body in page.bodies if watch.types is None or event_name(body) in watch.types]
    more = "true" if page.upto < page.last_event_id else "false"
    return json_response(
        b'{"events":[%b],"next_since_event_id":%d,"cursor":"%b",'
        b'"current_event_id":%d,"first_event_id":%d,"has_more":%b}'
        % (
            b",".join(bodies),
            page.upto,
            format_cursor(epoch, page.upto).encode(),
            page.last_event_id,
            page.first_event_id,
            more.encode(),
        )
    )


class EventStream(Response):
    """A watch as a response that goes on until the trace has ended, the client has gone or the server leaves."""

    def __init__(self, served: Services, watch: WatchRequest, media: str) -> None:
        super().__init__()
        self._served = served
        self._watch = watch
        self._media = media

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        CLIENT.set("")  # a stream reads page by page at its own pace, as a socket does
        sink = StreamSink(send, self._media, scope.get("tracewatch.transport"))
        if scope["method"] == "HEAD":
            await self._served.log.read(self._watch.trace_id, 0, max_events=1, max_bytes=1)  # whether there is one
            await sink.end()
            return
        kind = "sse" if self._media == SSE else "ndjson"
        with self._served.observed.socket(kind, HTTPConnection(scope), self._watch.since) as seen:
            watching = asyncio.create_task(self._run(sink, seen))
            # uvicorn silently drops what is sent to a client that has left, so its leaving is awaited as well
            leaving = asyncio.create_task(_gone(receive))
            try:
                await asyncio.wait({watching, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                if not watching.done():
                    watching.cancel()
            with suppress(asyncio.CancelledError, SinkClosed):
                await watching

    async def _run(self, sink: StreamSink, seen: Opened) -> None:
        watch, epoch = self._watch, self._served.log.epoch
        if watch.wait:  # the reader hears that it is connected before there is anything to say
            resolve_since(watch.since, epoch=epoch, first_event_id=1, last_event_id=0)
            await sink.begin()
        whole = True
        try:
            outcome = await self._served.hub.watch(watch, sink, progress=seen.progress)
            seen.because(outcome)
            whole = outcome == "end"
        except TracewatchError as error:
            seen.because(error.code)
            if not sink.begun:
                raise  # becomes a status
            whole = False
            if not watch.quiet:
                await sink.send_control(error_frame(error))
        # Lines have no control frames: one that stops early must not look whole, so the response is left unfinished
        if whole or not watch.quiet:
            await sink.end()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
