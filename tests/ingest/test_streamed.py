"""Text that streams, as the module of ``tracewatch run`` sends it, is appended once, also if it comes twice or late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.log.helpers import open_any
from tracewatch.ingest.ingester import Ingester, Process
from tracewatch.ingest.items import Item, merged
from tracewatch.ingest.otlp import Span
from tracewatch.ingest.spans import items
from tracewatch.ingest.store import LogStore
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio
PROCESS = Process("agent/1", "agent")
BEGAN = 1_796_000_000.0


def span(**given: Any) -> Span:
    attributes = {"gen_ai.operation.name": "chat", **given.pop("attributes", {})}
    return Span(
        "t" * 32, "c" * 16, "a" * 16, "chat m", 1, BEGAN, given.pop("ended_at", None), attributes, {}, "test", **given
    )


def piece(at: Any, text: Any) -> Span:
    return span(attributes={"tracewatch.text": text, "tracewatch.text.at": at})


async def send(log: EventLog, *spans: Span) -> None:
    await Ingester(LogStore(log)).take("otel", list(items(spans)), process=PROCESS)


async def said(log: EventLog) -> tuple[str, str, int]:
    trace = (await log.messages("otel-" + "t" * 32, goal_id=None, before=None, limit=10))[0]
    (call,) = trace
    return call["content"], call["status"], call["updated_event_id"] if "updated_event_id" in call else 0


async def test_pieces_are_appended_once(tmp_path: Path) -> None:
    log = await open_any(f"memory:///{tmp_path / 'log.db'}")
    try:
        await send(log, span())
        for one in (
            piece(0, "Hel"),
            piece(0, "Hel"),
            piece(3, "lo"),
            piece(9, "lost"),
            piece(1, "ello w"),
            piece(6, "world"),
        ):
            await send(log, one)  # each by an ingester of its own, as after a restart
        assert (await said(log))[:2] == ("Hello world", "streaming")
        for wrong in (
            piece(-1, "x"),
            piece(True, "x"),
            piece("11", "x"),
            piece(11, 7),
            piece(None, "x"),
            piece(11, ""),
        ):
            await send(log, wrong)
        assert (await said(log))[:2] == ("Hello world", "streaming")
        answer = '[{"role": "assistant", "parts": [{"type": "text", "content": "Hello world!"}]}]'
        await send(log, span(ended_at=BEGAN + 1, attributes={"gen_ai.output.messages": answer}))
        await send(log, piece(12, " and more"))
        assert (await said(log))[:2] == ("Hello world!", "complete")
    finally:
        await log.close()


async def test_text_may_come_before_the_start_of_its_call(tmp_path: Path) -> None:
    log = await open_any(f"memory:///{tmp_path / 'log.db'}")
    try:
        await send(log, piece(0, "Hel"), piece(3, "lo"), span())
        assert (await said(log))[:2] == ("Hello", "streaming")
    finally:
        await log.close()


@given(st.text(min_size=1, max_size=12), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=6))
def test_pieces_that_are_put_together_are_the_text(whole: str, cuts: list[tuple[int, int]]) -> None:
    sofar = Item(trace="t", key="c", more=(0, ""))
    for one, other in cuts:
        start, end = min(one, other), max(one, other)
        sofar = merged(sofar, Item(trace="t", key="c", more=(min(start, len(whole)), whole[start:end])))
    assert sofar.more is not None
    at, text = sofar.more
    assert whole[at : at + len(text)] == text


@pytest.mark.parametrize(
    ("name", "kind"),
    [("execute_tool look", "tool"), ("invoke_agent a", "agent"), ("chat", "step"), ("chatter m", "step")],
)
def test_a_span_that_has_begun_is_what_its_name_says(name: str, kind: str) -> None:
    begun = Span("t" * 32, "c" * 16, "", name, 1, BEGAN, None, {}, {}, "test")
    ended = Span("t" * 32, "c" * 16, "", name, 1, BEGAN, BEGAN + 1, {}, {}, "test")
    assert next(items([begun])).kind == kind
    assert next(items([ended])).kind == "step"
