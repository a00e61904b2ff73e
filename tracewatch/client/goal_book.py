"""What a recorder knows of its goals, by the protocol's own rules, so that it asks for no transition that is refused.

Such as abandoning, on an exception, a goal that its last child's completion has completed already.
"""

from __future__ import annotations

from ..model.goals import Goal, cascade_up, may_become, reopen_up

_DONE = frozenset({"completed", "abandoned"})


class GoalBook:
    """The goals this recorder has added, with their statuses as the log will have them."""

    def __init__(self) -> None:
        self._goals: dict[str, Goal] = {}
        self._children: dict[str | None, tuple[str, ...]] = {}

    def status_of(self, goal_id: str) -> str | None:
        """The status, None for a goal that is not known."""
        goal = self._goals.get(goal_id)
        return goal["status"] if goal else None

    def parent_of(self, goal_id: str) -> str | None:
        """The parent, None for a root or a goal that is not known."""
        goal = self._goals.get(goal_id)
        return goal["parent_id"] if goal else None

    def add(self, goal_id: str, parent_id: str | None, status: str) -> None:
        """A goal is added."""
        parent_id = parent_id if parent_id in self._goals else None
        for above, change in reopen_up(self._goals, parent_id).items():
            self._goals[above] = {**self._goals[above], **change}
        self._goals[goal_id] = {"id": goal_id, "parent_id": parent_id, "status": status}
        self._children[parent_id] = (*self._children.get(parent_id, ()), goal_id)
        if status in _DONE:
            self._cascade(goal_id, status)

    def become(self, goal_id: str, status: str) -> bool:
        """A goal gets a status; False if it can't, or has it already."""
        goal = self._goals.get(goal_id)
        if goal is None:
            return True  # another recorder's: the server decides
        if goal["status"] == status or not may_become(goal["status"], status):
            return False
        if status in _DONE:
            self._cascade(goal_id, status)
        self._goals[goal_id] = {**goal, "status": status}
        return True

    def _cascade(self, goal_id: str, status: str) -> None:
        for above, change in cascade_up(self._goals, self._children, goal_id, status).items():
            self._goals[above] = {**self._goals[above], **change}
