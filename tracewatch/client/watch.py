"""Watching a trace: ``watch`` for asyncio and ``watch_sync`` for other code, two thin edges around ``watch_core``.

Rule 1: a frame is read when the caller asks for the next event and not before. So a caller that stops reading costs
        nothing, and the cursor is always that of the last event handed out.
Rule 2: a connection that breaks or falls silent is made again, for ever or for ``max_retry_s``. An error that
        reconnecting can't mend is raised. Silence is counted by a clock that nobody sets and that goes on in sleep.
Rule 3: who leaves a watch need not close it. Its connection ends with the iteration (break, return, an error, a
        cancelled task), with the watch as garbage, and with the event loop. A block of ``with`` keeps it to its end.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection as SyncConnection

from ..errors import ProtocolViolation
from ..model.state import State
from .address import Addresses
from .api import FOREIGN, refusal
from .backoff import DICE, Backoff
from .clock import Silence
from .errors import ApiError, Unreachable
from .handshake import FRAME_BYTES, Handshake, open_sync
from .obstacle import words_of
from .sse import FrameStream, NothingMore, SseSocket, SseThreadSocket
from .target import QUIET, parse_target
from .watch_core import ConnectionStatus, WatchCore, refused

__all__ = ["ConnectionStatus", "SyncWatch", "Watch", "watch", "watch_sync"]

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
HANDSHAKES = 3  # that got no answer, or that of a fault; then HTTP is tried
_FAILURES = (OSError, WebSocketException, ApiError)
_log = logging.getLogger("tracewatch")


class _Watching:
    """The common part of both forms: everything but the reading."""

    def __init__(
        self,
        trace_id: str,
        *,
        since: str | int | None = None,
        url: str | None = None,
        token: str | None = None,
        types: list[str] | None = None,
        until: str | None = "end",
        wait: bool = False,
        children: bool = False,
        skip_trimmed: bool = False,
        max_retry_s: float | None = None,
        on_status: Callable[[ConnectionStatus], None] | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.last_bytes = b""  # the stored bytes of the last event handed out
        self._target = parse_target(url, token)
        self._addresses = Addresses(self._target.host, self._target.port)
        self._proxied = not self._target.loopback and bool(getproxies())  # then websockets makes the connection
        self._core = WatchCore(
            trace_id, since=since, types=types, until=until, wait=wait, children=children, skip_trimmed=skip_trimmed
        )
        self._max_retry_s = max_retry_s
        self._on_status = on_status
        self._opening = False  # there is a connection, and no WebSocket yet
        self._not_opened = 0  # how often in a row that was all
        self._obstacle: str | None = None  # why events are asked for by HTTP
        self._told_obstacle = False
        self._at_end = False  # of an ended trace, where only its state is to be had
        self._backoff = Backoff()
        self._silence = Silence()  # of the connection
        self._outage_began: float | None = None  # monotonic, while there is no connection
        self._closed = False
        self._iterations = 0  # `for` loops over it now
        self._entered = False  # in a block of `with`, which closes it

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._target.url

    @property
    def state(self) -> State:
        """The newest state of the watched trace: the snapshot of the last connect, and the events after it.

        It may be ahead of the event handed out last. With ``types`` only events of these names are folded into it.
        """
        return self._core.root.state

    @property
    def states(self) -> dict[str, State]:
        """The states of all traces watched, by trace_id; more than one with ``children``."""
        return {trace_id: track.state for trace_id, track in self._core.tracks.items()}

    @property
    def status(self) -> str:
        """The status of the watch: connecting, catching_up, live, reconnecting, ended or closed."""
        return "closed" if self._closed and self._core.status != "ended" else self._core.status

    @property
    def cursor(self) -> str | None:
        """``<epoch>.<event_id>`` of the last event handed out. A watch with it as ``since`` goes on from there."""
        track = self._core.root
        return track.cursor if track.epoch is not None else None

    @property
    def cursors(self) -> dict[str, str]:
        """The cursors of all traces watched, by trace_id; more than one with ``children``."""
        tracks = self._core.tracks.values()
        return {t.trace_id: t.cursor for t in tracks if t.epoch is not None and t.cursor is not None}

    @property
    def current_event_id(self) -> int | None:
        """The event_id of the watched trace's last event in the log, as the server last said."""
        return self._core.current_event_id

    def now(self) -> float:
        """Unix time in seconds by the server's clock: what the times of events are to be compared with.

        By this machine's clock until the server has told its own.

            age_s = watching.now() - datetime.fromisoformat(event["ts"]).timestamp()
        """
        return self._core.clock.now()

    @property
    def _core_path(self) -> str:
        if self._core.children:
            return self._target.path("api", "watch")
        return self._target.path("api", "traces", self.trace_id, "watch", **self._core.query())

    def _address(self) -> str:
        return self._target.websocket(self._core_path)

    def _options(self) -> dict[str, Any]:
        return {
            "compression": None,
            "proxy": True if self._proxied else None,
            "open_timeout": OPEN_TIMEOUT_S,
            "close_timeout": CLOSE_TIMEOUT_S,
            "additional_headers": self._target.headers,
            "logger": QUIET,
        }

    def _opened(self) -> None:
        self._opening, self._not_opened = False, 0
        self._core.opened()
        self._silence.heard()

    def _stream(self) -> FrameStream:
        latest, self._at_end = {"since_event_id": "latest"} if self._at_end else {}, False
        return FrameStream(self._target, self.trace_id, {**self._core.query(), **latest})

    def _streams(self) -> None:
        """Events come by HTTP: say so, once."""
        if self._obstacle is None or self._told_obstacle:
            return
        self._told_obstacle = True
        if self._on_status is None:
            _log.warning("tracewatch: %s. The watch goes on over HTTP", self._obstacle)
        self._core.news.append(ConnectionStatus("over_http", self._core.last_event_id, error=self._obstacle))

    def _look_for_obstacle(self, error: Exception) -> bool:
        """Whether no WebSocket gets through while HTTP may. Raises the error if HTTP is no way for this watch."""
        if not self._opening:
            return False
        self._opening = False
        self._not_opened += 1
        words = words_of(self.url, self._core_path, error)
        refused = isinstance(error, InvalidStatus) and error.response.status_code < 500
        if words is None if refused else self._not_opened < HANDSHAKES:
            return False
        words = words or f"WebSockets do not get through to {self.url} ({error or type(error).__name__})"
        if self._core.children or self._proxied:
            status = error.response.status_code if isinstance(error, InvalidStatus) else 502
            if status < 500 and status not in (408, 429):
                what = "with sub-traces" if self._core.children else "through the proxy of this environment"
                raise ApiError(status, "proxy", f"{words}. A watch {what} needs a WebSocket") from error
            return False
        self._obstacle = words
        return True

    def _refused(self, error: ApiError) -> None:
        """Take a refusal over HTTP. Raises what reconnecting can't mend."""
        obstacle, self._obstacle = self._obstacle, None  # a WebSocket is tried next
        if error.status >= 500 or error.status in (408, 429):
            return
        if error.code in FOREIGN:
            raise ApiError(error.status, "proxy", obstacle or error.message) from error
        raise refused(error) from error

    @property
    def _over(self) -> bool:
        return self._closed or self._core.status == "ended"

    def _take(self, data: bytes) -> dict[str, Any] | None:
        """Take one frame, and return its event if it has one."""
        try:
            event = self._core.receive(data)
            self._streams()
            if event is not None:
                self.last_bytes = data
            elif self._core.alive:
                self._outage_began = None
                if self._core.status == "live":
                    self._backoff.succeeded()
        finally:
            self._tell()
        return event

    def _failed(self, error: Exception) -> float:
        """Seconds until the next attempt. Raises an error that reconnecting can't mend; Unreachable after too long."""
        if isinstance(error, ConnectionClosed) and error.rcvd is not None:
            self._core.closed_with(error.rcvd.code, error.rcvd.reason)
        elif isinstance(error, ConnectionClosed) and error.sent is not None and error.sent.code == 1009:
            raise ProtocolViolation(f"{self.url} sends a frame of more than {FRAME_BYTES:,} bytes") from error
        if isinstance(error, ApiError):
            self._refused(error)
        elif self._look_for_obstacle(error):
            return 0.0
        elif isinstance(error, NothingMore):
            self._at_end = True
            return 0.0
        elif self._obstacle is not None and not self._core.alive:
            self._obstacle = None  # nothing came: a WebSocket is tried next
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            if 400 <= status < 500 and status not in (408, 429):
                headers, body = dict(error.response.headers.raw_items()), bytes(error.response.body or b"")
                raise refusal(self.url, self._core_path, status, headers, body, upgrade=True) from error
        now = time.monotonic()
        wait_s = self._backoff.next()
        if self._core.goaway_ms is not None:
            wait_s = DICE.uniform(0, self._core.goaway_ms / 1000)
            self._core.goaway_ms = None
        if self._outage_began is None:
            self._outage_began = now
        reason = str(error) or type(error).__name__
        if self._max_retry_s is not None:
            left = self._outage_began + self._max_retry_s - now
            if left <= 0:
                raise Unreachable(f"{self.url} can't be reached: {reason}") from error
            wait_s = min(wait_s, left)
        self._core.lost(reason, wait_s)
        self._tell()
        return wait_s

    def _tell(self) -> None:
        while self._core.news:
            news = self._core.news.popleft()
            if self._on_status is not None:
                self._on_status(news)

    def _left(self) -> None:
        """A `for` loop over it has ended, in whatever way."""
        self._iterations -= 1
        if not self._iterations and not self._entered:
            self._drop()

    def _drop(self) -> None:
        """Give up the connection without a word, from any thread."""
        raise NotImplementedError


class Watch(_Watching):
    """An asynchronous iterator over a trace's events, as dicts; ``tracewatch.watch`` returns it.

    It ends with the trace, or never with ``until=None``. Used with ``async with``, it is closed at the block's end.
    Otherwise a loop over it that is left in any way ends the connection, and another one goes on from its cursor.

        async with tracewatch.watch("run-1") as watching:
            async for event in watching:
                print(watching.cursor, event["event"])
    """

    _socket: ClientConnection | SseSocket | None = None
    _guard: AsyncGenerator[None] | None = None  # of the socket
    _waker: asyncio.Event | None = None  # ends a wait between two attempts

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return _AsyncIteration(self)

    async def __anext__(self) -> dict[str, Any]:
        while not self._over:
            try:
                data = await self._read()
            except _FAILURES as error:
                if not self._closed:
                    await self._pause(await self._guarded(error))
                continue
            try:
                event = self._take(data)
            except BaseException:
                await self.aclose()
                raise
            if event is not None:
                return event
        await self.aclose()
        raise StopAsyncIteration

    async def _read(self) -> bytes:
        if self._socket is None:
            self._socket = await self._open()
            self._guard = _ended_with(self._socket)
            await anext(self._guard)
            self._opened()
            if self._core.children and isinstance(self._socket, ClientConnection):
                await self._socket.send(self._core.subscribe(), text=True)
        if self._closed:
            raise ConnectionError("closed while it was connecting")
        socket = self._socket  # another task may close it meanwhile
        while True:
            try:
                async with asyncio.timeout(self._silence.look_s(self._core.silence_s)):
                    data = bytes(await socket.recv(decode=False))
            except TimeoutError:
                if self._silence.is_dead(self._core.silence_s):
                    raise
            else:
                self._silence.heard()
                return data

    async def _open(self) -> ClientConnection | SseSocket:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            if self._obstacle is not None:
                return await SseSocket.open(self._target, self._addresses, self._stream())
            sock = None if self._proxied else await self._addresses.aconnect()
        self._opening = True
        return await Handshake(self._address(), sock=sock, **self._options())

    async def _guarded(self, error: Exception) -> float:
        await self._disconnect()
        try:
            return self._failed(error)
        except BaseException:
            self._closed = True
            raise

    async def _pause(self, seconds: float) -> None:
        self._waker = self._waker or asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._waker.wait()
        except TimeoutError:
            pass  # the usual end of a wait

    async def _disconnect(self) -> None:
        socket, self._socket = self._socket, None
        guard, self._guard = self._guard, None
        if socket is not None:
            await socket.close()
        if guard is not None:
            await guard.aclose()

    def _drop(self) -> None:
        self._socket = self._guard = None

    def close(self) -> None:
        """Stop watching, at once, from a callback or another task of the same loop."""
        self._closed = True
        if self._waker is not None:
            self._waker.set()
        if self._socket is not None:
            self._socket.transport.abort()

    async def aclose(self) -> None:
        """Stop watching, and close the connection in order."""
        self._closed = True
        if self._waker is not None:
            self._waker.set()
        await self._disconnect()

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _AsyncIteration:
    """One `async for` over a watch."""

    __slots__ = ("_watch",)

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        watch._iterations += 1

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, dict[str, Any]]:
        return self._watch.__anext__()

    def __del__(self) -> None:
        self._watch._left()


async def _ended_with(socket: ClientConnection | SseSocket) -> AsyncGenerator[None]:
    """Has the event loop end a connection when this is closed or garbage, and when the loop itself ends.

    Event loops do that for asynchronous generators, whatever thread finds them to be garbage (PEP 525).
    """
    try:
        yield
    finally:
        socket.transport.abort()


class SyncWatch(_Watching):
    """An iterator over a trace's events, as dicts; ``tracewatch.watch_sync`` returns it.

    It ends with the trace, or never with ``until=None``. Used with ``with``, it is closed at the end of the block.
    Otherwise a loop over it that is left in any way ends the connection, and another one goes on from its cursor.

        with tracewatch.watch_sync("run-1") as watching:
            for event in watching:
                print(watching.cursor, event["event"])
    """

    def __init__(self, trace_id: str, **options: Any) -> None:
        super().__init__(trace_id, **options)
        self._socket: SyncConnection | SseThreadSocket | None = None
        self._guard: weakref.finalize[..., Any] | None = None  # of the socket
        self._stop = threading.Event()

    @property
    def events(self) -> Self:
        """The events: the watch itself."""
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return _SyncIteration(self)

    def __next__(self) -> dict[str, Any]:
        while not self._over:
            try:
                data = self._read()
            except _FAILURES as error:
                if not self._closed:
                    self._stop.wait(self._guarded(error))
                continue
            try:
                event = self._take(data)
            except BaseException:
                self.close()
                raise
            if event is not None:
                return event
        self.close()
        raise StopIteration

    def _read(self) -> bytes:
        if self._socket is None:
            self._socket = self._open()
            self._guard = weakref.finalize(self, _end_elsewhere, self._socket)
            self._guard.atexit = False  # the process's end ends its sockets
            self._opened()
            if self._core.children and isinstance(self._socket, SyncConnection):
                self._socket.send(self._core.subscribe(), text=True)
        if self._closed:
            raise ConnectionError("closed while it was connecting")
        socket = self._socket  # another thread may close it meanwhile
        while True:
            try:
                data = bytes(socket.recv(timeout=self._silence.look_s(self._core.silence_s), decode=False))
            except TimeoutError:
                if self._silence.is_dead(self._core.silence_s):
                    raise
            else:
                self._silence.heard()
                return data

    def _open(self) -> SyncConnection | SseThreadSocket:
        if self._obstacle is not None:
            return SseThreadSocket(self._target, self._addresses, self._stream(), OPEN_TIMEOUT_S)
        sock = None if self._proxied else self._addresses.connect(OPEN_TIMEOUT_S)
        self._opening = True
        return open_sync(self._address(), sock=sock, **self._options())

    def _guarded(self, error: Exception) -> float:
        self._disconnect()
        try:
            return self._failed(error)
        except BaseException:
            self._closed = True
            raise

    def _disconnect(self) -> None:
        socket, self._socket = self._socket, None
        guard, self._guard = self._guard, None
        if socket is not None:
            socket.close()
        if guard is not None:
            guard.detach()

    def _drop(self) -> None:
        guard, self._socket, self._guard = self._guard, None, None
        if guard is not None:
            guard()

    def close(self) -> None:
        """Stop watching. It may be called from any thread."""
        self._closed = True
        self._stop.set()
        self._disconnect()

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _SyncIteration:
    """One `for` over a watch."""

    __slots__ = ("_watch",)

    def __init__(self, watch: SyncWatch) -> None:
        self._watch = watch
        watch._iterations += 1

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        return self._watch.__next__()

    def __del__(self) -> None:
        self._watch._left()


def _end_elsewhere(socket: SyncConnection | SseThreadSocket) -> None:
    """End a connection in a thread of its own: garbage may be found where a lock is held that this would wait for."""
    with suppress(RuntimeError):  # the interpreter is going down, and its sockets with it
        _thread.start_new_thread(socket.close_socket, ())


def watch(
    trace_id: str,
    *,
    since: str | int | None = None,
    url: str | None = None,
    token: str | None = None,
    types: list[str] | None = None,
    until: str | None = "end",
    wait: bool = False,
    children: bool = False,
    skip_trimmed: bool = False,
    max_retry_s: float | None = None,
    on_status: Callable[[ConnectionStatus], None] | None = None,
) -> Watch:
    """Watch a trace: iterating gives each stored event once, in order, as a dict.

        async for event in tracewatch.watch(trace_id):
            print(event["event_id"], event["event"])

    The watch connects when it is iterated, and again whenever the connection breaks. A loop that is left by ``break``,
    ``return``, an error or cancelling ends the connection; ``async with`` keeps it up to the block's end. ``state`` is
    the trace's newest state, ``cursor`` the place of the last event: another watch with it as ``since`` goes on there.

    ``since``: a cursor or an event_id (the events after it), ``"-50"`` (the last 50) or ``"latest"`` (new ones only);
    None gives the whole history. ``url``: the server's; None takes ``TRACEWATCH_URL``, else loopback. ``token``: None
    takes ``TRACEWATCH_TOKEN``. ``types``: only events of these names. ``until``: ``"end"`` ends the iteration with the
    trace, None never. ``wait``: wait for the trace if it does not exist yet. ``children``: also the events of its
    sub-traces, to any depth. ``skip_trimmed``: if events were trimmed before the watch came to them, ``on_status`` gets
    the ``gap`` and the watch goes on after it; otherwise WatchGap is raised. ``max_retry_s``: give up after so many
    seconds without a connection; None: never. ``on_status``: called with a ``ConnectionStatus`` at each change.

    Raises InvalidField if ``url`` is no usable address. The iteration raises WatchGap, UnknownTrace, ProtocolViolation,
    Unreachable after ``max_retry_s``, and refusals of the server such as Forbidden or ApiError.
    """
    return Watch(
        trace_id,
        since=since,
        url=url,
        token=token,
        types=types,
        until=until,
        wait=wait,
        children=children,
        skip_trimmed=skip_trimmed,
        max_retry_s=max_retry_s,
        on_status=on_status,
    )


def watch_sync(
    trace_id: str,
    *,
    since: str | int | None = None,
    url: str | None = None,
    token: str | None = None,
    types: list[str] | None = None,
    until: str | None = "end",
    wait: bool = False,
    children: bool = False,
    skip_trimmed: bool = False,
    max_retry_s: float | None = None,
    on_status: Callable[[ConnectionStatus], None] | None = None,
) -> SyncWatch:
    """As ``watch``, for code without an event loop.

    for event in tracewatch.watch_sync(trace_id, since="-50"):
        print(event["event"])
    """
    return SyncWatch(
        trace_id,
        since=since,
        url=url,
        token=token,
        types=types,
        until=until,
        wait=wait,
        children=children,
        skip_trimmed=skip_trimmed,
        max_retry_s=max_retry_s,
        on_status=on_status,
    )
