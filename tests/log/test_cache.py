"""What a process remembers of traces is bounded in bytes, as Python holds them."""

from __future__ import annotations

import tracemalloc
from typing import Any

import orjson
import pytest

from tracewatch.log import cache as caches
from tracewatch.log.cache import Cached, StateCache
from tracewatch.model.state import State

MIB = 1024**2
FORMS: dict[str, Any] = {
    "lists": [[]] * 30_000,
    "objects": [{}] * 30_000,
    "keys": {f"key {n}": n for n in range(10_000)},
    "words": [f"word {n}" for n in range(10_000)],
    "a text": "x" * 300_000,
    "floats": [n / 7 for n in range(10_000)],
}


def entry(trace_id: str, form: Any, last: int = 1, log_bytes: int = 0) -> Cached:
    state = State(trace_id, metadata={"form": orjson.loads(orjson.dumps(form))}, last_event_id=last)
    return Cached(1, state, log_bytes=log_bytes)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_it_is_bounded_by_what_states_take_in_memory(form: Any) -> None:
    cache = StateCache(most_bytes=8 * MIB)
    tracemalloc.start()
    try:
        for n in range(60):
            cache.put(entry(f"t{n}", form))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1 <= len(cache) < 60
    assert taken < 2 * 8 * MIB, "the estimate is of the right size"
    assert cache.find("t59") is not None and cache.find("t0") is None


def test_ended_traces_go_first_and_the_newest_stays() -> None:
    cache = StateCache(most_bytes=3 * MIB)
    ended = entry("ended", "x" * MIB)
    ended.state.status = "completed"
    cache.put(ended)
    cache.put(entry("first", "x" * MIB))
    cache.put(entry("second", "x" * MIB))
    assert [cache.find(name) is not None for name in ("ended", "first", "second")] == [False, True, True]
    cache.put(entry("huge", "x" * 9 * MIB))
    assert [cache.find(name) is not None for name in ("first", "second", "huge")] == [False, False, True]
    cache.drop(["huge"])
    assert (cache.bytes, len(cache)) == (0, 0)


def test_an_append_does_not_pay_for_the_size_of_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed: list[int] = []
    estimate = caches._in_memory

    def counting(json: bytes) -> int:
        weighed.append(len(json))
        return estimate(json)

    monkeypatch.setattr(caches, "_in_memory", counting)
    cache = StateCache()
    for n in range(1, 1_001):
        cache.put(entry("t", "x" * 100_000, n, 200 * n))
    assert len(weighed) < 20
    assert cache.bytes > 100_000
