"""Recording over one WebSocket: appends in, acks out in order, commands down the same socket.

Rule 1: an ack is sent after the commit. Appends are handed to the log in the order they came, many in flight.
Rule 2: a refused append is a ``nack``; the socket stays open.
Rule 3: a recorder that sends faster than the disk takes is not read from meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import orjson
from starlette.websockets import WebSocket

from ..errors import BadRequest, TracewatchError, Unavailable, UnknownTrace
from ..live.sink import Sink, SinkClosed
from ..log import Appended, Grown, Snapshot
from ..model.events import event_name
from ..model.frames import CLOSE_GOING_AWAY
from .endpoint import accept, close, close_with_error, messages
from .http import Services, services
from .rest import appended_json, checked_producer
from .sinks import websocket_sink

logger = logging.getLogger("tracewatch.server")
RETRY_S = 0.5  # until a log that could not be read is asked again for commands
READY_INPUTS = 100  # closed questions in ``ready``; older ones are asked for by id
IN_FLIGHT = 64  # appends handed to the log and not yet answered, per socket
COMMANDS = frozenset({"cancel_requested", "input_provided", "input_expired"})
Waiting = tuple[int | None, int, "asyncio.Task[Appended]"]


async def record(websocket: WebSocket) -> None:
    """``WS /api/traces/{id}/record``."""
    served = services(websocket)
    await accept(websocket, served.settings.max_ws_record_bytes)
    sink = websocket_sink(websocket, served.settings.watcher_bytes)
    with served.observed.socket("record", websocket):
        session = Session(served, websocket, sink)
        try:
            await session.begin()
            async for message in messages(websocket, sink, served.settings.max_ws_record_bytes, work="append"):
                await session.handle(message)
        except TracewatchError as error:
            await close_with_error(websocket, sink, error)
        except SinkClosed:
            pass
        finally:
            await session.end()


class Session:
    """One recorder's socket."""

    def __init__(self, served: Services, websocket: WebSocket, sink: Sink) -> None:
        self._served = served
        self._websocket = websocket
        self._sink = sink
        self._trace_id: str = websocket.path_params["trace_id"]
        self._producer: str | None = websocket.query_params.get("producer")
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue(IN_FLIGHT)  # appends in the order they came
        self._tasks: list[asyncio.Task[None]] = []
        self._commands = Commands(served, self._trace_id, sink)

    async def begin(self) -> None:
        """Say where the log stands. Raises UnknownTrace, BadRequest."""
        if self._producer is not None:
            checked_producer(self._producer, 1)
        await self._served.log.renew_lease(self._trace_id)  # it is here: a cancel from now on is its own to end with
        snapshot = await self._served.log.snapshot(self._trace_id)
        # After the snapshot: an answer that comes in between is in both, and not in neither
        inputs = await self._served.log.inputs_of(self._trace_id, limit=READY_INPUTS)
        expected = None
        if self._producer is not None:
            expected = await self._served.log.last_seq(self._trace_id, self._producer) + 1
        state = snapshot.state
        ready = {
            "trace_id": self._trace_id,
            "epoch": self._served.log.epoch,
            "last_event_id": state.last_event_id,
            "producer": self._producer,
            "expected_seq": expected,
            "cancel_requested": state.cancel_requested,
            "inputs": _fitting(inputs, self._served.settings.max_frame_bytes),
        }
        await self._say({"ready": ready})
        self._commands.begin(snapshot)
        self._tasks = [
            asyncio.create_task(self._answer()),
            asyncio.create_task(self._keep_lease()),
            asyncio.create_task(self._leave()),
        ]

    async def _say(self, value: dict[str, Any]) -> None:
        await self._sink.send_control(orjson.dumps(value))

    async def handle(self, message: dict[str, Any]) -> None:
        """One message of the recorder. Raises BadRequest for what is none."""
        if "append" in message:
            await self._append(message["append"])
        elif "heartbeat" in message:
            await self._served.log.renew_lease(self._trace_id)
        else:
            raise BadRequest('a message is {"append": {"seq", "events"}}, {"heartbeat": {}} or ping')

    async def _append(self, asked: Any) -> None:
        if not isinstance(asked, dict) or not isinstance(asked.get("events"), list):
            raise BadRequest('append is an object with "events", an array')
        producer, seq = asked.get("producer", self._producer), asked.get("seq")
        if seq is not None or "producer" in asked:
            checked_producer(producer, seq)
            self._producer = producer
        appending = self._served.log.append(
            self._trace_id, asked["events"], producer=None if seq is None else producer, seq=seq, parsed=True
        )
        task = asyncio.create_task(appending)
        await self._waiting.put((seq, len(asked["events"]), task))

    async def _answer(self) -> None:
        # Goes on when the recorder has gone: who hands in appends must never wait for room that nobody makes
        while True:
            seq, count, task = await self._waiting.get()
            try:
                with suppress(SinkClosed):
                    await self._say(await self._outcome(seq, count, task))
            finally:
                self._waiting.task_done()

    async def _outcome(self, seq: int | None, count: int, task: asyncio.Task[Appended]) -> dict[str, Any]:
        try:
            appended = await task
        except TracewatchError as error:
            return {"nack": {"seq": seq, **error.body()}}
        except Exception as error:
            logger.error("a defect in tracewatch failed an append; nothing of it was stored", exc_info=error)
            return {"nack": {"seq": seq, **TracewatchError("an internal error: nothing was stored").body()}}
        return {"ack": {"seq": None if seq is None else seq + count - 1, **appended_json(appended)}}

    async def _keep_lease(self) -> None:
        # A socket is pinged this often and closed if its pong stays away: an open socket is a sign of life
        with suppress(UnknownTrace):
            while True:
                await asyncio.sleep(self._served.settings.ws_ping_s / 2)
                with suppress(Unavailable):  # asked again soon
                    await self._served.log.renew_lease(self._trace_id)

    async def _leave(self) -> None:
        after_ms = await self._served.hub.left()
        with suppress(SinkClosed):
            await self._say({"goaway": {"after_ms": after_ms}})
        await self._waiting.join()  # what is in flight still gets its answer
        await close(self._websocket, CLOSE_GOING_AWAY)

    async def end(self) -> None:
        """The socket has gone. What was handed to the log is stored all the same."""
        self._commands.close()
        tasks, self._tasks = self._tasks, []  # a cancelled one holds its traceback, and that this session
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not self._waiting.empty():
            self._waiting.get_nowait()[2].add_done_callback(lambda done: done.cancelled() or done.exception())


def _fitting(inputs: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The questions for ``ready``; beyond ``limit`` bytes, newest first, only their ids and states."""
    fitting: list[dict[str, Any]] = []
    for one in reversed(inputs):
        limit -= len(orjson.dumps(one))
        short = {"request_id": one["request_id"], "state": one["state"]}
        fitting.append(one if limit > 0 else short)
    return fitting[::-1]


class Commands:
    """Sends a recorder the commands that others put into its trace's log, from whatever process they came."""

    def __init__(self, served: Services, trace_id: str, sink: Sink) -> None:
        self._served = served
        self._trace_id = trace_id
        self._sink = sink
        self._seen = 0  # the last event looked at
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unlisten: Callable[[], None] | None = served.hub.on_growth(self._grown, trace_id)

    def begin(self, snapshot: Snapshot) -> None:
        """Commands after this snapshot are sent; those before it are in ``ready``."""
        self._seen = snapshot.state.last_event_id
        self._task = asyncio.create_task(self._run())

    def _grown(self, grown: Sequence[Grown]) -> None:
        for one in grown:
            if one.last_event_id <= self._seen:
                continue
            follows = one.last_event_id - len(one.bodies) == self._seen
            if follows and not any(event_name(body) in COMMANDS for body in one.bodies):
                self._seen = one.last_event_id  # the usual case: the recorder's own events
            else:
                self._wake.set()

    async def _run(self) -> None:
        with suppress(SinkClosed, UnknownTrace):
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self._send_new()
                except Unavailable:
                    self._wake.set()
                    await asyncio.sleep(RETRY_S)

    async def _send_new(self) -> None:
        while True:
            page = await self._served.log.read(
                self._trace_id, self._seen, max_events=500, max_bytes=self._served.settings.page_bytes
            )
            for body in page.bodies:
                if event_name(body) in COMMANDS:
                    await self._sink.send_control(body)
            self._seen = max(self._seen, page.upto)
            if not page.bodies:
                return

    def close(self) -> None:
        """Stop listening."""
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None  # it holds what listened, and that this
        if self._task is not None:
            self._task.cancel()
            self._task = None
