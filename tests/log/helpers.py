"""Events to append, and the checks that hold for every log at every moment.

Rule: ``check_trace`` does not depend on the storage: it reads everything and folds it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson
import pytest

from tests.log.contract.memory import Memory, MemoryStorage
from tracewatch.errors import Gap
from tracewatch.log import EventLog, Grown, Outdated, Policy, open_log
from tracewatch.log.jobs import Claim
from tracewatch.log.sqlite.connections import run
from tracewatch.log.sqlite.storage import SQLiteStorage
from tracewatch.model.events import validate_trace
from tracewatch.model.state import State, apply_into

Json = dict[str, Any]
T = TypeVar("T")
DEADLINE_S = 60.0
STATIC = ("trace_id", "task", "agent_type", "parent_trace_id", "parent_goal_id", "root_trace_id", "metadata")


class Clock:
    """A clock that stands still until it is told to go."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


MEMORIES: dict[str, Memory] = {}  # by url


async def open_any(url: str, **options: Any) -> EventLog:
    """Open a log of whatever engine: ``memory://name`` is the one of contract/memory.py."""
    if not url.startswith("memory://"):
        return await open_log(url, **options)
    clock = options.pop("clock", time.time)
    return EventLog(MemoryStorage(MEMORIES.setdefault(url, Memory()), clock), **options)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[EventLog]:
    """A log that is closed at the end."""
    log = await open_any(url, **options)
    try:
        yield log
    finally:
        await log.close()


def say(text: Any = "hello", **more: Any) -> Json:
    """A ``message_added``."""
    return {"event": "message_added", "message": {"role": "assistant", "content": text, **more}}


def goal(description: str = "a goal", **more: Any) -> Json:
    """A ``goal_added``."""
    return {"event": "goal_added", "goal": {"description": description, **more}}


def end(status: str = "completed", **more: Any) -> Json:
    """A ``trace_completed``."""
    return {"event": "trace_completed", "status": status, **more}


def notes(count: int, text: str = "x") -> list[Json]:
    """Events that nothing is projected from."""
    return [{"event": "note", "n": number, "text": text} for number in range(count)]


async def create(log: EventLog, trace_id: str | None = "t", task: str = "Task", **fields: Any) -> str:
    """Create a trace and return its id."""
    snapshot, _ = await log.create_trace(validate_trace({"trace_id": trace_id, "task": task, **fields}))
    return snapshot.state.trace_id


async def bodies(log: EventLog, trace_id: str = "t", page: int = 700) -> list[bytes]:
    """Every stored event's bytes."""
    found: list[bytes] = []
    after = (await log.read(trace_id, 0, max_events=1, max_bytes=1)).first_event_id - 1
    while True:
        read = await log.read(trace_id, after, max_events=page, max_bytes=1 << 20)
        if not read.bodies:
            assert after == read.last_event_id
            return found
        found += read.bodies
        after = read.upto


async def events(log: EventLog, trace_id: str = "t") -> list[Json]:
    """Every stored event."""
    return [orjson.loads(body) for body in await bodies(log, trace_id)]


async def names(log: EventLog, trace_id: str = "t") -> list[str]:
    """Every stored event's name."""
    return [event["event"] for event in await events(log, trace_id)]


async def all_messages(log: EventLog, trace_id: str = "t", goal_id: str | None = None, limit: int = 7) -> list[Json]:
    """Every message, read page by page from the end."""
    found: list[Json] = []
    before: int | None = None
    while True:
        page, more = await log.messages(trace_id, goal_id=goal_id, before=before, limit=limit)
        found = page + found
        if not more:
            return found
        assert len(page) == limit
        before = page[0]["sequence"]


async def summary(log: EventLog, trace_id: str = "t") -> Json:
    """The trace's row in a list."""
    (found,) = await log.summaries([trace_id])
    return found


async def check_trace(log: EventLog, trace_id: str = "t") -> State:
    """All that must agree about a trace: ids, the state now, the summary, the messages. Returns the fold."""
    snapshot = await log.snapshot(trace_id)
    stored = await events(log, trace_id)
    row = await summary(log, trace_id)
    first = row["first_event_id"]
    assert [event["event_id"] for event in stored] == list(range(first, first + len(stored)))
    assert {event["trace_id"] for event in stored} <= {trace_id}
    state = State(
        **{key: getattr(snapshot.state, key) for key in STATIC},
        created_at=row["created_at"],
        updated_at=row["created_at"],
        first_event_id=first,
        last_event_id=first - 1,
    )
    for event in stored:
        apply_into(state, event)
    at_end = await log.snapshot(trace_id, row["last_event_id"])
    assert at_end.state.to_json() == state.to_json()
    shown = snapshot.state
    assert {**shown.to_json(), "sub_traces": 0} == {**state.to_json(), "sub_traces": 0}
    assert shown.trace(lease_alive=snapshot.lease_alive) == row
    assert await all_messages(log, trace_id) == list(state.messages.values())
    return state


# --- what no caller asks of a log, and only its own retention does ---------------------------------------------


async def prune(log: EventLog, **policy: Any) -> list[Outdated]:
    """Prune by a policy; what went."""
    return (await log.prune(Policy(**policy))).gone


async def outdated(log: EventLog, **policy: Any) -> list[Outdated]:
    """What would go by a policy."""
    return (await log.prune(Policy(**policy), dry_run=True)).gone


async def trim(log: EventLog, trace_id: str, upto: int) -> bool:
    """Let a trace's log begin after ``upto``."""
    return await log.retention.trim(trace_id, upto)


async def delete_outdated(log: EventLog, trace_id: str, keep_days: float) -> list[str]:
    """Delete a trace that is over and in which nothing has happened for so long."""
    return await log.retention.delete_outdated(trace_id, keep_days)


async def claim(log: EventLog, for_s: float, *, held: bool = False) -> bool:
    """Have retention to oneself."""
    return bool(await log.group.do(Claim(name="retention", for_s=for_s, held=held)))


async def sweep(log: EventLog) -> bool:
    """Remove a piece of what was trimmed or deleted. False if there was nothing."""
    return await log.storage.tend(1.0, 2**62)


def sqlite(log: EventLog) -> SQLiteStorage:
    """The log's SQLite file."""
    storage = log.storage
    assert isinstance(storage, SQLiteStorage)
    return storage


async def fetch(log: EventLog, sql: str, *values: Any) -> list[Any]:
    """The rows of a statement on the writing connection of a SQLite log."""
    return await run(sqlite(log)._connection, lambda db: db.execute(sql, values).fetchall())


async def settle() -> None:
    """Let the tasks that can run without the outside go as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def soon(awaitable: Awaitable[T]) -> T:
    """What is awaited, with a deadline."""
    return await asyncio.wait_for(awaitable, DEADLINE_S)


class Heard:
    """A listener that keeps what it is told: one entry for each commit."""

    def __init__(self, log: EventLog) -> None:
        self.commits: list[list[Grown]] = []
        self.stop: Callable[[], None] = log.listen(lambda grown: self.commits.append(list(grown)))

    def ids(self, trace_id: str = "t") -> list[int]:
        """The ids of the events told of a trace, in the order they were told."""
        return [
            orjson.loads(body)["event_id"]
            for commit in self.commits
            for grown in commit
            if grown.trace_id == trace_id
            for body in grown.bodies
        ]


def ask(request_id: str = "q", **more: Any) -> Json:
    """An ``input_requested``."""
    return {"event": "input_requested", "request_id": request_id, "question": f"{request_id}?", **more}


async def status(log: EventLog, *trace_ids: str) -> list[str]:
    return [(await summary(log, trace_id))["status"] for trace_id in trace_ids]


async def fill(log: EventLog, trace_id: str = "t", count: int = 1600) -> None:
    """A trace with goals, messages and notes."""
    await create(log, trace_id)
    for start in range(0, count, 400):
        batch: list[Json] = [goal(f"goal {start}", status="in_progress"), say("hello", tokens=3)]
        await log.append(trace_id, [*batch, *notes(min(400, count - start) - 2)])


async def check_trimmed(log: EventLog, trace_id: str = "t") -> int:
    """The log's ids have no hole, each state from its first on can be had, and the last is the state now."""
    row = await summary(log, trace_id)
    first, last = row["first_event_id"], row["last_event_id"]
    stored = await events(log, trace_id)
    assert [event["event_id"] for event in stored] == list(range(first, last + 1))
    state = (await log.snapshot(trace_id, first - 1)).state.copy()
    assert (state.last_event_id, state.first_event_id) == (first - 1, first)
    for event in stored:
        apply_into(state, event)
        if event["event_id"] % 97 == 0:
            assert (await log.snapshot(trace_id, event["event_id"])).state.to_json() == state.to_json()
    now = await log.snapshot(trace_id)
    assert now.state.to_json() == state.to_json()
    assert now.state.trace(lease_alive=now.lease_alive) == row
    if first > 1:
        with pytest.raises(Gap, match="the log holds"):
            await log.snapshot(trace_id, first - 2)
    page = await log.read(trace_id, 0, max_events=5, max_bytes=1 << 20)
    assert page.first_event_id == first and (first == 1) == bool(page.bodies)
    return int(first)


async def swept(log: EventLog) -> None:
    """Remove what was trimmed or deleted from the file."""
    while await sweep(log):
        pass
