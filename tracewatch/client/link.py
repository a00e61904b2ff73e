"""The recorder's way to a server: one WebSocket that creates traces and takes the events of all of them.

Rule 1: everything here runs in the loop of the background thread and uses no executor: at the interpreter's exit, when
        the last events are sent, executors are gone already.
Rule 2: nothing waits without a limit.
Rule 3: all traces share the socket of ``/api/record``, and the attempts to connect it: while a server is away, there
        is one attempt at a time for all waiting traces. Three cases take a socket for one trace: an older server that
        does not have the shared one, a second recorder of a trace that is open on it, and a trace whose messages seem
        to cut it. Where no WebSocket gets through, events go by HTTP (``posts.py``).
Rule 4: traces take turns on the shared socket, one batch each, and the unanswered bytes on it are bounded.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from ..model.window import BATCH_BYTES, LineBroken
from .address import Addresses
from .api import api_error, details_of, refusal
from .backoff import DICE, Backoff, patience_s
from .control import Told
from .errors import ApiError, Unreachable
from .handshake import Handshake
from .http import HttpConnection
from .lines import Answers, Cut, Leaving, NotYet, TooBig, TraceLine, Verdict, pieces, size_of
from .obstacle import words_of
from .posts import PostedLine
from .target import QUIET, Target

CALL_TIMEOUT_S = 10.0
OPEN_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 1.0
GOODBYE_S = 0.25  # wait for the server's answer to a close; it is short, because the process may be about to end
SILENCE_S = 15.0  # a shared socket with an unanswered message and nothing received for so long is dead
IDLE_S = 10.0  # a shared socket without a trace is kept for so long, for the next one
UNANSWERED_BYTES = 4 * 1024 * 1024  # of appends, on the shared socket
ALONE_S = 300.0  # a server that has no shared socket is asked for it again after so long
_log = logging.getLogger("tracewatch")
_DECODER = json.JSONDecoder()
HANDSHAKES = 3  # that got no answer, or that of a fault; then other ways are tried
# Answers of servers and proxies to a WebSocket that they do not know, or do not let through
_NO_ROUTE = frozenset({200, 204, 301, 302, 303, 307, 308, 400, 403, 404, 405, 406, 410, 411, 417, 426, 501, 505})
_REFUSED = {"unauthorized": 401, "forbidden": 403, "too_many": 429}  # refusals of the client, not of a message


class ServerUplink:
    """A tracewatch server."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._tls = ssl.create_default_context() if target.secure else None
        self._addresses = Addresses(target.host, target.port)
        self._shared: SharedSocket | None = None
        self._connecting: asyncio.Task[SharedSocket | None] | None = None
        self.batch_bytes = BATCH_BYTES
        self._backoff = Backoff()
        self._failure: Exception | None = None  # of the last attempt to connect
        self._again_at = 0.0  # loop time of the next one
        self._no_handshakes = 0  # how many have failed in a row, over connections that were there
        self._by_http_until = 0.0  # loop time until which no WebSocket is tried
        self._said = False  # that events go by HTTP
        self._alone_until = 0.0  # loop time until which the server is assumed to have no shared socket

    # --- calls ---

    async def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        """See Uplink.create."""
        shared = await self._socket()
        if shared is not None:
            return await shared.create(spec)
        answer = await self._call("POST", self._target.path("api", "traces"), orjson.dumps(spec))
        return _part(answer, "trace")

    async def find(self, trace_id: str) -> dict[str, Any]:
        """See Uplink.find."""
        return _part(await self._call("GET", self._target.path("api", "traces", trace_id)), "trace")

    async def question(self, trace_id: str, request_id: str) -> dict[str, Any]:
        """See Uplink.question."""
        answer = await self._call("GET", self._target.path("api", "traces", trace_id, "inputs", request_id))
        return {"state": "open", **answer, "request_id": request_id}

    async def put_blob(self, trace_id: str, sha256: str, media_type: str, path: Path) -> None:
        """See Uplink.put_blob. It takes as long as it goes on."""
        where = self._target.path("api", "traces", trace_id, "blobs", sha256)
        connection = HttpConnection(self._target, self._addresses, self._tls)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S) as patience:

                def going_on() -> Iterator[bytes]:
                    for piece in pieces(path):
                        patience.reschedule(loop.time() + CALL_TIMEOUT_S)
                        yield piece

                headers = {"Content-Type": media_type}
                answer = await connection.send("PUT", where, size_of(path), going_on(), headers)
        except TimeoutError as error:
            raise Unreachable(f"nothing was taken for {CALL_TIMEOUT_S:.0f} s") from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise refusal(self._target.url, where, answer.status, answer.headers, answer.body)

    async def _call(self, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        connection = HttpConnection(self._target, self._addresses, self._tls)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                answer = await connection.call(method, path, body)
        except TimeoutError as error:
            raise Unreachable(f"no answer in {CALL_TIMEOUT_S:.0f} s") from error
        finally:
            connection.close()
        try:
            found = _first_value(answer.body) if answer.cut else orjson.loads(answer.body)
        except ValueError:
            found = None
        if answer.status >= 300 or not isinstance(found, dict):
            raise refusal(self._target.url, path, answer.status, answer.headers, answer.body)
        return found

    # --- sockets ---

    async def open(self, trace_id: str, producer: str, *, alone: bool = False) -> TraceLine:
        """See Uplink.open."""
        shared = await self._socket()
        if shared is not None and not alone and not shared.has(trace_id):
            return await shared.open(trace_id, producer)
        if asyncio.get_running_loop().time() < self._by_http_until:
            return await self._post(trace_id, producer)
        path = self._target.path("api", "traces", trace_id, "record", producer=producer)
        try:
            line = LoneLine(await self._connect(path), producer)
        except (OSError, WebSocketException) as error:
            posted = await self._post(trace_id, producer)
            self._say_once(path, error)
            return posted
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await line.ready()
        except ApiError:
            await line.close()
            raise
        except (TimeoutError, LineBroken) as error:
            await line.close()
            raise Unreachable(str(error) or "no answer on the record socket") from error
        return line

    async def _post(self, trace_id: str, producer: str) -> TraceLine:
        """A line over HTTP, as no WebSocket gets through. Raises ApiError, Unreachable."""
        connect = partial(HttpConnection, self._target, self._addresses, self._tls)
        line = PostedLine(self._target, connect, trace_id, producer)
        try:
            await line.begin()
        except BaseException:
            self._alone_until = self._by_http_until = 0.0
            await line.close()
            raise
        self._by_http_until = asyncio.get_running_loop().time() + ALONE_S
        return line

    def _say_once(self, path: str, error: Exception) -> None:
        if self._said:
            return
        self._said = True
        said = words_of(self._target.url, path, error)
        said = said or f"WebSockets do not get through to {self._target.url}: {error or type(error).__name__}"
        _log.warning("tracewatch: %s. Events go by HTTP, and commands come some seconds late", said)

    async def _connect(self, path: str) -> ClientConnection:
        """A WebSocket. Raises Unreachable if there is no connection at all, and what the handshake raises."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                sock = await self._addresses.aconnect()
        except OSError as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        secure: dict[str, Any] = {"ssl": self._tls} if self._tls else {}
        return await Handshake(
            self._target.websocket(path),
            compression=None,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            additional_headers=self._target.headers,
            logger=QUIET,
            sock=sock,
            **secure,
        )

    async def _socket(self) -> SharedSocket | None:
        """The shared socket, connected; None where there is none. Raises NotYet."""
        now = asyncio.get_running_loop().time()
        if now < self._alone_until:
            return None
        if self._shared is not None and self._shared.failure is None:
            return self._shared
        if self._connecting is None:
            self._note_failure(now)
            if self._failure is not None and now < self._again_at:
                raise NotYet(self._failure, self._again_at - now)
            self._connecting = asyncio.create_task(self._connect_shared())
            self._connecting.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._connecting)

    def _note_failure(self, now: float) -> None:
        """Keep the reason why the shared socket has ended, if it has."""
        shared, self._shared = self._shared, None
        if shared is None or shared.failure is None:
            return
        if shared.worked:
            self._backoff.succeeded()
        self._failure = shared.failure
        if isinstance(self._failure, Leaving):
            self._again_at = shared.failed_at + self._failure.wait_s
        else:
            self._again_at = shared.failed_at + max(self._backoff.next(), patience_s(self._failure))

    async def _connect_shared(self) -> SharedSocket | None:
        loop = asyncio.get_running_loop()
        try:
            self._shared = SharedSocket(await self._connect(self._target.path("api", "record")))
        except Unreachable as error:
            raise self._failed(error) from error
        except (OSError, WebSocketException) as error:
            self._no_handshakes += 1
            status = error.response.status_code if isinstance(error, InvalidStatus) else 500
            if status not in _NO_ROUTE and not (status >= 500 and await self._http_alone_works()):
                raise self._failed(error) from error
            self._alone_until = loop.time() + ALONE_S
            return None
        finally:
            self._connecting = None
        self._no_handshakes = 0
        return self._shared

    async def _http_alone_works(self) -> bool:
        """Whether handshakes go on failing while calls are answered. Asked by one task for all traces."""
        if self._no_handshakes < HANDSHAKES:
            return False
        try:
            await self._call("GET", self._target.path("healthz"))
        except (ApiError, Unreachable):
            self._no_handshakes = 0
            return False
        return self._no_handshakes > HANDSHAKES  # once more, as the server may be back just now

    def _failed(self, error: Exception) -> NotYet:
        wait_s = self._backoff.next()
        said = words_of(self._target.url, self._target.path("api", "record"), error)
        if said and isinstance(error, InvalidStatus) and error.response.status_code < 500:
            self._failure = ApiError(error.response.status_code, "proxy", said)
            wait_s = max(wait_s, patience_s(self._failure))
        else:  # a server that is away, also behind a proxy that says so
            self._failure = Unreachable(said or str(error) or type(error).__name__)
        self._again_at = asyncio.get_running_loop().time() + wait_s
        return NotYet(self._failure, wait_s)

    async def rest(self) -> None:
        """See Uplink.rest: a child that is forked has no use for the connection."""

    def go_on(self) -> None:
        """See Uplink.go_on."""

    def hurry(self) -> None:
        """See Uplink.hurry."""
        self._again_at = 0.0

    async def close(self) -> None:
        """See Uplink.close."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._shared is not None:
            await self._shared.close()
        await asyncio.sleep(0)  # a connection that was aborted just now is closed in the loop's next turn


def _part(answer: dict[str, Any], name: str) -> dict[str, Any]:
    part = answer.get(name)
    return part if isinstance(part, dict) else {}


def _first_value(body: bytes) -> dict[str, Any]:
    """The first value of an object whose end is cut off: what is asked for stands first in our server's answers."""
    text = body.decode("utf-8", "ignore")
    name, at = _DECODER.raw_decode(text, text.index('"'))
    value, _ = _DECODER.raw_decode(text, text.index(":", at) + 1)
    return {name: value}


# --- frames ----------------------------------------------------------------------------------------------------


async def _send_frame(connection: ClientConnection, frame: bytes) -> None:
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await connection.send(frame, text=True)
    except ConnectionClosed as error:
        raise _end_of(error) from error
    except (OSError, WebSocketException) as error:
        raise LineBroken(str(error) or type(error).__name__) from error


async def _next_frame(connection: ClientConnection) -> dict[str, Any]:
    """The next frame. Raises LineBroken, and Leaving if the server shuts down."""
    try:
        frame = orjson.loads(await connection.recv(decode=False))
    except ConnectionClosed as error:
        raise _end_of(error) from error
    except (OSError, WebSocketException, ValueError) as error:
        raise LineBroken(str(error) or type(error).__name__) from error
    if not isinstance(frame, dict):
        return {}
    leaving = frame.get("goaway")
    if isinstance(leaving, dict):
        raise Leaving(DICE.uniform(0, float(leaving.get("after_ms") or 0) / 1000))
    return frame


def _end_of(closed: ConnectionClosed) -> LineBroken:
    code = None if closed.rcvd is None else closed.rcvd.code
    kind = {None: Cut, 1009: TooBig, 1011: Cut}.get(code, LineBroken)
    return kind(str(closed))


def _raise_if_too_big(frame: dict[str, Any]) -> None:
    if frame.get("event") == "error" and frame.get("code") == "too_large":
        raise TooBig(str(frame.get("message")))


def _refusal(frame: dict[str, Any]) -> ApiError | None:
    """The error of a frame that refuses this client the socket."""
    status = _REFUSED.get(frame.get("code", "")) if frame.get("event") == "error" else None
    return None if status is None else api_error(status, orjson.dumps({**frame, "error": frame["code"]}))


def _verdict(frame: dict[str, Any]) -> Verdict | None:
    """The answer to an append, if this is one."""
    ack, nack = frame.get("ack"), frame.get("nack")
    if isinstance(ack, dict) and isinstance(ack.get("seq"), int):
        return Verdict(ack["seq"])
    if isinstance(nack, dict):
        code, message = str(nack.get("error")), str(nack.get("message", ""))
        return Verdict(int(nack.get("seq") or 0), code, message, nack.get("expected_seq"), details_of(nack))
    return None


def _told(ready: dict[str, Any]) -> Told:
    return Told(ready.get("cancel_requested"), list(ready.get("inputs") or ()))


def _seen(answer: asyncio.Future[Any]) -> None:
    """Note that an answer's error is known, so that asyncio does not report one that nobody got to wait for."""
    if not answer.cancelled():
        answer.exception()


# --- the socket of one trace -----------------------------------------------------------------------------------


class LoneLine:
    """A line with a record socket of its own."""

    def __init__(self, connection: ClientConnection, producer: str) -> None:
        self.expected_seq = 1
        self.told = Told()
        self._connection = connection
        self._producer = orjson.dumps(producer)

    async def ready(self) -> None:
        """Take the server's first frame. Raises LineBroken, ApiError."""
        frame = await _next_frame(self._connection)
        refused = _refusal(frame)
        if refused is not None:
            raise refused
        if "ready" not in frame:
            raise LineBroken(f"the server began with {frame!r:.200}")
        self.expected_seq = int(frame["ready"].get("expected_seq") or 1)
        self.told = _told(frame["ready"])

    async def send(self, seq: int, bodies: Sequence[bytes]) -> None:
        """See TraceLine.send."""
        events = b",".join(bodies)
        frame = b'{"append":{"producer":%b,"seq":%d,"events":[%b]}}' % (self._producer, seq, events)
        await _send_frame(self._connection, frame)

    async def answer(self) -> Verdict | Told | None:
        """See TraceLine.answer."""
        frame = await _next_frame(self._connection)
        _raise_if_too_big(frame)
        return _verdict(frame) or Told.of_event(frame)

    async def heartbeat(self) -> None:
        """See TraceLine.heartbeat."""
        await _send_frame(self._connection, b'{"heartbeat":{}}')

    def suspect(self) -> None:
        """See TraceLine.suspect: no other line uses the connection."""

    async def close(self) -> None:
        """See TraceLine.close."""
        await self._connection.close()


# --- the socket of all traces ----------------------------------------------------------------------------------


class SharedSocket:
    """The record socket of this process."""

    def __init__(self, connection: ClientConnection) -> None:
        self.failure: Exception | None = None  # the end of its use: LineBroken, Leaving or ApiError
        self.failed_at = 0.0  # loop time
        self.worked = False  # the server has answered something
        self._blamed: set[SharedLine] = set()  # whose message was too large
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._lines: dict[str, SharedLine] = {}  # by trace_id
        self._asked: dict[tuple[str, str], deque[asyncio.Future[dict[str, Any]]]] = {}  # by what and trace_id
        self._asked_bytes: dict[asyncio.Future[dict[str, Any]], int] = {}  # of each that has no answer
        self._turn = asyncio.Lock()  # fair: first come, first served
        self._unanswered = 0  # bytes of appends
        self._room = asyncio.Event()
        self._heard_at = self._loop.time()
        self._idle: asyncio.TimerHandle | None = None
        self._reader = asyncio.create_task(self._read())
        self._closing: asyncio.Task[None] | None = None
        self._look_whether_idle()

    def has(self, trace_id: str) -> bool:
        """Whether the trace is open here."""
        return trace_id in self._lines

    async def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Create the trace; its summary. Raises ApiError, Unreachable."""
        return _part(await self._ask("create", spec["trace_id"], spec), "trace")

    async def open(self, trace_id: str, producer: str) -> SharedLine:
        """Open a line into the trace, which must have none here. Raises ApiError, Unreachable."""
        line = self._lines[trace_id] = SharedLine(self, trace_id)
        self._look_whether_idle()
        try:
            ready = await self._ask("open", trace_id, {"trace_id": trace_id, "producer": producer})
        except ApiError as error:
            self.forget(line)
            if error.status not in _REFUSED.values():
                raise Unreachable(f"the trace can't be opened: {error.message}") from error
            raise
        except BaseException:
            await line.close()  # the server may have opened it all the same
            raise
        line.expected_seq = int(ready.get("expected_seq") or 1)
        line.told = _told(ready)
        return line

    async def _ask(self, what: str, trace_id: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask for something about a trace, and wait for the answer. Raises ApiError, Unreachable."""
        began, answer = self._loop.time(), self._loop.create_future()
        answer.add_done_callback(_seen)  # the socket may fail before anybody waits for it
        self._asked.setdefault((what, trace_id), deque()).append(answer)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                frame = orjson.dumps({what: asked})
                self._asked_bytes[answer] = len(frame)
                await self.send(frame)
                return cast(dict[str, Any], await answer)
        except TimeoutError as error:
            if self._heard_at < began:
                self.fail(LineBroken("the server does not answer"))
            raise Unreachable(f"no answer to {what} on the record socket") from error
        except LineBroken as error:
            raise Unreachable(str(error)) from error
        finally:
            self._asked_bytes.pop(answer, None)

    # --- sending ---

    async def append(self, line: SharedLine, frame: bytes) -> None:
        """Send an append when it is its turn and there is room. Raises LineBroken."""
        async with self._turn:
            while self._unanswered and self._unanswered + len(frame) > UNANSWERED_BYTES and self.failure is None:
                self._room.clear()
                try:
                    async with asyncio.timeout(SILENCE_S):
                        await self._room.wait()
                except TimeoutError:
                    self.suspect()
            line.unanswered.append(len(frame))
            self._unanswered += len(frame)
            try:
                await self.send(frame)
            except LineBroken:
                if line in self._blamed and self.failure is not None:
                    raise self.failure from None
                raise

    async def send(self, frame: bytes) -> None:
        """Send a frame that needs no turn. Raises ApiError, and LineBroken without blame for any line."""
        if self.failure is None:
            try:
                await _send_frame(self._connection, frame)
            except LineBroken as error:
                self.fail(error)
        if self.failure is not None:
            raise LineBroken(str(self.failure)) if isinstance(self.failure, TooBig) else self.failure

    def answered(self, size: int) -> None:
        """Note that so many bytes of appends are answered, or that no line waits for their answers any more."""
        self._unanswered -= size
        self._room.set()

    def suspect(self) -> None:
        """See TraceLine.suspect."""
        if self._loop.time() - self._heard_at > SILENCE_S:
            self.fail(LineBroken("the server does not answer"))

    # --- receiving ---

    async def _read(self) -> None:
        try:
            while self.failure is None:
                frame = await _next_frame(self._connection)
                self._heard_at = self._loop.time()
                refused = _refusal(frame)
                if refused is not None:
                    raise refused
                _raise_if_too_big(frame)
                if frame.get("event") == "error":
                    raise LineBroken(f"the server says {frame.get('message')}")
                self._take(frame)
        except (LineBroken, ApiError) as error:
            self.fail(error)
        except Exception as error:
            self.fail(LineBroken(f"the server said what can't be understood: {error!r}"))

    def _take(self, frame: dict[str, Any]) -> None:
        self.worked = True
        for kind, what in (("created", "create"), ("ready", "open"), ("nack", None)):
            if isinstance(said := frame.get(kind), dict):
                what = what or said.get("of")
                if what is not None:
                    self._resolve(what, said, refused=kind == "nack")
                    return
        verdict = _verdict(frame)
        said = frame.get("ack") or frame.get("nack") or frame
        line = self._lines.get(str(said.get("trace_id")))
        if line is None or not line.is_open:
            return  # it was hung up; or it is opened again, and these are answers to what was said before
        if verdict is not None:
            self.answered(line.unanswered.popleft() if line.unanswered else 0)
        found = verdict or Told.of_event(frame)
        if found is not None:
            line.put(found)

    def _resolve(self, what: str, said: dict[str, Any], *, refused: bool) -> None:
        trace_id = said["trace_id"]
        waiting = self._asked.get((what, trace_id))
        if not waiting:
            return
        answer = waiting.popleft()
        if not waiting:
            del self._asked[what, trace_id]
        if answer.done():
            return
        if refused:
            answer.set_exception(api_error(int(said.get("status") or 500), orjson.dumps(said)))
            return
        if what == "open" and trace_id in self._lines:
            self._lines[trace_id].is_open = True
        answer.set_result(said)

    def fail(self, error: Exception) -> None:
        """End the use of the socket, and tell all its lines."""
        if self.failure is not None:
            return
        self.failure, self.failed_at = error, self._loop.time()
        largest = max(
            (*(max(one.unanswered, default=0) for one in self._lines.values()), *self._asked_bytes.values(), 0)
        )
        other = error
        if isinstance(error, TooBig):
            other = LineBroken(f"another message was too large: {error}")
            self._blamed = {line for line in self._lines.values() if max(line.unanswered, default=0) == largest}
        for line in self._lines.values():
            line.put(error if line in self._blamed else other)
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            for answer in waiting:
                if not answer.done():
                    too_big = isinstance(error, TooBig) and self._asked_bytes.get(answer) == largest
                    answer.set_exception(ApiError(413, "too_large", str(error)) if too_big else other)
        self._room.set()
        if self._idle is not None:
            self._idle.cancel()
        self._connection.transport.abort()

    # --- its end ---

    def forget(self, line: SharedLine) -> None:
        """Remove a line."""
        if self._lines.get(line.trace_id) is line:
            del self._lines[line.trace_id]
        self.answered(sum(line.unanswered))
        line.unanswered.clear()
        self._look_whether_idle()

    def _look_whether_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._lines and self.failure is None:
            self._idle = self._loop.call_later(IDLE_S, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._asked:
            self._look_whether_idle()  # a trace is about to begin
        else:
            self._closing = self._loop.create_task(self.close())

    async def close(self) -> None:
        """Close the socket, and wait a moment for the server's close."""
        if self.failure is None:
            self.failure, self.failed_at = LineBroken("it was closed"), float("-inf")
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._connection.close()
        except TimeoutError:
            pass  # it has been said, and everything before it was answered
        finally:
            self._connection.transport.abort()
            self._reader.cancel()
        await asyncio.wait([self._reader])


class SharedLine:
    """A line that shares its socket with others."""

    def __init__(self, socket: SharedSocket, trace_id: str) -> None:
        self.trace_id = trace_id
        self.expected_seq = 1
        self.told = Told()
        self.is_open = False  # the server has said so
        self.unanswered: deque[int] = deque()  # bytes of each append
        self._socket = socket
        self._name = orjson.dumps(trace_id)
        self._answers = Answers()

    def put(self, answer: Verdict | Told | Exception) -> None:
        """Take an answer for this line."""
        self._answers.put(answer)

    async def send(self, seq: int, bodies: Sequence[bytes]) -> None:
        """See TraceLine.send."""
        events = b",".join(bodies)
        frame = b'{"append":{"trace_id":%b,"seq":%d,"events":[%b]}}' % (self._name, seq, events)
        await self._socket.append(self, frame)

    async def answer(self) -> Verdict | Told | None:
        """See TraceLine.answer."""
        return await self._answers.next()

    async def heartbeat(self) -> None:
        """See TraceLine.heartbeat."""
        await self._socket.send(b'{"heartbeat":{"trace_id":%b}}' % self._name)

    def suspect(self) -> None:
        """See TraceLine.suspect."""
        self._socket.suspect()

    async def close(self) -> None:
        """See TraceLine.close."""
        if self._socket.failure is None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._socket.send(b'{"close":{"trace_id":%b}}' % self._name)
            except (LineBroken, ApiError, TimeoutError):
                pass  # the server closes it with the socket
        self._socket.forget(self)
