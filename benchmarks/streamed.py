"""streamed: the bytes written for a text that streams in small pieces, beside as many plain events of the same size.

The figure is the bytes that this process hands to the kernel (``wchar``), so that a busy disk does not matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .append import TRACE, opened
from .harness import Bench

PIECE = "It reads the cookie before the store is "  # 40 characters


def written() -> int:
    """The bytes that this process has written so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def plain(number: int) -> dict[str, Any]:
    """A plain event, as large as an update."""
    return {"event": "message_noted", "message_id": "text", "append": PIECE, "affected_goals": [], "number": number}


def update(number: int) -> dict[str, Any]:
    """A piece of the text."""
    return {"event": "message_updated", "message_id": "text", "append": PIECE}


async def appends(db: Path, make: Callable[[int], dict[str, Any]], count: int) -> float:
    """Append ``count`` events one by one. Returns the megabytes written."""
    async with opened(db, TRACE) as log:
        message = {"role": "assistant", "content": "", "message_id": "text", "status": "streaming"}
        await log.append(TRACE, [{"event": "message_added", "message": message}])
        before = written()
        for number in range(count):
            await log.append(TRACE, [make(number)])
        return (written() - before) / 1e6


def run(bench: Bench) -> None:
    """Measure streamed text and plain events in turn."""
    bench.report.title("streamed: a text in 1,000 pieces of 40 characters")
    count = bench.pick(1000, 200)
    ours, raw = [], []
    for turn in range(bench.pick(3, 1)):
        ours.append(asyncio.run(appends(bench.folder / f"streamed{turn}.db", update, count)))
        raw.append(asyncio.run(appends(bench.folder / f"plain{turn}.db", plain, count)))
    bench.report.ratio("written", ours, raw, "MB", at_most=1.2, names=("streamed", "plain events"))
