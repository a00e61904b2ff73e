"""Parts that all benchmarks share: the report, processes that are measured from outside, and Linux's numbers of them.

Rule 1: everything is on loopback and in one temporary folder, and all processes are stopped at the end.
Rule 2: every wait for a process has a deadline.
"""

from __future__ import annotations

import http.client
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SERVE = (
    "import os\nfrom tracewatch.settings import Settings\nfrom tracewatch.server.run import serve\n"
    "serve(Settings.from_env(os.environ), on_ready=lambda url: os.write(1, url.encode() + b'\\n'))\n"
)


class WrongDelivery(Exception):
    """The delivered events are not the stored ones. A benchmark fails for nothing else."""


def check(condition: bool, what: str) -> None:
    """Raise WrongDelivery unless ``condition``."""
    if not condition:
        raise WrongDelivery(what)


# --- the report ------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """A number with three significant digits and separators of thousands."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """``median (min–max)``."""
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


class Report:
    """Prints results as they come, and those with a target once more at the end."""

    def __init__(self) -> None:
        self.summary: list[str] = []

    def title(self, text: str) -> None:
        """Print the title of a benchmark."""
        print(f"\n{text}", flush=True)

    def note(self, text: str) -> None:
        """Print a figure without a comparison."""
        print(f"    {text}", flush=True)

    def ratio(
        self,
        label: str,
        ours: Sequence[float],
        raw: Sequence[float],
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        names: tuple[str, str] = ("ours", "raw"),
    ) -> None:
        """Print ours beside raw, each with one figure per round, and the ratio of each round."""
        ratios = [one / other if other else float("nan") for one, other in zip(ours, raw, strict=True)]
        print(f"  {label}")
        print(f"    {names[0]} {spread(ours)} {unit}   {names[1]} {spread(raw)} {unit}")
        self._verdict(label, "ratio", ratios, "", at_least, at_most)

    def absolute(self, label: str, values: Sequence[float], unit: str, *, at_most: float | None = None) -> None:
        """Print a figure whose target is an absolute number."""
        print(f"  {label}")
        self._verdict(label, "", values, f" {unit}", None, at_most)

    def _verdict(
        self, label: str, what: str, values: Sequence[float], unit: str, at_least: float | None, at_most: float | None
    ) -> None:
        line = f"{what} {spread(values)}{unit}".strip()
        target = ""
        middle = statistics.median(values)
        if at_least is not None:
            target = f"   target ≥ {at_least:g}: {'reached' if middle >= at_least else 'MISSED'}"
        elif at_most is not None:
            target = f"   target ≤ {at_most:g}: {'reached' if middle <= at_most else 'MISSED'}"
        print(f"    {line}{target}", flush=True)
        if target:
            self.summary.append(f"{label}: {line}{target}")


@dataclass(frozen=True)
class Bench:
    """The environment of one benchmark."""

    report: Report
    folder: Path  # empty, its own, removed afterwards
    quick: bool

    def pick(self, full: int, quick: int) -> int:
        """The size for this run, quick or full."""
        return quick if self.quick else full


# --- processes -------------------------------------------------------------------------------------------------


class Process:
    """A process that we talk to in lines on its stdin and stdout."""

    def __init__(self, *argv: str, env: dict[str, str] | None = None) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, *argv],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches only us, and we stop the process
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(line.encode() + b"\n")
        self._popen.stdin.flush()

    def line(self, deadline_s: float = DEADLINE_S) -> str:
        """The next line from its stdout. Raises RuntimeError if it has died, or if none comes before the deadline."""
        assert self._popen.stdout is not None
        timer = threading.Timer(deadline_s, self._popen.kill)
        timer.start()
        try:
            text = self._popen.stdout.readline()
        finally:
            timer.cancel()
        if not text:
            raise RuntimeError(f"{self._popen.args!r} ended, or said nothing for {deadline_s} s")
        return text.decode().strip()

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait until the process ends by itself, and return its exit code. Raises TimeoutExpired."""
        return self._popen.wait(deadline_s)

    def stop(self) -> None:
        """End the process, by SIGKILL if it does not end by itself."""
        self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(15)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(15)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Server(Process):
    """The server under test on a free port. Pings and heartbeats are off: they would count as deliveries."""

    def __init__(self, db: Path, program: str = SERVE, /, **settings: Any) -> None:
        settings = {"db": db, "port": 0, "heartbeat_s": 3600, "ws_ping_s": 3600, **settings}
        super().__init__(
            "-c", program, env={f"TRACEWATCH_{key.upper()}": str(value) for key, value in settings.items()}
        )
        try:
            self.url = self.line()
        except RuntimeError:
            self.stop()
            raise
        self.port = urlsplit(self.url).port or 0

    def call(self, method: str, path: str, value: Any = None, accept: str = "application/json") -> bytes:
        """One HTTP request; the answer's body. Raises WrongDelivery if it is refused."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            body = None if value is None else orjson.dumps(value)
            connection.request(method, path, body, {"Content-Type": "application/json", "Accept": accept})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        check(response.status < 300, f"{method} {path}: {response.status} {answer[:200]!r}")
        return answer

    def create_trace(self, trace_id: str) -> None:
        """A trace to record into."""
        self.call("POST", "/api/traces", {"trace_id": trace_id, "task": "benchmark"})

    def bodies(self, trace_id: str, after: int) -> list[bytes]:
        """The stored events after an event_id."""
        path = f"/api/traces/{trace_id}/events?since_event_id={after}"
        return self.call("GET", path, accept="application/x-ndjson").splitlines()


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, all threads, user and system, in seconds (in steps of 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_kib(pid: int) -> float:
    """Resident memory of a process in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/status names no VmRSS")


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
