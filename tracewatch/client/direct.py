"""The recorder's way into a file, ``sqlite:///path.db``, without a server; each event is stored once, as over a socket.

Rule 1: one poller for all traces of the file notices cancels and answers from other processes.
Rule 2: the file is used within ``using`` only, and closed while the process is forked. A child that inherits the locks
        of SQLite and its notes about open files finds the log locked for ever.
Rule 3: questions of this process expire in time, also if no server runs on the file.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import LogError, NoSuchRequest, SequenceGap, TracewatchError, Unavailable
from ..model.events import validate_trace
from ..model.window import BATCH_BYTES
from ..settings import Settings
from .control import Told
from .errors import ApiError, Unreachable
from .lines import TraceLine, Verdict, pieces

if TYPE_CHECKING:
    from ..log import Appended, EventLog, Prices

    Using = Callable[[], AbstractAsyncContextManager[EventLog]]

POLL_S = 0.05
EXPIRY_LOOK_S = 0.25
RETRY_S = 0.5
LOCKED_OUT = "the process was forked while its parent was writing the log: its events wait in the spool for another one"


def _prices() -> Prices:
    """Those of ``TRACEWATCH_PRICES`` and the library. A bad file must not break the agent, nor its recording."""
    from ..log import Prices, read_prices

    try:
        return Prices(read_prices(Settings.from_env(os.environ, only=("prices",)).prices), aside=False)
    except LogError as error:
        logging.getLogger("tracewatch").warning("%s", error)
        return Prices(aside=False)


class FileUplink:
    """A log in a file of this machine."""

    def __init__(self, url: str, locked_out: bool = False) -> None:
        """``locked_out``: this process was forked while its parent used SQLite, whose locks it has inherited."""
        self.batch_bytes = BATCH_BYTES
        self._url = url
        self._log: EventLog | None = None
        self._opening = asyncio.Lock()  # many traces begin at once
        self._lines: set[FileLine] = set()
        self._poller: asyncio.Task[None] | None = None
        self._locked_out = locked_out
        self._users = 0  # calls that use the log now
        self._idle = asyncio.Event()  # none does
        self._idle.set()
        self._awake = asyncio.Event()  # the log may be used
        self._awake.set()

    @asynccontextmanager
    async def using(self) -> AsyncIterator[EventLog]:
        """The log, for a block in which it stays open. Raises Unreachable, and what the block raises."""
        while not (self._users or self._awake.is_set()):  # within a block another one begins at once
            await self._awake.wait()
        self._users += 1
        self._idle.clear()
        try:
            yield await self._open_log()
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def rest(self) -> None:
        """See Uplink.rest: the file is closed, when nothing uses it any more."""
        self._awake.clear()
        await self._idle.wait()
        await self.close()

    def go_on(self) -> None:
        """See Uplink.go_on."""
        self._awake.set()

    async def _open_log(self) -> EventLog:
        async with self._opening:
            if self._log is None:
                if self._locked_out:
                    raise Unreachable(LOCKED_OUT)
                try:
                    from ..log import open_log

                    self._log = await open_log(self._url, prices=_prices())
                except (LogError, ImportError, OSError) as error:  # no descriptors left for a module's file, perhaps
                    raise Unreachable(str(error)) from error
                self._poller = asyncio.create_task(self._poll(self._log))
            return self._log

    async def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        """See Uplink.create."""
        try:
            async with self.using() as log:
                snapshot, _ = await log.create_trace(validate_trace(spec))
        except TracewatchError as error:
            raise _as_told(error) from error
        return snapshot.state.trace(lease_alive=snapshot.lease_alive)

    async def find(self, trace_id: str) -> dict[str, Any]:
        """See Uplink.find."""
        try:
            async with self.using() as log:
                snapshot = await log.snapshot(trace_id)
        except TracewatchError as error:
            raise _as_told(error) from error
        return snapshot.state.trace(lease_alive=snapshot.lease_alive)

    async def question(self, trace_id: str, request_id: str) -> dict[str, Any]:
        """See Uplink.question."""
        try:
            async with self.using() as log:
                found = await log.inputs_of(trace_id, request_id)
        except TracewatchError as error:
            raise _as_told(error) from error
        if not found:
            raise _as_told(NoSuchRequest(f"trace {trace_id!r} has not asked a question {request_id!r}"))
        return found[0]

    async def put_blob(self, trace_id: str, sha256: str, media_type: str, path: Path) -> None:
        """See Uplink.put_blob."""

        async def chunks() -> AsyncIterator[bytes]:
            for piece in pieces(path):
                yield piece

        try:
            async with self.using() as log:
                await log.blobs.put(trace_id, sha256, chunks(), media_type=media_type)
        except TracewatchError as error:
            raise _as_told(error) from error

    async def open(self, trace_id: str, producer: str, *, alone: bool = False) -> TraceLine:
        """See Uplink.open."""
        line = FileLine(self.using, trace_id, producer, self._lines)
        try:
            async with self.using() as log:
                await log.renew_lease(trace_id)  # from now on the recorder ends the trace after a cancel
                line.told = await line.look()
                line.expected_seq = await log.last_seq(trace_id, producer) + 1
        except TracewatchError as error:
            raise _as_told(error) from error
        self._lines.add(line)
        return line

    async def _poll(self, log: EventLog) -> None:
        loop = asyncio.get_running_loop()
        look_at = loop.time()
        seen: Any = None
        while True:
            wait_s = POLL_S
            try:
                grown, seen = await log.changes(seen)
                if grown:
                    await self._tell({one.trace_id: one.last_event_id for one in grown})
                if loop.time() >= look_at and any(line.may_expire for line in self._lines):
                    look_at = loop.time() + EXPIRY_LOOK_S  # only the log knows the time of expiry, by its own clock
                    await log.expire_inputs()
            except TracewatchError:
                wait_s = RETRY_S  # the log can't be read now, so try again in a moment
            await asyncio.sleep(wait_s)

    async def _tell(self, grown: dict[str, int]) -> None:
        for line in list(self._lines):
            await line.grown(grown.get(line.trace_id, 0))

    def hurry(self) -> None:
        """See Uplink.hurry: there are no waits here."""

    async def close(self) -> None:
        """See Uplink.close."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])
        log, self._log = self._log, None
        if log is not None:
            await log.close()


def _as_told(error: TracewatchError) -> Unreachable | ApiError:
    """The error in the form of a server's answer."""
    if isinstance(error, Unavailable):
        return Unreachable(error.message)
    return ApiError(error.status, error.code, error.message, error.details)


class FileLine:
    """One producer of one trace. Appends run one after the other; the log groups those of different traces."""

    def __init__(self, using: Using, trace_id: str, producer: str, lines: set[FileLine]) -> None:
        self.expected_seq = 1
        self.told = Told()
        self.trace_id = trace_id
        self.may_expire = False  # whether an open question has a time of expiry
        self._using = using
        self._producer = producer
        self._lines = lines
        self._answers: asyncio.Queue[Verdict | Told] = asyncio.Queue()
        self._seen = 0  # the last event whose commands are known

    async def send(self, seq: int, bodies: Sequence[bytes]) -> None:
        """See TraceLine.send."""
        events = [orjson.loads(body) for body in bodies]
        try:
            async with self._using() as log:
                appended = await log.append(self.trace_id, events, producer=self._producer, seq=seq, parsed=True)
        except TracewatchError as error:
            expected = error.facts.get("expected_seq") if isinstance(error, SequenceGap) else None
            self._answers.put_nowait(Verdict(seq, error.code, error.message, expected, error.details))
        else:
            self._answers.put_nowait(Verdict(seq + len(bodies) - 1))
            self._own(appended, events)

    def _own(self, appended: Appended, events: list[dict[str, Any]]) -> None:
        asked = any(event["event"] == "input_requested" for event in events)
        if appended.first_event_id == self._seen + 1 and not asked:
            self._seen = appended.last_event_id  # the usual case: no events of other writers in between

    async def grown(self, last_event_id: int) -> None:
        """Note that the trace's log has grown up to this event."""
        if last_event_id > self._seen:
            self._answers.put_nowait(await self.look())

    async def look(self) -> Told:
        """Read the commands of the log: cancel and answers. Raises UnknownTrace, Unavailable."""
        async with self._using() as log:
            state = (await log.snapshot(self.trace_id)).state
            inputs = await log.inputs_of(self.trace_id)
        self._seen = state.last_event_id
        self.may_expire = any(one["expires_at"] for one in state.pending_inputs.values())
        return Told(state.cancel_requested, inputs)

    async def answer(self) -> Verdict | Told | None:
        """See TraceLine.answer."""
        return await self._answers.get()

    async def heartbeat(self) -> None:
        """See TraceLine.heartbeat."""
        try:
            async with self._using() as log:
                await log.renew_lease(self.trace_id)
        except TracewatchError:
            pass  # deleted meanwhile; the next append fails with that

    def suspect(self) -> None:
        """See TraceLine.suspect: there is no connection."""

    async def close(self) -> None:
        """See TraceLine.close."""
        self._lines.discard(self)
