"""Nasty values through every public method of the recorder: ``python -m tests.attack.sweep [NAME …]``.

One warm process forks a child for each value. The child prints each call's name before it makes it, so that a crash
names its place; it fails by an exception in the agent, by an event that the log would refuse, and by taking too long.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import orjson

import tracewatch
from tests.attack.nasty import MAKERS
from tests.attack.test_interrupts import idle_trace
from tracewatch.client import encode
from tracewatch.client.trace import Trace
from tracewatch.errors import TracewatchError
from tracewatch.model.canonical import depth_exceeds

CPU_S = 60  # for all calls with a value: generous, each takes a fraction of a second
MEMORY_BYTES = 1_500_000_000  # more than at the start
Call = Callable[[Trace, Any], Any]


def _goals(t: Trace, v: Any) -> None:
    with t.goal(v, reason=v, type=v) as goal:
        goal.update(description=v, reason=v, summary=v)
    with t.goal("g", parent=v, id=v, own=v, status=v, refused=v):
        pass
    for status in (v, "pending"):
        added = t.add_goal(v, status=status, after=v, reason=v)
        added.start()
        added.complete(v)
    t.add_goal("g").abandon(v)


def _messages(t: Trace, v: Any) -> None:
    t.message(v, v, goal=v, tokens=v, cost=v, model=v, status=v, duration_ms=v, agent=v, tool_call_id=v, own=v)
    with t.message("assistant", parent_sequence=v, description=v) as m:
        m.stream(v)
        m.stream("and")
        m.set(tokens=v, own=v)
        m.stream(v)
    m.set(cost=v, own=[v])
    t.message("user", t.attach(v, v, name=v, goal=v, own=v))


def _calls(t: Trace, v: Any) -> None:
    with t.llm(v, v, system=v, params=v, tools=v, goal=v, own=v) as m:
        m.answer(v)
    history = [{"role": "user", "content": v}, {"role": v, "content": [v, {"type": "text", "text": v}]}, v]
    tools = [{"role": "tool", "tool_call_id": v, "content": v}, {"role": "model", "parts": [v, {"text": v}]}]
    for end in (2, 3):
        with t.llm("m-1", [*history[:end], *tools], params={"a": v}, tools=[v, {"name": v}]) as m:
            m.answer({"role": v, "content": v, "tool_calls": v})


def _tools(t: Trace, v: Any) -> None:
    with t.tool_call(v, v, tool_call_id=v) as call:
        call.result(v)
        call.set(own=v)
    with t.tool_call("grep", {"a": v}) as call:
        call.error(v)


def _events(t: Trace, v: Any) -> None:
    t.event(v, value=v)
    t.event("thought", value={"a": [v]}, occurred_at=v, event_id=v)
    t.status(v, v)


def _steps(t: Trace, v: Any) -> None:
    with t.step(v, kind=v, goal=v, input=v) as step:
        step.output(v)
    with t.step("node", input={"a": v}), t.turn(v):
        t.message("user", v)
    t.link(v, v, message=v)
    t.link("other", v)
    asked = t.asked_at_terminal(v, options=v, goal=v, request_id=v)
    asked.answered(v)


def _raised(t: Trace, v: Any) -> None:
    error = v if isinstance(type(v), type) and issubclass(type(v), BaseException) else RuntimeError(v)
    for block in (t.goal("g"), t.message("assistant"), t.tool_call("grep"), t.sub_trace("child")):
        with contextlib.suppress(type(error)):
            with block:
                raise error


def _questions(t: Trace, v: Any) -> None:
    for more in ({"options": v}, {"schema": v}, {"goal": v, "expires_in_s": v}, {"request_id": v}):
        with contextlib.suppress(TimeoutError, TracewatchError):
            t.ask(v, timeout_s=0, **more)


def _traces(t: Trace, v: Any) -> None:
    t.event("begin")
    t.sub_trace(v, agent_type=v, trace_id=v, goal=v, metadata=v)
    t.sub_trace("child", metadata={"a": v})
    where: dict[str, Any] = {"url": "http://127.0.0.1:1", "spool_dir": tempfile.gettempdir()}
    ids = {"agent_type": v, "trace_id": v, "parent_trace_id": v, "parent_goal_id": v, "session_id": v, "user_id": v}
    tracewatch.trace(v, metadata=v, lease_s=v, tags=v, **ids, **where)
    t.set(task=v, tags=v, metadata=v, session_id=v, user_id=v, started_at=v)
    t.message("user", v, usage=v, started_at=v, ended_at=v).usage(input_tokens=v, other=v)
    tracewatch.resume(v, lease_s=v, **where)


def _cancels(t: Trace, v: Any) -> None:
    t.event("begin")
    t.on_cancel(v)()
    forget = t.on_cancel(v)
    t.on_cancel(print)
    forget()
    assert not t.cancelled
    with t.cancel_scope():
        t.raise_if_cancelled()


def _observed(t: Trace, v: Any) -> None:
    def given(value: Any, **more: Any) -> Any:
        return value

    def each(value: Any, **more: Any) -> Any:
        yield value

    async def waited(value: Any, **more: Any) -> Any:
        return value

    with t:
        for kind in ("goal", "tool", "sub_trace"):
            assert cast(Any, tracewatch.observe)(kind=kind)(given)(v) is v
        observe: Any = functools.partial(tracewatch.observe, kind=v, name=v)
        assert next(observe()(each)(1, own=v)) == 1
        try:
            observe(capture_args=False)(waited)(v).send(None)  # not asyncio.run, which looks into what its task returns
        except StopIteration as end:
            assert end.value is v


def _ends(t: Trace, v: Any) -> None:
    t.complete(v)
    t.fail(v, v)
    t.stop(v)


CALLS: tuple[Call, ...] = (
    *(_goals, _messages, _calls, _tools, _events, _steps, _raised, _questions, _traces, _cancels, _observed, _ends),
)


def check(t: Trace) -> None:
    """Fail if an event is too large or too deep for the log, or nothing was recorded."""
    bodies = t._outbox.take(1, 10**6, 10**9)
    assert len(bodies) == t.pending > 0
    for body in bodies:
        assert len(body) <= 256 * 1024 and not depth_exceeds(orjson.loads(body)), body[:1000]


def child(name: str, wire: int) -> None:
    """Make all calls with one value."""
    os.dup2(wire, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, -1))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, -1))
    logging.getLogger("tracewatch").setLevel(logging.CRITICAL)
    encode._AGENT_S = 0.05  # all calls with a slow value take it, and there are many
    value = MAKERS[name]()
    for call in CALLS:
        os.write(wire, f"{call.__name__} ".encode())
        t = idle_trace()
        try:
            call(t, value)
            t._journal.flush_streams()
            check(t)
        except BaseException:
            os.write(wire, traceback.format_exc(limit=-6)[-3000:].encode())
            os._exit(1)
    os.write(wire, b"done")
    os._exit(0)


def sweep(names: list[str]) -> dict[str, str]:
    """What went wrong, by the value's name."""
    failures = {}
    for name in names:
        read, write = os.pipe()
        began = sum(os.times()[2:4])
        process = os.fork()
        if not process:
            os.close(read)
            child(name, write)
        os.close(write)
        with os.fdopen(read, "rb") as wire:
            said = wire.read().decode(errors="replace")
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code or not said.endswith("done"):
            failures[name] = f"exit {code} after {said}"
        if os.environ.get("VERBOSE"):
            took = sum(os.times()[2:4]) - began
            print(f"{took:6.2f} s {name} {code} {failures.get(name, '')}", flush=True)  # noqa: T201
    return failures


if __name__ == "__main__":
    found = sweep(sys.argv[1:] or list(MAKERS))
    for name, said in found.items():
        print(f"=== {name}: {said}")  # noqa: T201
    sys.exit(bool(found))
