"""backfill: a whole trace over one WebSocket against a loop that selects the same rows and writes them to a socket."""

from __future__ import annotations

import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import uvloop

from .append import opened, schema_of, step
from .harness import Bench, Process, Server, check
from .wire import STEP, Frames, handshake, server_frame

TRACE = "bench"
END = b'{"event":"caught_up"'


async def fill(db: Path, events: int) -> None:
    """A log with one trace of ``events`` events."""
    async with opened(db, TRACE) as log:
        for first in range(0, events, 1000):
            await log.append(TRACE, [step(number) for number in range(first, min(first + 1000, events))])


def copy_framed(source: Path, target: Path) -> None:
    """Copy the rows into the same table with each body as a WebSocket frame, which the bare loop only has to send."""
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
        here.execute("PRAGMA journal_mode = WAL")
        here.execute(schema_of(source, "events"))
        rows = there.execute("SELECT event_key, end_offset, body FROM events ORDER BY event_key")
        here.executemany("INSERT INTO events VALUES (?, ?, ?)", ((*row[:2], server_frame(row[2])) for row in rows))
        here.commit()


def read_all(port: int) -> tuple[float, bytes]:
    """Read all events over a new connection until caught up. Returns the seconds and the bytes."""
    chunks: list[bytes] = []
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), 60) as reader:
        reader.sendall(handshake(f"/api/traces/{TRACE}/watch?since_event_id=0", port))
        tail = b""
        while END not in tail:
            data = reader.recv(1 << 20)
            check(bool(data), "the socket was closed before caught_up")
            chunks.append(data)
            tail = tail[-200:] + data[-200:]
    return time.perf_counter() - start, b"".join(chunks)


def verify(data: bytes, events: int) -> None:
    """Check that each event came once and in order, and then ``caught_up``."""
    last = 0
    caught_up = False
    for payload in Frames().feed(data.partition(b"\r\n\r\n")[2]):
        if payload.startswith(STEP % (last + 1)):
            last += 1
        elif payload.startswith(END):
            caught_up = True
        else:
            check(payload.startswith(b'{"event":"connected"'), f"after event {last}: {payload[:100]!r}")
    check(last == events and caught_up, f"{last} of {events} events came, caught up: {caught_up}")


def measure(port: int, events: int) -> float:
    """Events per second of one backfill, which is checked."""
    taken, data = read_all(port)
    verify(data, events)
    return events / taken


def run(bench: Bench) -> None:
    """Measure ours and the bare loop in turn, with the same client."""
    events = bench.pick(100_000, 10_000)
    bench.report.title(f"backfill: {events:,} events over one WebSocket, against SELECT plus socket")
    db, framed = bench.folder / "log.db", bench.folder / "framed.db"
    uvloop.run(fill(db, events))
    copy_framed(db, framed)
    one: list[float] = []
    other: list[float] = []
    sides: list[tuple[int, Any]] = []
    with Server(db) as server, Process("-m", "benchmarks.bare", "backfill", str(framed)) as bare:
        sides = [(server.port, one), (int(bare.line()), other)]
        for number in range(bench.pick(7, 2) + 1):
            for port, rates in sides:
                rate = measure(port, events)
                if number:  # the first of each warms up
                    rates.append(rate)
    bench.report.ratio("backfill", one, other, "events/s", at_least=0.3)
