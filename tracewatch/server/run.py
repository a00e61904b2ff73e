"""``serve``: our application in one process or several, until a signal ends it.

Rule 1: The port is bound here, before any worker starts, so that all share it and port 0 works. The supervisor is our
        own: uvicorn's can't be given a Server that says goodbye, and its workers outlive a parent that was killed.
Rule 2: On SIGTERM and SIGINT everybody gets ``goaway``, then connections are closed. After ``shutdown_s`` it is over,
        whatever is still connected.
Rule 3: A worker is ``python -m tracewatch.server.run FD NUMBER FOLDER``, started by ``supervise`` only.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import LogError, NeedsToken
from ..live.hints import load_redis
from ..log import open_log, read_prices
from ..settings import Settings
from .app import create_app, needs_token
from .auth.origin import is_loopback
from .logs import configure
from .metrics.workers import Place
from .process import tune_interpreter
from .stalls import SLOW_FACTOR
from .uvicorn import Server, uvicorn_config

WORKER_SETTINGS = "TRACEWATCH_WORKER_SETTINGS"  # how a worker process is told: JSON, from the parent only
SEND_BUFFER_BYTES = 128 * 1024  # the kernel's, for each connection; by default a reader that stops may have 4 MB of it
logger = logging.getLogger("tracewatch.server")


def bind(settings: Settings) -> socket.socket:
    """A listening socket. Raises LogError for an address that can't be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _limit_kernel(bound, settings.write_stall_s)
        bound.bind(address)
        bound.listen(4096)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise LogError(f"can't listen on {settings.host}:{settings.port}: {reason}") from error
    bound.set_inheritable(True)
    return bound


def _limit_kernel(listening: socket.socket, stall_s: float) -> None:
    """Set the kernel's limits for every connection, which takes them over from the socket it is accepted on."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if sys.platform == "linux":
        # A peer that has gone without a word, or takes nothing of what a closed socket left behind: the kernel gives
        # up long after our own deadline, but not after a quarter of an hour
        listening.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(2 * SLOW_FACTOR * stall_s * 1000))
        )


def serve(settings: Settings, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT. ``on_ready`` gets the URL once connections are taken.

    Returns after SIGTERM, raises KeyboardInterrupt after SIGINT, LogError when it can't start.
    """
    configure(settings.log_level)
    if settings.redis:
        load_redis(settings.redis)  # a fault is said here once, rather than by each worker
    check_tls(settings)
    read_prices(settings.prices)
    check_tokens(settings)
    bound = bind(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{'https' if settings.ssl_certfile else 'http'}://{host}:{bound.getsockname()[1]}"

    def ready() -> None:
        if on_ready is not None:
            on_ready(url)

    try:
        if settings.workers > 1:
            supervise(settings, bound, ready)
        else:
            serve_socket(settings, bound, ready)
    finally:
        bound.close()


def check_tls(settings: Settings) -> None:
    """Raise LogError for a certificate or key that can't be used."""
    if not settings.ssl_certfile:
        if settings.ssl_keyfile:
            raise LogError("--ssl-keyfile needs a certificate: --ssl-certfile")
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:  # with a password, so that nobody is asked for one
        context.load_cert_chain(
            settings.ssl_certfile, settings.ssl_keyfile or None, lambda: settings.ssl_keyfile_password
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.strerror or "the key's password is missing or wrong" if isinstance(error, OSError) else error
        raise LogError(f"the certificate {settings.ssl_certfile} can't be used: {reason}") from error


async def _any_usable(db: str) -> bool:
    log = await open_log(db)
    try:
        now = log.tokens.clock()
        return any(token.status(now) == "active" for token in await log.tokens.made())
    finally:
        await log.close()


def check_tokens(settings: Settings) -> None:
    """Raise NeedsToken where others than this machine may come and no token would let them in."""
    # A refusal must not leave a new file behind
    there = Path(settings.db.removeprefix("sqlite:///")).exists()
    if needs_token(settings) and not (there and asyncio.run(_any_usable(settings.db))):
        where = f"--host {settings.host}" if not is_loopback(settings.host) else "--allowed-hosts or --proxy"
        raise NeedsToken(
            f"{where} lets others than this machine in, so tokens are required, and there is none yet. Make one:\n"
            f"  tracewatch token create --scope admin --db {shlex.quote(settings.db)}"
        )


def serve_socket(
    settings: Settings,
    bound: socket.socket,
    ready: Callable[[], None],
    *,
    orphan_fd: int = -1,
    place: Place | None = None,
) -> None:
    """Serve a bound socket in this process. When ``orphan_fd`` (a pipe) ends, the parent has died and so do we."""
    # uvicorn raises the signal again once it is done; a wanted end is not an error
    signal.signal(signal.SIGTERM, lambda *_: None)

    def started() -> None:
        tune_interpreter()
        if orphan_fd >= 0:
            asyncio.get_running_loop().add_reader(orphan_fd, orphaned)
        ready()

    def orphaned() -> None:
        asyncio.get_running_loop().remove_reader(orphan_fd)
        server.should_exit = True

    server = Server(uvicorn_config(settings, create_app(settings, place)), on_started=started)
    try:
        server.run([bound])
    except SystemExit as error:
        raise LogError("the server could not start; the reason is above") from error


def supervise(settings: Settings, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve with ``settings.workers`` processes; one that dies is replaced. Raises LogError if they can't start."""
    stopped: list[int] = []
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda received, _: stopped.append(received))
    workers: list[subprocess.Popen[bytes]] = []
    folder = tempfile.TemporaryDirectory(prefix="tracewatch-")  # only this user can open it
    places = [Place(number, settings.workers, folder.name) for number in range(settings.workers)]
    try:
        for one in places:
            workers.append(_spawn(settings, bound, one))
        for worker in workers:
            assert worker.stdout is not None
            if not worker.stdout.readline() and not stopped:
                raise LogError("a worker could not start; the reason is above")
        ready()
        while not stopped:
            time.sleep(0.1)
            for number, worker in enumerate(workers):
                if worker.poll() is not None and not stopped:
                    logger.warning("worker %d ended with %s; starting another", worker.pid, worker.returncode)
                    time.sleep(0.5)  # one that dies at once must not take the machine with it
                    workers[number] = _spawn(settings, bound, places[number])
    finally:
        _end(workers, settings.shutdown_s + 2)
        folder.cleanup()
    if signal.SIGINT in stopped:
        raise KeyboardInterrupt


def _spawn(settings: Settings, bound: socket.socket, place: Place) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tracewatch.server.run", str(bound.fileno()), str(place.number), place.folder],
        env={**os.environ, WORKER_SETTINGS: json.dumps(dataclasses.asdict(settings) | {"token": ""})},
        pass_fds=[bound.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _end(workers: list[subprocess.Popen[bytes]], timeout_s: float) -> None:
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + timeout_s
    for worker in workers:
        try:
            worker.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                pipe.close()


def serve_as_worker() -> int:
    """Serve the inherited socket until SIGTERM, or until standard input ends because the parent has died.

    Returns the exit code.
    """
    parent = os.getppid()
    bound = socket.socket(fileno=int(sys.argv[1]))
    settings = Settings(**json.loads(os.environ[WORKER_SETTINGS]))
    place = Place(int(sys.argv[2]), settings.workers, sys.argv[3])
    configure(settings.log_level)
    try:
        serve_socket(settings, bound, lambda: _say(1, "ready"), orphan_fd=0, place=place)
    except LogError as error:
        _say(2, error.message)
        return 1
    except KeyboardInterrupt:
        pass
    finally:
        if os.getppid() != parent:  # else the parent does it
            shutil.rmtree(place.folder, ignore_errors=True)
    return 0


def _say(descriptor: int, line: str) -> None:
    os.write(descriptor, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(serve_as_worker())
