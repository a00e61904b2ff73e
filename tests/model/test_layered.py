"""A mapping that is cheap to copy is a dict in everything else."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracewatch.model.goals import empty_stats
from tracewatch.model.layered import SMALL, Layered, shared
from tracewatch.model.rules import complete
from tracewatch.model.state import State, apply

keys = st.integers(0, 12)
steps = st.lists(
    st.tuples(st.sampled_from(["set", "set", "set", "del", "pop", "copy", "back"]), keys, st.none() | st.integers()),
    max_size=60,
)


@given(st.dictionaries(keys, st.integers(), max_size=8), steps)
def test_it_does_as_a_dict_does(base: dict[int, Any], todo: list[tuple[str, int, Any]]) -> None:
    pairs: list[tuple[Layered[int, Any], dict[int, Any]]] = [(Layered(dict(base)), dict(base))]
    for what, key, value in todo:
        mine, plain = pairs[-1]
        if what == "set":
            mine[key] = plain[key] = value
        elif what == "pop":
            assert mine.pop(key, "none") == plain.pop(key, "none")
        elif what == "copy":
            pairs.append((mine.copy(), plain.copy()))
        elif what == "back" and len(pairs) > 1:
            pairs.insert(0, pairs.pop())
        elif what == "del":
            if key in plain:
                del mine[key], plain[key]
            else:
                with pytest.raises(KeyError):
                    del mine[key]
        for one, other in pairs:  # also those that were copied before
            assert list(one.items()) == list(other.items()), "with their order"
            assert (list(one), len(one), list(one.keys())) == (list(other), len(other), list(other))
            assert one == other
            assert [(k in one, one.get(k), one.get(k, 5)) for k in range(14)] == [
                (k in other, other.get(k), other.get(k, 5)) for k in range(14)
            ]
    one, other = pairs[-1]
    for key in range(14):
        if key not in other:
            with pytest.raises(KeyError):
                one[key]
    assert one.plain() == other
    assert repr(one) == f"Layered({other!r})"


def test_a_small_dict_stays_one() -> None:
    small = dict.fromkeys(range(SMALL))
    assert shared(small) is small
    large = shared(dict.fromkeys(range(SMALL + 1)))
    assert type(large) is Layered
    assert shared(large) is large


def test_a_layer_that_has_grown_becomes_the_base() -> None:
    one: Layered[int, int] = Layered({})
    for number in range(10_000):
        one = one.copy()
        one[number] = number
        assert len(one._layer) <= 1 + max(64, 100)
    assert list(one) == list(range(10_000))


def test_an_event_costs_what_it_changes() -> None:
    """Processor time of an event in a state with many goals, of which it was the square before (two minutes here)."""
    state = State("t")
    for number in range(30_000):
        stats = {"self_stats": empty_stats(), "cumulative_stats": empty_stats()}
        goal = {"id": f"g{number}", "parent_id": "g0" if number else None, "status": "in_progress", **stats}
        state.add_goal({**goal, "sub_trace_ids": []})
    began = time.process_time()
    for number in range(1, 3_000):
        raw = {"event": "goal_updated", "goal_id": f"g{number}", "patch": {"status": "completed"}}
        state = apply(state, complete(state, raw, event_id=state.last_event_id + 1, ts="2026-11-20T08:00:00.000Z"))
    assert state.families["g0"].open == 27_000
    assert time.process_time() - began < 30
