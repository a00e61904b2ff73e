"""Questions whose JSON Schema, or its check against an answer, would take minutes: bounded in steps, not in time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import _keywords, _utils

from tracewatch.errors import InvalidValue
from tracewatch.server.answers import check_value

DRAFT = "https://json-schema.org/draft/2020-12/schema"
ITEMS = [{"a": n} for n in range(5000)]


@pytest.fixture(autouse=True)
def comparisons(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library's comparisons of each item with each other one are not used."""

    def equal(*values: Any) -> bool:
        raise AssertionError("compared by the library")

    monkeypatch.setattr(_utils, "equal", equal)
    monkeypatch.setattr(_keywords, "equal", equal)
    yield


def doubling(part: dict[str, Any]) -> dict[str, Any]:
    """A schema of twenty parts, each of which asks for the next one twice."""
    parts = {f"a{n}": {**part, "allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(20)}
    return {"$ref": "#/$defs/a0", "$defs": {**parts, "a20": {}}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (doubling({}), 1),
        (doubling({"$schema": DRAFT}), 1),
        ({"properties": {f"p{n}": {} for n in range(20_000)}}, 1),
        ({"items": {"$ref": "#here"}, "$defs": {"x": {"$anchor": "here"}}}, [1] * 5000),
        ({"items": {"enum": [{"a": "x" * 6400}]}}, [{"a": "x" * 6400}] * 2000),
    ],
    ids=["references", "another class", "a large schema", "anchors", "enum"],
)
def test_too_much_work(schema: Any, value: Any) -> None:
    with pytest.raises(InvalidValue, match="too much work"):
        check_value({"schema": schema}, value)


def test_many_items_are_looked_at_once_each() -> None:
    check_value({"schema": {"uniqueItems": True}}, ITEMS)
    with pytest.raises(InvalidValue, match="non-unique"):
        check_value({"schema": {"uniqueItems": True}}, [*ITEMS, {"a": 7.0}])
    check_value({"schema": {"items": {"enum": ITEMS}}}, ITEMS)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"uniqueItems": True}, [1, True, 0, False, "1", None], [1, 1.0]),
        ({"enum": [1, "a", {"x": [1.0], "y": 2}]}, {"y": 2, "x": [1]}, True),
        ({"const": 0}, 0.0, False),
    ],
)
def test_equality_is_that_of_json(schema: Any, good: Any, bad: Any) -> None:
    check_value({"schema": schema}, good)
    with pytest.raises(InvalidValue):
        check_value({"schema": schema}, bad)
