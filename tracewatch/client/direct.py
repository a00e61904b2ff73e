"""The recorder's way into a file, ``sqlite:///path.db``, without a server; exactly once like over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import LogError, SequenceGap, TracewatchError, Unavailable, UnknownParent, UnknownParentGoal
from ..model.events import validate_trace
from .errors import ApiError, Unreachable
from .link import Answer, Channel

if TYPE_CHECKING:
    from ..log import EventLog


class FileLink:
    """A log in a file of this machine."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._log: EventLog | None = None
        self._opening = asyncio.Lock()  # many traces begin at once

    async def _open_log(self) -> EventLog:
        async with self._opening:
            if self._log is None:
                from ..log import open_log

                try:
                    self._log = await open_log(self._url)
                except (LogError, ImportError) as error:
                    raise Unreachable(str(error)) from error
            return self._log

    async def create(self, spec: dict[str, Any]) -> None:
        """See Link.create."""
        log = await self._open_log()
        try:
            await log.create_trace(validate_trace(spec))
        except Unavailable as error:
            raise Unreachable(error.message) from error
        except (UnknownParent, UnknownParentGoal, TracewatchError) as error:
            raise ApiError(error.status, error.code, error.message, error.details) from error

    async def open(self, trace_id: str, producer: str) -> Channel:
        """See Link.open."""
        return FileChannel(await self._open_log(), trace_id, producer)

    async def close(self) -> None:
        """See Link.close."""
        log, self._log = self._log, None
        if log is not None:
            await log.close()


class FileChannel:
    """One producer of one trace. Appends run one after the other; the log groups those of different traces."""

    def __init__(self, log: EventLog, trace_id: str, producer: str) -> None:
        self.expected_seq = 1  # not known before the first append, and resending is harmless
        self._log = log
        self._trace_id = trace_id
        self._producer = producer
        self._answers: asyncio.Queue[Answer] = asyncio.Queue()

    async def send(self, seq: int, bodies: Sequence[bytes]) -> None:
        """See Channel.send."""
        events = [orjson.loads(body) for body in bodies]
        try:
            await self._log.append(self._trace_id, events, producer=self._producer, seq=seq)
        except TracewatchError as error:
            expected = error.facts.get("expected_seq") if isinstance(error, SequenceGap) else None
            self._answers.put_nowait(Answer(seq, error.code, error.message, expected))
        else:
            self._answers.put_nowait(Answer(seq + len(bodies) - 1))

    async def answer(self) -> Answer | None:
        """See Channel.answer."""
        return await self._answers.get()

    async def heartbeat(self) -> None:
        """See Channel.heartbeat."""
        try:
            await self._log.renew_lease(self._trace_id)
        except TracewatchError:
            pass  # deleted meanwhile: the next append says so

    async def close(self) -> None:
        """See Channel.close."""
