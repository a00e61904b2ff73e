"""The filter language: the shared vectors (filters.json), and that no text makes the parser fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracewatch.model.filter import FIELDS, TraceFilter, parse_filter
from tracewatch.model.terms import Term, separated, snippet_of, words_of

VECTORS = orjson.loads(Path(__file__).with_name("filters.json").read_bytes())


def plain(asked: TraceFilter) -> dict[str, Any]:
    """As the vectors have it."""
    return {
        "conditions": [
            {"field": one.field, "compare": one.compare, "values": list(one.values), "negative": one.negative}
            for one in asked.conditions
        ],
        "sought": [{"text": one.text, "prefix": one.prefix, "negative": one.negative} for one in asked.sought],
        "faults": [[one.at, one.end] for one in asked.faults],
    }


@pytest.mark.parametrize("vector", VECTORS["parses"], ids=lambda vector: vector["text"] or "nothing")
def test_what_a_text_says(vector: dict[str, Any]) -> None:
    assert plain(parse_filter(vector["text"])) == {key: vector[key] for key in ("conditions", "sought", "faults")}


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["filter"] or "nothing")
def test_what_passes(case: dict[str, Any]) -> None:
    conditions = parse_filter(case["filter"]).conditions
    fits = [
        trace["trace_id"]
        for trace in VECTORS["traces"]
        if all(condition.fits(trace, VECTORS["now"]) for condition in conditions)
    ]
    assert fits == case["passes"]


def test_a_value_that_was_cut_may_pass() -> None:
    trace = {**VECTORS["traces"][0], "cut": ["task"]}
    for text in ("task:zzz", "-task:zzz"):
        (condition,) = parse_filter(text).conditions
        assert condition.fits(trace, 0.0)


WORDS = st.one_of(
    st.text(alphabet='ab1 "*-:<>=,.$日é\x1b', max_size=12),
    st.builds("{}{}{}".format, st.sampled_from(FIELDS), st.sampled_from([":", ">", "<=", "="]), st.text(max_size=8)),
)


@given(st.lists(WORDS, max_size=5).map(" ".join))
def test_every_word_is_understood_or_said(text: str) -> None:
    asked = parse_filter(text)
    for fault in asked.faults:
        assert 0 <= fault.at < fault.end <= len(text) and fault.message
    for condition in asked.conditions:
        for trace in VECTORS["traces"]:
            condition.fits(trace, VECTORS["now"])
    for term in asked.terms:
        assert term.words
        assert term.matches(" ".join(term.words))
        assert "".join(snippet_of("before " + " ".join(term.words) + " behind", [term]))
    assert parse_filter('"' + text.replace('"', "") + '"').conditions == ()


@pytest.mark.parametrize(
    ("text", "terms", "snippet"),
    [
        ("a needle in it", ["needle"], ["a ", "needle", " in it"]),
        ("a Needle, a NEEDLE", ["needle"], ["a ", "Needle", ", a ", "NEEDLE", ""]),
        ("needles", ["needle"], ["needles"]),
        ("src/session.py:12", ["session py"], ["src/", "session.py", ":12"]),
        ("検索エンジン", ["エンジン"], ["検索", "エンジン", ""]),
        ("x" * 100 + " " + "y " * 100 + "needle " + "z " * 200, ["needle"], None),
    ],
)
def test_a_snippet_is_around_what_was_found(text: str, terms: list[str], snippet: list[str] | None) -> None:
    made = snippet_of(text, [Term(words_of(one)) for one in terms])
    if snippet is not None:
        assert made == snippet
    else:
        assert made[1] == "needle" and made[0].startswith("… ") and made[-1].endswith(" …")
        assert len("".join(made)) < 200


def test_characters_that_are_words() -> None:
    assert words_of("数据 db 1_a") == ("数", "据", "db", "1", "a")
    assert separated("数据 db") == " 数  据  db"
    assert separated("plain") == "plain"
