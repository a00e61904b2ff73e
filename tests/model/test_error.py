"""What an error says in a line: the same in Python and in the viewer (``web/test/error.test.ts``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.model.error import error_line

CASES = orjson.loads((Path(__file__).parent / "error_lines.json").read_bytes())


@pytest.mark.parametrize("case", CASES, ids=[case["line"] for case in CASES])
def test_an_error_says_a_line(case: dict[str, Any]) -> None:
    assert error_line(case["error"]) == case["line"]


def test_a_long_error_is_a_line_of_bounded_length() -> None:
    assert len(error_line({"type": "E", "message": "x " * 100_000})) == 2000
