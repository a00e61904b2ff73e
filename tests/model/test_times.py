"""Times: every form of RFC 3339 is accepted and becomes one form; anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracewatch.model.times import format_time, normalize_time, parse_time


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("2026-11-20T08:00:00.123Z", "2026-11-20T08:00:00.123Z"),
        ("2026-11-20T08:00:00Z", "2026-11-20T08:00:00.000Z"),
        ("2026-11-20t08:00:00z", "2026-11-20T08:00:00.000Z"),
        ("2026-11-20 08:00:00+00:00", "2026-11-20T08:00:00.000Z"),
        ("2026-11-20T08:00:00-00:00", "2026-11-20T08:00:00.000Z"),
        ("2026-11-20T08:00:00.1Z", "2026-11-20T08:00:00.100Z"),
        ("2026-11-20T08:00:00.9999Z", "2026-11-20T08:00:00.999Z"),
        ("2026-11-20T08:00:00.999999999-23:59", "2026-11-21T07:59:00.999Z"),
        ("2026-01-01T00:30:00+01:00", "2025-12-31T23:30:00.000Z"),
        ("2024-02-29T23:59:59.5+14:00", "2024-02-29T09:59:59.500Z"),
        ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("0999-06-01T00:00:00.5Z", "0999-06-01T00:00:00.500Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_every_form_becomes_one(text: str, normal: str) -> None:
    assert normalize_time(text) == normal
    assert normalize_time(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2026-11-20", "08:00:00Z", "1763625600", "20261120T080000Z", "2026-11-20T08:00Z"),
        *("2026-11-20T08:00:00", "2026-11-20T08:00:00+01", "2026-11-20T08:00:00+0100", "2026-11-20T08:00:00.Z"),
        *("2026-11-20T08:00:00,5Z", "2026-11-20T08:00:00.1234567890Z", " 2026-11-20T08:00:00Z"),
        *("2026-11-20T08:00:00Z\n", "2026-W47-5T08:00:00Z", "+2026-11-20T08:00:00Z", "2026-11-20T08:00:00ZZ"),
        *("2026-02-29T08:00:00.000Z", "2026-02-29T08:00:00Z", "2026-13-01T08:00:00Z", "2026-00-01T08:00:00Z"),
        *("2026-11-20T24:00:00.000Z", "2026-11-20T08:60:00Z", "2026-11-20T08:00:60Z", "2026-11-20T08:00:00+24:00"),
        *("2026-11-20T08:00:00+02:99", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01"),
        *("9999-12-31T23:59:59-00:01", "２０２６-11-20T08:00:00Z", "٢٠٢٦-11-20T08:00:00.000Z"),
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        normalize_time(text)


@given(st.integers(min_value=-62_135_596_800_000, max_value=253_402_300_799_999))
def test_milliseconds_survive(ms: int) -> None:
    text = format_time(ms // 1000)[:-4] + f"{ms % 1000:03d}Z"
    assert normalize_time(text) == text
    assert normalize_time(text.replace("Z", "456+00:00")) == text
    assert round(parse_time(text) * 1000) == ms


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        normal = normalize_time(text)
    except ValueError:
        return
    assert normalize_time(normal) == normal
