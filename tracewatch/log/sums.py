"""What is added up over the messages of a trace and the traces of a tree, and the difference between two such sums.

Rule: sums are kept as plain numbers, so that an engine can add to them. What is not known is told by ``costed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import add, sub
from typing import Any, NamedTuple

from ..model.state import summed
from ..model.usage import PARTS


class Sums(NamedTuple):
    """What is added up over messages and traces, or a difference of it. The columns are ``total_…`` and ``tree_…``.

    The five parts of usage count tokens. A cost in dollars is 0 where it is not known; ``costed`` counts the traces of
    which it is.
    """

    messages: int = 0
    tokens: int = 0
    cost: float = 0.0
    costed: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, totals: Mapping[str, Any]) -> Sums:
        """The sums in ``Totals`` of the protocol, as one trace's."""
        usage, cost = totals.get("usage") or {}, totals["total_cost"]
        parts = (usage.get(part, 0) for part in PARTS)
        return cls(totals["total_messages"], totals["total_tokens"], cost or 0.0, 0 if cost is None else 1, *parts)

    def totals(self) -> dict[str, Any]:
        """``Totals`` of the protocol."""
        usage = {part: count for part, count in zip(PARTS, self[4:], strict=True) if count}
        cost = self.cost if self.costed else None
        return summed(
            {"total_messages": self.messages, "total_tokens": self.tokens, "total_cost": cost, "usage": usage}
        )

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(*map(add, self, other))

    def minus(self, other: Sums) -> Sums:
        """By how much this is more than ``other``."""
        return Sums(*map(sub, self, other))


SUM_NAMES = tuple(Sums.__annotations__)
