"""The goals of one recorder, with the statuses that they will have in the log.

Rule: what a call costs does not depend on how many goals there are, and neither does the memory for long.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable
from typing import Any

from ..model.canonical import MAX_GOAL_DEPTH
from ..model.goals import OPEN, Family, Goal, cascade_up, count_status, may_become, reopen_up

DONE = frozenset({"completed", "abandoned"})
MOST_GOALS = 20_000  # remembered; of more the oldest are forgotten, those that have ended first

# A call to make, of a function written in C, so that no exception of a signal handler's comes in its midst. Made
# twice it does no more than once: a step that was interrupted is made again from its beginning.
Change = tuple[Callable[..., object], tuple[Any, ...]]


class GoalBook:
    """The goals of this recorder, with the statuses that they will have in the log.

    It follows the protocol's own rules, so that the recorder asks for no transition that the log refuses. For example,
    an exception must not abandon a goal that became completed with its last child. A goal that it does not know, of
    another recorder or forgotten, is the server's to decide about.
    """

    def __init__(self) -> None:
        self._goals: dict[str, Goal] = {}
        self._families: dict[str | None, Family] = {}  # by parent; only their counts are of use

    def status_of(self, goal_id: str) -> str | None:
        """The status of a goal; None for an unknown one."""
        goal = self._goals.get(goal_id)
        return goal["status"] if goal else None

    def parent_of(self, goal_id: str) -> str | None:
        """The parent of a goal; None for a root or an unknown goal."""
        goal = self._goals.get(goal_id)
        return goal["parent_id"] if goal else None

    def room_below(self, parent_id: str | None) -> str | None:
        """``parent_id``, or the goal above it that may have children where it stands too deep for that."""
        goal = self._goals.get(parent_id) if parent_id is not None else None
        return parent_id if goal is None or goal["depth"] < MAX_GOAL_DEPTH else goal["parent_id"]

    def add(self, goal_id: str, parent_id: str | None, status: str) -> None:
        """Add a goal."""
        _make(self.adding(goal_id, parent_id, status))

    def become(self, goal_id: str, status: str) -> bool:
        """Give a goal a status. Returns False if it can't have it, or has it already."""
        changes = self.becoming(goal_id, status)
        _make(changes or ())
        return changes is not None

    def adding(self, goal_id: str, parent_id: str | None, status: str) -> list[Change]:
        """The changes for one more goal."""
        parent_id = parent_id if parent_id in self._goals else None
        depth = 1 if parent_id is None else self._goals[parent_id]["depth"] + 1
        new = {"id": goal_id, "parent_id": parent_id, "status": status, "depth": depth}
        changed = reopen_up(self._goals, parent_id)
        if status in DONE:
            changed = {**changed, **cascade_up(self._goals, self._families, parent_id, None, status, changed)}
        return self._putting([new, *self._changed(changed)])

    def becoming(self, goal_id: str, status: str) -> list[Change] | None:
        """The changes for a goal that gets a status; None if it can't have it, or has it already."""
        goal = self._goals.get(goal_id)
        if goal is None:
            return []
        if goal["status"] == status or not may_become(goal["status"], status):
            return None
        changed: dict[str, dict[str, Any]] = {}
        if status in DONE:
            changed = cascade_up(self._goals, self._families, goal["parent_id"], goal["status"], status)
        return self._putting([{**goal, "status": status}, *self._changed(changed)])

    def _changed(self, changes: dict[str, dict[str, Any]]) -> list[Goal]:
        return [{**self._goals[goal_id], **change} for goal_id, change in changes.items()]

    def _putting(self, goals: list[Goal]) -> list[Change]:
        families: dict[str | None, Family] = {}
        now = ChainMap(families, self._families)
        for goal in goals:
            if goal["parent_id"] is not None:
                was = self._goals.get(goal["id"])
                now.setdefault(goal["parent_id"], Family("", ""))
                count_status(now, goal["parent_id"], was["status"] if was is not None else None, goal["status"])
        put = {goal["id"]: goal for goal in goals}
        return [(self._goals.update, (put,)), (self._families.update, (families,)), (self._forget, ())]

    def _forget(self) -> None:
        """Forget the oldest goals where there are too many, a tenth of them at once."""
        if len(self._goals) <= MOST_GOALS:
            return
        most = MOST_GOALS - MOST_GOALS // 10
        newest = list(self._goals)[::-1]
        newest.sort(key=lambda goal_id: self._goals[goal_id]["status"] not in OPEN)
        kept = set(newest[:most])
        self._goals = {
            goal_id: goal if goal["parent_id"] in kept else {**goal, "parent_id": None}
            for goal_id, goal in self._goals.items()
            if goal_id in kept
        }
        self._families = {parent_id: family for parent_id, family in self._families.items() if parent_id in kept}


def _make(changes: Iterable[Change]) -> None:
    for call, arguments in changes:
        call(*arguments)
