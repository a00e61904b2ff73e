"""Times as the protocol writes them: RFC 3339, UTC, milliseconds, ``Z``."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_CANONICAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
# RFC 3339 allows a blank or lower case letters between the parts; what fromisoformat takes beyond that we do not.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def format_time(seconds: float) -> str:
    """Unix time in seconds as ``2026-11-20T08:00:00.123Z``."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def parse_time(text: str) -> float:
    """Unix time in seconds of an RFC 3339 time. Raises ValueError for anything else."""
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"{text!r} is not an RFC 3339 time such as 2026-11-20T08:00:00.123Z")
    whole, _, rest = text.upper().replace(" ", "T").partition(".")
    if rest:  # fromisoformat reads at most six digits
        digits = rest.rstrip("Z").split("+")[0].split("-")[0]
        text = f"{whole}.{digits[:6].ljust(6, '0')}{rest[len(digits) :]}"
    else:
        text = whole
    return datetime.fromisoformat(text).timestamp()


def normalize_time(text: str) -> str:
    """Any RFC 3339 time in the protocol's form (UTC, milliseconds). Raises ValueError."""
    if _CANONICAL.fullmatch(text):
        datetime.fromisoformat(text)  # a 31st of February has the right form too
        return text
    return format_time(parse_time(text))
