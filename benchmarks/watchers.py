"""Many watchers in one process, which only read: ``python -m benchmarks.watchers PORT PATH COUNT``.

The process prints ``ready`` when all watchers have caught up. On a line ``expect N`` it reads until each has N events
more, and prints the result as JSON (``delivered``, ``fell_behind``, ``seconds`` until the last). It checks that ids are
contiguous, and prints ``wrong: …`` otherwise.

It looks at the sockets every 20 ms instead of at every byte, so that it takes little of the machine that is measured.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable

import orjson

from .wire import STEP, Frames, handshake

LOOK_S = 0.02
DEADLINE_S = 120.0


class Wrong(Exception):
    """A hole, a repeat, or a socket that closed."""


class Watcher:
    """One socket and its progress."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self.socket.sendall(handshake(path, port))
        self.socket.setblocking(False)
        self.caught_up = 0  # number of caught_up frames
        self.fell_behind = 0
        self.last_event_id = 0
        self._frames = Frames()
        self._head: bytes | None = b""  # of HTTP, until it is complete

    def read(self) -> None:
        """Read the bytes that are there."""
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        if not data:
            raise Wrong("a socket was closed")
        if self._head is not None:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            if b" 101" not in head[:40]:
                raise Wrong(f"refused: {head[:200]!r}")
            self._head = None
        for payload in self._frames.feed(data):
            if payload.startswith(STEP % (self.last_event_id + 1)):
                self.last_event_id += 1
            elif payload.startswith(b'{"event":"caught_up"'):
                self._catch_up(orjson.loads(payload)["current_event_id"])
            elif payload.startswith(b'{"event":"fell_behind"'):
                self.fell_behind += 1
            elif not payload.startswith((b'{"event":"connected"', b'{"event":"heartbeat"')):
                raise Wrong(f"after event {self.last_event_id}: {payload[:100]!r}")

    def _catch_up(self, event_id: int) -> None:
        if self.caught_up and event_id != self.last_event_id:
            raise Wrong(f"caught up at {event_id} after event {self.last_event_id}")
        self.caught_up += 1
        self.last_event_id = event_id


class Crowd:
    """All watchers of the process."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self._poll = select.epoll()
        self.watchers: list[Watcher] = []
        self._by_fd: dict[int, Watcher] = {}
        for number in range(count):
            watcher = Watcher(port, path)
            self.watchers.append(watcher)
            self._by_fd[watcher.socket.fileno()] = watcher
            self._poll.register(watcher.socket.fileno(), select.EPOLLIN)
            if number % 50 == 49:
                self._look()
        self._until(lambda watcher: watcher.caught_up > 0)

    def _look(self) -> None:
        for fd, _ in self._poll.poll(LOOK_S, len(self._by_fd) or 1):
            self._by_fd[fd].read()

    def _until(self, reached: Callable[[Watcher], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not all(map(reached, self.watchers)):
            if time.monotonic() > end:
                raise Wrong(f"not all there after {DEADLINE_S} s")
            self._look()
            time.sleep(LOOK_S)

    def expect(self, events: int) -> dict[str, float]:
        """Read until each watcher has ``events`` more."""
        start = time.monotonic()
        before = [watcher.last_event_id for watcher in self.watchers]
        behind = sum(watcher.fell_behind for watcher in self.watchers)
        goal = before[0] + events
        self._until(lambda watcher: watcher.last_event_id >= goal)
        return {
            "delivered": sum(w.last_event_id - b for w, b in zip(self.watchers, before, strict=True)),
            "fell_behind": sum(watcher.fell_behind for watcher in self.watchers) - behind,
            "seconds": time.monotonic() - start,
        }


def main(port: int, path: str, count: int) -> None:
    """Connect all watchers, then do as the lines on stdin say until it ends."""
    try:
        crowd = Crowd(port, path, count)
        print("ready", flush=True)
        for order in sys.stdin:
            result = crowd.expect(int(order.split()[1]))
            print(orjson.dumps(result).decode(), flush=True)
    except Wrong as error:
        print(f"wrong: {error}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
