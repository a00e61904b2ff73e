"""The checks of a file that must hold after any number of kills."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.log.helpers import check_trace, events, opened
from tracewatch.log.sqlite import doctor

Ack = tuple[str, int, int, int]  # producer, seq of the first event, number of events, first_event_id


def read_ack(line: str) -> Ack:
    """A line of tests/crash/writer.py."""
    producer, *numbers = line.split()
    seq, size, first = map(int, numbers)
    return producer, seq, size, first


async def check_file(db: Path, acks: Iterable[Ack], trace_id: str = "t") -> int:
    """Every acknowledged event is there once, under its id; each producer's stand in order; the file is whole.

    Returns the number of events.
    """
    assert doctor.errors(db) == []
    async with opened(str(db)) as log:
        await check_trace(log, trace_id)
        stored = await events(log, trace_id)
        for at in range(500, len(stored) + 1, 500):
            assert (await log.snapshot(trace_id, at)).state.last_event_id == at
        places: dict[tuple[str, int], int] = {}
        ends: dict[str, int] = {}
        for event in stored:
            if "by" in event:
                assert event["n"] == ends.get(event["by"], 0) + 1, "in order, each once"
                ends[event["by"]] = event["n"]
                places[event["by"], event["n"]] = event["event_id"]
        for producer, last in ends.items():
            assert await log.last_seq(trace_id, producer) == last
        for producer, seq, size, first in acks:
            assert [places[producer, seq + n] for n in range(size)] == list(range(first, first + size))
    return len(stored)
