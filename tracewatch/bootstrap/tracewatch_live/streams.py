"""A stream of a model's events that somebody else reads, and we look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .wire import Wire

Current = Callable[[], Any]


class Tee:
    """An async iterator that is ``stream`` to its reader; the text of its events is told of.

    text: the text in an event. current: the ids of the span that a model call is in, where the event came.
    """

    def __init__(self, stream: Any, text: Callable[[Any], str | None], current: Current, wire: Wire) -> None:
        self._stream, self._text, self._current, self._wire = stream, text, current, wire

    def __aiter__(self) -> Tee:
        return self

    async def __anext__(self) -> Any:
        event = await self._stream.__anext__()
        try:
            text = self._text(event)
            ids = self._current() if text else None
            if text and ids is not None:
                self._wire.put_text(ids[0], ids[1], text)
        except Exception as error:
            self._wire.failed("stream", error)
        return event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # aclose, asend, …
