"""Nothing that comes in raises, or is lost for what came with it: broken bodies, circles of parents, ids used again."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.recordings import all_traces, messages_of, requests_of
from tests.log.helpers import open_any
from tracewatch.ingest.ingester import Ingester, Process
from tracewatch.ingest.items import ROOT, Item
from tracewatch.ingest.otlp import BadOtlp, read
from tracewatch.ingest.spans import items
from tracewatch.ingest.store import LogStore
from tracewatch.model.times import parse_time

pytestmark = pytest.mark.anyio
PROCESS = Process("p", "service")
NOW = 1_796_000_000.0
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


async def lost(given: list[list[Item]]) -> int:
    """How many items were lost by a defect, and nothing raised."""
    log = await open_any(f"memory:///{random.random()}")
    try:
        ingester = Ingester(LogStore(log))
        for some in given:
            await ingester.take("x", some, process=PROCESS, received_at=NOW)
        return ingester.counts.seen["x", "failed"]
    finally:
        await log.close()


@settings(max_examples=60)
@given(st.binary(max_size=200) | JSON.map(lambda value: orjson.dumps(str(value))))
def test_a_body_is_read_or_refused(body: bytes) -> None:
    for json in (True, False):
        for kind in ("traces", "logs"):
            try:
                list(items(read(kind, body, json=json)))
            except BadOtlp:
                pass


@settings(max_examples=40)
@given(JSON, JSON, JSON)
def test_json_of_any_form_is_read(one: Any, two: Any, three: Any) -> None:
    raw = {"traceId": "a" * 32, "spanId": "b" * 16, "attributes": one, "events": two, "status": three, "links": two}
    for span in (
        raw,
        {**raw, "attributes": [{"key": "gen_ai.input.messages", "value": one}, {"key": two}], "kind": one},
    ):
        body = {"resourceSpans": [{"resource": three, "scopeSpans": [{"scope": two, "spans": [span, one]}, two]}, one]}
        try:
            text = orjson.dumps(body)
        except TypeError:
            return
        list(items(read("traces", text, json=True)))


@pytest.mark.parametrize("seed", range(4))
def test_recorded_bodies_with_bytes_changed_are_read_or_refused(shared_data: Path, seed: int) -> None:
    chance = random.Random(seed)
    for folder in sorted((shared_data / "wire").glob("otlp-*")):
        for sent in requests_of(folder):
            if sent.path != "/v1/traces":
                continue
            body = bytearray(sent.decoded)
            for _ in range(chance.randint(1, 30)):
                body[chance.randrange(len(body))] = chance.randrange(256)
            try:
                list(items(read("traces", bytes(body[: chance.randint(1, len(body))]), json=False)))
                list(items(read("traces", bytes(body), json=False)))
            except BadOtlp:
                pass


async def test_a_circle_of_parents_and_a_span_in_itself(tmp_path: Path) -> None:
    circle = [Item(trace="t", key=key, kind="step", parent=parent, final=True) for key, parent in ("ab", "bc", "ca")]
    itself = Item(trace="t", key="d", kind="agent", parent="d", name="alone", final=True)
    agents = [Item(trace="v", key=key, kind="agent", parent=parent, final=True) for key, parent in ("ab", "ba")]
    assert await lost([circle, [itself], agents]) == 0


async def test_a_long_chain_and_many_children(tmp_path: Path) -> None:
    chain = [Item(trace="t", key=f"k{n}", kind="step", parent=f"k{n - 1}" if n else ROOT) for n in range(100)]
    wide = [Item(trace="w", key=f"k{n}", kind="tool", parent=f"p{n}", final=True) for n in range(100)]
    assert await lost([chain, list(reversed(chain)), wide]) == 0


async def test_clocks_that_are_wrong(tmp_path: Path) -> None:
    """A clock ahead is put back, one that was never set is not believed."""
    log = await open_any(f"memory:///{tmp_path / 'log.db'}")
    try:
        ingester = Ingester(LogStore(log))
        ahead, never = NOW + 7200, 5.0
        future = Item(trace="a", key="a", kind="agent", parent=ROOT, name="ahead", started_at=ahead, ended_at=ahead + 5)
        future.final = True
        past = Item(trace="b", key="b", kind="agent", parent=ROOT, name="never set", started_at=never, final=True)
        await ingester.take("x", [future], process=Process("ahead", "s"), received_at=NOW + 5)
        await ingester.take("x", [past], process=Process("never", "s"), received_at=NOW)
        found = {trace["agent_type"]: trace for trace in await all_traces(log)}
        started = parse_time(found["ahead"]["started_at"])
        assert math.isclose(started, NOW + 5, abs_tol=0.01)
        assert parse_time(found["ahead"]["ended_at"]) - started < 5.01
        assert found["never set"]["started_at"] > "2026"
    finally:
        await log.close()


async def test_an_id_used_again_in_another_trace_is_another_item(tmp_path: Path) -> None:
    log = await open_any(f"memory:///{tmp_path / 'log.db'}")
    try:
        ingester = Ingester(LogStore(log))
        for trace in ("a", "b"):
            call = Item(trace=trace, key="same", kind="model_call", parent=ROOT, text=trace, final=True)
            await ingester.take("x", [call], process=PROCESS, received_at=NOW)
        found = [message["content"] for one in ("x-a", "x-b") for message in await messages_of(log, one)]
        assert found == ["a", "b"]
    finally:
        await log.close()


async def test_a_chain_of_any_length_costs_each_span_the_same(tmp_path: Path) -> None:
    """What is too deep stands as deep as may be, without the log having to say so each time."""
    tried: list[int] = []

    class Counting(LogStore):
        async def append(self, trace_id: str, events: Sequence[dict[str, Any]], expected_last_event_id: int) -> int:
            tried.append(len(events))
            return await super().append(trace_id, events, expected_last_event_id)

    log = await open_any(f"memory:///{tmp_path / 'log.db'}")
    try:
        ingester = Ingester(Counting(log))
        chain = [Item(trace="t", key=f"k{n}", kind="step", parent=f"k{n - 1}" if n else ROOT) for n in range(300)]
        await ingester.take("x", chain, process=PROCESS, received_at=NOW)
        steps = (await log.snapshot("x-t")).state.steps
        assert len(steps) == 300
        assert not ingester.counts.seen["x", "refused"] + ingester.counts.seen["x", "failed"]
        assert sum(tried) < 2 * 300
    finally:
        await log.close()
