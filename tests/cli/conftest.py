"""A server in a process of its own, and the command line in this one or in another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import DEADLINE_S, ServerProcess
from tracewatch.cli import run
from tracewatch.client.api import Api


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """stdout as text."""
        return self.out.decode()


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests of a module."""
    with ServerProcess(tmp_path_factory.mktemp("server") / "log.db") as running:
        yield running


@pytest.fixture
def api(server: ServerProcess) -> Api:
    """The server's REST calls."""
    return Api(server.url)


@pytest.fixture
def tw(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], server: ServerProcess) -> Run:
    """``tw("ls", "-o", "json")``: a command line against the server, in this process."""
    monkeypatch.setenv("TRACEWATCH_URL", server.url)

    def ran(*args: str) -> Ran:
        capsysbinary.readouterr()
        code = run(args)
        sys.stdout.flush()
        out, err = capsysbinary.readouterr()
        return Ran(code, out, err.decode())

    return ran


class Spawned:
    """A command line in a process of its own."""

    def __init__(self, *args: str, url: str = "", **environ: str) -> None:
        root = Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tracewatch", *args],
            env={**os.environ, "TRACEWATCH_URL": url, "PYTHONUNBUFFERED": "1", **environ},
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def line(self) -> bytes:
        """The next line of stdout."""
        assert self.process.stdout is not None
        line: bytes = self.process.stdout.readline()
        return line

    def error_line(self) -> bytes:
        """The next line of stderr."""
        assert self.process.stderr is not None
        line: bytes = self.process.stderr.readline()
        return line

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self, stdin: bytes = b"") -> Ran:
        """Wait for its end; what it had not been asked for yet."""
        out, err = self.process.communicate(stdin, timeout=DEADLINE_S * 2)
        return Ran(self.process.returncode, out or b"", (err or b"").decode())


@pytest.fixture
def spawn(server: ServerProcess) -> Iterator[Callable[..., Spawned]]:
    """``spawn("tail", …)``: a command line against the server, in a process that is gone after the test."""
    started: list[Spawned] = []

    def begin(*args: str, url: str = server.url, **environ: str) -> Spawned:
        started.append(Spawned(*args, url=url, **environ))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()
        for stream in (one.process.stdout, one.process.stderr, one.process.stdin):
            if stream is not None:
                stream.close()


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait for a condition, but not for ever."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, condition
        time.sleep(0.01)


def record(api: Api, trace_id: str, *events: dict[str, Any], task: str = "Fix it", **spec: Any) -> str:
    """A trace with these events."""
    api.create_trace({"trace_id": trace_id, "task": task, **spec})
    for start in range(0, len(events), 1000):
        api.append(trace_id, list(events[start : start + 1000]))
    return trace_id


def thought(text: str) -> dict[str, Any]:
    """An event without rules."""
    return {"event": "thought", "text": text}


def done(status: str = "completed") -> dict[str, Any]:
    """The end of a trace."""
    return {"event": "trace_completed", "status": status}
