"""What model calls used and cost: the parts of a message's usage, and sums of them.

Rule 1: the parts mean what OpenTelemetry's GenAI conventions say: cached and reasoning tokens are parts of the input
        and the output, not beside them. https://opentelemetry.io/docs/specs/semconv/gen-ai/
Rule 2: a sum of costs is None while no message with a cost was counted in it. Stored events have numbers only: a 0 in
        an event says nothing about that (``known_cost``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .canonical import MAX_TOTAL

PARTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")

Usage = dict[str, int]


def total_of(usage: Mapping[str, Any]) -> int:
    """The tokens of a call, input and output: 9 of ``{"input_tokens": 9, "cache_read_tokens": 8}``."""
    return int(usage.get("input_tokens", 0)) + int(usage.get("output_tokens", 0))


def difference(after: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> Usage:
    """What is to be added to sums when a message's usage becomes ``after``: each part that is in either."""
    after, before = after or {}, before or {}
    return {part: after.get(part, 0) - before.get(part, 0) for part in PARTS if part in after or part in before}


def summed_usage(sums: Mapping[str, Any] | None, more: Mapping[str, Any] | None) -> Usage | None:
    """``sums`` with ``more`` added to them, each part by itself, without parts of 0. None: nothing is left."""
    if not more:
        return dict(sums) if sums else None
    sums = sums or {}
    if sums.keys() >= more.keys() and min(more.values()) >= 0 and 0 not in sums.values():  # as for nearly all
        both = dict(sums)
        for part, count in more.items():
            both[part] += count
        return both
    both = {part: sums.get(part, 0) + more.get(part, 0) for part in PARTS if part in sums or part in more}
    return {part: count for part, count in both.items() if count > 0} or None


def summed_cost(one: float | None, other: float | None) -> float | None:
    """The sum of two costs in dollars, of which each may be unknown. Costs have 10 decimals (protocol, section 2)."""
    if one is None or other is None:
        return other if one is None else one
    return max(0.0, round(min(one + other, MAX_TOTAL), 10))  # a difference of floats may miss zero


def known_cost(written: float | None, before: float | None, *, costed: bool) -> float | None:
    """The sum of costs after an event that says ``written``. ``costed``: its own message or patch has a cost.

    A sum that is None in an event is of an old log, and had overflowed.
    """
    if written is None:
        return MAX_TOTAL
    return None if not written and before is None and not costed else min(written, MAX_TOTAL)
