"""Short ways to make runs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tracewatch.client.api import Api
from tracewatch.log import EventLog, open_log

Event = dict[str, Any]
_numbers = itertools.count(1)


class Run:
    """A trace that a test records by hand."""

    def __init__(self, url: str, task: str = "Fix the login bug", **fields: Any) -> None:
        self.api = Api(url)
        self.id = f"run-{next(_numbers)}"
        self.api.create_trace({"trace_id": self.id, "task": task, "agent_type": "coder", **fields})
        self.url = f"{url}/traces/{self.id}"

    def add(self, *events: Event) -> None:
        """Append events."""
        for first in range(0, len(events), 500):
            self.api.append(self.id, list(events[first : first + 500]))


async def written(db: Path, write: Callable[[EventLog], Awaitable[None]]) -> None:
    """A log that no server has yet, written by ``write``: in a loop without debugging, which takes most of the time."""

    async def whole() -> None:
        log = await open_log(str(db))
        try:
            await write(log)
        finally:
            await log.close()

    await asyncio.to_thread(lambda: asyncio.run(whole(), debug=False))


def goal(goal_id: str, description: str, **more: Any) -> Event:
    return {"event": "goal_added", "goal": {"id": goal_id, "description": description, "status": "in_progress", **more}}


def said(text: Any, **more: Any) -> Event:
    return {"event": "message_added", "message": {"role": "assistant", "content": text, "status": "complete", **more}}


def said_many(first: int, last: int) -> list[Event]:
    return [said(f"Message {n}. " + "More words. " * (n % 30)) for n in range(first, last)]


def call(message_id: str, **content: Any) -> Event:
    message = {"message_id": message_id, "role": "tool", "content": {"tool_name": "grep", **content}}
    return {"event": "message_added", "message": {**message, "status": "running"}}


def update(message_id: str, *, append: str | None = None, **patch: Any) -> Event:
    event: Event = {"event": "message_updated", "message_id": message_id}
    if append is not None:
        event["append"] = append
    if patch:
        event["patch"] = patch
    return event


def completed(status: str = "completed", **more: Any) -> Event:
    return {"event": "trace_completed", "status": status, **more}
