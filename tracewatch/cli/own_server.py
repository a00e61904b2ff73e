"""A server that a command starts for itself, in a process of its own.

Rule: however this process ends, the server ends too. Ctrl-C does not reach it, so that what is under way is written.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from typing import IO

from .common import Failed

READY_S = 30.0
END_S = 10.0
LISTENING = "listening on "


class OwnServer:
    """A server of ours, from its construction until ``stop``.

    ``db`` and ``port`` are as for ``tracewatch serve``; None is what the environment says. ``environ`` is that of the
    server. Raises Failed, with the server's own words, when it does not start.
    """

    def __init__(self, db: str | None, port: int | None, environ: Mapping[str, str]) -> None:
        args = [*(("--db", db) if db is not None else ()), *(("--port", str(port)) if port is not None else ())]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tracewatch", "serve", *args, "--with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(environ),
            text=True,
            start_new_session=True,  # Ctrl-C must not reach the server: the agent's last events still need it
        )
        assert self._process.stderr is not None
        try:
            self.url = _wait_until_ready(self._process.stderr)
        except BaseException:
            self.stop()
            raise

    @property
    def running(self) -> bool:
        """Whether its process has not ended."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it, and wait for that."""
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stderr):
            if stream is not None:
                stream.close()


def without_settings(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An environment in which all settings of tracewatch have their defaults."""
    return {key: value for key, value in environ.items() if not key.startswith("TRACEWATCH_")}


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_until_ready(stderr: IO[str]) -> str:
    ready, found, said = threading.Event(), list[str](), deque[str](maxlen=10)

    def listen() -> None:
        for line in stderr:  # read to the end: a full pipe would block the server
            said.append(line)
            if line.startswith(LISTENING):
                found.append(line.removeprefix(LISTENING).strip())
                ready.set()
        ready.set()

    threading.Thread(target=listen, name="tracewatch-server", daemon=True).start()
    ready.wait(READY_S)
    if not found:
        words = "".join(said).strip().removeprefix("tracewatch: ") or f"the server was not ready after {READY_S:g} s"
        raise Failed(words)
    return found[0]
