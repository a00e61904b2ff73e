"""Support for all tests: a loop, a server in this process or in one that can be killed, and waits for conditions.

Rule: a test waits for a condition instead of sleeping, and every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import trustme

from tracewatch.server.app import create_app
from tracewatch.server.http import Services
from tracewatch.server.run import bind
from tracewatch.server.uvicorn import Server, uvicorn_config
from tracewatch.settings import Settings

DEADLINE_S = 60.0  # generous: many tests run at once, and one that passes waits for none of it


class CheckedLoop(asyncio.SelectorEventLoop):
    """A loop in debug mode: it checks what such a loop checks, but no stack is kept for each future and callback.

    They ask ``get_debug`` whether to keep one. Those stacks are only words in a message, and took four fifths of the
    processor's time.
    """

    def get_debug(self) -> bool:
        """What futures, tasks and handles are told."""
        return False


CHECKED: tuple[str, dict[str, Any]] = ("asyncio", {"debug": True, "loop_factory": CheckedLoop})  # for anyio_backend


def run_checked(main: Coroutine[Any, Any, None]) -> None:
    """``asyncio.run`` on such a loop."""
    with asyncio.Runner(debug=True, loop_factory=CheckedLoop) as runner:
        runner.run(main)


@dataclass(frozen=True)
class Serving:
    """A server in this process."""

    url: str  # http://127.0.0.1:port
    services: Services

    @property
    def ws_url(self) -> str:
        """The same for WebSockets."""
        return self.url.replace("http", "ws", 1)


class _QuietServer(Server):
    """Leaves the signals of the test process alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def serving(
    db: Path | str, *, send_buffer: int = 0, uvicorn: Mapping[str, Any] = MappingProxyType({}), **settings: Any
) -> AsyncIterator[Serving]:
    """A server on ``db`` and a free port, in this loop.

    ``send_buffer``: the kernel's for each socket, in bytes; ``uvicorn``: what its Config is to have otherwise.
    """
    chosen = Settings(db=str(db), port=settings.pop("port", 0), **settings)
    bound = bind(chosen)
    if send_buffer:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # accepted sockets inherit it
    app = create_app(chosen)
    config = uvicorn_config(chosen, app)
    for name, value in uvicorn.items():
        setattr(config, name, value)
    server = _QuietServer(config)
    task = asyncio.create_task(server.serve([bound]))
    try:
        await until(lambda: server.started or task.done())
        if task.done():
            task.result()
        yield Serving(
            f"{'https' if config.is_ssl else 'http'}://127.0.0.1:{bound.getsockname()[1]}", app.state.services
        )
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, DEADLINE_S)
        bound.close()


def certified(folder: Path) -> tuple[dict[str, Any], ssl.SSLContext]:
    """A certificate for loopback in ``folder``, as uvicorn takes it, and a client's context that trusts it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return {"ssl_certfile": str(folder / "server.pem")}, trust


async def until(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Wait until ``condition()`` is true; its value. Fails the test at the deadline."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {condition}"
        await asyncio.sleep(0.005)
    return value


_numbers = itertools.count(os.getpid() * 97)  # each of the processes that run tests begins elsewhere


def free_port() -> int:
    """A free port, for a server that must come back on the same one.

    It is below those that the system gives to outgoing connections: one of them could have it while the server is away.
    """
    while True:
        port = 20_000 + next(_numbers) % 12_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class ServerProcess:
    """A server in a process of its own, on a port that stays the same over restarts."""

    def __init__(self, db: Path | str, port: int | None = None, *, said: Path | None = None, **settings: Any) -> None:
        self._said = said  # where what it says on stderr goes
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}"
        self._env = {f"TRACEWATCH_{name.upper()}": str(value) for name, value in settings.items()}
        self.db = str(db)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> ServerProcess:
        """Start and wait until it answers."""
        code = (
            "import os\nfrom tracewatch.settings import Settings\nfrom tracewatch.server.run import serve\n"
            "serve(Settings.from_env(os.environ), on_ready=lambda url: os.write(1, url.encode() + b'\\n'))\n"
        )
        env = {**os.environ, **self._env, "TRACEWATCH_DB": self.db, "TRACEWATCH_PORT": str(self.port)}
        with open(self._said, "ab") if self._said else contextlib.nullcontext() as said:  # noqa: PTH123
            self.process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=said)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.strip().decode() == self.url, f"the server did not start: {line!r}"
        return self

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return code

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self.process is not None:
            self.kill()
