"""``tracewatch record``: what a coding agent prints as JSON goes on to stdout unchanged, and into the log as it comes.

Rule 1: the agent comes first. What was read is written on before anything else is done with it, and nothing that the
        log does, or a server that is away, holds it up.
Rule 2: a reader that leaves does not end the recording, and so not the agent.
Rule 3: what was read stands in a file until it is recorded. What could not be recorded stays there, and a line says so.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ..client.api import Api
from ..importers import ImportFault
from ..importers.reading import BadJson
from ..importers.sessions import LineStream, stream_of
from ..importers.timeline import LineCutter
from ..model.times import format_time
from . import text
from .common import EXIT_FAILED, EXIT_INTERRUPTED, connect, examples, spool_folder, url_option
from .live_courier import LiveCourier

EXAMPLES = examples("""
    claude -p "Fix the tests" --output-format stream-json --verbose --include-partial-messages | tracewatch record
    codex exec --json "Fix the tests" | tracewatch record
    claude -p "…" --output-format stream-json --verbose | tracewatch record --task "Fix the tests" | jq -r .result
""")
FLUSH_S = 0.05
_QUEUED = 16 * 1024 * 1024  # bytes that wait in memory; more stand in the file
_PIECE = 1 << 20
PATIENCE_S = 5.0  # at the end, for a server that is away
_FORMS = "claude -p --output-format stream-json, codex exec --json"


@click.command("record", epilog=EXAMPLES, short_help="Record what claude -p or codex exec prints, in a pipe.")
@click.option("--task", help="What the agent was asked, where what it prints does not say so.")
@url_option
@click.pass_context
def command(ctx: click.Context, task: str | None, url: str | None) -> None:
    """Record the JSON that a coding agent prints, live, and print it unchanged.

    Where the server is away, or a line is of no known form, it is passed on all the same. Exit code: 0; 1 if nothing
    of what came is of a known form; 130 after Ctrl-C. What could not be recorded is kept in a file for `import`.
    """
    recording = PipeRecording(connect(url), task)
    with _interrupts() as interrupted:
        recording.start()
        _pass_on(recording.feed)
        said = recording.finish(PATIENCE_S)
    for line in said:
        click.echo(text.one_line(line), err=True)
    ctx.exit(EXIT_INTERRUPTED if interrupted else EXIT_FAILED if recording.unknown else 0)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Let the first Ctrl-C go to the agent, whose last words are still to be recorded; a second one ends this, too."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _pass_on(feed: Callable[[bytes], None]) -> None:
    """Copy stdin to stdout as it comes, and feed it, until its end."""
    writing = True
    while data := os.read(0, 1 << 16):
        if writing:
            writing = _write(data)
        feed(data)


def _write(data: bytes) -> bool:
    """Write to stdout; False: its reader has left."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(sys.stdout.fileno(), view) :]
    except BlockingIOError:  # somebody has made the pipe non-blocking
        os.set_blocking(sys.stdout.fileno(), True)
        return _write(bytes(view))
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit does not complain
        return False
    return True


class PipeRecording:
    """Records lines in a thread of its own. ``feed`` takes bytes as they come and never waits."""

    def __init__(self, api: Api, task: str | None = None, folder: Path | None = None) -> None:
        self.unknown = False  # there were lines, and none of them of a known form
        self._api = api
        self._task = task
        self._queue: queue.SimpleQueue[tuple[int, bytes | None]] = queue.SimpleQueue()  # with their places
        self._first: tuple[int, bytes | None] | None = None  # of the queue, while what is before it is read
        self._queued = self._dequeued = 0  # bytes that were put into the queue, and taken from it
        self._fed = self._read = 0  # bytes that came, and that were taken
        self._thread = threading.Thread(target=self._run, daemon=True, name="tracewatch-record")
        self._give_up = threading.Event()
        self._courier = LiveCourier(api, self._fault)
        self._stream: LineStream | None = None
        self._cutter = LineCutter()
        self._lines = 0
        self._faults: list[str] = []
        self._looked_for_task = False
        self._kept = _Kept(folder)
        self._done = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def feed(self, data: bytes) -> None:
        """Take some bytes."""
        self._kept.write(data)
        if self._queued - self._dequeued < _QUEUED or not self._kept.whole:
            self._queued += len(data)
            self._queue.put((self._fed, data))
        self._fed += len(data)

    def finish(self, patience_s: float) -> list[str]:
        """Wait until all is recorded, and so long at most while the server is away. Returns what is to be said."""
        self._queue.put((self._fed, None))
        away_since: float | None = None
        while self._thread.is_alive():
            self._thread.join(0.05)
            if self._courier.refusal is None:
                away_since = None
            elif away_since is None:
                away_since = time.monotonic()
            elif time.monotonic() - away_since > patience_s:
                self._give_up.set()
        said = self._faults[:10]
        if len(self._faults) > 10:
            said.append(f"and {len(self._faults) - 10} more")
        if self.unknown:
            said.append(f"tracewatch: stdin is of no form that is known here, so it was not recorded. Known: {_FORMS}")
            self._kept.remove()
        elif self._done:
            self._kept.remove()
        else:
            why = self._courier.refusal or f"{self._api.url} did not answer"
            said.append(f"tracewatch: not all was recorded: {why}")
            if self._kept.path is not None:
                what = "it" if self._kept.whole else "its beginning, for which there was room,"
                said.append(f"{what} is kept: tracewatch import {self._kept.path}")
        return said

    # --- the thread ---

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._take(FLUSH_S)
            if self._stream is not None:
                self._name()
                self._courier.take(self._stream.drain())
                self._courier.flush()
                self._courier.beat([] if self._stream.trace_id is None else [self._stream.trace_id])
        if self._give_up.is_set():
            return
        if self._stream is None:
            self.unknown, self._done = self._lines > 0, True
            return
        self._stream.finish()
        self._courier.take(self._stream.drain())
        while not self._courier.flush(at_once=True):
            if self._give_up.wait(0.2):
                return
        self._done = True

    def _take(self, wait_s: float) -> bool:
        """Take what has come within ``wait_s``; True: that was the end."""
        until = time.monotonic() + wait_s
        timeout = 10 * wait_s
        try:
            while not self._courier.full:
                data = self._next(timeout)
                if data is None:
                    self._line(self._cutter.take_rest())
                    return True
                for line in self._cutter.cut(data):
                    self._line(line)
                timeout = max(0.0, until - time.monotonic())
            self._give_up.wait(wait_s)  # until something was sent
        except queue.Empty:
            pass
        return self._give_up.is_set()

    def _next(self, timeout: float) -> bytes | None:
        """The next bytes, None at the end. What was too much for the queue stands in the file."""
        if self._first is None and self._read < self._fed and self._queue.empty():
            return self._read_kept(self._fed)
        place, data = self._first or self._queue.get(timeout=timeout)
        if place > self._read:
            self._first = (place, data)
            return self._read_kept(place)
        self._first = None
        if data is not None:
            self._dequeued += len(data)
            data = data[self._read - place :]
            self._read += len(data)
        return data

    def _read_kept(self, end: int) -> bytes:
        data = self._kept.read(self._read, min(_PIECE, end - self._read))
        self._read += len(data)
        return data

    def _line(self, line: tuple[int, bytes | BadJson] | None) -> None:
        if line is None:
            return
        for row in LineStream.rows(line[1], line[0]):
            self._lines += 1
            if self._stream is None and isinstance(row, dict):
                self._stream = stream_of(row)
            if self._stream is not None:
                self._stream.line(line[0], row, format_time(time.time()))

    def _name(self) -> None:
        """Find what the user asked, which is not in the stream: in the session's own file."""
        assert self._stream is not None
        if self._task is not None:
            self._stream.name_task(self._task)
        elif not self._looked_for_task and self._stream.trace_id is not None:
            self._looked_for_task = True
            self._stream.find_task()

    def _fault(self, fault: ImportFault) -> None:
        self._faults.append(f"stdin: {fault}")


class _Kept:
    """The file in which what was read stands until it is recorded."""

    def __init__(self, folder: Path | None) -> None:
        self.path: Path | None = None
        self._file: Any = None
        self._full = False
        spool = spool_folder() if folder is None else folder
        if spool is None:
            return
        place = spool / "pipes"
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path = place / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
            self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b", buffering=0)
        except OSError:
            self.path = None

    @property
    def whole(self) -> bool:
        """Whether all that came is kept."""
        return self._file is not None and not self._full

    def write(self, data: bytes) -> None:
        """Keep these bytes, if there is room for them."""
        if self.whole:
            try:
                while data:
                    data = data[self._file.write(data) :]
            except OSError:
                self._full = True

    def read(self, place: int, size: int) -> bytes:
        """``size`` of the kept bytes from ``place`` on."""
        return os.pread(self._file.fileno(), size, place)

    def remove(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None
