"""Times as the protocol writes them: RFC 3339, UTC, milliseconds, ``Z``. Finer digits are cut off, not rounded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

MAX_DURATION_MS = 10**12  # a longer one is no duration

_CLOCK = r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
_CANONICAL = re.compile(_CLOCK.replace("[Tt ]", "T") + r"\.\d{3}Z", re.ASCII)
# RFC 3339 allows a blank or lower case letters between the parts. Other forms that fromisoformat takes are refused.
_RFC3339 = re.compile(rf"({_CLOCK})(?:\.(\d{{1,9}}))?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII)


def format_time(seconds: float) -> str:
    """Unix time in seconds as ``2026-11-20T08:00:00.123Z``."""
    whole = int(seconds)
    micros = round((seconds - whole) * 1e6)  # as fromtimestamp does
    if 0 <= micros < 1_000_000:
        return f"{_to_the_second(whole)}.{micros // 1000:03}Z"
    return _written(datetime.fromtimestamp(seconds, UTC))


@lru_cache(maxsize=16)
def _to_the_second(seconds: int) -> str:
    # The same for thousands of events, and most of what an event's time takes to write
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="seconds")


def parse_time(text: str) -> float:
    """Unix time in seconds of an RFC 3339 time. Raises ValueError for anything else."""
    return _moment(text).timestamp()


def normalize_time(text: str) -> str:
    """An RFC 3339 time in the protocol's form (UTC, milliseconds). Raises ValueError for anything else."""
    if _CANONICAL.fullmatch(text):
        datetime.fromisoformat(text)  # refuses dates of the right form such as a 31st of February
        return text
    try:
        return _written(_moment(text).astimezone(UTC))
    except OverflowError as error:
        raise ValueError(f"{text!r} is before the year 1 or after 9999 in UTC") from error


def time_of(event: Mapping[str, Any]) -> str:
    """The time at which it happened: by the recorder's clock if that is known, else when it was appended."""
    when: str = event["occurred_at"] if "occurred_at" in event else event["ts"]
    return when


def before(text: str, duration_ms: float | None) -> str:
    """The time ``duration_ms`` before ``text`` (a time in the protocol's form), cut to whole milliseconds.

    Nothing runs for 30 years: what has no such duration, or a longer one, began at ``text``.
    """
    if not duration_ms or duration_ms > MAX_DURATION_MS:
        return text
    try:
        return _written(datetime.fromisoformat(text) - timedelta(milliseconds=math.ceil(duration_ms)))
    except OverflowError:  # before the year 1
        return text


def _moment(text: str) -> datetime:
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is not an RFC 3339 time such as 2026-11-20T08:00:00.123Z")
    clock, fraction, offset = match.groups()
    micros = (fraction or "")[:6].ljust(6, "0")  # fromisoformat reads at most six digits
    return datetime.fromisoformat(f"{clock.upper()}.{micros}{offset.upper()}")


def _written(moment: datetime) -> str:
    # strftime would write the year 999 with three digits
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
