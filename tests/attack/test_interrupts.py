"""Exceptions in the middle of the recorder's own code: a signal handler raises there, as a timeout by SIGALRM does.

A trace function raises at the n-th line of the recorder's that runs, for each n: no moment is left out, and none is
left to chance. What a call has taken is recorded once, what comes after it goes on, and no lock stays taken.
"""

from __future__ import annotations

import linecache
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import tracewatch
from tracewatch.client.control import Control
from tracewatch.client.journal import Journal
from tracewatch.client.outbox import Outbox
from tracewatch.client.spool import Shelf, SpoolDir
from tracewatch.client.target import recorder_settings
from tracewatch.client.trace import Trace
from tracewatch.model.canonical import canonical
from tracewatch.model.events import validate_event
from tracewatch.model.rules import complete
from tracewatch.model.state import State, apply_into

CLIENT = str(Path(tracewatch.__file__).parent / "client")


class Idle:
    """A background thread that sends nothing. ``folder``: that of the spool; None: there is none."""

    def __init__(self, folder: Path | None) -> None:
        self.shelf = Shelf(SpoolDir(folder or "", 1 << 30), "http://127.0.0.1:1")

    def on_the_way(self, outbox: Outbox) -> list[Outbox]:
        """See Sender."""
        return []

    def poke(self, outbox: Outbox) -> None:
        """See Background."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """See Background."""


class Interrupted(Exception):
    """What the agent's signal handler raises."""


def ring(number: int, frame: Any) -> None:
    """The agent's signal handler."""
    raise Interrupted


def idle_trace(folder: Path | None = None) -> Trace:
    """A trace of which nothing is sent."""
    sender: Any = Idle(folder)
    t = Trace({"trace_id": "t"}, sender, recorder_settings("http://127.0.0.1:1"), fresh=True)
    assert isinstance(t._journal, Journal) and isinstance(t._outbox.control, Control)
    return t


class Agent:
    """An agent that goes on after each call that a handler has interrupted, and remembers which calls returned."""

    def __init__(self, t: Trace) -> None:
        self.t = t
        self.returned: list[int] = []  # numbers of the events whose call has returned
        self.said = ""  # text whose call has returned

    def call(self, what: Callable[[], Any]) -> bool:
        try:
            what()
        except Interrupted:
            return False
        return True

    def event(self, n: int) -> None:
        if self.call(lambda: self.t.event("step", n=n)):
            self.returned.append(n)

    def goal(self, n: int) -> None:
        with self.t.goal(f"goal {n}"):
            self.event(n)

    def message(self) -> None:
        with self.t.message("assistant") as m:
            for word in ("one ", "two ", "three "):
                m._told_at = 0.0  # each becomes an event at once
                if self.call(lambda word=word: m.stream(word)):  # type: ignore[misc]
                    self.said += word

    def tool(self) -> None:
        with self.t.tool_call("grep", [1]) as call:
            call.result({"found": 3})

    def run(self) -> None:
        self.event(1)
        self.call(lambda: self.goal(2))
        self.call(self.message)
        self.call(self.tool)
        self.call(lambda: self.t.message("user", "hello", tokens=3))
        plan = self.t.add_goal("planned")
        self.call(lambda: plan.complete("done"))
        self.event(3)


def lines_of(run: Callable[[], None], raise_at: int = 0) -> list[str]:
    """Run, and return the recorder's lines that have run; a signal handler raises at one of them, counted from 1."""
    ran: list[str] = []
    entered: set[tuple[Any, int]] = set()

    def trace(frame: Any, kind: str, _: Any) -> Any:
        file, line = frame.f_code.co_filename, frame.f_lineno
        if not file.startswith(CLIENT):
            return None
        if kind == "line":
            text = linecache.getline(file, line).strip()
            if text.startswith("with "):
                # The end of a `with` counts as a line once more. No signal handler runs between it and the release.
                if (frame, line) in entered:
                    return trace
                entered.add((frame, line))
            ran.append(f"{file}:{line} {text}")
            if len(ran) == raise_at:
                sys.settrace(None)
                ring(signal.SIGALRM, frame)
        return trace

    sys.settrace(trace)
    try:
        run()
    except Interrupted:
        pass  # in a call that the agent does not guard
    finally:
        sys.settrace(None)
    return ran


def taken(t: Trace) -> list[dict[str, Any]]:
    return [orjson.loads(body) for body in t._outbox.take(1, 10**6, 10**9)]


def folded(events: list[dict[str, Any]]) -> State:
    """The state after these events; fails if the log would refuse one of them."""
    state = State("t", task="task", root_trace_id="t", created_at="2026-11-20T08:00:00.000Z")
    for raw in events:
        event = complete(state, validate_event(raw), event_id=state.last_event_id + 1, ts="2026-11-20T08:00:00.000Z")
        canonical(event)
        apply_into(state, event)
    return state


@pytest.fixture
def alarm() -> Any:
    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.signal(signal.SIGALRM, before)


def free(lock: Any) -> bool:
    """Whether another thread can take the lock."""
    taken: list[bool] = []

    def take() -> None:
        taken.append(lock.acquire(blocking=False))
        if taken[0]:
            lock.release()

    other = threading.Thread(target=take)
    other.start()
    other.join()
    return taken == [True]


def test_an_exception_at_any_line_tears_nothing(alarm: Any, tmp_path: Path) -> None:
    lines = lines_of(Agent(idle_trace(tmp_path)).run)
    first = {line: number for number, line in reversed(list(enumerate(lines, 1)))}
    last = {line: number for number, line in enumerate(lines, 1)}
    for number in sorted({*first.values(), *last.values()}):
        t = idle_trace(tmp_path)
        agent = Agent(t)
        *_, where = lines_of(agent.run, number)
        t.event("step", n=99)
        t._journal.flush_streams()
        assert free(t._outbox.control._lock), where
        events = taken(t)
        t._outbox.release()  # the same from the spool
        assert (taken(t), t._outbox.memory_bytes) == (events, 0), where
        assert len(events) == t._outbox.next_seq - 1 == t.pending, where
        steps = [event["n"] for event in events if event["event"] == "step"]
        assert len(set(steps)) == len(steps) and steps == sorted(steps), (where, steps)
        assert set(steps) >= {*agent.returned, 99}, (where, steps, agent.returned)
        state = folded(events)
        words = "".join(str(one["content"]) for one in state.messages.values() if one["role"] == "assistant").split()
        assert len(set(words)) == len(words) and set(words) >= set(agent.said.split()), (where, words)
        if not where.endswith(" try:"):  # before the first line of an __exit__ can do anything
            assert {one["status"] for one in state.messages.values()} <= {"complete"}, (where, state.messages)
        assert free(t._outbox.lock), where
    assert len(first) > 100
