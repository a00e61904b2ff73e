"""Requests on their way to one server: ours, or a vendor's.

Rule 1: ``put`` never waits: a thread sends, in order, on a connection that is kept.
Rule 2: a patient outlet tries again until it is finished. Another one drops what was not taken at the second try.
Rule 3: what waits is bounded. What is beyond is dropped, and counted.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

MOST_BYTES = 128 * 1024 * 1024  # that wait
TIMEOUT_S = 30.0  # for connecting and for each read
AGAIN_S, MOST_AGAIN_S = 0.05, 2.0  # between two tries, doubled each time
GRACE_S = 0.3  # that an outlet which is being finished goes on trying to connect
STALL_S = 5.0  # that it waits for an answer
LATER = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses of what may be sent again
ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class Sending:
    """A request to send. ``url`` is whole, ``headers`` are by their names in lower case."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Received:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Peer:
    """A connection to a server, made when it is needed, through the environment's proxy where there is one."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._to: tuple[str, str] | None = None
        self._connection: http.client.HTTPConnection | None = None

    def exchange(self, sending: Sending) -> Received:
        """The answer. Raises OSError or http.client.HTTPException."""
        parts = urlsplit(sending.url)
        kept = self._connection is not None and self._to == (parts.scheme, parts.netloc)
        if not kept:
            self.close()
        try:
            return self._once(sending)
        except (http.client.HTTPException, ConnectionError):
            self.close()
            if not kept:
                raise
            return self._once(sending)  # the server had closed what was kept
        except BaseException:
            self.close()
            raise

    def _once(self, sending: Sending) -> Received:
        parts = urlsplit(sending.url)
        if self._connection is None:
            self._connection, self._to = self._connect(parts.scheme, parts.netloc), (parts.scheme, parts.netloc)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._connection.request(sending.method, path, sending.body, sending.headers)
        answer = self._connection.getresponse()
        body = answer.read(ANSWER_BYTES)
        headers = {name.lower(): value for name, value in answer.getheaders()}
        if answer.will_close or len(body) == ANSWER_BYTES:
            self.close()
        return Received(answer.status, headers, body)

    def _connect(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        host, tls = netloc.rpartition("@")[2], scheme == "https"
        proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme)
        if proxy and tls:
            through = http.client.HTTPSConnection(
                urlsplit(proxy).netloc.rpartition("@")[2],
                timeout=self._timeout_s,
                context=ssl.create_default_context(),
            )
            through.set_tunnel(host)
            return through
        if tls:
            return http.client.HTTPSConnection(host, timeout=self._timeout_s, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, timeout=self._timeout_s)

    def close(self) -> None:
        """Close the connection; the next exchange makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Outlet:
    """A queue of requests to a server called ``name``. ``told`` is called with each answer that took something."""

    def __init__(self, name: str, *, patient: bool, told: Callable[[Received], object] | None = None) -> None:
        self.name = name
        self.sent = self.refused = self.dropped = 0
        self.trouble = ""  # the last one
        self._patient = patient
        self._told = told
        self._peer = Peer()
        self._waiting: deque[Sending] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._finishing_at: float | None = None
        self._moved_at = time.monotonic()
        self._thread: threading.Thread | None = None

    def put(self, sending: Sending) -> None:
        """Send this, after what was put before."""
        with self._changed:
            if self._bytes + len(sending.body) > MOST_BYTES:
                self.dropped += 1
                return
            self._waiting.append(sending)
            self._bytes += len(sending.body)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"tracewatch to {self.name}", daemon=True)
                self._thread.start()
            self._changed.notify()

    def finish(self) -> list[Sending]:
        """Send what waits as long as it is taken; what is left then."""
        with self._changed:
            self._finishing_at = self._moved_at = time.monotonic()
            self._changed.notify()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.02)
            if time.monotonic() - self._moved_at > STALL_S:
                self.trouble = self.trouble or f"no answer within {STALL_S:g} s"
                break
        with self._changed:
            return list(self._waiting)

    def _work(self) -> None:
        try:
            self._send_all()
        finally:
            self._peer.close()

    def _send_all(self) -> None:
        wait_s, tries = AGAIN_S, 0
        while True:
            with self._changed:
                while not self._waiting:
                    if self._finishing_at is not None:
                        return
                    self._changed.wait()
                sending = self._waiting[0]
            done = self._try(sending)
            with self._changed:
                tries = 0 if done else tries + 1
                if done or (not self._patient and tries > 1):
                    self._waiting.popleft()
                    self._bytes -= len(sending.body)
                    self.dropped += not done
                    self._moved_at, wait_s, tries = time.monotonic(), AGAIN_S, 0
                    continue
                if self._finishing_at is not None and (
                    not self._patient or time.monotonic() - self._finishing_at > GRACE_S
                ):
                    return
                self._changed.wait(wait_s if self._finishing_at is None else AGAIN_S)
                wait_s = min(2 * wait_s, MOST_AGAIN_S)

    def _try(self, sending: Sending) -> bool:
        """Whether it is done with: taken, or refused for good."""
        try:
            answer = self._peer.exchange(sending)
        except (OSError, http.client.HTTPException) as error:
            self.trouble = str(error) or type(error).__name__
            return False
        if answer.status in LATER:
            self.trouble = f"HTTP {answer.status}"
            return False
        if answer.status >= 300:
            self.refused += 1
            said = answer.body[:200].decode("utf-8", "replace").strip()
            self.trouble = f"HTTP {answer.status}{f': {said}' if said else ''}"
            return True
        self.sent += 1
        if self._told is not None:
            self._told(answer)
        return True
