"""Serving a log, and the file that is put in its place while it is served.

Rule 1: nothing of one history is ever told under the cursors of another. So the old log is not exchanged under those
        who use it: they are told to come back, and find the new one.
Rule 2: until the new file is open the old one is served; what can't be opened changes nothing but ``/readyz``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from starlette.applications import Starlette

from ..errors import LogError
from .http import Services

logger = logging.getLogger("tracewatch.server")
REOPEN_S = 1.0  # until a file that could not be opened is tried again


class Following:
    """The services of an application: ``app.state.services`` is always the newest.

    ``serve(unlike_epoch)`` opens a log and all that stands on it; the argument is the epoch of the one before, if any.
    """

    def __init__(self, app: Starlette, serve: Callable[[str | None], AbstractAsyncContextManager[Services]]) -> None:
        self._app = app
        self._serve = serve
        self._current = AsyncExitStack()
        self._leaving: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the log. Raises LogError."""
        await self._open(None)
        self._task = asyncio.create_task(self._follow(), name="tracewatch-follow")

    async def _open(self, unlike_epoch: str | None) -> None:
        opened = AsyncExitStack()
        services = await opened.enter_async_context(self._serve(unlike_epoch))
        self._app.state.services, self._current = services, opened  # at once, or it would never be closed

    async def _follow(self) -> None:
        while True:
            log, before = self._app.state.services.log, self._current
            await log.replaced.wait()
            try:
                await self._open(log.epoch)
            except LogError as error:
                log.health.note("reopen", "file_replaced", f"the file in the log's place: {error.message}")
                await asyncio.sleep(REOPEN_S)
                continue
            logger.warning("another file stands in the log's place: it is served from now on")
            leaving = asyncio.create_task(before.aclose())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Close the log, and the one before it if that is still being left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(self._current.aclose(), *self._leaving)
        del self._app.state.services
