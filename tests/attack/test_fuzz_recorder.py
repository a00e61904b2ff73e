"""Any values in any order of calls: nothing reaches the agent, all of it the log, and memory stays flat."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import tracewatch
from tests.attack.nasty import MAKERS
from tests.support import ServerProcess
from tracewatch.client.api import Api
from tracewatch.client.trace import Trace
from tracewatch.errors import TracewatchError

LONG_S = float(os.environ.get("ATTACK_S", "300"))
MORE_BYTES = 80_000_000  # that the process may have after a minute more than after its first examples


LARGE = {
    "300,000 characters": "x" * 300_000,
    "4,100,000 characters": "é" * 4_100_000,
    "an integer of 5,000 digits": 10**5_000,
    "numbers": list(range(60_000)),
}


@dataclass(frozen=True)
class Named:
    """A nasty value by its name: hypothesis itself could not bear it, nor show it."""

    name: str

    @staticmethod
    def made(value: Any) -> Any:
        """The value with all that is named in it."""
        if isinstance(value, Named):
            return LARGE[value.name] if value.name in LARGE else MAKERS[value.name]()
        if isinstance(value, list | tuple):
            return type(value)(map(Named.made, value))
        return {key: Named.made(part) for key, part in value.items()} if isinstance(value, dict) else value


HEAVY = ("long_", "many_", "deque_", "changed_", "slow_", "ReprIsLong", "Node", "exception_of", "a_text_", "link")
odd = st.sampled_from([Named(name) for name in (*MAKERS, *LARGE) if not name.startswith(HEAVY)])
leaves = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=50), st.binary(max_size=50)),
    *(st.characters(), st.datetimes(), st.uuids(), st.decimals(), st.complex_numbers(), odd, odd),
    st.sampled_from([timedelta(1), datetime(2026, 1, 1, tzinfo=UTC), range(9), ...]),
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.text(max_size=9) | st.integers() | st.none(), inner, max_size=6)
        | st.tuples(inner, inner)
        | st.frozensets(st.text(max_size=5) | st.integers(), max_size=5)
    ),
    max_leaves=25,
)
NAMES = (
    "goal",
    "plan",
    "message",
    "stream",
    "tool",
    "event",
    "status",
    "sub",
    "ask",
    "leave",
    "raise",
    "end",
    "cancel",
)
calls = st.lists(st.tuples(st.sampled_from(NAMES), values, values), max_size=25)


class AgentsOwn(Exception):
    """An exception that the agent raises itself."""


class Run:
    """One run of an agent: calls in any order, with blocks that are open in each other."""

    def __init__(self, t: Trace) -> None:
        self.t = t
        self.traces = [t]
        self.blocks: list[contextlib.ExitStack] = []
        self.last: Any = None  # the message, goal or tool call made last

    def enter(self, block: Any) -> Any:
        stack = contextlib.ExitStack()
        self.last = stack.enter_context(block)
        self.blocks.append(stack)
        return self.last

    def leave(self, error: BaseException | None = None) -> None:
        if self.blocks:
            stack = self.blocks.pop()
            with contextlib.suppress(AgentsOwn):
                with stack:
                    if error is not None:
                        raise error

    def call(self, name: str, a: Any, b: Any) -> None:
        """Make one call. An exception of it is the recorder's fault."""
        t = self.traces[-1]
        made: dict[str, Callable[[], Any]] = {
            "goal": lambda: self.enter(t.goal(a, reason=b, parent=self.last, type=b)),
            "plan": lambda: t.add_goal(a, status=b, after=a, id=b).complete(b),
            "message": lambda: t.message(a, b, tokens=a, cost=b, model=a, goal=b, own=a),
            "stream": lambda: self.stream(a, b),
            "tool": lambda: self.enter(t.tool_call(a, b, tool_call_id=a)).result(b),
            "event": lambda: t.event(a, value=b),
            "status": lambda: t.status(a, b),
            "sub": lambda: self.traces.append(t.sub_trace(a, agent_type=b, goal=a, metadata=b)),
            "ask": lambda: self.ask(a, b),
            "leave": self.leave,
            "raise": lambda: self.leave(AgentsOwn(a)),
            "end": lambda: t.fail(a, b) if a is None else t.complete(b),
            "cancel": lambda: (t.on_cancel(a), bool(t.cancelled), t.pending, t.dropped),
        }
        made[name]()

    def stream(self, a: Any, b: Any) -> None:
        m = self.enter(self.traces[-1].message("assistant", description=a))
        m.stream(a)
        m.set(tokens=b, own=a)
        m.stream(b)

    def ask(self, a: Any, b: Any) -> None:
        with contextlib.suppress(TimeoutError, TracewatchError):
            self.traces[-1].ask(a, options=b, expires_in_s=a, request_id=b, timeout_s=0)

    def end(self) -> None:
        while self.blocks:
            self.leave()
        for t in reversed(self.traces):
            t.complete()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def fuzz(url: str, spool_dir: Path, seconds: float) -> tuple[int, int]:
    """Run examples for so many seconds; how many there were, and by how much memory grew after the first of them."""
    end, examples, first = time.monotonic() + seconds, 0, 0

    @settings(
        max_examples=50,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(calls)
    def one(made: list[tuple[str, Any, Any]]) -> None:
        nonlocal examples
        if time.monotonic() > end:
            return
        examples += 1
        t = tracewatch.trace(f"run {examples}", url=url, spool_dir=str(spool_dir))
        run = Run(t)
        for name, a, b in made:
            run.call(name, Named.made(a), Named.made(b))
        run.end()
        for each in run.traces:
            assert each.flush(60), (each.trace_id, each.pending)
            assert each.dropped == 0
        if made:
            stored = Api(url).trace(t.trace_id)["trace"]["last_event_id"]
            assert stored >= t._outbox.acked > 0

    while time.monotonic() < end:
        one()
        if not first and time.monotonic() > end - seconds * 0.8:
            first = resident_bytes()
    return examples, resident_bytes() - (first or resident_bytes())


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What the recorder logs of values that it mends is not the matter here; nor how pytest keeps it."""
    caplog.set_level(60, logger="tracewatch")
    monkeypatch.setenv("TRACEWATCH_LINGER_S", "0")


async def fuzzed(tmp_path: Path, seconds: float) -> tuple[int, int]:
    with ServerProcess(tmp_path / "t.db") as server:
        return await asyncio.to_thread(fuzz, server.url, tmp_path / "spool", seconds)


@pytest.mark.slow
@pytest.mark.anyio
async def test_any_calls_for_some_seconds(tmp_path: Path, quiet: None) -> None:
    examples, _ = await fuzzed(tmp_path, 5.0)
    assert examples > 3


@pytest.mark.long
@pytest.mark.timeout(LONG_S * 2 + 120)
@pytest.mark.anyio
async def test_any_calls_for_minutes(tmp_path: Path, quiet: None) -> None:
    examples, grown = await fuzzed(tmp_path, LONG_S)
    print(f"{examples} runs in {LONG_S:.0f} s; the process grew by {grown / 1e6:.1f} MB")  # noqa: T201
    assert grown < MORE_BYTES
