"""Recording over WebSockets: appends in, acks out in the order of their trace, commands down the same socket.

``WS /api/traces/{id}/record`` is for one trace, ``WS /api/record`` for any number. Both are a ``RecordSocket`` with its
``Recording``s. The first has one, which its address opens, and its frames do not name the trace.

Rule 1: an ack is sent after the commit. Appends to a trace are handed to the log in the order they came, many in
        flight, and answered in that order. Those to different traces do not wait for each other.
Rule 2: a refusal is a ``nack``. It closes nothing and touches no other trace. Only a message that belongs to no trace,
        because it can't be read, closes the socket.
Rule 3: a recorder that sends faster than the disk takes is not read from meanwhile: while so many messages are in
        flight, or so many bytes of them.
Rule 4: what is done at intervals (leases, looking for commands) and at the end is done once for a socket, whatever
        number of traces it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from ..errors import (
    AlreadyOpen,
    BadRequest,
    NotOpen,
    TooLarge,
    TooMany,
    TracewatchError,
    Unavailable,
    UnknownTrace,
)
from ..live.sink import Sink, SinkClosed
from ..log import Appended, Grown
from ..model.canonical import event_name
from ..model.events import validate_trace
from ..model.frames import CLOSE_GOING_AWAY
from ..model.preview import shorten, size_of
from .auth.tokens import grant_of
from .endpoint import accept, close, close_with_error, messages
from .http import Services, json_response, services
from .metrics.seen import Opened
from .rest import appended_json, checked_producer, created_json
from .sinks import websocket_sink

logger = logging.getLogger("tracewatch.server")
RETRY_S = 0.5  # until a log that could not be read is asked again for commands
READY_INPUTS = 100  # closed questions in ``ready``; older ones are asked for by id
IN_FLIGHT = 64  # messages handed to the log and not yet answered, per socket
HELD_MESSAGES = 2  # of the largest size: their bytes may be in flight, per socket
OPEN_TRACES = 10_000  # per socket
RENEWED_AT_ONCE = 100  # leases
NAME_CHARACTERS = 1024  # of what a message gives as its trace_id: an answer to it has it as well
COMMANDS = frozenset({"cancel_requested", "input_provided", "input_expired"})
WORK = frozenset({"append", "create", "open", "close"})  # messages that the limit of those in flight slows down


async def record(websocket: WebSocket) -> None:
    """``WS /api/traces/{id}/record``."""
    served = services(websocket)
    await accept(websocket, served.settings.max_ws_record_bytes)
    with served.observed.socket("record", websocket):
        socket = RecordSocket(served, websocket)
        trace_id, producer = websocket.path_params["trace_id"], websocket.query_params.get("producer")
        await socket.run(one=Recording(socket, trace_id, producer, {}))


async def record_many(websocket: WebSocket) -> None:
    """``WS /api/record``."""
    served = services(websocket)
    await accept(websocket, served.settings.max_ws_record_bytes)
    with served.observed.socket("record_many", websocket):
        await RecordSocket(served, websocket).run()


async def heartbeat(request: Request) -> Response:
    """``POST /api/traces/{id}/heartbeat``: what a recorder without a socket is told is what ``ready`` says."""
    served, trace_id = services(request), request.path_params["trace_id"]
    await served.log.renew_lease(trace_id)
    state = (await served.log.snapshot(trace_id)).state
    # After the snapshot: an answer that comes in between is in both, and not in neither
    inputs = await served.log.inputs_of(trace_id, limit=READY_INPUTS)
    told = {"cancel_requested": state.cancel_requested, "inputs": _fitting(inputs, served.settings.max_frame_bytes)}
    return json_response({"trace_id": trace_id, **told})


class RecordSocket:
    """One recorder's socket, and the traces that are open on it."""

    def __init__(self, served: Services, websocket: WebSocket) -> None:
        self.served = served
        self.websocket = websocket
        self.grant = grant_of(websocket)
        self._sink: Sink = websocket_sink(websocket, served.settings.watcher_bytes)
        self._recordings: dict[str, Recording] = {}  # by trace_id
        self._turns: dict[str, asyncio.Task[None]] = {}  # by trace_id: the last create, open or close of it
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._in_flight = 0
        self._size = 0  # of the message at hand
        self._held = 0  # bytes of the appends that are in flight
        self._lighter = asyncio.Event()  # set when some of them are not any more
        self._left = False
        self._all_answered = asyncio.Event()
        # Of what is in flight, and so bounded; and what to do once it is sent
        self._answers: asyncio.Queue[tuple[bytes, Callable[[], None] | None]] = asyncio.Queue()
        self._told: set[Recording] = set()  # those in whose logs there may be commands
        self._look = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, one: Recording | None = None) -> None:
        """Take messages until the recorder has gone. ``one``: the only trace, instead of those that are opened."""
        limit = self.served.settings.max_ws_record_bytes
        handle = self._handle
        try:
            if one is not None:
                self._recordings[one.trace_id] = one
                await self._sink.send_control(orjson.dumps({"ready": await one.ready()}))
                one.begin()
                handle = one.handle
            works = (self._send_answers(), self._keep_leases(), self._send_commands(), self._leave())
            self._tasks = [asyncio.create_task(work) for work in works]
            async for message, size in messages(self.websocket, self._sink, limit, work=WORK):
                if not self._left:
                    self._size = size
                    await handle(message)
                    await self._room_for_more(HELD_MESSAGES * limit)
        except TracewatchError as error:
            await close_with_error(self.websocket, self._sink, error)
        except SinkClosed:
            pass
        finally:
            await self._end()

    # --- messages that name their trace ---

    async def _handle(self, message: dict[str, Any]) -> None:
        """One message of ``/api/record``. Raises BadRequest for what is none."""
        known = {"append": self._append, "open": self._open, "close": self._close, "create": self._create}
        kind = next((name for name in known if name in message), None)
        if kind is None and message.get("heartbeat") == {}:
            await self._renew(list(self._recordings.values()))
            return
        asked = message.get(kind or "heartbeat")
        if not isinstance(asked, dict) or not isinstance(asked.get("trace_id"), str):
            raise BadRequest("a message is append, open, create, close or heartbeat with a trace_id, or ping")
        if len(asked["trace_id"]) > NAME_CHARACTERS:
            raise BadRequest(f"a trace_id has at most 128 characters, not {len(asked['trace_id']):,}")
        if kind is None:
            await self._renew([one for one in (self._recordings.get(asked["trace_id"]),) if one is not None])
        else:
            await known[kind](asked["trace_id"], asked)

    async def _append(self, trace_id: str, asked: dict[str, Any]) -> None:
        await self.enter()
        try:
            recording = self._recordings.get(trace_id)
            if recording is None:
                raise NotOpen(f"trace {trace_id!r} is not open on this socket")
            recording.append(asked)
        except TracewatchError as error:
            seq = asked.get("seq")
            self.answer({"nack": {"trace_id": trace_id, "seq": seq if isinstance(seq, int) else None, **error.body()}})

    async def _create(self, trace_id: str, asked: dict[str, Any]) -> None:
        async def create() -> None:
            limit = self.served.settings.max_event_bytes
            if len(orjson.dumps(asked)) > limit:
                raise TooLarge(f"the trace's fields are above the limit of {limit:,} bytes", limit=limit)
            spec = validate_trace(asked)
            await self.served.gate.check_create(self.grant, spec)
            snapshot, _ = await self.served.log.create_trace(spec, below=self.grant.trace_id)
            created = created_json(self.served, snapshot)
            self.answer({"created": {**created, "trace": shorten(created["trace"], limit)}})

        await self._in_turn(trace_id, "create", create)

    async def _open(self, trace_id: str, asked: dict[str, Any]) -> None:
        recording: Recording | None = None
        if trace_id not in self._recordings and len(self._recordings) < OPEN_TRACES:
            recording = Recording(self, trace_id, asked.get("producer"), {"trace_id": trace_id})
            self._recordings[trace_id] = recording  # at once: appends may follow without waiting for ``ready``

        async def open_() -> None:
            if recording is None and trace_id in self._recordings:
                raise AlreadyOpen(f"trace {trace_id!r} is open on this socket already")
            if recording is None:
                raise TooMany(f"a socket has at most {OPEN_TRACES:,} traces open", limit=OPEN_TRACES)
            try:
                await self.served.gate.check_trace(self.grant, trace_id)
                self.answer({"ready": await recording.ready()}, recording.begin)
            except BaseException:
                self._forget(recording)
                raise

        await self._in_turn(trace_id, "open", open_)

    async def _close(self, trace_id: str, asked: dict[str, Any]) -> None:
        recording = self._recordings.pop(trace_id, None)

        async def close_() -> None:
            if recording is None:
                raise NotOpen(f"trace {trace_id!r} is not open on this socket")
            await recording.all_answered()
            recording.end("closed")
            self.answer({"closed": {"trace_id": trace_id}})

        await self._in_turn(trace_id, "close", close_)

    def _forget(self, recording: Recording) -> None:
        if self._recordings.get(recording.trace_id) is recording:
            del self._recordings[recording.trace_id]
        recording.end("refused")

    async def _in_turn(self, trace_id: str, of: str, work: Callable[[], Awaitable[None]]) -> None:
        """Have this done behind what came before it about the same trace, and answered."""
        await self.enter()
        task = asyncio.create_task(self._turn(self._turns.get(trace_id), trace_id, of, work))
        self._turns[trace_id] = task
        task.add_done_callback(lambda done: self._turns.pop(trace_id) if self._turns.get(trace_id) is done else None)

    async def _turn(
        self,
        before: asyncio.Task[None] | None,
        trace_id: str,
        of: str,
        work: Callable[[], Awaitable[None]],
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            await work()
        except TracewatchError as error:
            self.answer(_refusal(trace_id, of, error))
            _let_go(error)
        except Exception as error:
            logger.error("a defect in tracewatch failed a recorder's %s", of, exc_info=error)
            self.answer(_refusal(trace_id, of, TracewatchError("an internal error: nothing was stored")))

    # --- flow control and answers ---

    def hold(self) -> int:
        """Count the message at hand as in flight; its size."""
        self._held += self._size
        return self._size

    def let_go(self, size: int) -> None:
        """The log has a message of this size, or has refused it."""
        self._held -= size
        self._lighter.set()

    async def _room_for_more(self, limit: int) -> None:
        while self._held > limit:
            self._lighter.clear()
            await self._lighter.wait()

    async def enter(self) -> None:
        """Wait until one more message may be in flight. Each that has entered is answered."""
        await self._room.acquire()
        self._in_flight += 1
        self._all_answered.clear()

    def answer(self, value: dict[str, Any], then: Callable[[], None] | None = None) -> None:
        """Answer a message that is in flight, behind the answers given so far; ``then`` is called when that is sent."""
        self._answers.put_nowait((orjson.dumps(value), then))

    async def _send_answers(self) -> None:
        # Goes on when the recorder has gone: a message that waits for room must never wait in vain
        while True:
            frame, then = await self._answers.get()
            with suppress(SinkClosed):
                await self._sink.send_control(frame)
                if then is not None:
                    then()
            self._room.release()
            self._in_flight -= 1
            if not self._in_flight:
                self._all_answered.set()

    # --- once for all traces ---

    async def _keep_leases(self) -> None:
        # A socket is pinged this often and closed if its pong stays away: an open socket is a sign of life
        while True:
            await asyncio.sleep(self.served.settings.ws_ping_s / 2)
            await self._renew(list(self._recordings.values()))

    async def _renew(self, recordings: Sequence[Recording]) -> None:
        for begin in range(0, len(recordings), RENEWED_AT_ONCE):
            await asyncio.gather(*(one.renew_lease() for one in recordings[begin : begin + RENEWED_AT_ONCE]))

    def look_for_commands(self, recording: Recording) -> None:
        """The recording's log may hold commands that were not sent."""
        self._told.add(recording)
        self._look.set()

    async def _send_commands(self) -> None:
        with suppress(SinkClosed):
            while True:
                await self._look.wait()
                self._look.clear()
                told, self._told = self._told, set()
                for recording in told:
                    try:
                        await recording.send_new_commands(self._sink)
                    except UnknownTrace:
                        pass  # deleted meanwhile: the next append says so
                    except Unavailable:
                        self._told.add(recording)
                if self._told:
                    self._look.set()
                    await asyncio.sleep(RETRY_S)

    async def _leave(self) -> None:
        after_ms = await self.served.hub.left()
        with suppress(SinkClosed):
            await self._sink.send_control(orjson.dumps({"goaway": {"after_ms": after_ms}}))
        while self._in_flight:  # what is in flight still gets its answer
            await self._all_answered.wait()
        self._left = True  # and what comes from now on is not handed to the log: nobody could be told
        await close(self.websocket, CLOSE_GOING_AWAY)

    async def _end(self) -> None:
        """The socket has gone. What was handed to the log is stored all the same."""
        tasks = [*self._tasks, *self._turns.values()]
        self._tasks = []  # a cancelled one holds its traceback, and that this socket
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for recording in self._recordings.values():
            recording.end("left")
        self._recordings.clear()
        self._told.clear()


def _refusal(trace_id: str, of: str, error: TracewatchError) -> dict[str, Any]:
    return {"nack": {"trace_id": trace_id, "of": of, "status": error.status, **error.body()}}


def _let_go(error: TracewatchError) -> None:
    """Let an error that is kept somewhere, such as in a future, not keep the socket with its traceback."""
    error.__traceback__ = None


class Recording:
    """One trace on a socket: its appends, and what its log says to the recorder.

    ``tag``: what its frames begin with, so that they name the trace.
    """

    def __init__(self, socket: RecordSocket, trace_id: str, producer: Any, tag: dict[str, Any]) -> None:
        self.trace_id = trace_id
        self._socket = socket
        self._log = socket.served.log
        self._producer = producer
        self._tag = tag
        # The trace may be deleted, and another one made under its id, which the socket's token does not cover
        self._looks_each_time = socket.grant.trace_id not in (None, trace_id)
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._appends: deque[tuple[int | None, int, asyncio.Task[Appended]]] = deque()  # not answered, in their order
        self._seen = 0  # the last event that was looked at for commands
        self._grown_to = 0  # the last event there is, as far as was heard
        self._gone = False  # the trace was deleted: there is no lease to renew
        self._observed = ExitStack()
        self._seen_open: Opened | None = None  # as the metrics and the access log see it
        self._unlisten: Callable[[], None] | None = socket.served.hub.on_growth(self._grown, trace_id)

    async def ready(self) -> dict[str, Any]:
        """Where the log stands. Raises UnknownTrace, InvalidField, Unavailable."""
        log, trace_id, producer = self._log, self.trace_id, self._producer
        if producer is not None:
            checked_producer(producer, 1)
        await log.renew_lease(trace_id)  # the recorder is here: a cancel from now on is its own to end with
        snapshot = await log.snapshot(trace_id)
        # After the snapshot: an answer that comes in between is in both, and not in neither
        inputs = await log.inputs_of(trace_id, limit=READY_INPUTS)
        expected = None if producer is None else await log.last_seq(trace_id, producer) + 1
        state = snapshot.state
        self._seen = state.last_event_id
        ready = {
            "trace_id": trace_id,
            "epoch": log.epoch,
            "last_event_id": state.last_event_id,
            "producer": producer,
            "expected_seq": expected,
            "cancel_requested": state.cancel_requested,
        }
        room = self._socket.served.settings.max_frame_bytes - size_of({"ready": {**ready, "inputs": []}})
        return {**ready, "inputs": _fitting(inputs, room)}

    def begin(self) -> None:
        """The recorder was told where the log stands: what comes from now on is handed to the log, and sent to it."""
        if self._begun.cancelled():
            return  # the socket has gone
        if self._tag:
            observed = self._socket.served.observed
            self._seen_open = self._observed.enter_context(observed.recording(self._socket.websocket, self.trace_id))
        self._begun.set_result(None)
        if self._grown_to > self._seen:
            self._socket.look_for_commands(self)

    async def handle(self, message: dict[str, Any]) -> None:
        """One message of ``/api/traces/{id}/record``. Raises BadRequest for what is none."""
        if "append" in message:
            asked = message["append"]
            if not isinstance(asked, dict):
                raise _no_append()
            await self._socket.enter()
            self.append(asked)
        elif "heartbeat" in message:
            await self._check()
            await self._log.renew_lease(self.trace_id)
        else:
            raise BadRequest('a message is {"append": {"seq", "events"}}, {"heartbeat": {}} or ping')

    async def _check(self) -> None:
        """Raise UnknownTrace where the socket's token does not cover the trace any more."""
        if self._looks_each_time:
            await self._socket.served.gate.check_trace(self._socket.grant, self.trace_id)

    def append(self, asked: dict[str, Any]) -> None:
        """Hand a batch to the log; the answer follows. Raises BadRequest, InvalidField for what is none."""
        if not isinstance(asked.get("events"), list):
            raise _no_append()
        producer, seq = asked.get("producer", self._producer), asked.get("seq")
        if seq is not None or "producer" in asked:
            checked_producer(producer, seq)
            self._producer = producer
        size = self._socket.hold()
        task = asyncio.create_task(self._hand_over(asked["events"], None if seq is None else producer, seq, size))
        self._appends.append((seq, len(asked["events"]), task))
        task.add_done_callback(lambda _: self._socket.let_go(size))
        task.add_done_callback(self._answer)

    async def _hand_over(self, events: list[Any], producer: str | None, seq: int | None, size: int) -> Appended:
        if not self._begun.done():
            await self._wait_for_ready(size)
        if self._begun.cancelled():
            raise NotOpen(f"trace {self.trace_id!r} could not be opened on this socket")
        await self._check()
        below = self._socket.grant.trace_id
        return await self._log.append(self.trace_id, events, producer=producer, seq=seq, parsed=True, below=below)

    async def _wait_for_ready(self, size: int) -> None:
        """Raises Unavailable while all that waits like this, and all bodies being received, are too much together."""
        coming, limit = self._socket.served.coming, self._socket.served.settings.max_waiting_bytes
        coming.bytes += size
        try:
            if size < coming.bytes > limit:
                raise Unavailable("too much is being sent to this server at once; try again later", retry_after_s=1)
            await asyncio.wait([self._begun])
        finally:
            coming.bytes -= size

    def _answer(self, _: object) -> None:
        """Answer the appends that are done, as far as all before them are."""
        while self._appends and self._appends[0][2].done():
            seq, count, task = self._appends.popleft()
            self._socket.answer(self._outcome(seq, count, task))

    def _outcome(self, seq: int | None, count: int, task: asyncio.Task[Appended]) -> dict[str, Any]:
        try:
            appended = task.result()
        except TracewatchError as error:
            _let_go(error)
            return {"nack": {**self._tag, "seq": seq, **error.body()}}
        except Exception as error:
            logger.error("a defect in tracewatch failed an append; nothing of it was stored", exc_info=error)
            defect = TracewatchError("an internal error: nothing was stored")
            return {"nack": {**self._tag, "seq": seq, **defect.body()}}
        last = None if seq is None else seq + count - 1
        return {"ack": {**self._tag, "seq": last, **appended_json(appended)}}

    async def all_answered(self) -> None:
        """Wait until every append so far has its answer."""
        while self._appends:
            await asyncio.wait([self._appends[-1][2]])
            await asyncio.sleep(0)

    async def renew_lease(self) -> None:
        """Count the lease from now, if it can be."""
        if self._gone or not self._begun.done():
            return
        try:
            await self._check()
            await self._log.renew_lease(self.trace_id)
        except UnknownTrace:
            self._gone = True
        except Unavailable:
            pass  # asked again soon

    # --- commands, from whatever process they came ---

    def _grown(self, grown: Sequence[Grown]) -> None:
        for one in grown:
            self._grown_to = max(self._grown_to, one.last_event_id)
            if one.last_event_id <= self._seen or not self._begun.done():
                continue
            follows = one.last_event_id - len(one.bodies) == self._seen
            if follows and not any(event_name(body) in COMMANDS for body in one.bodies):
                self._seen = one.last_event_id  # the usual case: the recorder's own events
            else:
                self._socket.look_for_commands(self)

    async def send_new_commands(self, sink: Sink) -> None:
        """Send the commands that were not sent yet. Raises UnknownTrace, Unavailable, SinkClosed."""
        page_bytes = self._socket.served.settings.page_bytes
        await self._check()
        while self._unlisten is not None:
            page = await self._log.read(self.trace_id, self._seen, max_events=500, max_bytes=page_bytes)
            for body in page.bodies:
                if event_name(body) in COMMANDS:
                    await sink.send_control(body)
            self._seen = max(self._seen, page.upto)
            if not page.bodies:
                return

    def end(self, reason: str) -> None:
        """Stop listening. What was handed to the log is stored all the same."""
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None  # it holds what listened, and that this
        self._begun.cancel()
        if self._seen_open is not None:
            self._seen_open.because(reason)
        self._observed.close()


def _no_append() -> BadRequest:
    return BadRequest('append is an object with "events", an array')


def _fitting(inputs: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The questions for ``ready``, the newest first of ``limit`` bytes, then their ids and states, then none."""
    fitting: list[dict[str, Any]] = []
    shorts = [{"request_id": one["request_id"], "state": one["state"]} for one in inputs]
    sizes = [size_of(short) + 1 for short in shorts]
    room, left = limit, sum(sizes)
    for one, short, size in zip(reversed(inputs), reversed(shorts), reversed(sizes), strict=True):
        left -= size
        whole = size_of(one) + 1
        if whole <= room - min(left, limit // 4):  # a part of it is for those that are older
            size = whole
        else:
            one = short
        room -= size
        if room < 0:
            break
        fitting.append(one)
    return fitting[::-1]
