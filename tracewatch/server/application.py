"""The application's class: what makes it fit for mounting into somebody else's.

Rule 1: every response has the headers that keep browsers from doing more with it than we mean.
Rule 2: an application whose lifespan was not run says so at the first request, to the caller and in the log.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from ..errors import Unavailable
from .http import refuse
from .metrics.seen import because
from .uvicorn import socket_of, transport_of

logger = logging.getLogger("tracewatch.server")
NOT_STARTED = (
    "tracewatch is mounted but was not started: a mounted application's lifespan is its host's to run. "
    "With app = create_app(), give the host lifespan=app.lifespan, or run `async with app.lifespan():` in its own"
)


HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
API_HEADERS = HEADERS | {  # where a response does not say otherwise, as pages do
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
HSTS = {"Strict-Transport-Security": "max-age=31536000"}


class Application(Starlette):
    """tracewatch as an ASGI application: served by itself, or mounted."""

    def __init__(self, *, secure: bool = False, **parts: Any) -> None:
        """``secure``: TLS is ours, so that browsers may be told to insist on it. ``parts``: as Starlette's."""
        super().__init__(**parts)
        self._headers = API_HEADERS | HSTS if secure else API_HEADERS

    @asynccontextmanager
    async def lifespan(self, host: Any = None) -> AsyncIterator[None]:
        """Open the log for as long as the block lasts: for the lifespan of an application that this one is mounted in.

        ``FastAPI(lifespan=app.lifespan)``, or ``async with app.lifespan():`` inside the host's own. Served by itself it
        needs none of this. Raises RuntimeError if it runs already, LogError if the log can't be opened.
        """
        if self.started:
            raise RuntimeError("this tracewatch application runs already; make another one with create_app()")
        async with self.router.lifespan_context(self):
            yield

    @property
    def started(self) -> bool:
        """Whether the lifespan is running."""
        return hasattr(self.state, "services")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        if self.started:
            # Here ``send`` and ``receive`` are still the server's own bound methods; further in they are wrapped
            transport, stalls = transport_of(scope, send, receive), self.state.services.stalls
            scope["tracewatch.transport"] = transport
            if scope["type"] == "http":
                send = self._with_headers(send)
            else:
                scope["tracewatch.socket"] = socket_of(scope, send)
            if transport is not None:
                stalls.enter(transport, partial(because, scope, "stalled"))
            try:
                if scope["type"] == "http":
                    await self.state.services.observed.http(super().__call__, scope, receive, send)
                else:
                    await super().__call__(scope, receive, send)
            finally:
                if transport is not None:
                    stalls.leave(transport)
                # The server's protocol holds the scope and what is ours in it the protocol: kilobytes for every
                # connection that would wait for the garbage collector, which counts objects
                for key in [key for key in scope if key.startswith("tracewatch.")]:
                    del scope[key]
            return
        logger.error(NOT_STARTED)
        await refuse(Unavailable(NOT_STARTED), scope, receive, self._with_headers(send))

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                message = {**message, "headers": headers.raw}
            await send(message)

        return sending
