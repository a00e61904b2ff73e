"""A process that appends as fast as it can and prints each acknowledgement: ``python -m tests.crash.writer FILE NAME``.

Each line on stdout is one answer: producer, seq of the first event, number of events, first_event_id. A line is written
with one system call after its answer, so every line stands for acknowledged events, however the process ends.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from typing import Any

from tracewatch.log import EventLog, open_log
from tracewatch.model.events import validate_trace

TASKS = 3


def batch(producer: str, seq: int, size: int) -> list[dict[str, Any]]:
    """Messages that say who they are; every fourth one is updated by the event after it, and open until then.

    An open message can be updated also when its beginning was trimmed.
    """
    events: list[dict[str, Any]] = []
    for n in range(seq, seq + size):
        if n % 4 == 0:
            updated = {
                "event": "message_updated",
                "message_id": f"{producer}.{n - 1}",
                "append": "+",
                "patch": {"status": "complete"},
            }
            events.append({**updated, "by": producer, "n": n})
        else:
            status = "streaming" if n % 4 == 3 else "complete"
            message = {"message_id": f"{producer}.{n}", "role": "assistant", "content": "text", "tokens": 1}
            events.append({"event": "message_added", "message": {**message, "status": status}, "by": producer, "n": n})
    return events


async def work(log: EventLog, producer: str) -> None:
    """Append for ever, from where the log says this producer stands."""
    seq = await log.last_seq("t", producer) + 1
    while True:
        size = random.randint(1, 5)
        answer = await log.append("t", batch(producer, seq, size), producer=producer, seq=seq)
        os.write(1, f"{producer} {seq} {size} {answer.first_event_id}\n".encode())
        seq += size


async def main(path: str, name: str) -> None:
    """Append with a few tasks until killed."""
    log = await open_log(path)
    await log.create_trace(validate_trace({"trace_id": "t", "task": "Task"}))
    await asyncio.gather(*(work(log, f"{name}{n}") for n in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
